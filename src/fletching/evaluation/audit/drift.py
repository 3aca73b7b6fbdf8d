"""How far results may move before it is more than float noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fletching.evaluation.audit.report import FAULT, NOTE, OK, Probe

__all__ = [
    "Drift",
    "find_dtype",
    "find_noise",
    "find_rounding",
    "find_scale",
    "judge",
    "measure_drift",
    "show_share",
]

Array = NDArray[np.float64]

NOISE = {"float64": 1e-4, "float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}
"""Precision of the weights -> share of the spread that other batch shapes may move a result by.

About a thousand units in the last place of float32, twenty of float16, and six of bfloat16 with its eight
bits.
"""

SERIOUS = 0.01
"""Share of the spread beyond which a drift is a fault even if the first ten stay in order."""

_TOP = 10
_ROUNDING = {
    "float16": 4 * torch.finfo(torch.float16).eps,
    "bfloat16": 4 * torch.finfo(torch.bfloat16).eps,
}
_FINE_ROUNDING = 16 * torch.finfo(torch.float32).eps  # of all other precisions


@dataclass(frozen=True)
class Drift:
    """How far results moved.

    Args:
        value: Largest move of a result, as a share of the spread.
        n_reordered: Lists in which one of the first ten was overtaken; ``None`` where nothing is ranked.
        n_lists: Lists that were compared.
    """

    value: float
    n_reordered: int | None
    n_lists: int


def find_noise(dtype: str) -> float:
    """Look up how much of the spread is float noise.

    Args:
        dtype: Name of the weights' precision; unknown ones count as float32.

    Returns:
        A share of the spread.
    """
    return NOISE.get(dtype, NOISE["float32"])


def find_rounding(dtype: str) -> float:
    """Look up how much of a score is float noise, however close together the scores are.

    Args:
        dtype: Name of the weights' precision; unknown ones count as float32.

    Returns:
        A share of the highest absolute score.
    """
    return _ROUNDING.get(dtype, _FINE_ROUNDING)


def find_dtype(model: Any) -> str:
    """Name the precision of a model's weights.

    Args:
        model: Any object: a network, or what holds one as an attribute.

    Returns:
        Such as ``"bfloat16"``: the lowest one, if there are several; empty without weights.
    """
    parts = [model] if isinstance(model, torch.nn.Module) else getattr(model, "__dict__", {}).values()
    networks = [part for part in parts if isinstance(part, torch.nn.Module)]
    tensors = [each for network in networks for each in chain(network.parameters(), network.buffers())]
    found = {each.dtype for each in tensors if each.dtype.is_floating_point}
    names = sorted(found, key=lambda dtype: (torch.finfo(dtype).bits, str(dtype)))
    return str(names[0]).removeprefix("torch.") if names else ""


def find_scale(scores: Sequence[Array], noise: float, rounding: float) -> float:
    """Measure the spread of scores: what a drift is compared with.

    Args:
        scores: The scores of each list.
        noise: Share of the spread that is float noise.
        rounding: Share of the highest absolute score that is float noise whatever the spread.

    Returns:
        Mean difference between the best and the worst score of a list; more where scores are so close
        together that rounding them would count as drift.
    """
    spread = float(np.mean([np.ptp(values) for values in scores]))
    highest = max(float(np.abs(values).max()) for values in scores)
    return max(spread, rounding * highest / noise) or 1.0


def measure_drift(before: Sequence[Array], after: Sequence[Array], *, scale: float, noise: float) -> Drift:
    """Compare the scores of the same passages.

    Args:
        before: The scores of each list.
        after: The same lists and passages, in the same order.
        scale: The spread of scores.
        noise: Share of it that is float noise: passages that close together may change places.

    Returns:
        How far scores moved, and in how many lists that changed the first ten.
    """
    moves = [float(np.abs(a - b).max()) for a, b in zip(before, after, strict=True)]
    reordered = [_is_reordered(a, b, noise * scale) for a, b in zip(before, after, strict=True)]
    return Drift(max(moves) / scale, sum(reordered), len(moves))


def _is_reordered(before: Array, after: Array, tolerance: float) -> bool:
    """Say whether a passage caught up with one of the first ten that was clearly ahead of it."""
    top = np.argsort(-before, kind="stable")[:_TOP]
    lead = before[top][:, None] - before[None, :]
    left = after[top][:, None] - after[None, :]
    return bool(((lead > tolerance) & (left <= 0)).any())


def judge(
    name: str,
    drift: Drift,
    noise: float,
    *,
    did: str,
    exact: bool = False,
    hint: str = "",
    what: str = "scores",
) -> Probe:
    """Decide what a drift means.

    Args:
        name: Name of the probe.
        drift: What was measured.
        noise: Share of the spread that is float noise.
        did: What was done, the beginning of the sentence: ``"With the passages shuffled"``.
        exact: Whether results should be equal, bit for bit: float noise is then worth a note.
        hint: A sentence on what causes this, for a fault.
        what: What moves.

    Returns:
        ``ok`` within float noise; ``fault`` if the first ten change or the drift is serious; else ``note``.
    """
    bound = 0.0 if exact else noise
    if drift.value == 0:
        return Probe(name, OK, 0.0, bound, f"{did}, {what} are the same, bit for bit.")
    moved = f"{did}, {what} move by up to {show_share(drift.value)} of their spread"
    if drift.value <= noise:
        return Probe(name, NOTE if exact else OK, drift.value, bound, f"{moved}: float noise.")
    if drift.n_reordered is not None:
        lists = f"{drift.n_reordered} of {drift.n_lists} lists" if drift.n_reordered else "no list"
        moved += f"; the first ten change places in {lists}"
    if drift.n_reordered or drift.value > max(SERIOUS, noise):
        return Probe(name, FAULT, drift.value, bound, f"{moved}. {hint}".strip())
    return Probe(name, NOTE, drift.value, bound, f"{moved}.")


def show_share(share: float) -> str:
    """Write a share for people.

    Args:
        share: At least 0.

    Returns:
        A percentage, or a plain number where that would be all zeros.

    Example:
        >>> show_share(0.123), show_share(2.5), show_share(3e-7)
        ('12 %', '250 %', '3e-07')
    """
    if share and share < 0.0005:
        return f"{share:.0e}"
    return f"{100 * share:.2g} %" if share < 1 else f"{100 * share:.0f} %"
