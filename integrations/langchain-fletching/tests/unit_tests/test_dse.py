"""A DSE model: a reranker with vectors on disk, and an embedder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document

from fletching.methods.dse import DSEConfig, DSEReranker
from fletching.testing import save_tiny_bert
from langchain_fletching import FletchingEmbeddings, FletchingReranker


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = DSEConfig(num_layers=2, fc_dims=(16, 1))
    return DSEReranker.from_encoder(save_tiny_bert(tmp_path_factory.mktemp("bert")), config, device="cpu")


def test_a_save_reranks_and_keeps_its_vectors(
    model: Any, tmp_path: Path, documents: list[Document], texts: list[str], query: str
) -> None:
    model.save(str(tmp_path / "model"))
    options = {"device": "cpu", "vector_cache": str(tmp_path / "vectors")}
    reranker = FletchingReranker(model=str(tmp_path / "model"), model_kwargs=options, top_n=3)
    expected = [hit["corpus_id"] for hit in model.rank(query, texts, top_k=3)]
    for _ in range(2):
        hits = reranker.compress_documents(documents, query)
        assert [hit.metadata["place"] for hit in hits] == expected
    assert [*(tmp_path / "vectors").rglob("*.vectors")]


def test_a_loaded_model_reranks(model: Any, documents: list[Document], texts: list[str], query: str) -> None:
    hits = FletchingReranker(model=model, top_n=None).compress_documents(documents, query)
    scores = [hit["score"] for hit in model.rank(query, texts)]
    assert [hit.metadata["relevance_score"] for hit in hits] == scores


def test_its_encoder_embeds(model: Any, query: str, texts: list[str]) -> None:
    embeddings = FletchingEmbeddings(model=model.to_embedder())
    assert embeddings.embed_query(query) == pytest.approx(model.encode(query).tolist())
    assert len(embeddings.embed_documents(texts)[0]) == model.get_embedding_dimension()
