"""A folder with three passages, and tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest

import fletching
from fletching.search import Index
from fletching.testing import save_tiny_cross_encoder, save_tiny_embedder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_embedder(folder / "embedder")
    save_tiny_cross_encoder(folder / "reranker")
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    docs = tmp_path_factory.mktemp("docs")
    (docs / "bow.md").write_text("# Bow\n\nThe bow is of wood.\n\n## String\n\nThe string is on the bow.\n")
    (docs / "goose.txt").write_text("Feathers are from a goose.\n")
    return docs


@pytest.fixture
def index(models: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    embedder = fletching.load_shared(models / "embedder")
    opened = Index(folder, embedder=embedder, cache=tmp_path_factory.getbasetemp() / "cache")
    opened.update()
    return opened
