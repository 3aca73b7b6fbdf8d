"""Training rows whose negatives wander down each query's ranked list, epoch by epoch."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from fletching.data import MappedTexts
from fletching.errors import DataError, bad_argument
from fletching.methods.t2ranking.functional import sample_strided

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["StridedNegativeSampler"]

logger = logging.getLogger(__name__)

_MAX_INT = 2**31  # ids below are kept in four bytes
_ATTEMPTS = 100  # at a random passage that is neither relevant nor in the list


class StridedNegativeSampler:
    """Builds the rows of the reference's two training loops: a query, a positive and n negatives.

    The positive is drawn anew in each epoch, evenly among the query's positives. The negatives are those of
    `sample_strided` on the query's list without its positives: with one negative that of rank ``epoch``, with
    63 every so-manyth of the list. A list that is too short is filled up with random passages, which are
    never positives of the query. Queries of the list that have no positive make no row.

    Call :meth:`set_epoch` before each epoch, or give `EpochCallback(sampler)` to the trainer.

    Args:
        ranked: Query id -> passage ids, best first, as a mapping or as pairs that come one at a time, such as
            those of `T2RankingDataset.negatives`. Lists of whole numbers take four bytes for each id.
        queries: Query id -> text.
        corpus: Passage id -> text.
        positives: Query id -> ids of relevant passages.
        n_negatives: Negatives of a row, >= 1. Reference code: 1 for the dual encoder, 63 for the
            cross-encoder.
        window: Ranks that negatives come from, counted without the positives; ``None`` takes whole lists.
        max_queries: Rows of an epoch; ``None`` uses all queries.
        seed: Of positives and random passages; same seed, same rows.

    Raises:
        ArgumentError: If a number is not positive, or no query has both a list and a positive.
        DataError: If a query of the list has no text.

    Example:
        >>> ranked = {"q": ["a", "b", "c", "d"]}
        >>> texts = {key: key.upper() for key in "abcd"}
        >>> sampler = StridedNegativeSampler(ranked, {"q": "?"}, texts, {"q": ["b"]})
        >>> sampler.set_epoch(1)
        >>> list(sampler)
        [{'anchor': '?', 'positive': 'B', 'negative_1': 'C'}]
    """

    def __init__(
        self,
        ranked: Mapping[str, Iterable[str]] | Iterable[tuple[str, Iterable[str]]],
        queries: Mapping[str, str],
        corpus: Mapping[str, str],
        positives: Mapping[str, Collection[str]],
        *,
        n_negatives: int = 1,
        window: int | None = None,
        max_queries: int | None = None,
        seed: int = 0,
    ) -> None:
        for name, value in (("n_negatives", n_negatives), ("window", window), ("max_queries", max_queries)):
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise bad_argument("StridedNegativeSampler", name, "a positive integer", value)
        self.queries = queries
        self.corpus = corpus
        self.n_negatives = n_negatives
        self.seed = seed
        self.epoch = 0
        self.query_ids: list[str] = []
        self._positives: dict[str, Sequence[str]] = {}
        self._lists: dict[str, Sequence[int] | Sequence[str]] = {}
        self._draw = _build_draw(corpus)
        n_without = 0
        for query, ranking in ranked.items() if isinstance(ranked, Mapping) else ranked:
            relevant = sorted(set(positives.get(query, ())))
            if not relevant:
                n_without += 1
                continue
            if query not in queries:
                raise DataError(f"StridedNegativeSampler: query {query!r} of the list must have a text.")
            known = set(relevant)
            kept = [passage for passage in ranking if passage not in known]
            self.query_ids.append(query)
            self._positives[query] = relevant
            self._lists[query] = _pack(kept[:window])
            if len(self.query_ids) == max_queries:
                break
        if n_without:
            logger.info("Left out %d queries without a relevant passage.", n_without)
        if not self.query_ids:
            domain = "lists with at least one query that has a relevant passage"
            raise bad_argument("StridedNegativeSampler", "ranked", domain, f"{n_without} queries without")

    def __len__(self) -> int:
        """Return the number of rows of an epoch."""
        return len(self.query_ids)

    def __iter__(self) -> Iterator[dict[str, str]]:
        """Yield the rows of the current epoch, in the order of the lists."""
        return (self.build_row(query) for query in self.query_ids)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the fields of a row, in their order."""
        names = (f"negative_{number}" for number in range(1, self.n_negatives + 1))
        return ("anchor", "positive", *names)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins.

        Args:
            epoch: From 0.
        """
        self.epoch = int(epoch)

    def sample_ids(self, query_id: str) -> tuple[str, list[str]]:
        """Choose the passages of a query's row in the current epoch.

        Args:
            query_id: One of ``query_ids``.

        Returns:
            Id of the positive, and ids of the negatives.

        Raises:
            DataError: If the list is too short, and there is no passage to fill it up with.
        """
        generator = Random(f"{self.seed}/{self.epoch}/{query_id}")
        relevant = self._positives[query_id]
        positive = relevant[generator.randrange(len(relevant))]
        ranking = [str(passage) for passage in self._lists[query_id]]
        while len(ranking) < self.n_negatives:
            ranking.append(self._draw_other(generator, {*relevant, *ranking}, query_id))
        return positive, sample_strided(ranking, self.n_negatives, epoch=self.epoch)

    def build_row(self, query_id: str) -> dict[str, str]:
        """Build a query's row in the current epoch.

        Args:
            query_id: One of ``query_ids``.

        Returns:
            ``anchor``, ``positive``, ``negative_1``, ... -> text.

        Raises:
            DataError: As :meth:`sample_ids`, and if a passage is not in the corpus.
        """
        positive, negatives = self.sample_ids(query_id)
        texts = (self._read(query_id, passage) for passage in (positive, *negatives))
        return dict(zip(self.columns, (self.queries[query_id], *texts), strict=True))

    def to_dataset(self) -> Dataset:
        """Wrap the rows for a trainer; texts are read when a batch is made, for the epoch that is set then.

        Returns:
            A dataset with one row for each query and the columns of :attr:`columns`.
        """
        from datasets import Dataset

        blank = [""] * len(self)
        dataset = Dataset.from_dict({**dict.fromkeys(self.columns, blank), "anchor": self.query_ids})
        dataset.set_transform(self._fill)
        return dataset

    def _fill(self, batch: dict[str, list[str]]) -> dict[str, list[str]]:
        """Replace query ids by whole rows."""
        rows = [self.build_row(query) for query in batch["anchor"]]
        return {column: [row[column] for row in rows] for column in batch}

    def _read(self, query_id: str, passage: str) -> str:
        text = self.corpus.get(passage)
        if text is None:
            raise DataError(
                f"StridedNegativeSampler: passage {passage!r} of query {query_id!r} must be in the corpus."
            )
        return text

    def _draw_other(self, generator: Random, taken: Collection[str], query_id: str) -> str:
        for _ in range(_ATTEMPTS):
            if (passage := self._draw(generator)) not in taken:
                return passage
        remedy = "Take fewer negatives, or a larger corpus."
        raise DataError(
            f"StridedNegativeSampler: query {query_id!r} must have {self.n_negatives} negatives; found no "
            f"further passage at random. {remedy}"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_draw"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._draw = _build_draw(self.corpus)


def _build_draw(corpus: Mapping[str, str]) -> Callable[[Random], str]:
    """Return a function that draws the id of any passage."""
    if isinstance(corpus, MappedTexts):
        return lambda generator: corpus.at(generator.randrange(len(corpus))).id
    keys: list[str] = []

    def draw(generator: Random) -> str:
        if not keys:
            keys.extend(corpus)
        return keys[generator.randrange(len(keys))]

    return draw


def _pack(ids: list[str]) -> Sequence[int] | Sequence[str]:
    """Keep whole numbers in four bytes each, if that brings the same ids back."""
    if all(key.isascii() and key.isdecimal() and len(key) < 11 for key in ids):
        numbers = list(map(int, ids))
        if max(numbers, default=0) < _MAX_INT and list(map(str, numbers)) == ids:
            return array("i", numbers)
    return ids
