from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.load import dumpd, dumps, load, loads
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

import fletching
from langchain_fletching import FletchingEmbeddings, FletchingReranker, FletchingRetriever

pytestmark = pytest.mark.filterwarnings("ignore:The function `loads?` is in beta")

SECRET = "hf_do_not_show"
TRUSTED = {"valid_namespaces": ["langchain_fletching"]}


@pytest.fixture
def reranker(reranker_folder: str) -> FletchingReranker:
    return FletchingReranker(
        model=reranker_folder,
        top_n=None,
        min_score=0.0,
        scores="probability",
        long="chunk_max",
        batch_size=8,
        score_key="score",
        model_kwargs={"device": "cpu", "token": SECRET},
    )


@pytest.fixture
def embeddings(embedder_folder: str) -> FletchingEmbeddings:
    return FletchingEmbeddings(model=embedder_folder, truncate_dim=8, query_prompt="", normalize=True)


def test_reranker_pickles(reranker: FletchingReranker, documents: list[Document], query: str) -> None:
    expected = reranker.compress_documents(documents, query)
    data = pickle.dumps(reranker)
    assert len(data) < 2000, "the weights are opened again, not pickled"
    copied = pickle.loads(data)
    assert copied == reranker
    assert copied.compress_documents(documents, query) == expected


def test_embeddings_pickle(embeddings: FletchingEmbeddings, query: str) -> None:
    expected = embeddings.embed_query(query)
    copied = pickle.loads(pickle.dumps(embeddings))
    assert copied == embeddings
    assert copied.embed_query(query) == expected


def first_two(query: str) -> list[Document]:
    return [Document("Feathers keep it straight."), Document("Bread needs flour.")]


def test_retriever_pickles(reranker_folder: str, embedder_folder: str, texts: list[str], query: str) -> None:
    store = InMemoryVectorStore.from_texts(texts, FletchingEmbeddings(model=embedder_folder))
    retriever = FletchingRetriever(retriever=store, model=reranker_folder, k=2)
    expected = retriever.invoke(query)
    assert pickle.loads(pickle.dumps(retriever)).invoke(query) == expected
    assert copy.deepcopy(retriever).invoke(query) == expected


def test_loaded_model_is_pickled(reranker_folder: str, documents: list[Document], query: str) -> None:
    reranker = FletchingReranker(model=fletching.load(reranker_folder))
    copied = pickle.loads(pickle.dumps(reranker))
    assert copied.model is not reranker.model
    assert copied.compress_documents(documents, query) == reranker.compress_documents(documents, query)


@pytest.mark.parametrize("is_loaded", [False, True], ids=["named", "loaded"])
def test_deep_copies_share_the_model(reranker_folder: str, is_loaded: bool) -> None:
    model = fletching.load(reranker_folder) if is_loaded else reranker_folder
    reranker = FletchingReranker(model=model)
    opened = reranker._open()
    copied = copy.deepcopy(reranker)
    assert copied == reranker
    assert copied._open() is opened


def test_reranker_survives_dump_and_load(
    reranker: FletchingReranker, documents: list[Document], query: str
) -> None:
    loaded = load(dumpd(reranker), allowed_objects=[FletchingReranker], **TRUSTED)
    expected = reranker.model_copy(update={"model_kwargs": {"device": "cpu"}})
    assert loaded == expected
    assert loads(dumps(reranker), allowed_objects=[FletchingReranker], **TRUSTED) == expected
    assert loaded.compress_documents(documents, query) == reranker.compress_documents(documents, query)


def test_embeddings_survive_dump_and_load(embeddings: FletchingEmbeddings, query: str) -> None:
    loaded = load(dumpd(embeddings), allowed_objects=[FletchingEmbeddings], **TRUSTED)
    assert loaded == embeddings
    assert loaded.embed_query(query) == embeddings.embed_query(query)


def test_retriever_survives_dump_and_load_with_its_retriever(reranker_folder: str) -> None:
    inner = FletchingRetriever(retriever=RunnableLambda(first_two), model=reranker_folder)
    data = dumpd(FletchingRetriever(retriever=inner, model=reranker_folder, k=2))
    assert data["id"] == ["langchain_fletching", "retrievers", "FletchingRetriever"]
    assert data["kwargs"]["k"] == 2
    assert data["kwargs"]["retriever"]["id"] == data["id"]
    with pytest.raises(NotImplementedError, match="RunnableLambda"):
        load(data, allowed_objects=[FletchingRetriever], **TRUSTED)


def test_loaded_model_is_not_serialised(reranker_folder: str) -> None:
    data = dumpd(FletchingReranker(model=fletching.load_shared(reranker_folder)))
    assert data["type"] == "not_implemented"
    assert len(str(data)) < 400, "the weights' repr is long"


@pytest.mark.parametrize(
    "options", [{"token": SECRET}, {"model_kwargs": {"token": SECRET}}, {"use_auth_token": SECRET}]
)
def test_token_is_never_shown(options: dict[str, Any]) -> None:
    for adapter in (
        FletchingReranker(model="owner/name", model_kwargs=options),
        FletchingEmbeddings(model="owner/name", model_kwargs=options),
        FletchingRetriever(retriever=RunnableLambda(first_two), model="owner/name", model_kwargs=options),
    ):
        shown = [repr(adapter), str(adapter), dumps(adapter), str(dumpd(adapter)), str(adapter.model_dump())]
        assert not any(SECRET in text for text in shown)
    assert SECRET not in FletchingReranker(model="owner/name", model_kwargs=options).model_dump_json()


def test_token_is_in_no_error() -> None:
    for arguments in ({"model": 3}, {"top_n": 0}, {"oops": 1}, {"model_kwargs": [("token", SECRET)]}):
        with pytest.raises(ValueError, match="FletchingReranker: ") as caught:
            FletchingReranker(**{"model_kwargs": {"token": SECRET}, **arguments})
        assert SECRET not in f"{caught.value!r} {caught.value.__context__!r}"
    with pytest.raises(ValueError, match="`retriever` must be given"):
        FletchingRetriever(model_kwargs={"token": SECRET})


def test_token_reaches_the_loader(monkeypatch: pytest.MonkeyPatch, documents: list[Document]) -> None:
    seen = {}

    def load_shared(name: str, **kwargs: Any) -> Any:
        seen.update(kwargs)
        raise fletching.FletchingError("seen")

    monkeypatch.setattr(fletching, "load_shared", load_shared, raising=False)
    reranker = FletchingReranker(model="owner/name", model_kwargs={"token": SECRET, "device": "cpu"})
    with pytest.raises(fletching.FletchingError, match="seen"):
        reranker.compress_documents(documents, "query")
    assert seen == {"kind": "reranker", "token": SECRET, "device": "cpu"}


def test_retriever_can_be_configured_by_the_call(reranker_folder: str, query: str) -> None:
    retriever = FletchingRetriever(
        retriever=RunnableLambda(first_two), model=fletching.load_shared(reranker_folder)
    ).configurable_fields(k=ConfigurableField(id="k"))
    assert len(retriever.invoke(query)) == 2
    assert len(retriever.with_config(configurable={"k": 1}).invoke(query)) == 1
