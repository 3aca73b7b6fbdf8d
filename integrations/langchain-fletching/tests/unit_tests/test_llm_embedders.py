"""A language model that embeds: its instructions, and a save or a loaded model alike."""

from __future__ import annotations

from typing import Any

import pytest

import fletching
from fletching.testing import save_tiny_llama
from langchain_fletching import FletchingEmbeddings, FletchingReranker

INSTRUCTIONS = {"query": "what keeps an arrow true", "document": "the passage"}


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from fletching.methods.ullme import LLMEmbedder

    return LLMEmbedder(save_tiny_llama(tmp_path_factory.mktemp("llama")), prompts=INSTRUCTIONS, device="cpu")


def test_a_saved_llm_embedder_embeds(embedder: Any, tmp_path: Any, query: str, texts: list[str]) -> None:
    embedder.save(str(tmp_path))
    embeddings = FletchingEmbeddings(model=str(tmp_path), model_kwargs={"device": "cpu"})
    assert embeddings.embed_query(query) == embedder.encode_query(query).tolist()
    assert embeddings.embed_documents(texts) == embedder.encode_document(texts).tolist()
    assert embeddings.embed_query(query) == embedder.encode(query, prompt=INSTRUCTIONS["query"]).tolist()


def test_a_loaded_llm_embedder_embeds(embedder: Any, query: str) -> None:
    assert FletchingEmbeddings(model=embedder).embed_query(query) == embedder.encode_query(query).tolist()


def test_the_same_language_model_reranks(embedder: Any, tmp_path: Any, query: str, documents: Any) -> None:
    from fletching.methods.ullme import GenerativeReranker

    GenerativeReranker(embedder).save(str(tmp_path))
    expected = fletching.load(tmp_path, device="cpu").rank(query, [each.page_content for each in documents])
    compressor = FletchingReranker(model=str(tmp_path), model_kwargs={"device": "cpu"}, top_n=2)
    best = compressor.compress_documents(documents, query)
    assert [each.id for each in best] == [str(hit["corpus_id"]) for hit in expected[:2]]
