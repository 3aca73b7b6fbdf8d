"""Does the place of a passage in the input decide its place in the output?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PositionEffect", "Shuffle", "compute_tau", "draw_orders", "measure_position_effect"]

Array = NDArray[np.float64]

_N_PERMUTATIONS = 999


@dataclass(frozen=True)
class Shuffle:
    """One list, ranked in another order.

    Args:
        order: Place in the list -> place in the input, shape ``(N,)``.
        output: Places in the input, best first.
        scores: Scores in the order of the list, shape ``(N,)``.
    """

    order: NDArray[np.int64]
    output: tuple[int, ...]
    scores: Array


@dataclass(frozen=True)
class PositionEffect:
    """What a place in the input does to a score.

    Args:
        size: Largest mean deviation of a score from the passage's mean, over the places.
        slope: Change of the score for each place further down.
        p_value: How often the deviations would follow the places as closely by chance.
    """

    size: float
    slope: float
    p_value: float


def draw_orders(n: int, *, n_pairs: int, generator: np.random.Generator) -> list[NDArray[np.int64]]:
    """Draw orders in pairs, each with its reverse; the first is the list's own.

    In a pair every passage stands as far from the top as from the bottom. A model that does not look at the
    order has therefore a mean tau of exactly 0 and not of about 0.

    Args:
        n: Passages of the list.
        n_pairs: Pairs to draw.
        generator: Where chance comes from.

    Returns:
        ``2 * n_pairs`` arrays: place in the list -> place in the input.
    """
    orders = []
    for pair in range(n_pairs):
        order = np.arange(n) if pair == 0 else generator.permutation(n)
        orders += [order, n - 1 - order]
    return orders


def compute_tau(output: Sequence[int], classes: NDArray[Any] | None = None) -> float:
    """Compute Kendall's tau between the order that went in and the one that came out.

    Args:
        output: Places in the input, best first; at least 2.
        classes: One for each of them; pairs of the same class do not count. ``None`` counts all pairs.

    Returns:
        1 if the input came back as it was, -1 if reversed; 0 if no pair counts.

    Example:
        >>> compute_tau([0, 1, 2]), compute_tau([2, 1, 0])
        (1.0, -1.0)
    """
    places = np.asarray(output)
    signs = np.sign(places[None, :] - places[:, None])
    counts = np.ones_like(signs) if classes is None else classes[None, :] != classes[:, None]
    return float(np.triu(signs * counts, 1).sum() / max(1, np.triu(counts, 1).sum()))


def measure_position_effect(shuffles: Sequence[Sequence[Shuffle]], *, seed: int) -> PositionEffect:
    """Measure how scores depend on places.

    Each score is compared with the mean score of its passage over all orders of the list; what is left is
    averaged for each place. The p-value comes from a permutation test: the deviations of each passage are
    dealt to its places anew, 999 times, and the sum of squared means is compared.

    Args:
        shuffles: The shuffles of each list, the same number for all.
        seed: Same seed, same p-value.

    Returns:
        The effect, in units of the score.
    """
    places = np.concatenate([np.stack([one.order for one in group], axis=1) for group in shuffles])
    scores = np.concatenate([np.stack([one.scores for one in group], axis=1) for group in shuffles])
    deviations = scores - scores.mean(axis=1, keepdims=True)  # (passages, shuffles)
    counts = np.bincount(places.ravel())

    def average(values: Array) -> Array:
        means: Array = np.bincount(places.ravel(), weights=values.ravel()) / counts
        return means

    means = average(deviations)
    strength = float((counts * means**2).sum())
    generator = np.random.default_rng(seed)
    hits = sum(
        float((counts * average(generator.permuted(deviations, axis=1)) ** 2).sum()) >= strength * (1 - 1e-9)
        for _ in range(_N_PERMUTATIONS)
    )
    centred = places - places.mean(axis=1, keepdims=True)
    slope = float((centred * deviations).sum() / (centred**2).sum())
    return PositionEffect(float(np.abs(means).max()), slope, (1 + hits) / (1 + _N_PERMUTATIONS))
