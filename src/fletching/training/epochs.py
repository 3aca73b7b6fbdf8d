"""Tells samplers which epoch begins."""

from __future__ import annotations

from typing import Any, Protocol

from transformers import TrainerCallback

__all__ = ["EpochCallback", "HasEpochs"]


class HasEpochs(Protocol):
    """What changes its rows from epoch to epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Take note of the epoch, from 0."""


class EpochCallback(TrainerCallback):
    """Calls ``set_epoch`` at the beginning of each epoch, also in a run that goes on from a checkpoint.

    Rows must be built in the trainer's process or in workers that start with each epoch: leave
    ``dataloader_persistent_workers`` off.

    Args:
        *samplers: What to tell.
    """

    def __init__(self, *samplers: HasEpochs) -> None:
        self.samplers = samplers

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch.

        Args:
            args: Of the trainer, not used.
            state: Of the trainer; its epoch is a fraction after a checkpoint in the middle of one.
            control: Of the trainer, not used.
            **kwargs: Not used.
        """
        for sampler in self.samplers:
            sampler.set_epoch(int(state.epoch or 0))
