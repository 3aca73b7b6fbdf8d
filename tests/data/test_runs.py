from __future__ import annotations

import re
from pathlib import Path

import pytest

from fletching.data import read_run, stream_run, write_run
from fletching.errors import ArgumentError, DataError

RUN = {"q1": {"d2": 1.5, "d1": 0.25}, "q2": {"d1": -3.0}}


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "lines",
    [
        ["q1 Q0 d2 1 1.5 bm25", "q1 Q0 d1 2 0.25 bm25", "q2 Q0 d1 1 -3 bm25"],
        ["q1\tQ0\td2\t1\t1.5\tbm25", "q1\tQ0\td1\t2\t2.5e-1\tbm25", "q2\tQ0\td1\t1\t-3\tbm25"],
        ["query-id\tcorpus-id\trank\tscore", "q1\td2\t1\t1.5", "q1\td1\t2\t0.25", "q2\td1\t1\t-3"],
        ["q1\td2\t1\t1.5", "q1\td1\t2\t0.25", "q2\td1\t1\t-3"],
        ["query-id\tcorpus-id\tscore", "q1\td2\t1.5", "q1\td1\t0.25", "q2\td1\t-3"],
    ],
    ids=["trec", "trec with tabs", "table", "no header", "no rank"],
)
def test_runs_read_alike_in_all_layouts(tmp_path: Path, lines: list[str]) -> None:
    assert read_run(write(tmp_path / "run", *lines)) == RUN


@pytest.mark.parametrize("header", [[], ["qid\tpid\tindex"], ["query-id\tcorpus-id\trank"]])
def test_rank_stands_in_for_a_score(tmp_path: Path, header: list[str]) -> None:
    path = write(tmp_path / "run.tsv", *header, "q1\td2\t1", "q1\td1\t2")

    assert read_run(path) == {"q1": {"d2": -1.0, "d1": -2.0}}


def test_rank_orders_what_was_rounded_to_equal_scores(tmp_path: Path) -> None:
    path = write(tmp_path / "run", "q1 Q0 d2 1 0.87 x", "q1 Q0 d1 2 0.87 x")

    assert read_run(path, order_by="rank") == {"q1": {"d2": -1.0, "d1": -2.0}}


def test_unknown_order_is_refused(tmp_path: Path) -> None:
    message = "read_run: `order_by` must be one of 'score', 'rank'; got 'ranks'. Did you mean 'rank'?"
    with pytest.raises(ArgumentError, match=re.escape(message)):
        read_run(tmp_path / "run", order_by="ranks")


@pytest.mark.parametrize("score", ["nan", "inf", "-inf", "high"])
def test_score_that_is_not_finite_is_named(tmp_path: Path, score: str) -> None:
    path = write(tmp_path / "run", "q1 Q0 d1 1 2 x", f"q1 Q0 d2 2 {score} x")

    with pytest.raises(DataError, match=f"run:2: `score` must be a finite number; got '{score}'"):
        read_run(path)


@pytest.mark.parametrize("rank", ["1.5", "-1"])
def test_rank_that_is_no_whole_number_is_named(tmp_path: Path, rank: str) -> None:
    with pytest.raises(DataError, match=f"run:1: `rank` must be a whole number; got '{rank}'"):
        read_run(write(tmp_path / "run", f"q1\td1\t{rank}"))


def test_document_returned_twice_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "run", "q1 Q0 d1 1 2 x", "q2 Q0 d1 1 2 x", "q1 Q0 d1 2 1 x")

    with pytest.raises(DataError, match="run:3: `document` must be returned once for query 'q1'; got 'd1'"):
        read_run(path)


def test_unknown_query_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run:1: `query` must be one of the ids that were given; got 'q1'"):
        read_run(write(tmp_path / "run", "q1 Q0 d1 1 2 x"), query_ids={"Q1"})


def test_unknown_document_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run:1: `document` must be one of the ids that were given; got 'd1'"):
        read_run(write(tmp_path / "run", "q1 Q0 d1 1 2 x"), document_ids={"D1"})


def test_rows_of_a_query_need_not_stand_together(tmp_path: Path) -> None:
    path = write(tmp_path / "run", "q1\td1\t1", "q2\td1\t1", "q1\td2\t2")

    assert read_run(path) == {"q1": {"d1": -1.0, "d2": -2.0}, "q2": {"d1": -1.0}}


def test_stream_yields_query_by_query(tmp_path: Path) -> None:
    write_run(tmp_path / "run", RUN)

    assert list(stream_run(tmp_path / "run")) == list(RUN.items())


def test_stream_refuses_a_query_that_comes_back(tmp_path: Path) -> None:
    path = write(tmp_path / "run", "q1\td1\t1", "q2\td1\t1", "q1\td2\t2")

    message = "run:3: `query` must be in rows that stand together; got 'q1'. Sort the file by query"
    with pytest.raises(DataError, match=re.escape(message)):
        list(stream_run(path))


@pytest.mark.parametrize("reader", [read_run, lambda path: list(stream_run(path))], ids=["whole", "streamed"])
def test_file_with_only_a_header_is_refused(tmp_path: Path, reader: object) -> None:
    path = write(tmp_path / "run.tsv", "query-id\tcorpus-id\trank\tscore")

    with pytest.raises(DataError, match="at least one record"):
        reader(path)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["run.tsv", "run.tsv.gz", "run.txt", "run.trec.gz"])
def test_written_run_comes_back(tmp_path: Path, name: str) -> None:
    run = {"q1": {"d1": 0.1 + 0.2, "d2": 1e-30, "d3": 1e30}, "q2": {"d1": 0.0}}
    write_run(tmp_path / name, run)

    assert read_run(tmp_path / name) == run


def test_written_run_is_what_trec_eval_reads(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {"q1": {"c": 0.5, "b": 0.5, "a": 0.1}}, tag="mvp")

    assert (tmp_path / "run").read_text() == "q1 Q0 b 1 0.5 mvp\nq1 Q0 c 2 0.5 mvp\nq1 Q0 a 3 0.1 mvp\n"


def test_ids_that_could_stand_in_a_header_come_back(tmp_path: Path) -> None:
    run = {"query": {"document": 1.0, "pid": 0.5}}
    write_run(tmp_path / "run", run)

    assert read_run(tmp_path / "run") == run


def test_header_without_a_number_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run:1: `rank` must be a finite number; got 'similarity'"):
        read_run(write(tmp_path / "run", "query-id\tcorpus-id\tsimilarity", "q1\td1\t0.5"))


def test_ids_with_spaces_are_written_to_a_table(tmp_path: Path) -> None:
    write_run(tmp_path / "run.tsv", {"q1": {"Geneva Durben": 1.0}})

    assert read_run(tmp_path / "run.tsv") == {"q1": {"Geneva Durben": 1.0}}


def test_id_with_a_space_is_refused_where_spaces_separate(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="write_run: `run` must be ids without white space"):
        write_run(tmp_path / "run", {"q 1": {"d1": 1.0}})


def test_tag_with_a_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="write_run: `tag` must be ids without white space; got 'my run'"):
        write_run(tmp_path / "run", RUN, tag="my run")


def test_score_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="write_run: `run` must be finite scores; got nan"):
        write_run(tmp_path / "run", {"q1": {"d1": float("nan")}})
