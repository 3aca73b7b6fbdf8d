"""A folder as a retriever: the same hits as the index gives, as documents."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
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


class Lookalike:
    """Has the methods of an index and of a reranker."""

    async def asearch(self) -> None:
        """Find nothing."""

    async def arank(self) -> None:
        """Rank nothing."""


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


@pytest.fixture
def own_cache(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an index that is opened by its folder use the tiny embedder, and a cache of this test."""
    defaults = {**Index.__init__.__kwdefaults__, "embedder": str(models / "embedder")}
    monkeypatch.setattr(Index.__init__, "__kwdefaults__", defaults)
    monkeypatch.setenv("FLETCHING_CACHE", str(tmp_path))


@pytest.fixture
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    other = tmp_path_factory.mktemp("other")
    (other / "yew.txt").write_text("A longbow is of yew.\n")
    return str(other)


def find_sources(retriever: Any) -> set[str]:
    return {document.metadata["source"] for document in retriever.invoke(QUESTION)}


@pytest.mark.usefixtures("own_cache")
def test_retriever_follows_its_index(folder: Path, other_folder: str) -> None:
    retriever = FletchingSearchRetriever(index=folder, reranker=None)
    assert find_sources(retriever) == {"bow.md", "goose.txt"}
    retriever.index = other_folder
    assert find_sources(retriever) == {"yew.txt"}


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("copied_by", ["model_copy", "copy"])
def test_copies_do_not_disturb_each_other(
    folder: Path, other_folder: str, copied_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    update = Index.update
    monkeypatch.setattr(Index, "update", lambda self: (opened.append(self.folder.name), update(self)))
    retriever = FletchingSearchRetriever(index=folder, reranker=None)
    retriever.invoke(QUESTION)
    if copied_by == "model_copy":
        copied = retriever.model_copy(update={"index": other_folder})
    else:
        copied = copy.copy(retriever)
        copied.index = other_folder
    for _ in range(2):
        assert find_sources(copied) == {"yew.txt"}
        assert find_sources(retriever) == {"bow.md", "goose.txt"}
    assert opened == [folder.name, Path(other_folder).name], "each is opened once"
    assert copy.copy(retriever)._open() is retriever._open()


@pytest.mark.usefixtures("own_cache")
def test_opened_index_does_not_count_in_comparisons(folder: Path) -> None:
    first, second = (FletchingSearchRetriever(index=folder, reranker=None) for _ in range(2))
    first.invoke(QUESTION)
    assert first == second
    assert first == pickle.loads(pickle.dumps(first)) == copy.deepcopy(first)


def test_copies_share_what_is_loaded(index: Index, models: Path) -> None:
    model = fletching.load_shared(models / "reranker")
    retriever = FletchingSearchRetriever(index=index, reranker=model)
    copied = copy.deepcopy(retriever)
    assert copied.reranker is model
    assert copied.index is index
    assert copied == retriever


def test_repr_leaves_out_what_is_loaded(index: Index, models: Path) -> None:
    model = fletching.load_shared(models / "reranker")
    retriever = FletchingSearchRetriever(index=index, reranker=model, k=2)
    shown = (
        "index=<class 'fletching.search.index.Index'>, reranker=<class 'fletching.models.reranker.Reranker'>"
    )
    assert repr(retriever) == f"FletchingSearchRetriever({shown}, k=2)"
    assert len(str(dumpd(retriever))) < 500


@pytest.mark.usefixtures("own_cache")
@pytest.mark.filterwarnings("ignore:The function `load` is in beta")
def test_folder_is_indexed_at_the_first_call(folder: Path, tmp_path: Path) -> None:
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
        ({"index": 3}, "`index` must be a fletching.search.Index or an existing folder; got 3."),
        ({"index": Path("no/such")}, "`index` must be a fletching.search.Index or an existing folder; got "),
        ({"index": Lookalike()}, "`index` must be a fletching.search.Index or an existing folder; got "),
        ({"reranker": Lookalike()}, "`reranker` must be a checkpoint name, a folder, a hub id, a loaded "),
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


async def test_unknown_argument_of_one_call_is_refused(retriever: FletchingSearchRetriever) -> None:
    message = "FletchingSearchRetriever.invoke: `kwargs` must be one of 'k', 'candidates'; got 'candidate'. "
    with pytest.raises(ArgumentError) as caught:
        retriever.invoke(QUESTION, candidate=1)
    assert str(caught.value) == f"{message}Did you mean 'candidates'?"
    with pytest.raises(ArgumentError, match="`kwargs` must be one of 'k', 'candidates'; got 'junk'"):
        await retriever.ainvoke(QUESTION, junk=1)


def test_none_for_one_call_is_the_retrievers_own(retriever: FletchingSearchRetriever) -> None:
    assert retriever.invoke(QUESTION, k=None, candidates=None) == retriever.invoke(QUESTION)
    assert len(retriever.invoke(QUESTION, k=1)) == 1


class Numbered(FletchingSearchRetriever):
    """Overrides the synchronous method only."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any, **kwargs: Any) -> Any:
        found = super()._get_relevant_documents(query, run_manager=run_manager, **kwargs)
        return [hit.model_copy(update={"id": threading.current_thread().name}) for hit in found]


async def test_override_of_the_synchronous_method_is_used_by_coroutines(index: Index) -> None:
    [first] = await Numbered(index=index, reranker=None).ainvoke(QUESTION, k=1)
    assert first.id not in (None, threading.current_thread().name)
