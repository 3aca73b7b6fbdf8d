from __future__ import annotations

import re
from pathlib import Path

import pytest

from fletching.data import read_qrels, write_qrels
from fletching.errors import ArgumentError, DataError

QRELS = {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}}


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "lines",
    [
        ["q1 0 d1 2", "q1 0 d2 0", "q2 0 d1 1"],
        ["q1\t0\td1\t2", "q1\t0\td2\t0", "q2\t0\td1\t1"],
        ["qid\t-\tpid\trel", "q1\t0\td1\t2", "q1\t0\td2\t0", "q2\t0\td1\t1"],
        ["query-id\tcorpus-id\tscore", "q1\td1\t2", "q1\td2\t0", "q2\td1\t1"],
        ["score\tcorpus_id\tquery_id", "2\td1\tq1", "0\td2\tq1", "1\td1\tq2"],
        ["q1\td1\t2.0", "q1\td2\t0", "q2\td1\t1"],
    ],
    ids=["trec", "trec with tabs", "t2ranking", "beir", "other order", "no header"],
)
def test_judgements_read_alike_in_all_layouts(tmp_path: Path, lines: list[str]) -> None:
    assert read_qrels(write(tmp_path / "qrels.tsv", *lines)) == QRELS


def test_json_lines_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "qrels.jsonl", '{"query-id": "query_0", "corpus-id": "Geneva Durben", "score": 1}'
    )

    assert read_qrels(path) == {"query_0": {"Geneva Durben": 1}}


@pytest.mark.parametrize("header", [[], ["qid\tpid"]])
def test_list_of_positives_gets_grade_1(tmp_path: Path, header: list[str]) -> None:
    assert read_qrels(write(tmp_path / "qrels.retrieval.tsv", *header, "7\t100")) == {"7": {"100": 1}}


def test_ids_with_spaces_are_read_between_tabs(tmp_path: Path) -> None:
    path = write(tmp_path / "test.tsv", "query-id\tcorpus-id\tscore", "query_0\tGeneva Durben\t1")

    assert read_qrels(path) == {"query_0": {"Geneva Durben": 1}}


@pytest.mark.parametrize("grade", ["0.5", "1001", "nan", "high"])
def test_grade_that_is_no_whole_number_is_named(tmp_path: Path, grade: str) -> None:
    path = write(tmp_path / "qrels", "q1 0 d1 1", f"q1 0 d2 {grade}")

    with pytest.raises(DataError, match=f"qrels:2: `grade` must be a .* number.*; got '{re.escape(grade)}'"):
        read_qrels(path)


def test_negative_grade_is_read(tmp_path: Path) -> None:
    assert read_qrels(write(tmp_path / "qrels", "q1 0 spam -2")) == {"q1": {"spam": -2}}


def test_document_judged_twice_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "qrels", "q1 0 d1 1", "q2 0 d1 1", "q1 0 d1 1")

    with pytest.raises(DataError, match="qrels:3: `document` must be judged once for query 'q1'; got 'd1'"):
        read_qrels(path)


def test_unknown_query_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "qrels", "q1 0 d1 1", "q2 0 d1 1")

    with pytest.raises(DataError, match="qrels:2: `query` must be one of the ids that were given; got 'q2'"):
        read_qrels(path, query_ids={"q1"})


def test_unknown_document_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "qrels", "q1 0 d1 1", "q1 0 d9 1")

    with pytest.raises(
        DataError, match="qrels:2: `document` must be one of the ids that were given; got 'd9'"
    ):
        read_qrels(path, document_ids={"d1": "text"})


def test_wrong_number_of_columns_is_named(tmp_path: Path) -> None:
    message = (
        "qrels:1: the record must be a row with one of these numbers of columns: 2, 3, 4; got 5: 'a b c d e'."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        read_qrels(write(tmp_path / "qrels", "a b c d e"))


def test_row_of_another_length_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "qrels", "q1 0 d1 1", "q1 0 d2")

    with pytest.raises(
        DataError, match="qrels:2: the record must be a row of 4 columns, as the first one is; got 3"
    ):
        read_qrels(path)


def test_blank_id_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape("qrels.tsv:2: `document` must be a non-empty id; got ''")):
        read_qrels(write(tmp_path / "qrels.tsv", "q1\td1\t1", "q1\t\t1"))


def test_file_with_only_a_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one record"):
        read_qrels(write(tmp_path / "test.tsv", "query-id\tcorpus-id\tscore"))


@pytest.mark.parametrize("name", ["test.tsv", "test.tsv.gz", "qrels.txt", "qrels.gz"])
def test_written_judgements_come_back(tmp_path: Path, name: str) -> None:
    write_qrels(tmp_path / name, QRELS)

    assert read_qrels(tmp_path / name) == QRELS


def test_table_is_written_as_beir_has_it(tmp_path: Path) -> None:
    write_qrels(tmp_path / "test.tsv", {"q1": {"d1": 2}})

    assert (tmp_path / "test.tsv").read_text() == "query-id\tcorpus-id\tscore\nq1\td1\t2\n"


def test_id_with_a_space_is_refused_where_spaces_separate(tmp_path: Path) -> None:
    message = (
        "write_qrels: `qrels` must be ids without white space; got 'Geneva Durben'. A file that ends in .tsv"
    )
    with pytest.raises(ArgumentError, match=re.escape(message)):
        write_qrels(tmp_path / "qrels.txt", {"q1": {"Geneva Durben": 1}})


def test_id_with_a_tab_is_refused_in_a_table(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="write_qrels: `qrels` must be ids without tabs and line ends"):
        write_qrels(tmp_path / "test.tsv", {"q1": {"d\t1": 1}})


def test_grade_that_is_no_whole_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match=re.escape("write_qrels: `qrels` must be whole grades up to 1000; got 0.5")
    ):
        write_qrels(tmp_path / "test.tsv", {"q1": {"d1": 0.5}})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []
