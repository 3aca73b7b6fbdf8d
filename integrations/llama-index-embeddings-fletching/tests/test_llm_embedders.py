"""A language model that embeds: its instructions, and a save or a loaded model alike."""

from __future__ import annotations

import pytest
from llama_index.embeddings.fletching import FletchingEmbedding

from fletching.testing import save_tiny_llama

TEXTS = ["the archer draws the bow", "feathers keep the arrow true", ""]
QUERY = "what keeps the arrow true"
INSTRUCTIONS = {"query": "what is", "document": "the passage"}


@pytest.fixture(scope="module")
def llm_embedder(tmp_path_factory):
    from fletching.methods.ullme import LLMEmbedder

    return LLMEmbedder(save_tiny_llama(tmp_path_factory.mktemp("llama")), prompts=INSTRUCTIONS, device="cpu")


def test_a_saved_llm_embedder_embeds(llm_embedder, tmp_path):
    llm_embedder.save(str(tmp_path))
    embed_model = FletchingEmbedding(str(tmp_path), model_kwargs={"device": "cpu"})
    assert embed_model.get_query_embedding(QUERY) == llm_embedder.encode_query([QUERY])[0].tolist()
    assert embed_model.get_text_embedding_batch(TEXTS) == llm_embedder.encode_document(TEXTS).tolist()


def test_a_loaded_llm_embedder_embeds(llm_embedder):
    embed_model = FletchingEmbedding(llm_embedder)
    expected = llm_embedder.encode([QUERY], prompt=INSTRUCTIONS["query"])[0].tolist()
    assert embed_model.get_query_embedding(QUERY) == expected
