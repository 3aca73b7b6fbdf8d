"""Reads candidate lists: one query with labelled candidates a line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fletching.data.lines import StrPath, parse_number, read_json_id, read_json_lines
from fletching.errors import bad_record

__all__ = ["CandidateList", "parse_list", "read_lists"]

_LABELS = ("label", "grade", "relevance", "score")
_QUERY_IDS = ("query_id", "qid", "_id", "id")
_POSITIVES, _NEGATIVES = ("positives", "pos"), ("negatives", "neg")


@dataclass(frozen=True)
class CandidateList:
    """One query with labelled candidates.

    Args:
        query: The query.
        documents: Its candidates, in the file's order.
        labels: One number per candidate, higher is better: grades, or a teacher's scores.
        query_id: The query's id; empty without one.
        document_ids: One id per candidate; empty unless each has one.
        source: Where the list comes from; empty without one.
    """

    query: str
    documents: tuple[str, ...]
    labels: tuple[float, ...]
    query_id: str = ""
    document_ids: tuple[str, ...] = ()
    source: str = ""


def read_lists(path: StrPath, *, label: str | None = None) -> Iterator[CandidateList]:
    """Read candidate lists from JSON lines, plain or gzipped, one at a time.

    Each object has ``query`` and one of

    - ``documents`` and ``labels``, side by side
    - ``candidates``: objects with ``text``, a label and, if present, ``id``
    - ``positives`` and ``negatives`` (or ``pos`` and ``neg``): texts, labelled 1 and 0

    Args:
        path: The file.
        label: Field of a candidate that holds its label, such as ``"teacher_score"``; ``None`` takes the
            first of ``label``, ``grade``, ``relevance`` and ``score`` that it has.

    Yields:
        The lists in the file's order.

    Raises:
        DataError: If the file or a record is malformed; the text names file, line and field.
    """
    for number, record in read_json_lines(path):
        yield parse_list(path, number, record, label=label)


def parse_list(
    path: StrPath, number: int, record: dict[str, Any], *, label: str | None = None
) -> CandidateList:
    """Read one of the objects of `read_lists`; for readers that know further layouts.

    Args:
        path: The file, for errors.
        number: The line, for errors.
        record: The object.
        label: As in `read_lists`.

    Returns:
        The list.

    Raises:
        DataError: If the record is malformed; the text names file, line and field.
    """
    query = _check_text(path, number, "query", record.get("query"))
    ids: tuple[str, ...] = ()
    if "candidates" in record:
        documents, labels, ids = _parse_candidates(path, number, record["candidates"], label)
    elif "documents" in record:
        documents, labels = _parse_columns(path, number, record)
    else:
        documents, labels = _parse_positives(path, number, record)
    has_id = any(key in record for key in _QUERY_IDS)
    query_id = read_json_id(path, number, record, *_QUERY_IDS) if has_id else ""
    return CandidateList(query, documents, labels, query_id, ids, str(record.get("source") or ""))


def _parse_columns(
    path: StrPath, number: int, record: dict[str, Any]
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    documents, labels = record["documents"], record.get("labels")
    if not isinstance(documents, list) or not documents:
        raise bad_record(path, number, "documents", "a non-empty list of strings", documents)
    if not isinstance(labels, list) or len(labels) != len(documents):
        raise bad_record(path, number, "labels", f"a list of {len(documents)} numbers", labels)
    return (
        tuple(_check_string(path, number, "documents", text) for text in documents),
        tuple(parse_number(path, number, "labels", value) for value in labels),
    )


def _parse_candidates(
    path: StrPath, number: int, candidates: object, label: str | None
) -> tuple[tuple[str, ...], tuple[float, ...], tuple[str, ...]]:
    if (
        not isinstance(candidates, list)
        or not candidates
        or not all(isinstance(candidate, dict) for candidate in candidates)
    ):
        raise bad_record(path, number, "candidates", "a non-empty list of objects", candidates)
    documents, labels, ids = [], [], []
    for candidate in candidates:
        key = label or next((key for key in _LABELS if key in candidate), _LABELS[0])
        documents.append(_check_string(path, number, "text", candidate.get("text")))
        labels.append(parse_number(path, number, key, candidate.get(key)))
        if "id" in candidate:
            ids.append(read_json_id(path, number, candidate, "id"))
    if len(set(ids)) < len(ids):
        raise bad_record(path, number, "candidates", "objects with different ids", ids)
    return tuple(documents), tuple(labels), tuple(ids) if len(ids) == len(documents) else ()


def _parse_positives(
    path: StrPath, number: int, record: dict[str, Any]
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    documents: list[str] = []
    labels: list[float] = []
    for keys, value in ((_POSITIVES, 1.0), (_NEGATIVES, 0.0)):
        key = next((key for key in keys if key in record), keys[0])
        texts = record.get(key, [] if documents else None)  # negatives may be absent
        if not isinstance(texts, list) or (not texts and not documents):
            domain = "a non-empty list of strings" if not documents else "a list of strings"
            raise bad_record(path, number, key, domain, texts, "Or give `documents` or `candidates`.")
        documents += [_check_string(path, number, key, text) for text in texts]
        labels += [value] * len(texts)
    return tuple(documents), tuple(labels)


def _check_string(path: StrPath, number: int, field: str, value: object) -> str:
    if not isinstance(value, str):
        raise bad_record(path, number, field, "a string", value)
    return value


def _check_text(path: StrPath, number: int, field: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise bad_record(path, number, field, "a non-empty string", value)
    return value
