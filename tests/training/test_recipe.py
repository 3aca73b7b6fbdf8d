"""What a recipe leaves behind, and finds again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from fletching.errors import ArgumentError
from fletching.training import describe_run, forget_run
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
        write_checkpoint(tmp_path, step)
    return tmp_path


def write_checkpoint(folder: Path, step: int, **state: Any) -> Path:
    """Write what a checkpoint is asked for: the random state, and the state that comes last."""
    checkpoint = folder / "checkpoints" / f"checkpoint-{step}"
    checkpoint.mkdir()
    (checkpoint / "rng_state.pth").touch()
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    return checkpoint


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


@pytest.mark.parametrize("name", ["trainer_state.json", "rng_state.pth"])
def test_a_checkpoint_that_was_not_written_to_its_end_is_passed_over(stopped: Path, name: str) -> None:
    (stopped / "checkpoints" / "checkpoint-20" / name).unlink()
    folder = TrainingFolder(stopped, resume=True)
    assert folder.last_checkpoint == str(stopped / "checkpoints" / "checkpoint-5")


def test_a_checkpoint_whose_state_is_cut_off_is_passed_over(stopped: Path) -> None:
    (stopped / "checkpoints" / "checkpoint-20" / "trainer_state.json").write_text('{"best_metric": 0.')
    folder = TrainingFolder(stopped, resume=True)
    assert folder.last_checkpoint == str(stopped / "checkpoints" / "checkpoint-5")


def test_a_folder_that_was_moved_finds_its_best_checkpoint(tmp_path: Path) -> None:
    TrainingFolder(tmp_path / "old")
    write_checkpoint(tmp_path / "old", 5)
    best = tmp_path / "old" / "checkpoints" / "checkpoint-5"
    write_checkpoint(tmp_path / "old", 20, best_model_checkpoint=str(best), best_metric=0.5)
    (tmp_path / "old").rename(tmp_path / "new")
    last = TrainingFolder(tmp_path / "new", resume=True).last_checkpoint
    state = json.loads(Path(str(last), "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(tmp_path / "new" / "checkpoints" / "checkpoint-5")
    assert state["best_metric"] == 0.5


def test_a_run_is_not_gone_on_with_under_other_settings(stopped: Path) -> None:
    TrainingFolder(stopped).keep_plan("Train", {"rate": 0.1, "dims": (8, 4)})
    going_on = TrainingFolder(stopped, resume=True)
    going_on.keep_plan("Train", {"rate": 0.1, "dims": (8, 4)})
    message = "^Train: `rate` must be what the stopped run was begun with, 0.1; got 0.2. Begin anew"
    with pytest.raises(ArgumentError, match=message):
        going_on.keep_plan("Train", {"rate": 0.2, "dims": (8, 4)})
    with pytest.raises(ArgumentError, match=r"`dims` must be what .* begun with; got something else"):
        going_on.keep_plan("Train", {"rate": 0.1, "dims": (8, 2)})


def test_a_run_is_not_gone_on_with_by_other_processes(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TrainingFolder(stopped).keep_plan("Train", {})
    going_on = TrainingFolder(stopped, resume=True)
    monkeypatch.setattr("fletching.training.recipe.count_processes", lambda: 2)
    with pytest.raises(ArgumentError, match=r"`processes` must be .* begun with, 1; got 2"):
        going_on.keep_plan("Train", {})


def test_a_new_run_may_have_other_settings(stopped: Path) -> None:
    TrainingFolder(stopped).keep_plan("Train", {"rate": 0.1})
    TrainingFolder(stopped).keep_plan("Train", {"rate": 0.2})
    with pytest.raises(ArgumentError, match=r"begun with, 0\.2; got 0\.1"):
        TrainingFolder(stopped, resume=True).keep_plan("Train", {"rate": 0.1})


def test_a_run_is_described_by_its_data_not_by_their_place(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"arrow")
    recipe = Recipe(tmp_path / "a.tsv")
    plan = describe_run(recipe, path=[recipe.path])
    assert plan == {"seed": 3, "path": [sha256(b"arrow").hexdigest()[:16]]}
    assert describe_run(recipe, free=("seed",), path=[]) == {"path": []}


def test_what_is_left_of_an_earlier_run_is_forgotten(stopped: Path) -> None:
    for name in ("stage_1/checkpoints/checkpoint-5", "stage_1/model", "other/checkpoints"):
        (stopped / name).mkdir(parents=True)
    (stopped / "mined.tsv").touch()
    forget_run(stopped, "stage_*/checkpoints", "mined.tsv", "never.tsv")
    left = sorted(str(path.relative_to(stopped)) for path in stopped.rglob("*"))
    assert left == ["other", "other/checkpoints", "stage_1", "stage_1/model"]


def test_a_record_is_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = TrainingFolder(tmp_path)
    folder.write_record(Recipe(tmp_path), files=[], results={})
    before = (tmp_path / RESULTS_FILE).read_bytes()

    def die(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        folder.write_record(Recipe(tmp_path, seed=4), files=[], results={})
    assert (tmp_path / RESULTS_FILE).read_bytes() == before
