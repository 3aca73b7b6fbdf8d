"""What every result on LIMIT is read against: chance, word overlap, random vectors, the answer key.

A baseline has one method, ``score(queries, documents)``, that returns a matrix; any object with such a method
can be evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fletching.errors import DataError
from fletching.evaluation.bm25 import BM25
from fletching.methods.limit.data import LimitDataset
from fletching.models.inputs import check_positive
from fletching.text.words import split_words

T = TypeVar("T")


class BM25Baseline:
    """Word overlap: BM25 on lower-case words, without stemming and without a stop list (extra ``evaluate``).

    Args:
        k1: Saturation of the term frequency. Ours: 1.2.
        b: Weight of the document length. Ours: 0.75.

    Raises:
        ArgumentError: If a value is out of its range.
        MissingExtraError: If bm25s is not installed.
    """

    def __init__(self, k1: float = 1.2, b: float = 0.75) -> None:
        self._index = BM25("words", k1=k1, b=b)
        self._indexed: tuple[str, ...] = ()

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> Tensor:
        """Score every document for every query.

        Args:
            queries: B texts.
            documents: N texts; the index of the last call is kept while they stay the same.

        Returns:
            Shape ``(B, N)``, float32; 0 where no word is shared.
        """
        keys = [str(place) for place in range(len(documents))]
        if self._indexed != tuple(documents):
            self._index.index(zip(keys, documents, strict=True), show_progress_bar=False)
            self._indexed = tuple(documents)
        return torch.tensor([list(self._index.score(query, keys).values()) for query in queries])


class RandomWordVectors:
    """Mean of random word vectors, compared by cosine: what pooling alone gives, without any training.

    Args:
        dim: Dimensions of the vectors, >= 1.
        seed: Of the vectors; a word's vector depends on the word and the seed, on nothing else.
    """

    def __init__(self, dim: int = 1024, seed: int = 0) -> None:
        self.dim = check_positive("RandomWordVectors", "dim", dim)
        self.seed = seed
        self._vectors: dict[str, Tensor] = {}
        self._pooled: tuple[tuple[str, ...], Tensor] = (), torch.zeros(0, self.dim)

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> Tensor:
        """Score every document for every query.

        Args:
            queries: B texts.
            documents: N texts; their vectors are kept while they stay the same.

        Returns:
            Cosines, shape ``(B, N)``, float32; 0 for a text without words.
        """
        if self._pooled[0] != tuple(documents):
            self._pooled = tuple(documents), self._pool(documents)
        return self._pool(queries) @ self._pooled[1].T

    def _pool(self, texts: Sequence[str]) -> Tensor:
        pooled = torch.zeros(len(texts), self.dim)
        for row, text in enumerate(texts):
            if words := split_words(text):
                pooled[row] = torch.stack([self._draw_vector(word) for word in words]).mean(dim=0)
        return normalize(pooled, dim=1)

    def _draw_vector(self, word: str) -> Tensor:
        if word not in self._vectors:
            digest = sha256(f"{self.seed} {word}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))
            self._vectors[word] = torch.randn(self.dim, generator=generator)
        return self._vectors[word]


class ItemMatcher:
    """The answer key: a document scores 1 if the query's item is in its list, else 0.

    Compares whole items, so that "Gin" does not match "Gingerbread". Right by construction on generated data.

    Args:
        dataset: Data whose items are known.

    Raises:
        DataError: If only the texts are known.
    """

    def __init__(self, dataset: LimitDataset) -> None:
        if dataset.query_items is None or dataset.document_items is None:
            raise DataError(f"ItemMatcher: the items of {dataset.name!r} must be known; got texts only.")
        self._asked = _by_text(dataset.queries, dataset.query_items)
        held = {key: frozenset(items) for key, items in dataset.document_items.items()}
        self._held = _by_text(dataset.corpus, held)

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> Tensor:
        """Score every document for every query.

        Args:
            queries: B queries of the data set.
            documents: N documents of the data set.

        Returns:
            Zeros and ones, shape ``(B, N)``, float32.
        """
        held = [self._held[text] for text in documents]
        return torch.tensor([[float(self._asked[query] in items) for items in held] for query in queries])


def compute_chance(n_documents: int, k: int) -> float:
    """Return the recall of a random order.

    Args:
        n_documents: Documents, >= 1.
        k: Documents that are looked at, >= 1.

    Returns:
        ``k / n_documents``, at most 1.

    Example:
        >>> f"{compute_chance(46, 2):.2%}"
        '4.35%'
    """
    return min(1.0, k / n_documents)


def _by_text(texts: Mapping[str, str], values: Mapping[str, T]) -> dict[str, T]:
    return {text: values[key] for key, text in texts.items()}
