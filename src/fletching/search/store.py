"""What an index keeps on disk: a table, and a small file that says which version of it is complete.

A writer appends to the newest version of the table; readers look at the version that was published last.
Killed at any moment, a writer leaves the published version as it was, and its own rows for the next writer to
go on from::

    <cache>/docs-1f0c…/all-MiniLM-L6-v2-77ab…/
        state.json             format, fingerprint of the model, settings, files, table and version
        lock                   held by the one writer
        <fingerprint>-1.lance  the table; one that is built anew gets the next number
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
from fletching.search.table import METRICS, PassageTable, clear_errors, import_lancedb

__all__ = ["FORMAT", "FileState", "State", "Store"]

FORMAT = 1
"""Layout of the cache: a newer one is refused, an older one built anew."""

_CACHE_BYTES = 128 * 2**20

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
        fingerprint: The embedder's, see `fletching.fingerprint`.
        metric: LanceDB's name of the embedder's similarity.
        settings: How files were cut.
        table: Name of the table.
        version: Of the table.
        files: By path relative to the folder.
        format: Of the cache.
    """

    fingerprint: str
    metric: str
    settings: dict[str, int]
    table: str
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
            session = lancedb.Session(_CACHE_BYTES, _CACHE_BYTES)  # without limits it grows with each update
            self._database = lancedb.connect(root, session=session)
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
                with draft.open("w", encoding="utf-8") as file:
                    json.dump(asdict(state), file)
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(self.root / "state.json")
            finally:
                draft.unlink(missing_ok=True)
        for table in self.root.glob("*.lance"):
            if table.stem != state.table:
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
                    "Index %s: somebody else is updating it; waiting until that is done.", self.root
                )
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def find_table(self, fingerprint: str) -> str | None:
        """Find the table that was begun last for an embedder.

        Args:
            fingerprint: The embedder's.

        Returns:
            Its name, or ``None``.
        """
        numbers = [int(path.stem.rpartition("-")[2]) for path in self.root.glob(f"{fingerprint}-*.lance")]
        return f"{fingerprint}-{max(numbers)}" if numbers else None

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

    def create_table(self, fingerprint: str, dimension: int) -> str:
        """Create an empty table beside those that are there.

        Args:
            fingerprint: The embedder's.
            dimension: Of its vectors.

        Returns:
            The name of the table.

        Raises:
            FletchingError: If it cannot be written.
        """
        before = self.find_table(fingerprint) or f"{fingerprint}-0"
        name = f"{fingerprint}-{int(before.rpartition('-')[2]) + 1}"
        PassageTable.create(self._database, name, dimension, self.root)
        return name

    def _parse(self, content: bytes) -> State | None:
        try:
            state = json.loads(content)
            if state["format"] > FORMAT:
                raise FletchingError(
                    f"Index {self.root}: it was made by a newer fletching (format {state['format']}; this "
                    f"one reads {FORMAT}). Update fletching, or pass another cache folder."
                )
            files = {name: FileState(**entry) for name, entry in state.pop("files").items()}
            parsed = State(**state, files=files)
        except (ValueError, LookupError, TypeError, AttributeError):
            return None
        is_ours = (
            parsed.format == FORMAT
            and parsed.metric in METRICS.values()
            and isinstance(parsed.table, str)
            and isinstance(parsed.version, int)
            and 0 < parsed.version < 2**63
        )
        return parsed if is_ours else None


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_mtime_ns, one.st_size, one.st_ino) == (other.st_mtime_ns, other.st_size, other.st_ino)
