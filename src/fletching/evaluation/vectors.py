"""What the three families of encoders make of texts, and how a query is compared with it.

The encoded passages of one block are plain arrays by name (`Arrays`), so that they can be written to files:

- dense: ``vectors (N, D)``
- sparse: ``starts (N + 1)``, ``terms`` and ``weights``: passage i owns those from ``starts[i]`` to
  ``starts[i + 1]``
- multi-vector: ``starts (N + 1)`` and ``vectors (T, D)``, one vector for each token, likewise
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

__all__ = ["AdapterEncoder", "Arrays", "DenseEncoder", "Encoder", "MultiVectorEncoder", "SparseEncoder"]

Arrays = Mapping[str, NDArray[Any]]

_INDEX_BYTES = 4  # an index stores the number of a term in four bytes
_ROWS_AT_ONCE = 1024  # of a block, where only the model's own similarity can compare them


class Encoder(ABC):
    """Encodes texts and compares them; what a system of one of the three families is made of.

    Args:
        model: The model.
        options: Keyword arguments of its encode calls.
    """

    def __init__(self, model: Any, options: Mapping[str, Any] | None = None) -> None:
        self.model = model
        self.options = dict(options or {})

    @abstractmethod
    def encode_documents(self, texts: list[str]) -> Arrays:
        """Encode passages into one block."""

    @abstractmethod
    def encode_queries(self, texts: list[str]) -> Any:
        """Encode queries into what :meth:`score` takes."""

    @abstractmethod
    def score(self, queries: Any, block: Arrays) -> NDArray[np.floating[Any]]:
        """Compare B queries with the N passages of a block, shape ``(B, N)``."""

    @abstractmethod
    def take(self, block: Arrays, places: NDArray[np.int64]) -> Arrays:
        """Make a block of the passages at some places."""

    @abstractmethod
    def count(self, block: Arrays) -> int:
        """Count the passages of a block."""

    @abstractmethod
    def count_bytes(self, block: Arrays) -> int:
        """Count the bytes that an index would store for a block."""


class DenseEncoder(Encoder):
    """One vector for each text, from any ``SentenceTransformer``."""

    def encode_documents(self, texts: list[str]) -> Arrays:
        """Encode passages with the model's own prompt, shape ``(N, D)``, float32."""
        return {"vectors": self._prepare(self.model.encode_document(texts, **self.options))}

    def encode_queries(self, texts: list[str]) -> NDArray[np.float32]:
        """Encode queries with the model's own prompt, shape ``(B, D)``, float32."""
        return self._prepare(self.model.encode_query(texts, **self.options))

    def score(self, queries: Any, block: Arrays) -> NDArray[np.floating[Any]]:
        """Compare by the model's similarity; a cosine is the product of vectors that have length one."""
        vectors = block["vectors"]
        if self._similarity in ("cosine", "dot"):
            product: NDArray[np.floating[Any]] = queries @ vectors.T
            return product
        compare = self.model.similarity
        parts = [
            _to_array(compare(torch.tensor(queries), torch.tensor(vectors[start : start + _ROWS_AT_ONCE])))
            for start in range(0, len(vectors), _ROWS_AT_ONCE)
        ]
        return np.concatenate(parts, axis=1)

    def take(self, block: Arrays, places: NDArray[np.int64]) -> Arrays:
        """Take rows."""
        return {"vectors": block["vectors"][places]}

    def count(self, block: Arrays) -> int:
        """Count rows."""
        return len(block["vectors"])

    def count_bytes(self, block: Arrays) -> int:
        """Count the bytes of the vectors."""
        return block["vectors"].nbytes

    @property
    def _similarity(self) -> str:
        return str(getattr(self.model, "similarity_fn_name", ""))

    def _prepare(self, vectors: Any) -> NDArray[np.float32]:
        found = _to_array(vectors)
        if self._similarity == "cosine":
            return _to_array(normalize(torch.from_numpy(found), dim=1))
        return found


class AdapterEncoder(DenseEncoder):
    """One vector for each text, from an embedding object of LangChain or LlamaIndex; compared by cosine.

    Args:
        model: The object.
        truncate_dim: Dimensions to keep; ``None`` keeps all.
    """

    def __init__(self, model: Any, *, truncate_dim: int | None = None) -> None:
        super().__init__(model, {"truncate_dim": truncate_dim})

    @staticmethod
    def takes(model: Any) -> bool:
        """Say whether an object is one of the two."""
        return all(hasattr(model, name) for name in ("embed_documents", "embed_query")) or all(
            hasattr(model, name) for name in ("get_text_embedding", "get_query_embedding")
        )

    def encode_documents(self, texts: list[str]) -> Arrays:
        """Embed passages, all at once where the object can."""
        if hasattr(self.model, "embed_documents"):
            vectors = self.model.embed_documents(texts)
        elif hasattr(self.model, "get_text_embedding_batch"):
            vectors = self.model.get_text_embedding_batch(texts)
        else:
            vectors = [self.model.get_text_embedding(text) for text in texts]
        return {"vectors": self._prepare(vectors)}

    def encode_queries(self, texts: list[str]) -> NDArray[np.float32]:
        """Embed queries one by one: that is all these objects can."""
        embed = getattr(self.model, "embed_query", None) or self.model.get_query_embedding
        return self._prepare([embed(text) for text in texts])

    @property
    def _similarity(self) -> str:
        return "cosine"

    def _prepare(self, vectors: Any) -> NDArray[np.float32]:
        return super()._prepare(_to_array(vectors)[:, : self.options["truncate_dim"]])


class SparseEncoder(Encoder):
    """A weight for each term that a text is about, from sentence-transformers' ``SparseEncoder``."""

    def encode_documents(self, texts: list[str]) -> Arrays:
        """Encode passages; terms with weight 0 are not kept."""
        encoded = self.model.encode_document(
            texts, convert_to_sparse_tensor=True, save_to_cpu=True, **self.options
        ).coalesce()
        rows, terms = encoded.indices().numpy()
        weights = encoded.values().float().numpy()
        kept = weights != 0
        counts = np.bincount(rows[kept], minlength=len(texts))
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return {"starts": starts, "terms": terms[kept].astype(np.int32), "weights": weights[kept]}

    def encode_queries(self, texts: list[str]) -> torch.Tensor:
        """Encode queries, shape ``(B, V)``, a sparse tensor."""
        encoded: torch.Tensor = self.model.encode_query(
            texts, convert_to_sparse_tensor=True, save_to_cpu=True, **self.options
        )
        return encoded.float()

    def score(self, queries: Any, block: Arrays) -> NDArray[np.floating[Any]]:
        """Compare by the model's similarity; a dot product reads only the terms that are there."""
        n = self.count(block)
        if self.model.similarity_fn_name == "dot":
            rows = np.repeat(np.arange(n), np.diff(block["starts"]))
            terms, weights = block["terms"], block["weights"]
            dense = queries.to_dense().numpy()
            return np.stack([np.bincount(rows, weights * query[terms], n) for query in dense])
        parts = []
        for start in range(0, n, _ROWS_AT_ONCE):
            part = self.take(block, np.arange(start, min(start + _ROWS_AT_ONCE, n)))
            rows = np.repeat(np.arange(len(part["starts"]) - 1), np.diff(part["starts"]))
            dense = torch.zeros(len(part["starts"]) - 1, queries.shape[1])
            dense[torch.from_numpy(rows), torch.from_numpy(part["terms"]).long()] = torch.from_numpy(
                part["weights"]
            )
            parts.append(_to_array(self.model.similarity(queries.to_dense(), dense)))
        return np.concatenate(parts, axis=1)

    def take(self, block: Arrays, places: NDArray[np.int64]) -> Arrays:
        """Take passages with their terms."""
        starts, inside = _take_ranges(block["starts"], places)
        return {"starts": starts, "terms": block["terms"][inside], "weights": block["weights"][inside]}

    def count(self, block: Arrays) -> int:
        """Count passages."""
        return len(block["starts"]) - 1

    def count_bytes(self, block: Arrays) -> int:
        """Count a number and a weight for each term."""
        return len(block["terms"]) * (_INDEX_BYTES + block["weights"].itemsize)


class MultiVectorEncoder(Encoder):
    """A vector for each token of a text, from sentence-transformers' ``MultiVectorEncoder``."""

    def encode_documents(self, texts: list[str]) -> Arrays:
        """Encode passages, all their vectors below one another."""
        encoded = self._encode(self.model.encode_document, texts)
        starts = np.concatenate([[0], np.cumsum([len(vectors) for vectors in encoded])]).astype(np.int64)
        return {"starts": starts, "vectors": np.concatenate(encoded)}

    def encode_queries(self, texts: list[str]) -> list[NDArray[np.float32]]:
        """Encode queries, each into an array ``(T, D)``."""
        return self._encode(self.model.encode_query, texts)

    def score(self, queries: Any, block: Arrays) -> NDArray[np.floating[Any]]:
        """Compare by the model's similarity."""
        starts, vectors = block["starts"], block["vectors"]
        documents = [torch.tensor(vectors[start:stop]) for start, stop in pairwise(starts)]
        return _to_array(self.model.similarity([torch.from_numpy(query) for query in queries], documents))

    def take(self, block: Arrays, places: NDArray[np.int64]) -> Arrays:
        """Take passages with their vectors."""
        starts, inside = _take_ranges(block["starts"], places)
        return {"starts": starts, "vectors": block["vectors"][inside]}

    def count(self, block: Arrays) -> int:
        """Count passages."""
        return len(block["starts"]) - 1

    def count_bytes(self, block: Arrays) -> int:
        """Count the bytes of the vectors."""
        return block["vectors"].nbytes

    def _encode(self, encode: Any, texts: list[str]) -> list[NDArray[np.float32]]:
        return [_to_array(vectors) for vectors in encode(texts, convert_to_numpy=True, **self.options)]


def _take_ranges(
    starts: NDArray[np.int64], places: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the starts of the chosen ranges once they stand together, and what lies inside them."""
    ranges: Sequence[NDArray[np.int64]] = [np.arange(starts[place], starts[place + 1]) for place in places]
    new = np.concatenate([[0], np.cumsum([len(inside) for inside in ranges])]).astype(np.int64)
    return new, np.concatenate([*ranges, np.empty(0, dtype=np.int64)]).astype(np.int64)


def _to_array(values: Any) -> NDArray[np.float32]:
    """Turn a tensor, an array or lists of numbers into a float32 array."""
    if isinstance(values, torch.Tensor):
        values = values.to_dense() if values.is_sparse else values
        return values.detach().float().cpu().numpy()
    return np.asarray(values, dtype=np.float32)
