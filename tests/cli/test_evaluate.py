from __future__ import annotations

import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fletching.cli import build_app, main
from fletching.testing import save_tiny_cross_encoder, save_tiny_embedder

CORPUS = {
    "d1": "a feather keeps the arrow true",
    "d2": "the bow and the string",
    "d3": "a goose in the wind",
    "d4": "an archer on target",
}
QUERIES = {"q1": "feather of an arrow", "q2": "string of a bow", "q3": "goose", "q4": "never judged"}
QRELS = "q1\td1\t2\nq2\td2\t1\nq2\td1\t0\nq3\td3\t1\n"
RUN = "".join(
    f"{query}\t{document}\t{rank}\t{4 - rank}\n"
    for query in ("q1", "q2", "q3")
    for rank, document in enumerate(("d3", "d2", "d1"), start=1)
)
PAIRS = "score\tsentence1\tsentence2\n5\ta bow\tthe bow\n1\ta bow\ta goose\n3\twind\tthe wind and wood\n"


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_cross_encoder(tmp_path_factory.mktemp("models") / "tiny-reranker")


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_embedder(tmp_path_factory.mktemp("models") / "tiny-embedder")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLETCHING_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "archery"
    for name in ("qrels", "lists"):
        (path / name).mkdir(parents=True)
    for name, texts in (("corpus", CORPUS), ("queries", QUERIES)):
        lines = [json.dumps({"_id": key, "text": text}) + "\n" for key, text in texts.items()]
        (path / f"{name}.jsonl").write_text("".join(lines))
    (path / "qrels" / "test.tsv").write_text(QRELS)
    (path / "lists" / "bm25.tsv.gz").write_bytes(gzip.compress(RUN.encode()))
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "sts.tsv"
    path.write_text(PAIRS)
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(build_app(), ["evaluate", *map(str, arguments)])


def run_json(*arguments: str | Path) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refuse(*arguments: str | Path) -> str:
    """Run what must fail with one sentence, and return it."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert not result.stdout
    return result.stderr


# --- what is printed ---


def test_every_kind_of_system_is_compared(folder: Path, reranker: str, embedder: str) -> None:
    rows = run_json("bm25", reranker, embedder, "--data", folder, "--candidates", "lists/bm25.tsv.gz")

    assert [row["kind"] for row in rows] == ["run", "bm25", "reranker", "embedder"]
    assert [row["name"] for row in rows][2:] == [reranker, embedder]
    for row in rows:
        assert set(row["metrics"]["ndcg_at_10"]) == {"value", "low", "high"}
        assert list(row["metrics"]) == ["ndcg_at_10", "mrr_at_10", "map", "recall_at_100"]
    assert rows[0]["latency_ms"] == {}
    assert rows[2]["latency_ms"]["p50"] > 0
    assert rows[2]["tokens"] > 0
    assert rows[2]["first_stage_recall"] == 1


def test_values_are_those_of_the_run(folder: Path) -> None:
    """The relevant passages stand at ranks 3, 2 and 1: MRR is (1/3 + 1/2 + 1) / 3."""
    (row,) = run_json(folder / "lists" / "bm25.tsv.gz", "--data", folder, "--measures", "mrr_at_10")

    assert row["metrics"]["mrr_at_10"]["value"] == pytest.approx((1 / 3 + 1 / 2 + 1) / 3)
    assert row["queries"] == {"judged": 3, "missing": 0, "unjudged": 0, "without_relevant": 0}


def test_run_files_are_found_beside_the_data(folder: Path) -> None:
    (row,) = run_json("lists/bm25.tsv.gz", "--data", folder)

    assert row["kind"] == "run"


def test_model_wins_over_a_file_of_its_name_beside_the_data(folder: Path) -> None:
    (folder / "bm25").write_text("q1\td1\t1\t1\n")

    assert run_json("bm25", "--data", folder)[0]["kind"] == "bm25"


def test_rerankers_order_what_bm25_finds_without_candidates(folder: Path, reranker: str) -> None:
    first, second = run_json(reranker, "--data", folder)

    assert (first["kind"], second["first_stage"]) == ("bm25", first["name"])


def test_baseline_can_be_named(folder: Path) -> None:
    first, second = run_json("bm25", "lists/bm25.tsv.gz", "--data", folder, "--baseline", "bm25")

    assert (first["baseline"], first["differences"]) == ("bm25", {})
    assert set(second["differences"]["map"]) == {"value", "low", "high", "p_value"}


def test_baseline_is_named_as_it_was_typed(folder: Path) -> None:
    rows = run_json("bm25", "lists/bm25.tsv.gz", "--data", folder, "--baseline", "lists/bm25.tsv.gz")

    assert rows[0]["baseline"] == rows[1]["name"] == str(folder / "lists" / "bm25.tsv.gz")


def test_relevance_level_reaches_binary_measures(folder: Path) -> None:
    """Only q1 has a passage of grade 2, at rank 3."""
    arguments = ("lists/bm25.tsv.gz", "--data", folder, "--measures", "mrr_at_10", "--relevance-level", "2")
    (row,) = run_json(*arguments)

    assert row["metrics"]["mrr_at_10"]["value"] == pytest.approx(1 / 9)


def test_depth_cuts_what_is_found(folder: Path) -> None:
    rows = run_json("bm25", "--data", folder, "--depth", "1", "--output", folder / "out")

    lines = (folder / "out" / "runs" / "bm25.tsv").read_text().splitlines()
    assert len(lines) == 1 + len(QUERIES) - 1  # a header, and one passage for each judged query
    assert "recall_at_1" in rows[0]["metrics"]


def test_shuffled_candidates_leave_a_fair_reranker_alone(folder: Path, reranker: str) -> None:
    arguments = (reranker, "--data", folder, "--candidates", "lists/bm25.tsv.gz")
    ordered, shuffled = run_json(*arguments)[1], run_json(*arguments, "--shuffle", "3")[1]

    assert shuffled["metrics"] == ordered["metrics"]


def test_table_shows_quality_differences_and_costs(folder: Path, reranker: str) -> None:
    result = run(reranker, "--data", folder, "--candidates", "lists/bm25.tsv.gz")

    assert result.exit_code == 0, result.stderr
    for words in ("tiny-reranker", "ndcg_at_10", "first stage 1.00", "ms p50", "padding", "reranker"):
        assert words in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_table_says_what_the_figures_are_and_what_was_skipped(folder: Path) -> None:
    result = run("bm25", "--data", folder, "--relevance-level", "2")

    text = " ".join(result.stdout.split())
    assert "archery: mean over 3 judged queries, with 95% bootstrap intervals" in text
    assert "equal scores by id; binary measures count grades from 2" in text
    assert "archery: 1 queries without a judgement." in text
    assert "2 judged queries have no relevant passage and count 0." in text


def test_table_says_that_candidates_were_shuffled(folder: Path, reranker: str) -> None:
    arguments = (reranker, "--data", folder, "--candidates", "lists/bm25.tsv.gz")

    assert "in a random order" not in " ".join(run(*arguments).stdout.split())
    assert "rerankers read them in a random order" in " ".join(run(*arguments, "--shuffle", 1).stdout.split())
    assert run_json(*arguments, "--shuffle", 1)[0]["data"]["order"] == "shuffled"


def test_queries_of_a_run_that_nobody_judged_are_counted(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "wide.tsv").write_text(RUN + "q9\td1\t1\t1\n")
    result = run(tmp_path / "wide.tsv", "--data", folder)

    text = " ".join(result.stdout.split())
    assert "wide.tsv: 1 queries of the run without a judgement." in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_table_is_printed_on_terminals_without_unicode(folder: Path, encoding: str) -> None:
    result = CliRunner(charset=encoding).invoke(
        build_app(), ["evaluate", "bm25", str(folder / "lists" / "bm25.tsv.gz"), "--data", str(folder)]
    )

    assert result.exit_code == 0, result.output
    assert " 1.00..1.00" in result.stdout


def test_names_that_a_terminal_cannot_print_are_escaped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "läufe.tsv").write_text(RUN)
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="ascii"))
    monkeypatch.setattr(sys, "argv", ["fletching", "evaluate", "läufe.tsv", "--data", str(folder)])

    with pytest.raises(SystemExit) as exit:
        main()
    sys.stdout.flush()
    assert exit.value.code == 0
    assert b"l\\xe4ufe.tsv" in printed.getvalue()


def test_table_leaves_empty_columns_out(folder: Path) -> None:
    assert "tokens" not in run("lists/bm25.tsv.gz", "--data", folder).stdout


def test_many_measures_fit_the_width(folder: Path) -> None:
    names = [f"{name}_at_{k}" for name in ("ndcg", "recall", "precision") for k in (1, 3, 5)]
    result = run("bm25", "lists/bm25.tsv.gz", "--data", folder, "--measures", ",".join(names))

    assert max(map(len, result.stdout.splitlines())) <= 100
    assert [name for name in names if name not in result.stdout] == []


def test_default_measures_stand_in_one_table(folder: Path, reranker: str) -> None:
    result = run(reranker, "--data", folder, "--candidates", "lists/bm25.tsv.gz")

    header = next(line for line in result.stdout.splitlines() if "ndcg_at_10" in line)
    assert header.split() == ["system", "ndcg_at_10", "mrr_at_10", "map", "recall_at_100"]


@pytest.mark.parametrize(("width", "tables"), [(100, 1), (60, 2)])
def test_costs_stand_in_as_many_tables_as_fit(
    folder: Path, reranker: str, monkeypatch: pytest.MonkeyPatch, width: int, tables: int
) -> None:
    """Names stay whole: `tiny-reranker` would be cut into pieces in one narrow table."""
    monkeypatch.setenv("COLUMNS", str(width))
    lines = run(reranker, "--data", folder, "--candidates", "lists/bm25.tsv.gz").stdout.splitlines()

    costs = lines[next(number for number, line in enumerate(lines) if "kind" in line) :]
    assert [line.split()[:2] for line in costs if "reranker" in line] == [
        ["tiny-reranker", "reranker"]
    ] * tables
    assert max(map(len, costs)) <= width


def test_json_stands_alone_on_stdout(folder: Path) -> None:
    result = run("bm25", "--data", folder, "--json")

    assert json.loads(result.stdout)[0]["data"]["skipped"] == {"queries without a judgement": 1}
    assert "archery: 1 queries without a judgement.\n" in result.stderr


def test_csv_has_a_row_for_each_system(folder: Path) -> None:
    result = run("bm25", "lists/bm25.tsv.gz", "--data", folder, "--csv")

    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["name"] for row in rows] == ["bm25", str(folder / "lists" / "bm25.tsv.gz")]
    assert float(rows[0]["ndcg_at_10"]) > 0


def test_second_run_comes_from_the_cache(folder: Path, reranker: str) -> None:
    first, second = (run_json(reranker, "--data", folder)[1] for _ in range(2))

    assert (first["from_cache"], second["from_cache"]) == (False, True)
    assert second["metrics"] == first["metrics"]
    assert second["latency_ms"] == first["latency_ms"]


def test_no_cache_keeps_nothing(folder: Path, tmp_path: Path) -> None:
    run_json("bm25", "--data", folder, "--no-cache")

    assert not (tmp_path / "cache").exists()


def test_cache_folder_can_be_chosen(folder: Path, tmp_path: Path) -> None:
    run_json("bm25", "--data", folder, "--cache", tmp_path / "mine")

    assert (tmp_path / "mine").is_dir()
    assert not (tmp_path / "cache").exists()


def test_results_are_written(folder: Path, tmp_path: Path) -> None:
    result = run("bm25", "--data", folder, "--output", tmp_path / "out", "--plot", tmp_path / "figure.png")

    assert result.exit_code == 0, result.stderr
    names = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert names == ["bm25.tsv", "queries.csv", "results.csv", "results.json"]
    assert (tmp_path / "figure.png").stat().st_size > 1000
    assert f"Wrote 4 files to {tmp_path / 'out'}." in result.stderr


def test_lists_are_ordered(tmp_path: Path, reranker: str) -> None:
    path = tmp_path / "lists.jsonl"
    record = {"query": "a bow", "documents": ["a goose", "the bow", "wind"], "labels": [0, 1, 0]}
    path.write_text(f"{json.dumps(record)}\n" * 2)

    first, second = run_json(reranker, "--data", path, "--measures", "mrr_at_10")
    assert (first["name"], second["first_stage"]) == ("file order", "file order")
    assert first["metrics"]["mrr_at_10"]["value"] == 0.5


def test_sentence_pairs_are_correlated(pairs: Path, embedder: str, reranker: str) -> None:
    rows = run_json(embedder, reranker, "--data", pairs)

    assert [row["kind"] for row in rows] == ["embedder", "reranker"]
    assert list(rows[0]["metrics"]) == ["spearman", "pearson"]
    assert "p_value" in rows[1]["differences"]["spearman"]
    assert "correlation over 3 pairs" in " ".join(run(embedder, "--data", pairs).stdout.split())


def test_windows_line_ends_change_nothing(folder: Path) -> None:
    (before,) = run_json("bm25", "--data", folder, "--no-cache")
    for path in folder.glob("**/*.[jt]s*"):
        if path.suffix != ".gz":
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))

    assert run_json("bm25", "--data", folder, "--no-cache")[0]["metrics"] == before["metrics"]


# --- what is refused ---


def test_wrong_model_is_found_before_the_data_are_read(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{")

    assert "mvp-mni" in (message := refuse("bm25", "mvp-mni", "--data", broken))
    assert "Did you mean 'mvp-mini'?" in message


def test_misspelt_bm25_is_recognised(folder: Path) -> None:
    assert "Did you mean 'bm25'?" in refuse("BM52", "--data", folder)


def test_unknown_dtype_is_found_before_the_data_are_read(tmp_path: Path, reranker: str) -> None:
    arguments = ("bm25", reranker, "--data", tmp_path / "nowhere", "--dtype", "flot16")

    assert "Did you mean 'float16'?" in refuse(*arguments)


def test_missing_run_file_is_named(folder: Path) -> None:
    assert "none.tsv: the file must be an existing run file" in refuse("none.tsv", "--data", folder)


def test_missing_data_are_named(tmp_path: Path) -> None:
    assert "an existing folder or file" in refuse("bm25", "--data", tmp_path / "nowhere")


def test_folder_of_no_known_layout_names_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()

    assert "MS MARCO, T2Ranking, Multi-CPR" in refuse("bm25", "--data", tmp_path / "odd")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("qrels/test.tsv", b"q1\td1\t1\nq9\td1\t1\n", "test.tsv:2: `query` must be one of the ids"),
        ("qrels/test.tsv", b"q1\td1\t1\nq1\td1\t1\n", "test.tsv:2: `document` must be judged once"),
        ("qrels/test.tsv", b"", "test.tsv: the file must be a file with at least one record; got none."),
        ("lists/bm25.tsv.gz", b"q1\td1\t1\tnan\n", "bm25.tsv.gz:1: `score` must be a finite number"),
        ("lists/bm25.tsv.gz", b"q1\td1\t1\t-inf\n", "bm25.tsv.gz:1: `score` must be a finite number"),
        ("lists/bm25.tsv.gz", b"q1\td1\t1\t2\nq1\td8\t2\t1\n", "bm25.tsv.gz:2: `document` must be a passage"),
        (
            "lists/bm25.tsv.gz",
            gzip.compress(b"q1\td1\t1\t1\n", mtime=0)[:-4],
            "bm25.tsv.gz: the file must be a whole",
        ),
        (
            "corpus.jsonl",
            '{"_id": "d1", "text": "é"}'.encode("latin-1"),
            "corpus.jsonl:1: the record must be",
        ),
    ],
)
def test_broken_file_is_named_with_its_line(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)

    assert message in refuse("bm25", "--data", folder, "--candidates", "lists/bm25.tsv.gz")


def test_queries_without_candidates_are_counted(folder: Path, embedder: str) -> None:
    (folder / "lists" / "bm25.tsv.gz").write_bytes(b"q1\td1\t1\t2\nq1\td2\t2\t1\n")
    result = run(embedder, "--data", folder, "--candidates", "lists/bm25.tsv.gz")

    text = " ".join(result.stdout.split())
    assert "archery: 2 judged queries without candidates, which count 0." in text
    assert "tiny-embedder: no answer to 2 judged queries, which count 0." in text


@pytest.mark.parametrize("option", ["--candidates", "--split"])
def test_pairs_take_no_folder_options(pairs: Path, option: str) -> None:
    assert f"`{option}` must be left out: sts.tsv is a file" in refuse("bm25", "--data", pairs, option, "x")


@pytest.mark.parametrize(("option", "value"), [("--measures", "map"), ("--depth", "3"), ("--shuffle", "1")])
def test_pairs_take_no_ranking_options(pairs: Path, embedder: str, option: str, value: str) -> None:
    assert f"`{option}` must be left out" in refuse(embedder, "--data", pairs, option, value)


def test_systems_that_score_no_pairs_are_refused(pairs: Path) -> None:
    assert "since the data are sentence pairs; got 'bm25'" in refuse("bm25", "--data", pairs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--measures", "ndcg_at_ten"), "`measures` must be one of"),
        (("--measures", ","), "`measures` must be a list of at least one name"),
        (("--baseline", "mb25"), "Did you mean 'bm25'?"),
        (("--split", "dev"), "`split` must be one of 'test'; got 'dev'"),
        (("--json", "--csv"), "`--csv` must be left out where --json is given"),
        (("--no-cache", "--cache", "x"), "`--cache` must be left out where --no-cache is given"),
        (("--plot", "figure.gif"), "`--plot` must be a file that ends in .png, .svg or .pdf"),
        (("--plot", "no/folder/figure.png"), "`--plot` must be a file in an existing folder"),
        (("--candidates", "lists/none.tsv"), "lists/none.tsv: the file must be an existing file"),
    ],
)
def test_option_outside_its_domain_is_refused(folder: Path, options: tuple[str, ...], message: str) -> None:
    assert message in refuse("bm25", "--data", folder, *options)


def test_output_that_is_a_file_is_refused(folder: Path) -> None:
    message = refuse("bm25", "--data", folder, "--output", folder / "corpus.jsonl")

    assert "`--output` must be a folder that can be written" in message


def test_negative_seed_is_refused(folder: Path) -> None:
    result = run("bm25", "--data", folder, "--shuffle", -1)

    assert result.exit_code == 2
    assert "'--shuffle'" in result.stderr


def test_missing_matplotlib_is_found_before_any_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)

    assert 'pip install "fletching[plot]"' in refuse("bm25", "--data", folder, "--plot", "figure.png")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a child alone")
def test_interrupt_says_that_what_is_computed_is_kept(
    slow_fletching: str, folder: Path, reranker: str, tmp_path: Path
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", slow_fletching, "evaluate", "bm25", reranker, "--data", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "FLETCHING_CACHE": str(tmp_path / "cache")},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ranking\n"

    child.send_signal(signal.SIGINT)
    output, errors = child.communicate(timeout=60)

    assert child.returncode == 130
    assert not output
    assert errors.endswith("What is computed is kept; the same command goes on from there.\nInterrupted.\n")
    answers = list((tmp_path / "cache" / "evaluations").rglob("queries.jsonl"))
    assert [len(path.read_text().splitlines()) for path in answers if path.stat().st_size] == [3]  # bm25's
