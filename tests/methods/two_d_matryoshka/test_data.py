"""Rows are read from every layout, and what is none of them is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from fletching.errors import ArgumentError, DataError
from fletching.methods.two_d_matryoshka.data import (
    NLIRow,
    TrainingRows,
    build_nli_triplets,
    read_nli,
    read_rows,
)


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_scored_pairs_with_and_without_a_header(tmp_path: Path) -> None:
    expected = (("a", "b", 4.5), ("c", "d", 0.0))
    plain = write(tmp_path / "plain.tsv", "4.5\ta\tb", "0\tc\td")
    named = write(tmp_path / "named.tsv", "sentence1\tsentence2\tscore", "a\tb\t4.5", "c\td\t0")
    assert read_rows(plain) == read_rows(named) == TrainingRows("scored", expected)
    assert read_rows(plain).to_columns() == {
        "sentence1": ["a", "c"],
        "sentence2": ["b", "d"],
        "score": [4.5, 0.0],
    }


def test_scored_pairs_in_json(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", json.dumps({"sentence1": "a", "sentence2": "b", "score": 3}))
    assert read_rows(path) == TrainingRows("scored", (("a", "b", 3.0),))


def test_titles_and_abstracts_are_pairs_and_papers_without_either_are_left_out(tmp_path: Path) -> None:
    records = [
        {"_id": "1", "title": "A", "abstract": "about a", "year": "2020"},
        {"_id": "2", "title": "B", "abstract": ""},
        {"_id": "3", "title": "", "abstract": "about c"},
    ]
    path = tmp_path / "papers.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(record)}\n" for record in records)
    assert read_rows(path) == TrainingRows("pairs", (("A", "about a"),))


def test_triplets_and_pairs_in_tables(tmp_path: Path) -> None:
    triplets = write(tmp_path / "triplets.tsv", "negative\tquery\tpositive", "n\tq\tp", "m\tq\tp")
    pairs = write(tmp_path / "pairs.tsv", "anchor\tpositive", "q\tp")
    assert read_rows(triplets) == TrainingRows("triplets", (("q", "p", "n"), ("q", "p", "m")))
    assert read_rows(triplets).without_negatives() == read_rows(pairs) == TrainingRows("pairs", (("q", "p"),))


def test_nli_becomes_triplets_of_one_premise(tmp_path: Path) -> None:
    """Two entailments and one contradiction of a premise: two triplets; a premise without either: none."""
    lines = ["entailment\ta\tyes", "contradiction\ta\tno", "neutral\ta\tperhaps", "entailment\ta\tsurely"]
    path = write(tmp_path / "nli.tsv", "label\tpremise\thypothesis", *lines, "entailment\tb\tyes", "-\tb\tno")
    assert read_rows(path) == TrainingRows("triplets", (("a", "yes", "no"), ("a", "surely", "no")))
    assert len(list(read_nli(path))) == 5


def test_nli_in_json_may_have_numbers_for_labels(tmp_path: Path) -> None:
    rows = [{"label": label, "premise": "a", "hypothesis": str(label)} for label in (2, 0, 1)]
    path = write(tmp_path / "nli.jsonl", *map(json.dumps, rows))
    assert read_rows(path) == TrainingRows("triplets", (("a", "0", "2"),))


def test_contradictions_take_turns() -> None:
    rows = [NLIRow("a", text, text in "xyz") for text in ("x", "m", "y", "n", "z")]
    assert build_nli_triplets(rows) == [("a", "x", "m"), ("a", "y", "n"), ("a", "z", "m")]


def test_rows_are_drawn_by_the_seed_and_keep_their_order() -> None:
    rows = TrainingRows("pairs", tuple((str(place), "x") for place in range(50)))
    drawn = rows.take(10, seed=1)
    assert len(drawn.rows) == 10
    assert drawn == rows.take(10, seed=1)
    assert drawn != rows.take(10, seed=2)
    assert sorted(drawn.rows, key=lambda row: int(row[0])) == list(drawn.rows)
    assert rows.take(None) is rows


def test_files_of_two_kinds_are_refused(tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.tsv", "anchor\tpositive", "q\tp")
    scored = write(tmp_path / "scored.tsv", "1\ta\tb")
    with pytest.raises(
        DataError, match=r"scored.tsv: the file must be one of pairs, as pairs.tsv is; got scored"
    ):
        read_rows(pairs, scored)
    with pytest.raises(ArgumentError, match="`paths` must be at least one file"):
        read_rows()


@pytest.mark.parametrize(
    ("name", "lines", "text"),
    [
        ("a.csv", ["1,2"], r"must be one that ends in .jsonl, .json, .tsv, .txt"),
        ("a.jsonl", ['{"text1": "a"}'], r"a.jsonl:1: the record must be a row with the fields of one kind"),
        ("a.jsonl", ['{"title": "", "abstract": "b"}'], "at least one row of pairs"),
        ("a.jsonl", ['{"anchor": "a", "positive": "b", "negative": " "}'], "`negative` must be a non-empty"),
        (
            "a.jsonl",
            ['{"sentence1": "a", "sentence2": "b", "score": "x"}'],
            "`score` must be a finite number",
        ),
        ("a.tsv", ["label\tpremise\thypothesis", "maybe\ta\tb"], "`label` must be one of entailment"),
        ("a.tsv", ["label\tpremise\thypothesis", "neutral\ta\tb"], "a premise that has an entailment"),
        ("a.tsv", ["anchor\tpositive", "q"], "a.tsv:2: the record must be a row of 2 columns"),
        ("a.tsv", ["5\ta"], "the record must be a row of at least 3 columns"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, lines: list[str], text: str) -> None:
    with pytest.raises(DataError, match=text):
        read_rows(write(tmp_path / name, *lines))
