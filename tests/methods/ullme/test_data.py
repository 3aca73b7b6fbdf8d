"""Training rows: what is read, what is drawn, and how the loss gets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fletching.errors import ArgumentError, DataError
from fletching.methods.ullme import LLMEmbedder
from fletching.methods.ullme.data import (
    TrainingRow,
    ULLMECollator,
    build_columns,
    build_sentence_columns,
    hold_out,
    read_rows,
    read_sentences,
)
from fletching.testing import save_tiny_embedder, save_tiny_llama


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_rows_are_read_in_both_layouts(tmp_path):
    path = write(
        tmp_path / "rows.jsonl",
        {"query": "q", "positive": ["a", "b"], "negative": ["c"], "cluster": 3, "label": 7},
        {"query": "q", "positive": "a", "negative": "c"},
        {"query": "q", "documents": ["a", "c", "d"], "labels": [2, 0, -1]},
        {"query": "q", "positives": ["a"]},
    )
    assert list(read_rows(path)) == [
        TrainingRow("q", ("a", "b"), ("c",), "3", 7),
        TrainingRow("q", ("a",), ("c",)),
        TrainingRow("q", ("a",), ("c", "d")),
        TrainingRow("q", ("a",)),
    ]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"query": " ", "positive": ["a"]}, r"rows.jsonl:1: `query` must be a non-empty string"),
        ({"query": "q"}, r"rows.jsonl:1: `positives` must be a non-empty list of strings"),
        ({"query": "q", "documents": ["a"], "labels": [0]}, "`positive` must be a non-empty list"),
        ({"query": "q", "positive": ["a", " "]}, "`positive or negative` must be texts that are not blank"),
        ({"query": "q", "positive": ["a"], "label": True}, "`label` must be a whole number from 0 up"),
        ({"query": "q", "positive": ["a"], "label": -1}, "`label` must be a whole number from 0 up"),
        ({"query": "q", "positive": ["a"], "cluster": [1]}, "`cluster` must be a text or a number"),
    ],
)
def test_malformed_rows_are_named(record, message, tmp_path):
    with pytest.raises(DataError, match=message):
        list(read_rows(write(tmp_path / "rows.jsonl", record)))


def test_sentences_are_read_from_lines_and_from_records(tmp_path):
    lines = tmp_path / "sentences.txt"
    lines.write_text("one \n\n two\n", encoding="utf-8")
    assert list(read_sentences(lines)) == ["one", "two"]
    assert list(read_sentences(write(tmp_path / "s.jsonl", {"text": "one "}))) == ["one"]
    with pytest.raises(DataError, match=r"s.jsonl:1: `text` must be a non-empty string"):
        list(read_sentences(write(tmp_path / "s.jsonl", {"text": ""})))


def build_rows(count: int, negatives: int = 3) -> list[TrainingRow]:
    return [
        TrainingRow(f"q{row}", (f"p{row}",), tuple(f"n{row}.{number}" for number in range(negatives)))
        for row in range(count)
    ]


def test_columns_hold_a_query_with_texts_of_its_own_row():
    for row in build_columns(build_rows(20), n_negatives=2, seed=1):
        number = row["anchor"][1:]
        assert list(row) == ["anchor", "positive", "negative_1", "negative_2"]
        assert row["positive"] == f"p{number}"
        assert row["negative_1"] != row["negative_2"]
        assert all(row[name].startswith(f"n{number}.") for name in ("negative_1", "negative_2"))


def test_columns_depend_on_the_seed_alone():
    rows = build_rows(20)
    first, again, other = (build_columns(rows, n_negatives=2, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_rows_with_too_few_texts_or_words_are_dropped():
    rows = [*build_rows(2), *build_rows(2, negatives=1), TrainingRow("a b", ("c d",), ("e f", "g h"))]
    assert len(build_columns(rows, n_negatives=2)) == 3
    assert [row["anchor"] for row in build_columns(rows, n_negatives=2, min_words=2)] == ["a b"]
    assert len(build_columns(rows, n_negatives=2, limit=2)) == 2
    with pytest.raises(DataError, match="rows with 1 positives and 9 negatives; got 5 rows"):
        build_columns(rows, n_negatives=9)


def test_several_positives_have_numbers():
    (row,) = build_columns([TrainingRow("q", ("a", "b", "c"))], n_positives=2, n_negatives=0)
    assert list(row) == ["anchor", "positive_1", "positive_2"]


def test_cluster_is_kept_where_one_row_has_it_and_label_where_all_have():
    rows = [TrainingRow("q", ("a",), cluster="x"), TrainingRow("r", ("b",))]
    assert all(list(row) == ["anchor", "positive", "cluster"] for row in build_columns(rows, n_negatives=0))
    labelled = [TrainingRow("q", ("a",), label=1), TrainingRow("r", ("b",), label=0)]
    assert {row["label"] for row in build_columns(labelled, n_negatives=0)} == {0, 1}


def test_labels_in_some_rows_only_are_refused():
    rows = [TrainingRow("q", ("a",), label=1), TrainingRow("r", ("b",))]
    with pytest.raises(DataError, match="a label in every row or in none; 1 of 2 rows have one"):
        build_columns(rows, n_negatives=0)


def test_a_short_passage_is_dropped_and_its_row_kept_where_others_are_left():
    rows = [TrainingRow("a b", ("c d", "e"), ("f", "g h"))]
    (row,) = build_columns(rows, min_words=2)
    assert row == {"anchor": "a b", "positive": "c d", "negative_1": "g h"}


def test_rows_are_held_out_once():
    rows = build_rows(10)
    kept, away = hold_out(rows, 3, seed=5)
    assert len(away) == 3
    assert sorted([*kept, *away], key=rows.index) == rows
    assert hold_out(rows, 3, seed=5) == (kept, away)
    assert hold_out([], 0, seed=5) == ([], [])


@pytest.mark.parametrize("count", [0, 10])
def test_something_must_be_left_to_train_on(count):
    with pytest.raises(DataError, match=f"more rows than are held out, 10; got {count}"):
        hold_out(build_rows(count), 10, seed=5)


def test_sentence_rows_are_a_sentence_twice():
    rows = build_sentence_columns(["a", "b", "a", "c"], limit=2)
    assert len(rows) == 2
    assert all(row["anchor"] == row["positive"] for row in rows)
    with pytest.raises(DataError, match="at least two different sentences; got 1"):
        build_sentence_columns(["a", "a"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LLMEmbedder:
    folder = save_tiny_llama(tmp_path_factory.mktemp("llama"))
    return LLMEmbedder(folder, device="cpu", prompts={"query": "what is", "document": "the passage"})


def decode(model: LLMEmbedder, ids: Any) -> list[str]:
    tokenizer: Any = model.tokenizer
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


ROW = {"anchor": "bow", "positive": "wood", "negative_1": "wind", "label": 4, "cluster": "x"}


def test_the_models_own_prompts_are_put_in_front(model):
    batch = ULLMECollator(model)([ROW])
    assert decode(model, batch["anchor_input_ids"]) == ["what is bow"]
    assert decode(model, batch["positive_input_ids"]) == ["the passage wood"]
    assert decode(model, batch["negative_1_input_ids"]) == ["the passage wind"]
    assert decode(model, batch["generation_input_ids"]) == ["bow wood", "bow wind"]
    assert batch["label"].tolist() == [4]
    assert not [name for name in batch if name.startswith("cluster")]


def test_prompts_by_column_win(model):
    batch = ULLMECollator(model, prompts={"anchor": "why"})([ROW])
    assert decode(model, batch["anchor_input_ids"]) == ["why bow"]
    assert decode(model, batch["positive_input_ids"]) == ["wood"]


def test_rows_for_the_generator_can_be_left_out(model, tmp_path):
    batch = ULLMECollator(model, generation=False)([ROW])
    assert not [name for name in batch if name.startswith("generation")]
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(save_tiny_embedder(tmp_path), device="cpu")
    ULLMECollator(encoder, generation=False)([ROW])
    with pytest.raises(ArgumentError, match="`model` must be an LLMEmbedder"):
        ULLMECollator(encoder)


def test_an_empty_batch_is_empty(model):
    assert ULLMECollator(model)([]) == {}
