"""T2Ranking's files: passages and long lists that stay on disk, queries and judgements in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path

from fletching.data import MappedTexts, read_qrels, read_queries, stream_run
from fletching.data.lines import StrPath, Words, read_lines
from fletching.data.tables import simplify
from fletching.data.texts import ID_NAMES
from fletching.errors import bad_argument, bad_choice, bad_record
from fletching.methods.t2ranking.functional import (
    MAX_LEVEL,
    MAX_RANK,
    RELEVANT_LEVEL,
    map_to_binary,
)

__all__ = ["NEGATIVES", "SPLITS", "T2RankingDataset", "stream_rankings"]

SPLITS = ("train", "dev", "test")
"""The splits. Judgements of ``"test"`` are not released."""

NEGATIVES = ("bm25", "mined")
"""What the lists of the training set come from."""

Qrels = dict[str, dict[str, int]]


class T2RankingDataset:
    """One split of T2Ranking, or of any collection in its layout.

    Everything is read when it is asked for, and checked line by line, with or without the header line that
    the official files have: its first field is ``qid`` or the like, or is no whole number while that of the
    next line is. Ids are strings. Passages stay on disk behind a memory map; lists of negatives, 200 million
    rows, are streamed.

    - ``queries``: query id -> text
    - ``corpus``: passage id -> text, a `MappedTexts`
    - ``qrels_graded``: query id -> passage id -> level, 0 to 3
    - ``positives``: query id -> ids of the relevant passages, from ``qrels.retrieval``, as the reference
      evaluator reads them; from the levels where that file is missing

    Args:
        path: The folder with ``collection.tsv``, ``queries.<split>.tsv``, ``qrels.<split>.tsv``,
            ``qrels.retrieval.<split>.tsv`` and the lists. All but the collection may be gzipped.
        split: ``"train"``, ``"dev"`` or ``"test"``.

    Raises:
        ArgumentError: If there is no such split.
        DataError: If there is no such folder.
    """

    def __init__(self, path: StrPath, split: str) -> None:
        if split not in SPLITS:
            raise bad_choice("T2RankingDataset", "split", SPLITS, split)
        self.path = Path(path)
        self.split = split
        self._corpus: MappedTexts | None = None
        if not self.path.is_dir():
            raise bad_record(self.path, None, None, "an existing folder", Words("none under this name"))

    def __repr__(self) -> str:
        return f"T2RankingDataset({str(self.path)!r}, {self.split!r})"

    @cached_property
    def queries(self) -> dict[str, str]:
        """Query id -> text, in the file's order."""
        path = self._find(f"queries.{self.split}.tsv")
        return read_queries(path, columns=("id", "text"), header=_has_header(path))

    @property
    def corpus(self) -> MappedTexts:
        """Passage id -> text; the pass over the file takes about a second for a million passages."""
        if self._corpus is None:
            path = self.path / "collection.tsv"
            self._corpus = MappedTexts(path, header=_has_header(path))
        return self._corpus

    def open_split(self, split: str) -> T2RankingDataset:
        """Open another split of the same collection.

        Args:
            split: ``"train"``, ``"dev"`` or ``"test"``.

        Returns:
            The split; it shares ``corpus``, which is read once.
        """
        other = T2RankingDataset(self.path, split)
        other._corpus = self.corpus
        return other

    @cached_property
    def qrels_graded(self) -> Qrels:
        """Query id -> passage id -> level, from 0 to 3."""
        path = self._find(f"qrels.{self.split}.tsv")
        qrels = read_qrels(path, query_ids=self.queries)  # a header that is not understood is an unknown id
        for query, levels in qrels.items():
            for passage, level in levels.items():
                if not 0 <= level <= MAX_LEVEL:  # columns in another order have ids there
                    found = Words(f"{level} for passage {passage!r} of query {query!r}")
                    raise bad_record(path, None, "level", f"from 0 to {MAX_LEVEL}", found)
        return qrels

    @cached_property
    def positives(self) -> dict[str, tuple[str, ...]]:
        """Query id -> ids of the relevant passages; queries without any are left out."""
        path = self._locate(f"qrels.retrieval.{self.split}.tsv")
        qrels = self.qrels_binary() if path is None else read_qrels(path, query_ids=self.queries)
        found = {query: tuple(key for key, label in row.items() if label) for query, row in qrels.items()}
        return {query: keys for query, keys in found.items() if keys}

    def qrels_binary(self, threshold: int = RELEVANT_LEVEL) -> Qrels:
        """Turn the levels into labels.

        Passages below the threshold stay in, with label 0: they were judged, and found not relevant.

        Args:
            threshold: Lowest level that counts as relevant.

        Returns:
            Query id -> passage id -> 1 or 0.
        """
        return {
            query: dict(zip(row, map_to_binary(row.values(), threshold=threshold), strict=True))
            for query, row in self.qrels_graded.items()
        }

    def negatives(
        self,
        source: str = "bm25",
        window: int | tuple[int, int] = 200,
        *,
        folder: StrPath | None = None,
    ) -> Iterator[tuple[str, list[str]]]:
        """Stream the candidates for negatives: one query's list after the other.

        A list loses its relevant passages first, and is cut then. Levels 2 and 3 are never negatives.

        Args:
            source: ``"bm25"``, or ``"mined"``: found by a dual encoder of the authors.
            window: Ranks to keep, from 0: so many, or ``(first, last + 1)``. Reference code: 200 for the dual
                encoder, 256 for the cross-encoder.
            folder: Where the lists are, such as those that your own model mined; ``None``: with the rest.

        Yields:
            Query id and passage ids, best first.

        Raises:
            ArgumentError: If the source or the window is unknown.
            DataError: If the file is missing or malformed, or the rows of a query do not stand together.
        """
        if source not in NEGATIVES:
            raise bad_choice("T2RankingDataset.negatives", "source", NEGATIVES, source)
        start, stop = (0, window) if isinstance(window, int) else window
        if not 0 <= start < stop:
            raise bad_argument("T2RankingDataset.negatives", "window", "a range of ranks", window)
        for query, ranking in self.stream_run(source, folder=folder):
            relevant = set(self.positives.get(query, ()))
            kept = (passage for passage in ranking if passage not in relevant)
            yield query, list(islice(kept, start, stop))

    def stream_run(self, name: str, *, folder: StrPath | None = None) -> Iterator[tuple[str, list[str]]]:
        """Stream a list file, such as ``dev.bm25.tsv`` or ``dev.dpr.tsv``, query by query.

        Args:
            name: What stands between the split and ``.tsv``.
            folder: Where the file is; ``None``: with the rest.

        Yields:
            Query id and passage ids, best first.

        Raises:
            DataError: If the file is missing or malformed, or the rows of a query do not stand together.
        """
        path = self._find(f"{self.split}.{name}.tsv", folder)
        is_first = True
        for query, scores in stream_run(path, order_by="rank"):
            if is_first:
                _refuse_header_as_record(path, {query: scores})
                is_first = False
            yield query, sorted(scores, key=scores.__getitem__, reverse=True)

    def _locate(self, name: str, folder: StrPath | None = None) -> Path | None:
        place = self.path if folder is None else Path(folder)
        paths = (place / name, place / f"{name}.gz")
        return next((path for path in paths if path.is_file()), None)

    def _find(self, name: str, folder: StrPath | None = None) -> Path:
        path = self._locate(name, folder)
        if path is not None:
            return path
        remedy = ""
        if self.split == "test" and name.startswith("qrels"):
            remedy = "Judgements of the test set are not released; evaluate on 'dev'."
        raise bad_record(
            Path(folder or self.path) / name, None, None, "an existing file", Words("none"), remedy
        )


def stream_rankings(path: StrPath) -> Iterator[tuple[str, list[str | None]]]:
    """Read a run as the reference evaluator does, query by query: the place of a passage is its rank.

    Args:
        path: Rows of query id, passage id and rank, from 1; rows of a query stand together.

    Yields:
        Query id and passage ids by rank, up to 1,000; ``None`` where the file leaves a rank out.

    Raises:
        DataError: If the file is malformed, or two passages of a query have the same rank, or one has rank 0.
    """
    is_first = True
    for query, scores in stream_run(path, order_by="rank"):
        if is_first:
            _refuse_header_as_record(path, {query: scores})
            is_first = False
        by_rank = {int(-score): passage for passage, score in scores.items()}
        if len(by_rank) < len(scores) or 0 in by_rank:
            domain = f"a run with the ranks 1, 2, ... once each for query {query!r}"
            raise bad_record(path, None, None, domain, sorted(int(-score) for score in scores.values()))
        yield query, [by_rank.get(rank) for rank in range(1, min(max(by_rank), MAX_RANK) + 1)]


def _has_header(path: Path) -> bool:
    """Say whether a file begins with the names of its columns."""
    lines = read_lines(path)
    field = _read_first_field(next(lines)[1])
    if simplify(field) in ID_NAMES:
        return True
    _, following = next(lines, (0, ""))  # where no id is a number, the first record is no header
    return not _is_number(field) and _is_number(_read_first_field(following))


def _read_first_field(line: str) -> str:
    return line.split("\t")[0].split(" ")[0]


def _is_number(field: str) -> bool:
    return field.isascii() and field.isdecimal()


def _refuse_header_as_record(path: StrPath, records: Mapping[str, object]) -> None:
    """Refuse a header line whose columns are not understood, instead of counting it."""
    if _has_header(Path(path)) and not (first := next(iter(records))).isdecimal():
        domain = "a whole number, or the name of a column such as qid, pid, index and score"
        raise bad_record(path, 1, "query", domain, first)
