"""Hyper-parameters: the reference's numbers, and errors."""

from __future__ import annotations

from typing import Any

import pytest

from fletching.errors import ArgumentError
from fletching.methods.limit import FreeEmbeddingConfig


def test_defaults_are_those_of_the_reference_code() -> None:
    """Section 3 of the spec."""
    config = FreeEmbeddingConfig()
    assert (config.learning_rate, config.temperature, config.seed) == (0.01, 0.1, 42)
    assert (config.max_iterations, config.patience, config.min_delta) == (100_000, 1000, 1e-5)
    assert (config.check_every, config.loss) == (50, "each")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "eech"}, "must be one of 'each', 'any'; got 'eech'. Did you mean 'each'?"),
        ({"temperature": 0.0}, "`temperature` must be positive; got 0.0"),
        ({"learning_rate": -1}, "`learning_rate`"),
        ({"patience": 0}, "`patience` must be a positive integer; got 0"),
        ({"min_delta": -1e-9}, "`min_delta`"),
    ],
)
def test_values_outside_their_domain_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match="FreeEmbeddingConfig") as caught:
        FreeEmbeddingConfig(**values)
    assert message in str(caught.value)
