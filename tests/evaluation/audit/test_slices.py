"""Quality and scores by script and by length."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fletching.data import CandidateList
from fletching.evaluation.audit.slices import Scored, build_slices


def score(query: str, documents: tuple[str, ...], labels: tuple[float, ...], *scores: float) -> Scored:
    return Scored(CandidateList(query, documents, labels), np.array(scores), None)


LATIN = score("arrow", ("a", "bb"), (1.0, 0.0), 0.9, 0.1)
CYRILLIC = score("лёд", ("ж", "шш"), (2.0, 0.0), 0.1, 0.9)


def test_ndcg_is_that_of_the_lists_of_a_script() -> None:
    """One perfect list; in the other the relevant passage is second: 1 / log2(3)."""
    slices, remarks = build_slices([LATIN, LATIN, CYRILLIC])
    second = 1 / np.log2(3)
    found = {(one.by, one.name): one for one in slices}
    assert found["all", "all lists"].ndcg_at_10 == pytest.approx((2 + second) / 3)
    latin, cyrillic = (found["script of the query", name] for name in ("Latin", "Cyrillic"))
    assert (latin.ndcg_at_10, latin.n_queries, latin.n_documents) == (1.0, 2, 4)
    assert (cyrillic.ndcg_at_10, cyrillic.n_queries) == (pytest.approx(second), 1)
    assert remarks == []


def test_lists_without_a_relevant_passage_have_no_ndcg() -> None:
    empty = score("bow", ("a", "bb"), (0.0, 0.0), 0.9, 0.1)
    assert build_slices([LATIN, empty])[0][0].ndcg_at_10 == 1.0
    slices, remarks = build_slices([empty])
    assert slices[0].ndcg_at_10 is None
    assert remarks == ["No list has a relevant passage: there is no nDCG."]


def test_labels_that_are_no_grades_give_no_ndcg() -> None:
    slices, remarks = build_slices([score("bow", ("a", "bb"), (0.5, 0.0), 0.9, 0.1)])
    assert slices[0].ndcg_at_10 is None
    assert "no grades" in remarks[0]


def test_missing_package_leaves_out_ndcg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytrec_eval", None)
    slices, remarks = build_slices([LATIN])
    assert slices[0].ndcg_at_10 is None
    assert 'pip install "fletching[evaluate]"' in remarks[0]


def test_ties_do_not_favour_passages_that_come_first() -> None:
    """All scores equal, the relevant passage always first: a model that knows nothing must not get 1."""
    lists = [
        score(f"bow {n}", tuple(f"{n} {place}" for place in range(8)), (1.0, *[0.0] * 7), *[0.5] * 8)
        for n in range(20)
    ]
    ndcg = build_slices(lists)[0][0].ndcg_at_10
    assert ndcg is not None
    assert ndcg < 0.8


def test_lengths_are_split_into_thirds() -> None:
    """Three passages of 1, 2 and 4 characters with scores -1, 0 and 1: sqrt(3/2) from the mean, or 0."""
    lists = [score("bow", ("a", "bb", "cccc"), (0.0, 0.0, 3.0), -1.0, 0.0, 1.0)]
    found = [one for one in build_slices(lists)[0] if one.by == "length of the passage"]
    assert [one.name.split(" ")[0] for one in found] == ["short", "medium", "long"]
    assert [one.mean_score for one in found] == pytest.approx([-(1.5**0.5), 0, 1.5**0.5])
    assert [one.mean_grade for one in found] == pytest.approx([-(0.5**0.5), -(0.5**0.5), 2**0.5])


def test_scripts_of_passages_are_compared_within_lists() -> None:
    mixed = score("bow", ("arrow", "стрела"), (1.0, 1.0), 0.9, 0.1)
    found = [one for one in build_slices([mixed])[0] if one.by == "script of the passage"]
    assert {one.name: one.mean_score for one in found} == pytest.approx({"Latin": 1.0, "Cyrillic": -1.0})
    assert not [one for one in build_slices([LATIN, CYRILLIC])[0] if one.by == "script of the passage"]
