"""The equations, on numbers small enough to follow."""

from __future__ import annotations

import pytest
import torch

from fletching.methods.dse.functional import (
    build_pair_features,
    compute_log_odds,
    drop_first_token,
    pool_tokens,
    pool_top_layers,
    score_first_layer,
)


def test_the_first_token_is_found_behind_padding_on_the_left():
    assert drop_first_token(torch.tensor([[0, 0, 1, 1]])).tolist() == [[False, False, False, True]]


def test_a_row_of_one_token_keeps_it():
    assert drop_first_token(torch.tensor([[1, 0]])).tolist() == [[True, False]]


@pytest.mark.parametrize("token_pooling", ["mean", "sqrt_mean", "max"])
def test_a_row_without_tokens_is_zero(token_pooling):
    pooled = pool_tokens(torch.ones(1, 2, 3), torch.zeros(1, 2), token_pooling)
    assert pooled.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("token_pooling", ["mean", "sqrt_mean", "max"])
def test_padding_may_hold_anything(token_pooling):
    states = torch.tensor([[[1.0], [3.0], [float("nan")]]])
    mask = torch.tensor([[1, 1, 0]])
    expected = {"mean": 2.0, "sqrt_mean": 4 / 2**0.5, "max": 3.0}[token_pooling]
    assert pool_tokens(states, mask, token_pooling).item() == pytest.approx(expected)


def test_half_precision_is_summed_in_float32():
    """300 ones and a mean of 1: bfloat16 cannot count beyond 256."""
    states = torch.ones(1, 300, 1, dtype=torch.bfloat16)
    pooled = pool_tokens(states, torch.ones(1, 300))
    assert (pooled.dtype, pooled.item()) == (torch.float32, 1.0)


def test_the_mean_of_layers_is_taken_before_the_largest_value():
    """Layers [1, 5] and [5, 1]: each has the maximum 5, their mean is 3 everywhere."""
    layers = [torch.tensor([[[1.0], [5.0]]]), torch.tensor([[[5.0], [1.0]]])]
    mask = torch.ones(1, 2)
    assert pool_top_layers(layers, mask, "mean", "max").tolist() == [[3.0]]
    assert pool_top_layers(layers, mask, "concat", "max").tolist() == [[5.0, 5.0]]


def test_the_first_layer_is_that_of_the_features():
    generator = torch.Generator().manual_seed(0)
    u, v = torch.randn(5, generator=generator), torch.randn(3, 5, generator=generator)
    weight, bias = torch.randn(4, 20, generator=generator), torch.randn(4, generator=generator)
    expected = build_pair_features(u.expand(3, 5), v) @ weight.T + bias
    torch.testing.assert_close(score_first_layer(u, v, weight, bias), expected)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_log_odds_are_the_logit_of_the_softmax(label):
    logits = torch.tensor([[0.5, -1.0, 2.0], [3.0, 0.0, 0.0]])
    expected = logits.softmax(dim=-1)[:, label]
    torch.testing.assert_close(compute_log_odds(logits, label).sigmoid(), expected)


def test_log_odds_of_two_classes_are_their_difference():
    """The teacher of a binary task is reduced in the same way: z1 - z0."""
    assert compute_log_odds(torch.tensor([0.2, 1.5]), 1).item() == pytest.approx(1.3)
