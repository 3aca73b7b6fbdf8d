"""Batches from one task each, or nearly so."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

import torch
from sentence_transformers.base.sampler import DefaultBatchSampler

from fletching.errors import bad_argument
from fletching.methods.kalm.config import check_share
from fletching.models.inputs import check_positive
from fletching.training import count_processes

__all__ = ["TaskBatchSampler", "TaskBatching", "build_task_batches"]


def build_task_batches(
    tasks: Sequence[str],
    *,
    batch_size: int,
    homogeneous_ratio: float = 1.0,
    n_processes: int = 1,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Divide rows into batches that come from one task, or to a share.

    Semi-homogeneous task batching of KaLM-Embedding (arXiv 2506.20923), as in the reference code: whole
    batches of each task first, what is left over goes into mixed ones; then each batch gives up its last
    ``floor(B (1 - r))`` rows, which are shuffled and put back. B counts the rows of all devices: they see one
    task in one step, since their negatives are shared. The one batch that is not whole comes last.

    Args:
        tasks: The task of each row.
        batch_size: Rows of a batch on one device.
        homogeneous_ratio: r from 0 to 1: 1 keeps tasks apart as far as they fill batches, 0 mixes all.
        n_processes: Devices; their batches of one step stand side by side.
        generator: Decides what is drawn; ``None`` takes torch's own.

    Returns:
        Batches of row numbers; each row is in one.

    Raises:
        ArgumentError: If a number is outside its domain.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> batches = build_task_batches(["a", "b", "a", "b"], batch_size=2, generator=generator)
        >>> sorted(sorted(batch) for batch in batches)
        [[0, 2], [1, 3]]
    """
    _check("build_task_batches", batch_size, n_processes, homogeneous_ratio)
    total = batch_size * n_processes
    by_task: dict[str, list[int]] = {task: [] for task in dict.fromkeys(tasks)}
    for row in _shuffle(range(len(tasks)), generator):
        by_task[tasks[row]].append(row)
    batches: list[list[int]] = []
    left_over: list[int] = []
    for rows in by_task.values():
        whole = len(rows) - len(rows) % total
        batches += [rows[start : start + total] for start in range(0, whole, total)]
        left_over += rows[whole:]
    left_over = _shuffle(left_over, generator)
    batches += [left_over[start : start + total] for start in range(0, len(left_over), total)]
    batches = _mix(batches, 1 - homogeneous_ratio, generator)
    last = [batches.pop()] if batches and len(batches[-1]) < total else []
    ordered = [batches[place] for place in _shuffle(range(len(batches)), generator)] + last
    return [
        batch[start : start + batch_size] for batch in ordered for start in range(0, len(batch), batch_size)
    ]


class TaskBatchSampler(DefaultBatchSampler):
    """The batches of `build_task_batches` for a trainer of sentence-transformers, other ones in each epoch.

    Batches depend on seed and epoch only: a run that goes on from a checkpoint sees those it would have seen.
    Give the trainer a `TaskBatching`, which makes this sampler.

    Args:
        dataset: Of as many rows as there are tasks.
        batch_size: Rows of a batch on one device.
        drop_last: Whether the batch that is not whole is left out.
        valid_label_columns: Not used.
        generator: Not used: see ``seed``.
        seed: Same seed, same batches, on every platform.
        tasks: The task of each row.
        homogeneous_ratio: As for `build_task_batches`.
        n_processes: Likewise; ``None`` reads it off the environment, as torchrun and accelerate set it.

    Raises:
        ArgumentError: If there are not as many tasks as rows, or a number is outside its domain.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: list[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
        *,
        tasks: Sequence[str],
        homogeneous_ratio: float = 1.0,
        n_processes: int | None = None,
    ) -> None:
        super().__init__(dataset, batch_size, drop_last, valid_label_columns, generator, seed)
        if len(tasks) != len(dataset):
            domain = f"one for each of the {len(dataset)} rows"
            raise bad_argument("TaskBatchSampler", "tasks", domain, f"{len(tasks)} tasks")
        n_processes = count_processes() if n_processes is None else n_processes
        _check("TaskBatchSampler", batch_size, n_processes, homogeneous_ratio)
        self.tasks = tasks
        self.homogeneous_ratio = homogeneous_ratio
        self.n_processes = n_processes
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of batches of an epoch, over all devices."""
        if self.drop_last:
            return len(self.tasks) // self.batch_size
        return math.ceil(len(self.tasks) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of the current epoch."""
        digest = blake2b(f"{self.seed}/{self.epoch}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        for batch in build_task_batches(
            self.tasks,
            batch_size=self.batch_size,
            homogeneous_ratio=self.homogeneous_ratio,
            n_processes=self.n_processes,
            generator=generator,
        ):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins.

        Args:
            epoch: From 0.
        """
        self.epoch = int(epoch)


class TaskBatching:
    """What ``batch_sampler=`` of the training arguments takes, to make a `TaskBatchSampler`.

    Give ``EpochCallback(batching)`` to the trainer where it may go on from a checkpoint on several devices:
    accelerate does not pass the epoch through to the sampler there.

    Args:
        tasks: The task of each row of the training data.
        homogeneous_ratio: As for `build_task_batches`.

    Raises:
        ArgumentError: If the ratio is not from 0 to 1.

    Example:
        >>> sampler = TaskBatching(["a", "b", "a"])(range(3), batch_size=2, drop_last=False)
        >>> [sorted(batch) for batch in sampler]
        [[0, 2], [1]]
    """

    def __init__(self, tasks: Sequence[str], *, homogeneous_ratio: float = 1.0) -> None:
        check_share("TaskBatching", "homogeneous_ratio", homogeneous_ratio)
        self.tasks = tasks
        self.homogeneous_ratio = homogeneous_ratio
        self._samplers: list[TaskBatchSampler] = []

    def __call__(self, dataset: Any, **options: Any) -> TaskBatchSampler:
        """Make the sampler.

        Args:
            dataset: The training data.
            **options: Arguments of `TaskBatchSampler`, as the trainer gives them.

        Returns:
            The sampler.
        """
        sampler = TaskBatchSampler(
            dataset, **options, tasks=self.tasks, homogeneous_ratio=self.homogeneous_ratio
        )
        self._samplers.append(sampler)
        return sampler

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, to every sampler made.

        Args:
            epoch: From 0.
        """
        for sampler in self._samplers:
            sampler.set_epoch(epoch)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_samplers": []}


def _mix(batches: list[list[int]], share: float, generator: torch.Generator | None) -> list[list[int]]:
    """Exchange the last rows of all batches among each other."""
    counts = [math.floor(round(len(batch) * share, 9)) for batch in batches]  # 10 * (1 - 0.9) is 1
    given = [row for batch, count in zip(batches, counts, strict=True) for row in batch[len(batch) - count :]]
    pool = iter(_shuffle(given, generator))
    return [
        [*batch[: len(batch) - count], *(next(pool) for _ in range(count))]
        for batch, count in zip(batches, counts, strict=True)
    ]


def _shuffle(rows: Sequence[int], generator: torch.Generator | None) -> list[int]:
    return [rows[place] for place in torch.randperm(len(rows), generator=generator).tolist()]


def _check(owner: str, batch_size: int, n_processes: int, homogeneous_ratio: float) -> None:
    check_positive(owner, "batch_size", batch_size)
    check_positive(owner, "n_processes", n_processes)
    check_share(owner, "homogeneous_ratio", homogeneous_ratio)
