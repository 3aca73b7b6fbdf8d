"""Threads, coroutines, the event loop, cancelling, and what a call costs beside the model."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.fletching import FletchingRerank

import fletching

QUERY = "what keeps the arrow true"
QUERIES = [f"{QUERY} {word}" for word in ("wood", "wind", "bow", "goose")] * 8


def as_pairs(nodes):
    return [(node.node_id, node.score) for node in nodes]


@pytest.fixture
def expected(postprocessor, nodes):
    return [as_pairs(postprocessor.postprocess_nodes(nodes, query_str=query)) for query in QUERIES]


def test_threads_give_the_serial_results(postprocessor, nodes, expected):
    def rank(query):
        return as_pairs(postprocessor.postprocess_nodes(nodes, query_str=query))

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(rank, QUERIES)) == expected


async def test_coroutines_give_the_serial_results(postprocessor, nodes, expected):
    calls = [postprocessor.apostprocess_nodes(nodes, query_str=query) for query in QUERIES]
    assert [as_pairs(reranked) for reranked in await asyncio.gather(*calls)] == expected


def test_threads_that_start_together_open_one_model(folder, nodes, monkeypatch):
    barrier, opened = threading.Barrier(8), []
    load = fletching.load_shared
    monkeypatch.setattr(
        fletching, "load_shared", lambda *args, **kwargs: opened.append(load(*args, **kwargs)) or opened[-1]
    )
    postprocessor = FletchingRerank(folder, model_kwargs={"max_tokens_per_batch": 512})

    def rank(_):
        barrier.wait()
        return as_pairs(postprocessor.postprocess_nodes(nodes, query_str=QUERY))

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(rank, range(8)))
    assert all(result == results[0] for result in results)
    assert len({id(model) for model in opened}) == 1


@pytest.fixture
def slow_reranker(own_reranker, monkeypatch):
    """A model of many slow micro-batches; ``batches`` lists those that ran."""
    encode_rows, own_reranker.batches = own_reranker.encode_rows, []

    def encode_slowly(features, **kwargs):
        own_reranker.batches.append(threading.current_thread())
        time.sleep(0.1)
        return encode_rows(features, **kwargs)

    monkeypatch.setattr(own_reranker, "encode_rows", encode_slowly)
    return own_reranker


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


async def test_the_event_loop_goes_on(slow_reranker, nodes):
    postprocessor = FletchingRerank(slow_reranker, batch_size=1, top_n=None)
    started = time.perf_counter()
    pause = await longest_pause(postprocessor.apostprocess_nodes(nodes, query_str=QUERY))
    assert time.perf_counter() - started > 0.5
    assert pause < 0.35
    assert threading.main_thread() not in slow_reranker.batches


async def test_the_event_loop_goes_on_while_the_model_is_opened(folder, nodes, monkeypatch):
    load = fletching.load_shared

    def load_slowly(*args, **kwargs):
        time.sleep(0.4)
        return load(*args, **kwargs)

    monkeypatch.setattr(fletching, "load_shared", load_slowly)
    postprocessor = FletchingRerank(folder)
    assert await longest_pause(postprocessor.apostprocess_nodes(nodes, query_str=QUERY)) < 0.3


async def test_cancelling_stops_the_work(slow_reranker, nodes, events, callbacks):
    postprocessor = FletchingRerank(slow_reranker, batch_size=1)
    call = asyncio.create_task(postprocessor.apostprocess_nodes(nodes * 10, query_str=QUERY))
    # equal texts are computed once, so these are five batches
    while not slow_reranker.batches:
        await asyncio.sleep(0.005)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(0.8)
    assert len(slow_reranker.batches) < 5
    assert "ReRankEndEvent" not in events.log


@pytest.mark.parametrize("bound", [0.015, pytest.param(0.003, marks=pytest.mark.slow)])
def test_a_call_costs_little_beside_the_model(own_reranker, monkeypatch, bound):
    """100 nodes; the first bound is for a busy machine, the second for an idle one."""
    hits = [{"corpus_id": place, "score": -float(place)} for place in range(100)]
    monkeypatch.setattr(own_reranker, "rank", lambda *args, **kwargs: hits)
    postprocessor = FletchingRerank(own_reranker, top_n=None)
    texts = [TextNode(text=f"text {place}", metadata={"page": place}) for place in range(100)]
    nodes = [NodeWithScore(node=node) for node in texts]

    def measure():
        started = time.perf_counter()
        postprocessor.postprocess_nodes(nodes, query_str=QUERY)
        return time.perf_counter() - started

    assert min(measure() for _ in range(50)) < bound
