"""Data that the tests of this folder share."""

from __future__ import annotations

import pytest

from fletching.methods.limit import LimitDataset


@pytest.fixture(scope="session")
def full_size() -> LimitDataset:
    """As LIMIT-small: 1000 queries, all pairs of 46 documents but 35, 45 items each."""
    return LimitDataset.generate(seed=3)


@pytest.fixture(scope="session")
def tiny() -> LimitDataset:
    """Six queries on four documents."""
    return LimitDataset.generate(n_queries=6, items_per_doc=5, seed=1)
