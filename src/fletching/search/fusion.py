"""From several rankings to one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TypeVar

from fletching.errors import bad_argument

__all__ = ["fuse_rankings"]

K = TypeVar("K", bound=Hashable)


def fuse_rankings(rankings: Sequence[Sequence[K]], *, constant: float = 60.0) -> list[tuple[K, float]]:
    """Fuse rankings by their ranks alone, so that their scores need no common scale.

    Reciprocal rank fusion of Cormack, Clarke and Büttcher 2009 (SIGIR): an item scores the sum, over the
    rankings that hold it, of ``1 / (constant + rank)``, the first rank being 1.

    Args:
        rankings: Items of each ranking, best first; an item occurs at most once in each.
        constant: Softens the lead of the first ranks; not negative. Paper: 60.

    Returns:
        Every item with its score, best first; equal scores keep the order in which items are first seen,
        reading the rankings one after another.

    Raises:
        ArgumentError: If ``constant`` is negative.

    Example:
        >>> fuse_rankings([["a", "b"], ["b", "c"]], constant=0)
        [('b', 1.5), ('a', 1.0), ('c', 0.5)]
    """
    if not constant >= 0:
        raise bad_argument("fuse_rankings", "constant", "not negative", constant)
    scores: dict[K, float] = defaultdict(float)
    for ranking in rankings:
        for rank, item in enumerate(ranking, start=1):
            scores[item] += 1 / (constant + rank)
    return sorted(scores.items(), key=lambda pair: -pair[1])
