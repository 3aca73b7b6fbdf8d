from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fletching.data import CandidateList, read_lists
from fletching.errors import DataError


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return path


def test_documents_with_labels_are_read(tmp_path: Path) -> None:
    record = {"query": "q", "documents": ["a", "b"], "labels": [2, 0.5], "source": "wikiqa"}

    assert list(read_lists(write(tmp_path / "lists.jsonl", record))) == [
        CandidateList("q", ("a", "b"), (2.0, 0.5), source="wikiqa")
    ]


def test_candidates_with_grades_are_read(tmp_path: Path) -> None:
    candidates = [{"id": "d1", "text": "a", "grade": 4, "url": "x"}, {"id": 2, "text": "b", "grade": 1}]
    path = write(tmp_path / "lists.jsonl", {"qid": "val2", "query": "q", "candidates": candidates})

    assert list(read_lists(path)) == [CandidateList("q", ("a", "b"), (4.0, 1.0), "val2", ("d1", "2"))]


def test_label_is_the_field_that_was_asked_for(tmp_path: Path) -> None:
    candidates = [{"text": "a", "label": 1, "teacher_score": 0.75}]
    path = write(tmp_path / "lists.jsonl", {"query": "q", "candidates": candidates})

    assert next(read_lists(path, label="teacher_score")).labels == (0.75,)


@pytest.mark.parametrize(("positives", "negatives"), [("positives", "negatives"), ("pos", "neg")])
def test_positives_and_negatives_are_read(tmp_path: Path, positives: str, negatives: str) -> None:
    path = write(tmp_path / "lists.jsonl", {"query": "q", positives: ["a"], negatives: ["b", "c"]})

    assert list(read_lists(path)) == [CandidateList("q", ("a", "b", "c"), (1.0, 0.0, 0.0))]


def test_negatives_may_be_absent(tmp_path: Path) -> None:
    assert next(read_lists(write(tmp_path / "lists.jsonl", {"query": "q", "pos": ["a"]}))).labels == (1.0,)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"documents": ["a"], "labels": [1]}, "`query` must be a non-empty string; got None"),
        ({"query": "q"}, "`positives` must be a non-empty list of strings; got None"),
        ({"query": "q", "pos": []}, "`pos` must be a non-empty list of strings; got []"),
        ({"query": "q", "pos": ["a"], "neg": "b"}, "`neg` must be a list of strings; got 'b'"),
        (
            {"query": "q", "documents": [], "labels": []},
            "`documents` must be a non-empty list of strings; got []",
        ),
        ({"query": "q", "documents": [1], "labels": [1]}, "`documents` must be a string; got 1"),
        (
            {"query": "q", "documents": ["a"], "labels": [1, 2]},
            "`labels` must be a list of 1 numbers; got [1, 2]",
        ),
        ({"query": "q", "documents": ["a"], "labels": [None]}, "`labels` must be a finite number; got None"),
        (
            {"query": "q", "documents": ["a"], "labels": [float("nan")]},
            "`labels` must be a finite number; got nan",
        ),
        ({"query": "q", "candidates": ["a"]}, "`candidates` must be a non-empty list of objects; got ['a']"),
        ({"query": "q", "candidates": [{"label": 1}]}, "`text` must be a string; got None"),
        ({"query": "q", "candidates": [{"text": "a"}]}, "`label` must be a finite number; got None"),
        (
            {"query": "q", "candidates": [{"id": "d", "text": "a", "label": 1}] * 2},
            "`candidates` must be objects with different ids; got ['d', 'd']",
        ),
    ],
)
def test_malformed_list_is_named(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "lists.jsonl", {"query": "q", "pos": ["a"]}, record)

    with pytest.raises(DataError, match=re.escape(f"lists.jsonl:2: {message}.")):
        list(read_lists(path))
