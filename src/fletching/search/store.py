"""What an index keeps on disk: a table, and a small file that says which version of it is complete.

A writer appends to the newest version of the table; readers look at the version that was published last.
Killed at any moment, a writer leaves the published version as it was, and its own rows for the next writer to
go on from::

    <cache>/docs-1f0c…/all-MiniLM-L6-v2-77ab…/
        state.json           format, fingerprint of the model, settings, files, published version
        lock                 held by the one writer
        <fingerprint>.lance  the table
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fletching.errors import FletchingError
from fletching.search.table import PassageTable, clear_errors, import_lancedb

__all__ = ["FORMAT", "FileState", "State", "Store"]

FORMAT = 1
"""Layout of the cache: a newer one is refused, an older one built anew."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileState:
    """One file as it was indexed.

    Args:
        size: Bytes.
        mtime_ns: Time of its last change, in nanoseconds; 0 has it read again next time.
        digest: Names its path, its content and how it was cut.
        passages: How many passages it gave.
    """

    size: int
    mtime_ns: int
    digest: str
    passages: int


@dataclass(frozen=True)
class State:
    """A complete index: what was embedded, by what, and the version of the table that holds it.

    Args:
        fingerprint: The embedder's, see `fletching.fingerprint`; also the name of the table.
        metric: LanceDB's name of the embedder's similarity.
        settings: How files were cut.
        version: Of the table.
        files: By path relative to the folder.
        format: Of the cache.
    """

    fingerprint: str
    metric: str
    settings: dict[str, int]
    version: int
    files: dict[str, FileState] = field(default_factory=dict)
    format: int = FORMAT


class Store:
    """One index on disk.

    Args:
        root: Its folder; made when missing.

    Raises:
        FletchingError: If the folder cannot be made.
        MissingExtraError: If lancedb is not installed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        lancedb = import_lancedb()
        with clear_errors(root):
            root.mkdir(parents=True, exist_ok=True)
            self._database = lancedb.connect(root)
        self._read: tuple[os.stat_result, State | None] | None = None

    def read_state(self) -> State | None:
        """Read what was published last.

        Returns:
            The state, the same object until another is published; ``None`` when nothing was published, or
            what is there is no state of ours.

        Raises:
            FletchingError: If a newer fletching wrote it, or it cannot be read.
        """
        path = self.root / "state.json"
        with clear_errors(self.root):
            try:
                status = path.stat()
                if self._read is None or not _is_same(self._read[0], status):
                    self._read = status, self._parse(path.read_bytes())
            except FileNotFoundError:
                self._read = None
        return self._read[1] if self._read else None

    def publish(self, state: State) -> None:
        """Make a version of the table the one that readers see, and drop what it supersedes.

        Args:
            state: The complete index.

        Raises:
            FletchingError: If it cannot be written; the state before stays published.
        """
        draft = self.root / f"state.json.{os.getpid()}"
        with clear_errors(self.root):
            try:
                draft.write_text(json.dumps(asdict(state)), encoding="utf-8")
                draft.replace(self.root / "state.json")
            finally:
                draft.unlink(missing_ok=True)
        for table in self.root.glob("*.lance"):
            if table.stem != state.fingerprint:
                shutil.rmtree(table, ignore_errors=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Take the one writer's place, when it is free."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.root / "lock")
        with clear_errors(self.root):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                logger.warning(
                    "Index %s: another process is updating it; waiting until it is done.", self.root
                )
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def has_table(self, name: str) -> bool:
        """Say whether there is a table, whole or not.

        Args:
            name: Its name.

        Returns:
            True if there is.
        """
        return (self.root / f"{name}.lance").is_dir()

    def open_table(self, name: str, *, version: int | None = None) -> PassageTable:
        """Open a table.

        Args:
            name: Its name.
            version: The version to read; ``None`` opens the newest, to write to.

        Returns:
            The table.

        Raises:
            FletchingError: If there is none, or it is damaged.
        """
        with clear_errors(self.root):
            table = self._database.open_table(name)
            if version is not None:
                table.checkout(version)
        return PassageTable(table, self.root)

    def create_table(self, name: str, dimension: int) -> PassageTable:
        """Create an empty table, in the place of one that is there.

        Args:
            name: Its name.
            dimension: Of the vectors.

        Returns:
            The table.

        Raises:
            FletchingError: If it cannot be written.
        """
        shutil.rmtree(self.root / f"{name}.lance", ignore_errors=True)
        return PassageTable.create(self._database, name, dimension, self.root)

    def _parse(self, content: bytes) -> State | None:
        try:
            state = json.loads(content)
            if state["format"] > FORMAT:
                raise FletchingError(
                    f"Index {self.root}: it was made by a newer fletching (format {state['format']}; this "
                    f"one reads {FORMAT}). Update fletching, or pass another cache folder."
                )
            files = {name: FileState(**entry) for name, entry in state.pop("files").items()}
            return State(**state, files=files) if state["format"] == FORMAT else None
        except (ValueError, LookupError, TypeError, AttributeError):
            return None


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_mtime_ns, one.st_size, one.st_ino) == (other.st_mtime_ns, other.st_size, other.st_ino)
