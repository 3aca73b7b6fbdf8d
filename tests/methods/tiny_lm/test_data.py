"""Files of text become documents."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from fletching.errors import ArgumentError, DataError
from fletching.methods.tiny_lm import read_documents


def test_fields_of_a_record_are_joined_in_the_order_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "papers.jsonl.gz"
    records = [
        {"_id": "1", "text": "It flies.", "title": "Arrows"},
        {"lemmas": ["bow", "longbow"], "definition": "a weapon", "examples": []},
    ]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    assert list(read_documents(path)) == ["Arrows\nIt flies.", "bow, longbow\na weapon"]
    assert list(read_documents(path, fields=["text", "definition"])) == ["It flies.", "a weapon"]


def test_tables_and_plain_text_are_read_beside_each_other(tmp_path: Path) -> None:
    table, plain = tmp_path / "a.tsv", tmp_path / "b.txt"
    table.write_text("word\ttext\nbow.n\tA bow bends.\nbow.n\t \n", encoding="utf-8")
    plain.write_text("An arrow flies.\n\nIt lands.\n", encoding="utf-8")
    assert list(read_documents(table, plain)) == ["A bow bends.", "An arrow flies.", "It lands."]


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "paper.pdf"
    path.write_bytes(b"%PDF")
    with pytest.raises(DataError, match=r"paper\.pdf.*\.jsonl, \.tsv, \.txt"):
        list(read_documents(path))


def test_a_file_without_the_fields_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cites.tsv"
    path.write_text("citing\tcited\na\tb\n", encoding="utf-8")
    with pytest.raises(DataError, match="text in the fields title"):
        list(read_documents(path, fields=["title"]))


def test_a_field_that_is_no_text_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "papers.jsonl"
    path.write_text('{"text": "a"}\n{"text": 3}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"2.*`?text`?.*string.*3"):
        list(read_documents(path))


def test_no_file_is_refused() -> None:
    with pytest.raises(ArgumentError, match="at least one file"):
        list(read_documents())
