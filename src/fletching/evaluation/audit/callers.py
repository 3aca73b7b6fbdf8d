"""One way to call models of every make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SparseEncoder

from fletching.errors import bad_argument

__all__ = ["EmbedCaller", "FormError", "Ranked", "RerankCaller", "build_caller"]

Array = NDArray[np.float64]


class FormError(Exception):
    """An answer in the middle of a probe that is no ranking, or no vectors; the text says what is wrong."""


@dataclass(frozen=True)
class Ranked:
    """What a reranker answered.

    Args:
        order: Places of the documents in the list that was given, best first.
        scores: One for each document, in the order that was given; NaN for those that did not come back.
        lost_tokens: Tokens that were cut, by place; ``None`` if the model does not say.
        changed_input: Whether the model changed the list that it was given.
    """

    order: tuple[int, ...]
    scores: Array
    lost_tokens: Mapping[int, int] | None = None
    changed_input: bool = False


class RerankCaller:
    """Calls rerankers: ours, a stock ``CrossEncoder``, or any object with ``rank(query, documents)``.

    Args:
        model: The reranker.
        kind: What the report calls it.
        listwise: Whether scores may depend on the other documents; ``None`` asks the model.
    """

    def __init__(self, model: Any, *, kind: str = "reranker", listwise: bool | None = None) -> None:
        self.model = model
        self.kind = kind
        self.listwise = bool(getattr(model, "listwise", False)) if listwise is None else listwise
        self.takes_batch_size = "batch_size" in signature(model.rank).parameters
        self.takes_many = hasattr(model, "rank_batch") or isinstance(model, CrossEncoder)

    def rank(self, query: str, documents: Sequence[str], **options: Any) -> Ranked:
        """Rank one list.

        Args:
            query: The query.
            documents: Its candidates.
            **options: Keyword arguments of the model's ``rank``.

        Returns:
            The answer.
        """
        given = [*documents]
        ranked = _read_hits(self.model.rank(query, given, **options), len(documents))
        return replace(ranked, changed_input=given != [*documents])

    def rank_many(self, queries: Sequence[str], lists: Sequence[Sequence[str]]) -> list[Ranked]:
        """Rank several lists in one call; only where ``takes_many``.

        Args:
            queries: The queries.
            lists: Their candidates.

        Returns:
            One answer for each query.
        """
        sizes = [len(documents) for documents in lists]
        if hasattr(self.model, "rank_batch"):
            rankings = self.model.rank_batch([*queries], [[*documents] for documents in lists])
            return [_read_hits(hits, size) for hits, size in zip(rankings, sizes, strict=True)]
        pairs = [(query, document) for query, texts in zip(queries, lists, strict=True) for document in texts]
        scores = _to_array(self.model.predict(pairs))
        parts = np.split(scores, np.cumsum(sizes)[:-1])
        return [Ranked(tuple(np.argsort(-part, kind="stable").tolist()), part) for part in parts]


class SimilarityReranker:
    """Ranks with what only embeds: the similarity of a query to each document.

    Args:
        model: A sentence-transformers model with ``encode_query``, ``encode_document`` and ``similarity``.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def rank(
        self, query: str, documents: Sequence[str], batch_size: int | None = None
    ) -> list[dict[str, Any]]:
        """Rank one list.

        Args:
            query: The query.
            documents: Its candidates.
            batch_size: Texts of a batch; ``None`` leaves it to the model.

        Returns:
            Hits, best first.
        """
        return self.rank_batch([query], [documents], batch_size)[0]

    def rank_batch(
        self, queries: Sequence[str], document_lists: Sequence[Sequence[str]], batch_size: int | None = None
    ) -> list[list[dict[str, Any]]]:
        """Rank several lists; all texts are encoded in one call.

        Args:
            queries: The queries.
            document_lists: Their candidates.
            batch_size: Texts of a batch; ``None`` leaves it to the model.

        Returns:
            Hits of each query, best first.
        """
        options: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
        if isinstance(self.model, SparseEncoder):
            options["convert_to_sparse_tensor"] = False  # a sparse tensor cannot be sliced
        texts = [text for documents in document_lists for text in documents]
        if not texts:
            return [[] for _ in queries]
        query_vectors = self.model.encode_query([*queries], **options)
        vectors = self.model.encode_document(texts, **options)
        rankings, start = [], 0
        for place, documents in enumerate(document_lists):
            part = vectors[start : start + len(documents)]
            start += len(documents)
            scores = _to_array(self.model.similarity(query_vectors[place : place + 1], part))[0]
            order = np.argsort(-scores, kind="stable").tolist()
            rankings.append([{"corpus_id": index, "score": float(scores[index])} for index in order])
        return rankings


class EmbedCaller:
    """Calls embedders: ours, a stock ``SentenceTransformer``, or any object with ``encode(texts)``.

    Args:
        model: The embedder.
    """

    kind = "embedder"
    listwise = False

    def __init__(self, model: Any) -> None:
        self.model = model
        methods = [getattr(model, f"encode_{role}", model.encode) for role in ("query", "document")]
        self.takes_batch_size = all("batch_size" in signature(method).parameters for method in methods)
        self.takes_prompt = "prompt" in signature(model.encode).parameters

    def embed(self, texts: Sequence[str], *, role: str = "document", **options: Any) -> Array:
        """Embed texts.

        Args:
            texts: The texts.
            role: ``"query"`` or ``"document"``: which prompt, where the model has a method for it.
            **options: Keyword arguments of the model's method.

        Returns:
            One row for each text.
        """
        method = getattr(self.model, f"encode_{role}", self.model.encode)
        return _to_array(method([*texts], **options))

    def score(self, query: Array, documents: Array) -> Array:
        """Compare a query with documents as the model does.

        Args:
            query: Its vector, shape ``(D,)``.
            documents: Their vectors, shape ``(N, D)``.

        Returns:
            Shape ``(N,)``: the model's own similarity, else the cosine.
        """
        if hasattr(self.model, "similarity"):
            return _to_array(
                self.model.similarity(query[None].astype("float32"), documents.astype("float32"))
            )[0]
        norms = np.linalg.norm(documents, axis=1) * np.linalg.norm(query)
        cosines: Array = documents @ query / np.where(norms > 0, norms, 1)
        return cosines


def build_caller(model: Any, *, listwise: bool | None) -> RerankCaller | EmbedCaller:
    """Find out how to call a model.

    Args:
        model: Any object.
        listwise: Whether scores may depend on the other documents of a list; ``None`` asks the model.

    Returns:
        A caller.

    Raises:
        ArgumentError: If it has neither ``rank`` nor ``encode``.
    """
    for kind, base in (("sparse", SparseEncoder), ("multi_vector", MultiVectorEncoder)):
        if isinstance(model, base):
            return RerankCaller(SimilarityReranker(model), kind=kind, listwise=False)
    if callable(getattr(model, "rank", None)):
        return RerankCaller(model, listwise=listwise)
    if callable(getattr(model, "encode", None)):
        return EmbedCaller(model)
    domain = "a checkpoint's name or folder, or an object with `rank` or `encode`"
    raise bad_argument("audit", "model", domain, model)


def _read_hits(hits: Iterable[Mapping[str, Any]], n_documents: int) -> Ranked:
    scores = np.full(n_documents, np.nan)
    order = []
    try:
        for hit in hits:
            order.append(int(hit["corpus_id"]))
            if 0 <= order[-1] < n_documents:
                scores[order[-1]] = float(hit["score"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        domain = 'a method that returns {"corpus_id": int, "score": float} for each passage'
        raise bad_argument("audit", "model.rank", domain, hits) from error
    return Ranked(tuple(order), scores, getattr(hits, "lost_tokens", None))


def _to_array(values: Any) -> Array:
    """Turn what models return into an array: arrays, tensors on any device, lists of either."""
    if isinstance(values, (list, tuple)) and any(isinstance(value, torch.Tensor) for value in values):
        return np.stack([_to_array(value) for value in values])
    if isinstance(values, torch.Tensor):
        values = values.to_dense() if values.layout != torch.strided else values
        return values.detach().to("cpu", torch.float64).numpy()
    return np.asarray(values, dtype=np.float64)
