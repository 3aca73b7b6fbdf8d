"""What a rerank call returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class Ranking(list[dict[str, Any]]):
    """Hits of one query, best first: ``{"corpus_id": int, "score": float}``, with ``"text"`` on request.

    A plain list to everyone who expects what sentence-transformers returns; equal scores keep the input
    order.

    Args:
        hits: The hits.
        lost_tokens: Tokens that did not fit, by ``corpus_id``, for documents cut by ``long="truncate"``;
            ``None`` when they are not known: a process pool did the work, or the model's batches cannot be
            taken apart.

    Example:
        >>> ranking = Ranking([{"corpus_id": 1, "score": 2.5}], lost_tokens={1: 40})
        >>> ranking[0]["corpus_id"], ranking.lost_tokens
        (1, {1: 40})
    """

    def __init__(
        self, hits: Iterable[dict[str, Any]] = (), *, lost_tokens: Mapping[int, int] | None = None
    ) -> None:
        super().__init__(hits)
        self.lost_tokens = None if lost_tokens is None else dict(lost_tokens)
