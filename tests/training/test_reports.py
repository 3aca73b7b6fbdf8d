"""Trainers talk to the log; stdout stays free for results."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from fletching.errors import FletchingError
from fletching.training import TrainingFolder, run_trainer
from fletching.training.reports import LogCallback


class Slope(nn.Module):
    """Learns one number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.weight * x - labels).square().mean()}


def build_trainer(folder: TrainingFolder, *, label: float, **settings: Any) -> Trainer:
    arguments: dict[str, Any] = {"max_steps": 2, "logging_steps": 1, "save_strategy": "no", **settings}
    common = folder.build_arguments(seed=0, save_steps=1)
    rows = [{"x": torch.ones(1), "labels": torch.full((1,), label)}] * 16
    return Trainer(Slope(), TrainingArguments(**{**common, **arguments}), train_dataset=rows)


@pytest.mark.parametrize("disable_tqdm", [False, True])
def test_losses_go_to_the_log_and_nothing_to_stdout(
    disable_tqdm: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a progress bar and without one, the trainer itself would print dictionaries."""
    folder = TrainingFolder(tmp_path)
    trainer = build_trainer(folder, label=0.0, disable_tqdm=disable_tqdm)
    with caplog.at_level(logging.INFO, logger="fletching"):
        run_trainer(trainer, folder)
    assert capsys.readouterr().out == ""
    assert "Step 1 of 2: loss 1, grad_norm 2, learning_rate 5e-05" in caplog.messages


def test_values_are_named_without_what_the_step_says(caplog: pytest.LogCaptureFixture) -> None:
    state = SimpleNamespace(global_step=3, max_steps=9, is_world_process_zero=True)
    with caplog.at_level(logging.INFO, logger="fletching"):
        LogCallback().on_log(None, state, None, {"eval_dev_mrr": 0.123456, "epoch": 1.0, "total_flos": 5})
        LogCallback().on_log(None, state, None, {"epoch": 1.0})
    assert caplog.messages == ["Step 3 of 9: eval_dev_mrr 0.1235"]


def test_other_processes_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    state = SimpleNamespace(global_step=3, max_steps=9, is_world_process_zero=False)
    with caplog.at_level(logging.INFO, logger="fletching"):
        LogCallback().on_log(None, state, None, {"loss": 1.0})
    assert not caplog.messages


@pytest.mark.parametrize("label", [float("nan"), float("inf")])
@pytest.mark.parametrize("logging_steps", [1, 10])
def test_a_loss_that_is_no_number_ends_the_run(label: float, logging_steps: int, tmp_path: Path) -> None:
    """The trainer itself logs 0 and trains on; with ten steps between logs, only the last one says it."""
    trainer = build_trainer(TrainingFolder(tmp_path), label=label, logging_steps=logging_steps)
    with pytest.raises(FletchingError, match=r"Training stopped: the loss is (nan|inf) by step \d of 2"):
        run_trainer(trainer, TrainingFolder(tmp_path))


def test_in_half_precision_a_step_may_overflow() -> None:
    state = SimpleNamespace(global_step=3, max_steps=9, is_world_process_zero=True)
    LogCallback().on_log(SimpleNamespace(fp16=True), state, None, {"loss": float("inf")})
