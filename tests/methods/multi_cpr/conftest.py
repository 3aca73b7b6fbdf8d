"""Made-up collections that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fletching.methods.multi_cpr import MultiCPRDataset, write_synthetic
from fletching.training import save_character_bert


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, by far where other tests run beside them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three domains: 150 passages, 90 training queries and 20 of the dev split each."""
    folder = tmp_path_factory.mktemp("multi_cpr")
    return write_synthetic(folder, n_passages=150, n_train=90, n_dev=20)


@pytest.fixture(scope="session")
def base(root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random BERT that reads the domains of videos and of goods."""
    datasets = [MultiCPRDataset(root, domain, "train") for domain in ("ecom", "video")]
    texts = [text for data in datasets for text in (*data.queries.values(), *data.corpus.values())]
    return save_character_bert(tmp_path_factory.mktemp("base"), texts)
