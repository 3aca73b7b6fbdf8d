"""Reranking as a LangChain document compressor."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import field_validator

from fletching.errors import bad_argument
from fletching.models.inputs import check_count
from langchain_fletching._model import RerankerAdapter, is_sync_override


class FletchingReranker(RerankerAdapter, BaseDocumentCompressor):
    """Reorder documents by a reranker of fletching, and keep the best.

    The result holds copies with the score in their metadata; what is passed in stays as it is. The copies are
    shallow: a list or dict inside the metadata is the one that was passed in. The model is
    opened on first use, once per process, and may be used from any thread and any event loop.

    Args:
        model: Checkpoint name (``"mvp-mini"``, the default), folder, hub id, or a loaded
            ``fletching.Reranker``. A loaded one is pickled with the adapter, but cannot be serialised.
        top_n: Documents to return, >= 1; ``None`` returns all. Default 3, as in LangChain's own rerankers.
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

    Raises:
        ArgumentError: If an argument is unknown or outside its domain; no model is opened for that.

    Example:
        >>> reranker = FletchingReranker(model="mvp-mini", top_n=1)
        >>> documents = [Document("Bread needs flour."), Document("Feathers keep an arrow straight.")]
        >>> [best] = reranker.compress_documents(documents, "What keeps an arrow straight?")
        >>> best.page_content
        'Feathers keep an arrow straight.'
    """

    top_n: int | None = 3

    @field_validator("top_n", mode="before")
    @classmethod
    def _check_top_n(cls, value: object) -> int | None:
        return check_count(cls.__name__, "top_n", value)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Rerank the documents of one query.

        Args:
            documents: The candidates; an empty list gives an empty list.
            query: The query; not blank.
            callbacks: Not used; `as_runnable` is what shows up in a trace.

        Returns:
            Copies of the best documents, best first; equal scores keep the order of ``documents``.

        Raises:
            ArgumentError: If a document has no text, or the query is blank.
            CheckpointError: If the model cannot be opened.
        """
        return self._rerank(f"{type(self).__name__}.compress_documents", documents, query, self.top_n)

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """`compress_documents` for event loops: they stay responsive, and cancelling stops the work.

        Args:
            documents: As there.
            query: As there.
            callbacks: As there.

        Returns:
            Exactly what `compress_documents` returns, that of a subclass too.

        Raises:
            ArgumentError: As there.
            CheckpointError: As there.
        """
        if is_sync_override(self, FletchingReranker, "compress_documents", "acompress_documents"):
            return await asyncio.to_thread(self.compress_documents, documents, query, callbacks)
        return await self._arerank(f"{type(self).__name__}.acompress_documents", documents, query, self.top_n)

    def as_runnable(self) -> Runnable[dict[str, Any], list[Document]]:
        """Return the reranker as a step of a chain, traced as one run under the name of this class.

        Returns:
            A runnable from ``{"query": str, "documents": list[Document]}`` to the documents that
            `compress_documents` returns.
        """
        return RunnableLambda(self._run, afunc=self._arun, name=type(self).__name__)

    def _run(self, step: Mapping[str, Any]) -> list[Document]:
        query, documents = self._unpack(step)
        return self.compress_documents(documents, query)

    async def _arun(self, step: Mapping[str, Any]) -> list[Document]:
        query, documents = self._unpack(step)
        return await self.acompress_documents(documents, query)

    @classmethod
    def _unpack(cls, step: object) -> tuple[str, Sequence[Document]]:
        if not isinstance(step, Mapping) or not {"query", "documents"} <= step.keys():
            owner = f"{cls.__name__}.as_runnable"
            raise bad_argument(owner, "input", "a dict with 'query' and 'documents'", step)
        return step["query"], step["documents"]
