"""From a model to a report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fletching import __version__
from fletching.data import CandidateList, Document
from fletching.errors import ArgumentError
from fletching.evaluation.audit import audit
from fletching.evaluation.data_set import EvaluationSet
from fletching.models.sharing import fingerprint, load_shared
from fletching.testing import save_tiny_cross_encoder


class ByLength:
    def rank(self, query: str, documents: list[str]) -> list[dict[str, Any]]:
        scores = [len(query) / (1 + len(text)) for text in documents]
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        return [{"corpus_id": place, "score": scores[place]} for place in order]


def test_a_folder_is_opened_and_described(tmp_path: Path, lists: list[CandidateList]) -> None:
    folder = save_tiny_cross_encoder(tmp_path)
    report = audit(folder, lists[:2])
    assert (report.model, report.kind, report.dtype, report.version) == (
        folder, "reranker", "float32", __version__,
    )  # fmt: skip
    assert report.fingerprint == fingerprint(load_shared(folder))
    assert (report.n_lists, report.n_documents, report.data_name) == (2, 16, "lists given")


def test_own_lists_are_taken_where_none_are_given() -> None:
    report = audit(ByLength())
    assert (report.model, report.data_name, report.n_lists) == ("ByLength", "fletching's own lists", 12)
    assert {one.by for one in report.slices} >= {"all", "script of the query", "length of the passage"}


def test_equal_audits_are_equal(lists: list[CandidateList]) -> None:
    first = audit(ByLength(), lists)
    assert audit(ByLength(), lists) == first
    assert audit(ByLength(), lists[1:]).data_digest != first.data_digest


def test_an_evaluation_set_lends_its_name(lists: list[CandidateList]) -> None:
    corpus = [Document(f"d{place}", text) for place, text in enumerate(lists[0].documents)]
    data = EvaluationSet(
        name="archery",
        queries={"q": lists[0].query},
        qrels={"q": {"d2": 1, "d5": 1}},
        open_corpus=lambda: iter(corpus),
        candidates={"q": {document.id: 1.0 / (1 + place) for place, document in enumerate(corpus)}},
    )
    report = audit(ByLength(), data)
    expected = audit(ByLength(), lists[:1], data_name="archery")
    assert replace(report, data_digest="") == replace(expected, data_digest="")


def test_what_is_no_model_is_refused(lists: list[CandidateList]) -> None:
    with pytest.raises(
        ArgumentError, match="`model` must be a checkpoint's name or folder, or an object with"
    ):
        audit(object(), lists)


def test_a_rank_that_returns_no_hits_is_refused(lists: list[CandidateList]) -> None:
    class Scores:
        def rank(self, query: str, documents: list[str]) -> list[float]:
            return [0.5] * len(documents)

    with pytest.raises(ArgumentError, match=r"`model\.rank` must be a method that returns .*; got \[0\.5, "):
        audit(Scores(), lists)


def test_lists_of_nothing_are_refused() -> None:
    with pytest.raises(ArgumentError, match="`lists` must be at least one query with two different passages"):
        audit(ByLength(), [CandidateList("q", ("a", "a"), ())])


@pytest.mark.parametrize(
    ("name", "value"), [("max_lists", 0), ("max_documents", 1), ("max_lists", 2.5), ("seed", -1)]
)
def test_sizes_that_leave_nothing_are_refused(name: str, value: int) -> None:
    with pytest.raises(ArgumentError, match=f"`{name}` must be an integer, at least"):
        audit(ByLength(), **{name: value})  # type: ignore[arg-type]
