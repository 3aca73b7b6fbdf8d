"""What a teacher says about texts that belong together: computed once, kept in a file, found by the texts."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zlib import crc32

from fletching.errors import FletchingError, bad_argument, bad_shape
from fletching.models.inputs import check_positive
from fletching.progress import progress_bar

__all__ = ["TeacherScores"]

logger = logging.getLogger(__name__)

Row = tuple[str, ...]
Scores = tuple[float, ...]

_DIGEST_BYTES = 16
_ROWS_AT_ONCE = 512  # ours: so much an interrupted run computes again, at most


class TeacherScores:
    """Scores of one teacher, in memory and, if wanted, in a file that an interrupted run goes on with.

    Scores are found by the texts they were computed for, never by their place: rows may be shuffled, dropped
    or added, and what changed by one letter is computed anew. The file may hold the scores of several
    teachers; each finds its own only. It is a file of JSON lines, one for each block of rows, written by
    appending; a line that a killed run left half-written, or that was damaged since, counts as missing.
    Several processes may append at once.

    As a block is there whole or not at all, a run that goes on computes the same blocks as one that was never
    stopped, and gets the same numbers to the last bit.

    Args:
        path: The file; ``None`` keeps everything in memory.
        teacher: Names what the teacher computes, such as `fletching.models.sharing.fingerprint` of it.
        settings: Whatever else decides on the scores, such as templates; JSON values.

    Raises:
        ArgumentError: If ``teacher`` is empty: nobody could tell its scores from another's; or ``path`` is a
            folder.
    """

    def __init__(
        self, path: str | Path | None = None, *, teacher: str, settings: Mapping[str, Any] | None = None
    ) -> None:
        if not isinstance(teacher, str) or not teacher:
            raise bad_argument("TeacherScores", "teacher", "a non-empty string", teacher)
        self.path = None if path is None else Path(path)
        if self.path is not None and self.path.is_dir():
            raise bad_argument("TeacherScores", "path", "a file, not a folder", str(path))
        described = json.dumps([teacher, dict(settings or {})], sort_keys=True, ensure_ascii=False)
        self._prefix = _hash([described])
        self._found: dict[bytes, Scores] = {}
        self._starts_with_newline = False
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def __len__(self) -> int:
        return len(self._found)

    def find(self, texts: Sequence[str]) -> Scores | None:
        """Look up the scores of one row.

        Args:
            texts: The texts of the row, in their order.

        Returns:
            The scores; ``None`` if the teacher has not seen exactly these texts.
        """
        return self._found.get(self._build_key(texts))

    def score(
        self,
        rows: Sequence[Sequence[str]],
        compute: Callable[[list[Row]], Sequence[Any]],
        *,
        rows_at_once: int = _ROWS_AT_ONCE,
        show_progress_bar: bool | None = None,
    ) -> list[Scores]:
        """Find the scores of rows, and let the teacher compute those that are missing.

        Args:
            rows: The texts of each row, such as the two sentences of a pair. Equal rows are computed once.
            compute: Given rows, returns the scores of each: one number, or a sequence of numbers, of Python,
                NumPy or torch.
            rows_at_once: Rows that are computed and written at once.
            show_progress_bar: ``None``: if the ``fletching`` logger is at INFO and stderr is a terminal.

        Returns:
            One tuple of numbers for each row, in the order of ``rows``.

        Raises:
            ArgumentError: If ``rows_at_once`` is not positive.
            FletchingError: If the teacher computes NaN or infinity; what it has computed before is kept.
            ShapeError: If ``compute`` returns another number of rows.
        """
        check_positive("TeacherScores.score", "rows_at_once", rows_at_once)
        checked = [tuple(row) for row in rows]
        keys = [self._build_key(row) for row in checked]
        unique = dict(zip(keys, checked, strict=True))
        missing = [(key, row) for key, row in unique.items() if key not in self._found]
        if 0 < len(missing) < len(unique):
            logger.info("The teacher has scored %d of %d rows.", len(unique) - len(missing), len(unique))
        with progress_bar(len(missing), "Teaching", show_progress_bar) as advance:
            for start in range(0, len(missing), rows_at_once):
                block = dict(missing[start : start + rows_at_once])
                self._add(block, compute(list(block.values())))
                advance(len(block))
        return [self._found[key] for key in keys]

    def _add(self, block: dict[bytes, Row], values: Sequence[Any]) -> None:
        if len(values) != len(block):
            raise bad_shape("TeacherScores.score", "scores", "N", (len(block),), (len(values),))
        computed: dict[bytes, Scores] = {}
        for (key, row), value in zip(block.items(), values, strict=True):
            scores = _to_floats(value)
            if not all(math.isfinite(score) for score in scores):
                text = row[0][:40] if row else ""
                raise FletchingError(
                    f"TeacherScores: the teacher must compute finite scores; got {scores} for {text!r}."
                )
            computed[key] = scores
        self._write(computed)
        self._found |= computed

    def _write(self, computed: dict[bytes, Scores]) -> None:
        """Append a block, and come back when it is on the disk."""
        if self.path is None:
            return
        text = _format(computed)
        if self._starts_with_newline:  # behind what a killed run left of its last line
            text, self._starts_with_newline = f"\n{text}", False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path) -> None:
        """Read the good lines, of all teachers: a key says whose it is."""
        n_damaged = 0
        line = b"\n"
        with path.open("rb") as file:
            for line in file:
                try:
                    self._found |= _parse(line)
                except (ValueError, LookupError, TypeError, AttributeError):
                    n_damaged += bool(line.strip())
        self._starts_with_newline = not line.endswith(b"\n")
        if n_damaged:
            logger.warning("%s: %d damaged lines are left out and computed anew.", path, n_damaged)

    def _build_key(self, texts: Sequence[str]) -> bytes:
        return _hash([self._prefix.hex(), *texts])


def _hash(texts: Sequence[str]) -> bytes:
    """Hash texts and where they end, so that ("ab", "c") is not ("a", "bc")."""
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.digest()


def _to_floats(value: Any) -> Scores:
    """Turn one number or several, of whatever library, into Python floats."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    numbers = value if isinstance(value, (list, tuple)) else [value]
    return tuple(float(number) for number in numbers)


def _format(block: dict[bytes, Scores]) -> str:
    """Write a block as one line with the checksum of what it says."""
    scores = {key.hex(): list(values) for key, values in block.items()}
    return json.dumps({"scores": scores, "crc": crc32(json.dumps(scores).encode())}) + "\n"


def _parse(line: bytes) -> dict[bytes, Scores]:
    record = json.loads(line)
    scores = record["scores"]
    if crc32(json.dumps(scores).encode()) != record["crc"]:
        raise ValueError("damaged")
    return {bytes.fromhex(key): tuple(map(float, values)) for key, values in scores.items()}
