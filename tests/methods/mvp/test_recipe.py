"""The training recipe: it learns, it resumes to the same weights, it says what it did."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fletching
from fletching.data import CandidateList
from fletching.errors import ArgumentError
from fletching.methods.mvp import MVPConfig, MVPRecipe, MVPReranker
from fletching.methods.mvp.data import read_lists
from fletching.methods.mvp.evaluation import MVPListEvaluator
from fletching.testing.tiny import save_tiny_bert, save_tiny_embedder, save_tiny_t5
from fletching.training.recipe import RESULTS_FILE

WORDS = ("arrow", "bow", "string", "feather", "goose", "shaft", "wind", "target", "archer", "wood")


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Lists whose best passage repeats the query's word."""
    path = tmp_path_factory.mktemp("data") / "lists.jsonl"
    records = []
    for number in range(24):
        word, others = WORDS[number % 10], [WORDS[(number + shift) % 10] for shift in (1, 3, 4, 7)]
        documents = [f"the {word} is {word}", *(f"the {other} is {other}" for other in others)]
        shift = number % 5
        labels = [1.0, 0.0, 0.0, 0.0, 0.0]
        records.append(
            {
                "query": f"what is a {word}",
                "documents": documents[shift:] + documents[:shift],
                "labels": labels[shift:] + labels[:shift],
                "source": "toy",
            }
        )
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return str(path)


@pytest.fixture
def recipe(lists: str, tmp_path: Path) -> MVPRecipe:
    return MVPRecipe(
        base=save_tiny_bert(tmp_path / "base"),
        train_data=(lists,),
        dev_data=(lists,),
        max_seq_length=40,
        lists_per_batch=8,
        lists_per_step=4,
        learning_rate=3e-3,
        optimizer="adamw_torch",
        eval_steps=3,
        epochs=3,
    )


def test_the_best_checkpoint_is_kept(recipe: MVPRecipe, tmp_path: Path) -> None:
    """The result is that of the best evaluation, not of the last, and the saved model reproduces it."""
    results = recipe.run(tmp_path)
    state = json.loads(
        (sorted((tmp_path / "checkpoints").glob("checkpoint-*"))[-1] / "trainer_state.json").read_text()
    )
    seen = [entry["eval_dev_ndcg_at_10"] for entry in state["log_history"] if "eval_dev_ndcg_at_10" in entry]
    assert len(seen) == 3
    assert results["after"]["dev_ndcg_at_10"] == pytest.approx(max(seen))
    evaluator = MVPListEvaluator(list(read_lists(recipe.dev_data[0])))
    assert evaluator(fletching.load(tmp_path)) == results["after"]


def test_the_evaluator_skips_lists_without_labels() -> None:
    labelled = CandidateList("q", ("a", "b"), (0.0, 1.0))
    evaluator = MVPListEvaluator([CandidateList("q", ("a", "b"), ()), labelled])
    assert evaluator.lists == [labelled]


def test_a_run_killed_and_resumed_ends_with_the_same_weights(
    recipe: MVPRecipe, tmp_path: Path, kill_at_checkpoint: Any
) -> None:
    recipe.run(tmp_path / "whole")
    with kill_at_checkpoint(2) as saved:
        recipe.run(tmp_path / "killed")
    recipe.run(tmp_path / "killed", resume=True)
    assert saved == [3, 6]
    whole, killed = (fletching.load(tmp_path / name).state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    records = [json.loads((tmp_path / name / RESULTS_FILE).read_text()) for name in ("whole", "killed")]
    assert records[0]["results"] == records[1]["results"]


def test_results_file_says_what_was_trained_on_what(recipe: MVPRecipe, tmp_path: Path) -> None:
    results = replace(recipe, epochs=1).run(tmp_path)
    record = json.loads((tmp_path / RESULTS_FILE).read_text(encoding="utf-8"))
    assert record["results"] == results
    assert record["lists"] == 24
    assert record["recipe"]["seed"] == 0
    assert len(record["data"]["lists.jsonl"]) == 16
    assert record["versions"]["torch"] == torch.__version__
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "MVPReranker" in card
    assert 'CrossEncoder("' not in card


def test_the_same_seed_trains_the_same_model(recipe: MVPRecipe, tmp_path: Path) -> None:
    short = replace(recipe, epochs=1, dev_data=())
    for name in ("a", "b"):
        torch.manual_seed(len(name) + 5)  # what the process did before does not matter
        assert short.run(tmp_path / name) == {"before": {}, "after": {}}
    one, two = (fletching.load(tmp_path / name).state_dict() for name in ("a", "b"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("network", "build"),
    [(None, save_tiny_t5), ("bi_encoder", save_tiny_embedder), ("encoder", save_tiny_bert)],
)
def test_every_network_trains(network: str | None, build: Any, recipe: MVPRecipe, tmp_path: Path) -> None:
    options = {"network": network, "base": build(tmp_path / "other"), "optimizer": "adafactor"}
    replace(recipe, **options, epochs=1, dev_data=(), inference_seq_length=64).run(tmp_path / "out")
    model = fletching.load(tmp_path / "out")
    assert type(model) is MVPReranker
    assert model.max_seq_length == 64
    again = replace(recipe, base=str(tmp_path / "out"), epochs=1, dev_data=())
    again.run(tmp_path / "again")


def test_defaults_are_the_papers() -> None:
    config = MVPConfig()
    assert (config.n_views, config.passages_per_list, config.temperature) == (4, 5, 0.8)
    assert (config.orthogonality_weight, config.double_softmax, config.learning_rate) == (1.0, True, 1e-4)
    assert (config.lists_per_batch, config.epochs, config.warmup_ratio, config.seed) == (64, 1.0, 0.05, 0)
    assert (config.max_seq_length, config.optimizer) == (256, "adafactor")


def test_training_on_nothing_is_refused(recipe: MVPRecipe, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="`train_data` must be at least one file of lists"):
        replace(recipe, train_data=()).run(tmp_path)


def test_unknown_network_is_refused(recipe: MVPRecipe, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="Did you mean 'bi_encoder'"):
        replace(recipe, network="biencoder").run(tmp_path)
