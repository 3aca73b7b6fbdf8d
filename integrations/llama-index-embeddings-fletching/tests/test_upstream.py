"""The defects of the stock classes that this one does not have, shown on the stock classes.

Each has its counterpart, on `FletchingEmbedding`, in the files beside this one. A failure here means that a
later release has repaired the defect: remove the test, and the line in the guide.
"""

from __future__ import annotations

import importlib
import threading

import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding

pytestmark = pytest.mark.upstream


class Asymmetric(BaseEmbedding):
    """Knows a query from a document, and the thread it ran in."""

    threads: list = []

    def _get_query_embedding(self, query):
        return [1.0, 0.0]

    async def _aget_query_embedding(self, query):
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text):
        self.threads.append(threading.current_thread())
        return [0.0, 1.0]


def test_the_cache_gives_the_vector_of_a_document_for_a_query(store):
    stock = Asymmetric(embeddings_cache=store)
    stock.get_text_embedding("bow")
    assert stock.get_query_embedding("bow") == [0.0, 1.0]


def test_the_cache_knows_no_model(store):
    store.put("bow", {"from another model": [0.5] * 3}, collection="embeddings")
    assert len(Asymmetric(embeddings_cache=store).get_query_embedding("bow")) == 3


async def test_asynchronous_methods_compute_on_the_event_loop():
    stock = Asymmetric()
    await stock.aget_text_embedding_batch(["bow", "arrow"])
    assert set(stock.threads) == {threading.main_thread()}


def test_the_prompts_of_the_checkpoint_are_silenced(folder, embedder):
    name = "llama_index.embeddings.huggingface"
    pytest.importorskip(name)
    stock = importlib.import_module(name).HuggingFaceEmbedding(model_name=folder, device="cpu")
    without_prompt = embedder.encode(["bow"], prompt="")[0].tolist()
    assert stock.get_query_embedding("bow") == pytest.approx(without_prompt, abs=1e-5)
    assert stock.get_text_embedding("bow") == pytest.approx(without_prompt, abs=1e-5)
