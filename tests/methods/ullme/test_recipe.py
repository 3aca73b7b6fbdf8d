"""The recipe: every objective trains, goes on after a kill, and says what it did."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftConfig
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import fletching
from fletching.cli import build_app
from fletching.errors import ArgumentError, CheckpointError, DataError
from fletching.methods.ullme import LLMEmbedder, ULLMERecipe
from fletching.methods.ullme.data import TrainingRow, ULLMECollator, build_columns, hold_out, read_rows
from fletching.methods.ullme.evaluation import build_retrieval_set, measure_model
from fletching.methods.ullme.losses import GRLLoss
from fletching.methods.ullme.presets import OBJECTIVES, PRESETS
from fletching.methods.ullme.settings import GRLSettings
from fletching.methods.ullme.synthetic import save_word_llama, write_rows
from fletching.methods.ullme.training import TRAINED_FILE, ClusterBatchSampler, has_full_batch
from fletching.training.recipe import RESULTS_FILE


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()  # trainers collect garbage again and again: not among what is there by now
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", n_rows=14, seed=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_word_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def recipe(rows: Path, base: str) -> ULLMERecipe:
    return ULLMERecipe(
        base=base,
        train_data=(str(rows),),
        held_out=2,
        batch_size=4,
        mini_batch_size=3,
        max_steps=None,
        epochs=2.0,
        learning_rate=1e-2,
        lora_rank=4,
        max_seq_length=48,
        precision="fp32",
        save_steps=2,
    )


@pytest.fixture(scope="module")
def train_once(
    recipe: ULLMERecipe, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, Any]]:
    """Train with some settings, the same for all tests that look at what comes out."""

    @cache
    def train(**changes: Any) -> tuple[Path, Any]:
        folder = tmp_path_factory.mktemp("run")
        return folder, replace(recipe, **changes).run(folder)

    return train


def read_record(folder: Path) -> Any:
    return json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    return fletching.load(folder, device="cpu").state_dict()


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param(name, marks=[] if name == "grl" else [pytest.mark.slow])
        for name in OBJECTIVES
        if name != "simcse"
    ],
)
def test_every_objective_trains_and_saves_what_was_measured(objective, train_once, recipe, rows, base):
    folder, results = train_once(objective=objective)
    model = fletching.load(folder, device="cpu")
    assert type(model) is LLMEmbedder
    _, away = hold_out(list(read_rows(rows)), 2, seed=recipe.seed)
    assert measure_model(model, [build_retrieval_set(away)]) == pytest.approx(results["after"])
    assert results["before"].keys() == results["after"].keys()
    assert read_record(folder)["results"] == results
    before = LLMEmbedder(base, device="cpu").state_dict()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("proj" in name for name in changed)  # the linear layers, which have the adapters


def test_simcse_trains_on_sentences(recipe, tmp_path):
    sentences = tmp_path / "sentences.txt"
    sentences.write_text("".join(f"what topic{number}word0\n" for number in range(9)), encoding="utf-8")
    chosen = replace(recipe, objective="simcse", train_data=(str(sentences),), held_out=0, epochs=1.0)
    assert chosen.run(tmp_path / "run") == {"before": {}, "after": {}}
    record = read_record(tmp_path / "run")
    assert record["rows"] == {"sentences": 9}
    assert record["loss"]["kl_weight"] == record["loss"]["gen_weight"] == 0
    assert isinstance(fletching.load(tmp_path / "run"), LLMEmbedder)


def test_a_run_killed_and_resumed_ends_with_the_same_weights(
    recipe, train_once, tmp_path, kill_at_checkpoint
):
    """Killed behind its first checkpoint, in the middle of an epoch; two adapters, with dropout."""
    whole_folder, _ = train_once(objective="grl")
    with kill_at_checkpoint(1):
        recipe.run(tmp_path)
    recipe.run(tmp_path, resume=True)
    whole, killed = load_weights(whole_folder), load_weights(tmp_path)
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert read_record(whole_folder)["results"] == read_record(tmp_path)["results"]


def test_a_checkpoint_of_other_settings_is_refused(recipe, train_once, tmp_path):
    """The run notes its settings; a checkpoint without that note is told by its weights."""
    trained, _ = train_once(objective="grl")
    folder = Path(copytree(trained, tmp_path / "copy"))
    with pytest.raises(ArgumentError, match=r"`lora_rank` must be .* begun with, \d+; got 2"):
        replace(recipe, lora_rank=2).run(folder, resume=True)
    (folder / "checkpoints" / "plan_ULLMERecipe.json").unlink()
    with pytest.raises(CheckpointError, match="holds other weights than are trained now"):
        replace(recipe, lora_rank=2).run(folder, resume=True)
    saved = next((folder / "checkpoints").glob(f"*/{TRAINED_FILE}"))
    assert saved.is_file()


def test_the_saved_folder_is_a_language_model_of_transformers(train_once):
    folder, _ = train_once(objective="grl")
    assert not list(folder.glob("adapter_*"))
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert not hasattr(model, "peft_config")


@pytest.mark.slow
def test_adapters_are_kept_when_asked(train_once):
    """The embedding adapter on the base is the merged model."""
    folder, _ = train_once(keep_adapters=True)
    names = sorted(path.name for path in (folder / "adapters").iterdir())
    assert names == ["embedding", "generation"]
    assert all(PeftConfig.from_pretrained(folder / "adapters" / name).r == 4 for name in names)
    merged = fletching.load(folder, device="cpu")
    adapted = LLMEmbedder(folder / "adapters" / "embedding", device="cpu", max_seq_length=48)
    text = ["what of topic1word1"]
    assert torch.allclose(*(torch.tensor(model.encode(text)) for model in (merged, adapted)), atol=1e-5)


@pytest.mark.slow
def test_all_weights_are_trained_without_adapters(recipe, base, tmp_path):
    chosen = replace(recipe, lora_rank=0, objective="contrastive", epochs=1.0)
    chosen.run(tmp_path)
    before, after = LLMEmbedder(base, device="cpu").state_dict(), load_weights(tmp_path)
    name = next(name for name in after if name.endswith("layers.0.input_layernorm.weight"))
    assert not torch.equal(after[name], before[name])


@pytest.mark.slow
def test_several_files_are_data_sets_of_their_own(recipe, base, tmp_path):
    """One with clusters and no negatives of other rows, one plain."""
    first, second = (write_rows(tmp_path / f"{name}.jsonl", n_rows=8, seed=2) for name in ("a", "b"))
    records = [json.loads(line) for line in first.read_text(encoding="utf-8").splitlines()]
    for number, record in enumerate(records):
        record["cluster"] = number % 2
    first.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    files = (str(first), str(second))
    chosen = replace(recipe, train_data=files, own_negatives_only=("a",), held_out=0, epochs=1.0)
    chosen.run(tmp_path / "run")
    assert read_record(tmp_path / "run")["rows"] == {"a": 8, "b": 8}


def test_dev_data_of_every_kind_is_measured(recipe, rows, tmp_path):
    pairs = tmp_path / "pairs.tsv"
    lines = ["score\tsentence1\tsentence2", "5\ttopic1word0\ttopic1word1", "1\ttopic1word0\ttopic2word0"]
    pairs.write_text("\n".join([*lines, "3\ttopic3word0\twhat is"]) + "\n", encoding="utf-8")
    lists = tmp_path / "lists.jsonl"
    lists.write_text(
        json.dumps({"query": "topic1word0", "positives": ["topic1word4"], "negatives": ["topic2word4"]}),
        encoding="utf-8",
    )
    chosen = replace(recipe, dev_data=(str(pairs), str(lists)), held_out=0, epochs=0.5, objective="sft")
    results = chosen.run(tmp_path / "run")
    assert results["after"].keys() == {"pairs_spearman", "lists_ndcg_at_10", "lists_mrr_at_10"}
    assert read_record(tmp_path / "run")["data"].keys() == {"rows.jsonl", "pairs.tsv", "lists.jsonl"}


@pytest.mark.slow
def test_prompts_are_saved_with_the_model(recipe, tmp_path):
    replace(recipe, query_prompt="what", document_prompt="the", epochs=0.5).run(tmp_path)
    prompts = fletching.load(tmp_path).prompts
    assert (prompts["query"], prompts["document"]) == ("what", "the")


def test_the_smoke_recipe_runs_from_the_command_line(tmp_path):
    folder = tmp_path / "x"
    changes = ("max_steps=2", "batch_size=4", "mini_batch_size=4", "held_out=8")
    settings = [argument for change in changes for argument in ("--set", change)]
    arguments = ["train", "ullme", "--smoke", "--output", str(folder), *settings]
    result = CliRunner().invoke(build_app(), arguments)
    assert result.exit_code == 0, result.output
    assert "held_out_ndcg_at_10" in result.output
    assert isinstance(fletching.load(folder), LLMEmbedder)


@pytest.mark.slow
def test_the_smoke_recipe_learns(tmp_path):
    results = ULLMERecipe.smoke().run(tmp_path)
    assert results["after"]["held_out_ndcg_at_10"] > results["before"]["held_out_ndcg_at_10"] + 0.05


# --- the trainer ---


@pytest.mark.parametrize("mode", ["bf16", "checkpointing"])
def test_the_trainer_takes_the_same_steps_with_gradient_caching(mode, rows, base, tmp_path):
    """Two optimiser steps of two batches each; without dropout, so that only rounding may differ.

    In full precision the run without caching is plain, the one with it has checkpointing on top.
    """
    table = Dataset.from_list(build_columns(read_rows(rows))[:8])
    found, logs, evaluations = [], [], []
    for size in (None, 2):
        model = LLMEmbedder(base, device="cpu", max_seq_length=48)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model.add_lora(r=4, dropout=0.0)
        if mode == "checkpointing" and size:
            model.network.model.activation_checkpointing_enable({"use_reentrant": False})
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / str(size)),
            max_steps=2,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=0.1,
            optim="sgd",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            dataloader_pin_memory=False,
            bf16=mode == "bf16",
        )
        trainer = SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=table,
            eval_dataset=table.select(range(3)),
            loss=GRLLoss(model, mini_batch_size=size),
            data_collator=ULLMECollator(model),  # type: ignore[arg-type]
        )
        trainer.train()
        evaluations.append(trainer.evaluate())
        found.append({name: value for name, value in model.named_parameters() if value.requires_grad})
        logs.append(trainer.state.log_history[0])
    assert {"contrastive", "kl", "generation"} <= logs[0].keys()
    tolerance = 5e-3 if mode == "bf16" else 1e-6
    assert evaluations[0]["eval_loss"] == pytest.approx(evaluations[1]["eval_loss"], rel=10 * tolerance)
    assert any(value.abs().sum() > 0 for name, value in found[0].items() if "lora_B" in name)
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], atol=tolerance), name


def test_batches_of_clusters_are_of_one_cluster_and_cover_all():
    table = {"cluster": ["a", "b"] * 5}
    sampler = ClusterBatchSampler(table, batch_size=2, drop_last=False, seed=3)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 6
    assert sorted(index for batch in batches for index in batch) == list(range(10))
    assert all(len({index % 2 for index in batch}) == 1 for batch in batches)
    assert list(sampler) == batches
    sampler.set_epoch(1)
    assert list(sampler) != batches
    full = ClusterBatchSampler(table, batch_size=2, drop_last=True, seed=3)
    assert [len(batch) for batch in full] == [2] * len(full) == [2] * 4


def test_clusters_smaller_than_a_batch_have_no_full_batch():
    table = Dataset.from_dict({"anchor": ["a"] * 5, "cluster": ["x", "x", "x", "y", "y"]})
    assert [has_full_batch(table, size) for size in (3, 4)] == [True, False]
    assert has_full_batch(table.remove_columns("cluster"), 5)


def test_rows_of_one_query_are_one_query_to_evaluate():
    data = build_retrieval_set([TrainingRow("q", ("a",), ("b",)), TrainingRow("q", ("c",))])
    assert data.queries == {"0": "q"}
    assert data.qrels == {"0": {"0": 1, "2": 1}}


# --- settings ---


def test_defaults_are_those_of_the_released_checkpoints():
    recipe = ULLMERecipe()
    names = ("batch_size", "max_seq_length", "max_steps", "epochs", "learning_rate", "scheduler")
    assert tuple(getattr(recipe, name) for name in names) == (512, 512, 500, 1.0, 2e-4, "cosine")
    assert (recipe.lora_rank, recipe.lora_alpha, recipe.lora_dropout, recipe.two_adapters) == (
        16,
        32,
        0.1,
        True,
    )
    assert (recipe.mini_batch_size, recipe.precision, recipe.seed) == (2, "bf16", 2708)
    assert recipe.build_settings() == replace(GRLSettings(), two_adapters=True)


def test_a_preset_gives_what_is_not_given():
    recipe = ULLMERecipe.from_preset("ullme", learning_rate=3e-5, seed=2708)
    assert (recipe.learning_rate, recipe.batch_size) == (3e-5, 16)
    assert recipe.seed == 2708  # given, though it is the value without a preset
    settings = recipe.build_settings()
    assert (settings.contrastive_loss, settings.similarity, settings.reference) == (
        "ntxent",
        "euclidean",
        "none",
    )
    assert replace(recipe, seed=5).batch_size == 16


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_recipe(name):
    recipe = ULLMERecipe.from_preset(name)
    assert all(getattr(recipe, field) == value for field, value in PRESETS[name].items())


def test_a_preset_that_is_none_is_refused():
    with pytest.raises(ArgumentError, match="Did you mean 'genc'"):
        ULLMERecipe.from_preset("gen")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "grll"}, "Did you mean 'grl'"),
        ({"precision": "fp16"}, "`precision` must be one of 'bf16', 'bf16-mixed', 'fp32'"),
        ({"batch_size": 0}, "`batch_size` must be an integer >= 1; got 0"),
        ({"mini_batch_size": 0}, "`mini_batch_size` must be an integer >= 1; got 0"),
        ({"held_out": -1}, "`held_out` must be an integer >= 0"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
        ({"temperature": 0.0}, "ULLMERecipe: `temperature` must be positive"),
        ({"weight_decay": -0.1}, "`weight_decay` must be zero or positive"),
        ({"warmup_ratio": 1.0}, "`warmup_ratio` must be from 0 to below 1"),
        ({"pooling": "median"}, "`pooling` must be one of"),
        ({"lora_dropout": 1.0}, "`dropout` must be a number from 0 up, less than 1"),
        ({"lora_rank": 0}, "`lora_rank` must be positive for two adapters"),
        ({"lora_rank": 0, "two_adapters": False}, "Or set two_adapters=False and reference='none'"),
        ({"n_negatives": 0}, "at least 2 a query, for the KL term to compare; got 1"),
        ({"n_negatives": 0, "objective": "preference"}, "with a negative for the preference loss"),
        ({"objective": "preference", "gen_loss": "sft"}, "a preference loss for objective='preference'"),
        ({"objective": "simcse", "held_out": 3}, "`held_out` must be 0 for sentences"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        ULLMERecipe(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_data": ()}, "`train_data` must be at least one file"),
        ({"own_negatives_only": ("row",)}, "Did you mean 'rows'"),
    ],
)
def test_bad_data_settings_are_refused_before_training(options, message, recipe, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        replace(recipe, **options).run(tmp_path)


def test_rows_without_enough_negatives_are_refused(recipe, tmp_path):
    with pytest.raises(DataError, match="rows with 1 positives and 3 negatives; got 12 rows"):
        replace(recipe, n_negatives=3).run(tmp_path)
