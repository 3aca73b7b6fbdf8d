"""A DefSent+ model: a save of stock modules, and one pooled at the mask of a template."""

from __future__ import annotations

import pytest
from llama_index.embeddings.fletching import FletchingEmbedding

from fletching.methods.defsent_plus import DefSentPlusEmbedder
from fletching.testing import save_tiny_bert

TEXTS = ["the archer draws the bow", "feathers keep the arrow true", ""]
QUERY = "what keeps the arrow true"


@pytest.fixture(scope="module", params=["mean", "prompt"])
def model(request, tmp_path_factory):
    folder = save_tiny_bert(tmp_path_factory.mktemp("bert"))
    return DefSentPlusEmbedder(folder, pooling=request.param, device="cpu")


def test_a_save_embeds_as_the_model(model, tmp_path):
    model.save(str(tmp_path))
    embed_model = FletchingEmbedding(str(tmp_path), model_kwargs={"device": "cpu"})
    assert embed_model.get_query_embedding(QUERY) == model.encode_query([QUERY])[0].tolist()
    assert embed_model.get_text_embedding_batch(TEXTS) == model.encode(TEXTS).tolist()


def test_a_loaded_model_embeds(model):
    embed_model = FletchingEmbedding(model)
    assert embed_model.get_query_embedding(QUERY) == model.encode_query([QUERY])[0].tolist()
