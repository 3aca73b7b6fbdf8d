"""Several processes of one run, of which one writes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fletching.plugins import registry
from fletching.training import count_processes, main_process_first
from fletching.training.recipe import RESULTS_FILE

REFUSALS = {
    "defsent_plus": "it trains in one process; WORLD_SIZE is 2",
    "ullme": "`mini_batch_size` must be None for two adapters on several devices",
}

TWO_PROCESSES = """
import os, sys, time
from dataclasses import dataclass
from pathlib import Path
import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from fletching.training import TrainingFolder, describe_run, forget_run, main_process_first, run_trainer

torch.set_num_threads(1)
place, rank = Path(sys.argv[1]), os.environ["RANK"]

def note(what):
    with (place / "calls").open("a") as file:
        file.write(f"{what}-{rank} ")

class Slope(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
    def forward(self, x, labels):
        return {"loss": (self.weight * x - labels).square().mean()}
    def save_pretrained(self, folder):
        note("save")
        torch.save(self.state_dict(), Path(folder, "model.pt"))

@dataclass
class Recipe:
    rate: float = 0.1

def evaluate():
    note("evaluate")
    time.sleep(1)  # the other one must wait
    return {"score": 0.5}

with main_process_first() as is_main:
    if is_main:
        time.sleep(1)
        (place / "rows").write_text("7")
number = float((place / "rows").read_text())
forget_run(place / "run", "*/checkpoints")
folder = TrainingFolder(place / "run")
folder.keep_plan("Recipe", describe_run(Recipe()))
before = folder.keep_before(evaluate)
model = Slope()
arguments = TrainingArguments(**folder.build_arguments(seed=0, save_steps=2), max_steps=4, learning_rate=0.1)
rows = [{"x": torch.ones(1), "labels": torch.full((1,), number)}] * 64
run_trainer(Trainer(model, arguments, train_dataset=rows), folder)
assert arguments.world_size == 2, arguments.world_size
folder.save(model)
weight = model.weight.item()
folder.write_record(Recipe(), files=[place / "rows"], results={"before": before, "weight": weight})
again = TrainingFolder(place / "run", resume=True)
again.keep_plan("Recipe", describe_run(Recipe()))
saved = torch.load(place / "run" / "model.pt", weights_only=True)
print(before, Path(again.last_checkpoint).name, saved["weight"].item() == weight, weight)
"""


@pytest.mark.slow
def test_of_two_processes_one_writes_and_both_find_it(run_in_two_processes: Any, tmp_path: Path) -> None:
    (first, errors), (second, more) = run_in_two_processes(TWO_PROCESSES, str(tmp_path))
    assert first == second, errors + more
    assert first.startswith("{'score': 0.5} checkpoint-4 True "), errors
    assert Counter((tmp_path / "calls").read_text().split()) == {"evaluate-0": 1, "save-0": 1}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(spec.name for spec in registry() if spec.recipe))
def test_a_recipe_trains_in_two_processes_or_says_why_not(name: str, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command = ["-m", "fletching", "train", name, "--smoke", "--output", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*launcher, *command], env=environment, capture_output=True, text=True, timeout=300
    )
    if name in REFUSALS:
        assert ended.returncode != 0
        assert REFUSALS[name] in ended.stderr
    else:
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.count("metric") == 1  # the other process prints nothing
        assert (tmp_path / "run" / RESULTS_FILE).is_file()


def test_one_process_is_the_main_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert count_processes() == 1
    with main_process_first() as is_main:
        assert is_main


def test_processes_are_counted_as_the_launchers_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert count_processes() == 3
