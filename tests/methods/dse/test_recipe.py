"""Teacher, logits and student are made once, resume, and say what they did."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import fletching
from fletching.cli import build_app
from fletching.errors import ArgumentError, CheckpointError, DataError
from fletching.methods.dse import stages
from fletching.methods.dse.data import PairRow, read_pairs
from fletching.methods.dse.evaluation import DSEEvaluator
from fletching.methods.dse.model import DSEReranker
from fletching.methods.dse.recipe import DSERecipe
from fletching.methods.dse.synthetic import ALPHABET, build_synthetic_pairs
from fletching.methods.dse.teachers import open_teacher
from fletching.training import TeacherScores, TrainingFolder, save_character_bert
from fletching.training.recipe import RESULTS_FILE

NLI = ("contradiction", "entailment", "neutral")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def _small_blocks() -> Iterator[None]:
    """Let teachers score eight pairs at once, so that twenty can be interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TeacherScores.score.__kwdefaults__, "rows_at_once", 8)
        yield


def write_pairs(path: Path, rows: list[PairRow], names: tuple[str, ...] = ()) -> str:
    """Write a table, with the names of labels if there are some."""
    lines = [f"{names[int(row.label)] if names else row.label}\t{row.first}\t{row.second}\n" for row in rows]
    path.write_text("label\tsentence1\tsentence2\n" + "".join(lines), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> DSERecipe:
    """Twenty pairs: ten mini-batches of two, five updates an epoch."""
    folder = tmp_path_factory.mktemp("data")
    return DSERecipe(
        base=save_character_bert(folder / "base", [ALPHABET]),
        train_data=(write_pairs(folder / "train.tsv", build_synthetic_pairs(20, seed=1)),),
        dev_data=(write_pairs(folder / "dev.tsv", build_synthetic_pairs(12, seed=2)),),
        num_layers=2,
        fc_dims=(8, 1),
        max_seq_length=16,
        batch_size=2,
        learning_rate=1e-3,
        teacher_learning_rate=1e-3,
        teacher_epochs=2,
        epochs=2,
        logits_batch_size=None,
        seed=3,
    )


@pytest.fixture(scope="module")
def plain(recipe: DSERecipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Trained on labels alone, without a development set."""
    folder = tmp_path_factory.mktemp("plain")
    return folder, replace(recipe, alpha=0.0, eval_steps=10, dev_data=()).run(folder)


@pytest.fixture(scope="module")
def trained(recipe: DSERecipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("trained")
    return folder, recipe.run(folder)


def read_record(folder: Path) -> Any:
    return json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = fletching.load(folder, device="cpu").state_dict()
    return weights


def kill_in_the_second_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """End the process when one block of the teacher's scores is written."""
    add = TeacherScores._add

    def add_once(self: TeacherScores, *args: Any) -> None:
        if len(self):
            raise KeyboardInterrupt
        add(self, *args)

    monkeypatch.setattr(TeacherScores, "_add", add_once)


def test_a_trained_model_is_what_was_measured(recipe: DSERecipe, trained: tuple[Path, Any]) -> None:
    folder, results = trained
    model = fletching.load(folder, device="cpu")
    assert type(model) is DSEReranker
    teacher = open_teacher(folder / "teacher", device="cpu")
    dev = read_pairs(recipe.dev_data[0])
    found = DSEEvaluator(dev)(teacher)
    assert results["teacher"] == pytest.approx(found)
    assert results["after"] == pytest.approx(DSEEvaluator(dev, teacher_metrics=found)(model))
    record = read_record(folder)
    assert record["results"] == results
    assert record["rows"] == 20
    assert {"train.tsv", "dev.tsv"} == record["data"].keys()
    assert "DSEReranker" in (folder / "README.md").read_text(encoding="utf-8")


def test_the_student_starts_from_the_pretrained_base_with_a_head_of_its_seed(
    recipe: DSERecipe, trained: tuple[Path, Any]
) -> None:
    student = DSEReranker.from_encoder(recipe.base, recipe.student, device="cpu")
    evaluator = DSEEvaluator(read_pairs(recipe.dev_data[0]), teacher_metrics=trained[1]["teacher"])
    before = evaluator(student)
    assert trained[1]["before"] == pytest.approx(before)


def test_the_teacher_has_two_labels_for_a_binary_task(trained: tuple[Path, Any]) -> None:
    assert open_teacher(trained[0] / "teacher").num_labels == 2


def test_a_run_killed_anywhere_and_resumed_ends_with_the_same_weights(
    recipe: DSERecipe,
    trained: tuple[Path, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill_at_checkpoint: Any,
) -> None:
    """Killed behind the teacher's first epoch, in the middle of its logits, behind the student's first."""
    whole, killed = trained[0], tmp_path
    with kill_at_checkpoint(1):
        recipe.run(killed)
    assert not (killed / "teacher" / "modules.json").exists()
    with monkeypatch.context() as patch:
        kill_in_the_second_block(patch)
        with pytest.raises(KeyboardInterrupt):
            recipe.run(killed, resume=True)
    assert len((killed / "teacher_logits.jsonl").read_text().splitlines()) == 1
    with kill_at_checkpoint(1):
        recipe.run(killed, resume=True)
    assert not (killed / "modules.json").exists()
    recipe.run(killed, resume=True)
    assert (whole / "teacher_logits.jsonl").read_bytes() == (killed / "teacher_logits.jsonl").read_bytes()
    first, second = read_weights(whole), read_weights(killed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert read_record(whole)["results"] == read_record(killed)["results"]


@pytest.mark.slow
def test_a_run_that_starts_anew_asks_its_own_teacher(
    recipe: DSERecipe, trained: tuple[Path, Any], tmp_path: Path
) -> None:
    shutil.copytree(trained[0], tmp_path / "run")
    replace(recipe, teacher_learning_rate=3e-3, epochs=1, teacher_epochs=1).run(tmp_path / "run")
    new = (tmp_path / "run" / "teacher_logits.jsonl").read_text(encoding="utf-8")
    assert len(new.splitlines()) == 3  # nothing of the old teacher is left in it
    assert new != (trained[0] / "teacher_logits.jsonl").read_text(encoding="utf-8")


def test_without_distillation_there_is_no_teacher(plain: tuple[Path, Any]) -> None:
    folder, results = plain
    assert results == {"before": {}, "after": {}, "teacher": {}}
    assert (folder / "modules.json").is_file()
    assert not (folder / "teacher").exists()
    assert not (folder / "teacher_logits.jsonl").exists()


def test_logits_in_the_pairs_need_no_teacher(
    recipe: DSERecipe, trained: tuple[Path, Any], tmp_path: Path
) -> None:
    rows = read_pairs(recipe.train_data[0])
    lines = [
        json.dumps({"text1": row.first, "text2": row.second, "teacher": [4 * row.label - 2]}) for row in rows
    ]
    path = tmp_path / "scored.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    chosen = replace(recipe, train_data=(str(path),), dev_data=(), alpha=1.0, epochs=1, max_rows=4)
    assert chosen.run(tmp_path / "run")["teacher"] == {}
    assert not (tmp_path / "run" / "teacher").exists()


@pytest.mark.slow
def test_a_listwise_reranker_may_teach(recipe: DSERecipe, tmp_path: Path) -> None:
    chosen = replace(recipe, teacher="mvp-mini", task="regression", epochs=1, max_rows=6)
    results = chosen.run(tmp_path)
    assert "dev_pearson" in results["teacher"]
    store = (tmp_path / "teacher_logits.jsonl").read_text(encoding="utf-8")
    assert len(json.loads(store)["scores"]) == 6


def test_three_classes_are_learned_from_a_teacher_with_three_labels(
    recipe: DSERecipe, tmp_path: Path
) -> None:
    rows = [
        replace(row, label=float(place % 3)) for place, row in enumerate(build_synthetic_pairs(12, seed=4))
    ]
    data = (write_pairs(tmp_path / "nli.tsv", rows, NLI),)
    chosen = replace(
        recipe, task="multiclass", labels=NLI, train_data=data, dev_data=data, epochs=1, teacher_epochs=1
    )
    assert chosen.fc_dims == (8, 3)
    results = chosen.run(tmp_path / "run")
    assert set(results["after"]) == {"dev_accuracy", "dev_macro_f1", "dev_relative_degradation"} or (
        results["teacher"]["dev_accuracy"] == 0
    )
    teacher: Any = open_teacher(tmp_path / "run" / "teacher", device="cpu")
    assert teacher[0].model.config.id2label == dict(enumerate(NLI))
    model = fletching.load(tmp_path / "run", device="cpu")
    assert (model.num_labels, model.head.task) == (3, "multiclass")


@pytest.mark.slow
def test_a_regression_keeps_the_scale_of_its_labels(recipe: DSERecipe, tmp_path: Path) -> None:
    """Labels are 5 and, in between, 0: neither model may end in a sigmoid."""
    rows = [replace(row, label=5 * row.label) for row in build_synthetic_pairs(12, seed=4)]
    data = (write_pairs(tmp_path / "sts.tsv", rows),)
    chosen = replace(recipe, task="regression", train_data=data, dev_data=(), epochs=1, teacher_epochs=1)
    chosen.run(tmp_path / "run")
    teacher = open_teacher(tmp_path / "run" / "teacher", device="cpu")
    assert teacher.num_labels == 1
    model = fletching.load(tmp_path / "run", device="cpu")
    assert model.head.task == "regression"
    for each in (teacher, model):
        assert isinstance(each.activation_fn, torch.nn.Identity)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_new_weights_may_have_a_learning_rate_of_their_own(
    role: str, recipe: DSERecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New are both layers of the student's head, and the classifier of the teacher: weights and biases."""
    trainers: list[Any] = []
    monkeypatch.setattr(stages, "run_trainer", lambda trainer, folder: trainers.append(trainer))
    recipe = replace(recipe, head_learning_rate=5e-3, alpha=0.0)
    rows, folder = build_synthetic_pairs(4, seed=1), TrainingFolder(tmp_path)
    if role == "teacher":
        model = stages.build_teacher(recipe, recipe.base)
        stages.train_teacher(recipe, model, rows, folder, None)
        new = [name for name, _ in model.named_parameters() if "classifier" in name]
    else:
        model = DSEReranker.from_encoder(recipe.base, recipe.student)
        stages.train_student(recipe, model, rows, folder, None)
        new = [name for name, _ in model[-1].named_parameters()]
    groups = trainers[0].create_optimizer().param_groups
    found = {id(weight): group["lr"] for group in groups for weight in group["params"]}
    named = {name: found[id(weight)] for name, weight in model.named_parameters()}
    assert sorted(named.values()) == [1e-3] * (len(named) - len(new)) + [5e-3] * len(new)
    assert len(new) == (2 if role == "teacher" else 4)


def test_batches_of_like_length_are_the_same_after_a_resumption(
    recipe: DSERecipe, tmp_path: Path, drawn_by_length: list[list[int]], kill_at_checkpoint: Any
) -> None:
    """Ten mini-batches, two for an update, and three updates behind them when it is killed."""
    grouped = replace(recipe, alpha=0.0, epochs=1, eval_steps=3, dev_data=(), group_by_length=True)
    grouped.run(tmp_path / "whole")
    assert len(drawn_by_length) == 10
    with kill_at_checkpoint(1):
        grouped.run(tmp_path / "killed")
    grouped.run(tmp_path / "killed", resume=True)
    expected = read_weights(tmp_path / "whole")
    found = read_weights(tmp_path / "killed")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def read_rates(folder: Path) -> tuple[list[float], float]:
    """Read the learning rates that were logged, and the one after the last update."""
    checkpoint = folder / "checkpoints" / "checkpoint-10"
    state = torch.load(checkpoint / "scheduler.pt", weights_only=True)
    logs = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    rates = [entry["learning_rate"] for entry in logs if "learning_rate" in entry]
    return rates, state["_last_lr"][0]


def test_the_learning_rate_rises_over_a_tenth_of_the_updates_and_falls_to_0(plain: tuple[Path, Any]) -> None:
    """Ten updates: the highest rate, 1e-3, is reached after one."""
    rates, last = read_rates(plain[0])
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) in (0, 1)  # logged behind or before the update
    assert last == 0.0


@pytest.mark.slow
def test_the_legacy_schedule_counts_mini_batches(recipe: DSERecipe, tmp_path: Path) -> None:
    """Ten updates, twenty mini-batches: up over 2, and (20 - 10) / (20 - 2) = 0.5556 of it at the end."""
    replace(recipe, alpha=0.0, legacy_schedule=True, eval_steps=10, dev_data=()).run(tmp_path)
    rates, last = read_rates(tmp_path)
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) in (1, 2)
    assert last == pytest.approx(1e-3 * 10 / 18)


def test_a_teacher_with_another_label_count_is_refused_before_anything_is_trained(
    recipe: DSERecipe, trained: tuple[Path, Any], tmp_path: Path
) -> None:
    teacher = str(trained[0] / "teacher")
    with pytest.raises(ArgumentError, match="a model with 1 label for the regression task; got 2"):
        replace(recipe, teacher=teacher, task="regression").run(tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_an_encoder_with_too_few_layers_is_refused_before_the_teacher_is_trained(
    recipe: DSERecipe, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match="`num_layers` must be at most 2, the layers of this encoder"):
        replace(recipe, num_layers=4).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_teacher_is_refused(recipe: DSERecipe, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        replace(recipe, teacher="no/such/folder").run(tmp_path)


def test_training_on_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="`train_data` must be at least one file of pairs"):
        DSERecipe().run(tmp_path)


def test_a_label_of_another_task_is_found_before_any_training(recipe: DSERecipe, tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "sts.tsv", [PairRow("a", "b", 3.8)])
    with pytest.raises(DataError, match=r"sts.tsv: `label` must be a whole number from 0 to 1 .*; got 3.8"):
        replace(recipe, train_data=(path,)).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_labels_that_nobody_gave_cannot_teach_a_teacher(recipe: DSERecipe, tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("text1\ttext2\na b\tc d\n", encoding="utf-8")
    with pytest.raises(ArgumentError, match="pairs with labels where the teacher is fine-tuned first"):
        replace(recipe, train_data=(str(path),)).run(tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 2.0}, "`alpha` must be from 0 to 1"),
        ({"threshold": 1.0}, "`threshold` must be between 0 and 1"),
        ({"reduction": "max"}, "`reduction` must be one of"),
        ({"head_learning_rate": 0.0}, "head_learning_rate"),
        ({"epochs": 0}, "`epochs` must be positive"),
        ({"weight_decay": -1.0}, "`weight_decay` must be zero or positive"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"eval_steps": 0}, "`eval_steps` must be a positive integer or None"),
        ({"labels": ("a", "b", "c")}, "`labels` must be 2 names for this binary task"),
        ({"labels": ("a", "b"), "task": "regression"}, "`labels` must be left out for a regression"),
        ({"labels": ("a", "b"), "fc_dims": (8, 3)}, "`labels` must be 3 names for this multiclass task"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        DSERecipe(**options)


def test_synthetic_pairs_are_balanced_and_repeatable() -> None:
    rows = build_synthetic_pairs(50, seed=1)
    assert sum(row.label for row in rows) == 25
    assert rows == build_synthetic_pairs(50, seed=1) != build_synthetic_pairs(50, seed=2)
    archery = set("abcdefghijkl")
    for row in rows:
        assert ({*row.first.split(), *row.second.split()} <= archery) == bool(row.label)


@pytest.mark.slow
def test_the_smoke_recipe_learns_from_the_command_line(tmp_path: Path) -> None:
    arguments = ["train", "dse", "--smoke", "--output", str(tmp_path / "x")]
    result = CliRunner().invoke(build_app(), arguments)
    assert result.exit_code == 0, result.output
    assert "dev_relative_degradation" in result.output
    assert isinstance(fletching.load(tmp_path / "x"), DSEReranker)
    after = read_record(tmp_path / "x")["results"]["after"]
    assert after["dev_accuracy"] > 0.7


def test_a_new_run_that_is_killed_early_leaves_nothing_of_the_one_before(
    recipe: DSERecipe, trained: tuple[Path, Any], tmp_path: Path, kill_at_checkpoint: Any
) -> None:
    """Killed while it trains the teacher: it must not go on with the other one's student."""
    copytree(trained[0], tmp_path, dirs_exist_ok=True)
    assert list((tmp_path / "checkpoints").glob("checkpoint-*"))
    with kill_at_checkpoint(1):
        recipe.run(tmp_path)
    assert not list((tmp_path / "checkpoints").glob("checkpoint-*"))
    assert not (tmp_path / "teacher_logits.jsonl").exists()


def test_a_run_is_not_gone_on_with_under_other_settings(recipe: DSERecipe, trained: tuple[Path, Any]) -> None:
    with pytest.raises(ArgumentError, match=r"`learning_rate` must be .* begun with, 0.001; got 0.5"):
        replace(recipe, learning_rate=0.5).run(trained[0], resume=True)
