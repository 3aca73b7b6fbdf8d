"""What transformers reports about a checkpoint: heads that are left out on purpose are no news."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from fletching.models.embedder import Embedder
from fletching.models.reranker import Reranker
from fletching.testing import save_tiny_bert, save_tiny_llama


@pytest.fixture
def reports(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The log of transformers, which it keeps from the root logger."""
    logger = transformers_logging.get_logger("transformers")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.WARNING, logger="transformers"):
        yield caplog
    logger.removeHandler(caplog.handler)


def test_the_head_of_a_language_model_is_left_out_in_silence(
    reports: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    Embedder(save_tiny_llama(tmp_path), device="cpu")
    assert "LOAD REPORT" not in reports.text


def test_a_weight_that_is_no_head_is_reported(reports: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    path = Path(save_tiny_llama(tmp_path)) / "model.safetensors"
    save_file({**load_file(path), "lm_head.surprise": torch.zeros(1)}, path, metadata={"format": "pt"})
    Embedder(tmp_path, device="cpu")
    assert "lm_head.surprise" in reports.text


def test_a_head_of_random_weights_is_reported(reports: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    Reranker(save_tiny_bert(tmp_path), device="cpu")
    assert "classifier.weight" in reports.text
    assert "MISSING" in reports.text
