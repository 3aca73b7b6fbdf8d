"""What a recipe leaves behind, and finds again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from fletching.training.recipe import RESULTS_FILE, TrainingFolder, hash_file


@dataclass
class Recipe:
    path: Path
    seed: int = 3


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The folder of a run that was stopped after its second checkpoint."""
    TrainingFolder(tmp_path).keep_before(lambda: {"score": 0.25})
    for step in (5, 20):
        (tmp_path / "checkpoints" / f"checkpoint-{step}").mkdir()
    return tmp_path


def test_a_run_that_goes_on_takes_the_last_checkpoint(stopped: Path) -> None:
    folder = TrainingFolder(stopped, resume=True)
    assert folder.last_checkpoint == str(stopped / "checkpoints" / "checkpoint-20")


def test_a_run_that_goes_on_does_not_evaluate_again(stopped: Path) -> None:
    def evaluate() -> dict[str, float]:
        raise AssertionError

    assert TrainingFolder(stopped, resume=True).keep_before(evaluate) == {"score": 0.25}


def test_a_new_run_ignores_old_checkpoints(stopped: Path) -> None:
    folder = TrainingFolder(stopped)
    assert folder.last_checkpoint is None
    assert folder.keep_before(lambda: {"score": 0.5}) == {"score": 0.5}


def test_a_new_run_is_never_resumed_from_the_checkpoints_of_an_old_one(stopped: Path) -> None:
    TrainingFolder(stopped)
    assert TrainingFolder(stopped, resume=True).last_checkpoint is None


def test_a_run_without_a_checkpoint_starts_anew(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path / "new", resume=True)
    assert folder.last_checkpoint is None
    assert folder.keep_before(lambda: {"score": 0.5}) == {"score": 0.5}


def test_the_record_says_what_was_trained_on_what(tmp_path: Path) -> None:
    data = tmp_path / "queries.tsv"
    data.write_bytes(b"1\tarrow\n")
    results = {"before": {}, "after": {"score": 0.5}}
    TrainingFolder(tmp_path).write_record(Recipe(data), files=[data], results=results, rows=12)
    record = json.loads((tmp_path / RESULTS_FILE).read_text(encoding="utf-8"))
    assert record["recipe"] == {"path": str(data), "seed": 3}
    assert record["data"] == {"queries.tsv": sha256(b"1\tarrow\n").hexdigest()[:16]}
    assert record["rows"] == 12
    assert record["versions"]["torch"] == torch.__version__
    assert record["results"] == results


def test_a_file_of_more_than_one_chunk_is_hashed_whole(tmp_path: Path) -> None:
    content = b"arrow" * 300_000
    path = tmp_path / "large.bin"
    path.write_bytes(content)
    assert hash_file(path) == sha256(content).hexdigest()[:16]
