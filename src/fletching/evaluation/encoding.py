"""Systems that encode passages once and compare them with each query."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fletching.errors import FletchingError
from fletching.evaluation.interface import (
    Keep,
    Scores,
    System,
    describe_model,
    find_culprit,
    look_up,
    sort_scores,
)
from fletching.evaluation.vectors import Arrays, Encoder

__all__ = ["EncoderSystem"]

_BLOCK = 4096  # passages encoded at once: what an interrupted run loses at most
_SCORES_AT_ONCE = 1 << 24  # floats of the scores that many queries take at once


class EncoderSystem(System):
    """An embedder of any family: passages are encoded block by block and compared exactly.

    What was encoded stays in memory, or in files where ``keep`` puts it: a dense vector takes 4 * D bytes
    (1.5 KB at 384 dimensions: 1.5 GB for a million passages), a sparse one 8 for each term, a multi-vector
    one 4 * D for each token; ids come on top. A query takes 4 bytes for each passage.

    Args:
        name: What the user called it.
        kind: ``"embedder"``, ``"sparse"`` or ``"multi_vector"``.
        encoder: Encodes and compares.
    """

    def __init__(self, name: str, kind: str, encoder: Encoder) -> None:
        super().__init__(name)
        self.kind = kind
        self.encoder = encoder
        self._ids: list[str] = []
        self._places: dict[str, int] = {}
        self._blocks: list[Arrays] = []
        self._starts = np.zeros(1, dtype=np.int64)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The model, if it is one of torch."""
        return (self.encoder.model,) if isinstance(self.encoder.model, nn.Module) else ()

    def fingerprint(self) -> str:
        """Name what the model computes, and how its vectors are compared."""
        if self.kind == "sparse":
            self.encoder.encode_queries(
                ["a"]
            )  # its pooling learns a dimension that is part of its description
        return describe_model(
            self.encoder.model, {**self.encoder.options, "encoder": type(self.encoder).__name__}
        )

    def prepare(self, documents: Iterable[tuple[str, str]], *, keep: Keep | None = None) -> None:
        """Encode the documents, block by block, each as soon as it has been read."""
        self._ids, self._blocks = [], []
        ids, texts = list[str](), list[str]()
        for key, text in documents:
            ids.append(key)
            texts.append(text)
            if len(ids) == _BLOCK:
                self._add_block(ids, texts, keep)
                ids, texts = [], []
        if ids:
            self._add_block(ids, texts, keep)
        sizes = [self.encoder.count(block) for block in self._blocks]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._places = {}
        total = sum(map(self.encoder.count_bytes, self._blocks))
        self.bytes_per_vector = total / len(self._ids) if self._ids else None

    def _add_block(self, ids: list[str], texts: list[str], keep: Keep | None) -> None:
        def encode() -> Arrays:
            try:
                block = self.encoder.encode_documents(texts)
            except FletchingError as error:
                place = find_culprit(texts, self.encoder.encode_documents)
                at = "" if place is None else f", document {ids[place]!r}"
                raise FletchingError(f"System {self.name!r}{at}: {error}") from error
            self._refuse_nan(block, ids)
            return block

        self._blocks.append(keep(ids, texts, encode) if keep else encode())
        self._ids += ids

    def _refuse_nan(self, block: Arrays, ids: list[str]) -> None:
        if all(np.isfinite(values).all() for values in block.values()):
            return
        for place, key in enumerate(ids):
            one = self.encoder.take(block, np.array([place]))
            if not all(np.isfinite(values).all() for values in one.values()):
                raise FletchingError(
                    f"System {self.name!r}: the vector of document {key!r} must be finite; got NaN or "
                    "infinity. Load the model in float32 or check its weights."
                )

    def _score(self, query_id: str, query: str, ids: list[str]) -> Scores:
        if not self._places:
            self._places = {key: place for place, key in enumerate(self._ids)}
        encoded = self._encode_queries({query_id: query})
        places = np.array(look_up(self._places, ids))
        numbers = np.searchsorted(self._starts, places, side="right") - 1
        scores = np.empty(len(ids))
        for number in np.unique(numbers):
            inside = np.flatnonzero(numbers == number)
            block = self.encoder.take(self._blocks[number], places[inside] - self._starts[number])
            scores[inside] = self.encoder.score(encoded, block)[0]
        return dict(zip(ids, scores.tolist(), strict=True))

    def _search_many(self, queries: Mapping[str, str], depth: int) -> dict[str, Scores]:
        found: dict[str, Scores] = {}
        keys = list(queries)
        at_once = max(1, _SCORES_AT_ONCE // max(1, len(self._ids)))
        for first in range(0, len(keys), at_once):
            part = {key: queries[key] for key in keys[first : first + at_once]}
            encoded = self._encode_queries(part)
            scores = np.empty((len(part), len(self._ids)), dtype=np.float32)
            for number, block in enumerate(self._blocks):
                scores[:, self._starts[number] : self._starts[number + 1]] = self.encoder.score(
                    encoded, block
                )
            for key, row in zip(part, scores, strict=True):
                found[key] = self._take_best(key, row, depth)
        return found

    def _encode_queries(self, queries: Mapping[str, str]) -> Any:
        texts = list(queries.values())
        try:
            return self.encoder.encode_queries(texts)
        except FletchingError as error:
            place = find_culprit(texts, self.encoder.encode_queries)
            at = "" if place is None else f", query {list(queries)[place]!r}"
            raise FletchingError(f"System {self.name!r}{at}: {error}") from error

    def _take_best(self, query_id: str, scores: NDArray[np.float32], depth: int) -> Scores:
        """Take the first ``depth``, and for the last place the smallest of the ids that tie for it."""
        broken = np.flatnonzero(~np.isfinite(scores))
        if len(broken):
            self._check(query_id, {self._ids[place]: float(scores[place]) for place in broken[:1]})
        places = np.arange(len(scores))
        if len(scores) > depth:
            places = np.flatnonzero(scores >= np.partition(scores, -depth)[-depth])
        found = sort_scores({self._ids[place]: float(scores[place]) for place in places})
        return dict(list(found.items())[:depth])
