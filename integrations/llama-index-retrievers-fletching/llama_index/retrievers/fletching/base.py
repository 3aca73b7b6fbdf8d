"""The index of `fletching search` behind LlamaIndex's retriever interface."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from fletching.errors import bad_argument
from fletching.models.inputs import check_positive

if TYPE_CHECKING:
    from fletching import Reranker
    from fletching.search import Hit, Index

_HIDDEN = ["start", "end", "retrieval_rank"]  # from embedders and language models


class FletchingSearchRetriever(BaseRetriever):
    """Retrieve passages of a folder by meaning and by words, and rerank them.

    Args:
        index: A `fletching.search.Index`, or a folder, whose index is then opened and brought up to date at
            the first call.
        reranker: Checkpoint name, folder, hub id, or a loaded ``fletching.Reranker``; ``None`` leaves the
            order of retrieval.
        similarity_top_k: Nodes to return, >= 1. Default: ours.
        candidates: Passages to retrieve and rerank, >= 1.
        callback_manager: Told about each call; ``None`` makes one without handlers.

    Raises:
        ArgumentError: If an argument is outside its domain. Models are opened at the first call.

    Example:
        >>> FletchingSearchRetriever("no/such/folder")
        Traceback (most recent call last):
        ...
        fletching.errors.ArgumentError: Index: `folder` must be an existing folder; got 'no/such/folder'.
    """

    def __init__(
        self,
        index: Index | str | Path,
        *,
        reranker: Reranker | str | Path | None = "mvp-mini",
        similarity_top_k: int = 4,
        candidates: int = 50,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        self.reranker = _check_reranker(type(self).__name__, reranker)
        self.similarity_top_k = check_positive(type(self).__name__, "similarity_top_k", similarity_top_k)
        self.candidates = check_positive(type(self).__name__, "candidates", candidates)
        self._index, self._needs_update = _open_index(type(self).__name__, index)
        self._updating = threading.Lock()
        super().__init__(callback_manager=callback_manager or CallbackManager())

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the lock, which cannot be pickled; a loaded reranker goes along."""
        return {name: value for name, value in vars(self).items() if name != "_updating"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._updating = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> FletchingSearchRetriever:
        """Copy the settings; share the index and the reranker."""
        memo |= {id(shared): shared for shared in (self._index, self.reranker)}
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return copied

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        self._update()
        return [_build_node(hit) for hit in self._index.search(query_bundle.query_str, **self._options())]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        await asyncio.to_thread(self._update)
        hits = await self._index.asearch(query_bundle.query_str, **self._options())
        return [_build_node(hit) for hit in hits]

    def _options(self) -> dict[str, Any]:
        return {
            "top_k": self.similarity_top_k,
            "reranker": self.reranker,
            "candidates": self.candidates,
        }

    def _update(self) -> None:
        """Bring the index of a folder up to date, once."""
        with self._updating:
            if self._needs_update:
                self._index.update()
                self._needs_update = False


def _open_index(owner: str, index: object) -> tuple[Any, bool]:
    """Return the index, and whether bringing it up to date is ours to do."""
    from fletching.search import Index

    if isinstance(index, (str, Path)):
        return Index(index), True
    if not isinstance(index, Index):
        raise bad_argument(owner, "index", "a fletching.search.Index or a folder", index)
    return index, False


def _check_reranker(owner: str, value: Any) -> Any:
    import fletching

    if value is None or (isinstance(value, (str, Path)) and str(value).strip()):
        return value
    if isinstance(value, (str, Path)) or not isinstance(value, fletching.Reranker):
        domain = "a checkpoint name, a folder, a hub id, a loaded fletching.Reranker or None"
        raise bad_argument(owner, "reranker", domain, value, "`fletching.load` opens one")
    return value


def _build_node(hit: Hit) -> NodeWithScore:
    """Make a node with the same id for the same passage at the same place."""
    place = f"{hit.file}\0{hit.start}\0{hit.text}".encode("utf-8", "surrogatepass")
    metadata = {
        "file": hit.file,
        "heading": hit.heading,
        "page": hit.page,
        "start": hit.start,
        "end": hit.end,
        "retrieval_rank": hit.retrieval_rank,
    }
    node = TextNode(
        id_=hashlib.blake2b(place, digest_size=16).hexdigest(),
        text=hit.text,
        metadata={key: value for key, value in metadata.items() if value not in (None, "")},
        excluded_embed_metadata_keys=_HIDDEN,
        excluded_llm_metadata_keys=_HIDDEN,
        start_char_idx=hit.start,
        end_char_idx=hit.end,
    )
    return NodeWithScore(node=node, score=float(hit.score))
