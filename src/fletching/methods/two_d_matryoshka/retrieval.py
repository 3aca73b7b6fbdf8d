"""Rankings at every size of a grid, from passages that are encoded once and then forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fletching.errors import DataError
from fletching.evaluation.data_set import EvaluationSet
from fletching.methods.two_d_matryoshka.depth_vectors import DepthEncoder, cut_vectors, has_unit_length
from fletching.methods.two_d_matryoshka.sizes import Size

__all__ = ["rank_at_sizes"]

Run = dict[str, dict[str, float]]

_QUERIES_AT_ONCE = 512


def rank_at_sizes(
    encoder: DepthEncoder,
    data: EvaluationSet,
    sizes: Sequence[Size],
    *,
    depth: int = 1000,
    document_layers: int | None = None,
    precision: str = "float32",
) -> Iterator[tuple[Size, Run]]:
    """Rank passages for all queries at all sizes.

    Passages are read and encoded block by block, once for all sizes. Memory holds the vectors of the queries
    and of one block at all depths, and the best ``depth`` of each query at each size.

    Args:
        encoder: Encodes.
        data: Queries and passages; where it brings candidates, these are ordered, else all passages are
            searched.
        sizes: The grid.
        depth: Passages that a search keeps for each query.
        document_layers: Layers that run for passages; ``None`` runs as many as for the queries.
        precision: Numbers that vectors are stored in.

    Yields:
        Each size with its ranking: query id -> document id -> score.

    Raises:
        DataError: If a candidate is not in the collection.
    """
    layers = sorted({size[0] for size in sizes})
    queries = [query for query in data.queries if data.candidates is None or data.candidates.get(query)]
    vectors = encoder.encode([data.queries[query] for query in queries], layers, "query")
    cut = partial(cut_vectors, unit_length=has_unit_length(encoder.model), precision=precision)
    cut_queries = {size: cut(vectors[size[0]], size[1]) for size in sizes}
    ranker: _Ranker
    if data.candidates is None:
        ranker = _Search(encoder.model, queries, sizes, depth)
    else:
        ranker = _Lists(encoder.model, {query: data.candidates[query] for query in queries}, sizes)
    passages = ((document.id, document.full_text) for document in data.open_corpus())
    wanted = ((key, text) for key, text in passages if ranker.wants(key))
    passage_layers = layers if document_layers is None else [document_layers]
    for keys, found in encoder.encode_blocks(wanted, passage_layers, "document"):
        for size in sizes:
            block = cut(found[document_layers or size[0]], size[1])
            ranker.add(size, cut_queries[size], block, keys)
        ranker.close_block(keys)
    ranker.finish(data.name)
    for size in sizes:
        yield size, ranker.build_run(size)


class _Ranker(Protocol):
    """Compares queries with passages that come in blocks."""

    def wants(self, key: str) -> bool: ...

    def add(self, size: Size, queries: Tensor, block: Tensor, keys: Sequence[str]) -> None: ...

    def close_block(self, keys: Sequence[str]) -> None: ...

    def finish(self, data_name: str) -> None: ...

    def build_run(self, size: Size) -> Run: ...


class _Lists:
    """Scores the candidates of a first stage."""

    def __init__(
        self, model: Any, candidates: Mapping[str, Mapping[str, float]], sizes: Sequence[Size]
    ) -> None:
        self._compare: Callable[[Tensor, Tensor], Tensor] = model.similarity_pairwise
        self._lists = {query: list(scores) for query, scores in candidates.items()}
        self._wanted: dict[str, list[tuple[int, int]]] = {}  # passage -> places of its query and of the pair
        n_pairs = 0
        for place, keys in enumerate(self._lists.values()):
            for key in keys:
                self._wanted.setdefault(key, []).append((place, n_pairs))
                n_pairs += 1
        self._missing = set(self._wanted)
        self._scores = {size: np.zeros(n_pairs, dtype=np.float32) for size in sizes}

    def wants(self, key: str) -> bool:
        return key in self._wanted

    def add(self, size: Size, queries: Tensor, block: Tensor, keys: Sequence[str]) -> None:
        pairs = [(*pair, row) for row, key in enumerate(keys) for pair in self._wanted[key]]
        places, numbers, rows = torch.tensor(pairs).T
        scores = self._compare(queries[places], block[rows])
        self._scores[size][numbers.numpy()] = scores.float().cpu().numpy()

    def close_block(self, keys: Sequence[str]) -> None:
        self._missing.difference_update(keys)

    def finish(self, data_name: str) -> None:
        if self._missing:
            raise DataError(
                f"Data {data_name!r}: the collection must hold all candidates; {len(self._missing)} are "
                f"missing, such as {min(self._missing)!r}."
            )

    def build_run(self, size: Size) -> Run:
        scores = iter(self._scores[size].tolist())
        return {
            query: dict(zip(keys, islice(scores, len(keys)), strict=True))
            for query, keys in self._lists.items()
        }


class _Search:
    """Keeps the best passages of every query so far."""

    def __init__(self, model: Any, queries: Sequence[str], sizes: Sequence[Size], depth: int) -> None:
        self._compare: Callable[[Tensor, Tensor], Tensor] = model.similarity
        self._queries = queries
        self._depth = depth
        self._ids: list[str] = []
        self._scores = {size: torch.empty(len(queries), 0) for size in sizes}
        self._places = {size: torch.empty(len(queries), 0, dtype=torch.long) for size in sizes}

    def wants(self, key: str) -> bool:
        return True

    def add(self, size: Size, queries: Tensor, block: Tensor, keys: Sequence[str]) -> None:
        new = torch.arange(len(self._ids), len(self._ids) + len(keys))
        scores, places = [], []
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            rows = slice(start, start + _QUERIES_AT_ONCE)
            found = self._compare(queries[rows], block).float().cpu()
            merged = torch.cat([self._scores[size][rows], found], dim=1)
            merged_places = torch.cat([self._places[size][rows], new.expand_as(found)], dim=1)
            best = merged.topk(min(self._depth, merged.shape[1]), dim=1)
            scores.append(best.values)
            places.append(merged_places.gather(1, best.indices))
        self._scores[size], self._places[size] = torch.cat(scores), torch.cat(places)

    def close_block(self, keys: Sequence[str]) -> None:
        self._ids += keys

    def finish(self, data_name: str) -> None:
        pass

    def build_run(self, size: Size) -> Run:
        rows = zip(self._queries, self._places[size].tolist(), self._scores[size].tolist(), strict=True)
        return {
            query: {self._ids[place]: score for place, score in zip(places, scores, strict=True)}
            for query, places, scores in rows
        }
