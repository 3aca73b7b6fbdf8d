"""What every test, docstring example and documentation example runs under."""

from __future__ import annotations

import json
import os
import socket
from doctest import ELLIPSIS
from pathlib import Path
from typing import Any

import pytest
from sybil import Sybil
from sybil.evaluators.doctest import NUMBER
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=ELLIPSIS | NUMBER), SkipParser()],
    patterns=["*.md"],
    fixtures=["_no_network", "_in_a_folder_of_models"],
    excludes=["checkpoints/*/*.md"],  # model cards are written for their readers, not for this suite
).pytest()


def pytest_configure() -> None:
    os.environ["FLETCHING_PLUGINS"] = ""  # a plug-in of this machine must not change what the tests see
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["COLUMNS"] = "100"  # tables wrap alike everywhere
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"  # a worker for each core: more threads would only wait


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("network"):
        return
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in {"127.0.0.1", "::1", "localhost"}:
            raise RuntimeError(f"A test tried to reach {address}; mark it `network` or remove the call.")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True)
def _names_for_doctests(request: pytest.FixtureRequest) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        import torch

        request.getfixturevalue("doctest_namespace")["torch"] = torch


@pytest.fixture(scope="session")
def _model_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny stand-ins under the names that the examples use, and `docs`: each runs offline and at once."""
    from fletching.models.minilm import HUB_ID, find_minilm
    from fletching.testing import save_tiny_bert, save_tiny_cross_encoder, save_tiny_t5

    root = tmp_path_factory.mktemp("models")
    save_tiny_bert(root / "google-bert/bert-base-uncased")
    save_tiny_cross_encoder(root / "cross-encoder/ms-marco-MiniLM-L6-v2")
    (root / HUB_ID).parent.mkdir()
    (root / HUB_ID).symlink_to(find_minilm(), target_is_directory=True)
    authors = Path(save_tiny_t5(root / "Jun421/MVP-base"))
    config = json.loads((authors / "config.json").read_text())
    (authors / "config.json").write_text(json.dumps({**config, "architectures": ["FiDT5"]}))
    (root / "docs").symlink_to(Path(__file__).parent / "docs", target_is_directory=True)
    return root


@pytest.fixture
def _in_a_folder_of_models(_model_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(_model_folders)  # a folder wins over a hub id of the same name
