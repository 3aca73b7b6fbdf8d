"""What the official files hold, to tell a whole copy from a part of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fletching.errors import DataError

if TYPE_CHECKING:
    from fletching.methods.multi_cpr.data import MultiCPRDataset

__all__ = ["OFFICIAL", "CountDifference", "DomainCounts", "SplitCounts", "compare_counts"]


@dataclass(frozen=True)
class SplitCounts:
    """What the files of one split hold.

    Args:
        queries: Rows of the queries, and of the judgements.
        query_ids: Lowest and highest query id.
        passage_ids: Lowest and highest id of a judged passage. ``ecom`` and ``video`` publish one range for
            both splits together: there, no id may lie outside.
        distinct_passages: Different judged passages; ``None`` where it is not known.
        mean_query_length: Characters, to two digits; ``None`` where it is not known.
    """

    queries: int
    query_ids: tuple[int, int]
    passage_ids: tuple[int, int]
    distinct_passages: int | None = None
    mean_query_length: float | None = None


@dataclass(frozen=True)
class DomainCounts:
    """What the files of one domain hold.

    Args:
        passages: In the whole collection.
        splits: By split.
        shared_range: Whether ``passage_ids`` is the range of both splits together.
    """

    passages: int
    splits: Mapping[str, SplitCounts]
    shared_range: bool


_ECOM_PASSAGES = (30, 1_002_818)  # measured on the files
_VIDEO_PASSAGES = (22, 1_745_187)  # measured on the files

# Passages: README of the reference and its benchmark card. The rest: measured on the files.
OFFICIAL: dict[str, DomainCounts] = {
    "ecom": DomainCounts(
        passages=1_002_822,
        splits={
            "train": SplitCounts(100_000, (1, 100_000), _ECOM_PASSAGES, distinct_passages=100_000),
            "dev": SplitCounts(1000, (200_000, 200_999), _ECOM_PASSAGES, mean_query_length=6.80),
        },
        shared_range=True,
    ),
    "video": DomainCounts(
        passages=1_000_000,
        splits={
            "train": SplitCounts(100_000, (6, 752_964), _VIDEO_PASSAGES, distinct_passages=93_406),
            "dev": SplitCounts(1000, (15, 752_847), _VIDEO_PASSAGES, mean_query_length=7.37),
        },
        shared_range=True,
    ),
    "medical": DomainCounts(
        passages=959_526,
        splits={
            "train": SplitCounts(99_999, (1, 99_999), (1, 959_524), distinct_passages=98_872),
            "dev": SplitCounts(1000, (1, 1000), (30_000_001, 30_001_000), mean_query_length=17.94),
        },
        shared_range=False,
    ),
}
"""The official files by domain."""


@dataclass(frozen=True)
class CountDifference:
    """A count that is not that of the official files.

    Args:
        subject: What was counted.
        expected: What the official files have.
        found: What is here; ``None`` if the files are missing.
    """

    subject: str
    expected: object
    found: object

    def __str__(self) -> str:
        return f"{self.subject}: expected {self.expected}, found {self.found}"


def compare_counts(dataset: MultiCPRDataset) -> list[CountDifference]:
    """Compare a data set with what the official files hold.

    Args:
        dataset: A split as it was read; parts and samples of it naturally differ.

    Returns:
        What differs, in a fixed order.
    """
    return [
        CountDifference(subject, expected, found)
        for subject, expected, found in _count(dataset)
        if expected != found
    ]


def _count(dataset: MultiCPRDataset) -> Iterator[tuple[str, object, object]]:
    domain = OFFICIAL[dataset.domain]
    official = domain.splits[dataset.split]
    positives = dataset.positives
    yield "queries", official.queries, len(dataset.queries)
    yield "judged queries", official.queries, len(positives)
    yield "range of the query ids", official.query_ids, _find_range([key.id for key in dataset.queries])
    found = _find_range(list(positives.values()))
    if domain.shared_range:
        low, high = official.passage_ids
        inside = found is not None and low <= found[0] and found[1] <= high
        yield "range of the judged ids", official.passage_ids, official.passage_ids if inside else found
    else:
        yield "range of the judged ids", official.passage_ids, found
    if official.distinct_passages is not None:
        yield "different judged passages", official.distinct_passages, len(set(positives.values()))
    if official.mean_query_length is not None:
        mean = sum(map(len, dataset.queries.values())) / len(dataset.queries)
        yield "mean length of a query in characters", official.mean_query_length, round(mean, 2)
    try:
        corpus = dataset.corpus
    except DataError:
        yield "passages", domain.passages, None
        return
    yield "passages", domain.passages, len(corpus)
    yield "judged passages that are missing", 0, sum(passage not in corpus for passage in positives.values())


def _find_range(ids: list[str]) -> tuple[int, int] | None:
    """Return the lowest and the highest id; ``None`` if one is no number."""
    if not all(key.isascii() and key.isdecimal() for key in ids):
        return None
    numbers = [int(key) for key in ids]
    return min(numbers), max(numbers)
