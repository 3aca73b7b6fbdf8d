"""Training lists: read, checked line by line, cut to size."""

from __future__ import annotations

import gzip
import json
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from fletching.errors import DataError, bad_record

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankedList:
    """One query with labelled candidates.

    Args:
        query: The query.
        documents: Its candidates.
        labels: One number per candidate, higher is better: grades, or a teacher's scores.
        source: Where the list comes from, for results by source.
    """

    query: str
    documents: tuple[str, ...]
    labels: tuple[float, ...]
    source: str = ""


def read_lists(path: str | Path) -> Iterator[RankedList]:
    """Read lists from JSON lines, plain or gzipped.

    Two layouts: ours, ``{"query", "documents": [...], "labels": [...], "source"}``, and the authors'
    (``MVP-train``), ``{"query", "pos_idx", "ret": [{"text", "bm25_score"}, ...]}``, where the positive is put
    on top as their code does.

    Args:
        path: File ending in ``.jsonl`` or ``.jsonl.gz``.

    Yields:
        Lists in the file's order.

    Raises:
        DataError: If the file or a record is malformed; the text names file, line and field.
    """
    path = Path(path)
    if not path.is_file():
        raise bad_record(path, None, None, "an existing .jsonl or .jsonl.gz file", str(path))
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _parse_list(path, number, line)
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            raise DataError(f"{path}: not readable as UTF-8 JSON lines ({error}).") from error


def promote_positive(teacher_scores: Sequence[float], positive: int) -> list[float]:
    """Put the judged positive on top of its list.

    Unless it already is the maximum, its score becomes the maximum plus one.

    This is step 2 of the target construction in the reference code.

    Args:
        teacher_scores: The teacher's scores of one list.
        positive: Position of the positive.

    Returns:
        New scores.

    Example:
        >>> promote_positive([0.3, 0.9, 0.1, 0.5, 0.7], 3)
        [0.3, 0.9, 0.1, 1.9, 0.7]
    """
    promoted = list(teacher_scores)
    if promoted[positive] < max(promoted):
        promoted[positive] = max(promoted) + 1
    return promoted


def sample_list(ranked: RankedList, size: int, generator: random.Random) -> RankedList:
    """Cut a list to ``size`` candidates in random order: a best one and a random sample of the others.

    Args:
        ranked: The list.
        size: Candidates to keep, at least 2; shorter lists are kept whole.
        generator: Owner of the randomness.

    Returns:
        A new list; the first place holds the best one no more often than any other place.
    """
    order = list(range(len(ranked.documents)))
    generator.shuffle(order)
    best = max(order, key=lambda index: ranked.labels[index])
    order.remove(best)
    chosen = [best, *order[: size - 1]]
    generator.shuffle(chosen)
    return RankedList(
        ranked.query,
        tuple(ranked.documents[index] for index in chosen),
        tuple(ranked.labels[index] for index in chosen),
        ranked.source,
    )


def build_rows(
    paths: Sequence[str | Path], *, passages_per_list: int, seed: int, limit: int | None = None
) -> list[dict[str, Any]]:
    """Build the rows the trainer reads: one list of ``passages_per_list`` candidates per query, shuffled.

    Lists with one candidate, or with equal labels throughout, teach nothing and are dropped; the number is
    logged.

    Args:
        paths: Files of :func:`read_lists`.
        passages_per_list: Candidates per list.
        seed: Same seed, same rows, on every platform.
        limit: Lists to use after shuffling; ``None`` uses all.

    Returns:
        ``{"query": str, "documents": [str], "labels": [float]}`` per list.

    Raises:
        DataError: If a file is malformed, or nothing is left.
    """
    generator = random.Random(seed)
    lists = [ranked for path in paths for ranked in read_lists(path)]
    useful = [ranked for ranked in lists if len(set(ranked.labels)) > 1]
    if len(useful) < len(lists):
        logger.info("Dropped %d of %d lists without an order.", len(lists) - len(useful), len(lists))
    if not useful:
        raise DataError(
            f"MVP training data must hold lists with at least two different labels; got {len(lists)} lists."
        )
    generator.shuffle(useful)
    sampled = (sample_list(ranked, passages_per_list, generator) for ranked in useful[:limit])
    return [
        {"query": ranked.query, "documents": list(ranked.documents), "labels": list(ranked.labels)}
        for ranked in sampled
    ]


def hash_file(path: str | Path) -> str:
    """Hash a data file for the model card, SHA-256, first 16 hexadecimal digits."""
    digest = sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def _parse_list(path: Path, number: int, line: str) -> RankedList:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise bad_record(path, number, None, "a JSON object", line) from error
    if not isinstance(record, dict):
        raise bad_record(path, number, None, "a JSON object", record)
    query = record.get("query")
    if not isinstance(query, str) or not query.strip():
        raise bad_record(path, number, "query", "a non-empty string", query)
    documents, labels = (
        _parse_authors(path, number, record) if "ret" in record else _parse_ours(path, number, record)
    )
    return RankedList(query, documents, labels, str(record.get("source", path.stem)))


def _parse_ours(path: Path, number: int, record: dict[str, Any]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    documents, labels = record.get("documents"), record.get("labels")
    if (
        not isinstance(documents, list)
        or not documents
        or not all(isinstance(text, str) for text in documents)
    ):
        raise bad_record(path, number, "documents", "a non-empty list of strings", documents)
    if (
        not isinstance(labels, list)
        or len(labels) != len(documents)
        or not all(isinstance(label, (int, float)) for label in labels)
    ):
        raise bad_record(path, number, "labels", f"a list of {len(documents)} numbers", labels)
    return tuple(documents), tuple(map(float, labels))


def _parse_authors(
    path: Path, number: int, record: dict[str, Any]
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    candidates = record["ret"]
    try:
        documents = tuple(str(candidate["text"]) for candidate in candidates)
        scores = [float(candidate["bm25_score"]) for candidate in candidates]
    except (TypeError, KeyError, ValueError) as error:
        raise bad_record(path, number, "ret", "a list of {'text', 'bm25_score'}", candidates) from error
    first = (
        str(record.get("pos_idx", "")).replace(",", " ").split()
    )  # 1-based; several positives: the first one
    if not first or not first[0].isdigit() or not 1 <= int(first[0]) <= len(documents):
        raise bad_record(
            path, number, "pos_idx", f"a position from 1 to {len(documents)}", record.get("pos_idx")
        )
    return documents, tuple(promote_positive(scores, int(first[0]) - 1))
