"""Tiny random models, saved once; what they compute is noise, but the same noise every time."""

from __future__ import annotations

import os

import pytest
from langchain_core.documents import Document

QUERY = "What keeps an arrow straight?"


def pytest_configure() -> None:
    os.environ["FLETCHING_PLUGINS"] = ""  # a plug-in of this machine must not change what the tests see
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["LANGSMITH_TRACING"] = "false"


@pytest.fixture(scope="session")
def reranker_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    from fletching.testing import save_tiny_cross_encoder

    return save_tiny_cross_encoder(tmp_path_factory.mktemp("langchain") / "reranker")


@pytest.fixture(scope="session")
def embedder_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    from fletching.testing import save_tiny_embedder

    folder = tmp_path_factory.mktemp("langchain") / "embedder"
    return save_tiny_embedder(folder, prompts={"query": "query: ", "document": "passage: "})


@pytest.fixture
def query() -> str:
    return QUERY


@pytest.fixture
def texts() -> list[str]:
    return [
        "A quiver holds arrows.",
        "Fletching is the fitting of feathers to an arrow, which keeps it straight in flight.",
        "The longbow was the weapon of the English archer.",
        "A sourdough needs flour, water and time.",
        "",
        "Feathers from one wing of the goose are used for one arrow.",
    ]


@pytest.fixture
def documents(texts: list[str]) -> list[Document]:
    return [
        Document(text, id=str(index), metadata={"place": index, "tags": ["a", "b"]})
        for index, text in enumerate(texts)
    ]
