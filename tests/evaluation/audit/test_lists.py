"""The lists that an audit works on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fletching.data import CandidateList, Document
from fletching.evaluation.audit.lists import (
    LONG_TEXT,
    build_lists,
    digest_lists,
    read_own_lists,
    sample_lists,
)
from fletching.evaluation.data_set import EvaluationSet
from fletching.text.scripts import find_script

SIZES = {"max_lists": 20, "max_documents": 20, "seed": 0}
PASSAGES = [Document(f"d{place}", f"text {place}", "title" if place == 1 else "") for place in range(400)]


def make_set(**changes: object) -> EvaluationSet:
    data = EvaluationSet(
        name="archery",
        queries={"q1": "bow", "q2": "arrow", "q3": "nobody judged it"},
        qrels={"q1": {"d1": 2, "d2": 0}, "q2": {"d3": 1}},
        open_corpus=lambda: iter(PASSAGES),
    )
    return replace(data, **changes)  # type: ignore[arg-type]


def test_own_lists_are_of_many_scripts_and_graded() -> None:
    lists = read_own_lists()
    assert {find_script(one.query) for one in lists} == {
        "Latin", "Han", "Japanese", "Devanagari", "Arabic", "Cyrillic",
    }  # fmt: skip
    for one in lists:
        assert len(set(one.documents)) == len(one.documents) >= 7
        assert max(one.labels) == 3
        assert min(one.labels) == 0
    assert digest_lists(lists) != digest_lists(lists[1:])


def test_long_text_has_2000_words() -> None:
    assert len(LONG_TEXT.split()) == 2000


def test_a_sample_keeps_the_order_and_says_what_it_leaves_out() -> None:
    lists = [CandidateList(f"q{place}", ("a", "b"), ()) for place in range(9)]
    lists.append(CandidateList("copies", ("a", "a"), ()))
    sample, remarks = sample_lists(lists, max_lists=3, max_documents=20, seed=1)
    assert sample == sorted(sample, key=lists.index)
    assert len(sample) == 3
    assert remarks == [
        "Left out, for want of a query or of two different passages: 1 of 10.",
        "Drawn: 3 of 9 lists.",
    ]
    assert sample_lists(lists, max_lists=3, max_documents=20, seed=1)[0] == sample
    assert sample_lists(lists, max_lists=3, max_documents=20, seed=2)[0] != sample


def test_a_shortened_list_keeps_its_best_passages() -> None:
    """Four of ten: two at most by label, the others drawn; texts, labels and ids stay side by side."""
    texts = tuple(map(str, range(10)))
    one = CandidateList("q", texts, (0, 0, 1, 0, 3, 0, 0, 0, 2, 0), document_ids=texts)
    (short,), remarks = sample_lists([one], max_lists=1, max_documents=4, seed=0)
    assert {"4", "8"} <= set(short.documents)
    assert list(short.documents) == sorted(short.documents)
    assert short.document_ids == short.documents
    assert short.labels == tuple(one.labels[int(text)] for text in short.documents)
    assert remarks == ["Lists were shortened to 4 passages, labelled ones first."]


def test_candidates_of_a_first_stage_are_the_lists() -> None:
    data = make_set(candidates={"q1": {"d9": 2.0, "d1": 1.0}})
    (one,) = build_lists(data, **SIZES)
    assert (one.query, one.documents, one.labels) == ("bow", ("text 9", "title text 1"), (0.0, 2.0))
    assert one.document_ids == ("d9", "d1")


def test_without_candidates_judged_passages_are_mixed_with_others() -> None:
    first, second = build_lists(make_set(), **SIZES)
    assert (first.query, second.query) == ("bow", "arrow")
    assert len(set(first.documents)) == len(set(second.documents)) == 20
    assert dict(zip(first.document_ids, first.labels, strict=True))["d1"] == 2
    assert sum(second.labels) == 1
    assert build_lists(make_set(), **SIZES) == [first, second]


def test_queries_are_drawn_before_the_corpus_is_read() -> None:
    assert len(build_lists(make_set(), **{**SIZES, "max_lists": 1})) == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_relevant_passages_do_not_always_come_first(seed: int) -> None:
    lists = build_lists(make_set(), **{**SIZES, "seed": seed})
    assert any(one.labels[0] == 0 for one in lists)
