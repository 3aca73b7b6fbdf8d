"""Retrieve and rerank as one LangChain retriever: from a store of yours, or from a folder."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.load.serializable import SerializedConstructor, SerializedNotImplemented
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, run_in_executor
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever
from pydantic import ValidationInfo, field_validator

import fletching
from fletching.errors import bad_argument, bad_choice
from fletching.models.inputs import check_count, check_positive
from langchain_fletching._model import Adapter, RerankerAdapter, is_sync_override

_FETCH_AT_LEAST = 20
_FETCH_PER_RESULT = 5
_STORE_COUNTS = {"k": 4, "fetch_k": 20}  # of a store whose signature does not tell: LangChain's own
_SEARCHES = {
    "similarity": "similarity_search",
    "similarity_score_threshold": "similarity_search_with_relevance_scores",
    "mmr": "max_marginal_relevance_search",
}


class FletchingRetriever(RerankerAdapter, BaseRetriever):
    """Fetch candidates from a vector store or a retriever, and return the best by a reranker of fletching.

    Args:
        retriever: Where candidates come from: a ``VectorStore``, a retriever, or any runnable from a query to
            documents. Its run shows up below the run of this retriever; documents are reranked as they come,
            repeated ones too. What comes back are shallow copies with a score.
        model: Checkpoint name (``"mvp-mini"``, the default), folder, hub id, or a loaded
            ``fletching.Reranker``. A loaded one is pickled with the retriever, but cannot be serialised.
        k: Documents to return, >= 1; ``None`` returns all. ``invoke(query, k=2)`` decides for one call, and
            ``invoke(query, k=None)`` returns all. Default 4, as in LangChain's vector stores.
        fetch_k: Candidates to read, >= 1, but never fewer than ``k``. ``None`` fetches ``max(20, 5 * k)``
            from a vector store, and as many as it is set to, but never fewer than ``k``, from the retriever
            of one (``store.as_retriever()``, with a ``with_config`` or ``with_retry`` around it or not).
            Any other retriever or runnable is not told how many: it decides by itself, its result is cut to
            ``fetch_k``, and fewer than ``k`` documents come back if it returns fewer.
        min_score: Lowest score of a document that is returned, on the scale of ``scores``; ``None`` returns
            any.
        scores: ``"logit"`` for raw scores, ``"probability"`` for their sigmoid; ``None`` takes the
            checkpoint's own activation.
        long: ``"truncate"`` cuts a document that does not fit, ``"chunk_max"`` scores overlapping chunks and
            takes the best; ``None`` takes the model's.
        batch_size: Most documents of one micro-batch, >= 1; ``None`` lets the token budget decide.
        score_key: Where the metadata of a returned document holds its score, a Python float; overwrites what
            is there.
        model_kwargs: Arguments of ``fletching.load_shared``, such as ``device`` and ``dtype``. A ``token`` is
            neither shown nor serialised, but a pickle holds it. Empty for a loaded model.
        name: Name of the run in a trace; ``None`` takes that of the class.
        tags: Tags of the run.
        metadata: Metadata of the run.

    Raises:
        ArgumentError: If an argument is unknown or outside its domain; no model is opened for that.

    Example:
        >>> from langchain_core.runnables import RunnableLambda
        >>> texts = ["Bread needs flour.", "Feathers keep an arrow straight."]
        >>> everything = RunnableLambda(lambda query: [Document(text) for text in texts])
        >>> retriever = FletchingRetriever(retriever=everything, model="mvp-mini", k=1)
        >>> [hit.page_content for hit in retriever.invoke("What keeps arrows straight?")]
        ['Feathers keep an arrow straight.']
    """

    retriever: Any
    k: int | None = 4
    fetch_k: int | None = None

    @field_validator("k", "fetch_k", mode="before")
    @classmethod
    def _check_count(cls, value: object, info: ValidationInfo) -> int | None:
        return check_count(cls.__name__, str(info.field_name), value)

    @field_validator("retriever", mode="before")
    @classmethod
    def _check_retriever(cls, value: object) -> object:
        if not isinstance(value, (VectorStore, Runnable)):
            raise bad_argument(cls.__name__, "retriever", "a retriever, a runnable or a vector store", value)
        return value

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        source, limit, fetch, options = self._plan(kwargs)
        documents = source.invoke(query, {"callbacks": run_manager.get_child()}, **options)
        return self._rerank(type(self).__name__, _take(documents, fetch), query, limit)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        if is_sync_override(self, FletchingRetriever, "_get_relevant_documents", "_aget_relevant_documents"):
            return await run_in_executor(
                None, self._get_relevant_documents, query, run_manager=run_manager.get_sync(), **kwargs
            )
        source, limit, fetch, options = self._plan(kwargs)
        documents = await source.ainvoke(query, {"callbacks": run_manager.get_child()}, **options)
        return await self._arerank(type(self).__name__, _take(documents, fetch), query, limit)

    def _plan(
        self, options: dict[str, Any]
    ) -> tuple[Runnable[str, list[Document]], int | None, int | None, dict[str, Any]]:
        """Decide on one call.

        Returns:
            ``(source, limit, fetch, options)``: whom to ask, how many documents to return, how many to read,
            and what else to tell the source.
        """
        owner = f"{type(self).__name__}.invoke"
        options = dict(options)
        limit = check_count(owner, "k", options.pop("k", self.k))
        fetch = check_count(owner, "fetch_k", options.pop("fetch_k", self.fetch_k))
        source = self.retriever
        if isinstance(source, VectorStore):
            source = source.as_retriever()
            fetch = fetch or max(_FETCH_AT_LEAST, _FETCH_PER_RESULT * (limit or 0))
        if fetch is not None:
            fetch = max(fetch, limit or 0)
        options |= _ask_store(source, limit, fetch)
        return source, limit, fetch, options


class FletchingSearchRetriever(Adapter, BaseRetriever):
    """Retrieve passages of a folder by meaning and by words, and rerank them.

    Needs ``pip install "langchain-fletching[search]"``. The metadata of a document tells its ``source`` (the
    file), ``heading``, ``page``, ``start_index`` and ``end_index`` in the file's text, ``retrieval_rank``
    before reranking, and ``relevance_score``, a Python float.

    Args:
        index: A ``fletching.search.Index``, or a folder, whose index is then opened and brought up to date at
            the first call. An index is pickled with the retriever, but cannot be serialised; copies share it.
        reranker: Checkpoint name, folder, hub id, or a loaded ``fletching.Reranker``; ``None`` leaves the
            order of retrieval.
        k: Documents to return, >= 1. ``invoke(query, k=2)`` decides for one call; there, ``None`` takes the
            retriever's own. Default 4, as in LangChain's vector stores.
        candidates: Passages to retrieve and rerank, >= 1; ``invoke(query, candidates=100)`` decides for one
            call, as with ``k``.
        name: Name of the run in a trace; ``None`` takes that of the class.
        tags: Tags of the run.
        metadata: Metadata of the run.

    Raises:
        ArgumentError: If an argument is unknown or outside its domain; no model is opened for that.

    Example:
        >>> FletchingSearchRetriever(index="no/such/folder")
        Traceback (most recent call last):
        ...
        fletching.errors.ArgumentError: FletchingSearchRetriever: `index` must be a fletching.search.Index ...
    """

    index: Any
    reranker: Any = "mvp-mini"
    k: int = 4
    candidates: int = 50

    @field_validator("index", mode="before")
    @classmethod
    def _check_index(cls, value: object) -> object:
        if isinstance(value, (str, Path)):
            if Path(value).is_dir():
                return str(value)
        else:
            from fletching.search import Index

            if isinstance(value, Index):
                return value
        domain = "a fletching.search.Index or an existing folder"
        raise bad_argument(cls.__name__, "index", domain, value)

    @field_validator("reranker", mode="before")
    @classmethod
    def _check_reranker(cls, value: object) -> object:
        if isinstance(value, (str, Path)) and str(value).strip():
            return str(value)
        is_text = isinstance(value, (str, Path))
        if value is not None and (is_text or not isinstance(value, fletching.Reranker)):
            domain = "a checkpoint name, a folder, a hub id, a loaded fletching.Reranker or None"
            raise bad_argument(cls.__name__, "reranker", domain, value)
        return value

    @field_validator("k", "candidates", mode="before")
    @classmethod
    def _check_count(cls, value: object, info: ValidationInfo) -> int:
        return check_positive(cls.__name__, str(info.field_name), value)

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """Write the arguments down; a loaded index or model cannot be.

        Returns:
            What `langchain_core.load.dumpd` puts out.
        """
        if isinstance(self.index, str) and (self.reranker is None or isinstance(self.reranker, str)):
            return super().to_json()
        return self.to_json_not_implemented()

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        options = self._options(kwargs)
        return [_build_document(hit) for hit in self._open().search(query, **options)]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        if is_sync_override(
            self, FletchingSearchRetriever, "_get_relevant_documents", "_aget_relevant_documents"
        ):
            return await run_in_executor(
                None, self._get_relevant_documents, query, run_manager=run_manager.get_sync(), **kwargs
            )
        options = self._options(kwargs)
        index = await asyncio.to_thread(self._open)
        return [_build_document(hit) for hit in await index.asearch(query, **options)]

    def _options(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Say how to search for one call; ``None`` takes the retriever's own."""
        owner, counts = f"{type(self).__name__}.invoke", {"k": self.k, "candidates": self.candidates}
        for name, value in arguments.items():
            if name not in counts:
                raise bad_choice(owner, "kwargs", counts, name)
            counts[name] = counts[name] if value is None else check_positive(owner, name, value)
        return {"top_k": counts["k"], "candidates": counts["candidates"], "reranker": self.reranker}

    def _open(self) -> Any:
        """Return the index; that of a folder is brought up to date at the first call."""
        folder = self.index
        if not isinstance(folder, str):
            return folder
        from fletching.search import Index

        with self._opened.lock:
            index = self._opened.get(folder)
            if index is None:
                index = Index(folder)
                index.update()
                self._opened.state = folder, index
            return index


def _ask_store(source: object, limit: int | None, fetch: int | None) -> dict[str, Any]:
    """Say what to tell the retriever of a store, so that it returns ``fetch``, or ``limit`` at least."""
    given: dict[str, Any] = {}
    while isinstance(source, RunnableBindingBase):
        given = {**source.kwargs, **given}
        source = source.bound
    if not isinstance(source, VectorStoreRetriever):
        return {}
    given = {**source.search_kwargs, **given}
    asked: dict[str, Any] = {}
    k = given.get("k") or _read_default(source, "k")
    if fetch is not None or (limit is not None and limit > k):
        k = asked["k"] = limit if fetch is None else fetch
    if source.search_type == "mmr" and k > (given.get("fetch_k") or _read_default(source, "fetch_k")):
        asked["fetch_k"] = k
    return asked


def _read_default(source: VectorStoreRetriever, name: str) -> int:
    """Return the count that a store takes unless told otherwise."""
    search = getattr(source.vectorstore, _SEARCHES.get(source.search_type, "similarity_search"))
    parameter = inspect.signature(search).parameters.get(name)
    is_told = parameter is not None and isinstance(parameter.default, int)
    return parameter.default if is_told else _STORE_COUNTS[name]  # type: ignore[union-attr]


def _build_document(hit: Any) -> Document:
    metadata = {
        "source": hit.file,
        "heading": hit.heading,
        "page": hit.page,
        "start_index": hit.start,
        "end_index": hit.end,
        "retrieval_rank": hit.retrieval_rank,
        "relevance_score": float(hit.score),
    }
    return Document(hit.text, metadata={key: value for key, value in metadata.items() if value is not None})


def _take(documents: Any, fetch: int | None) -> Any:
    """Cut a list of candidates; anything else is left to the check that names it."""
    return documents[:fetch] if isinstance(documents, (list, tuple)) else documents
