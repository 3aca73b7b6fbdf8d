"""The equations of KaLM where the specification's toy does not reach: extremes, draws, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fletching.errors import ShapeError
from fletching.methods.kalm.functional import (
    CandidatePool,
    MixDraws,
    compute_distillation,
    compute_focal_weights,
    compute_gaps,
    compute_row_losses,
    draw_mixes,
    mix_lists,
    mix_pairs,
    normalize_vectors,
    score_candidates,
)


def take_all(n_negatives: int) -> MixDraws:
    """Draw nothing but one list-wise mix of everything."""
    none = torch.zeros(1, 0)
    return MixDraws(none.long(), none.long(), none, torch.ones(1, 1, n_negatives, dtype=torch.bool))


def test_zero_vector_stays_zero_and_gets_no_gradient() -> None:
    vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    units = normalize_vectors(vectors)
    assert units[0].tolist() == [0.0, 0.0]
    units.sum().backward()
    assert vectors.grad is not None
    assert vectors.grad[0].tolist() == [0.0, 0.0]
    # d/dx of (x + y) / |(x, y)| at (3, 4) is (y^2 - x y) / 125, and the other way round
    torch.testing.assert_close(vectors.grad[1], torch.tensor([4.0, -3.0]) / 125)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_broken_vector_stays_visible(broken: float) -> None:
    assert normalize_vectors(torch.tensor([[broken, 1.0]])).isnan().any()


@pytest.mark.parametrize("n_negatives", [2, 3, 7])
def test_pairs_are_two_different_negatives_and_all_occur(n_negatives: int) -> None:
    draws = draw_mixes(np.random.default_rng(0), n_rows=2000, n_negatives=n_negatives)
    pairs = set(zip(draws.first[:, 0].tolist(), draws.second[:, 0].tolist(), strict=True))
    everything = range(n_negatives)
    assert pairs == {(j, k) for j in everything for k in everything if j != k}


def test_draws_have_the_shapes_that_were_asked_for() -> None:
    draws = draw_mixes(np.random.default_rng(0), n_rows=5, n_negatives=7, n_pairs=3, n_lists=4)
    assert [tuple(part.shape) for part in draws] == [(5, 3), (5, 3), (5, 3), (5, 4, 7)]
    none = draw_mixes(np.random.default_rng(0), n_rows=5, n_negatives=7, n_pairs=0, n_lists=0)
    assert [tuple(part.shape) for part in none] == [(5, 0), (5, 0), (5, 0), (5, 0, 7)]


@pytest.mark.parametrize(("n_negatives", "half"), [(2, 2), (3, 2), (5, 2), (7, 3), (8, 4)])
def test_further_list_mixes_take_a_half_of_at_least_two(n_negatives: int, half: int) -> None:
    masks = draw_mixes(np.random.default_rng(0), n_rows=50, n_negatives=n_negatives, n_lists=3).list_masks
    assert masks[:, 0].all()
    assert (masks[:, 1:].sum(dim=-1) == half).all()
    assert masks[:, 1:].any(dim=(0, 1)).all()


def test_same_generator_state_gives_the_same_draws() -> None:
    first, second, other = (
        draw_mixes(np.random.default_rng(seed), n_rows=9, n_negatives=4) for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.shares, other.shares)


@pytest.mark.parametrize("beta", [0.01, 1.0, 500.0])
def test_shares_stay_in_range_for_any_beta(beta: float) -> None:
    shares = draw_mixes(np.random.default_rng(0), n_rows=500, n_negatives=2, beta=beta).shares
    assert ((shares >= 0) & (shares <= 1)).all()


def test_middle_of_opposite_negatives_is_no_candidate_with_a_gradient() -> None:
    negatives = torch.tensor([[[0.6, 0.8], [-0.6, -0.8]]], requires_grad=True)
    half = MixDraws(*(torch.tensor([[x]]) for x in (0, 1, 0.5)), torch.zeros(1, 0, 2, dtype=torch.bool))
    mixed = mix_pairs(negatives, half)
    assert mixed.tolist() == [[[0.0, 0.0]]]
    mixed.sum().backward()
    assert negatives.grad is not None
    assert negatives.grad.abs().max() == 0


def test_list_mix_lies_between_the_hardest_negative_and_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = normalize_vectors(torch.randn(1, 8, generator=generator))
    negatives = normalize_vectors(torch.randn(1, 5, 8, generator=generator))
    hardest = (queries[:, None] * negatives).sum(dim=-1).argmax()
    cold = mix_lists(queries, negatives, take_all(5), temperature=1e-3)[0, 0]
    torch.testing.assert_close(cold, negatives[0, hardest])
    hot = mix_lists(queries, negatives, take_all(5), temperature=1e6)[0, 0]
    torch.testing.assert_close(hot, normalize_vectors(negatives[0].mean(dim=0)))


def test_list_mix_leaves_out_what_its_mask_leaves_out() -> None:
    queries, negatives = torch.eye(3)[:1], torch.eye(3)[None]
    masks = torch.tensor([[[False, True, True]]])
    mixed = mix_lists(queries, negatives, take_all(3)._replace(list_masks=masks), temperature=1.0)
    torch.testing.assert_close(mixed[0, 0], torch.tensor([0.0, 0.5**0.5, 0.5**0.5]))


def test_scores_are_those_of_the_documents_row_by_row() -> None:
    """One-hot vectors: query i, its positive and its negatives are unit vector i; the rest is orthogonal."""
    eye = torch.eye(4)
    pool = CandidatePool(eye, eye[:, None].repeat(1, 3, 1), eye[:, None])
    cosines = score_candidates(pool, torch.tensor([2, 0]))
    assert cosines.shape == (2, 4 * 3 + 4)
    documents = eye[[2, 0]].repeat_interleave(3, dim=1)
    torch.testing.assert_close(cosines, torch.cat([documents, eye[[2, 0]]], dim=1))
    own = score_candidates(pool, torch.tensor([2, 0]), visibility="own")
    torch.testing.assert_close(own, torch.cat([documents, torch.ones(2, 1)], dim=1))


def test_further_directions_leave_out_a_row_itself() -> None:
    eye = torch.eye(2)
    pool = CandidatePool(eye, eye[:, None].repeat(1, 2, 1))
    directions = ("query_to_doc", "query_to_query", "doc_to_doc")
    cosines = score_candidates(pool, torch.tensor([1]), directions=directions)
    away = -math.inf
    assert cosines.tolist() == [[0, 0, 1, 1, 0, away, 0, 0, away, away]]


def test_row_without_negatives_has_no_loss_and_no_gradient() -> None:
    logits = torch.tensor([[7.0], [-3.0]], requires_grad=True)
    gaps = compute_gaps(logits, torch.tensor([0, 0]))
    losses = compute_row_losses(gaps) * compute_focal_weights(gaps)
    losses.sum().backward()
    assert losses.tolist() == [0.0, 0.0]
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.0], [0.0]]


def test_what_is_no_candidate_does_not_count() -> None:
    logits = torch.tensor([[1.0, 0.5, -math.inf]], requires_grad=True)
    gap = compute_gaps(logits, torch.tensor([0]))
    assert gap.item() == pytest.approx(-0.5)
    gap.sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-1.0, 1.0, 0.0]]


@pytest.mark.parametrize("gap", [-1e38, -1e4, -100.0, -1.0, 0.0, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 2.0])
def test_loss_and_weight_are_finite_at_any_gap(gap: float, gamma: float) -> None:
    gaps = torch.tensor([gap], requires_grad=True)
    loss = compute_row_losses(gaps) * compute_focal_weights(gaps, gamma=gamma)
    loss.sum().backward()
    assert gaps.grad is not None
    assert loss.isfinite().all()
    assert gaps.grad.isfinite().all()
    assert loss >= 0
    if gap >= 100:  # log(1 + e^g) = g, and the weight is 1
        assert loss.item() == pytest.approx(gap)


def test_gradients_are_those_of_the_formula() -> None:
    """Finite differences of (1 - p)^gamma * -log p, written with the softmax."""
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    positives = torch.tensor([1, 0, 4])

    def weigh(x: Tensor) -> Tensor:
        gaps = compute_gaps(x, positives)
        return compute_row_losses(gaps) * compute_focal_weights(gaps)

    p = logits.softmax(dim=1)[torch.arange(3), positives]
    torch.testing.assert_close(weigh(logits), (1 - p) ** 0.5 * -p.log())
    assert torch.autograd.gradcheck(weigh, logits.requires_grad_())


def test_distillation_pulls_the_student_to_the_teacher() -> None:
    """The gradient of the divergence is softmax(student) - softmax(teacher)."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 3, generator=generator) for _ in range(2))
    student.requires_grad_()
    compute_distillation(student, teacher).sum().backward()
    torch.testing.assert_close(student.grad, student.detach().softmax(dim=1) - teacher.softmax(dim=1))


def test_distillation_ignores_constants_and_candidates_without_a_share() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 3, generator=generator) for _ in range(2))
    torch.testing.assert_close(
        compute_distillation(student + 3, teacher - 2), compute_distillation(student, teacher)
    )
    teacher[0] = torch.tensor([0.0, 0.0, -math.inf])  # one half each, and nothing for the third
    expected = -student[0].log_softmax(dim=0)[:2].mean() - math.log(2)
    torch.testing.assert_close(compute_distillation(student, teacher)[0], expected)


def test_distillation_refuses_scores_of_another_shape() -> None:
    with pytest.raises(
        ShapeError, match=r"`teacher_logits` has the wrong shape: expected .* = \(4, 3\), got"
    ):
        compute_distillation(torch.zeros(4, 3), torch.zeros(4, 2))
