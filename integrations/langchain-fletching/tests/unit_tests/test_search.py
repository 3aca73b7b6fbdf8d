"""A folder as a retriever: the same hits as the index gives, as documents."""

from __future__ import annotations

import asyncio
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_core.load import dumpd, load
from langchain_tests.integration_tests import RetrieversIntegrationTests

import fletching
from fletching.errors import ArgumentError
from fletching.search import Index
from fletching.testing import save_tiny_cross_encoder, save_tiny_embedder
from langchain_fletching import FletchingSearchRetriever

QUESTION = "why feathers"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_embedder(folder / "embedder")
    save_tiny_cross_encoder(folder / "reranker")
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    docs = tmp_path_factory.mktemp("docs")
    (docs / "bow.md").write_text("# Bow\n\nThe bow is of wood.\n\n## String\n\nThe string is on the bow.\n")
    (docs / "goose.txt").write_text("Feathers are from a goose.\n")
    return docs


@pytest.fixture(scope="session")
def index(models: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    embedder = fletching.load_shared(models / "embedder")
    opened = Index(folder, embedder=embedder, cache=tmp_path_factory.mktemp("cache"))
    opened.update()
    return opened


@pytest.fixture
def retriever(index: Index, models: Path) -> FletchingSearchRetriever:
    return FletchingSearchRetriever(index=index, reranker=models / "reranker", k=2)


class TestStandard(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _models(self, index: Index, models: Path) -> None:
        self.arguments = {"index": index, "reranker": models / "reranker"}

    @property
    def retriever_constructor(self) -> type[FletchingSearchRetriever]:
        return FletchingSearchRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return self.arguments

    @property
    def retriever_query_example(self) -> str:
        return QUESTION


def test_documents_are_the_hits_of_the_index(
    retriever: FletchingSearchRetriever, index: Index, models: Path, folder: Path
) -> None:
    documents = retriever.invoke(QUESTION)
    hits = index.search(QUESTION, 2, reranker=str(models / "reranker"))

    assert [document.page_content for document in documents] == [hit.text for hit in hits]
    for document, hit in zip(documents, hits, strict=True):
        found = document.metadata
        text = (folder / found["source"]).read_text()[found["start_index"] : found["end_index"]]
        assert text == document.page_content
        assert found["relevance_score"] == hit.score
        assert type(found["relevance_score"]) is float


def test_order_of_retrieval_without_a_reranker(index: Index) -> None:
    documents = FletchingSearchRetriever(index=index, reranker=None).invoke(QUESTION)

    assert [document.metadata["retrieval_rank"] for document in documents] == [1, 2, 3]


async def test_coroutines_get_the_same(retriever: FletchingSearchRetriever) -> None:
    expected = retriever.invoke(QUESTION)
    found = await asyncio.gather(*(retriever.ainvoke(QUESTION) for _ in range(32)))

    assert all(documents == expected for documents in found)


def test_threads_get_the_same(retriever: FletchingSearchRetriever) -> None:
    expected = retriever.invoke(QUESTION)
    with ThreadPoolExecutor(32) as pool:
        assert all(documents == expected for documents in pool.map(retriever.invoke, [QUESTION] * 32))


@pytest.mark.filterwarnings("ignore:The function `load` is in beta")
def test_folder_is_indexed_at_the_first_call(
    folder: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = {**Index.__init__.__kwdefaults__, "embedder": str(models / "embedder")}
    monkeypatch.setattr(Index.__init__, "__kwdefaults__", defaults)
    monkeypatch.setenv("FLETCHING_CACHE", str(tmp_path))
    retriever = FletchingSearchRetriever(index=folder, reranker=None, k=2)

    assert list(tmp_path.rglob("state.json")) == []
    assert len(retriever.invoke(QUESTION)) == 2
    restored = load(
        dumpd(retriever),
        allowed_objects=[FletchingSearchRetriever],
        valid_namespaces=["langchain_fletching"],
    )
    assert restored.invoke(QUESTION) == retriever.invoke(QUESTION)


def test_retriever_survives_pickling(retriever: FletchingSearchRetriever) -> None:
    assert pickle.loads(pickle.dumps(retriever)).invoke(QUESTION) == retriever.invoke(QUESTION)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "`k` must be a positive integer; got 0"),
        ({"k": None}, "`k` must be a positive integer; got None"),
        ({"candidates": True}, "`candidates` must be a positive integer; got True"),
        ({"index": "no/such/folder"}, "`index` must be a fletching.search.Index or an existing folder; got"),
        (
            {"reranker": 3},
            "`reranker` must be a checkpoint name, a folder, a hub id, a loaded fletching.Rerank",
        ),
        ({"kk": 3}, "`kwargs` must be one of the arguments of FletchingSearchRetriever; got 'kk'"),
    ],
)
def test_bad_arguments_are_refused(index: Index, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        FletchingSearchRetriever(**{"index": index, **arguments})

    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["k", "candidates"])
def test_bad_count_of_one_call_is_refused(retriever: FletchingSearchRetriever, name: str) -> None:
    with pytest.raises(ArgumentError, match=f"FletchingSearchRetriever.invoke: `{name}` must be a positive"):
        retriever.invoke(QUESTION, **{name: -1})
