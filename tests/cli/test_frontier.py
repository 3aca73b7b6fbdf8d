from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fletching.cli import build_app
from fletching.methods.two_d_matryoshka import ElasticEmbedder
from fletching.testing import save_tiny_cross_encoder, save_tiny_embedder

PAIRS = """score\tsentence1\tsentence2
5\ta bow of wood\tthe wooden bow
0\ta goose in the wind\tthe arrow
3.5\tfeather\ta feather of the goose
4\tan archer on target\tthe archer
1\tstring\twind and wood and string
"""


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_embedder(tmp_path_factory.mktemp("models") / "tiny-embedder")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLETCHING_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "sts.tsv"
    path.write_text(PAIRS)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "archery"
    (path / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", ["the bow", "a goose"]), ("queries", ["bow", "goose"])):
        lines = [json.dumps({"_id": f"{name[0]}{place}", "text": text}) for place, text in enumerate(texts)]
        (path / f"{name}.jsonl").write_text("\n".join(lines))
    (path / "qrels" / "test.tsv").write_text("q0\tc0\t1\nq1\tc1\t1\n")
    (path / "run.tsv").write_text("q0\tc1\t1\t2\nq0\tc0\t2\t1\nq1\tc1\t1\t1\n")
    return path


def run(*arguments: str | Path) -> Result:
    defaults = ["--device", "cpu", "--dims", "8,16", "--no-latency"]
    return CliRunner().invoke(build_app(), ["frontier", *map(str, [*arguments, *defaults])])


def run_json(*arguments: str | Path) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_frontier_prints_a_table_sorted_by_score(embedder: str, pairs: Path) -> None:
    result = run(embedder, "--data", pairs, "--min-score", "-1")
    assert result.exit_code == 0, result.stderr
    header, _, *rows = [line for line in result.stdout.splitlines() if line.strip()]
    assert header.split() == ["layers", "dims", "spearman", "of", "full", "ms", "bytes"]
    found = [tuple(map(float, line.lstrip("* ").split()[:3])) for line in rows]
    assert {size[:2] for size in found} == {(n, d) for n in (1, 2) for d in (8, 16, 32)}
    assert [score for *_, score in found] == sorted((score for *_, score in found), reverse=True)
    assert any(line.startswith("*") for line in rows)
    assert "sts: spearman over 5 pairs, with 95 % intervals" in result.stderr


def test_frontier_prints_json(embedder: str, pairs: Path) -> None:
    found = run_json(embedder, "--data", pairs, "--layers", "1", "--min-score", "-1")
    assert (found["model"], found["data"], found["items"]) == (embedder, "sts", 5)
    assert (found["layers"], found["dims"]) == ([1, 2], [8, 16, 32])
    assert found["selected"] == {"num_layers": 1, "truncate_dim": 8}  # the cheapest of those that do
    assert len(found["sizes"]) == 6


def test_frontier_times_where_it_may(embedder: str, pairs: Path) -> None:
    arguments = ["--data", str(pairs), "--device", "cpu", "--dims", "8", "--batch-size", "2", "--tokens", "5"]
    result = CliRunner().invoke(build_app(), ["frontier", embedder, *arguments, "--min-score", "-1"])
    assert result.exit_code == 0, result.stderr
    assert "ms: a batch of 2 texts of 5 tokens, median of 5 (cpu" in " ".join(result.stderr.split())


def test_frontier_says_how_to_use_what_it_chose(embedder: str, pairs: Path) -> None:
    result = run(embedder, "--data", pairs, "--max-bytes", "32", "--layers", "2")
    assert "dimensions. ElasticEmbedder(" in result.stderr
    assert "truncate_dim=8)" in result.stderr


def test_frontier_fails_where_no_size_will_do(embedder: str, pairs: Path) -> None:
    """The table is printed all the same: the work is done."""
    result = run(embedder, "--data", pairs, "--min-score", "1.1")
    assert result.exit_code == 1
    assert "no size of" in result.stderr
    assert "bytes" in result.stdout


def test_frontier_reads_folders(embedder: str, folder: Path) -> None:
    found = run_json(embedder, "--data", folder, "--measure", "mrr_at_10", "--min-score", "0")
    assert (found["measure"], found["items"]) == ("mrr_at_10", 2)
    lists = run_json(embedder, "--data", folder, "--candidates", "run.tsv", "--min-score", "0")
    assert lists["measure"] == "ndcg_at_10"
    queries = run_json(embedder, "--data", folder, "--document-layers", "2", "--min-score", "0")
    assert queries["document_layers"] == 2


@pytest.mark.parametrize("name", ["sizes.json", "sizes.csv"])
def test_frontier_writes_all_sizes(embedder: str, pairs: Path, tmp_path: Path, name: str) -> None:
    result = run(embedder, "--data", pairs, "--output", tmp_path / name, "--min-score", "-1")
    assert result.exit_code == 0, result.stderr
    text = (tmp_path / name).read_text()
    rows = json.loads(text)["sizes"] if name.endswith("json") else list(csv.DictReader(text.splitlines()))
    assert len(rows) == 6
    assert {"num_layers", "truncate_dim", "spearman", "bytes_per_vector"} <= set(rows[0])


def test_frontier_draws(embedder: str, pairs: Path, tmp_path: Path) -> None:
    result = run(embedder, "--data", pairs, "--plot", tmp_path / "map.png", "--min-score", "-1")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "map.png").stat().st_size > 1000


def test_frontier_encodes_nothing_twice(embedder: str, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_json(embedder, "--data", pairs, "--min-score", "-1")

    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was encoded before")

    monkeypatch.setattr(ElasticEmbedder, "encode_sizes", fail)
    assert run_json(embedder, "--data", pairs, "--min-score", "-1") == first


def test_frontier_says_that_an_interrupt_loses_nothing(
    embedder: str, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(ElasticEmbedder, "encode_sizes", interrupt)
    result = run(embedder, "--data", pairs)
    assert result.exit_code == 130
    assert "What is encoded is kept; the same command goes on from there." in result.stderr
    assert "is kept" not in run(embedder, "--data", pairs, "--no-cache").stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "0"], "`--layers` must be positive integers, as in 2,4,6; got '0'"),
        (["--layers", "-1"], "`--layers` must be positive integers"),
        (["--layers", "3"], "from 1 to 2"),
        (["--measure", "ndcg"], "`measure` must be one of 'spearman', 'pearson'"),
        (["--split", "dev"], "must be left out"),
        (["--max-latency-ms", "3"], "`--max-latency-ms` must be left out where --no-latency is given"),
        (["--prefer", "speed"], "`--prefer` must be latency or bytes"),
        (["--output", "sizes.txt"], "`--output` must be a file that ends in .json or .csv"),
        (["--output", "no/such/folder/sizes.csv"], "`--output` must be a file in an existing folder"),
        (["--plot", "map.txt"], "`--plot` must be a file that ends in"),
        (["--cache", "here", "--no-cache"], "`--cache` must be left out where --no-cache is given"),
        (["--device", "gpu"], "must be one that torch knows"),
    ],
)
def test_frontier_refuses_bad_options(embedder: str, pairs: Path, options: list[str], message: str) -> None:
    arguments = ["frontier", embedder, "--data", str(pairs), "--no-latency", *options]
    result = CliRunner().invoke(build_app(), arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_frontier_refuses_other_models(pairs: Path, tmp_path: Path) -> None:
    reranker = save_tiny_cross_encoder(tmp_path / "reranker")
    for model, kind in ((reranker, "reranker"), ("bm25", "bm25")):
        result = run(model, "--data", pairs)
        assert result.exit_code == 2
        assert f"a dense embedder, no {kind}" in result.stderr
