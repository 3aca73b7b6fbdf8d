"""Bringing an index up to the state of its folder, a little at a time and nothing twice."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from fletching.errors import DataError, FletchingError, bad_choice
from fletching.progress import progress_bar
from fletching.search.hits import join_content
from fletching.search.readers import READER_VERSION, find_files, read_document, split_document
from fletching.search.store import FileState, State, Store
from fletching.search.table import METRICS, DamagedIndexError, PassageTable
from fletching.text.passages import Passage

__all__ = ["UpdateReport", "read_settings", "update_store"]

_COMMIT = 512  # passages embedded and written at once: what a kill can cost
_NO_TEXT = "it holds no text, as scanned pages without a text layer"
_SETTLED_NS = 2_000_000_000  # a file younger than this may change again within one tick of its clock


@dataclass
class UpdateReport:
    """What an update found and did.

    Args:
        files: Files in the index now.
        passages: Passages in the index now.
        changed: Files that were read because they are new, or not as they were.
        removed: Files that are gone, or can no longer be read.
        embedded: Passages embedded by this update.
        reused: Passages of changed files whose vector was there already.
        skipped: Files that could not be read, and why; PDF files without text among them.
        notes: What else a user should know, one sentence each.
        seconds: How long it took.
    """

    files: int = 0
    passages: int = 0
    changed: int = 0
    removed: int = 0
    embedded: int = 0
    reused: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


def update_store(
    store: Store,
    folder: Path,
    embedder: Any,
    fingerprint: str,
    *,
    max_words: int = 120,
    rebuild: bool = False,
    show_progress_bar: bool | None = None,
) -> UpdateReport:
    """Make an index hold what its folder holds.

    The table is compared with the files, and what is missing is added in commits of 512 passages, each all or
    nothing. After a kill the next update finds the difference that is left. Where the table is damaged, it is
    built anew beside the old one.

    Args:
        store: The index.
        folder: The files.
        embedder: A `fletching.Embedder`.
        fingerprint: Its fingerprint.
        max_words: Words of a passage.
        rebuild: Whether to start from nothing.
        show_progress_bar: As in `fletching.progress.progress_bar`.

    Returns:
        What was found and done.

    Raises:
        ArgumentError: If the embedder's similarity is one that LanceDB does not know.
        FletchingError: If the cache cannot be written, or the folder holds no text.
    """
    begin = time.perf_counter()
    if embedder.similarity_fn_name not in METRICS:
        raise bad_choice("Index", "embedder.similarity_fn_name", METRICS, embedder.similarity_fn_name)
    settings = read_settings(max_words)
    with store.lock():
        try:
            report = _Update(store, folder, embedder, fingerprint, settings).run(rebuild, show_progress_bar)
        except DamagedIndexError as error:
            report = _Update(store, folder, embedder, fingerprint, settings).run(True, show_progress_bar)
            report.notes.insert(0, f"All is embedded again. {error}")
    report.seconds = time.perf_counter() - begin
    return report


def read_settings(max_words: int) -> dict[str, int]:
    """Name what decides how files are cut.

    Args:
        max_words: Words of a passage.

    Returns:
        The settings that an index is bound to.
    """
    return {"max_words": max_words, "reader": READER_VERSION}


@dataclass(frozen=True)
class _Row:
    """A passage on its way into the table."""

    file: str
    digest: str
    position: int
    passage: Passage
    kilobytes: float  # its share of the file, for the progress bar

    @property
    def content(self) -> str:
        return join_content(self.passage.heading, self.passage.text)

    @property
    def content_hash(self) -> bytes:
        return hashlib.blake2b(self.content.encode(), digest_size=16).digest()


class _Update:
    """One update, while the lock is held."""

    def __init__(
        self, store: Store, folder: Path, embedder: Any, fingerprint: str, settings: dict[str, int]
    ) -> None:
        self.store, self.folder, self.embedder = store, folder, embedder
        self.fingerprint, self.settings = fingerprint, settings
        self.report = UpdateReport()
        self.files: dict[str, FileState] = {}  # as they are in the index when the update is done
        self.published: State | None = None
        self.table_name = ""
        self.embedded: set[bytes] = set()  # contents whose vectors are in the table

    def run(self, rebuild: bool, show_progress_bar: bool | None) -> UpdateReport:
        """Do all of it."""
        paths = {_name_file(path, self.folder): path for path in find_files(self.folder)}
        if not paths:
            raise FletchingError(
                f"Index: {self.folder} holds no Markdown, text, HTML or PDF file. Pass a folder that does."
            )
        table = self._open(rebuild)
        stored = self._count_rows(table)
        unread = self._keep_untouched(paths, stored)
        total = round(sum(_measure(path) for path in unread.values()) / 1000)
        with progress_bar(total, "Indexing (kB)", show_progress_bar) as advance:
            self._add(table, self._read_rows(unread, stored, table), advance)
        self._refuse_nothing()
        wanted = {state.digest for state in self.files.values()}
        table.delete("digest", (f"'{digest}'" for digest in sorted(stored.keys() - wanted)))
        self._finish(table)
        return self.report

    def _open(self, rebuild: bool) -> PassageTable:
        """Open the table to write to; remember the published state if it is of use."""
        published = self.store.read_state()
        if published is not None and published.fingerprint != self.fingerprint:
            self._note("the embedder's weights or settings are not those of the index: all is embedded again")
            published = None
        elif published is not None and published.settings != self.settings:
            self._note("files are cut into passages in another way now: new passages are embedded")
        name = published.table if published else self.store.find_table(self.fingerprint)
        if rebuild or name is None:
            name, published = self._create(), None
        elif published is not None:
            try:
                self.store.open_table(name, version=published.version)
            except DamagedIndexError:  # the newest version may still be whole
                published = None
        self.table_name, self.published = name, published
        return self.store.open_table(name)

    def _create(self) -> str:
        return self.store.create_table(self.fingerprint, self.embedder.get_embedding_dimension())

    def _count_rows(self, table: PassageTable) -> Mapping[str, int]:
        """Count the passages of each file state in the table, those that a killed update left included."""
        if self.published is not None and self.published.version == table.version:
            return {state.digest: state.passages for state in self.published.files.values()}
        return table.count_values("digest")

    def _find_known(self, name: str, stored: Mapping[str, int]) -> FileState | None:
        """Return what is known of a file, if the table holds all its passages."""
        known = self.published.files.get(name) if self.published else None
        return known if known is not None and stored.get(known.digest, 0) == known.passages else None

    def _keep_untouched(self, paths: Mapping[str, Path], stored: Mapping[str, int]) -> dict[str, Path]:
        """Take over what is known of files that look as they did; return the others."""
        unread = {}
        for name, path in paths.items():
            known = self._find_known(name, stored)
            if known is not None and self._has_our_settings() and _is_untouched(path, known):
                self.files[name] = known
            else:
                unread[name] = path
        return unread

    def _has_our_settings(self) -> bool:
        return self.published is not None and self.published.settings == self.settings

    def _read_rows(
        self, paths: Mapping[str, Path], stored: Mapping[str, int], table: PassageTable
    ) -> Iterator[_Row]:
        """Yield the passages that the table lacks, file by file."""
        for name, path in paths.items():
            try:
                size, mtime_ns = _stat(path)
                settled = time.time_ns() - mtime_ns > _SETTLED_NS
                content = path.read_bytes()
                digest = self._digest(name, content)
                known = self._find_known(name, stored)
                if known is not None and known.digest == digest:
                    self.files[name] = FileState(size, mtime_ns * settled, digest, known.passages)
                    continue
                document = read_document(content, path.suffix, source=name)
                passages = split_document(document, max_words=self.settings["max_words"], source=name)
            except (OSError, DataError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                self.report.skipped[name] = reason.removeprefix(f"{name}: ")
                continue
            self.report.changed += 1
            there = set()
            if digest in stored:  # a killed update was here
                there = {row["position"] for row in table.scan(["position"], "digest", [f"'{digest}'"])}
            for position, passage in enumerate(passages):
                if position not in there:
                    yield _Row(name, digest, position, passage, size / 1000 / len(passages))
            self.files[name] = FileState(size, mtime_ns * settled, digest, len(passages))

    def _digest(self, name: str, content: bytes) -> str:
        digest = hashlib.blake2b(f"{name}\0{sorted(self.settings.items())}\0".encode(), digest_size=16)
        digest.update(content)
        return digest.hexdigest()

    def _add(self, table: PassageTable, rows: Iterator[_Row], advance: Callable[[int], None]) -> None:
        """Embed and write what is new; count it in whole kilobytes."""
        done = 0.0
        first = next(rows, None)
        if first is None:
            return
        rows = chain([first], rows)
        self.embedded = set(table.count_values("content_hash"))
        while batch := list(islice(rows, _COMMIT)):
            table.add(
                {
                    "file": [row.file for row in batch],
                    "digest": [row.digest for row in batch],
                    "position": [row.position for row in batch],
                    "heading": [row.passage.heading for row in batch],
                    "page": [row.passage.page for row in batch],
                    "start": [row.passage.start for row in batch],
                    "end": [row.passage.end for row in batch],
                    "content": [row.content for row in batch],
                    "content_hash": [row.content_hash for row in batch],
                    "vector": self._embed(table, batch),
                }
            )
            before, done = int(done), done + sum(row.kilobytes for row in batch)
            advance(int(done) - before)

    def _embed(self, table: PassageTable, batch: Iterable[_Row]) -> Any:
        """Return the vectors, shape ``(N, D)``: those that are in the table, and new ones for the rest."""
        import numpy as np

        contents = {row.content_hash: row.content for row in batch}
        known = (f"X'{key.hex()}'" for key in contents if key in self.embedded)
        vectors = {
            row["content_hash"]: np.asarray(row["vector"], dtype=np.float32)
            for row in table.scan(["content_hash", "vector"], "content_hash", known)
        }
        new = [key for key in contents if key not in vectors]
        if new:
            embeddings = self.embedder.encode_document(
                [contents[key] for key in new], show_progress_bar=False
            )
            self._refuse_nan(embeddings, [contents[key] for key in new], batch)
            vectors.update(zip(new, embeddings, strict=True))
        rows = [vectors[row.content_hash] for row in batch]
        self.embedded.update(new)
        self.report.embedded += len(new)
        self.report.reused += len(rows) - len(new)
        return np.stack(rows)

    def _refuse_nan(self, embeddings: Any, texts: Sequence[str], batch: Iterable[_Row]) -> None:
        """Name the file whose passage got no vector; LanceDB would refuse all of them."""
        import numpy as np

        broken = np.flatnonzero(~np.isfinite(np.asarray(embeddings, dtype=np.float32)).all(axis=1))
        if len(broken):
            name = next(row.file for row in batch if row.content == texts[broken[0]])
            raise FletchingError(
                f"Index: the vector of a passage of {name} must be finite; got NaN or infinity. Load the "
                "model in float32 or check its weights."
            )

    def _refuse_nothing(self) -> None:
        """Stop before anything is deleted if no file holds text."""
        if not any(state.passages for state in self.files.values()):
            reasons = "".join(f" {name}: {why}" for name, why in islice(self.report.skipped.items(), 3))
            raise FletchingError(f"Index: no file of {self.folder} holds text that can be read.{reasons}")

    def _finish(self, table: PassageTable) -> None:
        """Publish the new state, if anything is new."""
        report, before = self.report, self.published
        report.files = len(self.files)
        report.passages = sum(state.passages for state in self.files.values())
        report.skipped |= {
            name: _NO_TEXT
            for name, state in self.files.items()
            if not state.passages and name.lower().endswith(".pdf")
        }
        report.removed = len(before.files.keys() - self.files.keys()) if before else 0
        if before is None or before.version != table.version:
            self._publish(table.index_words())
            if table.is_worn:
                self._publish(table.compact())
        elif before.files != self.files or before.settings != self.settings:
            self._publish(before.version)

    def _publish(self, version: int) -> None:
        metric = METRICS[self.embedder.similarity_fn_name]
        state = State(self.fingerprint, metric, self.settings, self.table_name, version, self.files)
        self.store.publish(state)

    def _note(self, sentence: str) -> None:
        self.report.notes.append(f"{sentence[0].upper()}{sentence[1:]}.")


def _name_file(path: Path, folder: Path) -> str:
    """Name a file as the index does, in Unicode whatever the file system holds."""
    name = path.relative_to(folder).as_posix()
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _stat(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _is_untouched(path: Path, known: FileState) -> bool:
    try:
        return _stat(path) == (known.size, known.mtime_ns)
    except OSError:  # it went away; reading it will say so
        return False


def _measure(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it went away; reading it will say so
        return 0
