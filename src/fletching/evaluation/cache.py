"""Keeps what systems answered, query by query, so that an interrupted evaluation goes on where it was.

Layout of a cache folder::

    answers/<key>/system.json    what the key stands for, for people
    answers/<key>/queries.jsonl  a line for each query: checksum, then its scores and what they cost
    answers/<key>/prepared.json  what preparing cost
    vectors/<key>/<block>.*      a block of encoded passages: one .npy for each array, and a .json

A line or file that does not match its checksum is computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4
from zlib import crc32

import numpy as np

from fletching import __version__
from fletching.errors import bad_argument
from fletching.evaluation.costs import Spent
from fletching.evaluation.interface import hash_file
from fletching.evaluation.vectors import Arrays

__all__ = ["Answer", "Prepared", "Store", "make_folder", "open_store"]

_JSON = ".json"
_LIBRARIES = ("torch", "transformers", "sentence-transformers")  # other versions may compute other scores


@dataclass(frozen=True)
class Answer:
    """What a system answered to a query.

    Args:
        scores: Document id -> score, best first.
        spent: What it took.
    """

    scores: dict[str, float]
    spent: Spent


@dataclass(frozen=True)
class Prepared:
    """What was done once, before the first query.

    Args:
        spent: What each step took.
        bytes_per_vector: As in `Cost`.
    """

    spent: tuple[Spent, ...]
    bytes_per_vector: float | None


class Store:
    """The answers of one system; in memory only, where there is no folder.

    Args:
        answers: Folder of the answers; ``None`` keeps them in memory.
        vectors: Folder of encoded passages; ``None`` writes none.
    """

    def __init__(self, answers: Path | None = None, vectors: Path | None = None) -> None:
        self._answers = answers
        self._vectors = vectors
        self.blocks: list[Spent] = []
        self.answers: dict[str, Answer] = {}
        self.prepared: Prepared | None = None
        if answers is not None:
            self._read_answers(answers / "queries.jsonl")
            self.prepared = _read_prepared(answers / "prepared.json")

    def add(self, query_id: str, answer: Answer) -> None:
        """Keep the answer to a query.

        Args:
            query_id: The query.
            answer: The answer.
        """
        self.answers[query_id] = answer
        if self._answers is not None:
            with (self._answers / "queries.jsonl").open("ab") as file:
                file.write(_format_answer(query_id, answer))

    def set_prepared(self, prepared: Prepared) -> None:
        """Keep what preparing took.

        Args:
            prepared: What it took.
        """
        self.prepared = prepared
        if self._answers is not None:
            record = {
                "spent": [vars(spent) for spent in prepared.spent],
                "bytes_per_vector": prepared.bytes_per_vector,
            }
            _write(self._answers / "prepared.json", _seal(record))

    def keep_block(
        self, ids: Sequence[str], texts: Sequence[str], compute: Callable[[], tuple[Arrays, Spent]]
    ) -> Arrays:
        """Find a block of encoded passages, or compute and keep it.

        Args:
            ids: Of the passages.
            texts: Of the passages.
            compute: Encodes them and says what it took.

        Returns:
            The block; where there is a folder, its arrays are read from the files when they are used.
        """
        if self._vectors is None:
            block, spent = compute()
            self.blocks.append(spent)
            return block
        digest = hashlib.blake2b(digest_size=16)
        for key, text in zip(ids, texts, strict=True):
            for part in (key, text):
                encoded = part.encode("utf-8", "surrogatepass")
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
        stem = self._vectors / digest.hexdigest()
        found = _read_block(stem)
        if found is None:
            _write_block(stem, *compute())
            found = _read_block(stem)
            assert found is not None, "it has just been written"
        self.blocks.append(found[1])
        return found[0]

    def _read_answers(self, path: Path) -> None:
        """Read the good lines, and drop the others from the file so that the next one starts on its own."""
        content = path.read_bytes() if path.is_file() else b""
        lines = content.split(b"\n")
        for line in lines:
            try:
                record = _unseal(line)
                scores = {str(key): float(score) for key, score in record["scores"]}
                self.answers[str(record["id"])] = Answer(scores, Spent.read(record["spent"]))
            except (ValueError, KeyError, TypeError):
                continue
        if len(lines) != len(self.answers) + 1 or lines[-1]:
            _write(path, b"".join(_format_answer(key, answer) for key, answer in self.answers.items()))


def make_folder(owner: str, folder: str | Path, *, data: str) -> None:
    """Make a cache folder if it is missing.

    Args:
        owner: The call named in errors.
        folder: The folder.
        data: Digest of the data.

    Raises:
        ArgumentError: If nothing can be written there, or the digest is empty.
    """
    if not data:
        raise bad_argument(owner, "data.digest", "set where results are to be kept", data)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise bad_argument(owner, "cache", "a folder that can be written", str(folder)) from error
    if not writable:
        raise bad_argument(owner, "cache", "a folder that can be written", str(folder))


def open_store(
    folder: str | Path | None, settings: Mapping[str, Any], *, fingerprint: str, data: str
) -> Store:
    """Find what an earlier run kept of a system.

    Args:
        folder: The cache folder; ``None`` keeps everything in memory.
        settings: Whatever else decides on the answers; JSON values.
        fingerprint: Of the system; an empty one keeps everything in memory too, as nobody can tell whether
            the system is still the same.
        data: Digest of the data.

    Returns:
        The store of this system.
    """
    if folder is None or not fingerprint:
        return Store()
    versions = {name: version(name) for name in _LIBRARIES}
    vectors_key = {"fingerprint": fingerprint, "fletching": __version__, **versions}
    answers_key = {**vectors_key, "data": data, **settings}
    answers = Path(folder) / "answers" / _hash(answers_key)
    vectors = Path(folder) / "vectors" / _hash(vectors_key)
    answers.mkdir(parents=True, exist_ok=True)
    vectors.mkdir(parents=True, exist_ok=True)
    _write(answers / "system.json", json.dumps(answers_key, indent=1).encode() + b"\n")
    return Store(answers, vectors)


def _format_answer(query_id: str, answer: Answer) -> bytes:
    scores = list(answer.scores.items())
    return _seal({"id": query_id, "scores": scores, "spent": vars(answer.spent)})


def _read_prepared(path: Path) -> Prepared | None:
    try:
        record = _unseal(path.read_bytes().removesuffix(b"\n"))
        size = record["bytes_per_vector"]
        return Prepared(
            tuple(Spent.read(spent) for spent in record["spent"]), None if size is None else float(size)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_block(stem: Path, block: Arrays, spent: Spent) -> None:
    hashes = {}
    for name, values in block.items():
        path = stem.with_name(f"{stem.name}.{name}.npy")
        part = _name_part(path)
        with part.open("wb") as file:
            np.save(file, values, allow_pickle=False)
        part.replace(path)
        hashes[name] = hash_file(path)
    _write(stem.with_name(stem.name + _JSON), _seal({"files": hashes, "spent": vars(spent)}))


def _read_block(stem: Path) -> tuple[Arrays, Spent] | None:
    """Read a block; ``None`` if it is not there or not as it was written."""
    try:
        record = _unseal(stem.with_name(stem.name + _JSON).read_bytes().removesuffix(b"\n"))
        spent, block = Spent.read(record["spent"]), {}
        for name, expected in record["files"].items():
            path = stem.with_name(f"{stem.name}.{name}.npy")
            if hash_file(path) != expected:
                return None
            block[name] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return block, spent


def _seal(record: Mapping[str, Any]) -> bytes:
    """Write a record as one line with its checksum in front."""
    text = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (crc32(text), text)


def _unseal(line: bytes) -> Any:
    checksum, _, text = line.partition(b" ")
    if len(checksum) != 8 or int(checksum, 16) != crc32(text):
        raise ValueError("damaged")
    return json.loads(text)


def _write(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    part = _name_part(path)
    part.write_bytes(content)
    part.replace(path)


def _name_part(path: Path) -> Path:
    """Name what a file is called until it is whole; threads, processes and machines may share a cache."""
    return path.with_name(f"{path.name}.{uuid4().hex}.part")


def _hash(key: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).hexdigest()
