"""What a call costs beside the model: one that answers at once is given 100 documents."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

import fletching
from langchain_fletching import FletchingReranker, FletchingRetriever

CALLS = 50
BOUND_MS = 20  # measured: below 1; machines that test are busy
QUIET_BOUND_MS = 3  # on a machine that does nothing else

bounds = pytest.mark.parametrize(
    "bound", [BOUND_MS, pytest.param(QUIET_BOUND_MS, marks=pytest.mark.slow)], ids=["busy", "quiet"]
)


class Instant(fletching.Reranker):
    """Answers at once."""

    def __init__(self) -> None:
        """Build no network."""

    def rank(self, query: str, documents: Any, top_k: int | None = None, **kwargs: Any) -> Any:
        return [{"corpus_id": place, "score": -float(place)} for place in range(len(documents))][:top_k]

    async def arank(self, query: str, documents: Any, top_k: int | None = None, **kwargs: Any) -> Any:
        return self.rank(query, documents, top_k)


@pytest.fixture
def documents() -> list[Document]:
    return [Document("text " * 50, metadata={"place": place, "source": "a"}) for place in range(100)]


def best_of(call: Callable[[], Any]) -> float:
    """Return the milliseconds of the fastest call."""
    best = float("inf")
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return 1000 * best


@bounds
def test_compressor_adds_little(documents: list[Document], query: str, bound: int) -> None:
    reranker = FletchingReranker(model=Instant(), top_n=None)
    taken = best_of(lambda: reranker.compress_documents(documents, query))
    assert taken < bound


@bounds
def test_async_compressor_adds_little(documents: list[Document], query: str, bound: int) -> None:
    reranker = FletchingReranker(model=Instant(), top_n=None)
    loop = asyncio.new_event_loop()
    taken = best_of(lambda: loop.run_until_complete(reranker.acompress_documents(documents, query)))
    loop.close()
    assert taken < bound


@bounds
def test_retriever_adds_little(documents: list[Document], query: str, bound: int) -> None:
    source = RunnableLambda(lambda query: documents)
    retriever = FletchingRetriever(retriever=source, model=Instant(), k=None)
    taken = best_of(lambda: retriever.invoke(query)) - best_of(lambda: source.invoke(query))
    assert taken < bound


def test_named_model_adds_little(reranker_folder: str, documents: list[Document], query: str) -> None:
    """Finding the open model again costs nothing worth counting."""
    reranker = FletchingReranker(model=reranker_folder)
    reranker._open()
    assert best_of(reranker._open) < 1
