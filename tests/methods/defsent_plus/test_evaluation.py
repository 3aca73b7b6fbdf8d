"""Sentence pairs, isotropy, and the way from definitions to entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fletching.data import SentencePair
from fletching.errors import ArgumentError, DataError
from fletching.methods.defsent_plus.evaluation import (
    DefSentPlusEvaluator,
    IsotropyEvaluator,
    measure_definition_ranks,
    read_sts_sets,
)
from fletching.methods.defsent_plus.functional import measure_isotropy

VECTORS = {"a": [1.0, 0.0], "b": [1.0, 1.0], "c": [0.0, 1.0], "d": [-1.0, 0.0]}


class Echo:
    """A model whose vectors are known."""

    model_card_data: Any = None

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        self.vectors = vectors
        self.read: list[str] = []

    def encode(self, texts: list[str], **options: Any) -> Any:
        self.read += texts
        return np.array([self.vectors[text] for text in texts], dtype=np.float32)


@pytest.fixture(autouse=True)
def _no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    for evaluator in (DefSentPlusEvaluator, IsotropyEvaluator):
        monkeypatch.setattr(evaluator, "store_metrics_in_model_card_data", lambda *args, **kwargs: None)


def test_correlation_is_that_of_ranks_and_averaged_over_sets() -> None:
    """Cosines to ``a`` are .71, 0, -1: in the order of the first scores, against that of the second."""
    pairs = [("a", "b"), ("a", "c"), ("a", "d")]
    agree = [SentencePair(*pair, score) for pair, score in zip(pairs, (5.0, 4.9, 0.0), strict=True)]
    oppose = [SentencePair(*pair, score) for pair, score in zip(pairs, (0.0, 1.0, 2.0), strict=True)]
    evaluator = DefSentPlusEvaluator({"agree": agree, "oppose": oppose})
    found = evaluator(Echo(VECTORS))
    assert found == pytest.approx({"sts_agree": 1.0, "sts_oppose": -1.0, "sts_mean": 0.0})
    assert evaluator.primary_metric == "sts_mean"


def test_a_sentence_of_several_pairs_and_sets_is_embedded_once() -> None:
    pairs = [SentencePair("a", "b", 1.0), SentencePair("a", "c", 2.0)]
    model = Echo(VECTORS)
    DefSentPlusEvaluator({"one": pairs, "two": [*pairs, SentencePair("c", "d", 0.0)]})(model)
    assert sorted(model.read) == ["a", "b", "c", "d"]


def test_a_collapsed_model_correlates_with_nothing() -> None:
    pairs = [SentencePair("a", "b", 1.0), SentencePair("a", "c", 2.0)]
    found = DefSentPlusEvaluator({"one": pairs})(Echo({key: [1.0, 1.0] for key in "abc"}))
    assert found["sts_one"] == 0.0


def test_isotropy_evaluator_measures_what_the_model_encodes() -> None:
    found = IsotropyEvaluator(["a", "c", "d"])(Echo(VECTORS))
    expected = measure_isotropy(torch.tensor([VECTORS[name] for name in "acd"]))
    assert found == {f"definitions_{name}": value for name, value in expected.items()}


def test_ranks_count_ties_in_the_middle() -> None:
    """Row 0: behind one. Row 1: level with two others, places 1 to 3, so 2. Row 2: the 12th of 12."""
    scores = torch.zeros(3, 12)
    scores[0, 3], scores[0, 4] = 2.0, 1.0
    scores[1, :3] = 1.0
    scores[2] = torch.arange(12.0)
    labels = [4, 0, 0]
    found = measure_definition_ranks(lambda places: scores[list(places)], labels, batch_size=2)
    assert found == pytest.approx(
        {"mrr": (1 / 2 + 1 / 2 + 1 / 12) / 3, "top1": 0.0, "top3": 2 / 3, "top10": 2 / 3}
    )


def test_sets_are_named_after_their_files(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "dev.tsv").write_text("1.5\ta\tb\n0\ta\tc\n", encoding="utf-8")
    found = read_sts_sets([tmp_path / "first" / "dev.tsv", tmp_path / "second" / "dev.tsv"])
    assert list(found) == ["dev", "second_dev"]
    assert found["dev"] == [SentencePair("a", "b", 1.5), SentencePair("a", "c", 0.0)]
    with pytest.raises(DataError):
        read_sts_sets([tmp_path / "missing.tsv"])


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ArgumentError, match="sets of at least two pairs"):
        DefSentPlusEvaluator({"one": [SentencePair("a", "b", 1.0)]})
    with pytest.raises(ArgumentError, match="at least two texts"):
        IsotropyEvaluator(["a"])
    with pytest.raises(ArgumentError, match="at least one definition"):
        measure_definition_ranks(lambda places: torch.zeros(0, 2), [])
