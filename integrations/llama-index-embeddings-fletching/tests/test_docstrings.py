"""The examples of the docstrings, in modules imported under their own names."""

from __future__ import annotations

import doctest

import pytest
from llama_index.embeddings.fletching import base, cache

from fletching.testing import save_tiny_embedder


@pytest.mark.parametrize("module", [base, cache], ids=lambda module: module.__name__)
def test_the_examples_are_true(module, tmp_path, monkeypatch):
    save_tiny_embedder(tmp_path / "sentence-transformers/all-MiniLM-L6-v2")
    monkeypatch.chdir(tmp_path)  # a folder wins over a hub id of the same name
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
