"""From a definition back to entries."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from fletching.errors import ArgumentError, CheckpointError, ShapeError
from fletching.methods.defsent_plus import EntryEmbeddings
from fletching.methods.defsent_plus.dictionary import ENTRIES_FILE, HEAD_FILE, ReverseDictionary

MEMBERS = (("east",), ("north", "up"), ("both",))
ENTRIES = EntryEmbeddings(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), MEMBERS, how="ac")


def build(**changes):
    options = {"activation": "tanh", "pooling": "mean", "entries": ENTRIES, **changes}
    return ReverseDictionary(
        options.pop("weight", torch.diag(torch.tensor([1.0, 2.0]))),
        options.pop("bias", torch.tensor([0.0, 1.5])),
        **options,
    )


@pytest.mark.parametrize(
    ("activation", "logits"), [("tanh", [1.2237, 0.7616, 0.4621]), ("gelu", [1.1871, 0.8413, 0.3457])]
)
def test_entries_are_ranked_by_their_logits(activation, logits):
    """h = [.5, -.25]: W h + b = [.5, 1], so p is [.4621, .7616] by tanh and [.3457, .8413] by GELU."""
    (hits,) = build(activation=activation).find(torch.tensor([[0.5, -0.25]]), top_k=3)
    assert [hit.entry for hit in hits] == ["both", "north", "east"]
    assert [hit.score for hit in hits] == pytest.approx(logits, abs=5e-5)
    assert hits[1].members == ("north", "up")


def test_more_than_there_are_gives_all():
    hits = build().find(torch.zeros(40, 2), top_k=10)
    assert [len(row) for row in hits] == [3] * 40


def test_equal_scores_keep_the_order_of_the_entries():
    (hits,) = build(bias=torch.zeros(2)).find(torch.zeros(1, 2), top_k=3)
    assert [hit.entry for hit in hits] == ["east", "north", "both"]


def test_the_weights_are_a_copy():
    weight = torch.eye(2)
    kept = build(weight=weight)
    weight.zero_()
    assert torch.equal(kept.weight, torch.eye(2))


def test_a_saved_dictionary_comes_back(tmp_path):
    kept = build(activation="gelu", pooling="cls")
    kept.save(tmp_path)
    back = ReverseDictionary.load(tmp_path / HEAD_FILE, tmp_path / ENTRIES_FILE)
    assert (back.activation, back.pooling, back.entries.members) == ("gelu", "cls", MEMBERS)
    vectors = torch.randn(3, 2)
    assert back.find(vectors, top_k=2) == kept.find(vectors, top_k=2)


def test_other_files_are_refused(tmp_path):
    build().save(tmp_path)
    save_file({"weight": torch.eye(2)}, tmp_path / HEAD_FILE)
    with pytest.raises(CheckpointError, match="it holds no projection of definitions"):
        ReverseDictionary.load(tmp_path / HEAD_FILE, tmp_path / ENTRIES_FILE)
    (tmp_path / HEAD_FILE).write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="the projection of definitions in it is broken"):
        ReverseDictionary.load(tmp_path / HEAD_FILE, tmp_path / ENTRIES_FILE)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"activation": "relu"}, ArgumentError, "`activation` must be one of 'tanh', 'gelu'; got 'relu'"),
        ({"pooling": "prompt"}, ArgumentError, "`pooling` must be one of 'cls', 'mean'; got 'prompt'"),
        ({"weight": torch.eye(3)}, ShapeError, r"`weight` has the wrong shape: expected \(D, D\) = \(2, 2\)"),
        ({"bias": torch.zeros(3)}, ShapeError, r"`bias` has the wrong shape: expected \(D\) = \(2,\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        build(**changes)


def test_vectors_of_another_width_are_refused():
    with pytest.raises(ShapeError, match=r"`sentence_embeddings` has the wrong shape"):
        build().find(torch.zeros(1, 3), top_k=1)
