"""From the bytes of a file to its lines, and back; every reader and writer of this room goes through here."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from fletching.errors import DataError, bad_record

__all__ = [
    "StrPath",
    "Words",
    "check_known",
    "no_records",
    "parse_number",
    "read_json_id",
    "read_json_lines",
    "read_lines",
    "write_lines",
]

StrPath = str | PathLike[str]

_BUFFER = 1 << 20  # bytes
_UNPACKED = 1 << 16  # bytes unpacked at once: what a broken end takes with it
_PEEK = 512  # bytes from the top that tell what a file is
_GZIP = b"\x1f\x8b"
_GIT_LFS = b"version https://git-lfs.github.com/spec/"
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_DOWNLOAD_AGAIN = "Was the download or the copy cut off?"


class Words:
    """Words that stand in an error without quotation marks.

    Args:
        text: What was found, read after "got".
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def read_lines(path: StrPath) -> Iterator[tuple[int, str]]:
    r"""Yield the lines of a text file that are not blank, one at a time.

    Gzip is recognised by its first bytes, whatever the file's name. The text must be UTF-8; a byte order mark
    is dropped. Lines end with ``\n`` or ``\r\n`` and nothing else: U+2028 and form feeds are text.

    Args:
        path: The file.

    Yields:
        The line's number, from 1, and its text without the end.

    Raises:
        DataError: If there is no such file, nothing is in it, it is no UTF-8 or no whole gzip file.
    """
    path = Path(path)
    number = 0
    is_empty = True
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, start=1):
                line = raw.decode("utf-8").rstrip("\r\n")
                if line and not line.isspace():
                    is_empty = False
                    yield number, line
    except UnicodeDecodeError as error:
        byte = Words(f"the byte 0x{error.object[error.start]:02x} as number {error.start + 1} of the line")
        raise bad_record(path, number, None, "UTF-8 text", byte, "Convert the file first.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        broken = Words(f"a broken one, readable at least up to line {number}")
        raise bad_record(path, None, None, "a whole gzip file", broken, _DOWNLOAD_AGAIN) from error
    if is_empty:
        raise no_records(path)


def read_json_lines(path: StrPath) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file of JSON lines.

    Args:
        path: The file, read as `read_lines` does.

    Yields:
        The line's number, from 1, and its object.

    Raises:
        DataError: If a line is no JSON object, or has an escaped surrogate without its other half.
    """
    for number, line in read_lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise bad_record(path, number, None, "a JSON object", line) from error
        if not isinstance(record, dict):
            raise bad_record(path, number, None, "a JSON object", record)
        if "\\u" in line and _SURROGATES.search(json.dumps(record, ensure_ascii=False)):
            raise bad_record(path, number, None, "Unicode text", Words("half of a surrogate pair"))
        yield number, record


def read_json_id(path: StrPath, number: int, record: dict[str, Any], *keys: str) -> str:
    """Return the id under the first of ``keys`` that a JSON object has; whole numbers become text.

    Args:
        path: The file, for the error.
        number: The line, for the error.
        record: The object.
        keys: Where the id may stand.

    Returns:
        The id.

    Raises:
        DataError: If there is none.
    """
    key = next((key for key in keys if key in record), keys[0])
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise bad_record(path, number, key, "a non-empty string", value)
    return value


def parse_number(path: StrPath, number: int, field: str, value: object) -> float:
    """Read a finite number.

    Args:
        path: The file, for the error.
        number: The line, for the error.
        field: The field, for the error.
        value: A number, or its text.

    Returns:
        The number.

    Raises:
        DataError: If it is none, or NaN or infinite.
    """
    try:
        parsed = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]  # caught below
    except (TypeError, ValueError, OverflowError):
        parsed = math.nan
    if not math.isfinite(parsed):
        raise bad_record(path, number, field, "a finite number", value)
    return parsed


def check_known(path: StrPath, number: int, field: str, value: str, known: object) -> None:
    """Refuse an id that is not in ``known``.

    Args:
        path: The file, for the error.
        number: The line, for the error.
        field: The field, for the error.
        value: The id.
        known: A container of ids; ``None`` allows every id.

    Raises:
        DataError: If the id is unknown.
    """
    if known is not None and value not in known:  # type: ignore[operator]  # a Container[str] at the border
        raise bad_record(path, number, field, "one of the ids that were given", value)


def no_records(path: StrPath) -> DataError:
    """Build the error for a file without any record.

    Args:
        path: The file.

    Returns:
        The error, to be raised by the caller.
    """
    return bad_record(path, None, None, "a file with at least one record", Words("none"))


def write_lines(path: StrPath, lines: Iterable[str]) -> None:
    r"""Write lines as UTF-8, each ended by ``\n``; the file appears when it is complete.

    Args:
        path: The file. A name that ends in ``.gz`` is compressed; equal lines give equal bytes.
        lines: The lines without their ends.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")  # several may write at once: the last one stays
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(part.open("wb"))
            file: IO[bytes] | gzip.GzipFile = raw
            if path.suffix == ".gz":
                file = stack.enter_context(gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0))
            for line in lines:
                file.write(f"{line}\n".encode())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _open(path: Path) -> Iterator[io.BufferedReader[Any]]:
    """Open a plain or gzipped file behind its byte order mark."""
    if path.is_dir() or not path.exists():
        found = Words("a folder" if path.is_dir() else "nothing under this name")
        raise bad_record(path, None, None, "an existing file", found)
    with ExitStack() as stack:
        file: io.BufferedReader[Any] = io.BufferedReader(stack.enter_context(io.FileIO(path)), _BUFFER)
        if file.peek(_PEEK).startswith(_GZIP):
            packed = stack.enter_context(gzip.GzipFile(fileobj=file))
            file = io.BufferedReader(packed, _UNPACKED)  # GzipFile's own lines are slow
        top = file.peek(_PEEK)[:_PEEK]
        if top.startswith(_GIT_LFS):
            pointer = Words("a pointer of Git LFS")
            raise bad_record(path, None, None, "the data", pointer, "Run: git lfs pull")
        if b"\0" in top:
            raise bad_record(path, None, None, "UTF-8 text", Words("zero bytes: binary data, or UTF-16"))
        if top.startswith(codecs.BOM_UTF8):
            file.read(len(codecs.BOM_UTF8))
        yield file
