"""Samplers learn which epoch begins."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fletching.training import EpochCallback


class Recorder:
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


@pytest.mark.parametrize(("state", "expected"), [(None, 0), (0.0, 0), (3.0, 3), (3.4, 3)])
def test_the_epoch_that_begins_is_told(state: float | None, expected: int) -> None:
    """After a checkpoint in the middle of epoch 3 the trainer's state says 3.4."""
    recorders = Recorder(), Recorder()
    EpochCallback(*recorders).on_epoch_begin(None, SimpleNamespace(epoch=state), None)
    assert [recorder.epochs for recorder in recorders] == [[expected], [expected]]
