"""MVPLoss: the numbers of the specification through the public class, gradients, padding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from sentence_transformers.cross_encoder.losses import ListNetLoss
from torch import Tensor, nn

from fletching.errors import ArgumentError, ShapeError
from fletching.methods.mvp import MVPLoss, MVPReranker


class EchoModel(nn.Module):
    """Answers with scores and anchors that the test holds, whatever the texts are."""

    device = torch.device("cpu")

    def __init__(self, scores: list[float], anchors: Tensor, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(scores, dtype=dtype))
        self.anchors = nn.Parameter(anchors.to(dtype))
        self.sizes: list[int] = []

    def preprocess(self, pairs: list[tuple[str, str]], **kwargs: Any) -> dict[str, Any]:
        return {"n": len(pairs)}

    def forward(self, features: dict[str, Any]) -> dict[str, Tensor]:
        self.sizes = features.get("list_sizes", [])
        return {"scores": self.scores[: features["n"]], "anchors": self.anchors}


SCORES = [2.0, 1.0, 0.5, 0.0, -0.5]
LABELS = [torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])]
INPUTS = [["query"], [["a", "b", "c", "d", "e"]]]
IDENTICAL = torch.ones(1, 4, 8)


def build(model: Any, **options: Any) -> MVPLoss:
    return MVPLoss(model, **options)


@pytest.mark.parametrize(("double_softmax", "expected"), [(True, 1.540576), (False, 1.772058)])
def test_loss_gives_the_worked_values(double_softmax: bool, expected: float) -> None:
    parts = build(EchoModel(SCORES, IDENTICAL), double_softmax=double_softmax)(INPUTS, LABELS)
    assert parts["rank"].item() == pytest.approx(expected, abs=1e-6)
    assert parts["orthogonality"].item() == pytest.approx(12.0, abs=1e-5)


def test_loss_weighs_the_orthogonality() -> None:
    parts = build(EchoModel(SCORES, IDENTICAL), orthogonality_weight=0.25)(INPUTS, LABELS)
    assert parts["orthogonality"].item() == pytest.approx(3.0, abs=1e-5)


def test_loss_sends_finite_gradients_to_scores_and_anchors() -> None:
    model = EchoModel(SCORES, torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0)))
    sum(build(model)(INPUTS, LABELS).values()).backward()
    for parameter in (model.scores, model.anchors):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0


def test_loss_of_a_shorter_list_ignores_its_padding() -> None:
    """The mean over a list of five and a list of two is the mean of the two losses alone."""
    inputs = [["q", "q"], [["a", "b", "c", "d", "e"], ["f", "g"]]]
    labels = [LABELS[0], torch.tensor([0.0, 1.0])]
    model = EchoModel([*SCORES, 3.0, -1.0], IDENTICAL.repeat(2, 1, 1))
    both = build(model)(inputs, labels)["rank"].item()
    assert model.sizes == [5, 2]
    second = build(EchoModel([3.0, -1.0], IDENTICAL))([["q"], [["f", "g"]]], labels[1:])["rank"].item()
    assert both == pytest.approx((1.540576 + second) / 2, abs=1e-6)


def test_loss_of_bfloat16_scores_is_float32() -> None:
    parts = build(EchoModel(SCORES, IDENTICAL, torch.bfloat16))(INPUTS, LABELS)
    assert {part.dtype for part in parts.values()} == {torch.float32}


def test_plain_raw_loss_equals_listnet_of_sentence_transformers() -> None:
    model = EchoModel(SCORES, IDENTICAL)
    ours = build(model, temperature=1.0, double_softmax=False, target="raw")(INPUTS, LABELS)["rank"]
    stock = ListNetLoss.__new__(ListNetLoss)  # its constructor insists on a CrossEncoder
    nn.Module.__init__(stock)
    stock.model, stock.mini_batch_size = model, -1
    stock.activation_fn, stock.cross_entropy_loss = nn.Identity(), nn.CrossEntropyLoss()
    torch.testing.assert_close(ours, stock(INPUTS, LABELS))


@pytest.mark.parametrize("double_softmax", [True, False])
def test_descending_the_loss_puts_a_list_in_order(double_softmax: bool) -> None:
    model = EchoModel([-1.0, 0.5, 0.0, 1.0, 0.2], torch.eye(4)[None])
    loss, optimizer = (
        build(model, double_softmax=double_softmax),
        torch.optim.Adam(model.parameters(), lr=0.05),
    )
    for _ in range(200):
        optimizer.zero_grad()
        loss(INPUTS, LABELS)["rank"].backward()
        optimizer.step()
    assert model.scores.argmax() == 0
    if not double_softmax:  # the other form only cares about the top two
        assert model.scores.argsort(descending=True).tolist() == [0, 1, 2, 3, 4]


def test_equal_neighbouring_queries_stay_two_lists(t5_double: MVPReranker) -> None:
    model = copy.deepcopy(t5_double).float()
    inputs = [["same", "same"], [["arrow", "bow"], ["goose", "wood"]]]
    labels = [torch.tensor([1.0, 0.0])] * 2
    together = MVPLoss(model)(inputs, labels)["rank"]
    apart = [MVPLoss(model)([["same"], [inputs[1][i]]], labels[:1])["rank"] for i in range(2)]
    torch.testing.assert_close(together, sum(apart) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be positive; got 0.0"),
        ({"orthogonality_weight": -1.0}, "`orthogonality_weight` must be zero or positive; got -1.0"),
        ({"target": "rank"}, "`target` must be one of 'reciprocal_rank', 'raw'; got 'rank'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        build(EchoModel(SCORES, IDENTICAL), **options)


def test_labels_that_do_not_match_the_lists_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"one number per document, \[5\] per list; got \[2\]"):
        build(EchoModel(SCORES, IDENTICAL))(INPUTS, [torch.ones(2)])


def test_an_empty_list_is_refused() -> None:
    """It has no anchors: what they would be is NaN."""
    with pytest.raises(ArgumentError, match=r"`inputs` must be lists of at least one document; got \[1, 0\]"):
        build(EchoModel(SCORES, IDENTICAL))([["q", "q"], [["a"], []]], [torch.ones(1), torch.ones(0)])
