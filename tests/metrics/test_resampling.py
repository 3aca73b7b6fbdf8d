from __future__ import annotations

from collections.abc import Callable
from math import comb, sqrt
from time import process_time
from typing import Any

import numpy as np
import pytest

from fletching.errors import ArgumentError
from fletching.metrics import Interval, bootstrap_interval, paired_bootstrap, permutation_test

N_QUERIES = 10_000


def test_interval_has_the_mean_of_the_values() -> None:
    assert bootstrap_interval([0.0, 0.5, 1.0, 0.5]).mean == 0.5


def test_interval_of_a_coin_is_binomial() -> None:
    """100 zeros and 100 ones: resampled means are Binomial(200, 1/2)/200; its 2.5 % and 97.5 % points are
    86/200 and 114/200: P(X <= 85) = 0.0200 and P(X <= 86) = 0.0282, computed from the binomial coefficients.
    """
    below = [sum(comb(200, k) for k in range(last + 1)) / 2**200 for last in (85, 86)]
    assert below[0] < 0.025 < below[1]
    interval = bootstrap_interval([0.0, 1.0] * 100, n_resamples=40_000)

    assert (interval.low, interval.high) == (pytest.approx(86 / 200), pytest.approx(114 / 200))


def test_interval_of_many_values_is_normal() -> None:
    """The standard error of the mean of 0, 1, ..., n-1 is sqrt((n^2 - 1) / 12 / n); 1.96 to each side."""
    n = 2000
    interval = bootstrap_interval(np.arange(n))
    half = 1.96 * sqrt((n**2 - 1) / 12 / n)

    assert interval.low == pytest.approx(interval.mean - half, rel=0.01)
    assert interval.high == pytest.approx(interval.mean + half, rel=0.01)


def test_interval_of_equal_values_is_a_point() -> None:
    assert bootstrap_interval([0.25, 0.25, 0.25]) == Interval(0.25, 0.25, 0.25, 0.95)


def test_higher_level_gives_a_wider_interval() -> None:
    values = np.linspace(0, 1, 50)

    assert bootstrap_interval(values, level=0.99).high > bootstrap_interval(values, level=0.5).high


def test_interval_prints_as_mean_and_ends() -> None:
    assert str(Interval(0.5, 0.43, 0.57, 0.95)) == "0.5000 (0.4300 to 0.5700)"


def test_paired_interval_is_that_of_the_differences() -> None:
    first, second = np.array([0.9, 0.2, 0.4]), np.array([0.5, 0.1, 0.6])

    assert paired_bootstrap(first, second) == bootstrap_interval(first - second)


def test_paired_interval_cancels_what_is_hard_for_both() -> None:
    second = np.linspace(0, 1, 100)
    interval = paired_bootstrap(second + 0.01, second)

    assert (interval.low, interval.high) == (pytest.approx(0.01), pytest.approx(0.01))


def test_permutation_test_counts_sign_patterns() -> None:
    """Three equal differences: 2 of the 8 sign patterns are as far from 0 as +++, so p is near 1/4."""
    p = permutation_test([0.8, 0.7, 0.9], [0.1, 0.0, 0.2], n_resamples=100_000)

    assert p == pytest.approx(0.25, abs=0.005)


def test_permutation_test_of_a_mixed_sample_is_exact_up_to_chance() -> None:
    """Differences 1 2 3 -4, sum 2: of the 16 sums of +-1 +-2 +-3 +-4, all even, only two are nearer to 0."""
    sums = [a + b + c + d for a in (1, -1) for b in (2, -2) for c in (3, -3) for d in (4, -4)]
    assert sum(abs(value) >= 2 for value in sums) == 14

    assert permutation_test([1, 2, 3, 0], [0, 0, 0, 4], n_resamples=100_000) == pytest.approx(
        14 / 16, abs=0.005
    )


@pytest.mark.parametrize("n", [2, 7, 8, 9, 17])
def test_permutation_test_reaches_every_difference(n: int) -> None:
    """One difference that is not 0, at the end: both of its signs are as far from 0, so p is 1."""
    assert permutation_test([0.0] * (n - 1) + [1.0], [0.0] * n, n_resamples=50) == 1.0


def test_permutation_test_of_equal_systems_is_1() -> None:
    assert permutation_test([0.1, 0.2, 0.3], [0.1, 0.2, 0.3], n_resamples=100) == 1.0


def test_permutation_test_is_never_0() -> None:
    """No draw of 99 gives 200 equal signs: (1 + 0) / (1 + 99)."""
    assert permutation_test([1.0] * 200, [0.0] * 200, n_resamples=99) == 1 / 100


def test_permutation_test_is_symmetric() -> None:
    first, second = np.array([0.9, 0.2, 0.4, 0.8]), np.array([0.5, 0.1, 0.6, 0.7])

    assert permutation_test(first, second) == permutation_test(second, first)


def test_permutation_test_keeps_its_level() -> None:
    """Systems that do not differ: p below 0.1 in one test of ten."""
    generator = np.random.default_rng(3)
    pairs = generator.normal(size=(400, 2, 30))
    ps = [
        permutation_test(first, second, n_resamples=199, seed=seed)
        for seed, (first, second) in enumerate(pairs)
    ]

    assert np.mean(np.array(ps) <= 0.1) == pytest.approx(0.1, abs=0.04)  # 2.7 standard errors


CALLS: list[Callable[..., Any]] = [
    bootstrap_interval,
    lambda values, **settings: paired_bootstrap(values, [0.0] * len(values), **settings),
    lambda values, **settings: permutation_test(values, [0.0] * len(values), **settings),
]
per_call = pytest.mark.parametrize(
    "call", CALLS, ids=["bootstrap_interval", "paired_bootstrap", "permutation_test"]
)
VALUES = list(np.random.default_rng(0).normal(0.2, 1, 40))


@per_call
def test_same_seed_gives_the_same_result(call: Callable[..., Any]) -> None:
    assert call(VALUES, seed=5) == call(VALUES, seed=5)


@per_call
def test_other_seed_gives_another_result(call: Callable[..., Any]) -> None:
    assert call(VALUES, seed=5) != call(VALUES, seed=6)


@per_call
def test_global_generator_is_left_alone(call: Callable[..., Any]) -> None:
    before = np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    call(VALUES)

    assert np.random.get_state()[1].tolist() == before  # type: ignore[index,union-attr]


@per_call
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_value_that_is_not_finite_is_named(call: Callable[..., Any], value: float) -> None:
    with pytest.raises(ArgumentError, match=f"must be finite at place 1; got {value}"):
        call([0.5, value, 0.5])


@per_call
@pytest.mark.parametrize("values", [[], [1.0], ["a", "b"], [[0.1, 0.2], [0.3, 0.4]]])
def test_values_must_be_two_numbers_at_least(call: Callable[..., Any], values: Any) -> None:
    with pytest.raises(ArgumentError, match="must be a list of at least two numbers"):
        call(values)


@per_call
def test_number_of_resamples_must_be_positive(call: Callable[..., Any]) -> None:
    with pytest.raises(ArgumentError, match="`n_resamples` must be at least 1; got 0"):
        call(VALUES, n_resamples=0)


@per_call
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_resamples": 100.0}, "`n_resamples` must be a whole number; got 100.0"),
        ({"seed": "a"}, "`seed` must be a whole number; got 'a'"),
        ({"seed": -1}, "`seed` must be at least 0; got -1"),
    ],
)
def test_settings_of_another_kind_are_named(
    call: Callable[..., Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        call(VALUES, **settings)


@pytest.mark.parametrize("level", [0, 1, 95, "0.5"])
def test_level_must_be_a_share(level: Any) -> None:
    with pytest.raises(ArgumentError, match="bootstrap_interval: `level` must be between 0 and 1; got"):
        bootstrap_interval(VALUES, level=level)


@pytest.mark.parametrize("test", [paired_bootstrap, permutation_test])
def test_pairs_must_be_complete(test: Callable[..., Any]) -> None:
    with pytest.raises(ArgumentError, match="`second` must be as long as `first`, 3 values; got 2"):
        test([0.1, 0.2, 0.3], [0.1, 0.2])


@pytest.mark.slow
@per_call
def test_ten_thousand_queries_take_two_seconds_at_most(call: Callable[..., Any]) -> None:
    values = np.random.default_rng(0).random(N_QUERIES)
    start = process_time()
    call(values)

    assert process_time() - start < 2
