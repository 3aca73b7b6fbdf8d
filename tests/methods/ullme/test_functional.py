"""The equations beyond the spec's numbers: edges, gradients, precision."""

from __future__ import annotations

import math

import pytest
import torch

from fletching.errors import ArgumentError, ShapeError
from fletching.methods.ullme.functional import (
    PREFERENCE_LOSSES,
    build_pair_masks,
    compute_kl,
    compute_ntxent,
    compute_preference_loss,
    compute_sft_loss,
    compute_similarities,
    compute_supcon,
    mine_pairs,
    sum_passages,
)

LOSSES = [compute_ntxent, compute_supcon]


@pytest.mark.parametrize("compute", LOSSES)
def test_equal_logits_cost_the_logarithm_of_the_choices(compute):
    """Four vectors in two classes: an anchor has one positive and two negatives, so -log(1/3)."""
    masks = build_pair_masks(torch.tensor([0, 0, 1, 1]))
    assert compute(torch.zeros(4, 4), *masks).item() == pytest.approx(math.log(3))


def test_supcon_counts_other_positives_in_the_denominator_and_ntxent_does_not():
    """Three of a class and one other, all equal: log 3 with the second positive, log 2 without."""
    masks = build_pair_masks(torch.tensor([0, 0, 0, 1]))
    assert compute_supcon(torch.zeros(4, 4), *masks).item() == pytest.approx(math.log(3))
    assert compute_ntxent(torch.zeros(4, 4), *masks).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("compute", LOSSES)
def test_an_anchor_without_negatives_adds_nothing_and_stays_finite(compute):
    logits = torch.randn(3, 3, requires_grad=True)
    masks = build_pair_masks(torch.tensor([0, 0, 0]))
    loss = compute(logits, masks[0].tril(), masks[1])
    loss.backward()
    assert logits.grad is not None
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert compute_ntxent(logits, *masks).item() == 0


@pytest.mark.parametrize("compute", LOSSES)
def test_no_positive_gives_zero_with_a_zero_gradient(compute):
    logits = torch.randn(3, 3, requires_grad=True)
    positives, negatives = build_pair_masks(torch.tensor([0, 1, 2]))
    loss = compute(logits, positives, negatives)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_similarities_have_finite_gradients_where_vectors_are_equal(similarity):
    embeddings = torch.ones(4, 3, requires_grad=True)
    compute_similarities(embeddings, similarity=similarity).sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


def test_euclidean_similarity_is_the_distance_of_unit_vectors():
    """|a - b|^2 = 2 - 2 cos(a, b) on the sphere."""
    embeddings = torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    found = compute_similarities(embeddings, similarity="euclidean")[0, 1].item()
    assert found == pytest.approx(-math.sqrt(2 - math.sqrt(2)))


def test_small_distances_are_not_rounded_away():
    angle = 1e-3
    embeddings = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
    found = compute_similarities(embeddings, similarity="euclidean")[0, 1].item()
    assert found == pytest.approx(-2 * math.sin(angle / 2), rel=1e-5)


def test_rows_keep_pairs_within_a_row():
    """Two rows of a query, a positive and a negative: the negative of a row is one for its two texts only."""
    labels, rows = torch.tensor([0, 0, -1, 1, 1, -2]), torch.tensor([0, 0, 0, 1, 1, 1])
    positives, negatives = build_pair_masks(labels, rows=rows)
    assert positives.nonzero().tolist() == [[0, 1], [1, 0], [3, 4], [4, 3]]
    first, second = [[0, 2], [1, 2], [2, 0], [2, 1]], [[3, 5], [4, 5], [5, 3], [5, 4]]
    assert negatives.nonzero().tolist() == first + second


def test_the_miner_drops_a_positive_that_is_far_ahead():
    """Anchor 0: S_ap = 0.9 and S_an = 0.1; 0.9 - 0.2 > 0.1, so neither stays."""
    similarities = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.1], [0.1, 0.1, 1.0]])
    kept = mine_pairs(similarities, *build_pair_masks(torch.tensor([0, 0, 1])), epsilon=0.2)
    assert not any(mask.any() for mask in kept)


def test_the_miner_carries_no_gradient():
    similarities = torch.rand(4, 4, requires_grad=True)
    kept = mine_pairs(similarities, *build_pair_masks(torch.tensor([0, 0, 1, 1])), epsilon=0.2)
    assert not any(mask.requires_grad for mask in kept)


def test_unlabelled_tokens_do_not_count_whatever_their_score():
    scores = torch.tensor([[float("nan"), float("-inf"), -0.5, -1.5]])
    sums, counts = sum_passages(scores, torch.tensor([[-100, -100, 3, 4]]))
    assert sums.tolist() == [-2.0]
    assert counts.tolist() == [2]


def test_sums_do_not_overflow_in_half_precision():
    """4,000 tokens of -30 are -120,000, beyond 65,504."""
    sums, _ = sum_passages(torch.full((1, 4000), -30.0, dtype=torch.float16), torch.ones(1, 4000).long())
    assert sums.item() == -120_000


@pytest.mark.parametrize("direction", ["gen_rep", "rep_gen"])
def test_kl_of_equal_scores_is_zero(direction):
    kl = compute_kl(torch.full((2, 3), 0.4), torch.full((2, 3), -2.0), direction=direction)
    assert kl.tolist() == pytest.approx([0, 0], abs=1e-7)


def test_kl_trains_the_generator_only_when_asked():
    rep, gen = torch.tensor([[0.8, 0.2]]), torch.tensor([[-1.0, -2.0]], requires_grad=True)
    compute_kl(rep, gen, detach_generator=False).sum().backward()
    assert gen.grad is not None
    assert gen.grad.abs().sum() > 0


def test_kl_of_half_precision_is_float32():
    kl = compute_kl(torch.ones(1, 2).bfloat16(), torch.ones(1, 2).half())
    assert kl.dtype == torch.float32


def test_kl_refuses_scores_of_different_shapes():
    with pytest.raises(ShapeError, match=r"`gen_scores` has the wrong shape: expected \(B, N\) = \(2, 3\)"):
        compute_kl(torch.zeros(2, 3), torch.zeros(2, 2))


@pytest.mark.parametrize("kind", PREFERENCE_LOSSES)
def test_a_preference_loss_falls_as_the_chosen_passage_gains(kind):
    values = [
        compute_preference_loss(torch.tensor([gain]), torch.tensor([0.0]), kind=kind).mean().item()
        for gain in (-1.0, 0.0, 1.0)
    ]
    assert values[0] > values[1] > values[2]


def test_sigmoid_stays_finite_far_out():
    loss = compute_preference_loss(torch.tensor([-1e6]), torch.tensor([1e6]), beta=1.0)
    assert loss.item() == pytest.approx(2e6)


def test_sft_weighs_tokens_and_not_passages():
    """Passages of 1 and 3 tokens, -2 and -3 in all: 5 / 4, where a mean of means would be 1.5."""
    assert compute_sft_loss(torch.tensor([-2.0, -3.0]), torch.tensor([1, 3])).item() == 1.25


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda one: compute_similarities(one, similarity="cos"), "Did you mean 'cosine'"),
        (lambda one: compute_kl(one, one, direction="gen_rap"), "Did you mean 'gen_rep'"),
        (lambda one: compute_preference_loss(one, one, kind="sigmod"), "Did you mean 'sigmoid'"),
    ],
)
def test_unknown_names_are_refused(call, message):
    with pytest.raises(ArgumentError, match=message):
        call(torch.ones(1, 1))
