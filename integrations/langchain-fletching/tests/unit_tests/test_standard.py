"""LangChain's own suite for embeddings, unit part."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_fletching import FletchingEmbeddings


class TestFletchingEmbeddings(EmbeddingsUnitTests):
    @pytest.fixture(autouse=True)
    def _folder(self, embedder_folder: str) -> None:
        self.folder = embedder_folder

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return FletchingEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": self.folder}
