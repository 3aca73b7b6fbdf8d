"""Every reranker can teach; its logits go with their pair, and are computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import BertConfig, BertForSequenceClassification

import fletching
from fletching.errors import ArgumentError, CheckpointError
from fletching.methods.dse.data import PairRow, build_dataset
from fletching.methods.dse.teachers import (
    add_teacher_logits,
    check_teacher,
    compute_logits,
    open_teacher,
    reduce_logits,
)
from fletching.testing import save_tiny_bert, save_tiny_cross_encoder
from fletching.testing.tiny import build_tiny_tokenizer

PAIRS = [
    ("a bow of wood", "the archer and the bow"),
    ("feathers on an arrow", "a goose"),
    ("what keeps an arrow true", "feathers of a goose on the shaft keep the arrow true"),
]
NLI = ("contradiction", "entailment", "neutral")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def save_classifier(folder: Path, names: tuple[str, ...]) -> str:
    """A cross-encoder of several labels, with names."""
    tokenizer = build_tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        initializer_range=0.3,
        id2label=dict(enumerate(names)),
        label2id={name: place for place, name in enumerate(names)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForSequenceClassification(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def one_label(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_cross_encoder(tmp_path_factory.mktemp("one"))


def logits_of(folder: str, pairs: list[tuple[str, str]] = PAIRS) -> torch.Tensor:
    """What transformers computes, pair by pair."""
    network = BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = build_tiny_tokenizer()
    with torch.no_grad():
        rows = [network(**tokenizer(*pair, return_tensors="pt", truncation=True)).logits for pair in pairs]
    return torch.cat(rows)


def test_two_logits_become_their_difference_whoever_opens_the_teacher(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, ("no", "yes"))
    z = logits_of(folder)
    expected = z[:, 1:] - z[:, :1]
    for teacher in (open_teacher(folder, device="cpu"), CrossEncoder(folder, device="cpu")):
        found = compute_logits(teacher, PAIRS, task="binary", batch_size=2)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(expected[:, 0].sigmoid(), z.softmax(dim=1)[:, 1])


def test_one_logit_stays_as_it_is_without_the_sigmoid_of_the_checkpoint(one_label: str) -> None:
    teacher = open_teacher(one_label, device="cpu")
    for task in ("binary", "regression"):
        found = compute_logits(teacher, PAIRS, task=task)
        torch.testing.assert_close(found, logits_of(one_label), atol=1e-5, rtol=0)


def test_classes_in_another_order_are_put_into_that_of_the_task(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, ("ENTAILMENT", "neutral", "contradiction"))
    teacher = open_teacher(folder, device="cpu")
    found = compute_logits(teacher, PAIRS, task="multiclass", labels=NLI)
    torch.testing.assert_close(found, logits_of(folder)[:, [2, 0, 1]], atol=1e-5, rtol=0)
    as_they_are = compute_logits(teacher, PAIRS, task="multiclass", labels=("a", "b", "c"))
    torch.testing.assert_close(as_they_are, logits_of(folder), atol=1e-5, rtol=0)


def test_a_listwise_reranker_reads_each_pair_as_a_list_of_one() -> None:
    """Two pairs with one query would be one list to it, in which scores depend on each other."""
    teacher = fletching.load("mvp-mini", device="cpu")
    pairs = [("what keeps an arrow true?", text) for text in ("Feathers at its end.", "A bow of wood.")]
    found = compute_logits(teacher, pairs, task="regression")
    alone = [teacher.rank(query, [text], scores="logit")[0]["score"] for query, text in pairs]
    assert found.flatten().tolist() == pytest.approx(alone, abs=1e-4)
    together = {hit["corpus_id"]: hit["score"] for hit in teacher.rank(pairs[0][0], [p[1] for p in pairs])}
    assert abs(together[0] - alone[0]) + abs(together[1] - alone[1]) > 1e-2


def test_logits_are_attached_to_their_pair_and_computed_once(
    one_label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [PairRow(*pair, float(place)) for place, pair in enumerate(PAIRS)]
    path = tmp_path / "logits.jsonl"
    scored = add_teacher_logits(rows, one_label, path=path)
    expected = logits_of(one_label)[:, 0].tolist()
    assert [row.teacher[0] for row in scored if row.teacher] == pytest.approx(expected, abs=1e-5)
    assert [row.label for row in scored] == [0.0, 1.0, 2.0]

    asked: list[Any] = []
    original = fletching.models.reranker.Reranker.predict

    def count(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        asked.extend(inputs)
        return original(self, inputs, *args, **kwargs)

    monkeypatch.setattr("fletching.models.reranker.Reranker.predict", count)
    changed = [rows[2], PairRow("a bow of wood.", rows[0].second, 0.0), rows[1]]
    again = add_teacher_logits(changed, one_label, path=path)
    assert asked == [("a bow of wood.", rows[0].second)]
    assert [again[0].teacher, again[2].teacher] == [scored[2].teacher, scored[1].teacher]


def test_logits_of_another_teacher_in_the_same_file_are_not_taken(one_label: str, tmp_path: Path) -> None:
    other = save_tiny_cross_encoder(tmp_path / "other", seed=1)
    rows = [PairRow(*pair, 0.0) for pair in PAIRS]
    first = add_teacher_logits(rows, one_label, path=tmp_path / "logits.jsonl")
    second = add_teacher_logits(rows, other, path=tmp_path / "logits.jsonl")
    assert [row.teacher for row in first] != [row.teacher for row in second]
    assert second == add_teacher_logits(rows, other)


def test_a_data_set_gets_its_logits_in_the_label_column(one_label: str) -> None:
    rows = [PairRow(*pair, float(place)) for place, pair in enumerate(PAIRS)]
    data = build_dataset([PairRow(row.first, row.second, row.label) for row in rows])
    flat = data.map(lambda record: {"label": record["label"][0]})
    scored = add_teacher_logits(flat, one_label, task="regression")
    assert [len(label) for label in scored["label"]] == [2, 2, 2]
    assert scored["label"][2][0] == 2.0


@pytest.mark.parametrize(
    ("task", "num_labels", "message"),
    [
        ("binary", None, "a model with 1 or 2 labels for the binary task; got 3"),
        ("multiclass", 4, "a model with 4 labels for the multiclass task; got 3"),
        ("regression", None, "a model with 1 label for the regression task; got 3"),
    ],
)
def test_a_teacher_with_another_label_count_is_refused(
    tmp_path: Path, task: str, num_labels: int | None, message: str
) -> None:
    teacher = open_teacher(save_classifier(tmp_path, NLI), device="cpu")
    with pytest.raises(ArgumentError, match=message):
        check_teacher(teacher, task=task, num_labels=num_labels)
    with pytest.raises(ArgumentError, match=message):
        add_teacher_logits([PairRow("a", "b", 0.0)], teacher, task=task, num_labels=num_labels)


def test_an_encoder_without_a_head_is_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        open_teacher(save_tiny_bert(tmp_path))


def test_no_pairs_have_no_logits(one_label: str) -> None:
    assert compute_logits(open_teacher(one_label), [], task="binary").shape == (0, 1)


def test_a_single_column_may_be_flat() -> None:
    assert reduce_logits(torch.tensor([1.0, 2.0]), task="regression").tolist() == [[1.0], [2.0]]
