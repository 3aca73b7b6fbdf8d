from __future__ import annotations

import threading
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import BaseCallbackHandler, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

import fletching
from fletching.errors import ArgumentError
from langchain_fletching import FletchingEmbeddings, FletchingReranker, FletchingRetriever


class Everything(BaseRetriever):
    """Returns all it has, and keeps what it was asked."""

    documents: list[Any]
    asked: list[dict[str, Any]] = []

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        self.asked.append(kwargs)
        return self.documents


class Broken(BaseRetriever):
    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        raise ConnectionError("the store is down")


class Recorder(BaseCallbackHandler):
    """Keeps the name and the parent of every run."""

    def __init__(self) -> None:
        self.started: dict[UUID, tuple[str, UUID | None]] = {}
        self.ended: list[str] = []
        self.failed: list[str] = []

    def on_retriever_start(self, *args: Any, run_id: UUID, parent_run_id: UUID | None, **kwargs: Any) -> None:
        self.started[run_id] = (kwargs["name"], parent_run_id)

    on_chain_start = on_retriever_start

    def on_retriever_end(self, *args: Any, run_id: UUID, **kwargs: Any) -> None:
        self.ended.append(self.started[run_id][0])

    on_chain_end = on_retriever_end

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self.failed.append(self.started[run_id][0])

    def tree(self) -> list[tuple[str, str | None]]:
        return [
            (name, self.started[parent][0] if parent is not None else None)
            for name, parent in self.started.values()
        ]


@pytest.fixture
def source(documents: list[Document]) -> Everything:
    return Everything(documents=documents, asked=[])


@pytest.fixture
def store(embedder_folder: str, texts: list[str]) -> InMemoryVectorStore:
    texts = [f"{text} {number}" for number in range(8) for text in texts]  # 48
    return InMemoryVectorStore.from_texts(texts, FletchingEmbeddings(model=embedder_folder))


def test_result_is_that_of_the_reranker(
    source: Everything, reranker_folder: str, documents: list[Document], query: str
) -> None:
    retriever = FletchingRetriever(retriever=source, model=reranker_folder)
    expected = FletchingReranker(model=reranker_folder, top_n=4).compress_documents(documents, query)
    assert retriever.invoke(query) == expected


async def test_async_and_batch_results_are_the_same(
    source: Everything, reranker_folder: str, query: str
) -> None:
    retriever = FletchingRetriever(retriever=source, model=reranker_folder)
    queries = [query, "Who used the longbow?"]
    expected = [retriever.invoke(query) for query in queries]
    assert [await retriever.ainvoke(query) for query in queries] == expected
    assert retriever.batch(queries) == expected
    assert await retriever.abatch(queries) == expected


def test_k_of_the_call_wins(source: Everything, reranker_folder: str, query: str) -> None:
    retriever = FletchingRetriever(retriever=source, model=reranker_folder, k=1)
    assert [len(retriever.invoke(query)), len(retriever.invoke(query, k=2))] == [1, 2]
    assert len(retriever.invoke(query, k=None)) == len(source.documents)


@pytest.mark.parametrize(
    ("arguments", "fetched"),
    [({}, 20), ({"k": 8}, 40), ({"k": None}, 20), ({"fetch_k": 7}, 7), ({"fetch_k": 2, "k": 3}, 3)],
)
def test_candidates_fetched_from_a_store(
    store: InMemoryVectorStore,
    reranker_folder: str,
    query: str,
    arguments: dict[str, Any],
    fetched: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    search = store.similarity_search

    def spy(query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        asked.append(k)
        return search(query, k, **kwargs)

    monkeypatch.setattr(store, "similarity_search", spy)
    FletchingRetriever(retriever=store, model=reranker_folder, **arguments).invoke(query)
    assert asked == [fetched]


async def test_store_is_asked_async(store: InMemoryVectorStore, reranker_folder: str, query: str) -> None:
    retriever = FletchingRetriever(retriever=store, model=reranker_folder)
    assert await retriever.ainvoke(query) == retriever.invoke(query)


def test_retriever_of_a_store_keeps_its_own_k(
    store: InMemoryVectorStore, reranker_folder: str, query: str
) -> None:
    inner = store.as_retriever(search_kwargs={"k": 6})
    assert len(FletchingRetriever(retriever=inner, model=reranker_folder, k=None).invoke(query)) == 6
    wider = FletchingRetriever(retriever=inner, model=reranker_folder, k=None, fetch_k=9)
    assert len(wider.invoke(query)) == 9


@pytest.fixture
def asked(store: InMemoryVectorStore, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the store is asked for, search by search."""
    calls: list[dict[str, Any]] = []
    for name in ("similarity_search", "max_marginal_relevance_search"):
        monkeypatch.setattr(store, name, spy_on(getattr(store, name), calls))
    return calls


def spy_on(search: Any, calls: list[dict[str, Any]]) -> Any:
    def spy(query: str, **kwargs: Any) -> Any:
        calls.append(kwargs)
        return search(query, **kwargs)

    return spy


@pytest.mark.parametrize("wrap", ["bare", "config", "twice", "retry"])
@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        ({}, {"k": 10}, {"k": 10}),
        ({}, {"k": 4}, {}),
        ({}, {"k": None}, {}),
        ({"k": 6}, {"k": 10}, {"k": 10}),
        ({"k": 12}, {"k": 10}, {"k": 12}),
        ({"k": 12}, {"k": 10, "fetch_k": 5}, {"k": 10}),
        ({"k": 2}, {"fetch_k": 9}, {"k": 9}),
    ],
)
def test_retriever_of_a_store_gives_enough(
    store: InMemoryVectorStore,
    asked: list[dict[str, Any]],
    reranker_folder: str,
    query: str,
    wrap: str,
    inner: dict[str, Any],
    outer: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    source: Any = store.as_retriever(search_kwargs=inner)
    if wrap != "bare":
        source = source.with_retry() if wrap == "retry" else source.with_config(tags=["a"])
    if wrap == "twice":
        source = source.with_retry().with_config(run_name="b")
    retriever = FletchingRetriever(retriever=source, model=reranker_folder, **outer)
    found = retriever.invoke(query)
    assert asked == [expected]
    fetched = expected.get("k", 4)
    assert len(found) == min(retriever.k or fetched, fetched)


@pytest.mark.parametrize(("bound", "k", "expected"), [(6, 10, 10), (12, 10, 12)])
def test_bound_arguments_count_as_the_retrievers_own(
    store: InMemoryVectorStore,
    asked: list[dict[str, Any]],
    reranker_folder: str,
    query: str,
    bound: int,
    k: int,
    expected: int,
) -> None:
    source = store.as_retriever(search_kwargs={"k": 30}).bind(k=bound)
    FletchingRetriever(retriever=source, model=reranker_folder, k=k).invoke(query)
    assert asked == [{"k": expected}]


def test_generous_store_is_left_alone(
    store: InMemoryVectorStore, reranker_folder: str, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, asked = store.similarity_search, []

    def generous(query: str, k: int = 10, **kwargs: Any) -> list[Document]:
        asked.append(k)
        return search(query, k, **kwargs)

    monkeypatch.setattr(store, "similarity_search", generous)
    retriever = FletchingRetriever(retriever=store.as_retriever(), model=reranker_folder, k=6)
    assert len(retriever.invoke(query)) == 6
    assert len(retriever.invoke(query, k=12)) == 12
    assert asked == [10, 12]


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        ({}, {}, {}),
        ({}, {"k": 10}, {"k": 10}),
        ({}, {"k": 30}, {"k": 30, "fetch_k": 30}),
        ({}, {"fetch_k": 25}, {"k": 25, "fetch_k": 25}),
        ({"fetch_k": 5}, {"k": 8}, {"k": 8, "fetch_k": 8}),
        ({"fetch_k": 40}, {"k": 30}, {"k": 30, "fetch_k": 40}),
        ({"k": 30}, {}, {"k": 30, "fetch_k": 30}),
    ],
)
def test_diverse_search_reads_as_many_as_it_returns(
    store: InMemoryVectorStore,
    asked: list[dict[str, Any]],
    reranker_folder: str,
    query: str,
    inner: dict[str, Any],
    outer: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    source = store.as_retriever(search_type="mmr", search_kwargs=inner)
    found = FletchingRetriever(retriever=source, model=reranker_folder, **outer).invoke(query)
    assert asked == [expected]
    assert len(found) == outer.get("k", 4)


def test_fetch_k_bounds_what_a_retriever_returns(
    source: Everything, reranker_folder: str, query: str
) -> None:
    retriever = FletchingRetriever(retriever=source, model=reranker_folder, fetch_k=2, k=1)
    assert {retriever.invoke(query)[0].metadata["place"]} <= {0, 1}
    assert len(retriever.invoke(query, k=3)) == 3


def test_other_arguments_reach_the_source(source: Everything, reranker_folder: str, query: str) -> None:
    retriever = FletchingRetriever(retriever=source, model=reranker_folder)
    retriever.invoke(query, k=2, filter={"language": "en"})
    assert source.asked == [{"filter": {"language": "en"}}]


def test_few_documents_are_enough(reranker_folder: str, query: str) -> None:
    one = Everything(documents=[Document("text")], asked=[])
    assert len(FletchingRetriever(retriever=one, model=reranker_folder).invoke(query)) == 1


def test_no_documents_open_no_model(query: str) -> None:
    nothing = RunnableLambda(lambda query: [])
    assert FletchingRetriever(retriever=nothing, model="no/such-model").invoke(query) == []


def test_repeated_documents_stay(reranker_folder: str, query: str) -> None:
    document = Document("text")
    twice = Everything(documents=[document, document], asked=[])
    assert len(FletchingRetriever(retriever=twice, model=reranker_folder).invoke(query)) == 2


def test_min_score_may_leave_nothing(source: Everything, reranker_folder: str, query: str) -> None:
    retriever = FletchingRetriever(
        retriever=source, model=reranker_folder, scores="probability", min_score=1.1, score_key="p"
    )
    assert retriever.invoke(query) == []


def test_loaded_model_is_used_as_it_is(source: Everything, reranker_folder: str, query: str) -> None:
    model = fletching.load_shared(reranker_folder)
    assert len(FletchingRetriever(retriever=source, model=model).invoke(query)) == 4


def test_documents_are_copied(source: Everything, reranker_folder: str, query: str) -> None:
    FletchingRetriever(retriever=source, model=reranker_folder).invoke(query)
    assert all("relevance_score" not in document.metadata for document in source.documents)


class Numbered(FletchingRetriever):
    """Overrides the synchronous method only."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        found = super()._get_relevant_documents(query, run_manager=run_manager, **kwargs)
        return [hit.model_copy(update={"id": threading.current_thread().name}) for hit in found]


async def test_override_of_the_synchronous_method_is_used_by_coroutines(
    source: Everything, reranker_folder: str, query: str
) -> None:
    recorder = Recorder()
    found = await Numbered(retriever=source, model=reranker_folder).ainvoke(
        query, {"callbacks": [recorder]}, k=2
    )
    assert len(found) == 2
    assert found[0].id not in {document.id for document in source.documents}
    assert found[0].id != threading.current_thread().name
    assert recorder.tree() == [("Numbered", None), ("Everything", "Numbered")]


# --- runs ---


@pytest.mark.parametrize("is_async", [False, True], ids=["invoke", "ainvoke"])
async def test_child_run_is_below_ours(
    source: Everything, reranker_folder: str, query: str, is_async: bool
) -> None:
    recorder = Recorder()
    retriever = FletchingRetriever(retriever=source, model=reranker_folder)
    if is_async:
        await retriever.ainvoke(query, {"callbacks": [recorder]})
    else:
        retriever.invoke(query, {"callbacks": [recorder]})
    assert recorder.tree() == [("FletchingRetriever", None), ("Everything", "FletchingRetriever")]
    assert recorder.ended == ["Everything", "FletchingRetriever"]


def test_run_of_a_store_is_below_ours(store: InMemoryVectorStore, reranker_folder: str, query: str) -> None:
    recorder = Recorder()
    retriever = FletchingRetriever(retriever=store, model=reranker_folder, name="search")
    retriever.invoke(query, {"callbacks": [recorder]})
    assert recorder.tree() == [("search", None), ("VectorStoreRetriever", "search")]


def test_runnable_is_traced_as_one_run(reranker_folder: str, documents: list[Document], query: str) -> None:
    recorder = Recorder()
    step = {"query": query, "documents": documents}
    FletchingReranker(model=reranker_folder).as_runnable().invoke(step, {"callbacks": [recorder]})
    assert recorder.tree() == [("FletchingReranker", None)]
    assert recorder.ended == ["FletchingReranker"]


async def test_failing_source_fails_both_runs(reranker_folder: str, query: str) -> None:
    recorder = Recorder()
    retriever = FletchingRetriever(retriever=Broken(), model=reranker_folder)
    with pytest.raises(ConnectionError, match="the store is down"):
        retriever.invoke(query, {"callbacks": [recorder]})
    assert recorder.failed == ["Broken", "FletchingRetriever"]
    with pytest.raises(ConnectionError, match="the store is down"):
        await retriever.ainvoke(query)


# --- bad input ---


@pytest.mark.parametrize("name", ["k", "fetch_k"])
@pytest.mark.parametrize("value", [0, -1, True, "3"])
def test_count_is_refused(source: Everything, query: str, name: str, value: object) -> None:
    message = f"`{name}` must be a positive integer or None; got {value!r}."
    with pytest.raises(ArgumentError) as caught:
        FletchingRetriever(retriever=source, **{name: value})
    assert str(caught.value) == f"FletchingRetriever: {message}"
    with pytest.raises(ArgumentError) as caught:
        FletchingRetriever(retriever=source, model="no/such-model").invoke(query, **{name: value})
    assert str(caught.value) == f"FletchingRetriever.invoke: {message}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`retriever` must be given; got nothing."),
        ({"retriever": 3}, "`retriever` must be a retriever, a runnable or a vector store; got 3."),
        (
            {"retrievers": 3},
            "`kwargs` must be one of the arguments of FletchingRetriever; got 'retrievers'. "
            "Did you mean 'retriever'?",
        ),
    ],
)
def test_argument_is_refused_in_one_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        FletchingRetriever(**arguments)
    assert str(caught.value) == f"FletchingRetriever: {message}"


async def test_store_without_texts_is_named(reranker_folder: str, query: str) -> None:
    textless = [Document("text"), Document.model_construct(page_content=None)]
    retriever = FletchingRetriever(retriever=Everything(documents=textless, asked=[]), model=reranker_folder)
    message = (
        "FletchingRetriever: `documents[1].page_content` must be a string; got None. "
        "Check under which field the store keeps the text, or drop such documents."
    )
    with pytest.raises(ArgumentError) as caught:
        retriever.invoke(query)
    assert str(caught.value) == message
    with pytest.raises(ArgumentError) as caught:
        await retriever.ainvoke(query)
    assert str(caught.value) == message


@pytest.mark.parametrize("result", [None, "text", {"a": 1}.values()])
def test_source_that_returns_something_else_is_named(query: str, result: object) -> None:
    retriever = FletchingRetriever(retriever=RunnableLambda(lambda query: result), model="no/such-model")
    with pytest.raises(ArgumentError, match=r"FletchingRetriever: `documents(\[0\])?` must be a"):
        retriever.invoke(query)


def test_blank_query_is_refused(source: Everything, reranker_folder: str) -> None:
    retriever = FletchingRetriever(retriever=source, model=reranker_folder)
    with pytest.raises(ArgumentError, match="`query` must be a query with at least one visible character"):
        retriever.invoke(" ")


def test_long_query_is_ranked(source: Everything, reranker_folder: str) -> None:
    assert len(FletchingRetriever(retriever=source, model=reranker_folder).invoke("x " * 50_000)) == 4
