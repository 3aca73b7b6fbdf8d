"""A folder of documents and a tiny embedder for it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fletching
from fletching.search import Index
from fletching.testing import save_tiny_embedder

FILES = {
    "bow.md": "# Bow\n\nThe bow is of wood.\n\n## String\n\nThe string is on the bow.\n",
    "guide/arrow.md": "# Arrow\n\nAn arrow is a shaft.\n\n## Feathers\n\nFeathers keep the flight true.\n",
    "target.txt": "The archer shot at the target in the wind.\n",
}
"""Five passages."""


@pytest.fixture(scope="session")
def embedder_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    prompts = {"query": "what is ", "document": "the "}
    return save_tiny_embedder(tmp_path_factory.mktemp("embedder"), prompts=prompts)


@pytest.fixture(scope="session")
def embedder(embedder_folder: str) -> Any:
    return fletching.load(embedder_folder)


@pytest.fixture(scope="session")
def write() -> Callable[..., None]:
    """Write a file that looks as old as it should, in seconds."""

    def write_aged(path: Path, text: str, *, age: float = 3600.0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        changed = time.time() - age
        os.utime(path, (changed, changed))

    return write_aged


@pytest.fixture
def folder(tmp_path: Path, write: Callable[..., None]) -> Path:
    """Three files, changed long ago."""
    for name, text in FILES.items():
        write(tmp_path / "docs" / name, text)
    return tmp_path / "docs"


@pytest.fixture
def open_index(folder: Path, tmp_path: Path, embedder: Any) -> Callable[..., Index]:
    """Open the folder's index, always in the same cache."""
    return lambda **options: Index(folder, **{"embedder": embedder, "cache": tmp_path / "cache", **options})
