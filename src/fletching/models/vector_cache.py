"""Vectors kept on disk by model and text, so that no text is encoded twice by the same model.

Layout of a cache folder::

    <space>/space.json       what the space stands for, for people
    <space>/<name>.vectors   some vectors, written once and never changed

A space holds the vectors of one model, one width and one precision. A file of vectors starts with a header of
64 bytes; then come the keys of its texts (16 bytes each, sorted), a number for each, and the vectors, which
are read through a memory map. Files appear whole or not at all, so that threads and processes may add at
once and may be killed at any time; small files are put together into larger ones.
"""

from __future__ import annotations

import json
import logging
import math
import os
import struct
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fletching.errors import bad_argument, bad_choice, bad_shape
from fletching.models.inputs import check_positive

__all__ = ["DTYPES", "VectorCache"]

logger = logging.getLogger(__name__)

DTYPES = ("float32", "float16")
"""How vectors may be kept."""

_MAGIC = b"fletvec1"
# magic, space, checksum of keys and notes, rows, width, bytes a value
_HEADER = struct.Struct("<8s16s16sQII")
_START = 64
_KEY = np.dtype("S16")
_NOTE = np.dtype("<i4")
_TIER = 4  # files of about one size that are put together, and how much larger the result's tier is
_ROWS = 4096  # copied at once
_STALE_SECONDS = 24 * 3600  # a part file this old was left behind by a process that was killed

Floats = NDArray[np.float32]
_Take = Callable[[int, int], NDArray[Any]]  # the vectors of some rows, from one to before another


class VectorCache:
    """Vectors on disk, found again by text; only the same model finds them.

    A vector belongs to a model (whatever changes the vectors must change this name: see
    :func:`fletching.models.sharing.fingerprint`), a width, a scope and a text. Nothing is ever found for
    another one of these. Reads go through memory maps: memory grows with what is asked for, not with what is
    kept. Any number of threads and processes may use a folder at once.

    Args:
        folder: Where to keep them; made when missing. One folder serves many models.
        model: Name of what computes the vectors.
        dimensions: Their width.
        dtype: ``"float32"``, or ``"float16"`` for half of the space: values then keep 3 decimal digits.

    Raises:
        ArgumentError: If an argument is outside its domain, or the folder cannot be made.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     cache = VectorCache(folder, model="a fingerprint", dimensions=2)
        ...     _ = cache.add(["arrow"], np.ones((1, 2), np.float32))
        ...     cache.read(["arrow", "bow"])[2].tolist()
        [True, False]
    """

    def __init__(self, folder: str | Path, *, model: str, dimensions: int, dtype: str = "float32") -> None:
        if not isinstance(folder, (str, Path)) or not str(folder):
            raise bad_argument("VectorCache", "folder", "a folder", folder)
        if not isinstance(model, str) or not model:
            raise bad_argument("VectorCache", "model", "the fingerprint of a model", model)
        if dtype not in DTYPES:
            raise bad_choice("VectorCache", "dtype", DTYPES, dtype)
        self.folder = Path(folder)
        self.model = model
        self.dimensions = check_positive("VectorCache", "dimensions", dimensions)
        self.dtype = dtype
        self._stored = np.dtype(dtype).newbyteorder("<")
        about = {"model": model, "dimensions": dimensions, "dtype": dtype}
        self._space = blake2b(json.dumps(about).encode(), digest_size=16).digest()
        self.path = self.folder / self._space.hex()
        self._lock = threading.RLock()
        self._files: tuple[_File, ...] = ()
        self._refused: set[str] = set()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            note = self.path / "space.json"
            if not note.exists():
                note.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise bad_argument(
                "VectorCache", "folder", f"writable ({error.strerror})", str(folder)
            ) from error

    def __len__(self) -> int:
        """Count the vectors; one that two processes added at once may count twice."""
        return sum(len(file.keys) for file in self._refresh())

    def __repr__(self) -> str:
        return f"VectorCache({str(self.folder)!r}, model={self.model!r}, dimensions={self.dimensions})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self.folder, self.model, self.dimensions, self.dtype)

    def read(
        self, texts: Sequence[str], *, scope: str = ""
    ) -> tuple[Floats, NDArray[np.int32], NDArray[np.bool_]]:
        """Look vectors up.

        Args:
            texts: The texts, B of them.
            scope: What else the vectors depend on, such as a prompt; as it was for :meth:`add`.

        Returns:
            ``(vectors, notes, found)``: shapes ``(B, D)``, ``(B,)`` and ``(B,)``; what was not found is zero.
        """
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        notes = np.zeros(len(texts), np.int32)
        found = np.zeros(len(texts), np.bool_)
        if not len(texts):
            return vectors, notes, found
        keys = _hash(texts, scope)
        for file in self._refresh():
            missing = np.flatnonzero(~found)
            places, hit = file.find(keys[missing])
            rows = missing[hit]
            vectors[rows] = file.vectors[places[hit]]
            notes[rows] = file.notes[places[hit]]
            found[rows] = True
            if found.all():
                break
        return vectors, notes, found

    def add(
        self,
        texts: Sequence[str],
        vectors: Floats,
        *,
        notes: Sequence[int] | NDArray[np.int32] | None = None,
        scope: str = "",
    ) -> Floats:
        """Keep vectors; a text that has one already keeps that.

        Vectors with NaN or infinity, or too large for float16, are not kept. Where the disk cannot be written
        to, nothing is, and a warning is logged.

        Args:
            texts: The texts, B of them.
            vectors: Their vectors, shape ``(B, D)``.
            notes: A number to keep with each, such as the tokens that were cut; ``None`` keeps 0.
            scope: What else the vectors depend on.

        Returns:
            The vectors as :meth:`read` finds them from now on, shape ``(B, D)``: rounded, and the first ones
            where another thread was faster.

        Raises:
            ShapeError: If there is not one vector of the right width for each text.
        """
        expected = (len(texts), self.dimensions)
        if vectors.shape != expected:
            raise bad_shape("VectorCache.add", "vectors", "B, D", expected, vectors.shape)
        if not len(texts):
            return vectors
        with np.errstate(over="ignore"):
            rounded = vectors.astype(self._stored)
        finite = np.isfinite(rounded).all(axis=1)
        extra = np.zeros(len(texts), np.int32) if notes is None else np.asarray(notes, np.int32)
        with self._lock:
            _, _, found = self.read(texts, scope=scope)
            new = np.flatnonzero(finite & ~found)
            keys, first = np.unique(_hash([texts[row] for row in new.tolist()], scope), return_index=True)
            rows = new[first]
            if len(rows):
                self._add_file(keys, extra[rows], lambda start, stop: rounded[rows[start:stop]])
        known, _, found = self.read(texts, scope=scope)
        result: Floats = np.where(found[:, None], known, vectors.astype(np.float32))
        return result

    def clear(self) -> None:
        """Remove the vectors of this model; those of others stay."""
        with self._lock:
            self._files = ()
            for path in self.path.glob("*.vectors"):
                path.unlink(missing_ok=True)

    # --- files ---

    def _refresh(self) -> tuple[_File, ...]:
        """See what other threads and processes have added, or put together."""
        with self._lock:
            try:
                names = {entry.name for entry in os.scandir(self.path) if entry.name.endswith(".vectors")}
            except FileNotFoundError:
                names = set()
            known = {file.path.name for file in self._files}
            files = [file for file in self._files if file.path.name in names]
            for name in sorted(names - known - self._refused):
                with suppress(
                    FileNotFoundError
                ):  # put together since: its successor comes with the next call
                    file = _read_file(self.path / name, self._space, self.dimensions, self._stored)
                    if file is None:
                        self._refused.add(name)
                        logger.warning(
                            "VectorCache: %s is damaged or belongs elsewhere; ignored.", self.path / name
                        )
                    else:
                        files.append(file)
            self._files = tuple(files)
            return self._files

    def _add_file(self, keys: NDArray[Any], notes: NDArray[np.int32], take: _Take) -> None:
        """Write a file, then put files of one size together; a full disk costs the cache, not the call."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._remove_stale()
            self._write(keys, notes, take)
            while (group := self._choose_group()) is not None:
                self._merge(group)
        except OSError as error:
            logger.warning(
                "VectorCache: cannot write to %s (%s); goes on without.", self.path, error.strerror
            )

    def _write(self, keys: NDArray[Any], notes: NDArray[np.int32], take: _Take) -> None:
        """Write a file under another name, and give it its own once it is whole."""
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
        part, path = self.path / f"{name}.part", self.path / f"{name}.vectors"
        index = keys.tobytes(), notes.astype(_NOTE).tobytes()
        checksum = blake2b(b"".join(index), digest_size=16).digest()
        fields = _MAGIC, self._space, checksum, len(keys), self.dimensions, self._stored.itemsize
        try:
            with part.open("wb") as file:
                file.write(_HEADER.pack(*fields).ljust(_START, b"\0"))
                for block in index:
                    file.write(block)
                file.write(bytes(_pad(len(keys))))
                for start in range(0, len(keys), _ROWS):
                    file.write(np.ascontiguousarray(take(start, min(start + _ROWS, len(keys)))).tobytes())
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        written = _read_file(path, self._space, self.dimensions, self._stored)
        if written is not None:
            self._files = (*self._files, written)

    def _choose_group(self) -> list[_File] | None:
        """Find enough files of about one size."""
        tiers: dict[int, list[_File]] = {}
        for file in self._files:
            group = tiers.setdefault(int(math.log(len(file.keys), _TIER)), [])
            group.append(file)
            if len(group) == _TIER:
                return group
        return None

    def _merge(self, group: list[_File]) -> None:
        """Put files together; of a text that two of them have, the vector that was found so far stays."""
        keys, first = np.unique(np.concatenate([file.keys for file in group]), return_index=True)
        starts = np.cumsum([0, *(len(file.keys) for file in group)])
        owner = np.searchsorted(starts, first, side="right") - 1
        rows = first - starts[owner]

        def take(start: int, stop: int) -> NDArray[Any]:
            block = np.empty((stop - start, self.dimensions), self._stored)
            for number, file in enumerate(group):
                mine = np.flatnonzero(owner[start:stop] == number)
                block[mine] = file.vectors[rows[start:stop][mine]]
            return block

        notes = np.concatenate([file.notes for file in group])[first]
        self._write(keys, notes, take)
        merged = self._files[-1]
        place = self._files.index(group[0])
        rest = [file for file in self._files[:-1] if file not in group]
        self._files = (*rest[:place], merged, *rest[place:])
        for file in group:
            with suppress(OSError):  # another process was faster, or still reads it where that is a lock
                file.path.unlink()

    def _remove_stale(self) -> None:
        for part in self.path.glob("*.part"):
            with suppress(OSError):
                if time.time() - part.stat().st_mtime > _STALE_SECONDS:
                    part.unlink()


@dataclass(frozen=True, eq=False)
class _File:
    """One file, mapped into memory."""

    path: Path
    keys: NDArray[Any]
    notes: NDArray[np.int32]
    vectors: NDArray[Any]

    def find(self, keys: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Say where keys stand, and which of them do."""
        places = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        hit: NDArray[np.bool_] = self.keys[places] == keys
        return places, hit


def _open(folder: Path, model: str, dimensions: int, dtype: str) -> VectorCache:
    return VectorCache(folder, model=model, dimensions=dimensions, dtype=dtype)


def _hash(texts: Sequence[str], scope: str) -> NDArray[np.bytes_]:
    """Name texts by 16 bytes each."""
    front = _encode(scope)
    salt = len(front).to_bytes(8, "little") + front
    digests = b"".join(blake2b(salt + _encode(text), digest_size=16).digest() for text in texts)
    return np.frombuffer(digests, _KEY)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _pad(rows: int) -> int:
    """Count the bytes that bring the vectors to a border of 64."""
    return -(rows * (_KEY.itemsize + _NOTE.itemsize)) % _START


def _read_file(path: Path, space: bytes, dimensions: int, stored: np.dtype[Any]) -> _File | None:
    """Map a file; ``None`` if it is damaged or of another space."""
    if path.stat().st_size < _START:
        return None
    content = np.memmap(path, np.uint8, "r")
    magic, of_space, checksum, rows, width, itemsize = _HEADER.unpack(content[: _HEADER.size].tobytes())
    if (magic, of_space, width, itemsize) != (_MAGIC, space, dimensions, stored.itemsize) or not rows:
        return None
    borders = [_START]
    for size in (rows * _KEY.itemsize, rows * _NOTE.itemsize, _pad(rows), rows * width * itemsize):
        borders.append(borders[-1] + size)
    if len(content) != borders[-1]:
        return None
    if blake2b(content[borders[0] : borders[2]].data, digest_size=16).digest() != checksum:
        return None
    keys, notes, _, vectors = (content[start:stop] for start, stop in pairwise(borders))
    return _File(path, keys.view(_KEY), notes.view(_NOTE), vectors.view(stored).reshape(rows, width))
