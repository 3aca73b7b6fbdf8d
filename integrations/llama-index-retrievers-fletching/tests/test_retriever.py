"""The same hits as the index gives, as nodes."""

from __future__ import annotations

import asyncio
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode
from llama_index.retrievers.fletching import FletchingSearchRetriever

import fletching
from fletching.errors import ArgumentError
from fletching.search import Index

QUESTION = "why feathers"


@pytest.fixture
def retriever(index: Index, models: Path) -> FletchingSearchRetriever:
    return FletchingSearchRetriever(index, reranker=models / "reranker", similarity_top_k=2)


def test_class_is_a_retriever() -> None:
    assert BaseRetriever in FletchingSearchRetriever.__mro__


def test_nodes_are_the_hits_of_the_index(
    retriever: FletchingSearchRetriever, index: Index, models: Path, folder: Path
) -> None:
    nodes = retriever.retrieve(QUESTION)
    hits = index.search(QUESTION, 2, reranker=models / "reranker")

    assert [(node.text, node.score) for node in nodes] == [(hit.text, hit.score) for hit in hits]
    for node in nodes:
        text = (folder / node.metadata["file"]).read_text()
        assert text[node.node.start_char_idx : node.node.end_char_idx] == node.text
        assert type(node.score) is float


def test_order_of_retrieval_without_a_reranker(index: Index) -> None:
    nodes = FletchingSearchRetriever(index, reranker=None).retrieve(QUESTION)

    assert [node.metadata["retrieval_rank"] for node in nodes] == [1, 2, 3]


def test_language_model_reads_file_and_heading(retriever: FletchingSearchRetriever) -> None:
    node = next(node for node in retriever.retrieve("the string") if "heading" in node.metadata)

    content = node.node.get_content(MetadataMode.LLM)
    assert "file: bow.md" in content
    assert "heading: Bow" in content
    assert "retrieval_rank" not in content


def test_nodes_keep_their_ids(retriever: FletchingSearchRetriever) -> None:
    first, second = ([node.node_id for node in retriever.retrieve(QUESTION)] for _ in range(2))

    assert first == second
    assert len(set(first)) == 2


async def test_aretrieve_gives_the_same(retriever: FletchingSearchRetriever) -> None:
    expected = retriever.retrieve(QUESTION)
    found = await asyncio.gather(*(retriever.aretrieve(QUESTION) for _ in range(32)))

    assert all(nodes == expected for nodes in found)


def test_threads_get_the_same(retriever: FletchingSearchRetriever) -> None:
    expected = retriever.retrieve(QUESTION)
    with ThreadPoolExecutor(32) as pool:
        assert all(nodes == expected for nodes in pool.map(retriever.retrieve, [QUESTION] * 32))


def test_query_engine_answers_from_the_folder(retriever: FletchingSearchRetriever) -> None:
    engine = RetrieverQueryEngine.from_args(retriever, llm=MockLLM())

    assert {node.metadata["file"] for node in engine.query(QUESTION).source_nodes} <= {"bow.md", "goose.txt"}


def test_folder_is_indexed_at_the_first_call(
    folder: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLETCHING_CACHE", str(tmp_path))
    monkeypatch.setattr(
        Index.__init__,
        "__kwdefaults__",
        {**Index.__init__.__kwdefaults__, "embedder": str(models / "embedder")},
    )
    retriever = FletchingSearchRetriever(folder, reranker=None, similarity_top_k=2)

    assert list(tmp_path.rglob("state.json")) == []
    assert len(retriever.retrieve(QUESTION)) == 2


@pytest.mark.parametrize("name", ["similarity_top_k", "candidates"])
@pytest.mark.parametrize("value", [0, -1, True, 1.5, None])
def test_counts_must_be_positive(index: Index, name: str, value: Any) -> None:
    with pytest.raises(
        ArgumentError, match=f"FletchingSearchRetriever: `{name}` must be a positive integer; got"
    ):
        FletchingSearchRetriever(index, **{name: value})


@pytest.mark.parametrize("value", [None, 3, []])
def test_index_must_be_one(value: Any) -> None:
    with pytest.raises(ArgumentError, match=r"`index` must be a fletching\.search\.Index or a folder; got"):
        FletchingSearchRetriever(value)


@pytest.mark.parametrize("way", [copy.deepcopy, copy.copy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_and_pickles_retrieve_alike(retriever: FletchingSearchRetriever, way: Any) -> None:
    assert way(retriever).retrieve(QUESTION) == retriever.retrieve(QUESTION)


def test_deep_copy_shares_index_and_reranker(index: Index, models: Path) -> None:
    reranker: Any = fletching.load_shared(models / "reranker")
    copied = copy.deepcopy(FletchingSearchRetriever(index, reranker=reranker))

    assert copied.reranker is reranker
    assert copied._index is index


@pytest.mark.parametrize("value", [3, "", " ", [], object()])
def test_reranker_must_be_one(index: Index, value: Any) -> None:
    with pytest.raises(ArgumentError, match=r"`reranker` must be a checkpoint name, .* or None; got .*"):
        FletchingSearchRetriever(index, reranker=value)
