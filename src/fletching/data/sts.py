"""Reads sentence pairs with a similarity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fletching.data.lines import StrPath, Words, no_records, parse_number, read_lines
from fletching.data.tables import simplify
from fletching.errors import bad_argument, bad_record

__all__ = ["SentencePair", "read_sts"]

_COLUMNS = ("score", "sentence1", "sentence2")
# What header lines call them, as `simplify` leaves it.
_NAMES = {
    **dict.fromkeys(["score", "similarity", "similarityscore", "relatednessscore", "label"], "score"),
    **dict.fromkeys(["sentence1", "sentencea", "text1"], "sentence1"),
    **dict.fromkeys(["sentence2", "sentenceb", "text2"], "sentence2"),
}


@dataclass(frozen=True, slots=True)
class SentencePair:
    """Two sentences and how similar people found them.

    Args:
        sentence1: One sentence.
        sentence2: The other one.
        score: The similarity, on the file's own scale.
    """

    sentence1: str
    sentence2: str
    score: float


def read_sts(path: StrPath, *, columns: Sequence[str] | None = None) -> Iterator[SentencePair]:
    """Read a tab-separated file of sentence pairs, plain or gzipped, without quoting.

    Args:
        path: The file.
        columns: What the columns are: ``"score"``, ``"sentence1"``, ``"sentence2"``, any other name to leave
            a column out; columns behind the last one named are left out, too. ``None``: as the header line
            says; without one, score, sentence1, sentence2.

    Yields:
        The pairs in the file's order.

    Raises:
        ArgumentError: If ``columns`` lacks one of the three.
        DataError: If the file or a record is malformed, a sentence is blank or a score is no finite number.
    """
    if columns is not None and not set(_COLUMNS) <= set(columns):
        raise bad_argument("read_sts", "columns", f"names with {', '.join(_COLUMNS)} among them", columns)
    places: list[int] = []
    is_empty = True
    for number, line in read_lines(path):
        fields = line.split("\t")
        if not places:
            names = [_NAMES.get(simplify(field)) for field in fields]
            is_header = set(_COLUMNS) <= set(names)
            order = columns or (names if is_header else _COLUMNS)
            places = [order.index(name) for name in _COLUMNS]
            if is_header:
                continue
        if len(fields) <= max(places):
            found = Words(f"{len(fields)}: {line[:40]!r}")
            raise bad_record(path, number, None, f"a row of at least {max(places) + 1} columns", found)
        score, first, second = (fields[place] for place in places)
        for name, sentence in zip(_COLUMNS[1:], (first, second), strict=True):
            if not sentence or sentence.isspace():
                raise bad_record(path, number, name, "a non-empty string", sentence)
        is_empty = False
        yield SentencePair(first, second, parse_number(path, number, "score", score))
    if is_empty:
        raise no_records(path)
