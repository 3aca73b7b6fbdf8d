from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

import fletching
from langchain_fletching import FletchingEmbeddings, FletchingReranker, FletchingRetriever

CALLERS = 32
QUERIES = [f"{'What keeps an arrow straight? ' * (number % 5 + 1)}{number}" for number in range(CALLERS)]


@pytest.fixture(params=["compressor", "embed_query", "embed_documents", "retriever"])
def calls(
    request: pytest.FixtureRequest,
    reranker_folder: str,
    embedder_folder: str,
    documents: list[Document],
    texts: list[str],
) -> tuple[Callable[[str], Any], Callable[[str], Awaitable[Any]]]:
    """One call of an adapter, sync and async."""
    embeddings = FletchingEmbeddings(model=embedder_folder)
    if request.param == "compressor":
        reranker = FletchingReranker(model=reranker_folder, top_n=None)
        return (
            lambda query: reranker.compress_documents(documents, query),
            lambda query: reranker.acompress_documents(documents, query),
        )
    if request.param == "embed_query":
        return embeddings.embed_query, embeddings.aembed_query
    if request.param == "embed_documents":
        return (
            lambda query: embeddings.embed_documents([query, *texts]),
            lambda query: embeddings.aembed_documents([query, *texts]),
        )
    store = InMemoryVectorStore.from_texts(texts, embeddings, ids=[str(place) for place in range(len(texts))])
    retriever = FletchingRetriever(retriever=store, model=reranker_folder)
    return retriever.invoke, retriever.ainvoke


def test_threads_get_the_serial_results(calls: Any) -> None:
    call, _ = calls
    with ThreadPoolExecutor(CALLERS) as pool:
        together = list(pool.map(call, QUERIES))
    assert together == [call(query) for query in QUERIES]


async def test_coroutines_get_the_serial_results(calls: Any) -> None:
    call, acall = calls
    together = await asyncio.gather(*map(acall, QUERIES))
    assert together == [call(query) for query in QUERIES]


def test_threads_open_one_model(reranker_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fletching.models import sharing

    opened = []
    load = sharing.load

    def slow_load(*args: Any, **kwargs: Any) -> Any:
        opened.append(args)
        time.sleep(0.1)
        return load(*args, **kwargs)

    monkeypatch.setattr(sharing, "load", slow_load)
    options = {"max_tokens_per_batch": 1234}  # nobody else has opened it so
    adapters = [FletchingReranker(model=reranker_folder, model_kwargs=options) for _ in range(CALLERS)]
    with ThreadPoolExecutor(CALLERS) as pool:
        models = list(pool.map(lambda adapter: adapter._open(), adapters))
    assert len(opened) == 1
    assert len({id(model) for model in models}) == 1


# --- event loops ---


@pytest.fixture
def slow_reranker(reranker_folder: str) -> Any:
    """A reranker that needs 50 ms for each document, and counts them."""

    class Slow(fletching.Reranker):
        computed = 0

        def encode_rows(self, features: dict[str, Any], **kwargs: Any) -> Any:
            type(self).computed += len(features["input_ids"])
            time.sleep(0.05)
            return super().encode_rows(features, **kwargs)

    return Slow(reranker_folder, device="cpu")


async def count_ticks(work: Awaitable[Any]) -> int:
    """Count how often the loop comes round while the work runs."""
    task, ticks = asyncio.ensure_future(work), 0
    while not task.done():
        await asyncio.sleep(0.005)
        ticks += 1
    await task
    return ticks


async def test_loop_stays_responsive_while_ranking(
    slow_reranker: Any, documents: list[Document], query: str
) -> None:
    reranker = FletchingReranker(model=slow_reranker, batch_size=1)
    assert await count_ticks(reranker.acompress_documents(documents, query)) > 10


async def test_loop_stays_responsive_while_opening(
    reranker_folder: str, documents: list[Document], query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_shared(name: str, **kwargs: Any) -> Any:
        time.sleep(0.3)
        return fletching.load(name, **kwargs)

    monkeypatch.setattr(fletching, "load_shared", load_shared, raising=False)
    reranker = FletchingReranker(model=reranker_folder)
    assert await count_ticks(reranker.acompress_documents(documents, query)) > 10


async def test_loop_stays_responsive_while_embedding(
    embedder_folder: str, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_shared(name: str, **kwargs: Any) -> Any:
        time.sleep(0.3)
        return fletching.load(name, **kwargs)

    monkeypatch.setattr(fletching, "load_shared", load_shared, raising=False)
    assert await count_ticks(FletchingEmbeddings(model=embedder_folder).aembed_query(query)) > 10


@pytest.mark.parametrize("kind", ["compressor", "retriever"])
async def test_cancelling_stops_the_work(
    slow_reranker: Any, documents: list[Document], query: str, kind: str
) -> None:
    from langchain_core.runnables import RunnableLambda

    candidates = [Document(f"{document.page_content} {n}") for n in range(10) for document in documents]
    if kind == "compressor":
        work: Any = FletchingReranker(model=slow_reranker, batch_size=1).acompress_documents(
            candidates, query
        )
    else:
        source = RunnableLambda(lambda query: candidates)
        work = FletchingRetriever(retriever=source, model=slow_reranker, batch_size=1).ainvoke(query)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(work, timeout=0.4)
    await asyncio.sleep(0.2)  # the micro-batch that was running
    computed = type(slow_reranker).computed
    await asyncio.sleep(0.3)
    assert type(slow_reranker).computed == computed < len(candidates)
