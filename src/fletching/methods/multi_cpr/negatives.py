"""What the reranker is trained on: a positive among negatives of the query's own retrieved list."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from random import Random

from fletching.errors import bad_argument
from fletching.methods.multi_cpr.data import MultiCPRDataset, QueryKey

__all__ = ["format_candidates", "format_lists", "sample_group", "sample_pool"]


def sample_pool(ranked: Sequence[str], positive: str, *, size: int = 100, generator: Random) -> list[str]:
    """Draw the passages that a query's negatives come from.

    As the reference code: ``size + 1`` random passages of the retrieved list, of which the positive is
    dropped if it is among them.

    Args:
        ranked: Ids that a first stage returned for the query; the reference takes the first 1000.
        positive: Id of the passage that answers it.
        size: Most passages of a pool, >= 1. Reference code: 100.
        generator: Owner of the randomness.

    Returns:
        At most ``size`` different ids in the order of the list, without the positive.

    Example:
        >>> sample_pool(["a", "b", "c"], "b", generator=Random(0))
        ['a', 'c']
    """
    unique = list(dict.fromkeys(ranked))
    drawn = generator.sample(range(len(unique)), min(size + 1, len(unique)))
    kept = [place for place in drawn if unique[place] != positive][:size]
    return [unique[place] for place in sorted(kept)]


def sample_group(positive: str, pool: Sequence[str], *, size: int = 8, generator: Random) -> list[str]:
    """Draw a training group: the positive first, then negatives of the pool.

    The positive belongs to its group whether it was retrieved or not, and stands in it once. A pool of fewer
    than ``size - 1`` passages is drawn from with replacement, so that all groups have the same size.

    Args:
        positive: Id of the passage that answers the query.
        pool: Ids of its negatives, see :func:`sample_pool`; the positive is left out if it is among them.
        size: Passages of a group, >= 2. Reference script: 8.
        generator: Owner of the randomness.

    Returns:
        ``size`` ids.

    Raises:
        ArgumentError: If the pool holds no negative.

    Example:
        >>> sample_group("p", ["n"], size=4, generator=Random(0))
        ['p', 'n', 'n', 'n']
    """
    negatives = [passage for passage in pool if passage != positive]
    if not negatives:
        raise bad_argument("sample_group", "pool", "a list with a passage other than the positive", pool)
    if len(negatives) < size - 1:
        return [positive, *generator.choices(negatives, k=size - 1)]
    return [positive, *generator.sample(negatives, size - 1)]


def format_lists(
    dataset: MultiCPRDataset, pools: Mapping[QueryKey, Sequence[str]], *, size: int = 8, seed: int = 0
) -> Iterator[str]:
    """Write the lists that MVP is trained on: the positive on top, the rest as the first stage had it.

    Args:
        dataset: The training queries.
        pools: Query -> ids of its negatives, best first; a query without any is left out.
        size: Passages of a list.
        seed: Of the samples.

    Yields:
        Lines of JSON, ``{"query", "documents", "labels"}``.
    """
    for key, positive in dataset.positives.items():
        pool = pools.get(key)
        if pool:
            generator = Random(f"{seed} {key.id}")
            group = dict.fromkeys(sample_group(positive, pool, size=size, generator=generator))
            labels = [1.0 if passage == positive else -float(pool.index(passage)) for passage in group]
            yield _format_list(dataset, key, list(group), labels)


def format_candidates(
    dataset: MultiCPRDataset, candidates: Mapping[QueryKey, Sequence[str]]
) -> Iterator[str]:
    """Write candidates as lists to measure a reranker on; those without the positive are left out.

    Args:
        dataset: The queries.
        candidates: Query -> passage ids.

    Yields:
        Lines of JSON, ``{"query", "documents", "labels"}``, the label of the positive 1 and of others 0.
    """
    for key, positive in dataset.positives.items():
        ids = sorted(candidates.get(key, ()))
        if positive in ids and len(ids) > 1:
            yield _format_list(dataset, key, ids, [float(passage == positive) for passage in ids])


def _format_list(dataset: MultiCPRDataset, key: QueryKey, ids: Sequence[str], labels: Sequence[float]) -> str:
    documents = [dataset.corpus[passage] for passage in ids]
    record = {"query": dataset.queries[key], "documents": documents, "labels": labels}
    return json.dumps(record, ensure_ascii=False)
