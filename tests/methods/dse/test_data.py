"""Pairs come out of every usual file with the right label, and logits stay with their pair."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from fletching.errors import ArgumentError, DataError
from fletching.methods.dse.data import LABELS, PairRow, build_dataset, count_logits, read_pairs

NLI = ("contradiction", "entailment", "neutral")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "header",
    ["score\tsentence1\tsentence2", "label\tpremise\thypothesis", "Quality\t#1 String\t#2 String"],
)
def test_a_table_is_read_by_its_header(tmp_path: Path, header: str) -> None:
    path = write(tmp_path / "pairs.tsv", f"{header}\n3.8\ta bow\ta bow of wood\n0\tflax\tan arrow\n")
    assert read_pairs(path) == [PairRow("a bow", "a bow of wood", 3.8), PairRow("flax", "an arrow", 0.0)]


def test_a_gzipped_table_of_glue_is_read(tmp_path: Path) -> None:
    text = "index\tquestion\tsentence\tlabel\n0\twhat is it?\ta bow\tentailment\n"
    (tmp_path / "qnli.tsv.gz").write_bytes(gzip.compress(text.encode()))
    found = read_pairs(tmp_path / "qnli.tsv.gz", labels=LABELS["qnli"])
    assert found == [PairRow("what is it?", "a bow", 0.0)]


def test_names_of_labels_become_numbers_in_the_order_given(tmp_path: Path) -> None:
    lines = "".join(f"{name}\ta\tb\n" for name in ("Neutral", "entailment", "contradiction"))
    path = write(tmp_path / "nli.tsv", f"gold_label\tsentence1\tsentence2\n{lines}")
    assert [row.label for row in read_pairs(path, labels=NLI)] == [2.0, 1.0, 0.0]


@pytest.mark.parametrize("label", ["-", ""])
def test_a_pair_without_a_label_has_nan(tmp_path: Path, label: str) -> None:
    path = write(tmp_path / "nli.tsv", f"label\tpremise\thypothesis\n{label}\ta\tb\n")
    (row,) = read_pairs(path, labels=NLI)
    assert math.isnan(row.label)


def test_pairs_that_lack_a_sentence_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The reference code skips lines of QQP that are cut short; one of these has two fields, one a blank."""
    path = write(tmp_path / "qqp.tsv", "question1\tquestion2\tis_duplicate\na\tb\t1\nc\td\ne\ne\t \t0\n")
    found = read_pairs(path)
    assert [(row.first, row.second) for row in found] == [("a", "b"), ("c", "d")]
    assert math.isnan(found[1].label)
    assert "left out 2 of 4 pairs, which lack a sentence" in caplog.text


def test_json_lines_may_carry_logits(tmp_path: Path) -> None:
    records = [
        {"sentence1": "a", "sentence2": "b", "label": "neutral", "teacher": [0.5, -1, 2]},
        {"sentence1": "c", "sentence2": "d", "label": None, "teacher": [1, 2, 3]},
    ]
    path = write(tmp_path / "nli.jsonl", "\n".join(map(json.dumps, records)))
    first, second = read_pairs(path, labels=NLI)
    assert first == PairRow("a", "b", 2.0, (0.5, -1.0, 2.0))
    assert second.teacher == (1.0, 2.0, 3.0)
    assert math.isnan(second.label)


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "sick.tsv", "score\tsentence1\tsentence2\tentailment\n3.6\ta\tb\tcontradiction\n")
    assert read_pairs(path)[0].label == 3.6
    assert read_pairs(path, labels=NLI, columns={"label": "entailment"})[0].label == 0.0


@pytest.mark.parametrize(
    ("labels", "expected"),
    [((), [0.0, 2.0]), (("entailment", "neutral", "contradiction"), [0.0, 2.0]), (NLI, [1.0, 0.0])],
    ids=["numbers as they are", "the same order", "another order"],
)
def test_a_data_set_with_named_labels_is_put_into_the_order_given(
    labels: tuple[str, ...], expected: list[float]
) -> None:
    names = ClassLabel(names=["entailment", "neutral", "contradiction"])
    features = Features({"premise": Value("string"), "hypothesis": Value("string"), "label": names})
    rows = {"premise": ["a", "b", "c"], "hypothesis": ["x", "y", "z"], "label": [0, 2, -1]}
    found = read_pairs(Dataset.from_dict(rows, features=features), labels=labels)
    assert [row.label for row in found[:2]] == expected
    assert math.isnan(found[2].label)


def test_a_data_set_on_disk_is_a_source_like_a_file(tmp_path: Path) -> None:
    data = Dataset.from_dict({"text1": ["a"], "text2": ["b"], "label": [1]})
    data.save_to_disk(str(tmp_path / "one"))
    assert read_pairs(tmp_path / "one") == [PairRow("a", "b", 1.0)]
    DatasetDict({"train": data, "test": data}).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(DataError, match="must be one split of a data set; got several: train, test"):
        read_pairs(tmp_path / "two")
    with pytest.raises(DataError, match="that save_to_disk of datasets wrote; got another folder"):
        read_pairs(tmp_path)


def test_label_and_logits_travel_in_one_column() -> None:
    rows = [PairRow(f"a{n}", f"b{n}", float(n), (n + 0.25, n + 0.5)) for n in range(20)]
    shuffled = build_dataset(rows).shuffle(seed=0)
    assert shuffled.column_names == ["sentence1", "sentence2", "label"]
    assert shuffled["sentence1"] != [row.first for row in rows]
    for record in shuffled:
        number = int(record["sentence1"][1:])
        assert record["label"] == [number, number + 0.25, number + 0.5]


def test_pairs_with_and_without_logits_do_not_mix() -> None:
    with pytest.raises(ArgumentError, match=r"equally many logits of a teacher; got \[0, 1\]"):
        build_dataset([PairRow("a", "b", 1.0), PairRow("a", "b", 1.0, (0.5,))])
    with pytest.raises(ArgumentError, match="`rows` must be at least one pair"):
        build_dataset([])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("label\tpremise\thypothesis\nmaybe\ta\tb\n", {"labels": NLI}, r":2: `label` must be one of 'contra"),
        ("label\tpremise\thypothesis\nneutral\ta\tb\n", {}, r":2: `label` must be a finite number; got 'neu"),
        ("label\tpremise\n1\ta\n", {}, r"must be a record with sentence2; got label, premise. Say what"),
        ("label\tpremise\thypothesis\n1\t\tb\n", {}, "at least one record"),
        ("label\tpremise\thypothesis\n1\ta\tb\tc\n", {}, r":2: the record must be a row of 3 columns"),
        ("label\tpremise\thypothesis\n1\ta\tb\n", {"columns": {"label": "gold"}}, "a record with gold"),
        ('{"premise": "a", "hypothesis": "b", "logits": ["x"]}\n', {}, r"`teacher` must be a finite number"),
    ],
)
def test_malformed_files_are_refused(
    tmp_path: Path, text: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_pairs(write(tmp_path / "pairs", text), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"text": "a"}}, "`columns` must be one of 'sentence1', 'sentence2', 'label', 'teacher'"),
        ({"labels": ("a", "a")}, "`labels` must be a list of different names"),
        ({"labels": "abc"}, "`labels` must be a list of different names"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        read_pairs([{"text1": "a", "text2": "b"}], **options)


@pytest.mark.parametrize(
    ("task", "num_labels", "expected"),
    [("binary", None, 1), ("binary", 2, 1), ("regression", None, 1), ("multiclass", 3, 3)],
)
def test_only_a_multiclass_student_has_several_logits(
    task: str, num_labels: int | None, expected: int
) -> None:
    assert count_logits("x", task, num_labels) == expected


@pytest.mark.parametrize(
    ("task", "num_labels"), [("binary", 3), ("multiclass", None), ("multiclass", 1), ("regression", 3)]
)
def test_a_task_with_another_number_of_labels_is_refused(task: str, num_labels: int | None) -> None:
    with pytest.raises(ArgumentError, match="`num_labels` must be"):
        count_logits("x", task, num_labels)
