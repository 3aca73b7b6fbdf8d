from __future__ import annotations

import re
from pathlib import Path

import pytest

from fletching.data import SentencePair, read_sts
from fletching.errors import ArgumentError, DataError

PAIR = SentencePair('He said "no', "No.", 4.5)


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "lines",
    [
        ["score\tsentence1\tsentence2", '4.5\tHe said "no\tNo.'],
        ['4.5\tHe said "no\tNo.'],
        ["pair_ID\tsentence_A\tsentence_B\trelatedness_score", '7\tHe said "no\tNo.\t4.5'],
        ["score\tsentence1\tsentence2\tentailment", '4.5\tHe said "no\tNo.\tneutral'],
    ],
    ids=["header", "no header", "sick", "further column"],
)
def test_pairs_read_alike_in_all_layouts(tmp_path: Path, lines: list[str]) -> None:
    assert list(read_sts(write(tmp_path / "sts.tsv", *lines))) == [PAIR]


def test_columns_may_be_named_by_the_caller(tmp_path: Path) -> None:
    """The official STS benchmark: genre, file, year, number, score, two sentences and sometimes a source."""
    path = write(tmp_path / "sts-dev.csv", 'main-news\tx\t2015\t0001\t4.5\tHe said "no\tNo.\thttp://x')
    columns = ["genre", "file", "year", "number", "score", "sentence1", "sentence2"]

    assert list(read_sts(path, columns=columns)) == [PAIR]


def test_columns_without_a_score_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match="read_sts: `columns` must be names with score, sentence1, sentence2"
    ):
        next(read_sts(tmp_path / "sts.tsv", columns=["sentence1", "sentence2"]))


def test_score_that_is_not_finite_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape("sts.tsv:2: `score` must be a finite number; got 'nan'")):
        list(read_sts(write(tmp_path / "sts.tsv", "1\ta\tb", "nan\ta\tb")))


def test_blank_sentence_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=re.escape("sts.tsv:1: `sentence2` must be a non-empty string; got ' '")
    ):
        list(read_sts(write(tmp_path / "sts.tsv", "1\ta\t ")))


def test_short_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=re.escape("sts.tsv:2: the record must be a row of at least 3 columns; got 2")
    ):
        list(read_sts(write(tmp_path / "sts.tsv", "1\ta\tb", "1\ta")))


def test_file_with_only_a_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one record"):
        list(read_sts(write(tmp_path / "sts.tsv", "score\tsentence1\tsentence2")))
