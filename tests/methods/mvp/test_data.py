"""Training lists: both layouts, errors by line, sampling."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from fletching.data import CandidateList
from fletching.errors import DataError
from fletching.methods.mvp.data import build_rows, promote_positive, read_lists, sample_list

OURS = {"query": "q", "documents": ["a", "b", "c"], "labels": [0, 2, 1], "source": "toy"}
AUTHORS = {
    "query": "q",
    "pos_idx": "4, 2",
    "ret": [
        {"text": text, "bm25_score": score}
        for text, score in zip("abcde", [0.3, 0.9, 0.1, 0.5, 0.7], strict=True)
    ],
}


def write(path: Path, *records: Any) -> Path:
    text = "\n".join(record if isinstance(record, str) else json.dumps(record) for record in records)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["lists.jsonl", "lists.jsonl.gz"])
def test_our_layout_is_read(tmp_path: Path, name: str) -> None:
    assert list(read_lists(write(tmp_path / name, OURS))) == [
        CandidateList("q", ("a", "b", "c"), (0.0, 2.0, 1.0), source="toy")
    ]


def test_authors_layout_gets_the_first_positive_on_top(tmp_path: Path) -> None:
    """Section 2.4, toy: the positive (place 4, 1-based) is not the maximum, so it becomes 0.9 + 1."""
    (ranked,) = read_lists(write(tmp_path / "train.jsonl", AUTHORS))
    assert ranked.labels == (0.3, 0.9, 0.1, 1.9, 0.7)


def test_a_list_without_a_source_has_the_name_of_its_file(tmp_path: Path) -> None:
    records = [{name: value for name, value in OURS.items() if name != "source"}, AUTHORS]
    lists = read_lists(write(tmp_path / "lists.jsonl", *records))
    assert [ranked.source for ranked in lists] == ["lists", "lists"]


def test_a_positive_that_leads_keeps_its_score() -> None:
    assert promote_positive([0.1, 0.9], 1) == [0.1, 0.9]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{broken", ":2: the record must be a JSON object"),
        ([1], ":2: the record must be a JSON object"),
        ({**OURS, "query": " "}, ":2: `query`"),
        ({**OURS, "documents": []}, ":2: `documents`"),
        ({**OURS, "documents": ["a", None, "c"]}, ":2: `documents`"),
        ({**OURS, "labels": [1]}, ":2: `labels` must be a list of 3 numbers"),
        ({**OURS, "labels": ["x", 1, 2]}, ":2: `labels`"),
        ({**AUTHORS, "pos_idx": "9"}, ":2: `pos_idx` must be a position from 1 to 5"),
        ({**AUTHORS, "pos_idx": "\N{SUPERSCRIPT TWO}"}, ":2: `pos_idx` must be a position from 1 to 5"),
        ({**AUTHORS, "ret": [{"text": "a"}]}, ":2: `ret`"),
        ({**AUTHORS, "ret": [{"text": None, "bm25_score": 1.0}], "pos_idx": 1}, ":2: `documents"),
    ],
)
def test_malformed_records_name_file_line_and_field(tmp_path: Path, record: Any, message: str) -> None:
    path = write(tmp_path / "lists.jsonl", OURS, record)
    with pytest.raises(DataError, match=message) as caught:
        list(read_lists(path))
    assert str(path) in str(caught.value)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="existing"):
        list(read_lists(tmp_path / "nowhere.jsonl"))
    broken = tmp_path / "lists.jsonl.gz"
    broken.write_bytes(gzip.compress(json.dumps(OURS).encode())[:-9])
    with pytest.raises(DataError, match="must be a whole gzip file"):
        list(read_lists(broken))


def test_sample_keeps_a_best_one_anywhere() -> None:
    ranked = CandidateList("q", tuple("abcdefgh"), (0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 1.0))
    generator = random.Random(0)
    samples = [sample_list(ranked, 4, generator) for _ in range(200)]
    assert all(len(sample.documents) == 4 and max(sample.labels) == 5.0 for sample in samples)
    places = [sample.labels.index(5.0) for sample in samples]
    assert all(30 < places.count(place) < 70 for place in range(4))
    label_of = dict(zip(ranked.documents, ranked.labels, strict=True))
    for sample in samples:
        assert [label_of[document] for document in sample.documents] == list(sample.labels)


def test_rows_are_the_same_for_the_same_seed_and_drop_what_teaches_nothing(tmp_path: Path) -> None:
    lists = [{**OURS, "query": f"q{number}"} for number in range(9)]
    path = write(tmp_path / "lists.jsonl", *lists, {**OURS, "labels": [1, 1, 1]})
    rows = build_rows([path], passages_per_list=2, seed=3)
    assert rows == build_rows([path], passages_per_list=2, seed=3)
    assert rows != build_rows([path], passages_per_list=2, seed=4)
    assert sorted(row["query"] for row in rows) == [f"q{number}" for number in range(9)]
    assert len(build_rows([path], passages_per_list=2, seed=3, limit=4)) == 4


def test_data_without_any_order_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "lists.jsonl", {**OURS, "labels": [1, 1, 1]})
    with pytest.raises(DataError, match="at least two different labels; got 1 lists"):
        build_rows([path], passages_per_list=2, seed=0)
