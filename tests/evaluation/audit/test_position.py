"""Places in the input and in the output."""

from __future__ import annotations

import numpy as np
import pytest

from fletching.evaluation.audit.position import Shuffle, compute_tau, draw_orders, measure_position_effect


@pytest.mark.parametrize(
    ("output", "tau"),
    [((0, 1, 2, 3), 1.0), ((3, 2, 1, 0), -1.0), ((1, 0, 2, 3), 4 / 6), ((2, 0, 3, 1), 0.0)],
)
def test_tau_counts_pairs_in_order(output: tuple[int, ...], tau: float) -> None:
    """Of the 6 pairs, 6, 0, 5 and 3 are in order: (in order - swapped) / 6."""
    assert compute_tau(output) == pytest.approx(tau)


def test_tau_leaves_out_pairs_of_one_class() -> None:
    """Of the 6 pairs, 0-1 and 2-3 are of one class; of the other 4, 3 are in order, 1 swapped: 2 / 4."""
    assert compute_tau((1, 2, 0, 3), np.array(["a", "b", "a", "b"])) == pytest.approx(2 / 4)
    assert compute_tau((0, 1, 2), np.zeros(3)) == 0


def test_orders_come_with_their_reverse() -> None:
    orders = draw_orders(5, n_pairs=3, generator=np.random.default_rng(0))
    assert orders[0].tolist() == [0, 1, 2, 3, 4]
    assert all((order + reverse == 4).all() for order, reverse in zip(orders[::2], orders[1::2], strict=True))
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)


def shuffle(order: list[int], scores: list[float]) -> Shuffle:
    return Shuffle(np.array(order), tuple(order), np.array(scores))


def test_effect_of_a_place_is_measured_in_scores() -> None:
    """Two passages of worth 1 and 5; the second place costs 0.5: 0.25 to either side of the mean."""
    groups = [[shuffle([0, 1], [1.0, 4.5]), shuffle([1, 0], [0.5, 5.0])]] * 20
    effect = measure_position_effect(groups, seed=0)
    assert effect.size == pytest.approx(0.25)
    assert effect.slope == pytest.approx(-0.5)
    assert effect.p_value == pytest.approx(1 / 1000)


def test_scores_that_do_not_move_have_no_effect() -> None:
    effect = measure_position_effect([[shuffle([0, 1], [1.0, 4.5]), shuffle([1, 0], [1.0, 4.5])]], seed=0)
    assert (effect.size, effect.slope, effect.p_value) == (0.0, 0.0, 1.0)
