"""Defaults are the reference's."""

from __future__ import annotations

from typing import Any

import pytest

from fletching.errors import ArgumentError
from fletching.methods.multi_cpr import MultiCPRConfig
from fletching.methods.multi_cpr.training import fill_defaults


def test_defaults_of_the_dual_encoder_are_the_references() -> None:
    """Section 3: 2e-5, 6 epochs, 32 pairs on each of 2 GPUs, warm-up 0.1, decay 0.01, 256 tokens, x 20."""
    config = fill_defaults(MultiCPRConfig(), "dual_encoder")
    assert (config.learning_rate, config.epochs, config.seed) == (2e-5, 6, 2021)
    assert (config.batch_size, config.accumulation_steps) == (32, 2)
    assert (config.warmup_ratio, config.weight_decay) == (0.1, 0.01)
    assert (config.max_tokens, config.scale, config.depth, config.fp16) == (256, 20.0, 1000, True)


def test_defaults_of_the_cross_encoder_are_the_references() -> None:
    """Section 3: 1e-5, 3 epochs, 8 groups x 2 accumulation steps, groups of 8; section 2.5: pools of 100."""
    config = fill_defaults(MultiCPRConfig(), "cross_encoder")
    assert (config.learning_rate, config.epochs, config.seed) == (1e-5, 3, 42)
    assert (config.batch_size, config.accumulation_steps) == (8, 2)
    assert (config.group_size, config.pool_size, config.max_tokens) == (8, 100, 256)


def test_a_chosen_value_stays() -> None:
    assert fill_defaults(MultiCPRConfig(epochs=0.5, seed=0), "dual_encoder").epochs == 0.5
    assert fill_defaults(MultiCPRConfig(epochs=0.5, seed=0), "dual_encoder").seed == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 0.0}, "`learning_rate` must be positive; got 0.0"),
        ({"group_size": 1}, "`group_size` must be an integer >= 2; got 1"),
        ({"batch_size": 2.5}, "`batch_size` must be an integer >= 1; got 2.5"),
        ({"warmup_ratio": 1.0}, "`warmup_ratio` must be from 0 to less than 1; got 1.0"),
        ({"weight_decay": -0.1}, "`weight_decay` must be zero or positive; got -0.1"),
    ],
)
def test_values_outside_their_domain_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"MultiCPRConfig: {message}"):
        MultiCPRConfig(**values)
