"""The losses of DefSent+ and DefSent: values by hand, gradients, memory, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForMaskedLM

from fletching.errors import ArgumentError, FidelityWarning, ShapeError
from fletching.methods.defsent_plus.heads import MaskedWordHead, ProjectionHead
from fletching.methods.defsent_plus.losses import DefinitionProjectionLoss, SingleWordLoss
from fletching.testing import save_tiny_bert, save_tiny_embedder

V, D = 11, 6
DEFINITIONS = ["a bow of wood", "the feathers of an arrow", "what the archer is on the point of"]


class Stand(nn.Module):
    """A model that only says that it trains: the embeddings are given."""


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(entries: Tensor, *, activation: str = "tanh", **options: Any) -> DefinitionProjectionLoss:
    width = entries.shape[1]
    dense = nn.Linear(width, width)
    with torch.no_grad():
        dense.weight.copy_(draw(width, width, seed=1))
        dense.bias.copy_(draw(width, seed=2))
    return DefinitionProjectionLoss(Stand(), entries, head=ProjectionHead(dense, activation), **options)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    folder = save_tiny_embedder(tmp_path_factory.mktemp("embedder"), normalize=False)
    return SentenceTransformer(folder, device="cpu")


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_loss_is_the_cross_entropy_of_a_layer_without_bias(activation: str) -> None:
    entries, vectors, labels = draw(V, D), draw(4, D, seed=3), torch.tensor([0, 10, 3, 3])
    loss = build(entries, activation=activation)
    act = torch.tanh if activation == "tanh" else nn.functional.gelu
    logits = act(vectors @ loss.head.dense.weight.T + loss.head.dense.bias) @ entries.T
    expected = cross_entropy(logits, labels)
    torch.testing.assert_close(loss.compute_loss_from_embeddings(vectors, labels), expected)


@pytest.mark.parametrize("at_once", [1, 4, 11, 100])
def test_pieces_change_neither_the_loss_nor_its_gradients(at_once: int) -> None:
    results = []
    for pieces in (V, at_once):
        loss = build(draw(V, D), classes_at_once=pieces)
        vectors = draw(4, D, seed=3).requires_grad_()
        value = loss.compute_loss_from_embeddings(vectors, torch.tensor([0, 10, 3, 3]))
        value.backward()
        results.append((value.detach(), vectors.grad, loss.head.dense.weight.grad, loss.head.dense.bias.grad))
    for whole, piecewise in zip(*results, strict=True):
        torch.testing.assert_close(piecewise, whole)
        assert whole is not None
        assert whole.abs().max() > 0


def test_pieces_never_hold_all_logits() -> None:
    """One piece of 3 of the 11 entries at a time: no tensor of 4 x 11 is kept for the way back."""
    kept: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    for at_once, expected in ((V, True), (3, False)):
        kept.clear()
        vectors = draw(4, D, seed=3).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            build(draw(V, D), classes_at_once=at_once).compute_loss_from_embeddings(
                vectors, torch.tensor([0, 1, 2, 3])
            )
        assert ((4, V) in kept) is expected


def test_several_owners_share_the_target_evenly() -> None:
    """The loss of a definition of entries 2 and 5 is the mean of the two losses; -1 only fills up."""
    loss, vectors = build(draw(V, D)), draw(2, D, seed=3)
    labels = torch.tensor([[2, 5], [7, -1]])
    single = [
        loss.compute_loss_from_embeddings(vectors[row : row + 1], torch.tensor([label]))
        for row, label in ((0, 2), (0, 5), (1, 7))
    ]
    expected = ((single[0] + single[1]) / 2 + single[2]) / 2
    torch.testing.assert_close(loss.compute_loss_from_embeddings(vectors, labels), expected)


def test_logits_are_float32_in_half_precision_and_under_autocast() -> None:
    entries, vectors, labels = draw(V, D), draw(4, D, seed=3), torch.tensor([0, 10, 3, 3])
    expected = build(entries.half().float()).compute_loss_from_embeddings(vectors, labels)
    loss = build(entries.half())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss.compute_loss_from_embeddings(vectors, labels)
    assert loss.entry_matrix.dtype == torch.float16
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    rounded = loss.compute_loss_from_embeddings(vectors.bfloat16(), labels)
    assert rounded.dtype == torch.float32


def test_entries_are_no_parameter_and_not_saved() -> None:
    loss = build(draw(V, D))
    assert set(loss.state_dict()) == {"head.dense.weight", "head.dense.bias"}
    assert set(dict(loss.named_parameters())) == {"head.dense.weight", "head.dense.bias"}
    assert not loss.entry_matrix.requires_grad


def test_entries_are_a_copy() -> None:
    entries = draw(V, D)
    loss = build(entries)
    entries.zero_()
    assert loss.entry_matrix.abs().sum() > 0


def test_padding_does_not_change_the_loss(model: SentenceTransformer) -> None:
    loss = DefinitionProjectionLoss(model, draw(V, 32), head="identity").eval()
    labels = torch.tensor([0, 4, 9])
    together = loss([model.preprocess(DEFINITIONS)], labels)
    apart = [
        loss([model.preprocess([text])], label[None]) for text, label in zip(DEFINITIONS, labels, strict=True)
    ]
    torch.testing.assert_close(together, torch.stack(apart).mean())


def test_gradients_reach_the_encoder_and_the_projection_alone(model: SentenceTransformer) -> None:
    loss = DefinitionProjectionLoss(model, draw(V, 32), head="identity")
    loss([model.preprocess(DEFINITIONS)], torch.tensor([0, 4, 9])).backward()
    named = {name: weight.grad for name, weight in loss.named_parameters()}
    pooler = {name for name in named if ".pooler." in name}  # transformers': not the sentence vector's
    assert {name for name, gradient in named.items() if gradient is None} == pooler
    for name in ("head.dense.weight", "model.0.model.embeddings.word_embeddings.weight"):
        gradient = named[name]
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0
    assert loss.entry_matrix.grad is None
    model.zero_grad()


def test_unit_length_is_warned_about(tmp_path: Any) -> None:
    model = SentenceTransformer(save_tiny_embedder(tmp_path), device="cpu")
    with pytest.warns(FidelityWarning, match="ends with Normalize"):
        DefinitionProjectionLoss(model, draw(V, 32), head="identity")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1]), r"integers of the shape \(3,\)"),
        (torch.tensor([0.0, 1.0, 2.0]), r"integers of the shape \(3,\)"),
        (torch.tensor([0, 1, 11]), "numbers of the 11 entries"),
        (torch.tensor([0, 1, -2]), "numbers of the 11 entries"),
        (torch.tensor([[0, 1], [-1, -1], [2, -1]]), "at least one entry"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Tensor, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        build(draw(V, D)).compute_loss_from_embeddings(draw(3, D), labels)


def test_entries_that_do_not_fit_are_refused(model: SentenceTransformer) -> None:
    with pytest.raises(ShapeError, match=r"expected \(V, D\) = \(5, 32\), got \(5, 31\)"):
        DefinitionProjectionLoss(model, draw(5, 31), head="identity")
    for nothing in (draw(5), torch.ones(5, 32, dtype=torch.int64), draw(0, 32), "entries"):
        with pytest.raises(ArgumentError, match="a matrix of shape"):
            DefinitionProjectionLoss(model, nothing, head="identity")
    with pytest.raises(ArgumentError, match="`classes_at_once` must be a positive integer"):
        build(draw(V, D), classes_at_once=0)


def test_two_columns_are_refused(model: SentenceTransformer) -> None:
    loss = DefinitionProjectionLoss(model, draw(V, 32), head="identity")
    features = [model.preprocess(DEFINITIONS)] * 2
    with pytest.raises(ArgumentError, match="one column, the definitions; got '2 columns'"):
        loss(features, torch.tensor([0, 1, 2]))


def test_single_word_loss_is_that_of_the_masked_language_model(tmp_path: Any) -> None:
    """By hand: the model's own head on the mean of the last states, and the cross-entropy of the tokens."""
    folder = save_tiny_bert(tmp_path, head="masked-lm")
    model = SentenceTransformer(folder, device="cpu").eval()
    loss = SingleWordLoss(model, MaskedWordHead.from_pretrained(folder))
    labels = torch.tensor(model.tokenizer.convert_tokens_to_ids(["bow", "feathers", "archer"]))
    value = loss([model.preprocess(DEFINITIONS)], labels)
    network = AutoModelForMaskedLM.from_pretrained(folder).eval()
    vectors = model.encode(DEFINITIONS, convert_to_tensor=True).clone()  # no inference tensor
    torch.testing.assert_close(value, cross_entropy(network.cls(vectors), labels))
    value.backward()
    assert all(weight.grad is None for weight in loss.head.parameters())
    assert any(weight.grad is not None and weight.grad.abs().max() > 0 for weight in model.parameters())
    assert not loss.train().head.network.training
    assert value > math.log(2)
