"""Word overlap: BM25, the yardstick for everything that is trained."""

from __future__ import annotations

import json
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from importlib import metadata
from itertools import chain, count, islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fletching.errors import FletchingError, bad_argument, missing_extra
from fletching.progress import track
from fletching.text.words import Splitter, find_splitter

__all__ = ["BM25"]

_SAMPLES = 200  # texts that "auto" looks at


class BM25:
    """Scores passages by the words they share with the query, without stemming or stop words.

    The formula is Lucene's since version 8, with exact lengths; bm25s computes it (extra ``evaluate``). For
    each word of the query, as often as it stands there, a passage gets
    ``ln(1 + (N - n + 0.5) / (n + 0.5)) * f / (f + k1 * (1 - b + b * l / L))``: n of N passages hold the word,
    this one f times; it is l words long, and L is the mean length.

    Texts are read once, one at a time, and not kept. An index takes 8 bytes for each distinct word of each
    passage; while it is built, up to 48, and 4 for each word; and ids and vocabulary on top.

    Args:
        splitter: ``"auto"``, ``"words"`` or ``"chinese"``, as `find_splitter` reads them, or a function from
            a text to its words. ``"auto"`` looks at the first 200 passages.
        k1: How soon further occurrences of a word stop to matter, >= 0. Lucene: 1.2.
        b: How much long passages are held back, 0 to 1. Lucene: 0.75.

    Raises:
        ArgumentError: If a value is out of its range.
        MissingExtraError: If bm25s is not installed.

    Example:
        >>> model = BM25()
        >>> model.index([("d1", "A bow bends."), ("d2", "The arrow and the bow."), ("d3", "Rain.")])
        >>> model.retrieve("Which bow?", 10)
        {'d1': 0.213..., 'd2': 0.167...}
    """

    def __init__(self, splitter: str | Splitter = "auto", *, k1: float = 1.2, b: float = 0.75) -> None:
        if not (isinstance(k1, int | float) and 0 <= k1 < float("inf")):
            raise bad_argument("BM25", "k1", "a number >= 0", k1)
        if not (isinstance(b, int | float) and 0 <= b <= 1):
            raise bad_argument("BM25", "b", "a number from 0 to 1", b)
        _import_bm25s()
        if isinstance(splitter, str) and splitter != "auto":
            find_splitter(splitter)  # an unknown name is reported before anything is read
        self.k1 = float(k1)
        self.b = float(b)
        self.splitter = splitter
        self._index: Any = None
        self._split: Splitter | None = None
        self._ids: list[str] = []
        self._rows: dict[str, int] = {}

    def __len__(self) -> int:
        """Return the number of passages."""
        return len(self._ids)

    def index(self, documents: Iterable[tuple[str, str]], *, show_progress_bar: bool | None = None) -> None:
        """Read the collection; replaces what was indexed before.

        Args:
            documents: Pairs of id and text. Texts may be empty, ids must differ.
            show_progress_bar: ``None``: if the ``fletching`` logger is at INFO and stderr is a terminal.

        Raises:
            ArgumentError: If there is no document, or an id repeats.
            MissingExtraError: If the texts are Chinese and rjieba is not installed.
        """
        stream = iter(documents)
        samples = list(islice(stream, _SAMPLES))
        if not samples:
            raise bad_argument("BM25.index", "documents", "at least one pair of id and text", documents)
        if isinstance(self.splitter, str):
            split = find_splitter(self.splitter, (text for _, text in samples))
        else:
            split = self.splitter
        vocabulary: defaultdict[str, int] = defaultdict(count().__next__)  # a new word gets the next number
        rows: dict[str, int] = {}
        words, borders = array("i"), array("q", [0])
        for key, text in track(chain(samples, stream), desc="Indexing", show=show_progress_bar):
            if rows.setdefault(key, len(rows)) != len(borders) - 1:
                raise bad_argument("BM25.index", "documents", "pairs with unique ids", key)
            words.extend(map(vocabulary.__getitem__, split(text)))
            borders.append(len(words))
        self._ids, self._rows, self._split = list(rows), rows, split
        self._index = self._build(_WordLists(words, borders), dict(vocabulary))

    def retrieve(self, query: str, depth: int) -> dict[str, float]:
        """Find the best passages for a query.

        Args:
            query: Any text.
            depth: Passages to return, at most; >= 1.

        Returns:
            Passage id -> score, best first; of equal scores the smaller id comes first. Passages that share
            no word with the query are not among them.

        Raises:
            ArgumentError: If ``depth`` is not positive.
            FletchingError: If nothing has been indexed.
        """
        if not (isinstance(depth, int) and depth >= 1):
            raise bad_argument("BM25.retrieve", "depth", "an integer >= 1", depth)
        scores = self._score_all("BM25.retrieve", query)
        found = np.flatnonzero(scores)  # each shared word adds more than 0
        if len(found) > depth:
            lowest = np.partition(scores[found], -depth)[-depth]
            found = found[scores[found] >= lowest]  # with all that tie for the last place
        pairs = [(-float(scores[row]), self._ids[row]) for row in found.tolist()]
        return {key: -score for score, key in sorted(pairs)[:depth]}

    def score(self, query: str, ids: Iterable[str]) -> dict[str, float]:
        """Score chosen passages, such as the candidates of a first stage.

        Args:
            query: Any text.
            ids: Of passages that were indexed.

        Returns:
            Passage id -> score, in the order of ``ids``; 0.0 where no word is shared.

        Raises:
            ArgumentError: If an id is not in the index.
            FletchingError: If nothing has been indexed.
        """
        scores = self._score_all("BM25.score", query)
        keys = list(ids)
        unknown = next((key for key in keys if key not in self._rows), None)
        if unknown is not None:
            raise bad_argument("BM25.score", "ids", "ids of indexed passages", unknown)
        return {key: float(scores[self._rows[key]]) for key in keys}

    def fingerprint(self) -> str:
        """Identify the settings, to tell whether stored results can be used again.

        Returns:
            Hexadecimal digits that change with ``k1``, ``b``, the splitter and the versions of bm25s and
            rjieba; not with the collection. A function of your own counts by its name.
        """
        settings = {"k1": self.k1, "b": self.b, "bm25s": metadata.version("bm25s")}
        if isinstance(self.splitter, str):
            settings["splitter"] = self.splitter
            if self.splitter != "words":
                settings["rjieba"] = _find_version("rjieba")
        else:
            owner = self.splitter if hasattr(self.splitter, "__qualname__") else type(self.splitter)
            settings["splitter"] = f"{owner.__module__}:{owner.__qualname__}"
        return sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def _build(self, lists: _WordLists, vocabulary: dict[str, int]) -> Any:
        bm25s = _import_bm25s()
        index = bm25s.BM25(k1=self.k1, b=self.b, method="lucene")
        if vocabulary:
            index.index(
                bm25s.tokenization.Tokenized(lists, vocabulary), create_empty_token=False, show_progress=False
            )
        else:
            index.vocab_dict = {}  # blank texts only; bm25s would divide by their mean length
        return index

    def _score_all(self, owner: str, query: str) -> NDArray[np.float32]:
        if self._index is None or self._split is None:
            raise FletchingError(f"{owner}: nothing has been indexed yet. Call `index` first.")
        words = self._index.get_tokens_ids(self._split(query))
        if not words:
            return np.zeros(len(self._ids), dtype=np.float32)
        scores: NDArray[np.float32] = self._index.get_scores_from_ids(words)
        return scores


class _WordLists(Sequence[Sequence[int]]):
    """The numbers of each passage's words, in one array: 4 bytes for each, where lists take 8 or more."""

    def __init__(self, words: array[int], borders: array[int]) -> None:
        self.words = words
        self.borders = borders

    def __len__(self) -> int:
        return len(self.borders) - 1

    def __getitem__(self, place: Any) -> Any:
        return self.words[self.borders[place] : self.borders[place + 1]]

    def __iter__(self) -> Iterator[Sequence[int]]:
        return (self.words[start:end] for start, end in pairwise(self.borders))


def _import_bm25s() -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise missing_extra("BM25", "bm25s", "evaluate") from error
    return bm25s


def _find_version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
