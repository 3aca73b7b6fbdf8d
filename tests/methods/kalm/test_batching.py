"""Semi-homogeneous batches: of one task to the ratio asked for, each row once, the same for the same seed."""

from __future__ import annotations

import pickle
from collections import Counter

import pytest
import torch

from fletching.errors import ArgumentError
from fletching.methods.kalm.batching import TaskBatching, TaskBatchSampler, build_task_batches

TASKS = ["a"] * 23 + ["b"] * 14 + ["c"] * 3
RATIOS = pytest.mark.parametrize("ratio", [0, 0.25, 0.5, 0.9, 1])


def build(ratio=1.0, *, tasks=TASKS, batch_size=4, n_processes=1, seed=0):
    return build_task_batches(
        tasks,
        batch_size=batch_size,
        homogeneous_ratio=ratio,
        n_processes=n_processes,
        generator=torch.Generator().manual_seed(seed),
    )


@RATIOS
@pytest.mark.parametrize("n_processes", [1, 2, 3])
def test_every_row_is_in_one_batch(ratio, n_processes):
    batches = build(ratio, n_processes=n_processes)
    assert sorted(row for batch in batches for row in batch) == list(range(40))
    assert [len(batch) for batch in batches] == [4] * 10


def test_whole_batches_of_each_task_come_first():
    """23 = 5 * 4 + 3, 14 = 3 * 4 + 2, and 3: eight batches of one task, 8 rows left for two mixed ones."""
    kinds = [frozenset(TASKS[row] for row in batch) for batch in build()]
    assert Counter(kind for kind in kinds if len(kind) == 1) == {frozenset("a"): 5, frozenset("b"): 3}
    assert sum(len(kind) > 1 for kind in kinds) == 2


def test_the_batch_that_is_not_whole_is_the_last():
    assert [len(batch) for batch in build(tasks=TASKS[:38])] == [4] * 9 + [2]


@pytest.mark.parametrize(("ratio", "kept"), [(1, 10), (0.9, 9), (0.75, 8), (0.5, 5), (0.25, 3), (0, 0)])
def test_the_ratio_is_kept_in_each_batch(ratio, kept):
    """Two tasks of 50 rows, batches of 10: floor(10 (1 - r)) rows leave each, the rest is of one task."""
    tasks = ["a"] * 50 + ["b"] * 50
    for batch in build(ratio, tasks=tasks, batch_size=10):
        most = max(Counter(tasks[row] for row in batch).values())
        assert most >= kept
        assert len(batch) == 10


def test_without_homogeneity_tasks_are_mixed_throughout():
    """With r = 0 a batch of 10 out of 50 + 50 rows has 5 of each on average, hardly ever one task alone."""
    tasks = ["a"] * 50 + ["b"] * 50
    shares = [sum(tasks[row] == "a" for row in batch) for batch in build(0, tasks=tasks, batch_size=10)]
    assert sum(shares) == 50
    assert all(0 < share < 10 for share in shares)


def test_devices_see_one_task_in_one_step():
    """Two devices of 4 rows: batches 0 and 1, 2 and 3, ... are of one task where they are whole."""
    tasks = ["a"] * 32 + ["b"] * 32
    batches = build(tasks=tasks, n_processes=2)
    steps = [batches[place] + batches[place + 1] for place in range(0, len(batches), 2)]
    assert all(len({tasks[row] for row in step}) == 1 for step in steps)


def test_the_seed_decides():
    assert build(0.5) == build(0.5) != build(0.5, seed=1)


def sampler_for(tasks=TASKS, **options):
    options = {"batch_size": 4, "drop_last": False, "seed": 3, **options}
    return TaskBatching(tasks, homogeneous_ratio=0.5)(range(len(tasks)), **options)


def test_epochs_differ_and_come_again():
    sampler = sampler_for()
    epochs = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    assert epochs[0] == epochs[2] != epochs[1]


@pytest.mark.parametrize(("rows", "drop_last", "batches"), [(38, False, 10), (38, True, 9), (40, True, 10)])
def test_the_length_is_the_number_of_batches(rows, drop_last, batches):
    sampler = sampler_for(TASKS[:rows], drop_last=drop_last)
    assert len(sampler) == len(list(sampler)) == batches


@pytest.mark.parametrize("n_processes", [2, 3])
@pytest.mark.parametrize("rows", [37, 38, 40])
def test_devices_share_an_epoch_without_losing_a_row(rows, n_processes):
    """As accelerate deals batches out for the trainer of sentence-transformers: without evening them up."""
    from accelerate.data_loader import BatchSamplerShard

    sampler = TaskBatchSampler(
        range(rows), batch_size=4, drop_last=False, tasks=TASKS[:rows], n_processes=n_processes
    )
    shards = [
        BatchSamplerShard(sampler, num_processes=n_processes, process_index=index, even_batches=False)
        for index in range(n_processes)
    ]
    seen = [row for shard in shards for batch in shard for row in batch]
    assert sorted(seen) == list(range(rows))


def test_a_batching_passes_the_epoch_on():
    batching = TaskBatching(TASKS)
    sampler = batching(range(40), batch_size=4, drop_last=False)
    batching.set_epoch(7)
    assert sampler.epoch == 7


def test_a_batching_can_be_saved_with_the_training_arguments():
    copied = pickle.loads(pickle.dumps(TaskBatching(TASKS, homogeneous_ratio=0.5)))
    assert (copied.tasks, copied.homogeneous_ratio) == (TASKS, 0.5)


def test_tasks_must_fit_the_data():
    with pytest.raises(ArgumentError, match="`tasks` must be one for each of the 39 rows; got '40 tasks'"):
        TaskBatching(TASKS)(range(39), batch_size=4, drop_last=False)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, "half"])
def test_a_ratio_outside_its_range_is_refused(ratio):
    with pytest.raises(ArgumentError, match="`homogeneous_ratio` must be from 0 to 1"):
        TaskBatching(TASKS, homogeneous_ratio=ratio)
