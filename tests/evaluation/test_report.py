from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fletching.data import read_run
from fletching.evaluation.report import (
    describe_results,
    format_csv,
    percentiles,
    save_comparison,
    tabulate_queries,
    tabulate_results,
)
from fletching.evaluation.results import Comparison, Cost, Difference, SystemResult
from fletching.metrics import Interval, RunEvaluation

MEASURE = "ndcg_at_10"


def build_result(name: str, mean: float, *, baseline: bool = False, **options: Any) -> SystemResult:
    values = {MEASURE: np.array([mean - 0.1, mean + 0.1])}
    return SystemResult(
        name=name,
        kind="reranker",
        fingerprint="ab",
        run={"q1": {"d1": 2.0, "d2": 1.0}},
        evaluation=RunEvaluation(("q1", "q2"), values, n_missing=1, n_unjudged=2, n_without_relevant=0),
        intervals={MEASURE: Interval(mean, mean - 0.1, mean + 0.1, 0.95)},
        differences={} if baseline else {MEASURE: Difference(Interval(0.25, -0.05, 0.5, 0.95), 0.125)},
        cost=options.pop("cost", Cost()),
        **options,
    )


@pytest.fixture
def comparison() -> Comparison:
    cost = Cost(latency_ms={"q1": 10.0, "q2": 30.0}, prepare_seconds=1.5, tokens=7, padding=0.25)
    results = (
        build_result("bm25", 0.5, baseline=True),
        build_result("owner/model", 0.75, cost=cost, first_stage="bm25", first_stage_recall=0.8),
    )
    return Comparison("archery", "d1", (MEASURE,), "bm25", results, {"judged queries without text": 3})


def test_each_system_is_described(comparison: Comparison) -> None:
    described = describe_results(comparison)[1]

    assert described["name"] == "owner/model"
    assert described["metrics"] == {MEASURE: {"value": 0.75, "low": 0.65, "high": 0.85}}
    assert described["differences"] == {MEASURE: {"value": 0.25, "low": -0.05, "high": 0.5, "p_value": 0.125}}
    assert (described["baseline"], described["tokens"], described["padding"]) == ("bm25", 7, 0.25)
    assert (described["first_stage"], described["first_stage_recall"]) == ("bm25", 0.8)
    assert described["queries"] == {"judged": 2, "missing": 1, "unjudged": 2, "without_relevant": 0}
    assert described["data"]["skipped"] == {"judged queries without text": 3}


def test_what_is_not_known_is_empty(comparison: Comparison) -> None:
    described = describe_results(comparison)[0]

    assert (described["latency_ms"], described["differences"]) == ({}, {})
    assert (described["tokens"], described["first_stage"]) == (None, None)


def test_description_is_plain_json(comparison: Comparison) -> None:
    described = describe_results(comparison)

    assert json.loads(json.dumps(described, allow_nan=False)) == described


def test_percentiles_of_latencies() -> None:
    """0, 1, ..., 100: each percentile is its own value, and the mean is 50."""
    found = percentiles({str(value): float(value) for value in range(101)})

    assert found == {"mean": 50.0, "p50": 50.0, "p95": 95.0, "p99": 99.0}


def test_rows_have_the_same_columns(comparison: Comparison) -> None:
    first, second = tabulate_results(comparison)

    assert list(first) == list(second)
    assert (first["ndcg_at_10_difference"], second["ndcg_at_10_difference_p_value"]) == (None, 0.125)
    assert (second["ndcg_at_10"], second["ndcg_at_10_low"], second["latency_ms_p50"]) == (0.75, 0.65, 20.0)


def test_queries_have_a_row_for_each_system(comparison: Comparison) -> None:
    rows = list(tabulate_queries(comparison))

    assert [(row["system"], row["query_id"], row["latency_ms"]) for row in rows] == [
        ("bm25", "q1", None),
        ("bm25", "q2", None),
        ("owner/model", "q1", 10.0),
        ("owner/model", "q2", 30.0),
    ]
    assert rows[0][MEASURE] == 0.4


def test_csv_comes_back() -> None:
    rows = [{"name": 'a, "b"', "tokens": None}, {"name": "c", "tokens": 1}]

    read = list(csv.DictReader(io.StringIO(format_csv(rows))))
    assert read == [{"name": 'a, "b"', "tokens": ""}, {"name": "c", "tokens": "1"}]


def test_comparison_is_saved(comparison: Comparison, tmp_path: Path) -> None:
    saved = save_comparison(comparison, tmp_path / "new" / "folder")

    names = [path.relative_to(tmp_path / "new" / "folder").as_posix() for path in saved]
    assert names == ["results.json", "results.csv", "queries.csv", "runs/bm25.tsv", "runs/owner-model.tsv"]
    assert json.loads(saved[0].read_text()) == describe_results(comparison)
    assert len(saved[2].read_text().splitlines()) == 5
    assert read_run(saved[3]) == {"q1": {"d1": 2.0, "d2": 1.0}}


def test_saving_twice_replaces(comparison: Comparison, tmp_path: Path) -> None:
    save_comparison(comparison, tmp_path)
    first = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    save_comparison(comparison, tmp_path)

    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == first


def test_files_of_systems_never_meet(tmp_path: Path) -> None:
    """Names that become one, also where a file system does not tell capitals apart."""
    names = ["a/b", "a-b", "A b", "..", "モデル"]
    results = tuple(build_result(name, 0.5, baseline=True) for name in names)
    saved = save_comparison(Comparison("x", "d", (MEASURE,), "a/b", results, {}), tmp_path)

    runs = [path.stem for path in saved if path.parent.name == "runs"]
    assert runs == ["a-b", "a-b-2", "A-b-3", "system", "モデル"]
