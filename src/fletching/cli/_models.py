"""Opening models for a command, and ranking with either kind."""

from __future__ import annotations

import sys
from typing import Any

from fletching.cli._output import reserve_stdout

__all__ = ["open_model", "quieten", "rank_by_similarity", "someone_watches"]


def open_model(name: str, **options: Any) -> Any:
    """Open a checkpoint; the libraries below draw progress bars only for a terminal.

    Args:
        name: As for `fletching.load`.
        **options: As for `fletching.load`; those that are ``None`` are left to the checkpoint.

    Returns:
        An embedder or a reranker.
    """
    quieten()

    with reserve_stdout():
        from fletching.models.sharing import load_shared

        return load_shared(name, **{key: value for key, value in options.items() if value is not None})


def quieten() -> None:
    """Stop the bars of the libraries below when nobody watches; call it before transformers is imported."""
    from huggingface_hub.utils import disable_progress_bars

    if not someone_watches():
        disable_progress_bars()  # transformers asks the hub's switch for its own bars


def rank_by_similarity(
    embedder: Any, query: str, document_embeddings: Any, *, top_k: int | None = None
) -> list[dict[str, Any]]:
    """Rank documents as a vector store does.

    Args:
        embedder: The embedder that made the embeddings.
        query: The query.
        document_embeddings: ``embedder.encode_document`` of N documents, shape ``(N, D)``.
        top_k: Hits to return; ``None`` returns all.

    Returns:
        ``{"corpus_id": int, "score": float}``, best first; equal scores keep the order of the documents. The
        score is the embedder's own similarity, for most the cosine.
    """
    if not len(document_embeddings):
        return []
    scores = embedder.similarity(embedder.encode_query(query), document_embeddings)[0].tolist()
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return [{"corpus_id": index, "score": scores[index]} for index in order[:top_k]]


def someone_watches() -> bool:
    """Say whether a progress bar on stderr has someone to see it."""
    return sys.stderr is not None and sys.stderr.isatty()
