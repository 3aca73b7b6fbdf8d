"""The reranker's groups."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from fletching.errors import ArgumentError
from fletching.methods.multi_cpr import MultiCPRDataset, QueryKey
from fletching.methods.multi_cpr.negatives import (
    format_candidates,
    format_lists,
    sample_group,
    sample_pool,
)

RANKED = [f"p{number}" for number in range(1000)]


@pytest.mark.parametrize("positive", ["p3", "not retrieved"])
def test_6_group_holds_the_positive_once(positive: str) -> None:
    """Section 5, item 6: in its first place, whether it was retrieved or not."""
    for seed in range(200):
        generator = Random(seed)
        pool = sample_pool(RANKED[:120], positive, generator=generator)
        group = sample_group(positive, [*pool, positive], generator=generator)
        assert group[0] == positive
        assert group.count(positive) == 1
        assert len(set(group)) == 8


def test_6_few_negatives_are_drawn_with_replacement() -> None:
    """Section 5, item 6: fewer than 7 negatives still make a group of 8."""
    groups = [sample_group("p", ["a", "b", "p"], generator=Random(seed)) for seed in range(20)]
    assert all(len(group) == 8 and group.count("p") == 1 for group in groups)
    assert {passage for group in groups for passage in group[1:]} == {"a", "b"}


def test_exactly_enough_negatives_are_drawn_without_replacement() -> None:
    assert sorted(sample_group("p", list("abcdefg"), generator=Random(0))) == sorted("pabcdefg")


def test_a_pool_without_negatives_is_refused() -> None:
    with pytest.raises(ArgumentError, match="`pool` must be a list with a passage other than the positive"):
        sample_group("p", ["p"], generator=Random(0))


@pytest.mark.parametrize(("positive", "expected"), [("p3", 100), ("elsewhere", 100)])
def test_pool_has_a_hundred_random_passages(positive: str, expected: int) -> None:
    """101 are drawn of the list; without the positive at most 100 are left."""
    pool = sample_pool(RANKED, positive, generator=Random(1))
    assert len(pool) == len(set(pool)) == expected
    assert positive not in pool
    assert pool == [passage for passage in RANKED if passage in set(pool)]  # best first
    assert pool != sample_pool(RANKED, positive, generator=Random(2))


def test_pool_of_a_short_list_is_all_of_it() -> None:
    assert sample_pool(["a", "p", "b", "a"], "p", generator=Random(0)) == ["a", "b"]
    assert sample_pool(["p"], "p", generator=Random(0)) == []


def test_lists_put_the_positive_on_top_of_the_first_stages_order(root: Path) -> None:
    dataset = MultiCPRDataset(root, "ecom", "dev")
    first, second = list(dataset.qrels)[:2]
    others = [key for key in dataset.corpus if key not in dataset.positives.values()][:5]
    (line,) = format_lists(dataset, {first: others, second: []}, size=4)

    record = json.loads(line)
    labels = dict(zip(record["documents"], record["labels"], strict=True))
    assert record["query"] == dataset.queries[first]
    assert labels.pop(dataset.read_positive(first)) == 1.0
    assert len(labels) == 3
    assert labels.items() <= {dataset.corpus[key]: -float(place) for place, key in enumerate(others)}.items()


def test_candidates_without_the_positive_are_left_out(root: Path) -> None:
    dataset = MultiCPRDataset(root, "ecom", "dev")
    first, second = list(dataset.qrels)[:2]
    other = next(key for key in dataset.corpus if key not in dataset.positives.values())
    candidates: dict[QueryKey, list[str]] = {first: [other, dataset.positives[first]], second: [other]}
    (line,) = format_candidates(dataset, candidates)

    record = json.loads(line)
    labels = dict(zip(record["documents"], record["labels"], strict=True))
    assert labels == {dataset.corpus[other]: 0.0, dataset.read_positive(first): 1.0}
