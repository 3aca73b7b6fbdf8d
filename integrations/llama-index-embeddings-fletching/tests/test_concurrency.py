"""Threads, coroutines, the event loop, cancelling, and what a call costs beside the model."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.embeddings.fletching import FletchingEmbedding

import fletching

QUERIES = [f"what keeps the {word} true" for word in ("arrow", "wind", "bow", "goose")] * 8


@pytest.fixture(params=["without a cache", "with a cache"])
def shared(request, folder):
    store = SimpleKVStore() if request.param == "with a cache" else None
    return FletchingEmbedding(folder, embeddings_cache=store)


@pytest.fixture
def expected(embed_model):
    return [embed_model.get_query_embedding(query) for query in QUERIES]


def test_threads_give_the_serial_results(shared, expected):
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(shared.get_query_embedding, QUERIES)) == expected


async def test_coroutines_give_the_serial_results(shared, expected):
    calls = [shared.aget_query_embedding(query) for query in QUERIES]
    assert await asyncio.gather(*calls) == expected


@pytest.fixture
def slow_embedder(own_embedder, monkeypatch):
    """A model that takes its time; ``threads`` lists where it ran."""
    encode, own_embedder.threads = own_embedder.encode, []

    def encode_slowly(*args, **kwargs):
        own_embedder.threads.append(threading.current_thread())
        time.sleep(0.4)
        return encode(*args, **kwargs)

    monkeypatch.setattr(own_embedder, "encode", encode_slowly)
    return own_embedder


async def longest_pause(call):
    """Run ``call`` and return the longest time in which the event loop did nothing else."""
    pauses, done = [], asyncio.Event()

    async def tick():
        last = time.perf_counter()
        while not done.is_set():
            await asyncio.sleep(0.002)
            now = time.perf_counter()
            pauses.append(now - last)
            last = now

    ticker = asyncio.create_task(tick())
    await call
    done.set()
    await ticker
    return max(pauses)


METHODS = {
    "aget_query_embedding": "bow",
    "aget_text_embedding": "bow",
    "aget_text_embedding_batch": ["bow", "arrow"],
}


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("method", METHODS)
async def test_the_event_loop_goes_on(slow_embedder, method, cached):
    store = SimpleKVStore() if cached else None
    embed_model = FletchingEmbedding(slow_embedder, embeddings_cache=store)
    assert await longest_pause(getattr(embed_model, method)(METHODS[method])) < 0.3
    assert threading.main_thread() not in slow_embedder.threads


@pytest.mark.parametrize("cached", [False, True])
async def test_the_event_loop_goes_on_while_the_model_is_opened(folder, monkeypatch, cached):
    load = fletching.load_shared

    def load_slowly(*args, **kwargs):
        time.sleep(0.4)
        return load(*args, **kwargs)

    monkeypatch.setattr(fletching, "load_shared", load_slowly)
    embed_model = FletchingEmbedding(folder, embeddings_cache=SimpleKVStore() if cached else None)
    assert await longest_pause(embed_model.aget_query_embedding("bow")) < 0.3


async def test_cancelling_returns_at_once(slow_embedder, events):
    call = asyncio.create_task(FletchingEmbedding(slow_embedder).aget_query_embedding("bow"))
    while not slow_embedder.threads:
        await asyncio.sleep(0.005)
    started = time.perf_counter()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert time.perf_counter() - started < 0.3
    assert [event.class_name() for event in events.seen] == ["EmbeddingStartEvent"]


BOUNDS = [0.03, pytest.param(0.003, marks=pytest.mark.slow)]  # on a busy machine, on an idle one


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("cached", [False, True])
def test_a_call_costs_little_beside_the_model(own_embedder, monkeypatch, cached, bound):
    """100 texts of 384 dimensions, computed at once or all found in the store."""
    vectors = np.random.default_rng(0).normal(size=(100, 384)).astype(np.float32)
    monkeypatch.setattr(own_embedder, "encode_document", lambda *args, **kwargs: vectors)
    monkeypatch.setattr(own_embedder, "get_embedding_dimension", lambda: 384)
    store = SimpleKVStore() if cached else None
    embed_model = FletchingEmbedding(own_embedder, embed_batch_size=100, embeddings_cache=store)
    texts = [f"text {place}" for place in range(100)]

    def measure():
        started = time.perf_counter()
        embed_model.get_text_embedding_batch(texts)
        return time.perf_counter() - started

    assert min(measure() for _ in range(50)) < bound
