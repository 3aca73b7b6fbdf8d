"""Rows whose negatives change from epoch to epoch."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fletching.errors import ArgumentError, DataError
from fletching.methods.t2ranking import StridedNegativeSampler, T2RankingDataset

TEXTS = {str(number): f"text {number}" for number in range(100)}
LIST = {"q": [str(number) for number in range(20)]}


def build(**options: Any) -> StridedNegativeSampler:
    settings: dict[str, Any] = {"n_negatives": 4, **options}
    return StridedNegativeSampler(LIST, {"q": "query"}, TEXTS, {"q": ["0", "3"]}, **settings)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(1, ["2", "7", "11", "15"]), (2, ["4", "8", "12", "16"]), (5, ["2", "7", "11", "15"])],
)
def test_3_negatives_are_those_of_the_stride(epoch: int, expected: list[str]) -> None:
    sampler = build()
    sampler.set_epoch(epoch)
    positive, negatives = sampler.sample_ids("q")
    assert negatives == expected
    assert positive in ("0", "3")


def test_3_positives_are_never_negatives() -> None:
    sampler = build(n_negatives=7)
    for epoch in range(10):
        sampler.set_epoch(epoch)
        assert not {"0", "3"} & set(sampler.sample_ids("q")[1])


def test_the_positive_is_drawn_evenly() -> None:
    """Of 400 draws of two, 200 are expected of each; 5 standard deviations are 50."""
    sampler = build()
    drawn: Counter[str] = Counter()
    for epoch in range(400):
        sampler.set_epoch(epoch)
        drawn[sampler.sample_ids("q")[0]] += 1
    assert set(drawn) == {"0", "3"}
    assert abs(drawn["0"] - 200) < 50


def test_the_same_seed_gives_the_same_rows() -> None:
    def collect(seed: int) -> list[object]:
        sampler = build(seed=seed, n_negatives=30)
        rows: list[object] = []
        for epoch in range(5):
            sampler.set_epoch(epoch)
            rows.append(sampler.sample_ids("q"))
        return rows

    assert collect(7) == collect(7)
    assert collect(7) != collect(8)


def test_the_window_is_counted_without_positives() -> None:
    """Ranks 0 to 3 of 1, 2, 4, 5, ... are left."""
    assert build(window=4).sample_ids("q")[1] == ["1", "2", "4", "5"]


def test_a_short_list_is_filled_with_random_passages() -> None:
    sampler = build(n_negatives=40)
    for epoch in range(5):
        sampler.set_epoch(epoch)
        negatives = sampler.sample_ids("q")[1]
        assert negatives[:18] == [key for key in LIST["q"] if key not in ("0", "3")]
        assert len(set(negatives)) == 40
        assert set(negatives) <= TEXTS.keys() - {"0", "3"}


def test_a_short_list_is_filled_from_a_collection_on_disk(collection: Path) -> None:
    dataset = T2RankingDataset(collection, "train")
    sampler = StridedNegativeSampler(
        dataset.negatives("bm25", 3), dataset.queries, dataset.corpus, dataset.positives, n_negatives=20
    )
    for query in sampler.query_ids:
        positive, negatives = sampler.sample_ids(query)
        assert all(passage in dataset.corpus for passage in negatives)
        assert len({positive, *negatives}) == 21


def test_a_collection_without_other_passages_is_refused() -> None:
    sampler = StridedNegativeSampler(
        {"q": ["b"]}, {"q": "?"}, {"a": "A", "b": "B"}, {"q": ["a"]}, n_negatives=3
    )
    with pytest.raises(DataError, match="must have 3 negatives; found no further passage at random"):
        sampler.sample_ids("q")


def test_queries_without_a_positive_make_no_row() -> None:
    lists = {"q": ["1", "2"], "r": ["1", "2"]}
    sampler = StridedNegativeSampler(lists, {"q": "x", "r": "y"}, TEXTS, {"q": ["5"], "r": []})
    assert sampler.query_ids == ["q"]
    assert len(sampler) == 1


def test_queries_of_the_list_define_the_training_set() -> None:
    """Both are judged, one is listed."""
    sampler = StridedNegativeSampler(LIST, {"q": "x", "r": "y"}, TEXTS, {"q": ["5"], "r": ["6"]})
    assert sampler.query_ids == ["q"]


def test_max_queries_takes_the_first() -> None:
    lists = ((key, ["1", "2"]) for key in "abc")
    queries = dict.fromkeys("abc", "?")
    sampler = StridedNegativeSampler(lists, queries, TEXTS, {key: ["5"] for key in "abc"}, max_queries=2)
    assert sampler.query_ids == ["a", "b"]


def test_a_dataset_follows_the_epoch() -> None:
    sampler = build(n_negatives=1)
    dataset = sampler.to_dataset()
    assert dataset.column_names == ["anchor", "positive", "negative_1"]
    seen = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        seen.append(dataset[0]["negative_1"])
    assert seen == ["text 1", "text 2", "text 4"]
    assert dataset[0]["anchor"] == "query"
    assert list(sampler) == [dataset[0]]


def test_ids_of_any_kind_come_back() -> None:
    ids = ["007", "7", "a b", "99999999999", "4294967296"]
    sampler = StridedNegativeSampler(
        {"q": ids}, {"q": "?"}, {**dict.fromkeys(ids, "x"), "p": "y"}, {"q": ["p"]}, n_negatives=5
    )
    assert sampler.sample_ids("q") == ("p", ids)


def test_a_pickled_sampler_goes_on() -> None:
    """As it does in the workers of a data loader."""
    sampler = build(n_negatives=30)
    sampler.set_epoch(3)
    assert pickle.loads(pickle.dumps(sampler)).sample_ids("q") == sampler.sample_ids("q")


def test_a_passage_that_is_not_there_is_named() -> None:
    sampler = StridedNegativeSampler({"q": ["1"]}, {"q": "?"}, {"5": "x"}, {"q": ["5"]})
    with pytest.raises(DataError, match="passage '1' of query 'q' must be in the corpus"):
        list(sampler)


def test_a_query_without_text_is_named() -> None:
    with pytest.raises(DataError, match="query 'q' of the list must have a text"):
        StridedNegativeSampler(LIST, {}, TEXTS, {"q": ["5"]})


@pytest.mark.parametrize("name", ["n_negatives", "window", "max_queries"])
def test_bad_numbers_are_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"`{name}` must be a positive integer; got 0"):
        build(**{name: 0})


def test_lists_without_any_positive_are_refused() -> None:
    with pytest.raises(ArgumentError, match="at least one query that has a relevant passage"):
        StridedNegativeSampler(LIST, {"q": "?"}, TEXTS, {})
