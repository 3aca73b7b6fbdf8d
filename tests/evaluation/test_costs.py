"""Tokens, padding and memory, counted while models of every kind work."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
from transformers import AutoModel, BertForSequenceClassification

import fletching
from fletching.evaluation import Cost
from fletching.evaluation.costs import Meter, Spent, sum_costs
from fletching.methods.mvp import MVPReranker
from fletching.testing import save_tiny_bert, save_tiny_t5

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def count(model: Any, call: Any) -> tuple[int | None, int | None]:
    """Return tokens and positions of one call."""
    meter = Meter()
    with meter.watch([model]):
        _, spent = meter.measure(call, lambda: None)
    return spent.tokens, spent.positions


# --- tokens ---


@pytest.mark.parametrize(
    "load",
    [fletching.load, sentence_transformers.SentenceTransformer],
    ids=["Embedder", "SentenceTransformer"],
)
def test_tokens_of_an_embedder_hold_prompt_and_special_tokens(folders: dict[str, str], load: Any) -> None:
    """[CLS] passage goose feather [SEP]."""
    model = load(folders["embedder"], device="cpu")
    assert count(model, lambda: model.encode_document(["goose feather"])) == (5, 5)


@pytest.mark.parametrize("kind", ["sparse", "multi_vector"])
def test_tokens_of_other_encoders(models: dict[str, Any], kind: str) -> None:
    """[CLS] goose feather [SEP]."""
    model = models[kind]
    assert count(model, lambda: model.encode_document(["goose feather"])) == (4, 4)


@pytest.mark.parametrize(
    "load", [fletching.load, sentence_transformers.CrossEncoder], ids=["Reranker", "CrossEncoder"]
)
def test_tokens_of_a_cross_encoder_are_those_of_the_pairs(folders: dict[str, str], load: Any) -> None:
    """[CLS] bow [SEP] wood [SEP] is 5 long, [CLS] bow [SEP] goose feather wind [SEP] 7: two are padding."""
    model = load(folders["reranker"], device="cpu")
    assert count(model, lambda: model.rank("bow", ["wood", "goose feather wind"])) == (12, 14)


def test_tokens_of_mvp_on_a_bi_encoder(tmp_path: Any) -> None:
    """The query is read once, 3 tokens; the passages have 3 and 5, padded to 5 each."""
    model = MVPReranker.from_bi_encoder(save_tiny_bert(tmp_path), device="cpu")
    assert count(model, lambda: model.rank("bow", ["wood", "goose feather wind"])) == (11, 13)


def test_tokens_of_mvp_on_an_encoder_hold_its_views(tmp_path: Any) -> None:
    """As for a cross-encoder, 5 and 7 tokens, with two views in front of each."""
    model = MVPReranker.from_encoder(save_tiny_bert(tmp_path), n_views=2, device="cpu")
    assert count(model, lambda: model.rank("bow", ["wood", "goose feather wind"])) == (16, 18)


def test_tokens_of_mvp_on_t5_are_those_of_the_encoder(tmp_path: Any) -> None:
    """Its decoder reads vectors of passages, not tokens."""
    model = MVPReranker(save_tiny_t5(tmp_path), n_views=2, device="cpu")
    length = model.preprocess([("Bow", "wood")])["attention_mask"].shape[1]
    assert count(model, lambda: model.rank("Bow", ["wood"])) == (length, length)


def test_network_inside_a_network_counts_once(tmp_path: Any) -> None:
    network = BertForSequenceClassification.from_pretrained(
        save_tiny_bert(tmp_path, head="sequence-classification")
    )
    inputs = {
        "input_ids": torch.ones(2, 6).long(),
        "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]),
    }
    assert count(network, lambda: network(**inputs)) == (10, 12)


def test_nothing_is_padding_without_a_mask(tmp_path: Any) -> None:
    network = AutoModel.from_pretrained(save_tiny_bert(tmp_path))
    assert count(network, lambda: network(torch.ones(2, 6).long())) == (12, 12)


def test_counting_goes_on_after_a_failed_call_and_ends_with_the_watch(tmp_path: Any) -> None:
    network = AutoModel.from_pretrained(save_tiny_bert(tmp_path))
    good, bad = torch.ones(1, 6).long(), torch.full((1, 6), 10**6)
    meter = Meter()
    with meter.watch([network]):
        with pytest.raises(IndexError):
            network(bad)
        _, spent = meter.measure(lambda: network(good), lambda: None)
    network(good)
    assert spent.tokens == 6
    assert not network._forward_pre_hooks
    assert not network._forward_hooks


def test_tokens_are_unknown_without_a_network() -> None:
    meter = Meter()
    with meter.watch([]):
        result, spent = meter.measure(lambda: "answer", lambda: 3)
    assert result == "answer"
    assert (spent.tokens, spent.positions, spent.lost_tokens) == (None, None, 0)
    assert spent.seconds >= 0


def test_lost_tokens_are_those_of_the_step() -> None:
    counts = iter([5, 9])
    _, spent = Meter().measure(lambda: None, lambda: next(counts))
    assert spent.lost_tokens == 4


# --- memory ---


@LINUX
def test_peak_memory_is_that_above_the_start() -> None:
    """64 MiB of ones are made and dropped inside the step; 256 MiB before the meter do not count."""
    del (before := {"large": np.ones(2**25)})["large"]
    meter = Meter()
    with meter.watch([]):
        _, spent = meter.measure(lambda: np.ones(2**23).sum(), lambda: None)
    assert not before
    assert spent.peak_memory_mib is not None
    assert 60 < spent.peak_memory_mib < 120


@LINUX
def test_memory_of_others_is_left_out() -> None:
    """64 MiB of ones that stay belong to somebody else."""
    meter = Meter()
    with meter.watch([]):
        others = meter.exclude(lambda: np.ones(2**23))
        _, spent = meter.measure(lambda: None, lambda: None)
    assert len(others) == 2**23
    assert spent.peak_memory_mib is not None
    assert spent.peak_memory_mib < 30


def test_peak_memory_is_unknown_where_it_cannot_be_reset(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr("fletching.evaluation.costs._CLEAR_REFS", tmp_path / "missing" / "clear_refs")
    _, spent = Meter().measure(lambda: None, lambda: None)
    assert spent.peak_memory_mib is None


# --- adding up ---


def test_costs_of_all_steps_are_added() -> None:
    """Padding: 60 tokens on 80 positions; memory: the highest; lost tokens: of queries."""
    prepared = [Spent(2.0, 30, 40, None, 7.0), Spent(1.0, 10, 20, None, 9.0)]
    queries = {"a": Spent(0.5, 12, 12, 3, 8.0), "b": Spent(0.25, 8, 8, 1, 8.5)}
    assert sum_costs(prepared, queries, bytes_per_vector=128.0) == Cost(
        latency_ms={"a": 500.0, "b": 250.0},
        prepare_seconds=3.0,
        tokens=60,
        padding=0.25,
        peak_memory_mib=9.0,
        bytes_per_vector=128.0,
        lost_tokens=4,
    )


def test_costs_that_nobody_knows_stay_unknown() -> None:
    assert sum_costs([Spent(0.0)], {"a": Spent(0.5)}, bytes_per_vector=None) == Cost(
        latency_ms={"a": 500.0}, prepare_seconds=0.0
    )
    assert sum_costs([], {"a": Spent(0.5, 0, 0)}, bytes_per_vector=None).tokens is None


@pytest.mark.parametrize("record", [None, {}, {"tokens": 3}, {"seconds": "3"}, [1.0]], ids=repr)
def test_what_is_no_record_of_costs_is_refused(record: object) -> None:
    with pytest.raises(ValueError, match="no costs"):
        Spent.read(record)
