"""An index of a folder, searched by meaning and by words."""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fletching.errors import FletchingError, bad_argument
from fletching.models.caching import find_cache
from fletching.models.inputs import check_positive, check_query
from fletching.models.minilm import HUB_ID
from fletching.models.sharing import fingerprint, load_shared
from fletching.search.fusion import fuse_rankings
from fletching.search.hits import Hit
from fletching.search.store import State, Store
from fletching.search.table import DamagedIndexError, PassageTable
from fletching.search.update import UpdateReport, read_settings, update_store
from fletching.text.passages import take_words

__all__ = ["Index"]

_MAX_QUERY_WORDS = 1000  # BM25's part of a query that is a whole document
_OPENED = ("_opening", "_opened", "_fingerprint")  # what a pickle leaves behind
_NAMELESS = ("device", "token", "local_files_only", "cache_folder")  # decide where, not what


class Index:
    """The passages of a folder's files, on disk, ready to be searched.

    What was embedded once is not embedded again: an update reads the files that changed and embeds the
    passages that are new. The index is bound to the weights and settings of its embedder. Threads and
    processes may share one: writers wait for each other, readers see the last complete state.

    Args:
        folder: What to search: its Markdown, text, HTML and PDF files.
        embedder: Name, folder or hub id as for `fletching.load`, or a loaded `fletching.Embedder`.
        cache: Folder in which indexes are kept; ``None`` takes that of :func:`find_cache`.
        max_words: Words of a passage. Default: ours, within the 256 tokens that small models read.
        **model_options: Arguments of `fletching.load` for an embedder that is not loaded yet; ``dtype`` is
            ``"auto"`` unless given.

    Raises:
        ArgumentError: If the folder does not exist, or another argument is outside its domain.
        FletchingError: If the cache folder cannot be made.
        MissingExtraError: If the extra ``search`` is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        embedder: Any = HUB_ID,
        cache: str | Path | None = None,
        max_words: int = 120,
        **model_options: Any,
    ) -> None:
        if not isinstance(folder, (str, Path)) or not Path(folder).is_dir():
            shown = str(folder) if isinstance(folder, Path) else folder
            raise bad_argument("Index", "folder", "an existing folder", shown)
        if not _may_embed(embedder):
            domain = "a checkpoint name, a folder, a hub id or a loaded embedder"
            raise bad_argument("Index", "embedder", domain, embedder, "A reranker goes to `search`")
        self.folder = Path(folder).absolute()
        self.max_words = check_positive("Index", "max_words", max_words)
        self._embedder = embedder
        self._model_options = {"dtype": "auto", **model_options}
        self._store = Store(self._choose_root(Path(cache or find_cache()).absolute()))
        self._forget()

    def _forget(self) -> None:
        """Start with nothing opened."""
        self._opening = threading.Lock()
        self._opened: tuple[State, PassageTable] | None = None
        self._fingerprint: tuple[Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in vars(self).items() if name not in _OPENED}
        return {**kept, "_store": self.root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._store = Store(state["_store"])
        self._forget()

    @property
    def root(self) -> Path:
        """The folder that holds the index; it may be deleted at any time."""
        return self._store.root

    @property
    def embedder(self) -> Any:
        """The model, loaded on first use and shared within the process."""
        if isinstance(self._embedder, (str, Path)):
            return load_shared(self._embedder, kind="embedder", **self._model_options)
        return self._embedder

    def update(self, *, rebuild: bool = False, show_progress_bar: bool | None = None) -> UpdateReport:
        """Bring the index up to the state of the folder.

        May be interrupted or killed at any time: searches see the state before, and the next update goes on
        from the last 512 passages.

        Args:
            rebuild: Whether to start from nothing.
            show_progress_bar: Whether to draw a progress bar; ``None`` draws one for a terminal at log level
                INFO.

        Returns:
            What was found and done.

        Raises:
            FletchingError: If the cache cannot be written, or no file holds text that can be read.
        """
        embedder = self.embedder
        self._fingerprint = embedder, fingerprint(embedder)  # anew: it may have been trained since
        return update_store(
            self._store,
            self.folder,
            embedder,
            self._fingerprint[1],
            max_words=self.max_words,
            rebuild=rebuild,
            show_progress_bar=show_progress_bar,
        )

    def retrieve(self, query: str, top_k: int = 50) -> list[Hit]:
        """Find passages by meaning and by words.

        The ``top_k`` nearest vectors (all are compared) and the ``top_k`` best by BM25 are fused by their
        ranks.

        Args:
            query: The query.
            top_k: Hits to return.

        Returns:
            Hits, best first.

        Raises:
            ArgumentError: If an argument is outside its domain.
            FletchingError: If there is no index yet, or it is not of this embedder.
        """
        query = check_query("Index.retrieve", "query", query)
        top_k = check_positive("Index.retrieve", "top_k", top_k)
        embedder = self.embedder
        vector = embedder.encode_query(query)
        words = take_words(query, _MAX_QUERY_WORDS)
        while True:
            state = self._read_state(embedder)
            try:
                table = self._open(state)
                near, worded = table.find_near(vector, state.metric, top_k), table.find_worded(words, top_k)
                return _fuse(near, worded)[:top_k]
            except DamagedIndexError:
                if self._store.read_state() is state:  # else a writer has put another one in its place
                    raise

    def search(self, query: str, top_k: int = 10, *, reranker: Any = None, candidates: int = 50) -> list[Hit]:
        """Retrieve, and rerank what was retrieved.

        Args:
            query: The query.
            top_k: Hits to return.
            reranker: Name, folder or hub id as for `fletching.load`, or a loaded `fletching.Reranker`;
                ``None`` leaves the order of retrieval.
            candidates: Hits to retrieve; raised to ``top_k`` if that is larger.

        Returns:
            Hits, best first.

        Raises:
            ArgumentError: If an argument is outside its domain.
            FletchingError: As :meth:`retrieve`.
        """
        hits, top_k = self._find_candidates(query, top_k, candidates)
        if reranker is None:
            return hits[:top_k]
        ranking = open_reranker(reranker).rank(query, [hit.content for hit in hits], top_k)
        return _order(hits, ranking)

    async def asearch(
        self, query: str, top_k: int = 10, *, reranker: Any = None, candidates: int = 50
    ) -> list[Hit]:
        """:meth:`search` for event loops, which stay responsive.

        Args:
            query: The query.
            top_k: Hits to return.
            reranker: As for :meth:`search`.
            candidates: As for :meth:`search`.

        Returns:
            Exactly what :meth:`search` returns.

        Raises:
            ArgumentError: As :meth:`search`.
            FletchingError: As :meth:`search`.
        """
        hits, top_k = await asyncio.to_thread(self._find_candidates, query, top_k, candidates)
        if reranker is None:
            return hits[:top_k]
        model = await asyncio.to_thread(open_reranker, reranker)
        return _order(hits, await model.arank(query, [hit.content for hit in hits], top_k))

    def _find_candidates(self, query: str, top_k: int, candidates: int) -> tuple[list[Hit], int]:
        top_k = check_positive("Index.search", "top_k", top_k)
        candidates = check_positive("Index.search", "candidates", candidates)
        return self.retrieve(query, max(top_k, candidates)), top_k

    def _read_state(self, embedder: Any) -> State:
        """Read what is published, if it is what this index would publish."""
        if self._fingerprint is None or self._fingerprint[0] is not embedder:
            self._fingerprint = embedder, fingerprint(embedder)
        state = self._store.read_state()
        if state is None:
            raise FletchingError(f"Index: {self.folder} has no complete index yet. Call `update` first.")
        if state.fingerprint != self._fingerprint[1] or state.settings != read_settings(self.max_words):
            raise FletchingError(
                f"Index: that of {self.folder} was made with other weights or settings. Call `update` first."
            )
        return state

    def _open(self, state: State) -> PassageTable:
        """Open what is published, once for each published state."""
        with self._opening:
            if self._opened is None or self._opened[0] is not state:
                self._opened = state, self._store.open_table(state.table, version=state.version)
            return self._opened[1]

    def _choose_root(self, cache: Path) -> Path:
        """One folder for each searched folder, and in it one for each embedder."""
        model = self._embedder
        if isinstance(model, (str, Path)):
            place = Path(model).resolve() if Path(model).is_dir() else model
            options = sorted((k, str(v)) for k, v in self._model_options.items() if k not in _NAMELESS)
            label, identity = Path(model).name, f"{place} {options}"
        else:
            label, identity = type(model).__name__, fingerprint(model)
        folder = self.folder.resolve()
        return cache / _slug(folder.name, str(folder)) / _slug(label, identity)


def _may_embed(embedder: object) -> bool:
    return bool(embedder) if isinstance(embedder, (str, Path)) else hasattr(embedder, "encode_document")


def open_reranker(reranker: Any) -> Any:
    """Turn a name, a folder or a hub id into a reranker; leave a loaded one as it is.

    Args:
        reranker: What the user passed.

    Returns:
        A reranker.

    Raises:
        ArgumentError: If it is an embedder.
    """
    model = load_shared(reranker, kind="reranker") if isinstance(reranker, (str, Path)) else reranker
    if not hasattr(model, "rank"):
        raise bad_argument("Index.search", "reranker", "a reranker", reranker, "An embedder goes to `Index`")
    return model


def _slug(label: str, identity: str) -> str:
    """Name a folder so that people recognise it and two never meet."""
    digest = hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', label)[:40].strip('.-') or 'index'}-{digest}"


def _key(row: dict[str, Any]) -> tuple[str, int]:
    return row["file"], row["start"]


def _fuse(near: Sequence[dict[str, Any]], worded: Sequence[dict[str, Any]]) -> list[Hit]:
    """Join what both found of each passage."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for row in (*near, *worded):
        found.setdefault(_key(row), {}).update(row)
    fused = fuse_rankings([[_key(row) for row in near], [_key(row) for row in worded]])
    return [_build_hit(found[key], rank, score) for rank, (key, score) in enumerate(fused, start=1)]


def _build_hit(row: dict[str, Any], rank: int, score: float) -> Hit:
    heading, content = row["heading"], row["content"]
    return Hit(
        file=row["file"],
        heading=heading,
        text=content[len(heading) + 1 :] if heading else content,
        score=score,
        retrieval_rank=rank,
        retrieval_score=score,
        similarity=row.get("similarity"),
        bm25=row.get("bm25"),
        page=row["page"],
        start=row["start"],
        end=row["end"],
    )


def _order(hits: Sequence[Hit], ranking: Sequence[dict[str, Any]]) -> list[Hit]:
    return [replace(hits[hit["corpus_id"]], score=hit["score"]) for hit in ranking]
