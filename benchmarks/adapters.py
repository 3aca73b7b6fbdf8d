"""What the LangChain and LlamaIndex adapters add to a call: models that answer at once, 100 documents.

The peers are the stock wrappers of the two ecosystems where they can be installed beside us, with the same
instant models.

    python benchmarks/adapters.py --json adapters.json
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.fletching import FletchingRerank
from measuring import Report, build_parser, run_script

import fletching
from langchain_fletching import FletchingEmbeddings, FletchingReranker, FletchingRetriever

N_DOCUMENTS = 100
DIMENSION = 384
BOUND_MS = 3.0


class InstantReranker(fletching.Reranker):
    """Ranks documents in the order they come."""

    def __init__(self) -> None:
        """Build no network."""

    def rank(self, query: str, documents: Any, top_k: int | None = None, **kwargs: Any) -> Any:
        """Answer at once."""
        return [{"corpus_id": place, "score": -float(place)} for place in range(len(documents))][:top_k]

    async def arank(self, query: str, documents: Any, top_k: int | None = None, **kwargs: Any) -> Any:
        """Answer at once."""
        return self.rank(query, documents, top_k)


class InstantCrossEncoder(BaseCrossEncoder):
    """The same for LangChain's own wrapper."""

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Answer at once."""
        return [-float(place) for place in range(len(text_pairs))]


class InstantEmbedder(fletching.Embedder):
    """Embeds everything as zeros."""

    def __init__(self) -> None:
        """Build no network."""
        object.__setattr__(self, "vectors", np.zeros((N_DOCUMENTS, DIMENSION), dtype=np.float32))

    def encode_document(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Answer at once."""
        return self.vectors[: len(inputs)]

    def encode_query(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Answer at once."""
        return self.vectors[0]

    def children(self) -> Any:
        """Have no modules."""
        return iter(())

    def get_model_kwargs(self) -> list[str]:
        """Know no options."""
        return []


def time_call(call: Callable[[], Any], calls: int) -> float:
    """Return the median milliseconds of a call."""
    call()
    seconds = []
    for _ in range(calls):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return 1000 * statistics.median(seconds)


def build_calls(loop: asyncio.AbstractEventLoop) -> dict[str, Callable[[], Any]]:
    """Name the calls to time."""
    text = "text " * 50
    documents = [Document(text, metadata={"place": place}) for place in range(N_DOCUMENTS)]
    nodes = [
        NodeWithScore(node=TextNode(text=text, metadata={"place": place})) for place in range(N_DOCUMENTS)
    ]
    model = InstantReranker()
    compressor = FletchingReranker(model=model, top_n=None)
    stock = CrossEncoderReranker(model=InstantCrossEncoder(), top_n=N_DOCUMENTS)
    retriever = FletchingRetriever(retriever=RunnableLambda(lambda query: documents), model=model, k=None)
    rerank = FletchingRerank(model, top_n=None)
    embeddings = FletchingEmbeddings(model=InstantEmbedder())
    return {
        "LangChain, CrossEncoderReranker (stock)": lambda: stock.compress_documents(documents, "query"),
        "LangChain, FletchingReranker": lambda: compressor.compress_documents(documents, "query"),
        "LangChain, FletchingReranker, async": lambda: loop.run_until_complete(
            compressor.acompress_documents(documents, "query")
        ),
        "LangChain, FletchingRetriever": lambda: retriever.invoke("query"),
        "LangChain, FletchingEmbeddings, documents": lambda: embeddings.embed_documents([text] * N_DOCUMENTS),
        "LlamaIndex, FletchingRerank": lambda: rerank.postprocess_nodes(nodes, query_str="query"),
        "LlamaIndex, FletchingRerank, async": lambda: loop.run_until_complete(
            rerank.apostprocess_nodes(nodes, query_str="query")
        ),
    }


def measure(options: argparse.Namespace, report: Report) -> None:
    """Time every call."""
    loop = asyncio.new_event_loop()
    for name, call in build_calls(loop).items():
        taken = time_call(call, 20 if options.quick else 500)
        report.rows.append({"100 documents, instant model": name, "ms": taken, "bound": BOUND_MS})
    loop.close()


def main() -> None:
    """Measure and print the table."""
    parser = build_parser(__doc__, bfloat16=False)
    print(run_script(parser, measure, title="Overhead of the adapters per call"))


if __name__ == "__main__":
    main()
