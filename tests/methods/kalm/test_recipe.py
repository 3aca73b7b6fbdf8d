"""The stages train, resume, and say what they did."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Trainer
from typer.testing import CliRunner

import fletching
from fletching.cli import build_app
from fletching.errors import ArgumentError, DataError
from fletching.methods.kalm import KaLMEmbedder, KaLMRecipe, KaLMRow, RowSampler, read_rows, write_rows
from fletching.methods.kalm.evaluation import KaLMRowEvaluator
from fletching.methods.kalm.stages import build_loss, choose_dims
from fletching.methods.kalm.synthetic import build_synthetic_rows, save_smoke_qwen2
from fletching.training.recipe import RESULTS_FILE


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A few rows of two tasks and a tiny Qwen2."""
    folder = tmp_path_factory.mktemp("data")
    rows = [row for row in build_synthetic_rows(seed=1) if row.negatives]
    things, topics = ([row for row in rows if row.task == task] for task in ("things", "topics"))
    write_rows(folder / "train.jsonl", things[:14] + topics[:6])
    write_rows(folder / "dev.jsonl", build_synthetic_rows(seed=2, wording=1)[:8])
    return {
        "base": save_smoke_qwen2(folder / "base"),
        "train_data": (str(folder / "train.jsonl"),),
        "pretrain_data": (str(folder / "train.jsonl"),),
        "dev_data": (str(folder / "dev.jsonl"),),
    }


@pytest.fixture(scope="module")
def recipe(data: dict[str, Any]) -> KaLMRecipe:
    return KaLMRecipe(
        **data,
        stages=("pretrain", "finetune"),
        temperature=0.05,
        matryoshka_dims=(896, 16),
        matryoshka_weights=(1.0, 0.3),
        negatives=2,
        filter_top_k=None,
        mining_range=(2, 20),
        homogeneous_ratio=0.5,
        batch_size=5,
        max_tokens=48,
        learning_rate=1e-3,
        epochs=2,
        save_steps=3,
        seed=3,
    )


@pytest.fixture(scope="module")
def trained(recipe: KaLMRecipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("trained")
    return folder, recipe.run(folder)


def read_record(folder: Path) -> Any:
    return json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = fletching.load(folder, device="cpu").state_dict()
    return weights


def test_a_trained_model_is_what_was_measured(trained: tuple[Path, Any], recipe: KaLMRecipe) -> None:
    folder, results = trained
    model = fletching.load(folder, device="cpu")
    assert type(model) is KaLMEmbedder
    assert (model.causal, model.max_seq_length, model.matryoshka_dims) == (False, 48, (32, 16))
    evaluator = KaLMRowEvaluator(read_rows(recipe.dev_data[0]))
    assert results["after"] == pytest.approx(evaluator(model))
    before = evaluator(KaLMEmbedder(recipe.base, causal=False, max_seq_length=48, device="cpu"))
    assert results["before"] == pytest.approx(before)
    record = read_record(folder)
    assert record["results"] == results
    assert record["rows"] == {"pretrain": 20, "finetune": 20}
    assert {"train.jsonl", "dev.jsonl"} == record["data"].keys()
    assert "KaLMEmbedder" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_run_killed_and_resumed_ends_with_the_same_weights(
    recipe: KaLMRecipe, trained: tuple[Path, Any], tmp_path: Path, kill_at_checkpoint: Any
) -> None:
    """Eight steps a stage, checkpoints at 3, 6 and 8: killed at 6, in the second epoch, of either stage."""
    for resume, checkpoint in ((False, 2), (True, 3)):
        with kill_at_checkpoint(checkpoint):
            recipe.run(tmp_path, resume=resume)
    assert (tmp_path / "checkpoints" / "checkpoint-6").is_dir()
    assert (tmp_path / "pretrain" / "modules.json").is_file()
    assert not (tmp_path / "modules.json").exists()
    recipe.run(tmp_path, resume=True)
    whole, killed = read_weights(trained[0]), read_weights(tmp_path)
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert read_record(trained[0])["results"] == read_record(tmp_path)["results"]


def test_a_finished_run_is_not_trained_again(
    recipe: KaLMRecipe, trained: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(Trainer, "train", refuse)
    assert recipe.run(trained[0], resume=True) == trained[1]


def test_a_run_that_starts_anew_forgets_the_one_before(
    recipe: KaLMRecipe, trained: tuple[Path, Any], tmp_path: Path, kill_at_checkpoint: Any
) -> None:
    """Killed in its first stage and resumed, it does not take the old run's stages and rows for its own."""
    shutil.copytree(trained[0], tmp_path / "run")
    changed = replace(recipe, learning_rate=2e-3)
    with kill_at_checkpoint(1):
        changed.run(tmp_path / "run")
    assert (tmp_path / "run" / "modules.json").is_file()  # the old model stays until there is a new one
    left = {path.name for path in (tmp_path / "run").rglob("*")}
    assert not {"done", "rows.mined.jsonl", "rows.scored.jsonl"} & left


def test_a_soup_is_the_mean_of_its_parts(recipe: KaLMRecipe, tmp_path: Path) -> None:
    chosen = replace(recipe, stages=("finetune", "soup"), soup_seeds=2, epochs=0.5, dev_data=())
    chosen.run(tmp_path)
    parts = [read_weights(tmp_path / f"finetune_{seed}") for seed in (3, 4)]
    for name, tensor in read_weights(tmp_path).items():
        expected = (parts[0][name].double() + parts[1][name].double()) / 2
        torch.testing.assert_close(tensor, expected.float(), rtol=0, atol=1e-7)
    assert any(not torch.equal(parts[0][name], parts[1][name]) for name in parts[0])
    assert fletching.load(tmp_path).matryoshka_dims == (32, 16)


def test_distillation_asks_the_teacher_once(
    recipe: KaLMRecipe, trained: tuple[Path, Any], tmp_path: Path
) -> None:
    chosen = replace(
        recipe, stages=("distill",), base=str(trained[0]), teacher=str(trained[0]), epochs=0.5, dev_data=()
    )
    chosen.run(tmp_path)
    rows = read_rows(tmp_path / "rows.scored.jsonl")
    teacher = fletching.load(trained[0], device="cpu")
    row = rows[0]
    expected = (teacher.encode(row.query) @ teacher.encode([*row.positives, *row.negatives]).T).tolist()
    assert [*row.positive_scores, *row.negative_scores] == pytest.approx(expected, abs=1e-5)
    changed = [tensor for name, tensor in read_weights(tmp_path).items()]
    assert any(
        not torch.equal(tensor, start)
        for tensor, start in zip(changed, read_weights(trained[0]).values(), strict=True)
    )


def test_scores_in_the_rows_need_no_teacher(
    recipe: KaLMRecipe, trained: tuple[Path, Any], tmp_path: Path
) -> None:
    rows = [
        replace(row, positive_scores=(0.9,) * len(row.positives), negative_scores=(0.1,) * len(row.negatives))
        for row in read_rows(recipe.train_data[0])
    ]
    write_rows(tmp_path / "scored.jsonl", rows)
    chosen = replace(recipe, stages=("distill",), base=str(trained[0]), epochs=0.25, dev_data=())
    chosen = replace(chosen, train_data=(str(tmp_path / "scored.jsonl"),))
    chosen.run(tmp_path / "run")
    assert not (tmp_path / "run" / "rows.scored.jsonl").exists()


def test_mined_rows_are_those_of_the_model_before(trained: tuple[Path, Any], recipe: KaLMRecipe) -> None:
    folder, _ = trained
    mined = read_rows(folder / "rows.mined.jsonl")
    assert len(mined) == 20
    assert all(len(row.negatives) >= recipe.negatives for row in mined)


def test_a_decoder_that_is_no_embedder_mines_nothing(
    recipe: KaLMRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replace(recipe, stages=("finetune",), epochs=0.25, dev_data=()).run(tmp_path)
    assert "Nothing is filtered or mined" in caplog.text
    assert not (tmp_path / "rows.mined.jsonl").exists()


def test_a_filter_that_leaves_nothing_says_so(
    recipe: KaLMRecipe, trained: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fletching.methods.kalm.recipe.mine_rows", lambda *args, **kwargs: [])
    chosen = replace(recipe, stages=("finetune",), base=str(trained[0]), dev_data=())
    with pytest.raises(DataError, match="the filter must leave a row of 20; it left none"):
        chosen.run(tmp_path)


def test_the_first_stage_is_plain_infonce_on_pairs(recipe: KaLMRecipe, trained: tuple[Path, Any]) -> None:
    model = fletching.load(trained[0], device="cpu")
    first, second = (build_loss(recipe, model, stage=stage) for stage in ("pretrain", "finetune"))
    assert (first.gamma, tuple(first.mixing.kinds)) == (0.0, ())
    assert (second.gamma, tuple(second.mixing.kinds)) == (0.5, ("pair", "list"))
    assert dict(second.matryoshka) == {32: 1.0, 16: 0.3}


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        ((896, 512, 256, 128, 64), {32: 1.0}),
        ((896, 16, 8, 4, 2), {32: 1.0, 16: 0.3, 8: 0.2, 4: 0.1, 2: 0.1}),
    ],
)
def test_widths_are_fitted_to_the_model(
    recipe: KaLMRecipe, trained: tuple[Path, Any], dims: tuple[int, ...], expected: dict[int, float]
) -> None:
    chosen = replace(recipe, matryoshka_dims=dims, matryoshka_weights=(1.0, 0.3, 0.2, 0.1, 0.1))
    assert choose_dims(chosen, fletching.load(trained[0])) == expected


@pytest.mark.slow
def test_the_smoke_recipe_runs_from_the_command_line(tmp_path: Path) -> None:
    arguments = ["train", "kalm", "--smoke", "--output", str(tmp_path / "x"), "--set", "epochs=2"]
    result = CliRunner().invoke(build_app(), arguments)
    assert result.exit_code == 0, result.output
    assert "dev_ndcg_at_10" in result.output
    assert isinstance(fletching.load(tmp_path / "x"), KaLMEmbedder)


TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
from fletching.methods.kalm import KaLMRecipe, recipe

def note(name):
    work = getattr(recipe, name)
    def noted(*args, **kwargs):
        with Path(sys.argv[1], "calls").open("a") as file:
            file.write(name + " ")
        return work(*args, **kwargs)
    setattr(recipe, name, noted)

torch.set_num_threads(1)
for name in ("mine_rows", "score_rows", "_save"):
    note(name)
chosen = KaLMRecipe(
    synthetic=True, stages=("pretrain", "finetune", "distill"), teacher=sys.argv[2], matryoshka_dims=(),
    matryoshka_weights=(), negatives=2, filter_top_k=None, mining_range=(5, 40), batch_size=16, max_tokens=64,
)
print(chosen.run(Path(sys.argv[1]) / "run")["after"]["dev_ndcg_at_10"])
"""


@pytest.mark.slow
def test_of_two_processes_one_writes_and_both_train(
    run_in_two_processes: Any, trained: tuple[Path, Any], tmp_path: Path
) -> None:
    (first, errors), (second, _) = run_in_two_processes(TWO_PROCESSES, str(tmp_path), str(trained[0]))
    assert first == second != "", errors
    assert (tmp_path / "calls").read_text().split() == ["_save", "mine_rows", "_save", "score_rows", "_save"]


def test_training_on_nothing_is_refused(data: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="`pretrain_data` must be at least one file of rows"):
        KaLMRecipe().run(tmp_path)
    chosen = KaLMRecipe(stages=("finetune",))
    with pytest.raises(ArgumentError, match="`train_data` must be at least one file of rows"):
        chosen.run(tmp_path)


def test_a_missing_file_is_found_before_any_training(recipe: KaLMRecipe, tmp_path: Path) -> None:
    chosen = replace(recipe, train_data=(str(tmp_path / "gone.jsonl"),))
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        chosen.run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_distillation_without_a_teacher_is_refused(
    recipe: KaLMRecipe, trained: tuple[Path, Any], tmp_path: Path
) -> None:
    chosen = replace(recipe, stages=("distill",), base=str(trained[0]), dev_data=())
    with pytest.raises(ArgumentError, match="`teacher` must be given for rows without a teacher's scores"):
        chosen.run(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_template": "Query: "}, "`template` must be text with one {instruction}"),
        ({"max_rows": 0}, "`max_rows` must be a positive integer"),
        ({"save_steps": 0}, "`save_steps` must be a positive integer"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        KaLMRecipe(**options)


def test_synthetic_rows_can_be_sampled() -> None:
    rows = build_synthetic_rows()
    assert {row.task for row in rows} == {"things", "topics"}
    assert len(RowSampler(rows, n_negatives=2)) == len(rows)
    assert build_synthetic_rows() == rows != build_synthetic_rows(seed=1)


def test_an_evaluator_counts_what_is_found() -> None:
    """Two queries, three texts, a model that finds the first query's text first and the other's second."""

    class Known:
        model_card_data = SimpleNamespace(set_evaluation_metrics=lambda *args: None)

        def encode(self, inputs: list[str], **options: Any) -> torch.Tensor:
            vectors = {"q": [1.0, 0.0], "r": [0.0, 1.0], "a": [1.0, 0.1], "b": [0.9, 0.5], "c": [0.0, 0.9]}
            return torch.tensor([vectors[text] for text in inputs])

    metrics = KaLMRowEvaluator([KaLMRow("q", ("a",), ("c",)), KaLMRow("r", ("b",))])(Known())
    assert metrics["dev_mrr_at_10"] == pytest.approx((1 + 1 / 2) / 2)
    assert metrics["dev_recall_at_100"] == 1.0


def test_a_new_run_that_is_killed_early_leaves_nothing_of_the_one_before(
    recipe: KaLMRecipe, tmp_path: Path, kill_at_checkpoint: Any
) -> None:
    """Killed in its first stage: it must not go on with checkpoints of the other one's second stage."""
    stale = tmp_path / "finetune_3" / "checkpoints" / "checkpoint-9"
    stale.mkdir(parents=True)
    with kill_at_checkpoint(1):
        replace(recipe, stages=("pretrain", "finetune", "soup"), soup_seeds=2).run(tmp_path)
    assert (tmp_path / "pretrain" / "checkpoints" / "checkpoint-3").is_dir()
    assert not stale.exists()


def test_a_run_is_not_gone_on_with_under_other_settings(
    recipe: KaLMRecipe, trained: tuple[Path, Any]
) -> None:
    with pytest.raises(ArgumentError, match=r"`batch_size` must be .* begun with, 5; got 4"):
        replace(recipe, batch_size=4).run(trained[0], resume=True)
