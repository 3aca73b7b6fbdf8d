"""The equations of MVP against the numbers of the specification."""

from __future__ import annotations

import math

import pytest
import torch

from fletching.errors import ShapeError
from fletching.methods.mvp.functional import (
    build_target,
    compute_orthogonality_loss,
    compute_rank_loss,
    score_views,
)

SCORES = torch.tensor([[2.0, 1.0, 0.5, 0.0, -0.5]])
IN_RANK_ORDER = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]])


def test_item_07_toy_list_by_hand() -> None:
    """K0 = [(1,0),(0,1),(1,1)] with a0 = (1,2) gives [1,2,3]; K1 with a1 = (0.5,-1) gives [1,1,-0.5]."""
    keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[2.0, 0.0], [0.0, -1.0], [1.0, 1.0]]])
    anchors = torch.tensor([[[1.0, 2.0], [0.5, -1.0]]])
    views = score_views(anchors, keys.transpose(0, 1)[None])
    assert views[0].T.tolist() == [[1.0, 2.0, 3.0], [1.0, 1.0, -0.5]]
    scores = views.mean(-1)[0]
    assert scores.tolist() == [1.0, 1.5, 1.25]
    assert scores.argsort(descending=True).tolist() == [1, 2, 0]


def test_item_08_softmax_of_the_toy_scores() -> None:
    expected = torch.tensor([[0.63862, 0.18297, 0.09794, 0.05242, 0.02806]])
    torch.testing.assert_close((SCORES / 0.8).softmax(-1), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize(("double_softmax", "expected"), [(False, 1.772058), (True, 1.540576)])
def test_item_08_rank_loss_of_the_toy_scores(double_softmax: bool, expected: float) -> None:
    loss = compute_rank_loss(SCORES, build_target(IN_RANK_ORDER), double_softmax=double_softmax)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("double_softmax", [False, True])
def test_item_08_constant_scores_cost_the_logarithm_of_five(double_softmax: bool) -> None:
    loss = compute_rank_loss(
        torch.full((1, 5), 3.0), build_target(IN_RANK_ORDER), double_softmax=double_softmax
    )
    assert loss.item() == pytest.approx(1.609438, abs=1e-6)


def test_item_09_orthogonality_of_identical_orthonormal_and_slanted_anchors() -> None:
    assert compute_orthogonality_loss(torch.ones(1, 4, 7)).item() == pytest.approx(12.0, abs=1e-5)
    assert compute_orthogonality_loss(torch.eye(4)[None]).item() == 0.0
    slanted = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    assert compute_orthogonality_loss(slanted).item() == pytest.approx(1.0, abs=1e-6)


def test_item_09_orthogonality_ignores_length() -> None:
    anchors = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([0.1, 1.0, 7.0, 50.0])[None, :, None]
    torch.testing.assert_close(
        compute_orthogonality_loss(anchors * lengths), compute_orthogonality_loss(anchors)
    )


def test_target_of_five_ranks() -> None:
    """Section 2.4: softmax((1/r)/0.8) for r = 1..5."""
    expected = torch.tensor([[0.36639, 0.19611, 0.15923, 0.14348, 0.13479]])
    torch.testing.assert_close(build_target(IN_RANK_ORDER), expected, rtol=0, atol=5e-6)


def test_target_of_the_toy_list() -> None:
    target = build_target(torch.tensor([0.3, 0.9, 0.1, 1.9, 0.7]))
    expected = torch.tensor([0.14348, 0.19611, 0.13479, 0.36639, 0.15923])
    torch.testing.assert_close(target, expected, rtol=0, atol=5e-6)


def test_target_ranks_equal_labels_by_position() -> None:
    assert torch.equal(build_target(torch.zeros(5)), build_target(IN_RANK_ORDER[0]))


def test_minimum_of_the_double_softmax_form() -> None:
    """Section 2.5: p = [0.8285, 0.1715, 0, 0, 0] costs 1.53107; the target's entropy is 1.52863."""
    p = torch.tensor([[0.8285, 0.1715, 1e-9, 1e-9, 1e-9]])
    target = build_target(IN_RANK_ORDER)
    assert compute_rank_loss(0.8 * p.log(), target).item() == pytest.approx(1.53107, abs=1e-5)
    assert -(target * target.log()).sum().item() == pytest.approx(1.52863, abs=1e-5)


def test_minimum_of_listnet_is_reached_at_reciprocal_ranks() -> None:
    scores = torch.tensor([[1 / rank for rank in range(1, 6)]], requires_grad=True)
    compute_rank_loss(scores, build_target(IN_RANK_ORDER), double_softmax=False).backward()
    assert scores.grad is not None
    assert scores.grad.abs().max() < 1e-7


@pytest.mark.parametrize("double_softmax", [False, True])
def test_padding_changes_no_loss_and_gets_no_gradient(double_softmax: bool) -> None:
    scores = torch.tensor([[2.0, 1.0, 0.5, 0.0, -0.5, 9.0, 9.0]], requires_grad=True)
    labels = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0, 99.0, 99.0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0]])
    loss = compute_rank_loss(scores, build_target(labels, mask), mask, double_softmax=double_softmax)
    plain = compute_rank_loss(SCORES, build_target(IN_RANK_ORDER), double_softmax=double_softmax)
    assert loss.item() == pytest.approx(plain.item(), abs=1e-6)
    loss.backward()
    assert scores.grad is not None
    assert scores.grad[0, 5:].tolist() == [0.0, 0.0]
    assert scores.grad.isfinite().all()


def test_bfloat16_scores_give_a_float32_loss() -> None:
    loss = compute_rank_loss(SCORES.bfloat16(), build_target(IN_RANK_ORDER))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1.540576, abs=1e-2)
    assert compute_orthogonality_loss(torch.ones(1, 4, 8).bfloat16()).dtype == torch.float32


def test_constant_scores_cost_the_logarithm_of_any_length() -> None:
    loss = compute_rank_loss(torch.zeros(2, 9), build_target(torch.arange(18.0).view(2, 9)))
    assert loss.item() == pytest.approx(math.log(9), abs=1e-6)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"expected \(B, m, D\) = \(1, 4, 2\), got \(1, 3, 2\)"):
        score_views(torch.ones(1, 3, 2), torch.ones(1, 5, 4, 2))
    with pytest.raises(ShapeError, match=r"expected \(B, N\) = \(1, 5\), got \(1, 4\)"):
        compute_rank_loss(torch.ones(1, 5), torch.ones(1, 4))
