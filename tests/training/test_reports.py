"""Trainers talk to the log; stdout stays free for results."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from fletching.training import TrainingFolder, run_trainer
from fletching.training.reports import LogCallback


class Slope(nn.Module):
    """Learns one number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.weight * x - labels).square().mean()}


@pytest.mark.parametrize("disable_tqdm", [False, True])
def test_losses_go_to_the_log_and_nothing_to_stdout(
    disable_tqdm: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a progress bar and without one, the trainer itself would print dictionaries."""
    folder = TrainingFolder(tmp_path)
    arguments = TrainingArguments(
        output_dir=str(folder.checkpoints),
        max_steps=2,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=disable_tqdm,
        dataloader_pin_memory=False,
    )
    rows = [{"x": torch.ones(1), "labels": torch.zeros(1)}] * 16
    with caplog.at_level(logging.INFO, logger="fletching"):
        run_trainer(Trainer(Slope(), arguments, train_dataset=rows), folder)
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
