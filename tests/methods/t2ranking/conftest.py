"""A made-up collection and a tiny model that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fletching.methods.t2ranking import write_synthetic
from fletching.methods.t2ranking.synthetic import CHARACTERS
from fletching.training import save_character_bert


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, by far where other tests run beside them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training queries, six dev queries, 90 passages."""
    folder = tmp_path_factory.mktemp("t2ranking")
    return write_synthetic(folder, n_train=12, n_dev=6, n_passages=90, seed=1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_character_bert(tmp_path_factory.mktemp("base"), CHARACTERS)
