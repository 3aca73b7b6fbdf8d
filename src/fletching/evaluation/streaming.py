"""Dense search that forgets passages as it goes: each is encoded once, and only the best are kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from fletching.errors import FletchingError
from fletching.progress import progress_bar

__all__ = ["Hits", "search_vectors"]

Key = TypeVar("Key", bound=Hashable)
Hits = Iterator[tuple[Key, dict[str, float]]]
"""Query by query: passage id -> score, best first."""

_PASSAGES_AT_ONCE = 8192
_QUERIES_AT_ONCE = 256


def search_vectors(
    model: Any,
    queries: Mapping[Key, str],
    *,
    passages: Iterable[tuple[str, str]],
    compare: Callable[[Tensor, Tensor], Tensor],
    depth: int = 1000,
    batch_size: int | None = None,
    show_progress_bar: bool | None = None,
) -> Hits[Key]:
    """Compare every query with every passage, and keep the best.

    Made for many queries on a large collection, such as mining negatives: vectors stay on the model's device,
    and memory holds those of the queries, those of 8192 passages, and two numbers for each hit: 1.2 GB for
    100,000 queries at a depth of 1000. `open_system` keeps the vectors of all passages instead.

    Args:
        model: A dense embedder; its own prompts are applied.
        queries: Query -> text.
        passages: Pairs of id and text.
        compare: From vectors of queries and passages, ``(B, D)`` and ``(N, D)``, to scores ``(B, N)``, higher
            is better; such as ``model.similarity``.
        depth: Passages to keep for each query, >= 1.
        batch_size: Texts of one batch; ``None`` leaves it to the model.
        show_progress_bar: ``None``: if the ``fletching`` logger is at INFO and stderr is a terminal.

    Yields:
        Each query with ``depth`` passages, or all; equal scores keep the order of ``passages``.

    Raises:
        FletchingError: If a vector holds NaN or infinity.
    """
    options: dict[str, Any] = {"convert_to_tensor": True, "show_progress_bar": False}
    if batch_size is not None:
        options["batch_size"] = batch_size
    encoded = model.encode_query(list(queries.values()), **options).float()
    _refuse_nan(encoded, list(queries), "query")
    ids: list[str] = []
    best = torch.empty((len(queries), 0), device=encoded.device)
    places = torch.empty((len(queries), 0), dtype=torch.long, device=encoded.device)
    with progress_bar(None, "Searching", show_progress_bar) as advance:
        for chunk in _cut(passages):
            vectors = model.encode_document([text for _, text in chunk], **options).float()
            _refuse_nan(vectors, [key for key, _ in chunk], "passage")
            new = torch.arange(len(ids), len(ids) + len(chunk), device=encoded.device)
            ids += [key for key, _ in chunk]
            vectors = vectors.to(encoded.device)
            best, places = _merge(best, places, encoded, vectors, new, depth, compare)
            advance(len(chunk))
    for key, row, values in zip(queries, places, best, strict=True):
        yield key, {ids[place]: value for place, value in zip(row.tolist(), values.tolist(), strict=True)}


def _refuse_nan(vectors: Tensor, keys: list[Any], what: str) -> None:
    """Refuse what would be ranked first, or never, without a word."""
    broken = (~vectors.isfinite().all(dim=1)).nonzero()
    if len(broken):
        raise FletchingError(
            f"search_vectors: the vector of {what} {keys[int(broken[0])]!r} must be finite; got NaN or "
            "infinity. Load the model in float32 or check its weights."
        )


def _merge(
    best: Tensor,
    places: Tensor,
    queries: Tensor,
    vectors: Tensor,
    new: Tensor,
    depth: int,
    compare: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Add passages to the best ones so far; a stable sort leaves earlier passages first among equals."""
    rows = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        block = slice(start, start + _QUERIES_AT_ONCE)
        kept, kept_places = best[block], places[block]
        scores = compare(queries[block], vectors)
        new_places = new.expand(len(scores), -1)
        if kept.shape[1] == depth:
            scores, order = _keep_better(scores, kept[:, -1:])
            new_places = new_places.gather(1, order)
        ordered, order = torch.cat([kept, scores], dim=1).sort(dim=1, descending=True, stable=True)
        candidates = torch.cat([kept_places, new_places], dim=1)
        rows.append((ordered[:, :depth], candidates.gather(1, order[:, :depth])))
    return torch.cat([scores for scores, _ in rows]), torch.cat([kept for _, kept in rows])


def _keep_better(scores: Tensor, lowest: Tensor) -> tuple[Tensor, Tensor]:
    """Cut scores down to those above the lowest kept one: few, once many passages have been seen.

    Args:
        scores: Of new passages, shape ``(B, N)``.
        lowest: What a passage must exceed, shape ``(B, 1)``.

    Returns:
        Scores and places in the passages' order, with as many columns as the query with the most such
        passages needs; minus infinity fills the other rows up.
    """
    better = scores > lowest
    masked = scores.masked_fill(~better, -torch.inf)
    order = masked.topk(int(better.sum(dim=1).max()), dim=1).indices.sort(dim=1).values
    return masked.gather(1, order), order


def _cut(passages: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    stream = iter(passages)
    while chunk := list(islice(stream, _PASSAGES_AT_ONCE)):
        yield chunk
