"""Texts by id out of files that do not fit into memory: lines stay on disk, only their places are kept."""

from __future__ import annotations

import mmap
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from fletching.data.lines import StrPath, Words, read_lines
from fletching.data.tables import simplify
from fletching.data.texts import ID_NAMES, Document
from fletching.errors import DataError, bad_argument, bad_record

__all__ = ["MappedTexts"]

_BUFFER = 1 << 20  # bytes
_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_MAX_DIGITS = 18  # fit into 63 bits, whatever they are
_ZERO = ord("0")


class _Scan(NamedTuple):
    """Where the lines of a collection are."""

    offsets: array[int]  # of each line, in bytes, counted through all files
    starts: list[int]  # for each file, the offset of its first byte; behind them the end of the last file
    keys: array[int] | None  # one number for each id; None where the ids count up
    first: int  # the first id, where they count up


class MappedTexts(Mapping[str, str]):
    r"""Id -> text of tab-separated files of any size, read from disk when a text is asked for.

    One pass finds where the lines are. That takes 8 bytes for each passage if the ids count up (T2Ranking, MS
    MARCO), 16 if they are whole numbers in increasing order, 24 otherwise; the texts stay on disk behind a
    memory map. Everything after the first tab is text, quotation marks and further tabs included; empty texts
    are kept, blank lines are no records. Lines end with ``\n`` or ``\r\n``. Threads may read at once, and a
    pickled object opens the files again.

    Args:
        paths: A file, or several that are read one after another as one collection, such as the four parts of
            Multi-CPR's medical passages.
        header: Whether the first line of each file names the columns. ``None``: if its first field is a name
            such as ``id``, ``pid`` or ``docid``, or if it is no whole number and that of the next line is.

    Raises:
        ArgumentError: If no file is given.
        DataError: If a file is missing or gzipped, a line has no tab or no id, or an id repeats; the text
            names file and line. A text that is no UTF-8 is found when it is read.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "collection.tsv"
        ...     _ = path.write_text("pid\tpassage\n0\tFeathers.\n1\tA bow.\n", encoding="utf-8")
        ...     with MappedTexts(path) as texts:
        ...         len(texts), texts["1"]
        (2, 'A bow.')
    """

    def __init__(self, paths: StrPath | Sequence[StrPath], *, header: bool | None = None) -> None:
        given = [paths] if isinstance(paths, str | PathLike) else list(paths)
        if not given:
            raise bad_argument("MappedTexts", "paths", "at least one file", paths)
        self.paths = tuple(Path(path) for path in given)
        self.header = header
        self._offsets, self._starts, keys, self._first = _scan_files(self.paths, header)
        self._maps: list[mmap.mmap] | None = None
        self._keys: array[int] | None = None  # in order; None where the ids count up
        self._positions: array[int] | None = None  # of the keys; None where these are in order by nature
        if keys is not None:
            self._keys, self._positions = _sort(keys)
            self._refuse_repeated_ids()

    def __getitem__(self, key: str) -> str:
        position = self._find(key)
        if position is None:
            raise KeyError(key)
        return self._split(position)[1]

    def __contains__(self, key: object) -> bool:
        return self._find(key) is not None

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[str]:
        """Yield the ids in the files' order."""
        if self._keys is None:
            yield from map(str, range(self._first, self._first + len(self)))
        else:
            for document in self.documents():
                yield document.id

    def __repr__(self) -> str:
        return f"MappedTexts({', '.join(map(repr, map(str, self.paths)))}: {len(self)} texts)"

    def __enter__(self) -> MappedTexts:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": None}

    def close(self) -> None:
        """Let go of the files; they are opened again when the next text is asked for."""
        for mapped in self._maps or ():
            mapped.close()
        self._maps = None

    def at(self, position: int) -> Document:
        """Read the passage at a place of the collection.

        Args:
            position: From 0, in the files' order; lines without a record do not count.

        Returns:
            The passage.

        Raises:
            ArgumentError: If there is no such place.
            DataError: If its text is no UTF-8.
        """
        if not 0 <= position < len(self):
            raise bad_argument("MappedTexts.at", "position", f"from 0 to {len(self) - 1}", position)
        return Document(*self._split(position))

    def documents(self) -> Iterator[Document]:
        """Read all passages, one at a time, in the files' order and in flat memory.

        Yields:
            The passages.

        Raises:
            DataError: If a text is no UTF-8.
        """
        for number, path in enumerate(self.paths):
            self._check_size(number)
            begin, end = (bisect_left(self._offsets, start) for start in self._starts[number : number + 2])
            with path.open("rb", buffering=_BUFFER) as file:
                file.seek(self._offsets[begin] - self._starts[number])
                for position in range(begin, end):
                    raw = file.readline()
                    while raw.isspace():
                        raw = file.readline()
                    yield Document(*self._decode(position, raw))

    def _find(self, key: object) -> int | None:
        """Return the position of an id."""
        if not isinstance(key, str):
            return None
        number = _to_key(key.encode("utf-8", "surrogatepass"))
        if self._keys is None:
            position = number - self._first
            return position if number >= 0 and 0 <= position < len(self) else None
        low, high = bisect_left(self._keys, number), bisect_right(self._keys, number)
        for place in range(low, high):  # more than one only where two hashes are equal by chance
            position = self._position(place)
            if number >= 0 or self._split(position)[0] == key:
                return position
        return None

    def _position(self, place: int) -> int:
        return place if self._positions is None else self._positions[place]

    def _split(self, position: int) -> tuple[str, str]:
        return self._decode(position, self._read(position))

    def _read(self, position: int) -> bytes:
        """Return the bytes of a line, with its end."""
        if self._maps is None:
            self._maps = [self._map(number) for number in range(len(self.paths))]
        offset = self._offsets[position]
        number = self._file_of(offset)
        mapped, begin = self._maps[number], offset - self._starts[number]
        end = mapped.find(b"\n", begin)
        return mapped[begin : len(mapped) if end < 0 else end]

    def _decode(self, position: int, raw: bytes) -> tuple[str, str]:
        try:
            key, _, text = raw.rstrip(b"\r\n").decode("utf-8").partition("\t")
        except UnicodeDecodeError as error:
            path, line = self._place(position)
            byte = Words(f"the byte 0x{raw[error.start]:02x} as number {error.start + 1} of the line")
            raise bad_record(path, line, None, "UTF-8 text", byte, "Convert the file first.") from error
        return key, text

    def _map(self, number: int) -> mmap.mmap:
        self._check_size(number)
        with self.paths[number].open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(mmap, "MADV_RANDOM"):  # do not read ahead: the next text asked for is elsewhere
            mapped.madvise(mmap.MADV_RANDOM)
        return mapped

    def _check_size(self, number: int) -> None:
        """Refuse a file that has changed since its lines were found."""
        path = self.paths[number]
        size = self._starts[number + 1] - self._starts[number]
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            there = Words("no file" if found is None else f"{found} bytes")
            raise bad_record(path, None, None, f"as it was when it was opened, {size} bytes", there)

    def _file_of(self, offset: int) -> int:
        return bisect_right(self._starts, offset, hi=len(self.paths)) - 1

    def _place(self, position: int) -> tuple[Path, int]:
        """Return file and line of a record; reads the file up to there, so for errors only."""
        offset = self._offsets[position]
        number = self._file_of(offset)
        return self.paths[number], _count_lines(self.paths[number], offset - self._starts[number])

    def _refuse_repeated_ids(self) -> None:
        assert self._keys is not None  # ids that count up do not repeat
        for place in _find_equal_neighbours(self._keys):
            first = bisect_left(self._keys, self._keys[place])
            *before, last = (self._split(self._position(at))[0] for at in range(first, place + 1))
            if last in before:  # else two hashes are equal by chance
                path, line = self._place(self._position(place))
                raise bad_record(path, line, "id", "unique", last)


def _scan_files(paths: Sequence[Path], header: bool | None) -> _Scan:
    """Find the lines and the ids of all files."""
    offsets, starts = array("q"), [0]
    keys: array[int] | None = None  # made when an id is not one more than the last
    first, expected = 0, b""
    for path in paths:
        is_header = _inspect(path, header)
        n_before = len(offsets)
        offset = starts[-1]
        with path.open("rb", buffering=_BUFFER) as file:
            for number, line in enumerate(file, start=1):
                begin, offset = offset, offset + len(line)
                if number == 1 and line.startswith(_BOM):
                    line, begin = line[len(_BOM) :], begin + len(_BOM)
                if not line or line.isspace():
                    continue
                if is_header:
                    is_header = False
                    continue
                key, tab, _ = line.partition(b"\t")
                if not tab or not key or key.isspace():
                    raise _bad_line(path, number, line)
                if keys is not None:
                    keys.append(_to_key(key))
                elif key == expected:
                    expected = b"%d" % (first + len(offsets) + 1)
                elif not offsets and (first := _to_key(key)) >= 0:
                    expected = b"%d" % (first + 1)
                else:
                    keys = array("q", range(first, first + len(offsets)))
                    keys.append(_to_key(key))
                offsets.append(begin)
        if len(offsets) == n_before:
            raise bad_record(path, None, None, "a file with at least one record", Words("none"))
        starts.append(offset)
    return _Scan(offsets, starts, keys, first)


def _inspect(path: Path, header: bool | None) -> bool:
    """Refuse what cannot be mapped, and say whether the first line names the columns."""
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(_GZIP)) == _GZIP:
                domain = "unpacked, as a gzipped file cannot be read from the middle"
                raise bad_record(path, None, None, domain, Words("a gzip file"), f"Run: gunzip {path.name}")
    lines = read_lines(path)
    field = next(lines)[1].partition("\t")[0]
    if header is not None:
        return header
    if simplify(field) in ID_NAMES:
        return True
    if _to_key(field.encode()) >= 0:
        return False
    _, following = next(lines, (0, ""))
    return _to_key(following.partition("\t")[0].encode()) >= 0


def _bad_line(path: Path, number: int, line: bytes) -> DataError:
    text = line.rstrip(b"\r\n").decode("utf-8", "replace")
    if "\t" in text:
        return bad_record(path, number, "id", "a non-empty string", text.partition("\t")[0])
    return bad_record(path, number, None, "an id, a tab and a text", text)


def _to_key(key: bytes) -> int:
    """Turn an id into 64 bits: a number as it is usually written stands for itself, the rest is hashed."""
    if key.isdigit() and len(key) <= _MAX_DIGITS and (key[0] != _ZERO or len(key) == 1):
        return int(key)
    return -1 - (int.from_bytes(blake2b(key, digest_size=8).digest(), "big") >> 1)


def _sort(keys: array[int]) -> tuple[array[int], array[int] | None]:
    """Return the keys in order and where each stood; ``None`` if they are in order as they are."""
    import numpy as np

    numbers = np.frombuffer(keys, dtype=np.int64)
    if bool((numbers[1:] >= numbers[:-1]).all()):
        return keys, None
    order = np.argsort(numbers, kind="stable")
    return array("q", numbers[order].tobytes()), array("q", order.astype(np.int64).tobytes())


def _find_equal_neighbours(keys: array[int]) -> list[int]:
    """Return the places whose key is that of the place before."""
    import numpy as np

    numbers = np.frombuffer(keys, dtype=np.int64)
    return [int(place) for place in np.flatnonzero(numbers[1:] == numbers[:-1]) + 1]


def _count_lines(path: Path, offset: int) -> int:
    """Return the number of the line that begins at so many bytes, from 1."""
    number, left = 1, offset
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(_BUFFER, left))):
            number, left = number + chunk.count(b"\n"), left - len(chunk)
    return number
