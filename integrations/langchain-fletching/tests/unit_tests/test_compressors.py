from __future__ import annotations

import copy
import threading
import time
from typing import Any

import pytest
from langchain_core.documents import Document

import fletching
from fletching.errors import ArgumentError
from langchain_fletching import FletchingReranker


@pytest.fixture
def reranker(reranker_folder: str) -> FletchingReranker:
    return FletchingReranker(model=reranker_folder, top_n=3)


@pytest.fixture
def model(reranker_folder: str) -> Any:
    return fletching.load_shared(reranker_folder, kind="reranker")


def places(documents: Any) -> list[int]:
    return [document.metadata["place"] for document in documents]


def test_result_is_the_ranking_of_the_model(
    reranker: FletchingReranker, model: Any, documents: list[Document], texts: list[str], query: str
) -> None:
    hits = reranker.compress_documents(documents, query)
    expected = model.rank(query, texts, top_k=3)
    assert [(hit.metadata["place"], hit.metadata["relevance_score"]) for hit in hits] == [
        (hit["corpus_id"], hit["score"]) for hit in expected
    ]
    assert all(type(hit.metadata["relevance_score"]) is float for hit in hits)


async def test_async_result_is_the_same(
    reranker: FletchingReranker, documents: list[Document], query: str
) -> None:
    assert await reranker.acompress_documents(documents, query) == reranker.compress_documents(
        documents, query
    )


def test_documents_are_copied(reranker: FletchingReranker, documents: list[Document], query: str) -> None:
    before = copy.deepcopy(documents)
    hits = reranker.compress_documents(documents, query)
    assert documents == before
    assert all(hit is not document for hit in hits for document in documents)
    assert all(hit.metadata is not documents[hit.metadata["place"]].metadata for hit in hits)


def test_ids_and_subclasses_survive(reranker_folder: str, query: str) -> None:
    class Passage(Document):
        title: str = ""

    [hit] = FletchingReranker(model=reranker_folder).compress_documents(
        [Passage("text", id="seven", title="Title")], query
    )
    assert isinstance(hit, Passage)
    assert (hit.id, hit.title) == ("seven", "Title")


def test_top_n_none_returns_all(reranker_folder: str, documents: list[Document], query: str) -> None:
    hits = FletchingReranker(model=reranker_folder, top_n=None).compress_documents(documents, query)
    assert len(hits) == len(documents)


def test_top_n_may_exceed_the_documents(reranker_folder: str, documents: list[Document], query: str) -> None:
    hits = FletchingReranker(model=reranker_folder, top_n=99).compress_documents(documents, query)
    assert len(hits) == len(documents)


def test_min_score_keeps_that_score_and_better(
    reranker_folder: str, documents: list[Document], query: str
) -> None:
    everything = FletchingReranker(model=reranker_folder, top_n=None).compress_documents(documents, query)
    border = everything[2].metadata["relevance_score"]
    hits = FletchingReranker(model=reranker_folder, top_n=None, min_score=border).compress_documents(
        documents, query
    )
    assert hits == everything[:3]


def test_min_score_is_on_the_scale_of_scores(
    reranker_folder: str, documents: list[Document], query: str
) -> None:
    reranker = FletchingReranker(
        model=reranker_folder, top_n=None, scores="probability", min_score=0.5, score_key="p"
    )
    hits = reranker.compress_documents(documents, query)
    raw = FletchingReranker(model=reranker_folder, top_n=None, scores="logit", min_score=0)
    assert places(hits) == places(raw.compress_documents(documents, query))
    assert all(0.5 <= hit.metadata["p"] <= 1 for hit in hits)


def test_equal_documents_keep_their_order(reranker_folder: str, query: str) -> None:
    twins = [Document("same text", metadata={"place": place}) for place in range(4)]
    hits = FletchingReranker(model=reranker_folder).compress_documents(twins, query)
    assert places(hits) == [0, 1, 2]
    assert len({hit.metadata["relevance_score"] for hit in hits}) == 1


def test_one_document_given_twice_is_returned_twice(reranker_folder: str, query: str) -> None:
    document = Document("text")
    hits = FletchingReranker(model=reranker_folder).compress_documents([document, document], query)
    assert len(hits) == 2
    assert document.metadata == {}


def test_score_replaces_an_older_one(reranker_folder: str, query: str) -> None:
    document = Document("text", metadata={"relevance_score": "high"})
    [hit] = FletchingReranker(model=reranker_folder).compress_documents([document], query)
    assert isinstance(hit.metadata["relevance_score"], float)
    assert document.metadata == {"relevance_score": "high"}


async def test_no_documents_open_no_model(query: str) -> None:
    reranker = FletchingReranker(model="no/such-model")
    assert reranker.compress_documents([], query) == []
    assert await reranker.acompress_documents([], query) == []


def test_long_documents_are_read_as_asked(reranker_folder: str, query: str) -> None:
    document = Document("Straighten the shaft, then glue the feathers. " * 60)
    scores = {
        FletchingReranker(model=reranker_folder, long=long)
        .compress_documents([document], query)[0]
        .metadata["relevance_score"]
        for long in ("truncate", "chunk_max")
    }
    assert len(scores) == 2


def test_model_kwargs_reach_the_model(reranker_folder: str, documents: list[Document], query: str) -> None:
    reranker = FletchingReranker(
        model=reranker_folder, model_kwargs={"dtype": "bfloat16", "device": "cpu", "token": "hf_secret"}
    )
    reranker.compress_documents(documents, query)
    assert str(reranker._open().dtype) == "torch.bfloat16"


def test_loaded_model_is_used_as_it_is(model: Any, documents: list[Document], query: str) -> None:
    reranker = FletchingReranker(model=model)
    assert reranker.model is model
    assert len(reranker.compress_documents(documents, query)) == 3


def test_adapters_share_one_model(reranker_folder: str) -> None:
    first, second = (FletchingReranker(model=reranker_folder, top_n=n) for n in (1, 2))
    assert first._open() is second._open()


def test_adapter_follows_its_fields(
    reranker_folder: str, tmp_path_factory: pytest.TempPathFactory, documents: list[Document], query: str
) -> None:
    from fletching.testing import save_tiny_cross_encoder

    other = save_tiny_cross_encoder(tmp_path_factory.mktemp("other"), seed=7)
    reranker = FletchingReranker(model=reranker_folder)
    before = reranker.compress_documents(documents, query)
    assert reranker.model_copy(update={"model": other}).compress_documents(documents, query) != before
    reranker.model = other
    assert reranker.compress_documents(documents, query) != before


def test_open_model_outlives_its_folder(
    tmp_path: Any, documents: list[Document], query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fletching.testing import save_tiny_cross_encoder

    save_tiny_cross_encoder(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    reranker = FletchingReranker(model="model")
    before = reranker.compress_documents(documents, query)
    monkeypatch.chdir("/")
    assert reranker.compress_documents(documents, query) == before


def test_open_model_survives_a_copy_that_opens_another(
    reranker_folder: str, tmp_path: Any, query: str, documents: list[Document]
) -> None:
    from fletching.testing import save_tiny_cross_encoder

    folder = save_tiny_cross_encoder(tmp_path / "first")
    reranker = FletchingReranker(model=folder)
    opened = reranker._open()
    copied = reranker.model_copy(update={"model": reranker_folder})
    assert copied._open() is not opened
    save_tiny_cross_encoder(tmp_path / "first", seed=7)
    assert reranker._open() is opened


# --- subclasses ---


class Plain(FletchingReranker):
    """Overrides the synchronous method only."""

    def compress_documents(self, documents: Any, query: str, callbacks: Any = None) -> Any:
        hits = super().compress_documents(documents, query, callbacks)
        return [hit.model_copy(update={"id": threading.current_thread().name}) for hit in hits]


class Both(Plain):
    """Overrides both, and asks its parent."""

    async def acompress_documents(self, documents: Any, query: str, callbacks: Any = None) -> Any:
        return (await super().acompress_documents(documents, query, callbacks))[:1]


async def test_override_of_the_synchronous_method_is_used_by_coroutines(
    reranker_folder: str, documents: list[Document], query: str
) -> None:
    reranker = Plain(model=reranker_folder)
    [first, *_] = await reranker.acompress_documents(documents, query)
    assert first.id != threading.current_thread().name, "the event loop stays free"
    assert first.id not in {document.id for document in documents}
    [first, *_] = await reranker.as_runnable().ainvoke({"query": query, "documents": documents})
    assert first.id not in {document.id for document in documents}


async def test_override_of_both_methods_is_left_alone(
    reranker_folder: str, documents: list[Document], query: str
) -> None:
    [best] = await Both(model=reranker_folder).acompress_documents(documents, query)
    assert best.id in {document.id for document in documents}


# --- chains ---


def test_runnable_compresses(reranker: FletchingReranker, documents: list[Document], query: str) -> None:
    step = {"query": query, "documents": documents}
    expected = reranker.compress_documents(documents, query)
    assert reranker.as_runnable().invoke(step) == expected
    assert reranker.as_runnable().batch([step, step]) == [expected, expected]


async def test_runnable_compresses_async(
    reranker: FletchingReranker, documents: list[Document], query: str
) -> None:
    step = {"query": query, "documents": documents}
    expected = reranker.compress_documents(documents, query)
    assert await reranker.as_runnable().ainvoke(step) == expected
    assert await reranker.as_runnable().abatch([step, step]) == [expected, expected]


def test_chain_retrieves_and_reranks(
    reranker: FletchingReranker, documents: list[Document], query: str
) -> None:
    from langchain_core.runnables import RunnableLambda, RunnablePassthrough

    chain = {
        "query": RunnablePassthrough(),
        "documents": RunnableLambda(lambda _: documents),
    } | reranker.as_runnable()
    assert chain.invoke(query) == reranker.compress_documents(documents, query)


# --- bad input ---


@pytest.mark.parametrize("value", [0, -1, True, "3", 2.0])
def test_top_n_is_refused(value: object) -> None:
    message = f"FletchingReranker: `top_n` must be a positive integer or None; got {value!r}."
    with pytest.raises(ArgumentError) as caught:
        FletchingReranker(model="mvp-mini", top_n=value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be a positive integer or None; got 0."),
        ({"min_score": True}, "`min_score` must be a finite number or None; got True."),
        ({"min_score": float("nan")}, "`min_score` must be a finite number or None; got nan."),
        (
            {"scores": "logits"},
            "`scores` must be one of 'logit', 'probability'; got 'logits'. Did you mean 'logit'?",
        ),
        ({"long": "cut"}, "`long` must be one of 'truncate', 'chunk_max'; got 'cut'."),
        ({"long": ["cut"]}, "`long` must be one of 'truncate', 'chunk_max'; got ['cut']."),
        ({"score_key": ""}, "`score_key` must be a non-empty string; got ''."),
        (
            {"model": " "},
            "`model` must be a checkpoint name, a folder, a hub id or a loaded fletching.Reranker; got ' '.",
        ),
        (
            {"model": None},
            "`model` must be a checkpoint name, a folder, a hub id or a loaded fletching.Reranker; got None.",
        ),
        ({"model_kwargs": "cpu"}, "`model_kwargs` must be a valid dictionary; got <class 'str'>."),
        (
            {"model_kwargs": {"kind": "embedder"}},
            "`model_kwargs` must be without 'kind', which is 'reranker'; got 'embedder'.",
        ),
        (
            {"model_kwargs": {"path_or_id": "owner/name"}},
            "`model_kwargs` must be without 'path_or_id', which is `model`; got 'owner/name'.",
        ),
        (
            {"top_k": 3},
            "`kwargs` must be one of the arguments of FletchingReranker; got 'top_k'. Did you mean 'top_n'?",
        ),
    ],
)
def test_argument_is_refused_in_one_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        FletchingReranker(**arguments)
    assert str(caught.value) == f"FletchingReranker: {message}"


def test_options_are_those_of_the_core() -> None:
    from typing import get_args

    from fletching.models.reranker import LONG, SCORES
    from langchain_fletching._model import Long, Scores

    assert get_args(Scores) == tuple(SCORES)
    assert get_args(Long) == LONG


def test_assigned_argument_is_checked(reranker: FletchingReranker) -> None:
    with pytest.raises(ArgumentError) as caught:
        reranker.top_n = 0
    assert str(caught.value) == "FletchingReranker: `top_n` must be a positive integer or None; got 0."
    assert reranker.top_n == 3


def test_loaded_model_takes_no_options(model: Any) -> None:
    message = (
        "FletchingReranker: `model_kwargs` must be empty when `model` is loaded already; "
        "got ['device', 'token']."
    )
    options = {"token": "hf_secret", "device": "cpu"}
    with pytest.raises(ArgumentError) as caught:
        FletchingReranker(model=model, model_kwargs=options)
    assert str(caught.value) == message

    loaded = FletchingReranker(model=model, model_kwargs={})
    with pytest.raises(ArgumentError) as caught:
        loaded.model_kwargs = options
    assert str(caught.value) == message
    assert loaded.model_kwargs == {}

    named = FletchingReranker(model="owner/name", model_kwargs=options)
    with pytest.raises(ArgumentError) as caught:
        named.model = model
    assert str(caught.value) == message
    assert named.model == "owner/name"


@pytest.mark.parametrize("text", [None, 3, b"bytes"])
async def test_document_without_text_is_refused(
    reranker: FletchingReranker, query: str, text: object
) -> None:
    documents = [Document("text"), Document.model_construct(page_content=text)]
    message = (
        f"`documents[1].page_content` must be a string; got {text!r}. "
        "Check under which field the store keeps the text, or drop such documents."
    )
    with pytest.raises(ArgumentError) as caught:
        reranker.compress_documents(documents, query)
    assert str(caught.value) == f"FletchingReranker.compress_documents: {message}"
    with pytest.raises(ArgumentError) as caught:
        await reranker.acompress_documents(documents, query)
    assert str(caught.value) == f"FletchingReranker.acompress_documents: {message}"


def test_document_with_no_text_at_all_is_refused(reranker: FletchingReranker, query: str) -> None:
    with pytest.raises(ArgumentError, match=r"`documents\[0\].page_content` must be a string; got None"):
        reranker.compress_documents([Document.model_construct(metadata={})], query)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ("text", "`documents` must be a list of Documents; got 'text'."),
        (None, "`documents` must be a list of Documents; got None."),
        (["text"], "`documents[0]` must be a Document; got 'text'."),
    ],
)
def test_other_things_than_documents_are_refused(
    reranker: FletchingReranker, query: str, documents: Any, message: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        reranker.compress_documents(documents, query)
    assert str(caught.value) == f"FletchingReranker.compress_documents: {message}"


def test_document_without_metadata_gets_a_score(reranker: FletchingReranker, query: str) -> None:
    document = Document.model_construct(page_content="text", metadata=None)
    [hit] = reranker.compress_documents([document], query)
    assert list(hit.metadata) == ["relevance_score"]
    assert document.metadata is None


@pytest.mark.parametrize("metadata", ["text", 3, ["a"], [("a", 1)]])
async def test_other_metadata_is_refused_before_the_model_is_opened(query: str, metadata: object) -> None:
    reranker = FletchingReranker(model="no/such-model")
    documents = [Document("text"), Document.model_construct(page_content="x", metadata=metadata)]
    message = f"`documents[1].metadata` must be a mapping or None; got {metadata!r}."
    with pytest.raises(ArgumentError) as caught:
        reranker.compress_documents(documents, query)
    assert str(caught.value) == f"FletchingReranker.compress_documents: {message}"
    with pytest.raises(ArgumentError) as caught:
        await reranker.acompress_documents(documents, query)
    assert str(caught.value) == f"FletchingReranker.acompress_documents: {message}"


def test_metadata_of_any_type_survives(reranker: FletchingReranker, query: str) -> None:
    metadata = {1: object(), (2, 3): {"nested": [1.5, None]}, None: b"bytes"}
    [hit] = reranker.compress_documents([Document("text", metadata=metadata)], query)
    assert all(hit.metadata[key] is value for key, value in metadata.items())


@pytest.mark.parametrize("query", ["", " \n\t"])
async def test_blank_query_is_refused(
    reranker: FletchingReranker, documents: list[Document], query: str
) -> None:
    message = "`query` must be a query with at least one visible character"
    with pytest.raises(ArgumentError, match=message):
        reranker.compress_documents(documents, query)
    with pytest.raises(ArgumentError, match=message):
        await reranker.acompress_documents(documents, query)


def test_long_query_is_ranked(reranker: FletchingReranker) -> None:
    """The query is read once, not once for each document: measured 0.3 s."""
    query = "arrow " * 16_666 + "arrow"
    assert len(query) > 100_000
    documents = [Document(f"text {place} about an arrow") for place in range(100)]
    start = time.perf_counter()
    assert len(reranker.compress_documents(documents, query)) == 3
    assert time.perf_counter() - start < 20


def test_missing_model_is_named_at_first_use(documents: list[Document], query: str) -> None:
    reranker = FletchingReranker(model="no/such/folder")
    with pytest.raises(fletching.FletchingError, match="Checkpoint 'no/such/folder': there is no such"):
        reranker.compress_documents(documents, query)


def test_embedder_is_refused_as_a_reranker(embedder_folder: str) -> None:
    embedder = fletching.load_shared(embedder_folder)
    with pytest.raises(ArgumentError, match=r"a loaded fletching\.Reranker; got Embedder"):
        FletchingReranker(model=embedder)


@pytest.mark.parametrize("step", ["text", {"query": "text"}, None])
def test_runnable_refuses_other_input(reranker: FletchingReranker, step: Any) -> None:
    message = "FletchingReranker.as_runnable: `input` must be a dict with 'query' and 'documents'; got "
    with pytest.raises(ArgumentError) as caught:
        reranker.as_runnable().invoke(step)
    assert str(caught.value) == f"{message}{step!r}."
