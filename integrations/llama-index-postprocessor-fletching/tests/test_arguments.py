"""What the constructor refuses, before any weight is loaded."""

from __future__ import annotations

import pytest
from llama_index.postprocessor.fletching import FletchingRerank
from llama_index.postprocessor.fletching.base import LONG, SCORES

from fletching.errors import ArgumentError
from fletching.models.reranker import LONG as LONG_OF_THE_MODEL
from fletching.models.reranker import SCORES as SCORES_OF_THE_MODEL

COUNT = "must be a positive integer or None; got"
BAD = [
    ({"top_n": 0}, f"`top_n` {COUNT} 0."),
    ({"top_n": -3}, f"`top_n` {COUNT} -3."),
    ({"top_n": True}, f"`top_n` {COUNT} True."),
    ({"top_n": 2.0}, f"`top_n` {COUNT} 2.0."),
    ({"top_n": "3"}, f"`top_n` {COUNT} '3'."),
    ({"batch_size": 0}, f"`batch_size` {COUNT} 0."),
    ({"min_score": "high"}, "`min_score` must be a finite number or None; got 'high'."),
    ({"min_score": True}, "`min_score` must be a finite number or None; got True."),
    ({"min_score": float("nan")}, "`min_score` must be a finite number or None; got nan."),
    ({"min_score": float("inf")}, "`min_score` must be a finite number or None; got inf."),
    ({"callback_manager": 3}, "`callback_manager` must be a CallbackManager or None; got 3."),
    (
        {"scores": "probable"},
        "`scores` must be one of 'logit', 'probability'; got 'probable'. Did you mean 'probability'?",
    ),
    ({"long": "cut"}, "`long` must be one of 'truncate', 'chunk_max'; got 'cut'."),
    (
        {"metadata_mode": "embed_"},
        "`metadata_mode` must be one of 'all', 'embed', 'llm', 'none'; got 'embed_'. Did you mean 'embed'?",
    ),
    ({"keep_retrieval_score": "yes"}, "`keep_retrieval_score` must be True or False; got 'yes'."),
    (
        {"model_kwargs": "token"},
        "`model_kwargs` must be a mapping from argument names of fletching.load_shared to values; got 'str'.",
    ),
    (
        {"model_kwargs": {"kind": "embedder"}},
        "`model_kwargs` must be without 'kind', which is set here; got ['kind'].",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_argument_is_one_sentence(arguments, message):
    with pytest.raises(ArgumentError) as caught:
        FletchingRerank(model="mvp-mini", **arguments)
    assert str(caught.value) == f"FletchingRerank: {message}"


@pytest.mark.parametrize("model", [None, "", " ", 3, object()])
def test_a_bad_model_is_one_sentence(model):
    message = (
        "^FletchingRerank: `model` must be a checkpoint name, a folder, a hub id or a loaded "
        r"fletching\.Reranker; got .*\. `fletching\.load` opens one\.$"
    )
    with pytest.raises(ArgumentError, match=message):
        FletchingRerank(model=model)


def test_a_loaded_model_takes_no_arguments_of_load(own_reranker):
    message = "`model_kwargs` must be empty when `model` is loaded already; got ['device']."
    with pytest.raises(ArgumentError) as caught:
        FletchingRerank(model=own_reranker, model_kwargs={"device": "cpu"})
    assert str(caught.value) == f"FletchingRerank: {message}"


def test_an_unknown_argument_is_not_swallowed():
    with pytest.raises(ArgumentError, match=r"got 'topn'. Did you mean 'top_n'"):
        FletchingRerank(model="mvp-mini", topn=3)


def test_a_folder_may_be_a_path(tmp_path):
    assert FletchingRerank(model=tmp_path).model == str(tmp_path)


def test_the_options_are_those_of_the_model():
    assert (tuple(SCORES_OF_THE_MODEL), LONG_OF_THE_MODEL) == (SCORES, LONG)


def test_a_secret_is_in_no_error():
    with pytest.raises(ArgumentError) as caught:
        FletchingRerank(model="mvp-mini", model_kwargs={"kind": "reranker", "token": "hf_secret"})
    assert "hf_secret" not in str(caught.value)


def assign(changed, update):
    for name, value in update.items():
        setattr(changed, name, value)


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message for _, message in BAD])
@pytest.mark.parametrize("assign", [assign, FletchingRerank.model_copy], ids=["assigned", "copied"])
def test_what_is_assigned_is_checked(arguments, message, assign):
    postprocessor = FletchingRerank(model="mvp-mini")
    with pytest.raises(ArgumentError) as caught:
        assign(postprocessor, update=arguments)
    assert str(caught.value) == f"FletchingRerank: {message}"


class Boosted(FletchingRerank):
    boost: float

    def __init__(self, model, *, boost, **kwargs):
        super().__init__(model, boost=boost, **kwargs)


class Plain(FletchingRerank):
    boost: float


@pytest.mark.parametrize("owner", [Boosted, Plain])
def test_a_subclass_may_have_fields(owner):
    assert owner("mvp-mini", boost=2, top_n=1).boost == 2.0
    with pytest.raises(ArgumentError, match=rf"^{owner.__name__}: `kwargs` must be one of .*mean 'boost'\?$"):
        owner("mvp-mini", boost=2, bost=1)
    with pytest.raises(ArgumentError, match=f"^{owner.__name__}: `top_n` must be a positive"):
        owner("mvp-mini", boost=2, top_n=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"`boost` must be as Plain declares it \(Field required\); got 'nothing'\."),
        ({"boost": "hf_secret"}, "`boost` must be as Plain declares it .*; got 'str'"),
    ],
)
def test_a_field_of_a_subclass_is_checked_without_secrets(given, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        Plain("mvp-mini", model_kwargs={"token": "hf_secret"}, **given)
    assert "hf_secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
