"""The retrievers of langchain-classic take our reranker where they take a compressor."""

from __future__ import annotations

import pytest
from langchain_core.documents import BaseDocumentTransformer, Document
from langchain_core.runnables import RunnableLambda

from langchain_fletching import FletchingReranker, FletchingRetriever

pytest.importorskip("langchain_classic")

from langchain_classic.retrievers import ContextualCompressionRetriever, EnsembleRetriever
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline


class Shouting(BaseDocumentTransformer):
    def transform_documents(self, documents, **kwargs):
        return [document.model_copy(update={"page_content": "ARROW"}) for document in documents]


@pytest.fixture
def reranker(reranker_folder: str) -> FletchingReranker:
    return FletchingReranker(model=reranker_folder)


@pytest.fixture
def source(documents: list[Document]) -> RunnableLambda:
    return RunnableLambda(lambda query: documents)


async def test_compression_retriever_reranks(
    reranker: FletchingReranker, source: RunnableLambda, documents: list[Document], query: str
) -> None:
    retriever = ContextualCompressionRetriever(base_compressor=reranker, base_retriever=source)
    expected = reranker.compress_documents(documents, query)
    assert retriever.invoke(query) == expected
    assert await retriever.ainvoke(query) == expected
    assert retriever.batch([query, query]) == [expected, expected]
    assert await retriever.abatch([query, query]) == [expected, expected]


async def test_compression_retriever_of_nothing_returns_nothing(
    reranker: FletchingReranker, query: str
) -> None:
    retriever = ContextualCompressionRetriever(
        base_compressor=reranker, base_retriever=RunnableLambda(lambda query: [])
    )
    assert retriever.invoke(query) == []
    assert await retriever.ainvoke(query) == []


async def test_pipeline_takes_the_reranker_as_a_step(
    reranker: FletchingReranker, documents: list[Document], query: str
) -> None:
    pipeline = DocumentCompressorPipeline(transformers=[reranker, Shouting()])
    hits = pipeline.compress_documents(documents, query)
    assert [hit.id for hit in hits] == [hit.id for hit in reranker.compress_documents(documents, query)]
    assert {hit.page_content for hit in hits} == {"ARROW"}
    assert await pipeline.acompress_documents(documents, query) == hits


def test_ensemble_takes_the_retriever(reranker_folder: str, source: RunnableLambda, query: str) -> None:
    retriever = FletchingRetriever(retriever=source, model=reranker_folder, k=2)
    ensemble = EnsembleRetriever(retrievers=[retriever, source], weights=[0.9, 0.1])
    assert ensemble.invoke(query)[0].page_content == retriever.invoke(query)[0].page_content
