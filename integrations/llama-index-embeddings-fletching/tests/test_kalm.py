"""A KaLM-Embedding: saved, it reads both ways wherever it is opened."""

from __future__ import annotations

import pytest
from llama_index.embeddings.fletching import FletchingEmbedding

from fletching.methods.kalm import KaLMEmbedder
from fletching.testing import save_tiny_qwen2

TEXTS = ["the archer draws the bow", "feathers keep the arrow true", ""]
QUERY = "what keeps the arrow true"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return KaLMEmbedder(save_tiny_qwen2(tmp_path_factory.mktemp("qwen2")), causal=False, device="cpu")


def test_a_save_embeds_with_its_prompts(model, tmp_path):
    model.save(str(tmp_path))
    embed_model = FletchingEmbedding(str(tmp_path), model_kwargs={"device": "cpu"})
    assert embed_model.get_query_embedding(QUERY) == model.encode_query([QUERY])[0].tolist()
    assert embed_model.get_text_embedding_batch(TEXTS) == model.encode(TEXTS).tolist()


def test_a_loaded_model_embeds(model):
    embed_model = FletchingEmbedding(model)
    assert embed_model.get_query_embedding(QUERY) == model.encode_query([QUERY])[0].tolist()
