"""What the constructor refuses, before any weight is loaded."""

from __future__ import annotations

import pytest
from llama_index.embeddings.fletching import FletchingEmbedding

from fletching.errors import ArgumentError

COUNT = "must be a positive integer or None; got"
BAD = [
    ({"truncate_dim": 0}, f"`truncate_dim` {COUNT} 0."),
    ({"truncate_dim": True}, f"`truncate_dim` {COUNT} True."),
    ({"truncate_dim": 8.0}, f"`truncate_dim` {COUNT} 8.0."),
    ({"num_layers": -1}, f"`num_layers` {COUNT} -1."),
    ({"num_workers": 0}, f"`num_workers` {COUNT} 0."),
    ({"embed_batch_size": 0}, "`embed_batch_size` must be an integer from 1 to 2048; got 0."),
    ({"embed_batch_size": 4096}, "`embed_batch_size` must be an integer from 1 to 2048; got 4096."),
    ({"embed_batch_size": None}, "`embed_batch_size` must be an integer from 1 to 2048; got None."),
    ({"query_prompt": 3}, "`query_prompt` must be a string or None; got 3."),
    ({"document_prompt": b"x"}, "`document_prompt` must be a string or None; got b'x'."),
    ({"normalize": "yes"}, "`normalize` must be True or False; got 'yes'."),
    ({"callback_manager": 3}, "`callback_manager` must be a CallbackManager or None; got 3."),
    ({"embeddings_cache": {}}, "`embeddings_cache` must be a BaseKVStore or None; got {}."),
    (
        {"model_kwargs": "token"},
        "`model_kwargs` must be a mapping from argument names of fletching.load_shared to values; got 'str'.",
    ),
    (
        {"model_kwargs": {"kind": "reranker", "token": "hf_secret"}},
        "`model_kwargs` must be without 'kind', which is set here; got ['kind', 'token'].",
    ),
    ({"model_name": "other"}, "`model_name` must be left out beside `model`, or equal to it; got 'other'."),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_argument_is_one_sentence(arguments, message):
    with pytest.raises(ArgumentError) as caught:
        FletchingEmbedding(model="some/model", **arguments)
    assert str(caught.value) == f"FletchingEmbedding: {message}"


@pytest.mark.parametrize("model", [None, "", " ", 3, object()])
def test_a_bad_model_is_one_sentence(model):
    message = (
        "^FletchingEmbedding: `model` must be a folder, a hub id, a checkpoint name or a loaded "
        r"fletching\.Embedder; got .*\. `fletching\.load` opens one\.$"
    )
    with pytest.raises(ArgumentError, match=message):
        FletchingEmbedding(model=model)


def test_a_loaded_model_takes_no_arguments_of_load(own_embedder):
    with pytest.raises(ArgumentError, match="`model_kwargs` must be empty when `model` is loaded already"):
        FletchingEmbedding(model=own_embedder, model_kwargs={"device": "cpu"})


def test_an_unknown_argument_is_not_swallowed():
    with pytest.raises(ArgumentError, match=r"got 'truncate_dims'. Did you mean 'truncate_dim'"):
        FletchingEmbedding(model="some/model", truncate_dims=3)


def test_model_and_model_name_are_one(tmp_path):
    for embed_model in (
        FletchingEmbedding(tmp_path),
        FletchingEmbedding(model=tmp_path),
        FletchingEmbedding(model_name=str(tmp_path)),
        FletchingEmbedding(tmp_path, model_name=str(tmp_path)),
    ):
        assert embed_model.model == embed_model.model_name == str(tmp_path)


def assign(changed, update):
    for name, value in update.items():
        setattr(changed, name, value)


@pytest.mark.parametrize(("arguments", "message"), BAD[:-1], ids=[message for _, message in BAD[:-1]])
@pytest.mark.parametrize("assign", [assign, FletchingEmbedding.model_copy], ids=["assigned", "copied"])
def test_what_is_assigned_is_checked(arguments, message, assign):
    embed_model = FletchingEmbedding(model="some/model")
    with pytest.raises(ArgumentError) as caught:
        assign(embed_model, update=arguments)
    assert str(caught.value) == f"FletchingEmbedding: {message}"


class Boosted(FletchingEmbedding):
    boost: float


def test_a_subclass_may_have_fields():
    assert Boosted("some/model", boost=2).boost == 2.0
    with pytest.raises(ArgumentError, match=r"^Boosted: `boost` must be as Boosted declares it") as caught:
        Boosted("some/model", model_kwargs={"token": "hf_secret"})
    assert "hf_secret" not in str(caught.value)
    assert caught.value.__suppress_context__
