"""Reads what 2DMSE and ESE are trained on: scored pairs, pairs, and triplets with a hard negative."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

from fletching.data import read_sts
from fletching.data.lines import StrPath, Words, parse_number, read_json_lines, read_lines
from fletching.data.tables import simplify
from fletching.errors import bad_argument, bad_record

__all__ = ["KINDS", "NLIRow", "TrainingRows", "build_nli_triplets", "read_nli", "read_rows"]

KINDS = {
    "scored": ("sentence1", "sentence2", "score"),
    "pairs": ("anchor", "positive"),
    "triplets": ("anchor", "positive", "negative"),
}
"""What rows may be, and the names of their columns, in the order that losses want."""

_OWNER = "read_rows"
_JSON, _TABLE = (".jsonl", ".json"), (".tsv", ".txt")
_SCORED, _NLI = KINDS["scored"], ("label", "premise", "hypothesis")
# What files call the columns, as `simplify` leaves it; a title and its abstract are a pair.
_NAMES = {
    **dict.fromkeys(["sentence1", "sentencea", "text1"], "sentence1"),
    **dict.fromkeys(["sentence2", "sentenceb", "text2"], "sentence2"),
    **dict.fromkeys(["score", "similarity", "similarityscore", "relatednessscore"], "score"),
    **dict.fromkeys(["anchor", "query", "question", "title"], "anchor"),
    **dict.fromkeys(["positive", "pos", "document", "answer", "abstract", "text"], "positive"),
    **dict.fromkeys(["negative", "neg", "hardnegative"], "negative"),
    **{name: name for name in _NLI},
}
_ENTAILED = ("entailment", "entailed", "entails", "0")
_CONTRADICTED = ("contradiction", "contradicts", "2")
_LABELS = (*_ENTAILED, "neutral", "1", *_CONTRADICTED)
_UNSURE = ("-", "-1")  # SNLI's: the annotators did not agree


@dataclass(frozen=True)
class TrainingRows:
    """Rows of one kind.

    Args:
        kind: One of `KINDS`.
        rows: Their values, in the order of the kind's columns.
    """

    kind: str
    rows: tuple[tuple[Any, ...], ...]

    def to_columns(self) -> dict[str, list[Any]]:
        """Return what a ``Dataset`` is made from: name of a column -> its values."""
        names = KINDS[self.kind]
        return {name: [row[place] for row in self.rows] for place, name in enumerate(names)}

    def take(self, limit: int | None, *, seed: int = 0) -> TrainingRows:
        """Draw some of the rows.

        Args:
            limit: How many at most; ``None`` keeps all.
            seed: Same seed, same rows.

        Returns:
            The rows, in their order.
        """
        if limit is None or limit >= len(self.rows):
            return self
        places = sorted(Random(seed).sample(range(len(self.rows)), limit))
        return TrainingRows(self.kind, tuple(self.rows[place] for place in places))

    def without_negatives(self) -> TrainingRows:
        """Make pairs of triplets, each once; other rows stay."""
        if self.kind != "triplets":
            return self
        return TrainingRows("pairs", tuple(dict.fromkeys(row[:2] for row in self.rows)))


@dataclass(frozen=True, slots=True)
class NLIRow:
    """A premise, a hypothesis, and what the one says of the other.

    Args:
        premise: What is said.
        hypothesis: What may follow from it.
        is_entailed: ``True`` if it follows, ``False`` if it cannot be, ``None`` if neither.
    """

    premise: str
    hypothesis: str
    is_entailed: bool | None


def read_rows(*paths: StrPath) -> TrainingRows:
    """Read rows from files of one kind, plain or gzipped.

    - Tab-separated, with a header: ``score, sentence1, sentence2`` (scored), ``label, premise, hypothesis``
      (triplets, see `build_nli_triplets`), or ``anchor, positive`` and perhaps ``negative`` in any order.
      Without a header: scored, as `read_sts` reads it.
    - JSON lines with fields of those names. A title and its abstract (or text) are a pair, as are query and
      document. Other fields are ignored, and so are papers without a title or an abstract.

    Args:
        paths: The files.

    Returns:
        The rows in the files' order.

    Raises:
        ArgumentError: If there is no file.
        DataError: If a file is missing, malformed or of another kind than the first.
    """
    if not paths:
        raise bad_argument(_OWNER, "paths", "at least one file", paths)
    found = [_read_file(path) for path in paths]
    for path, rows in zip(paths, found, strict=True):
        if rows.kind != found[0].kind:
            name = Path(paths[0]).name
            raise bad_record(path, None, None, f"one of {found[0].kind}, as {name} is", Words(rows.kind))
    return TrainingRows(found[0].kind, tuple(chain.from_iterable(rows.rows for rows in found)))


def read_nli(path: StrPath) -> Iterator[NLIRow]:
    """Read natural language inference from a tab-separated file with a header, or from JSON lines.

    Args:
        path: The file, with ``label``, ``premise`` and ``hypothesis``; labels are words, or 0, 1, 2 in the
            order of SNLI. Rows that its annotators did not agree about (``-``) are left out.

    Yields:
        The rows in the file's order.

    Raises:
        DataError: If the file or a row is malformed.
    """
    for number, record in _read_records(path):
        label = str(record.get("label")).strip().lower()
        if label in _UNSURE:
            continue
        if label not in _LABELS:
            raise bad_record(path, number, "label", f"one of {', '.join(_LABELS)}", record.get("label"))
        premise, hypothesis = (_read_text(path, number, record, name) for name in _NLI[1:])
        is_entailed = True if label in _ENTAILED else False if label in _CONTRADICTED else None
        yield NLIRow(premise, hypothesis, is_entailed)


def build_nli_triplets(rows: Iterable[NLIRow]) -> list[tuple[str, str, str]]:
    """Build triplets: a premise, what follows from it, and what contradicts it.

    Each entailed hypothesis makes one triplet; the contradictions of its premise take turns. A premise that
    lacks either makes none.

    Args:
        rows: The rows; those of one premise need not stand together.

    Returns:
        Triplets in the order of the premises.

    Example:
        >>> rows = [NLIRow("a", "b", True), NLIRow("a", "c", False), NLIRow("a", "d", None)]
        >>> build_nli_triplets(rows)
        [('a', 'b', 'c')]
    """
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for row in rows:
        if row.is_entailed is not None:
            sides = found.setdefault(row.premise, ({}, {}))
            sides[0 if row.is_entailed else 1][row.hypothesis] = None
    triplets = []
    for premise, (entailed, contradicted) in found.items():
        against = list(contradicted)
        for place, hypothesis in enumerate(entailed if against else ()):
            triplets.append((premise, hypothesis, against[place % len(against)]))
    return triplets


def _read_file(path: StrPath) -> TrainingRows:
    suffix = Path(str(path).removesuffix(".gz")).suffix
    if suffix not in (*_JSON, *_TABLE):
        domain = f"one that ends in {', '.join((*_JSON, *_TABLE))} (or .gz)"
        raise bad_record(path, None, None, domain, Path(path).name)
    names = _find_names(path)
    if set(_NLI) <= set(names):
        triplets = build_nli_triplets(read_nli(path))
        if not triplets:
            domain = "a file with a premise that has an entailment and a contradiction"
            raise bad_record(path, None, None, domain, Words("none"))
        return TrainingRows("triplets", tuple(triplets))
    if suffix in _TABLE and "anchor" not in names:
        return TrainingRows(
            "scored", tuple((pair.sentence1, pair.sentence2, pair.score) for pair in read_sts(path))
        )
    kind = next((kind for kind in ("triplets", "pairs", "scored") if set(KINDS[kind]) <= set(names)), None)
    if kind is None:
        columns = "; ".join(", ".join(columns) for columns in (*KINDS.values(), _NLI))
        found = Words(", ".join(filter(None, names)) or "none of them")
        raise bad_record(path, 1, None, f"a row with the fields of one kind ({columns})", found)
    rows = tuple(_parse_rows(path, kind))
    if not rows:
        raise bad_record(path, None, None, f"a file with at least one row of {kind}", Words("none"))
    return TrainingRows(kind, rows)


def _parse_rows(path: StrPath, kind: str) -> Iterator[tuple[Any, ...]]:
    for number, record in _read_records(path):
        if kind == "pairs" and not all(record.get(name) for name in KINDS[kind]):
            continue  # a paper without an abstract
        row: list[Any] = [_read_text(path, number, record, name) for name in KINDS[kind] if name != "score"]
        if kind == "scored":
            row.append(parse_number(path, number, "score", record.get("score")))
        yield tuple(row)


def _find_names(path: StrPath) -> Sequence[str | None]:
    """Name the columns of the first row or of the header line."""
    if _is_json(path):
        _, record = next(read_json_lines(path))
        return [_NAMES.get(simplify(name)) for name in record]
    _, line = next(read_lines(path))
    return [_NAMES.get(simplify(name)) for name in line.split("\t")]


def _read_records(path: StrPath) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a file with their fields under the names used here; of two, the first counts."""
    if _is_json(path):
        for number, record in read_json_lines(path):
            yield number, _rename(record.items())
        return
    lines = read_lines(path)
    _, header = next(lines)
    names = header.split("\t")
    for number, line in lines:
        values = line.split("\t")
        if len(values) < len(names):
            found = Words(f"{len(values)}: {line[:40]!r}")
            raise bad_record(path, number, None, f"a row of {len(names)} columns", found)
        yield number, _rename(zip(names, values, strict=False))


def _rename(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for name, value in fields:
        known = _NAMES.get(simplify(name))
        if known is not None:
            record.setdefault(known, value)
    return record


def _read_text(path: StrPath, number: int, record: dict[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise bad_record(path, number, name, "a non-empty string", value)
    return value


def _is_json(path: StrPath) -> bool:
    return Path(str(path).removesuffix(".gz")).suffix in _JSON
