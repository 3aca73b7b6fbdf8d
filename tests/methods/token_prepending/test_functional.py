from __future__ import annotations

import pytest
import torch

from fletching.methods.token_prepending.functional import copy_last_token, draw_placeholder, gather_rows


def test_only_the_placeholder_s_row_is_copied_and_the_input_stays():
    hidden = torch.randn(2, 4, 3)
    before = hidden.clone()
    got = copy_last_token(hidden, torch.tensor([0, 1]), torch.tensor([3, 2]))
    expected = before.clone()
    expected[0, 0], expected[1, 1] = before[0, 3], before[1, 2]
    assert got.equal(expected)
    assert hidden.equal(before)


def test_gradients_reach_the_last_token_twice():
    """sum(changed) counts the last row twice and the overwritten one not at all."""
    hidden = torch.ones(1, 3, 1, requires_grad=True)
    copy_last_token(hidden, torch.tensor([0]), torch.tensor([2])).sum().backward()
    assert hidden.grad.flatten().tolist() == [0.0, 1.0, 2.0]


def test_rows_are_gathered():
    states = torch.arange(6.0).view(2, 3, 1)
    assert gather_rows(states, torch.tensor([2, 0])).flatten().tolist() == [2.0, 3.0]


def test_the_placeholder_is_standard_normal_and_leaves_the_random_state_alone():
    state = torch.random.get_rng_state()
    vector = draw_placeholder(10_000, seed=3407)
    assert torch.random.get_rng_state().equal(state)
    assert vector.mean().item() == pytest.approx(0.0, abs=0.05)  # five standard errors
    assert vector.std().item() == pytest.approx(1.0, abs=0.05)
    assert not vector.equal(draw_placeholder(10_000, seed=3408))
