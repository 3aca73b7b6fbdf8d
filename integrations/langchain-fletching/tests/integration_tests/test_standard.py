"""LangChain's own suites, whole, on tiny models and on the weights that ship."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests, RetrieversIntegrationTests

from langchain_fletching import FletchingEmbeddings, FletchingRetriever


class TestFletchingEmbeddings(EmbeddingsIntegrationTests):
    @pytest.fixture(autouse=True)
    def _folder(self, embedder_folder: str) -> None:
        self.folder = embedder_folder

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return FletchingEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": self.folder, "truncate_dim": 16}


class TestFletchingRetrieverOnVectorStore(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _store(self, embedder_folder: str, reranker_folder: str, texts: list[str]) -> None:
        self.store = InMemoryVectorStore.from_texts(texts, FletchingEmbeddings(model=embedder_folder))
        self.reranker = reranker_folder

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return FletchingRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"retriever": self.store, "model": self.reranker}

    @property
    def retriever_query_example(self) -> str:
        return "What keeps an arrow straight?"


class TestFletchingRetrieverOnRunnable(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _documents(self, documents: list[Document]) -> None:
        self.source = RunnableLambda(lambda query: documents)

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return FletchingRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"retriever": self.source, "model": "mvp-mini"}

    @property
    def retriever_query_example(self) -> str:
        return "What keeps an arrow straight?"
