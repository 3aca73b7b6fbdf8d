"""Training lists: read, checked line by line, cut to size."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fletching.data import CandidateList
from fletching.data.lines import read_json_lines
from fletching.data.lists import parse_list
from fletching.errors import DataError, bad_record

logger = logging.getLogger(__name__)


def read_lists(path: str | Path) -> Iterator[CandidateList]:
    """Read lists from JSON lines, plain or gzipped.

    The layouts of `fletching.data.read_lists`, and the authors' (``MVP-train``): ``{"query", "pos_idx",
    "ret": [{"text", "bm25_score"}, ...]}``, where the positive is put on top as their code does.

    Args:
        path: The file.

    Yields:
        Lists in the file's order; one without a source has the file's name.

    Raises:
        DataError: If the file or a record is malformed; the text names file, line and field.
    """
    path = Path(path)
    for number, record in read_json_lines(path):
        if "ret" in record:
            documents, labels = _parse_authors(path, number, record)
            kept = {name: record.get(name) for name in ("query", "source")}
            record = {**kept, "documents": documents, "labels": labels}
        ranked = parse_list(path, number, record)
        yield ranked if ranked.source else replace(ranked, source=path.stem)


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


def sample_list(ranked: CandidateList, size: int, generator: random.Random) -> CandidateList:
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
    return CandidateList(
        ranked.query,
        tuple(ranked.documents[index] for index in chosen),
        tuple(ranked.labels[index] for index in chosen),
        source=ranked.source,
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


def _parse_authors(path: Path, number: int, record: dict[str, Any]) -> tuple[list[str], list[float]]:
    candidates = record["ret"]
    try:
        documents = [candidate["text"] for candidate in candidates]  # `parse_list` checks them
        scores = [float(candidate["bm25_score"]) for candidate in candidates]
    except (TypeError, KeyError, ValueError) as error:
        raise bad_record(path, number, "ret", "a list of {'text', 'bm25_score'}", candidates) from error
    # 1-based; several positives: the first one
    first = str(record.get("pos_idx", "")).replace(",", " ").split()
    if not first or not first[0].isdecimal() or not 1 <= int(first[0]) <= len(documents):
        raise bad_record(
            path, number, "pos_idx", f"a position from 1 to {len(documents)}", record.get("pos_idx")
        )
    return documents, promote_positive(scores, int(first[0]) - 1)
