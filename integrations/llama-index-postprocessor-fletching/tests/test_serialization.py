"""Dictionaries, JSON, pickles and copies; secrets stay out of the first two."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from llama_index.core.callbacks import CallbackManager
from llama_index.postprocessor.fletching import FletchingRerank

from fletching.errors import ArgumentError

QUERY = "what keeps the arrow true"
SETTINGS = {
    "top_n": 2,
    "min_score": -5.0,
    "scores": "probability",
    "long": "chunk_max",
    "batch_size": 4,
    "metadata_mode": "llm",
    "keep_retrieval_score": True,
    "model_kwargs": {"device": "cpu"},
}
ROUND_TRIPS = {
    "dict": lambda one: FletchingRerank.from_dict(one.to_dict()),
    "json": lambda one: FletchingRerank.from_json(one.to_json()),
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


def as_pairs(nodes):
    return [(node.node_id, node.score) for node in nodes]


@pytest.mark.parametrize("way", ROUND_TRIPS)
def test_settings_survive(folder, way):
    restored = ROUND_TRIPS[way](FletchingRerank(folder, **SETTINGS))
    assert restored.to_dict() == {"class_name": "FletchingRerank", "model": folder, **SETTINGS}


@pytest.mark.parametrize("way", ROUND_TRIPS)
def test_a_restored_postprocessor_ranks_alike(postprocessor, nodes, way):
    expected = as_pairs(postprocessor.postprocess_nodes(nodes, query_str=QUERY))
    restored = ROUND_TRIPS[way](postprocessor)
    assert as_pairs(restored.postprocess_nodes(nodes, query_str=QUERY)) == expected


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "copy"])
def test_a_loaded_model_survives(own_reranker, nodes, way):
    given = FletchingRerank(own_reranker)
    expected = as_pairs(given.postprocess_nodes(nodes, query_str=QUERY))
    assert as_pairs(ROUND_TRIPS[way](given).postprocess_nodes(nodes, query_str=QUERY)) == expected


def test_a_copy_shares_the_model(own_reranker):
    assert copy.deepcopy(FletchingRerank(own_reranker))._load() is own_reranker


def test_a_pickle_holds_no_weights_of_a_named_model(postprocessor, nodes):
    postprocessor.postprocess_nodes(nodes, query_str=QUERY)
    assert len(pickle.dumps(postprocessor)) < 2_000  # the tiny model has a hundred times as many bytes


def test_pickling_changes_nothing(postprocessor, nodes):
    postprocessor.postprocess_nodes(nodes, query_str=QUERY)
    model = postprocessor._opened
    pickle.dumps(postprocessor)
    assert postprocessor._opened is model
    assert isinstance(postprocessor.callback_manager, CallbackManager)


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
    postprocessor = FletchingRerank(model="mvp-mini", model_kwargs=model_kwargs)
    shown = [repr(postprocessor), str(postprocessor), str(postprocessor.to_dict()), postprocessor.to_json()]
    assert not any("hf_secret" in text for text in shown)
    assert postprocessor.model_kwargs == model_kwargs
    assert pickle.loads(pickle.dumps(postprocessor)).model_kwargs == model_kwargs


def test_what_json_cannot_hold_is_written_as_text():
    given = {"dtype": torch.float16, "device": torch.device("cpu"), "cache_folder": Path("models")}
    postprocessor = FletchingRerank(model="mvp-mini", model_kwargs=given)
    expected = {"dtype": "float16", "device": "cpu", "cache_folder": "models"}
    assert json.loads(postprocessor.to_json())["model_kwargs"] == expected


def test_the_callers_mapping_is_copied():
    given = {"device": "cpu"}
    postprocessor = FletchingRerank(model="mvp-mini", model_kwargs=given)
    given["token"] = "hf_secret"
    assert postprocessor.model_kwargs == {"device": "cpu"}


def test_limits_of_tokens_are_no_secret():
    given = {"max_tokens_per_batch": 512, "tokenizer_kwargs": {"pad_token": "<pad>", "max_tokens": 3}}
    assert FletchingRerank(model="mvp-mini", model_kwargs=given).to_dict()["model_kwargs"] == given


def test_a_loaded_model_that_cannot_be_pickled_is_refused(own_reranker):
    own_reranker.hook = lambda: None
    with pytest.raises(ArgumentError, match=r"^FletchingRerank: `model` must be what can be pickled"):
        pickle.dumps(FletchingRerank(own_reranker))
