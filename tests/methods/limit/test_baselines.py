"""Baselines whose results are known beforehand."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from fletching.errors import ArgumentError, DataError, MissingExtraError
from fletching.methods.limit.baselines import (
    BM25Baseline,
    ItemMatcher,
    RandomWordVectors,
    compute_chance,
)
from fletching.methods.limit.data import LimitDataset
from fletching.methods.limit.evaluation import LimitEvaluator


def test_item_1_chance_level_on_small() -> None:
    """2 / 46 = 4.35 %, 21.7 %, 43.5 %."""
    assert [round(100 * compute_chance(46, k), 2) for k in (2, 10, 20)] == [4.35, 21.74, 43.48]
    assert compute_chance(46, 100) == 1.0


def test_item_1_scores_that_know_nothing_reach_chance(full_size: LimitDataset) -> None:
    class Noise:
        def score(self, queries: list[str], documents: list[str]) -> torch.Tensor:
            generator = torch.Generator().manual_seed(len(queries))
            return torch.rand(len(queries), len(documents), generator=generator)

    metrics = LimitEvaluator(full_size, name="x")(Noise())
    assert metrics["x_recall_at_2"] == pytest.approx(2 / 46, abs=0.015)
    assert metrics["x_recall_at_20"] == pytest.approx(20 / 46, abs=0.04)


def test_item_3_whole_items_are_the_answer_key(full_size: LimitDataset) -> None:
    metrics = LimitEvaluator(full_size, name="x")(ItemMatcher(full_size))
    assert metrics == {f"x_{name}": 1.0 for name in ("recall_at_2", "recall_at_10", "recall_at_20")} | {
        "x_set_accuracy": 1.0
    }


def test_matcher_does_not_match_parts_of_items() -> None:
    data = LimitDataset(
        "toy", {"q": "Who likes Gin?"}, {"a": "A likes Gingerbread.", "b": "B likes Gin."}, {"q": ("b",)}
    )
    with pytest.raises(DataError, match="the items of 'toy' must be known"):
        ItemMatcher(data)
    data = replace(data, query_items={"q": "Gin"}, document_items={"a": ("Gingerbread",), "b": ("Gin",)})
    scores = ItemMatcher(data).score(list(data.queries.values()), list(data.corpus.values()))
    assert scores.tolist() == [[0.0, 1.0]]


def test_word_overlap_solves_generated_data(full_size: LimitDataset) -> None:
    """As on the released data, where BM25 reaches 97.8 to 99.2 %."""
    assert LimitEvaluator(full_size, name="x")(BM25Baseline())["x_recall_at_2"] > 0.95


def test_bm25_follows_its_formula() -> None:
    """Lucene's: ``ln(1 + (N - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * length / mean))``."""
    documents = ["red red bow", "blue bow bow bow", "green"]
    scores = BM25Baseline(k1=1.2, b=0.75).score(["Red?", "unknown"], documents)
    idf = torch.tensor((3 - 1 + 0.5) / (1 + 0.5)).log1p()
    expected = idf * 2 / (2 + 1.2 * (0.25 + 0.75 * 3 / (8 / 3)))
    torch.testing.assert_close(scores, torch.tensor([[float(expected), 0, 0], [0, 0, 0]]), rtol=1e-4, atol=0)


def test_bm25_notices_other_documents() -> None:
    model = BM25Baseline()
    first = model.score(["bow"], ["a bow", "an arrow"])
    assert model.score(["bow"], ["an arrow", "a bow"]).equal(first.flip(1))


def test_bm25_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingExtraError, match=r'pip install "fletching\[evaluate\]"'):
        BM25Baseline()


def test_random_vectors_prefer_shared_words() -> None:
    documents = ["wind and rain", "bow and arrow", "..."]
    scores = RandomWordVectors(1024).score(["an arrow"], documents)
    assert scores[0, 1] > scores[0, 0]
    assert scores[0, 2] == 0.0


def test_random_vector_of_a_word_depends_on_word_and_seed_only() -> None:
    model = RandomWordVectors(32)
    alone = model.score(["arrow"], ["bow"])
    among_others = RandomWordVectors(32).score(["wind", "arrow"], ["rain", "bow"])
    torch.testing.assert_close(among_others[1:, 1:], alone)
    assert not RandomWordVectors(32, seed=1).score(["arrow"], ["bow"]).allclose(alone, atol=1e-3)


def test_random_vectors_get_better_with_dimensions(full_size: LimitDataset) -> None:
    """On the released data: 5 % at d = 2, 63 to 75 % at d = 1024."""
    recall = [
        LimitEvaluator(full_size, name="x")(RandomWordVectors(dim))["x_recall_at_2"] for dim in (2, 64, 1024)
    ]
    assert recall[0] < recall[1] < recall[2]
    with pytest.raises(ArgumentError, match="RandomWordVectors: `dim`"):
        RandomWordVectors(0)


def test_random_vectors_notice_other_documents() -> None:
    model = RandomWordVectors(32)
    first = model.score(["bow"], ["a bow", "an arrow"])
    assert model.score(["bow"], ["an arrow", "a bow"]).equal(first.flip(1))
