"""What every system can be asked, whatever it is."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from fletching.errors import FletchingError, bad_argument
from fletching.evaluation.vectors import Arrays
from fletching.models.sharing import fingerprint

__all__ = [
    "Keep",
    "Scores",
    "System",
    "describe_model",
    "find_culprit",
    "hash_file",
    "look_up",
    "sort_scores",
]

T = TypeVar("T")

Scores = dict[str, float]

Keep = Callable[[list[str], list[str], Callable[[], Arrays]], Arrays]
"""Computes a block of encoded passages, or finds it where an earlier run put it; see `System.prepare`."""

_SETTINGS = ("long", "activation_fn", "max_tokens_per_batch", "max_active_dims")  # beyond `fingerprint`'s


class System(ABC):
    """Ranks documents for queries.

    `prepare` it once, then ask: `score` orders given candidates, `search` finds documents among all that were
    prepared. Scores are Python floats; equal scores belong in the order of their ids, and dictionaries that
    are returned are in that order already.

    Args:
        name: What the user called it; named in errors.
    """

    kind: str
    """As in `SystemResult`."""

    can_search = True
    """Whether it finds documents by itself; a reranker needs candidates."""

    reads_corpus = False
    """Whether it has to read the whole collection even to score a few candidates."""

    lost_tokens: int | None = None
    """Tokens of documents that were cut off in all calls so far; ``None`` where that is not known."""

    bytes_per_vector: float | None = None
    """What an index stores for one document, the mean of those prepared; ``None`` without vectors."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The networks that work for it."""
        return ()

    @abstractmethod
    def fingerprint(self) -> str:
        """Name what it computes: equal fingerprints, equal scores.

        Returns:
            Hexadecimal digits; empty where that cannot be known, as for an object of another library.
        """

    def prepare(self, documents: Iterable[tuple[str, str]], *, keep: Keep | None = None) -> None:
        """Take in the documents; replaces what was prepared before.

        Args:
            documents: Pairs of id and text, read once, in one pass.
            keep: Called by systems that encode documents with the ids and texts of each block and a function
                that encodes it; ``None`` calls that function.

        Raises:
            FletchingError: If a document cannot be encoded; the text names it.
        """
        del documents, keep

    def score(self, query_id: str, query: str, ids: Sequence[str]) -> Scores:
        """Score candidates.

        Args:
            query_id: Id of the query.
            query: Its text.
            ids: Documents that were prepared, in the order in which the system gets to see them.

        Returns:
            Document id -> score, best first.

        Raises:
            FletchingError: If a score is NaN or infinite; the text names system, query and document.
        """
        return self._check(query_id, self._score(query_id, query, list(ids))) if ids else {}

    def search(self, query_id: str, query: str, depth: int) -> Scores:
        """Find the best documents.

        Args:
            query_id: Id of the query.
            query: Its text.
            depth: Documents to return, at most.

        Returns:
            Document id -> score, best first.

        Raises:
            FletchingError: As :meth:`score`, and if the system cannot search.
        """
        return self.search_many({query_id: query}, depth)[query_id]

    def search_many(self, queries: Mapping[str, str], depth: int) -> dict[str, Scores]:
        """Find the best documents for many queries at once; faster where time is not measured.

        Args:
            queries: Query id -> text.
            depth: Documents to return for each, at most.

        Returns:
            Query id -> document id -> score, best first.

        Raises:
            FletchingError: As :meth:`search`.
        """
        if not self.can_search:
            raise FletchingError(f"System {self.name!r}: a {self.kind} cannot search; give it candidates.")
        return {key: self._check(key, found) for key, found in self._search_many(queries, depth).items()}

    @abstractmethod
    def _score(self, query_id: str, query: str, ids: list[str]) -> Scores: ...

    @abstractmethod
    def _search_many(self, queries: Mapping[str, str], depth: int) -> dict[str, Scores]: ...

    def _check(self, query_id: str, scores: Scores) -> Scores:
        for document, score in scores.items():
            if not isfinite(score):
                raise FletchingError(
                    f"System {self.name!r}: the score of document {document!r} for query {query_id!r} must "
                    f"be finite; got {score}."
                )
        return sort_scores(scores)


def sort_scores(scores: Mapping[str, float]) -> Scores:
    """Put the best first; of equal scores the smaller id.

    Args:
        scores: Document id -> score.

    Returns:
        The same in order.
    """
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))


def look_up(table: Mapping[str, T], ids: Sequence[str]) -> list[T]:
    """Find what was prepared for some documents.

    Args:
        table: Document id -> what is looked for.
        ids: Documents.

    Returns:
        One entry for each id, in their order.

    Raises:
        ArgumentError: If an id is not in the table.
    """
    unknown = next((key for key in ids if key not in table), None)
    if unknown is not None:
        raise bad_argument("System.score", "ids", "ids of documents that were prepared", unknown)
    return [table[key] for key in ids]


def describe_model(model: Any, options: Mapping[str, Any]) -> str:
    """Name what a model computes, with the settings it is called with.

    Args:
        model: A sentence-transformers model, or an object of any kind.
        options: Arguments of its calls.

    Returns:
        Hexadecimal digits; for an object what its ``fingerprint()`` returns, with the settings if there are
        any, and nothing if it has none.
    """
    if not isinstance(model, nn.Module):
        own = getattr(model, "fingerprint", None)
        found = str(own()) if callable(own) else ""
        return f"{found} {sorted(options.items())!r}" if found and options else found
    settings = {
        "options": dict(options),
        "device": str(getattr(model, "device", "")).partition(":")[0],
        **{name: str(getattr(model, name, None)) for name in _SETTINGS},
    }
    digest = hashlib.blake2b(fingerprint(model).encode(), digest_size=16)
    digest.update(repr(sorted(settings.items())).encode())
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """Name the contents of a file.

    Args:
        path: The file.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def find_culprit(texts: list[str], compute: Callable[[list[str]], object]) -> int | None:
    """Find the text that a model fails on, by halves.

    Args:
        texts: Texts of a call that raised a ``FletchingError``.
        compute: The call.

    Returns:
        Place of the first such text; ``None`` if it does not fail on any of them alone.
    """
    low, high = 0, len(texts)
    while high - low > 1:
        middle = (low + high) // 2
        if _fails(texts[low:middle], compute):
            high = middle
        else:
            low = middle
    return low if _fails(texts[low:high], compute) else None


def _fails(texts: list[str], compute: Callable[[list[str]], object]) -> bool:
    try:
        compute(texts)
    except FletchingError:
        return True
    return False
