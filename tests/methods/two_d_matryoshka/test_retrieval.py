from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fletching.data import Document
from fletching.evaluation import EvaluationSet
from fletching.methods.two_d_matryoshka import depth_vectors as depth_vectors_module
from fletching.methods.two_d_matryoshka.depth_vectors import DepthEncoder
from fletching.methods.two_d_matryoshka.retrieval import rank_at_sizes


class Echo(nn.Sequential):
    """Texts are vectors: ``"1 2"`` is (1, 2) after two layers, (10, 20) after one."""

    width = 2
    similarity = staticmethod(lambda a, b: a @ b.T)
    similarity_pairwise = staticmethod(lambda a, b: (a * b).sum(dim=1))

    def encode_sizes(self, texts: list[str], layers: list[int], **_: Any) -> dict[int, Any]:
        vectors = np.array([[float(part) for part in text.split()] for text in texts], dtype=np.float32)
        return {depth: vectors * (10 if depth == 1 else 1) for depth in layers}


CORPUS = {"a": "1 0", "b": "2 -9", "c": "3 1", "d": "-1 5", "e": "0 2"}


def open_corpus() -> Iterator[Document]:
    return (Document(key, text) for key, text in CORPUS.items())


def rank(candidates: Any = None, **options: Any) -> dict[Any, Any]:
    data = EvaluationSet("echo", {"q1": "1 1", "q2": "-1 0"}, {}, open_corpus, candidates=candidates)
    return dict(rank_at_sizes(DepthEncoder(Echo()), data, [(2, 2), (2, 1), (1, 1)], **options))


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_search_keeps_the_best_of_all_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """q1 with both numbers: a 1, b -7, c 4, d 4, e 2; with the first alone: 1, 2, 3, -1, 0."""
    monkeypatch.setattr(depth_vectors_module, "_BLOCK", block)
    found = rank(depth=3)
    assert found[2, 2]["q1"] == {"c": 4, "d": 4, "e": 2}
    assert found[2, 1]["q1"] == {"c": 3, "b": 2, "a": 1}
    assert found[2, 1]["q2"] == {"d": 1, "e": 0, "a": -1}
    assert found[1, 1]["q1"] == {"c": 300, "b": 200, "a": 100}


@pytest.mark.parametrize("block", [1, 100])
def test_lists_are_scored_as_they_are(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth_vectors_module, "_BLOCK", block)
    found = rank({"q1": {"e": 9.0, "b": 8.0}, "q2": {"b": 1.0}})
    assert found[2, 2] == {"q1": {"e": 2, "b": -7}, "q2": {"b": -2}}
    assert found[1, 1] == {"q1": {"e": 0, "b": 200}, "q2": {"b": -200}}


def test_passages_may_keep_their_depth() -> None:
    """A query of one layer, times ten, against passages of two."""
    found = rank(document_layers=2)
    assert found[1, 1]["q1"] == {"c": 30, "b": 20, "a": 10, "e": 0, "d": -10}


def test_only_candidates_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = Echo.encode_sizes

    def encode(self: Echo, texts: list[str], layers: list[int], **options: Any) -> Any:
        seen.extend(texts)
        return real(self, texts, layers, **options)

    monkeypatch.setattr(Echo, "encode_sizes", encode)
    rank({"q1": {"e": 9.0}})
    assert seen == ["1 1", "0 2"]


def test_scores_are_plain_numbers() -> None:
    assert all(type(score) is float for score in rank()[2, 2]["q1"].values())
    assert torch.is_grad_enabled()
