"""The LanceDB table of one index, and what may go wrong with it."""

from __future__ import annotations

import errno
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from fletching.errors import FletchingError, missing_extra

__all__ = ["METRICS", "DamagedIndexError", "PassageTable", "clear_errors", "import_lancedb"]

METRICS = {"cosine": "cosine", "dot": "dot", "euclidean": "l2"}
"""LanceDB's names of the similarities of sentence-transformers."""

_HIT_COLUMNS = ("file", "heading", "page", "start", "end", "content")
_KEPT_FOR = timedelta(minutes=10)  # versions made more recently than that stay, for those who look at them
_MAX_FRAGMENTS = 512  # of a table before it is compacted, which takes memory as large as the table
_MAX_INDEXES = 16  # BM25 indexes of superseded versions, likewise
_MAX_LITERALS = 512  # values in one SQL list
_MAX_LIMIT = 2**31 - 1  # LanceDB counts in 32 bits
_INSIDE = re.compile(r",? /\S+\.rs:.*")  # where in LanceDB's sources it happened
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DamagedIndexError(FletchingError):
    """What is on disk is not what was written."""


class PassageTable:
    """Passages with their vectors; every call is atomic.

    Args:
        table: The LanceDB table, checked out at a version by readers.
        root: The folder of the index, for errors.
    """

    def __init__(self, table: Any, root: Path) -> None:
        self._table = table
        self._root = root

    @classmethod
    def create(cls, database: Any, name: str, dimension: int, root: Path) -> PassageTable:
        """Create an empty table.

        Args:
            database: The LanceDB connection.
            name: Of the table.
            dimension: Of the vectors.
            root: The folder of the index.

        Returns:
            The table.
        """
        import pyarrow as pa

        schema = pa.schema(
            [
                ("file", pa.string()),
                ("digest", pa.string()),
                ("position", pa.int32()),
                ("heading", pa.string()),
                ("page", pa.int32()),
                ("start", pa.int64()),
                ("end", pa.int64()),
                ("content", pa.string()),
                ("content_hash", pa.binary(16)),
                ("vector", pa.list_(pa.float32(), dimension)),
            ]
        )
        with clear_errors(root):
            return cls(database.create_table(name, schema=schema), root)

    @property
    def version(self) -> int:
        """Counts the changes."""
        with clear_errors(self._root):
            version: int = self._table.version
            return version

    def add(self, columns: dict[str, Any]) -> None:
        """Append passages: all of them, or none.

        Args:
            columns: N values by name of the column; ``"vector"`` is a float32 array of shape ``(N, D)``.
        """
        import pyarrow as pa

        vectors = columns["vector"]
        with clear_errors(self._root):
            arrays = [
                pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
                if column.name == "vector"
                else pa.array(columns[column.name], column.type)
                for column in self._table.schema
            ]
            self._table.add(pa.record_batch(arrays, schema=self._table.schema))

    def delete(self, column: str, literals: Iterable[str]) -> None:
        """Delete the rows whose column holds one of some values.

        Args:
            column: The column.
            literals: The values, as SQL literals.
        """
        with clear_errors(self._root):
            for condition in _split_condition(column, literals):
                self._table.delete(condition)

    def scan(self, columns: Sequence[str], column: str, literals: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Go through the rows whose column holds one of some values.

        Args:
            columns: What to read.
            column: The column.
            literals: The values, as SQL literals.

        Yields:
            Rows as dictionaries, in no order.
        """
        with clear_errors(self._root):
            for condition in _split_condition(column, literals):
                for batch in self._table.search().where(condition).select(list(columns)).to_batches():
                    yield from batch.to_pylist()

    def count_values(self, column: str) -> Counter[Any]:
        """Count how often each value of a column occurs.

        Args:
            column: The column.

        Returns:
            Rows by value.
        """
        counts: Counter[Any] = Counter()
        with clear_errors(self._root):
            for batch in self._table.search().select([column]).limit(None).to_batches():
                counts.update(batch.column(0).to_pylist())
        return counts

    def find_near(self, vector: Any, metric: str, limit: int) -> list[dict[str, Any]]:
        """Compare a vector with all rows.

        Args:
            vector: Shape ``(D,)``.
            metric: A value of :data:`METRICS`.
            limit: Rows to return.

        Returns:
            Rows with their ``"similarity"`` as sentence-transformers scales it, best first; equal ones by
            file and place.
        """

        def find(count: int) -> list[dict[str, Any]]:
            query = self._table.search(vector, vector_column_name="vector").distance_type(metric).limit(count)
            rows: list[dict[str, Any]] = query.select([*_HIT_COLUMNS, "_distance"]).to_list()
            for row in rows:
                distance = row.pop("_distance")
                row["similarity"] = -(distance**0.5) if metric == "l2" else 1 - distance
            return rows

        with clear_errors(self._root):
            return _find_best(find, "similarity", limit)

    def find_worded(self, words: str, limit: int) -> list[dict[str, Any]]:
        """Find rows by BM25.

        Args:
            words: The query; nothing in it is an operator.
            limit: Rows to return.

        Returns:
            Rows with their ``"bm25"``, best first; equal ones by file and place.
        """
        from lancedb.query import MatchQuery

        match: Any = MatchQuery  # its defaults are hidden from type checkers

        def find(count: int) -> list[dict[str, Any]]:
            query = self._table.search(match(words, "content"), query_type="fts").limit(count)
            rows: list[dict[str, Any]] = query.select([*_HIT_COLUMNS, "_score"]).to_list()
            for row in rows:
                row["bm25"] = row.pop("_score")
            return rows

        with clear_errors(self._root):
            return _find_best(find, "bm25", limit)

    def index_words(self) -> int:
        """Build the BM25 index anew.

        From all rows each time: scores are those of an index that was built in one go.

        Returns:
            The version to publish.
        """
        from lancedb.index import FTS

        with clear_errors(self._root):
            self._table.create_index("content", config=FTS(base_tokenizer="icu", max_token_length=None))
        return self.version

    @property
    def is_worn(self) -> bool:
        """Whether many changes have left many small files."""
        with clear_errors(self._root):
            fragments = self._table.stats()["fragment_stats"]["num_small_fragments"]
            indexes = sum(1 for _ in (self._root / f"{self._table.name}.lance" / "_indices").iterdir())
            return fragments > _MAX_FRAGMENTS or indexes > _MAX_INDEXES

    def compact(self) -> int:
        """Join small fragments, and delete old versions.

        Only to be called right after a version was published: one that is older goes, published or not.

        Returns:
            The version to publish.
        """
        with clear_errors(self._root):
            self._table.optimize(cleanup_older_than=_KEPT_FOR)
        return self.version


@contextmanager
def clear_errors(root: Path) -> Iterator[None]:
    """Turn what the file system and LanceDB raise into one sentence that names the index.

    Args:
        root: The folder of the index.
    """
    try:
        yield
    except FletchingError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise _explain(root, error) from error


def import_lancedb() -> Any:
    """Import lancedb.

    Returns:
        The module.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import lancedb
    except ModuleNotFoundError as error:
        raise missing_extra("fletching.search", "lancedb", "search") from error
    return lancedb


def _split_condition(column: str, literals: Iterable[str]) -> Iterator[str]:
    values = list(dict.fromkeys(literals))
    for start in range(0, len(values), _MAX_LITERALS):
        yield f"{column} IN ({', '.join(values[start : start + _MAX_LITERALS])})"


def _find_best(find: Callable[[int], list[dict[str, Any]]], score: str, limit: int) -> list[dict[str, Any]]:
    """Return the best rows; of those that score like the last one, the first by file and place."""
    limit = min(limit, _MAX_LIMIT)
    count = limit
    while True:
        count = min(2 * count, _MAX_LIMIT)
        rows = sorted(find(count), key=lambda row: (-row[score], row["file"], row["start"]))
        if len(rows) < count or rows[limit - 1][score] > rows[-1][score] or count == _MAX_LIMIT:
            return rows[:limit]


def _explain(root: Path, error: Exception) -> FletchingError:
    """Say what is wrong and what to do about it."""
    text = _INSIDE.sub("", " ".join(str(error).split()))[:300]
    if getattr(error, "errno", None) in _FULL or "No space left" in text or "File too large" in text:
        remedy = "Free some space, or pass another cache folder; the state before is intact."
        return FletchingError(f"Index {root}: the disk is full. {remedy}")
    if isinstance(error, OSError) or "Permission denied" in text or "Read-only file system" in text:
        reason = getattr(error, "strerror", None) or text
        remedy = "Pass a cache folder that you may write to."
        return FletchingError(f"Index {root}: it cannot be read or written ({reason}). {remedy}")
    remedy = "Build it anew: `Index.update(rebuild=True)`, or --rebuild."
    return DamagedIndexError(f"Index {root}: it is damaged ({text}). {remedy}")
