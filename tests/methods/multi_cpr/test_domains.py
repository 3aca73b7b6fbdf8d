"""The table of domains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fletching.errors import ArgumentError
from fletching.evaluation.bm25 import BM25
from fletching.methods.multi_cpr import (
    DOMAINS,
    DomainTable,
    MultiCPRDataset,
    MultiCPREvaluator,
    MultiCPRRecipe,
    evaluate_domains,
    plot_domains,
    train_domains,
)

TABLE = DomainTable(
    {"BM25": {"ecom": 0.2253, "video": 0.22521}, "DPR": {"ecom": 0.2704, "video": 0.2537}},
    "mrr_at_10",
    {"ecom": "multi_cpr_ecom_dev", "video": "multi_cpr_video_dev"},
)


def test_every_system_is_measured_on_every_domain(root: Path) -> None:
    datasets = {domain: MultiCPRDataset(root, domain, "dev") for domain in DOMAINS}
    table = evaluate_domains({"characters": BM25(splitter=list)}, datasets)
    assert table.values == {
        "characters": {
            domain: MultiCPREvaluator(dataset, name="x")(BM25(splitter=list))["x_mrr_at_10"]
            for domain, dataset in datasets.items()
        }
    }
    assert table.data_names["ecom"] == "multi_cpr_ecom_dev"


def test_table_in_markdown() -> None:
    assert TABLE.to_markdown().splitlines() == [
        "| mrr_at_10 | ecom | video |",
        "| --- | --- | --- |",
        "| BM25 | 0.2253 | 0.2252 |",
        "| DPR | 0.2704 | 0.2537 |",
    ]


def test_plot_has_a_bar_for_each_value() -> None:
    (axes,) = plot_domains(TABLE).axes
    assert [bar.get_height() for group in axes.containers for bar in group] == [
        0.2253,
        0.22521,
        0.2704,
        0.2537,
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ecom", "video"]


def test_unknown_measures_and_empty_tables_are_refused(root: Path) -> None:
    datasets = {"ecom": MultiCPRDataset(root, "ecom", "dev")}
    with pytest.raises(
        ArgumentError, match="`measure` must be one of 'mrr_at_10', 'recall_at_1000'; got 'ndcg'"
    ):
        evaluate_domains({"characters": BM25(splitter=list)}, datasets, measure="ndcg")
    with pytest.raises(ArgumentError, match="`models` must be a mapping with at least one entry"):
        evaluate_domains({}, datasets)


def test_models_of_two_domains_cross(root: Path, base: str, tmp_path: Path) -> None:
    recipe = MultiCPRRecipe(
        train_data=(str(root),),
        base=base,
        learning_rate=3e-3,
        epochs=1.0,
        batch_size=16,
        accumulation_steps=1,
        max_tokens=48,
        development_queries=5,
        development_random=5,
        evaluate_test=False,
        n_random=20,
        max_queries=32,
    )
    domains = ("ecom", "video")
    table = train_domains(recipe, tmp_path, domains=domains, others={"BM25": BM25(splitter=list)})

    assert list(table.values) == ["trained on ecom", "trained on video", "BM25"]
    assert all(set(values) == set(domains) for values in table.values.values())
    assert "not_comparable" in table.data_names["ecom"]
    assert json.loads((tmp_path / "domains.json").read_text())["values"] == table.values

    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/model.safetensors")}
    again = train_domains(
        recipe, tmp_path, domains=domains, others={"BM25": BM25(splitter=list)}, resume=True
    )
    assert again == table
    assert {path: path.stat().st_mtime_ns for path in written} == written  # nothing was trained again


def test_rerankers_are_refused(root: Path, tmp_path: Path) -> None:
    recipe = MultiCPRRecipe(train_data=(str(root),), baseline="cross_encoder")
    with pytest.raises(ArgumentError, match=r"`recipe.baseline` must be 'dual_encoder', as a reranker"):
        train_domains(recipe, tmp_path)
