from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.load import dumpd, dumps, load, loads
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import Field

import fletching
from fletching.errors import ArgumentError
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
    "way",
    ["argument", "item", "assignment", "model_copy", "deep_copy", "model_construct", "pickle", "loaded"],
)
@pytest.mark.parametrize(
    "options",
    [
        {"token": SECRET},
        {"TOKEN": SECRET},
        {"use_auth_token": SECRET},
        {"hf_token": SECRET.encode()},
        {"tokens": [SECRET, (SECRET.encode(),)]},
        {"model_kwargs": {"api_key": SECRET, "X-Api-Key": {"first": SECRET}}},
        {"sources": [{"secret": SECRET}, ({"Password": SECRET},)]},
        {"headers": {"Authorization": f"Bearer {SECRET}"}},
    ],
    ids=["token", "upper", "auth", "bytes", "list", "nested", "dicts_in_list", "header"],
)
def test_token_is_never_shown(options: dict[str, Any], way: str) -> None:
    for adapter in (
        build(FletchingReranker, options, way),
        build(FletchingEmbeddings, options, way),
        build(FletchingRetriever, options, way, retriever=RunnableLambda(first_two)),
    ):
        shown = [repr(adapter), str(adapter), dumps(adapter), str(dumpd(adapter)), str(adapter.model_dump())]
        assert not any(SECRET in text for text in shown)
    if way != "loaded":  # pydantic cannot write that down
        assert SECRET not in build(FletchingReranker, options, way).model_dump_json()


def build(adapter_class: type, options: dict[str, Any], way: str, **others: Any) -> Any:
    """Make an adapter that got its ``model_kwargs`` in this way."""
    plain = adapter_class(model="owner/name", **others)
    if way == "argument":
        return adapter_class(model="owner/name", model_kwargs=options, **others)
    if way == "item":
        plain.model_kwargs.update(options)
    elif way == "assignment":
        plain.model_kwargs = options
    elif way == "model_copy":
        return plain.model_copy(update={"model_kwargs": options})
    elif way == "deep_copy":
        return copy.deepcopy(plain.model_copy(update={"model_kwargs": options}))
    elif way == "model_construct":
        return adapter_class.model_construct(model="owner/name", model_kwargs=options, **others)
    elif way == "pickle":
        if not others:  # a lambda does not pickle
            plain = pickle.loads(pickle.dumps(build(adapter_class, options, "item", **others)))
    elif way == "loaded":
        return plain.model_copy(update={"model": object(), "model_kwargs": options})
    return plain


def test_options_beside_a_token_are_kept() -> None:
    """The names of tokenizers and counts of tokens are settings, not secrets."""
    options = {"tokenizer_kwargs": {"padding_side": "left"}, "max_tokens": 64, "use_auth_token": True}
    reranker = FletchingReranker(model="owner/name", model_kwargs={**options, "token": SECRET})
    assert dumpd(reranker)["kwargs"]["model_kwargs"] == options
    assert json.loads(reranker.model_dump_json())["model_kwargs"] == options
    assert "'padding_side': 'left'" in repr(reranker)


def test_a_number_may_be_a_secret() -> None:
    given = {"headers": {"api_key": 31415926}, "max_tokens_per_batch": 64}
    reranker = FletchingReranker(model="owner/name", model_kwargs=given)
    again = pickle.loads(pickle.dumps(reranker))
    assert again == reranker == FletchingReranker(**reranker.model_dump())
    for shown in (repr(again), dumps(again), str(again.model_dump()), again.model_dump_json()):
        assert "31415926" not in shown
        assert "64" in shown


def test_fields_written_as_python_make_an_equal_object() -> None:
    reranker = FletchingReranker(model="owner/name", model_kwargs={"tokens": [SECRET, b"raw"]})
    assert FletchingReranker(**reranker.model_dump()) == reranker


def test_what_json_cannot_hold_is_written_as_text() -> None:
    import torch

    given = {
        "dtype": torch.float32,
        "device": torch.device("cuda:0"),
        "cache_folder": Path("models"),
        "model_kwargs": {"torch_dtype": torch.bfloat16, "layers": (1, 2)},
    }
    expected = {
        "dtype": "float32",
        "device": "cuda:0",
        "cache_folder": "models",
        "model_kwargs": {"torch_dtype": "bfloat16", "layers": [1, 2]},
    }
    reranker = FletchingReranker(model="owner/name", model_kwargs=given)
    assert json.loads(reranker.model_dump_json())["model_kwargs"] == expected
    restored = loads(dumps(reranker), allowed_objects=[FletchingReranker], **TRUSTED)
    assert restored.model_kwargs == expected


def test_written_dtype_and_device_open_the_model(
    reranker_folder: str, documents: list[Document], query: str
) -> None:
    import torch

    given = {"dtype": torch.bfloat16, "device": torch.device("cpu")}
    reranker = FletchingReranker(model=reranker_folder, model_kwargs=given)
    restored = loads(dumps(reranker), allowed_objects=[FletchingReranker], **TRUSTED)
    assert restored._open().dtype == torch.bfloat16
    assert restored.compress_documents(documents, query) == reranker.compress_documents(documents, query)


def test_aliases_of_a_subclass_are_arguments() -> None:
    class Aliased(FletchingReranker):
        top_n: int | None = Field(default=3, alias="count")
        prefix: str = Field(default="", validation_alias="lead")

    by_alias, by_name = Aliased(count=2, lead="a"), Aliased(top_n=2, prefix="a")
    assert by_alias == by_name
    assert dumpd(by_alias)["kwargs"]["top_n"] == 2
    with pytest.raises(ArgumentError, match=r"got 'counts'\. Did you mean 'count'"):
        Aliased(counts=2)


def test_token_is_in_no_error() -> None:
    for arguments in ({"model": 3}, {"top_n": 0}, {"oops": 1}, {"model_kwargs": [("token", SECRET)]}):
        with pytest.raises(ValueError, match="FletchingReranker: ") as caught:
            FletchingReranker(**{"model_kwargs": {"token": SECRET}, **arguments})
        assert SECRET not in f"{caught.value!r} {caught.value.__context__!r}"
    with pytest.raises(ValueError, match="`retriever` must be given"):
        FletchingRetriever(model_kwargs={"token": SECRET})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_kwargs", [("token", SECRET)]),
        ("model_kwargs", {"token": SECRET, 3: 1}),
        ("batch_size", 0),
        ("show", SECRET),
    ],
)
def test_token_is_in_no_error_of_an_assignment(name: str, value: object) -> None:
    reranker = FletchingReranker(model="owner/name", model_kwargs={"token": SECRET})
    with pytest.raises(ValueError, match=f"FletchingReranker.*{name}") as caught:
        setattr(reranker, name, value)
    assert "\n" not in str(caught.value)
    assert not hasattr(caught.value, "errors")
    assert caught.value.__context__ is None
    assert SECRET not in repr(caught.value)


def test_token_reaches_the_loader(monkeypatch: pytest.MonkeyPatch, documents: list[Document]) -> None:
    seen = {}
    given = {"token": SECRET, "device": "cpu", "tokens": [SECRET, SECRET.encode()]}

    def load_shared(name: str, **kwargs: Any) -> Any:
        seen.update(kwargs)
        raise fletching.FletchingError("seen")

    monkeypatch.setattr(fletching, "load_shared", load_shared, raising=False)
    reranker = FletchingReranker(model="owner/name", model_kwargs=dict(given))
    with pytest.raises(fletching.FletchingError, match="seen"):
        reranker.compress_documents(documents, "query")
    assert seen == {"kind": "reranker", **given}


def test_retriever_can_be_configured_by_the_call(reranker_folder: str, query: str) -> None:
    retriever = FletchingRetriever(
        retriever=RunnableLambda(first_two), model=fletching.load_shared(reranker_folder)
    ).configurable_fields(k=ConfigurableField(id="k"))
    assert len(retriever.invoke(query)) == 2
    assert len(retriever.with_config(configurable={"k": 1}).invoke(query)) == 1
