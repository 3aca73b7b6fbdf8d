"""Dictionaries, JSON, pickles and copies; secrets stay out of the first two."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode
from llama_index.embeddings.fletching import FletchingEmbedding

from fletching.errors import ArgumentError

QUERY = "what keeps the arrow true"
SETTINGS = {
    "truncate_dim": 8,
    "num_layers": 2,
    "query_prompt": "",
    "document_prompt": "feather: ",
    "normalize": True,
    "embed_batch_size": 7,
    "num_workers": 2,
    "model_kwargs": {"device": "cpu"},
}
ROUND_TRIPS = {
    "dict": lambda one: FletchingEmbedding.from_dict(one.to_dict()),
    "json": lambda one: FletchingEmbedding.from_json(one.to_json()),
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("way", ROUND_TRIPS)
def test_settings_survive(folder, way):
    restored = ROUND_TRIPS[way](FletchingEmbedding(folder, **SETTINGS))
    expected = {
        "class_name": "FletchingEmbedding",
        "model_name": folder,
        "embeddings_cache": None,
        **SETTINGS,
    }
    assert restored.to_dict() == expected
    assert restored.model == folder


@pytest.mark.parametrize("way", ROUND_TRIPS)
def test_a_restored_embedding_embeds_alike(embed_model, way):
    expected = embed_model.get_query_embedding(QUERY)
    assert ROUND_TRIPS[way](embed_model).get_query_embedding(QUERY) == expected


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "copy"])
def test_a_loaded_model_survives(own_embedder, way):
    given = FletchingEmbedding(own_embedder)
    expected = given.get_query_embedding(QUERY)
    assert ROUND_TRIPS[way](given).get_query_embedding(QUERY) == expected


def test_a_copy_shares_the_model_and_the_cache(own_embedder, store):
    copied = copy.deepcopy(FletchingEmbedding(own_embedder, embeddings_cache=store))
    assert copied._load() is own_embedder
    assert copied.cache is store


def test_a_pickle_has_the_cache(folder, store):
    cached = FletchingEmbedding(folder, embeddings_cache=store)
    cached.get_query_embedding(QUERY)
    restored = pickle.loads(pickle.dumps(cached))
    assert restored.cache.to_dict() == store.to_dict()


def test_a_dictionary_has_no_cache(folder, store):
    assert (
        FletchingEmbedding.from_dict(FletchingEmbedding(folder, embeddings_cache=store).to_dict()).cache
        is None
    )


def test_a_pickle_holds_no_weights_of_a_named_model(embed_model):
    embed_model.get_query_embedding(QUERY)
    assert len(pickle.dumps(embed_model)) < 2_000  # the tiny model has a hundred times as many bytes


@pytest.mark.parametrize(
    "model_kwargs",
    [
        {"token": "hf_secret", "device": "cpu"},
        {"use_auth_token": "hf_secret"},
        {"model_kwargs": {"token": "hf_secret", "dtype": "float16"}},
        {"access_token": "hf_secret", "api_token": "hf_secret", "APIKEY": "hf_secret"},
        {"headers": {"Authorization": "hf_secret"}, "rest": [{"password": "hf_secret"}]},
        {"rest": ({"client_secret": "hf_secret"},)},
    ],
)
def test_secrets_are_not_shown(model_kwargs):
    embed_model = FletchingEmbedding(model="some/model", model_kwargs=model_kwargs)
    shown = [repr(embed_model), str(embed_model), str(embed_model.to_dict()), embed_model.to_json()]
    assert not any("hf_secret" in text for text in shown)
    assert embed_model.model_kwargs == model_kwargs
    assert pickle.loads(pickle.dumps(embed_model)).model_kwargs == model_kwargs


def test_what_json_cannot_hold_is_written_as_text():
    given = {"dtype": torch.float16, "device": torch.device("cpu"), "cache_folder": Path("models")}
    embed_model = FletchingEmbedding(model="some/model", model_kwargs=given)
    expected = {"dtype": "float16", "device": "cpu", "cache_folder": "models"}
    assert json.loads(embed_model.to_json())["model_kwargs"] == expected


def test_a_pipeline_remembers_by_model_and_settings(folder, own_embedder):
    """The ingestion cache of LlamaIndex keys by `to_dict`; models and settings must not share an entry."""
    pipeline = IngestionPipeline(transformations=[FletchingEmbedding(folder)])
    nodes = [TextNode(text="bow", id_="1")]
    full = pipeline.run(nodes=nodes)[0].embedding
    pipeline.transformations = [FletchingEmbedding(folder, truncate_dim=8)]
    assert len(pipeline.run(nodes=nodes)[0].embedding) == 8
    pipeline.transformations = [FletchingEmbedding(own_embedder)]
    assert pipeline.run(nodes=nodes)[0].embedding == full


def test_limits_of_tokens_are_no_secret():
    given = {"max_tokens_per_batch": 512, "tokenizer_kwargs": {"pad_token": "<pad>", "max_tokens": 3}}
    assert FletchingEmbedding(model="mvp-mini", model_kwargs=given).to_dict()["model_kwargs"] == given


def test_a_loaded_model_that_cannot_be_pickled_is_refused(own_embedder):
    own_embedder.hook = lambda: None
    with pytest.raises(ArgumentError, match=r"^FletchingEmbedding: `model` must be what can be pickled"):
        pickle.dumps(FletchingEmbedding(own_embedder))
