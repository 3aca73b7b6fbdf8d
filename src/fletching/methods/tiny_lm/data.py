"""From files of text to documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fletching.data.lines import StrPath, Words, read_json_lines, read_lines
from fletching.data.tables import read_table
from fletching.errors import bad_argument, bad_record

__all__ = ["FIELDS", "read_documents"]

FIELDS = ("title", "subject", "lemmas", "abstract", "definition", "text", "examples")
"""Fields that hold text, in the order in which they are written down."""

_SUFFIXES = (".jsonl", ".tsv", ".txt")


def read_documents(*paths: StrPath, fields: Sequence[str] = FIELDS) -> Iterator[str]:
    """Read plain text out of any mixture of files, one document at a time.

    ``.jsonl`` holds one document a line, an object whose fields are joined by line breaks; of a field that is
    a list of strings the items are joined by commas. ``.tsv`` has a header line and a row for each document.
    ``.txt`` has a document a line. All of them may be gzipped.

    Args:
        paths: The files, read one after another.
        fields: Fields or columns that hold text, in the order in which they are joined; others are left out.

    Yields:
        The documents that are not blank, in the files' order.

    Raises:
        ArgumentError: If there is no file.
        DataError: If a file is malformed, of another kind, or without any of the fields.
    """
    if not paths:
        raise bad_argument("read_documents", "paths", "at least one file", paths)
    for path in paths:
        suffix = Path(str(path).removesuffix(".gz")).suffix
        if suffix not in _SUFFIXES:
            expected = f"one that ends in {', '.join(_SUFFIXES)} (or .gz)"
            raise bad_record(path, None, None, expected, Path(path).name)
        found = False
        for document in _READERS[suffix](path, fields):
            if document and not document.isspace():
                found = True
                yield document
        if not found:
            raise bad_record(path, None, None, f"text in the fields {', '.join(fields)}", Words("none"))


def _read_json(path: StrPath, fields: Sequence[str]) -> Iterator[str]:
    for number, record in read_json_lines(path):
        parts = (_join(path, number, name, record.get(name)) for name in fields)
        yield "\n".join(part for part in parts if part)


def _join(path: StrPath, number: int, name: str, value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    if isinstance(value, str | None):
        return value or ""
    raise bad_record(path, number, name, "a string or a list of strings", value)


def _read_columns(path: StrPath, fields: Sequence[str]) -> Iterator[str]:
    for row in read_table(path):
        yield "\n".join(row[name] for name in fields if row.get(name))


def _read_plain(path: StrPath, fields: Sequence[str]) -> Iterator[str]:
    return (line for _, line in read_lines(path))


_READERS = dict(zip(_SUFFIXES, (_read_json, _read_columns, _read_plain), strict=True))
