"""Rows: read with clear errors, made from labels, sampled as the reference samples."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from fletching.errors import ArgumentError, DataError
from fletching.methods.kalm import KaLMRow, RowSampler, build_label_rows, read_rows, write_rows

ROW = {"query": "Instruct: x \n Query: q", "pos": ["p"], "neg": ["n", "m"], "task_name": "t"}


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_rows_are_read_as_the_reference_writes_them(tmp_path):
    rows = read_rows(write(tmp_path / "rows.jsonl", ROW, {"query": "q", "pos": ["p"], "id": 3}))
    assert rows == [
        KaLMRow("Instruct: x \n Query: q", ("p",), ("n", "m"), "t"),
        KaLMRow("q", ("p",)),
    ]


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [
        KaLMRow("q \n Query: 弓", ("p", "o"), ("n",), "t", (0.5, 0.25), (-0.125,)),
        KaLMRow("q", ("p",)),
    ]
    write_rows(tmp_path / "rows.jsonl.gz", rows)
    assert read_rows(tmp_path / "rows.jsonl.gz") == rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": None}, r"rows\.jsonl:2: `query` must be a text that is not empty; got None"),
        ({"query": " "}, "`query` must be a text that is not empty"),
        ({"pos": []}, "`pos` must be a list with at least one text; got \\[\\]"),
        ({"pos": None}, "`pos` must be a list of texts"),
        ({"pos": "p"}, "`pos` must be a list of texts that are not empty; got 'p'"),
        ({"neg": ["n", 3]}, "`neg` must be a list of texts"),
        ({"neg": [""]}, "`neg` must be a list of texts that are not empty"),
        ({"task_name": 3}, "`task_name` must be text; got 3"),
        ({"pos_scores": [0.5]}, "`neg_scores` must be 2 finite numbers, one for each text; got \\[\\]"),
        ({"pos_scores": [0.5], "neg_scores": [0.1]}, "`neg_scores` must be 2 finite numbers"),
        ({"pos_scores": [0.5, 0.1], "neg_scores": [0.1, 0.2]}, "`pos_scores` must be 1 finite numbers"),
        ({"pos_scores": [float("nan")], "neg_scores": [0.1, 0.2]}, "`pos_scores` must be 1 finite"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        read_rows(write(tmp_path / "rows.jsonl", ROW, {**ROW, **change}))


def test_a_text_is_labelled_by_examples():
    """Positives are other texts of the class, negatives texts of other classes; "d" is alone: no row."""
    texts, labels = ["a", "b", "c", "d", "e", "f"], [0, 0, 0, 1, 2, 2]
    rows = build_label_rows(texts, labels, task="letters", n_positives=2, n_negatives=9)
    classes = dict(zip(texts, labels, strict=True))
    assert [row.query for row in rows] == ["a", "b", "c", "e", "f"]
    for row in rows:
        same = {text for text in texts if classes[text] == classes[row.query] and text != row.query}
        assert set(row.positives) == same
        assert set(row.negatives) == {text for text in texts if classes[text] != classes[row.query]}
        assert row.task == "letters"


def test_a_label_row_carries_its_instruction():
    rows = build_label_rows(["a", "b", "c"], [0, 0, 1], task="t", instruction="Sort it")
    assert rows[0].query == "Instruct: Sort it \n Query: a"
    assert rows[0].positives == ("b",)


def test_equal_texts_and_texts_of_two_classes_do_not_teach_nonsense():
    """ "a" twice is no positive of itself; "x", of both classes, is nobody's negative."""
    texts, labels = ["a", "a", "b", "x", "x", "c", "d"], [0, 0, 0, 0, 1, 1, 1]
    rows = build_label_rows(texts, labels, task="t", n_positives=9, n_negatives=9)
    for row in rows:
        assert row.query not in row.positives
        assert "x" not in row.negatives
        assert row.query not in row.negatives


def test_negatives_of_many_classes_are_drawn_by_the_seed():
    texts = [f"{label}-{number}" for label in range(40) for number in range(5)]
    labels = [label for label in range(40) for _ in range(5)]
    rows, again, others = (build_label_rows(texts, labels, task="t", seed=seed) for seed in (0, 0, 1))
    assert rows == again != others
    for row in rows:
        assert len(set(row.negatives)) == 7
        assert all(text.split("-")[0] != row.query.split("-")[0] for text in row.negatives)


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (["a", "b"], [0], "`labels` must be one for each of the 2 texts; got 1"),
        (["a", "b"], [0, 0], "`labels` must be of two classes or more"),
        (["a", "b"], [0, 1], "classes of more than one text"),
        (["a", ""], [0, 1], r"`texts\[1\]` must be text that is not empty"),
    ],
)
def test_labels_that_make_no_rows_are_refused(texts, labels, message):
    with pytest.raises(ArgumentError, match=message):
        build_label_rows(texts, labels, task="t")


def test_each_epoch_draws_one_positive_and_other_negatives():
    """Over many epochs each of 2 positives and 4 negatives is drawn equally often, 3 different at once."""
    sampler = RowSampler([KaLMRow("q", ("p0", "p1"), ("n0", "n1", "n2", "n3"))], n_negatives=3, seed=5)
    positives, negatives = Counter(), Counter()
    for epoch in range(400):
        sampler.set_epoch(epoch)
        row = sampler.build(0)
        positives[row["positive"]] += 1
        drawn = [row[f"negative_{number}"] for number in (1, 2, 3)]
        assert len(set(drawn)) == 3
        negatives.update(drawn)
    assert all(160 <= count <= 240 for count in positives.values())  # 200 +- 4 standard deviations of 10
    assert all(260 <= count <= 340 for count in negatives.values())  # 300 +- 4.6 of 8.7


def test_too_few_negatives_are_repeated_evenly():
    sampler = RowSampler([KaLMRow("q", ("p",), ("a", "b"))], n_negatives=5)
    row = sampler.build(0)
    counts = Counter(row[f"negative_{number}"] for number in range(1, 6))
    assert sorted(counts.values()) == [2, 3]


def test_scores_follow_the_texts_that_are_drawn():
    row = KaLMRow("q", ("p0", "p1"), ("n0", "n1", "n2"), "t", (1.0, 2.0), (10.0, 11.0, 12.0))
    sampler = RowSampler([row], n_negatives=2, scores=True)
    of_text = {"p0": 1.0, "p1": 2.0, "n0": 10.0, "n1": 11.0, "n2": 12.0}
    for epoch in range(20):
        sampler.set_epoch(epoch)
        built = sampler.build(0)
        texts = [built[name] for name in ("positive", "negative_1", "negative_2")]
        assert built["label"] == [of_text[text] for text in texts]


def test_a_dataset_shows_the_rows_of_the_epoch():
    rows = [KaLMRow(f"q{number}", ("a", "b", "c"), ("n", "m"), "t") for number in range(3)]
    sampler = RowSampler(rows, n_negatives=1, seed=1)
    dataset = sampler.to_dataset()
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        assert list(dataset[0:3].items()) == [
            (column, [sampler.build(place)[column] for place in range(3)])
            for column in ("query", "positive", "negative_1")
        ]
    assert dataset.column_names == list(sampler.columns)


def test_the_same_seed_draws_the_same_rows_whatever_was_drawn_before():
    rows = [KaLMRow("q", tuple("abcdef"), tuple("ghijkl"))] * 3
    first, second = RowSampler(rows, n_negatives=2, seed=3), RowSampler(rows, n_negatives=2, seed=3)
    first.build(0)
    assert first.build(2) == second.build(2)


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        ([], {}, ArgumentError, "`rows` must be at least one row"),
        ([KaLMRow("q", ("p",))], {}, DataError, r"row 0 \('q'\) must have negatives. Mine some, or train on"),
        (
            [KaLMRow("q", ("p",))],
            {"n_negatives": -1},
            ArgumentError,
            "`n_negatives` must be an integer from 0",
        ),
        (
            [KaLMRow("q", ("p",))],
            {"n_negatives": 0, "scores": True},
            DataError,
            "must have a teacher's scores",
        ),
    ],
)
def test_rows_that_cannot_be_sampled_are_refused(rows, options, error, message):
    with pytest.raises(error, match=message):
        RowSampler(rows, **options)
