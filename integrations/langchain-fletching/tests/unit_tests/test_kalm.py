"""A KaLM-Embedding: saved, it reads both ways wherever it is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fletching.methods.kalm import KaLMEmbedder
from fletching.testing import save_tiny_qwen2
from langchain_fletching import FletchingEmbeddings


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return KaLMEmbedder(save_tiny_qwen2(tmp_path_factory.mktemp("qwen2")), causal=False, device="cpu")


def test_a_save_embeds_with_its_prompts(model: Any, tmp_path: Path, query: str, texts: list[str]) -> None:
    model.save(str(tmp_path))
    embeddings = FletchingEmbeddings(model=str(tmp_path), model_kwargs={"device": "cpu"})
    assert embeddings.embed_query(query) == model.encode_query(query).tolist()
    assert embeddings.embed_documents(texts) == model.encode(texts).tolist()
    assert embeddings.embed_query(query) != model.encode(query).tolist()


def test_a_loaded_model_embeds(model: Any, query: str) -> None:
    assert FletchingEmbeddings(model=model).embed_query(query) == model.encode_query(query).tolist()


def test_an_empty_document_is_no_error(model: Any, texts: list[str]) -> None:
    vectors = FletchingEmbeddings(model=model).embed_documents(["", *texts])
    assert vectors[0] == [0.0] * len(vectors[0])
    assert vectors[1:] == model.encode(texts).tolist()
