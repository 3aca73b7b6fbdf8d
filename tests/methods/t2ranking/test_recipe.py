"""The baselines train, resume and say what they did."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from transformers import Trainer
from typer.testing import CliRunner

import fletching
from fletching.cli import build_app
from fletching.errors import ArgumentError, DataError
from fletching.methods.mvp import MVPReranker
from fletching.methods.t2ranking import T2RankingConfig, T2RankingDataset, T2RankingEvaluator, T2RankingRecipe
from fletching.models.embedder import Embedder
from fletching.models.reranker import Reranker
from fletching.training.recipe import RESULTS_FILE


@pytest.fixture(scope="module")
def recipe(collection: Path, base: str) -> T2RankingRecipe:
    return T2RankingRecipe(
        train_data=(str(collection),),
        base=base,
        negatives=("bm25",),
        group_size=3,
        batch_size=4,
        learning_rate=3e-3,
        epochs=3,
        eval_epochs=1,
        passage_tokens=48,
        pair_tokens=48,
        depth=30,
        texts_per_step=8,
        seed=3,
    )


@pytest.fixture(scope="module")
def train_once(
    recipe: T2RankingRecipe, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Any]]:
    """Train a baseline, the same for all tests that look at what comes out."""

    @cache
    def train(baseline: str) -> tuple[Path, Any]:
        folder = tmp_path_factory.mktemp(baseline)
        return folder, replace(recipe, baseline=baseline).run(folder)

    return train


@pytest.fixture(scope="module")
def two_stages(
    recipe: T2RankingRecipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[T2RankingRecipe, Path]:
    """A finished run with BM25 negatives, then with those that its first model mined."""
    folder = tmp_path_factory.mktemp("two_stages")
    chosen = replace(recipe, negatives=("bm25", "self_mined"), window=30, epochs=1)
    chosen.run(folder)
    return chosen, folder


def read_record(folder: Path) -> Any:
    return json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))


def evaluate_again(folder: Path, collection: Path, *, reranks: bool) -> dict[str, float]:
    dev = T2RankingDataset(collection, "dev")
    lists = {query: ranking[:30] for query, ranking in dev.stream_run("bm25")} if reranks else None
    evaluator = T2RankingEvaluator(
        dev.queries, dev.corpus, dev.positives, candidates=lists, levels=dev.qrels_graded, name="dev"
    )
    return evaluator(fletching.load(folder, device="cpu"))


@pytest.mark.parametrize(
    ("baseline", "model_class"),
    [("dual_encoder", Embedder), ("cross_encoder", Reranker), ("mvp", MVPReranker)],
)
def test_a_trained_baseline_is_what_was_measured(
    baseline: str, model_class: type, train_once: Callable[[str], tuple[Path, Any]], collection: Path
) -> None:
    folder, results = train_once(baseline)
    assert type(fletching.load(folder)) is model_class
    again = evaluate_again(folder, collection, reranks=baseline != "dual_encoder")
    assert results["after"] == pytest.approx(again)
    assert read_record(folder)["results"] == results
    assert results["before"] != results["after"]


@pytest.mark.parametrize("baseline", ["dual_encoder", "cross_encoder"])
def test_a_run_killed_and_resumed_ends_with_the_same_weights(
    baseline: str,
    recipe: T2RankingRecipe,
    train_once: Callable[[str], tuple[Path, Any]],
    tmp_path: Path,
    kill_at_checkpoint: Any,
) -> None:
    """Killed behind its first checkpoint: the negatives of the second and third epoch must follow."""
    chosen = replace(recipe, baseline=baseline)
    whole_folder, _ = train_once(baseline)
    with kill_at_checkpoint(1):
        chosen.run(tmp_path)
    chosen.run(tmp_path, resume=True)
    whole, killed = (fletching.load(folder).state_dict() for folder in (whole_folder, tmp_path))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert read_record(whole_folder)["results"] == read_record(tmp_path)["results"]


def test_self_mined_negatives_are_the_models_own(
    two_stages: tuple[T2RankingRecipe, Path], collection: Path
) -> None:
    """The lists hold what the model of the first stage finds, 30 ranks beside the positives."""
    _, folder = two_stages
    train = T2RankingDataset(collection, "train")
    lists = dict(train.stream_run("mined", folder=folder))
    assert lists.keys() == train.positives.keys()
    model = fletching.load(folder / "bm25_negatives", device="cpu")
    query = next(iter(lists))
    corpus = dict(train.corpus)
    scores = model.encode_document(list(corpus.values())) @ model.encode_query(train.queries[query])
    ranking = [key for _, key in sorted(zip((-scores).tolist(), corpus, strict=True))]
    assert lists[query] == ranking[: len(lists[query])]
    assert len(lists[query]) >= 30
    whole, first = (read_record(folder / name) for name in (".", "bm25_negatives"))
    assert whole["results"]["before"] == first["results"]["before"]  # each stage starts from the base
    assert whole["results"]["after"] != first["results"]["after"]


def test_a_finished_stage_is_not_trained_again(
    two_stages: tuple[T2RankingRecipe, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, folder = two_stages
    trained: list[str] = []
    train = Trainer.train

    def note(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        trained.append(Path(str(self.args.output_dir)).parent.name)
        return train(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "train", note)
    chosen.run(folder, resume=True)
    assert trained == [folder.name]


def test_bm25_writes_its_lists(recipe: T2RankingRecipe, collection: Path, tmp_path: Path) -> None:
    """The words of a topic find its passages, which no other passage shares two of."""
    results = replace(recipe, baseline="bm25", style="standard").run(tmp_path)
    assert results["before"] == {}
    assert results["after"]["dev_mrr_at_10"] == 1.0
    lists = dict(T2RankingDataset(tmp_path, "dev").stream_run("bm25"))
    dev = T2RankingDataset(collection, "dev")
    assert lists.keys() == dev.queries.keys()
    assert all(lists[query][0] in relevant for query, relevant in dev.positives.items())


def test_bm25_counts_queries_for_which_it_found_nothing(
    recipe: T2RankingRecipe, collection: Path, tmp_path: Path
) -> None:
    """A file of lists has no row for such a query; MRR is divided by all queries that were asked."""
    copy = Path(shutil.copytree(collection, tmp_path / "collection"))
    with (copy / "queries.dev.tsv").open("a", encoding="utf-8") as file:
        file.write("99999\txyz\n")
    chosen = replace(recipe, baseline="bm25", train_data=(str(copy),))
    results = chosen.run(tmp_path / "run")
    assert results["after"]["dev_queries_ranked"] == 7.0
    assert results["after"]["dev_t2_mrr_at_10"] == pytest.approx(5 / 7)  # five of six have a passage


def test_results_file_says_what_was_trained_on_what(recipe: T2RankingRecipe, tmp_path: Path) -> None:
    replace(recipe, epochs=1, max_queries=5, dev_queries=0).run(tmp_path)
    record = read_record(tmp_path)
    assert record["rows"] == 5
    assert record["recipe"]["batch_size"] == 4
    assert {"collection.tsv", "queries.train.tsv", "qrels.train.tsv"} <= record["data"].keys()
    assert record["results"] == {"before": {}, "after": {}}
    assert "Embedder" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_dev_queries_are_drawn_by_the_seed(recipe: T2RankingRecipe, tmp_path: Path) -> None:
    results = replace(recipe, epochs=1, dev_queries=4).run(tmp_path)
    assert results["after"]["dev_queries_ranked"] == 4.0


def test_the_smoke_recipe_runs_from_the_command_line(tmp_path: Path) -> None:
    arguments = ["train", "t2ranking", "--smoke", "--output", str(tmp_path / "x"), "--set", "epochs=1"]
    result = CliRunner().invoke(build_app(), arguments)
    assert result.exit_code == 0, result.output
    assert "dev_t2_mrr_at_10" in result.output
    assert isinstance(fletching.load(tmp_path / "x"), Embedder)


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        ("dual_encoder", (("bm25", "self_mined"), 2, 200, 512, 2e-5, 200.0, 10)),
        ("cross_encoder", (("mined",), 64, 256, 128, 3e-5, 20.0, 1)),
    ],
)
def test_defaults_are_the_references(baseline: str, expected: tuple[Any, ...]) -> None:
    config = T2RankingConfig(baseline)
    names = ("negatives", "group_size", "window", "batch_size", "learning_rate", "epochs", "eval_epochs")
    assert tuple(config.resolve(name) for name in names) == expected
    assert (config.query_tokens, config.passage_tokens, config.pair_tokens, config.seed) == (
        32,
        300,
        332,
        2023,
    )
    assert (config.base, config.weight_decay, config.depth) == ("google-bert/bert-base-chinese", 0.0, 1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "bm52"}, "Did you mean 'bm25'"),
        ({"negatives": ("bm26",)}, "Did you mean 'bm25'"),
        ({"negatives": ("self_mined",)}, "Put 'bm25' in front of it"),
        ({"negatives": ()}, "`negatives` must be one source"),
        ({"baseline": "cross_encoder", "negatives": ("bm25", "mined")}, "`negatives` must be one source"),
        ({"group_size": 1}, "`group_size` must be an integer >= 2; got 1"),
        ({"epochs": 0}, "`epochs` must be positive; got 0"),
        ({"weight_decay": -1.0}, "`weight_decay` must be zero or positive"),
        ({"style": "t3"}, "must be one of 't2', 'standard'; got 't3'"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        T2RankingRecipe(**options)


def test_training_on_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="`train_data` must be the folder of one collection"):
        T2RankingRecipe().run(tmp_path)


def test_bm25_without_queries_is_refused(recipe: T2RankingRecipe, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="`dev_queries` must be positive for 'bm25'; got 0"):
        replace(recipe, baseline="bm25", dev_queries=0).run(tmp_path)


def test_a_missing_list_is_named(recipe: T2RankingRecipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dev\.colbert\.tsv: the file must be an existing file"):
        replace(recipe, baseline="cross_encoder", candidates="colbert").run(tmp_path)


def test_a_new_run_that_is_killed_early_leaves_nothing_of_the_one_before(
    two_stages: tuple[T2RankingRecipe, Path], tmp_path: Path, kill_at_checkpoint: Any
) -> None:
    """Killed in its first stage: neither the other one's first stage, nor what that mined, nor its second."""
    chosen, finished = two_stages
    copytree(finished, tmp_path, dirs_exist_ok=True)
    with kill_at_checkpoint(1):
        chosen.run(tmp_path)
    assert not (tmp_path / "bm25_negatives" / RESULTS_FILE).exists()
    assert not (tmp_path / "train.mined.tsv").exists()
    assert not list((tmp_path / "checkpoints").glob("checkpoint-*"))


def test_a_run_is_not_gone_on_with_under_other_settings(two_stages: tuple[T2RankingRecipe, Path]) -> None:
    chosen, finished = two_stages
    with pytest.raises(ArgumentError, match=r"`seed` must be .* begun with, 3; got 4"):
        replace(chosen, seed=4).run(finished, resume=True)
