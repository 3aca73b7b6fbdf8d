"""Tiny MVPs that the tests of this folder share."""

from __future__ import annotations

import pytest

from fletching.methods.mvp import MVPReranker
from fletching.testing.tiny import save_tiny_t5


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="session")
def t5_double(t5_folder: str) -> MVPReranker:
    """A tiny T5 MVP in float64, where the spec's equalities hold to the last bits."""
    return MVPReranker(t5_folder, n_views=4, dtype="float32").double().eval()
