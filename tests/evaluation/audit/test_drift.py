"""How far results may move."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fletching.evaluation.audit.drift import (
    Drift,
    find_dtype,
    find_noise,
    find_rounding,
    find_scale,
    judge,
    measure_drift,
)


def test_drift_is_a_share_of_the_spread_and_counts_reordered_lists() -> None:
    before = [np.array([3.0, 2.0, 1.0]), np.array([3.0, 2.0, 1.0])]
    after = [np.array([3.0, 1.0, 2.0]), np.array([3.5, 2.5, 1.5])]
    assert measure_drift(before, after, scale=2.0, noise=1e-4) == Drift(0.5, 1, 2)


def test_passages_within_noise_may_change_places() -> None:
    before, after = [np.array([1.0, 0.99995, 0.0])], [np.array([0.99995, 1.0, 0.0])]
    assert measure_drift(before, after, scale=1.0, noise=1e-4).n_reordered == 0


def test_what_becomes_equal_has_lost_its_place() -> None:
    assert (
        measure_drift([np.array([1.0, 0.0])], [np.array([0.5, 0.5])], scale=1.0, noise=1e-4).n_reordered == 1
    )


def test_only_the_first_ten_count() -> None:
    """Places 11 and 12 change; then 10 and 11 do."""
    before = -np.arange(12.0)
    for places, reordered in (([10, 11], 0), ([9, 10], 1)):
        after = before.copy()
        after[places] = after[places[::-1]]
        assert measure_drift([before], [after], scale=11.0, noise=1e-4).n_reordered == reordered


@pytest.mark.parametrize(
    ("value", "reordered", "noise", "verdict"),
    [
        (0.0, 0, 1e-4, "ok"),
        (1e-5, 0, 1e-4, "ok"),
        (0.005, 0, 1e-4, "note"),
        (0.005, 1, 1e-4, "fault"),
        (0.02, 0, 1e-4, "fault"),
        (0.02, 0, 0.05, "ok"),
        (0.06, 0, 0.05, "fault"),
    ],
)
def test_verdict_depends_on_noise_and_order(value: float, reordered: int, noise: float, verdict: str) -> None:
    assert judge("probe", Drift(value, reordered, 3), noise, did="Done").verdict == verdict


def test_float_noise_is_worth_a_note_where_bits_should_be_equal() -> None:
    probe = judge("probe", Drift(1e-7, 0, 3), 1e-4, did="Done", exact=True)
    assert (probe.verdict, probe.bound) == ("note", 0.0)
    assert probe.sentence == "Done, scores move by up to 1e-07 of their spread: float noise."


def test_sentence_says_how_much_where_and_why() -> None:
    probe = judge("probe", Drift(0.25, 2, 3), 1e-4, did="Done", hint="Why.")
    assert probe.sentence == (
        "Done, scores move by up to 25 % of their spread; the first ten change places in 2 of 3 lists. Why."
    )


def test_scale_is_the_mean_spread_of_a_list() -> None:
    assert find_scale([np.array([0.0, 1.0]), np.array([0.0, 3.0])], 1e-4, find_rounding("float32")) == 2.0


def test_scale_of_scores_that_hardly_differ_allows_for_rounding() -> None:
    """Near 100 float32 is exact to 16 * 1.2e-7 * 100 = 1.9e-4, which may be no more than the noise."""
    scale = find_scale([np.array([100.0, 100.0])], 1e-4, find_rounding("float32"))
    assert scale * 1e-4 == pytest.approx(16 * 2**-23 * 100)


def test_scale_allows_for_the_rounding_of_the_precision() -> None:
    """Next to 1, the numbers of bfloat16 are 2^-7 apart, those of float16 2^-10: four times that."""
    found = [
        find_scale([np.array([1.0, 1.0])], 0.05, find_rounding(dtype)) for dtype in ("bfloat16", "float16")
    ]
    assert found == pytest.approx([4 * 2**-7 / 0.05, 4 * 2**-10 / 0.05])


def test_scale_is_never_zero() -> None:
    assert find_scale([np.zeros(3)], 1e-4, find_rounding("float32")) == 1.0


def test_precision_is_the_lowest_of_the_weights() -> None:
    mixed = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1).to(torch.bfloat16))
    assert find_dtype(mixed) == "bfloat16"
    assert find_dtype(object()) == ""
    assert find_noise("bfloat16") > find_noise("float16") > find_noise("float32") == find_noise("")
