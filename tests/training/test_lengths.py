"""Batches of texts of like length."""

from __future__ import annotations

import pytest
from datasets import Dataset
from sentence_transformers.base.sampler import BatchSamplers

from fletching.errors import ArgumentError
from fletching.training import LengthGroupedBatchSampler, choose_batch_sampler


def build_rows(n_rows: int) -> Dataset:
    """Rows whose two texts together are as long as the row's number, and one more."""
    texts = ["a" * (number // 2) for number in range(n_rows)]
    others = ["b" * (number - number // 2 + 1) for number in range(n_rows)]
    return Dataset.from_dict({"first": texts, "label": [0.0] * n_rows, "second": others})


def test_batches_hold_neighbours_in_length() -> None:
    """23 rows of lengths 1 to 23 fit into one pool: sorted from the longest, cut by four."""
    batches = list(LengthGroupedBatchSampler(build_rows(23), batch_size=4, drop_last=False))
    longest_first = list(range(22, -1, -1))
    assert sorted(batches, reverse=True) == [longest_first[start : start + 4] for start in range(0, 23, 4)]


def test_batches_come_in_random_order() -> None:
    batches = list(LengthGroupedBatchSampler(build_rows(40), batch_size=2, drop_last=False))
    assert batches != sorted(batches, reverse=True)
    assert batches != sorted(batches)


def test_each_row_is_read_once_an_epoch() -> None:
    sampler = LengthGroupedBatchSampler(build_rows(230), batch_size=2, drop_last=False)
    assert sorted(row for batch in sampler for row in batch) == list(range(230))
    assert len(list(sampler)) == len(sampler) == 115


def test_pools_are_drawn_at_random() -> None:
    """With 3 pools of 100 rows, a pool that holds neighbours only would have a spread of 100."""
    sampler = LengthGroupedBatchSampler(build_rows(300), batch_size=2, drop_last=False)
    spreads = [max(batch) - min(batch) for batch in sampler]
    assert max(spreads) > 1


def test_a_batch_that_is_not_full_is_dropped_when_asked() -> None:
    sampler = LengthGroupedBatchSampler(build_rows(23), batch_size=4, drop_last=True)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 5
    assert {len(batch) for batch in batches} == {4}


def test_epochs_differ_and_repeat() -> None:
    sampler = LengthGroupedBatchSampler(build_rows(300), batch_size=2, drop_last=False, seed=1)
    first, again = list(sampler), list(sampler)
    sampler.set_epoch(1)
    assert first == again
    assert list(sampler) != first


def test_rows_without_a_text_are_refused() -> None:
    with pytest.raises(ArgumentError, match="with a column of texts"):
        LengthGroupedBatchSampler(Dataset.from_dict({"label": [1.0]}), batch_size=4, drop_last=False)


def test_batches_are_drawn_at_random_unless_by_length() -> None:
    assert choose_batch_sampler(group_by_length=False) is BatchSamplers.BATCH_SAMPLER
    assert choose_batch_sampler(group_by_length=True) is LengthGroupedBatchSampler


def test_no_rows_are_refused() -> None:
    with pytest.raises(ArgumentError, match="`dataset` must be one of at least one row"):
        LengthGroupedBatchSampler(Dataset.from_dict({"text": []}), batch_size=4, drop_last=False)
