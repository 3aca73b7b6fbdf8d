from __future__ import annotations

import re
from pathlib import Path

import pytest

from fletching.data import read_table
from fletching.data.tables import simplify
from fletching.errors import DataError


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_table_is_read_by_the_names_of_its_header(tmp_path: Path) -> None:
    path = write(tmp_path / "wikiqa.tsv", "qid\tquestion\tlabel", 'Q1\tsaid "what\t0', "Q1\t\t1")

    assert list(read_table(path)) == [
        {"qid": "Q1", "question": 'said "what', "label": "0"},
        {"qid": "Q1", "question": "", "label": "1"},
    ]


def test_missing_column_is_named(tmp_path: Path) -> None:
    message = "wikiqa.tsv:1: the record must be a header with sentence; got qid, label."
    with pytest.raises(DataError, match=re.escape(message)):
        next(read_table(write(tmp_path / "wikiqa.tsv", "qid\tlabel", "Q1\t0"), columns=["qid", "sentence"]))


def test_column_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be a header with different names; got qid, qid"):
        next(read_table(write(tmp_path / "wikiqa.tsv", "qid\tqid", "Q1\t0")))


def test_row_of_another_length_is_named(tmp_path: Path) -> None:
    message = "table.tsv:3: the record must be a row of 2 columns, as the header has; got 1: 'b'."
    with pytest.raises(DataError, match=re.escape(message)):
        list(read_table(write(tmp_path / "table.tsv", "x\ty", "a\tb", "b")))


def test_table_with_only_a_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one record"):
        list(read_table(write(tmp_path / "table.tsv", "x\ty")))


@pytest.mark.parametrize("name", ["Query-ID", "query_id", "queryid", "Query Id"])
def test_spellings_of_a_name_are_taken_for_one(name: str) -> None:
    assert simplify(name) == "queryid"
