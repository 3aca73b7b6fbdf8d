"""Reads passages and queries: BEIR's JSON lines, and tab-separated files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fletching.data.lines import StrPath, Words, no_records, read_json_id, read_json_lines, read_lines
from fletching.data.tables import simplify
from fletching.errors import bad_argument, bad_record

__all__ = ["Document", "read_corpus", "read_queries"]

Row = tuple[StrPath, int, str, str, str]  # file, line, id, title, text

_ID, _TITLE, _TEXT = "id", "title", "text"
# What header lines call the columns, as `simplify` leaves it.
ID_NAMES = {"id", "pid", "qid", "docid", "docno", "queryid", "corpusid", "passageid", "documentid"}
_TEXTS = {"text", "passage", "query", "contents", "content", "body", "question"}
_SUFFIXES = (".jsonl", ".tsv", ".txt")


@dataclass(frozen=True, slots=True)
class Document:
    """A passage of a collection.

    Args:
        id: Unique within the collection.
        text: What it says; may be empty.
        title: Its title; empty without one.
    """

    id: str
    text: str
    title: str = ""

    @property
    def full_text(self) -> str:
        """Title and text, with a space between them, as BEIR feeds them to a model."""
        return f"{self.title} {self.text}".strip()


def read_corpus(
    *paths: StrPath,
    columns: Sequence[str] | None = None,
    header: bool | None = None,
    unique: bool = True,
) -> Iterator[Document]:
    """Read a collection of passages, one at a time.

    ``.jsonl`` is BEIR's layout: ``_id`` (or ``id``), ``text`` and, if present, ``title``; other fields are
    left out. ``.tsv`` and ``.txt`` are tab-separated, without quoting: MS MARCO, Multi-CPR, and T2Ranking,
    which has a header line. All of them may be gzipped.

    Memory does not grow with the collection where ids count up (0, 1, 2, ...), as in MS MARCO and T2Ranking.
    Other ids are remembered, about 100 bytes each, to find those that repeat.

    Args:
        paths: The files, read one after another as one collection.
        columns: What the columns of a tab-separated file are: ``"id"``, ``"title"``, ``"text"``, any other
            name to leave a column out. The last one takes the rest of the line, tabs included. ``None``: as
            the header line says; without one, id and text.
        header: Whether the first line names the columns; ``None``: if it begins with ``id``, ``pid``,
            ``docid`` or the like.
        unique: Whether to look for ids that repeat.

    Yields:
        The passages in the files' order.

    Raises:
        DataError: If a file or a record is malformed, or an id repeats; the text names file and line.
    """
    seen = _SeenIds()
    for path, number, key, title, text in _read_texts("read_corpus", paths, columns, header):
        if unique and not seen.add(key):
            raise bad_record(path, number, "id", "unique", key)
        yield Document(key, text, title)


def read_queries(
    *paths: StrPath,
    columns: Sequence[str] | None = None,
    header: bool | None = None,
    allow_blank: bool = False,
) -> dict[str, str]:
    """Read queries in the layouts of `read_corpus`.

    Args:
        paths: The files, read one after another.
        columns: As in `read_corpus`.
        header: As in `read_corpus`.
        allow_blank: Whether to keep queries without text, which is an error otherwise.

    Returns:
        Query id -> text, in the files' order.

    Raises:
        DataError: If a file or a record is malformed, a query is blank or an id repeats.
    """
    queries: dict[str, str] = {}
    for path, number, key, _, text in _read_texts("read_queries", paths, columns, header):
        if key in queries:
            raise bad_record(path, number, "id", "unique", key)
        if not allow_blank and not text.strip():
            raise bad_record(path, number, "text", "a non-empty string", text)
        queries[key] = text
    return queries


class _SeenIds:
    """A set of ids that keeps a count in place of ids that count up."""

    def __init__(self) -> None:
        self.others: set[str] = set()
        self.start = self.stop = 0
        self.expected = ""

    def add(self, key: str) -> bool:
        """Add an id; return whether it is new."""
        if key == self.expected and key not in self.others:
            self.stop += 1
            self.expected = str(self.stop)
            return True
        is_number = key.isascii() and key.isdecimal() and len(key) < 19 and (key == "0" or key[0] != "0")
        if is_number and not self.expected:  # the first number
            self.start, self.stop = int(key), int(key) + 1
            self.expected = str(self.stop)
            return True
        if key in self.others or (is_number and self.start <= int(key) < self.stop):
            return False
        self.others.add(key)
        return True


def _read_texts(
    owner: str, paths: Sequence[StrPath], columns: Sequence[str] | None, header: bool | None
) -> Iterator[Row]:
    if not paths:
        raise bad_argument(owner, "paths", "at least one file", paths)
    if columns is not None and not {_ID, _TEXT} <= set(columns):
        raise bad_argument(owner, "columns", "names with 'id' and 'text' among them", columns)
    for path in paths:
        suffix = Path(str(path).removesuffix(".gz")).suffix
        if suffix == ".jsonl":
            yield from _read_json(path)
        elif suffix in _SUFFIXES:
            yield from _read_columns(path, columns, header)
        else:
            name = Path(path).name
            raise bad_record(path, None, None, f"one that ends in {', '.join(_SUFFIXES)} (or .gz)", name)


def _read_json(path: StrPath) -> Iterator[Row]:
    for number, record in read_json_lines(path):
        key = read_json_id(path, number, record, "_id", "id")
        title, text = record.get("title"), record.get("text")
        if not isinstance(text, str):
            raise bad_record(path, number, "text", "a string", text)
        if not isinstance(title, str | None):
            raise bad_record(path, number, "title", "a string", title)
        yield path, number, key, title or "", text


def _read_columns(path: StrPath, columns: Sequence[str] | None, header: bool | None) -> Iterator[Row]:
    lines = read_lines(path)
    number, line = next(lines)
    names = [simplify(name) for name in line.split("\t")]
    is_header = names[0] in ID_NAMES if header is None else header
    if columns is None:
        columns = _name_columns(path, number, names) if is_header else (_ID, _TEXT)
    size = len(columns)
    id_at, text_at = columns.index(_ID), columns.index(_TEXT)
    title_at = columns.index(_TITLE) if _TITLE in columns else None
    if not is_header:
        lines = _chain(number, line, lines)
    is_empty = True
    for number, line in lines:
        fields = line.split("\t", size - 1)
        if len(fields) != size:
            found = Words(f"{len(fields)}: {line[:40]!r}")
            raise bad_record(path, number, None, f"a row of {size} columns separated by tabs", found)
        key = fields[id_at]
        if not key or key.isspace():
            raise bad_record(path, number, "id", "a non-empty string", key)
        is_empty = False
        yield path, number, key, "" if title_at is None else fields[title_at], fields[text_at]
    if is_empty:
        raise no_records(path)


def _name_columns(path: StrPath, number: int, names: Sequence[str]) -> Sequence[str]:
    """Read the header line: the first column is the id, the second of two the text."""
    if len(names) == 2:
        return (_ID, _TEXT)
    known = [_TEXT if name in _TEXTS else name for name in names[1:]]
    if _TEXT not in known:
        options = Words(", ".join(names))
        raise bad_record(path, number, None, "a header with a column `text`", options, "Give `columns`.")
    return (_ID, *("" if name == _ID else name for name in known))


def _chain(number: int, line: str, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield number, line
    yield from lines
