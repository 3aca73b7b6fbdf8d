from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fletching.cli import build_app
from fletching.methods.limit import (
    LimitDataset,
    LimitEvaluator,
    critical_dim,
    critical_n,
    max_docs,
    min_dim,
)
from fletching.methods.limit import data as limit_data
from fletching.metrics import bootstrap_interval
from fletching.models.loading import load
from fletching.testing import save_tiny_cross_encoder, save_tiny_embedder

PAIRS = "q1\td1\t1\nq1\td2\t1\nq2\td2\t1\nq2\td3\t1\nq3\td1\t1\nq3\td3\t1\nq4\td1\t0\n"


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_embedder(tmp_path_factory.mktemp("embedder"))


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_cross_encoder(tmp_path_factory.mktemp("reranker"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data as the authors release them: six queries on four documents, the items not listed."""
    data = LimitDataset.generate(n_queries=6, items_per_doc=3, seed=2, vocabulary=list("abcdefghij"))
    folder = data.save(tmp_path_factory.mktemp("limit"))
    (folder / "items.jsonl").unlink()
    return folder


@pytest.fixture
def qrels(tmp_path: Path) -> Path:
    """All three pairs of three documents; a query without anything relevant is left out."""
    path = tmp_path / "qrels.tsv"
    path.write_text(PAIRS)
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(build_app(), ["limit", *map(str, arguments)])


def run_json(*arguments: str | Path) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("arguments", "verdict", "answer"),
    [
        ("--docs 1000000 --dim 384", "beyond_best_case", r"^Doubtful: .* 12 .* about 217,000 documents"),
        ("--docs 28 --dim 8", "within_best_case", r"^Possibly: .* InfoNCE at T=0.1 is 28 documents\."),
        ("--docs 1000000 --dim 11", "ruled_out", "^No: every model needs at least 12 dimensions"),
        ("--docs 1000 --k 10 --dim 23", "not_ruled_out", "^Not ruled out: .* the bound of 23 .* k = 2 only"),
        ("--docs 1000000 --k 100", "needed", "^At least 425 dimensions"),
        ("--docs 28", "needed", r"^At least 3 dimensions: .* T=0.1 took 8 dimensions\."),
        ("--docs 5 --k 5 --dim 1", "trivial", "^Yes: all documents are one set"),
    ],
)
def test_dimension_answers_in_one_sentence(arguments: str, verdict: str, answer: str) -> None:
    """The paper: 12 at k = 2, n = 1e6; 23 at k = 10, n = 1000; 425 at k = 100, n = 1e6; 28 at d = 8.

    ln C(28, 2) / ln 11 = 2.47.
    """
    found = run_json("dimension", *arguments.split())
    assert found["verdict"] == verdict
    assert re.search(answer, found["answer"])
    shown = run("dimension", *arguments.split()).stdout
    assert shown.splitlines()[0] == found["answer"]


def test_dimension_prints_the_library_numbers() -> None:
    found = run_json("dimension", "--docs", "5000", "--dim", "12", "--margin", "0.2")
    assert found["min_dim"] == min_dim(5000, 2, 0.2)
    assert found["max_docs"] == max_docs(12, 2, 0.2)
    assert found["critical_n"] == {"n": critical_n(12).n, "extrapolated": False}
    assert found["critical_dim"] == {"dim": critical_dim(5000).dim, "extrapolated": True}


@pytest.mark.parametrize("arguments", ["--docs 1000000 --dim 384", "--docs 9 --dim 8", "--docs 9 --k 3"])
def test_dimension_never_calls_what_an_optimiser_reached_more_than_that(arguments: str) -> None:
    shown = run("dimension", *arguments.split()).stdout
    assert not re.search("maxim|capacity|theorem", shown, re.IGNORECASE)
    assert shown.count("T=0.1") == (0 if "--k" in arguments else 2)
    assert ("not a bound" in shown) == ("--k" not in arguments)


def test_dimension_shows_no_bound_that_nobody_can_reach() -> None:
    """384 dimensions hold all pairs of about 11^192 documents."""
    assert (
        "384 dimensions                     no bound below 10^18 documents"
        in run("dimension", "--docs", "1000000", "--dim", "384").stdout
    )
    assert run_json("dimension", "--docs", "10", "--dim", "384")["max_docs"] is None
    assert run_json("dimension", "--docs", "10", "--dim", "4096", "--margin", "1e-9")["max_docs"] is None


def test_dimension_tries_own_relevance(qrels: Path) -> None:
    """Three unit vectors in the plane, 120 degrees apart: each pair has a query between the two."""
    found = run_json("dimension", "--qrels", qrels, "--dim", "2")["relevance"]
    assert (found["is_enough"], found["accuracy"]) == (True, 1.0)
    assert (found["queries"], found["documents"], found["dim"]) == (3, 3, 2)
    assert found["smallest_margin"] > 0
    assert "Yes, for your relevance (3 queries, 3 judged documents) in 2 dimensions" in found["answer"]


def test_dimension_proves_nothing_by_failing(qrels: Path) -> None:
    """On a line the documents at both ends are no pair of any query, so at most 5 of 6 are found."""
    found = run_json("dimension", "--qrels", qrels, "--dim", "1", "--steps", "60", "--certify")["relevance"]
    assert found["is_enough"] is None
    assert found["accuracy"] < 1.0
    assert found["steps"] <= 60
    assert found["possible_sets"] <= 2
    assert "That rules nothing out." in found["answer"]
    assert f"Some query returns {found['possible_sets']} of the 3 sets" in found["answer"]


def test_dimension_believes_a_certificate(qrels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimiser may stop short although its own documents admit all sets."""
    from dataclasses import replace

    import torch

    from fletching.methods import limit

    def stop_short(*args: Any, **kwargs: Any) -> Any:
        found = limit.free_vectors.free_embeddings(*args, **kwargs)
        return replace(found, accuracy=0.5, certified=torch.tensor([True, True, True]))

    monkeypatch.setattr(limit, "free_embeddings", stop_short, raising=False)
    found = run_json("dimension", "--qrels", qrels, "--dim", "2", "--certify")["relevance"]
    assert found["is_enough"] is True
    assert "by linear programming" in found["answer"]


def test_dimension_prints_both_answers(qrels: Path) -> None:
    lines = run("dimension", "--qrels", qrels, "--dim", "2", "--docs", "3").stdout.splitlines()
    assert lines[0].startswith("Yes, for your relevance")
    assert lines[1].startswith("Possibly: ")


def test_dimension_refuses_more_than_it_can_optimise(tmp_path: Path) -> None:
    path = tmp_path / "qrels.tsv"
    path.write_text("".join(f"q{number}\td{number}\t1\n" for number in range(2237)))  # 2237^2 = 5,004,169
    result = run("dimension", "--qrels", path, "--dim", "8")
    assert result.exit_code == 2
    assert "must be at most 5,000,000 queries times documents; got '2,237 times 2,237'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "`--docs` must be given, or --qrels"),
        ("--docs 5 --k 6", "`--k` must be at most --docs, 5; got 6"),
        ("--docs 5 --margin 1.5", "`--margin` must be above 0 and at most 1; got 1.5"),
        ("--qrels nowhere.tsv", "`--dim` must be given with --qrels"),
        ("--qrels nowhere.tsv --dim 2", "nowhere.tsv: the file must be an existing file"),
        ("--qrels nowhere.tsv --dim 2 --plot x.png", "`--plot` must be left out without --docs"),
        ("--docs 5 --plot x.words", "`--plot` must be a file that ends in .png, .svg or .pdf; got 'x.words'"),
        ("--docs 5 --plot nowhere/x.png", "`--plot` must be a file in an existing folder"),
    ],
)
def test_dimension_refuses_in_one_sentence(arguments: str, message: str) -> None:
    result = run("dimension", *arguments.split())
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", ["--k 2 --dim 8", "--k 3", "--k 2 --margin 0.5"])
def test_dimension_draws(arguments: str, tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    assert run("dimension", "--docs", "200", *arguments.split(), "--plot", path).exit_code == 0
    assert path.stat().st_size > 1000


def test_plot_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    result = run("dimension", "--docs", "5", "--plot", "x.png")
    assert result.exit_code == 2
    assert 'pip install "fletching[plot]"' in result.stderr


def test_run_measures_what_the_evaluator_measures(embedder: str, folder: Path) -> None:
    found = run_json("run", embedder, "--data", folder)
    expected = LimitEvaluator(LimitDataset.load(folder)).measure(load(embedder))
    (row,) = (row for row in found["systems"] if row["kind"] == "embedder")
    assert row["name"] == embedder
    assert list(row["metrics"]) == ["recall_at_2", "recall_at_10", "recall_at_20", "set_accuracy"]
    for metric, values in expected.items():
        interval = bootstrap_interval(values)
        assert row["metrics"][metric] == {"value": interval.mean, "low": interval.low, "high": interval.high}
    assert found["data"] == {
        "name": folder.name,
        "source": str(folder),
        "queries": 6,
        "documents": 4,
        "seed": 0,
    }
    assert "no measure of general quality" in found["notes"][0]


def test_run_always_shows_the_baselines(embedder: str, folder: Path) -> None:
    """Chance: 2 of 4 documents hold half of the answers; a random pair is right once in C(4, 2) = 6 times."""
    rows = run_json("run", embedder, "--data", folder)["systems"]
    assert [(row["name"], row["dim"]) for row in rows[:-1]] == [
        ("chance", None),
        ("random word vectors", 64),
        ("random word vectors", 1024),
        ("BM25", None),
    ]
    assert rows[0]["metrics"]["recall_at_2"] == {"value": 0.5, "low": None, "high": None}
    assert rows[0]["metrics"]["set_accuracy"]["value"] == pytest.approx(1 / 6)
    assert rows[3]["metrics"]["recall_at_10"]["value"] == 1.0  # all four


def test_run_cuts_dense_vectors(embedder: str, folder: Path) -> None:
    rows = run_json("run", embedder, "--data", folder, "--dims", "8,2,32")["systems"]
    mine = {row["dim"]: row["metrics"] for row in rows if row["kind"] == "embedder"}
    assert list(mine) == [2, 8, 32]  # the last is the whole vector
    data = LimitDataset.load(folder)
    cut = LimitEvaluator(data, truncate_dim=2).measure(load(embedder))
    assert mine[2]["recall_at_2"]["value"] == cut["recall_at_2"].mean()


@pytest.mark.timeout(120)
def test_run_generates_data_and_says_so(embedder: str) -> None:
    result = run("run", embedder, "--queries", "40", "--seed", "3", "--json")
    assert result.exit_code == 0, result.stderr
    assert "Generated data, seed 3: 40 queries on 46 documents" in result.stderr
    found = json.loads(result.stdout)
    rows = {row["name"]: row["metrics"] for row in found["systems"]}
    assert found["data"]["source"] == "generated"
    assert rows["item matcher (the answer key)"]["set_accuracy"]["value"] == 1.0
    assert rows["BM25"]["recall_at_2"]["value"] > 0.9
    assert run_json("run", "bm25", "--queries", "40", "--seed", "3")["systems"][:5][3] | {"seconds": 0} == (
        found["systems"][3] | {"seconds": 0}
    )


def test_run_takes_word_overlap_and_run_files(folder: Path, tmp_path: Path) -> None:
    data = LimitDataset.load(folder)
    path = tmp_path / "perfect.tsv"
    rows = [f"{query}\t{key}\t1.0\n" for query, ids in data.qrels.items() for key in ids]
    path.write_text("".join(["query-id\tcorpus-id\tscore\n", *rows]))
    perfect = run_json("run", path, "--data", folder)["systems"][-1]
    assert (perfect["kind"], perfect["metrics"]["set_accuracy"]["value"]) == ("run", 1.0)
    overlap = run_json("run", "bm25", "--data", folder)["systems"]
    assert overlap[-1]["metrics"] == overlap[-2]["metrics"]


def test_run_reports_the_ceiling_of_a_reranker(reranker: str, folder: Path) -> None:
    found = run_json("run", reranker, "--data", folder, "--candidates", "3")
    ceiling = found["systems"][-1]["metrics"]["ceiling"]["value"]
    assert found["systems"][-1]["metrics"]["recall_at_20"]["value"] == ceiling
    assert f"no order of them has a recall over {ceiling:.1%}." in found["notes"][1]


def test_run_prints_a_table(embedder: str, folder: Path) -> None:
    result = run("run", embedder, "--data", folder, "--dims", "4")
    assert result.exit_code == 0
    for part in ("recall@2", "recall@20", "whole sets", "chance", "BM25", "4 dimensions", "32 dimensions"):
        assert part in result.stdout
    assert re.search(r"BM25 +\d", result.stdout)
    assert re.search(r"\d-\d", result.stdout)  # an interval
    assert "no measure of general quality" in result.stderr
    assert "not trained to be truncated" in result.stderr


@pytest.mark.parametrize("dims", [[], ["--dims", "4,16"]])
def test_run_draws_a_curve(embedder: str, folder: Path, tmp_path: Path, dims: list[str]) -> None:
    path = tmp_path / "figure.svg"
    assert run("run", embedder, "--data", folder, *dims, "--plot", path).exit_code == 0
    assert path.stat().st_size > 1000


def test_run_draws_lines_for_what_has_no_dimension(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    assert run("run", "bm25", "--data", folder, "--plot", path).exit_code == 0
    assert path.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "there is no such folder, and no method registers this name"),
        (["bm25", "--data", "nowhere"], "`source` must be 'small', 'full' or a folder"),
        (["bm25", "--dims", "8,x"], "`--dims` must be positive integers, as in 8,64,384; got '8,x'"),
        (["bm25", "--dims", "0"], "`--dims` must be positive integers"),
        (
            ["bm25", "--dims", "8"],
            "left out: only a dense embedder is cut, not a bm25; got '8'",
        ),
        (["bm25", "--plot", "x"], "`--plot` must be a file that ends in"),
    ],
)
def test_run_refuses_in_one_sentence(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit_data, "_load_from_hub", None)
    result = run("run", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_run_refuses_more_dimensions_than_there_are(embedder: str, folder: Path) -> None:
    result = run("run", embedder, "--data", folder, "--dims", "8,33")
    assert result.exit_code == 2
    assert "`--dims` must be at most 32, the dimensions of the model; got 33" in result.stderr
