"""The recipe: every baseline learns, goes on after a kill, and says what it did."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fletching
from fletching.errors import ArgumentError, DataError
from fletching.methods.multi_cpr import MultiCPREvaluator, MultiCPRRecipe
from fletching.methods.mvp import MVPReranker
from fletching.models.embedder import Embedder
from fletching.models.reranker import Reranker


@pytest.fixture
def recipe(root: Path, base: str) -> MultiCPRRecipe:
    return MultiCPRRecipe(
        train_data=(str(root),),
        domain="video",
        base=base,
        learning_rate=3e-3,
        epochs=2.0,
        batch_size=16,
        accumulation_steps=1,
        max_tokens=48,
        depth=10,
        pool_size=8,
        group_size=5,
        development_queries=10,
        development_random=20,
        development_depth=10,
        save_steps=3,
    )


def read_record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "fletching_training.json").read_text(encoding="utf-8"))


def test_dual_encoder_learns_and_reproduces_its_result(recipe: MultiCPRRecipe, tmp_path: Path) -> None:
    results = replace(recipe, learning_rate=6e-3, epochs=8.0, batch_size=8, save_steps=100).run(tmp_path)
    before, after = results["before"], results["after"]
    assert set(before) == {"development_mrr_at_10", "development_recall_at_10"}
    assert set(after) == {*before, "test_mrr_at_10", "test_recall_at_10"}
    assert after["development_mrr_at_10"] > before["development_mrr_at_10"]

    model = fletching.load(tmp_path)
    assert type(model) is Embedder
    test = MultiCPREvaluator(recipe.open_test(tmp_path), depth=10, name="test")(model)
    assert test["test_mrr_at_10"] == pytest.approx(after["test_mrr_at_10"])

    record = read_record(tmp_path)
    assert record["results"] == results
    assert record["queries"]["test"] == 20
    assert record["queries"]["train"] + record["queries"]["development"] == 90
    assert "held_out_positives_and_20_random_not_comparable" in record["data_sets"]["development"]
    assert set(record["data"]) == {
        "train.query.txt",
        "qrels.train.tsv",
        "dev.query.txt",
        "qrels.dev.tsv",
    }


@pytest.mark.parametrize("baseline", ["dual_encoder", "cross_encoder"])
def test_a_run_killed_and_resumed_ends_with_the_same_weights(
    baseline: str,
    recipe: MultiCPRRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill_at_checkpoint: Any,
) -> None:
    recipe = replace(recipe, baseline=baseline, max_queries=20, batch_size=8, evaluate_test=False)
    use_characters(monkeypatch)
    whole_results = recipe.run(tmp_path / "whole")
    with kill_at_checkpoint(1):
        recipe.run(tmp_path / "killed")
    assert not recipe.is_done(tmp_path / "killed")
    assert recipe.run(tmp_path / "killed", resume=True) == whole_results
    assert recipe.is_done(tmp_path / "killed")
    whole, killed = (fletching.load(tmp_path / name).state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def use_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Split by characters, which needs no extra for Chinese."""
    from fletching.evaluation.bm25 import BM25

    monkeypatch.setattr("fletching.methods.multi_cpr.recipe.BM25", lambda splitter: BM25(splitter=list))


def test_cross_encoder_reranks_what_the_first_stage_found(
    recipe: MultiCPRRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_characters(monkeypatch)
    results = replace(recipe, baseline="cross_encoder", epochs=1.0, max_queries=16).run(tmp_path)
    after = results["after"]
    assert after["test_recall_at_10"] == after["test_first_stage_recall_at_10"]
    assert after["test_first_stage_mrr_at_10"] > 0.5
    assert set(results["before"]) == {"development_mrr_at_10", "development_recall_at_10"}
    assert type(fletching.load(tmp_path)) is Reranker
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        "pools.jsonl",
        "development.tsv",
        "test.tsv",
    }


def test_an_embedder_can_be_the_first_stage(recipe: MultiCPRRecipe, tmp_path: Path) -> None:
    """As in the reference: the reranker of a dual encoder of the same domain."""
    short = replace(recipe, epochs=0.2, evaluate_test=False, max_queries=20)
    short.run(tmp_path / "dual")
    reranker = replace(short, baseline="cross_encoder", first_stage=str(tmp_path / "dual"))
    results = reranker.run(tmp_path / "cross")
    assert set(results["after"]) == {"development_mrr_at_10", "development_recall_at_10"}


def test_mvp_is_found_by_its_name(
    recipe: MultiCPRRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_characters(monkeypatch)
    results = replace(recipe, baseline="mvp", epochs=1.0, max_queries=16).run(tmp_path)
    assert set(results["before"]) == {"development_ndcg_at_10"}
    assert {"development_ndcg_at_10", "development_mrr_at_10", "test_mrr_at_10"} <= set(results["after"])
    assert type(fletching.load(tmp_path)) is MVPReranker
    assert read_record(tmp_path)["recipe"]["baseline"] == "mvp"


def test_words_are_measured_and_their_runs_kept(
    recipe: MultiCPRRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_characters(monkeypatch)
    results = replace(recipe, baseline="bm25").run(tmp_path)
    assert results["before"] == {}
    assert results["after"]["test_mrr_at_10"] > 0.5
    assert (tmp_path / "runs" / "test.tsv").is_file()
    assert read_record(tmp_path)["results"] == results


def test_smoke_needs_nothing_but_itself(tmp_path: Path) -> None:
    recipe = replace(MultiCPRRecipe.smoke(), epochs=0.1, domain="ecom")
    assert recipe.run(tmp_path)["after"].keys() > {"test_mrr_at_10"}
    assert (tmp_path / "collection" / "medical" / "corpus_split_4.tsv").is_file()


def test_the_development_set_is_the_same_for_every_seed(recipe: MultiCPRRecipe, tmp_path: Path) -> None:
    one, other = (replace(recipe, seed=seed)._open_splits(tmp_path) for seed in (1, 2))
    assert one.development.queries == other.development.queries
    assert one.test.split == "dev"
    assert not one.train.queries.keys() & one.development.queries.keys()
    assert one.development.split == "train"


def test_missing_passages_are_reported_before_training(
    recipe: MultiCPRRecipe, root: Path, tmp_path: Path
) -> None:
    domain = tmp_path / "data" / "video"
    domain.mkdir(parents=True)
    for name in ("train.query.txt", "dev.query.txt", "qrels.train.tsv", "qrels.dev.tsv"):
        (domain / name).write_bytes((root / "video" / name).read_bytes())
    with pytest.raises(DataError, match=r"video/corpus.tsv: the file must be an existing file"):
        replace(recipe, train_data=(str(tmp_path / "data"),)).run(tmp_path / "out")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"domain": "news"}, "`domain` must be one of 'ecom', 'medical', 'video'; got 'news'"),
        ({"baseline": "dpr"}, "`baseline` must be one of 'bm25', 'dual_encoder', 'cross_encoder', 'mvp'"),
        ({"score": "l1"}, "`score` must be one of"),
        ({"development_depth": 5}, "`development_depth` must be an integer >= 10; got 5"),
        ({"n_random": -1}, "`n_random` must be an integer >= 0; got -1"),
    ],
)
def test_values_outside_their_domain_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"MultiCPRRecipe: {message}"):
        MultiCPRRecipe(**values)
