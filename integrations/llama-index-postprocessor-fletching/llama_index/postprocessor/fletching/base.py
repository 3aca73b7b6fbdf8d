"""Any fletching reranker behind LlamaIndex's postprocessor interface."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.bridge.pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_serializer,
)
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import (
    BaseNode,
    ImageNode,
    MetadataMode,
    Node,
    NodeWithScore,
    QueryBundle,
    TextNode,
)

import fletching
from fletching.errors import bad_argument, bad_choice
from fletching.models.inputs import check_count
from fletching.models.settings import (
    bad_field,
    check_flag,
    check_model_kwargs,
    check_model_name,
    check_pickled,
    freeze_settings,
    is_overridden,
    refuse_model_kwargs,
    refuse_other_model,
    refuse_unknown,
    write_settings,
)

if TYPE_CHECKING:
    from fletching import Reranker

dispatcher = get_dispatcher(__name__)

SCORES = ("logit", "probability")
"""What ``scores=`` may be, beside ``None``."""

LONG = ("truncate", "chunk_max")
"""What ``long=`` may be, beside ``None``."""

RETRIEVAL_SCORE = "retrieval_score"
"""Metadata key of the score that a node came with."""

_OWNER = "FletchingRerank"


class FletchingRerank(BaseNodePostprocessor):
    """Put the nodes that answer the query on top, with any reranker that fletching opens.

    The model is opened at the first call, once per process for all postprocessors with the same arguments,
    and kept. Nodes, scores and metadata that come in are left as they are: what comes out are new
    ``NodeWithScore`` objects around the same nodes. Equal scores keep the order of the input.

    Args:
        model: Name of a registered checkpoint (``"mvp-mini"``), folder, hub id, or a loaded
            ``fletching.Reranker``. `to_dict` writes the name; of a loaded model, only its class.
        top_n: Nodes to return; ``None`` returns all.
        min_score: Drops nodes with a lower score; ``None`` drops none. Its scale is that of ``scores``.
        scores: ``"logit"`` for raw scores, ``"probability"`` for their sigmoid; ``None`` leaves it to the
            checkpoint.
        long: What happens to a text that does not fit: ``"truncate"`` cuts it, ``"chunk_max"`` scores
            overlapping chunks and takes the best; ``None`` leaves it to the model.
        batch_size: Most pairs of one micro-batch; ``None`` lets the model's token budget alone decide.
        metadata_mode: Which metadata the reranker reads beside the text: ``"embed"`` (what embedders read),
            ``"llm"``, ``"all"`` or ``"none"``.
        keep_retrieval_score: Whether the score a node came with goes to ``metadata["retrieval_score"]`` of a
            copy of the node, where neither embedders nor language models read it.
        model_kwargs: Arguments of ``fletching.load_shared``, such as ``device``, ``dtype``, ``revision``,
            ``token``. Secrets are not in `to_dict`, `to_json` or the repr; they are in a pickle.
        callback_manager: Told about each call; ``None`` makes one without handlers.
        **kwargs: Fields that a subclass declares.

    Raises:
        ArgumentError: If an argument, or what is assigned later, is outside its domain. The model itself is
            looked for at the first call.

    Example:
        >>> rerank = FletchingRerank(model="mvp-mini", top_n=1)
        >>> texts = ["A dance.", "Feathers keep an arrow straight."]
        >>> nodes = [NodeWithScore(node=TextNode(text=text)) for text in texts]
        >>> rerank.postprocess_nodes(nodes, query_str="What keeps an arrow straight?")[0].text
        'Feathers keep an arrow straight.'
    """

    model_config = ConfigDict(
        protected_namespaces=("pydantic_model_",), arbitrary_types_allowed=True, hide_input_in_errors=True
    )

    model: str = Field(description="Name of a registered checkpoint, folder, or hub id.")
    top_n: int | None = Field(default=3, description="Nodes to return; None returns all.")
    min_score: float | None = Field(default=None, description="Drops nodes with a lower score.")
    scores: str | None = Field(default=None, description="Scale of the scores: logit or probability.")
    long: str | None = Field(default=None, description="What happens to a text that does not fit.")
    batch_size: int | None = Field(default=None, description="Most pairs of one micro-batch.")
    metadata_mode: MetadataMode = Field(
        default=MetadataMode.EMBED, description="Metadata that the reranker reads."
    )
    keep_retrieval_score: bool = Field(
        default=False, description="Whether a copy of the node keeps the score it came with."
    )
    model_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of fletching.load_shared.", repr=False
    )

    _opened: tuple[Any, Any] | None = PrivateAttr(default=None)  # the model, and what it was opened from
    _is_given: bool = PrivateAttr(default=False)

    def __init__(
        self,
        model: str | Path | Reranker,
        *,
        top_n: int | None = 3,
        min_score: float | None = None,
        scores: str | None = None,
        long: str | None = None,
        batch_size: int | None = None,
        metadata_mode: MetadataMode | str = MetadataMode.EMBED,
        keep_retrieval_score: bool = False,
        model_kwargs: Mapping[str, Any] | None = None,
        callback_manager: CallbackManager | None = None,
        **kwargs: Any,
    ) -> None:
        owner = type(self).__name__
        refuse_unknown(owner, type(self).model_fields, kwargs)
        name, reranker = _name_model(owner, model)
        given: dict[str, Any] = {
            "top_n": top_n,
            "min_score": min_score,
            "scores": scores,
            "long": long,
            "batch_size": batch_size,
            "metadata_mode": metadata_mode,
            "keep_retrieval_score": keep_retrieval_score,
            "model_kwargs": model_kwargs,
            "callback_manager": callback_manager,
        }
        fields: dict[str, Any] = {"model": name}
        fields |= {field: _CHECKS[field](owner, field, value) for field, value in given.items()}
        if reranker is not None:
            refuse_model_kwargs(owner, fields["model_kwargs"])
        try:
            super().__init__(**fields, **kwargs)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False)[0]
            raise bad_field(owner, problem) from None  # pydantic's error holds every argument, secrets too
        self._opened = None if reranker is None else (reranker, None)
        self._is_given = reranker is not None

    @classmethod
    def class_name(cls) -> str:
        """Name the class in serialized form.

        Returns:
            ``"FletchingRerank"``.
        """
        return _OWNER

    def __setattr__(self, name: str, value: Any) -> None:
        """Check what is assigned as the constructor does; a model that was given loaded stays."""
        if name in _CHECKS:
            value = _CHECKS[name](type(self).__name__, name, value)
        if name == "model" and self._is_given and value != self.model:
            raise refuse_other_model(type(self).__name__, name, value)
        if name == "model_kwargs" and self._is_given:
            refuse_model_kwargs(type(self).__name__, value)
        super().__setattr__(name, value)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> FletchingRerank:
        """Copy, and assign what differs; the base class would not check it.

        Args:
            update: New values by name.
            deep: Whether the settings are copied too; the model is shared either way.

        Returns:
            The copy.

        Raises:
            ArgumentError: If a value is outside its domain.
        """
        copied = super().model_copy(deep=deep)
        for name, value in (update or {}).items():
            setattr(copied, name, value)
        return copied

    # --- what LlamaIndex calls ---

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query, nodes, texts = self._read(query_bundle, nodes)
        if not nodes:
            return []
        reranker = self._load()
        with self._reported(query, nodes) as reranked:
            ranking = reranker.rank(query.query_str, texts, **self._rank_options())
            reranked += self._select(nodes, ranking)
        return reranked

    @dispatcher.span  # the base class opens a span for the synchronous path only
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if self._is_only_synchronous():
            return await asyncio.to_thread(self._postprocess_nodes, nodes, query_bundle)
        query, nodes, texts = self._read(query_bundle, nodes)
        if not nodes:
            return []
        reranker = self._find() or await asyncio.to_thread(self._load)
        with self._reported(query, nodes) as reranked:
            ranking = await reranker.arank(query.query_str, texts, **self._rank_options())
            reranked += self._select(nodes, ranking)
        return reranked

    # --- the parts of a call ---

    def _is_only_synchronous(self) -> bool:
        """Say whether a subclass changed the synchronous method and left the other one to us."""
        own, ours = type(self), FletchingRerank
        if is_overridden(own, ours, "_apostprocess_nodes"):
            return False
        return is_overridden(own, ours, "_postprocess_nodes")

    def _find(self) -> Any:
        """Return the model, if it is the one that the settings name by now."""
        opened = self._opened
        return opened[0] if opened and (self._is_given or opened[1] == self._source()) else None

    def _source(self) -> tuple[str, Any]:
        return self.model, freeze_settings(self.model_kwargs)

    def _load(self) -> Any:
        """Open the model, or take the one that another postprocessor of this process opened."""
        reranker, source = self._find(), self._source()
        if reranker is None:
            reranker = fletching.load_shared(self.model, kind="reranker", **self.model_kwargs)
            self._opened = (reranker, source)
        return reranker

    def _read(
        self, query_bundle: object, nodes: object
    ) -> tuple[QueryBundle, list[NodeWithScore], list[str]]:
        """Check everything that a call was given, before the model is opened."""
        owner = type(self).__name__
        query, items = _check_query(owner, query_bundle), _check_nodes(owner, nodes)
        return query, items, [self._read_text(place, item) for place, item in enumerate(items)]

    def _read_text(self, place: int, item: NodeWithScore) -> str:
        """Return what the reranker reads of a node; the error names the node without text."""
        owner, place_name = type(self).__name__, f"nodes[{place}]"
        if not isinstance(item, NodeWithScore):
            remedy = "Wrap it: NodeWithScore(node=...)"
            raise bad_argument(owner, place_name, "a NodeWithScore", item, remedy)
        node = item.node
        if not isinstance(node, BaseNode):
            raise bad_argument(owner, f"{place_name}.node", "a node", node)
        if node.metadata is not None and not isinstance(node.metadata, Mapping):
            raise bad_argument(owner, f"{place_name}.metadata", "a mapping or None", node.metadata)
        mode = MetadataMode.NONE if node.metadata is None else self.metadata_mode
        text = None if isinstance(node, TextNode) and node.text is None else node.get_content(mode)
        if text is None or (not text.strip() and _is_media(node)):
            remedy = "Give it a text, such as a caption, or filter it out before"
            shown = f"{type(node).__name__} {node.node_id}"
            raise bad_argument(owner, place_name, "a node with text", shown, remedy)
        return text

    def _rank_options(self) -> dict[str, Any]:
        return {
            "top_k": self.top_n,
            "batch_size": self.batch_size,
            "scores": self.scores,
            "long": self.long,
            "show_progress_bar": False,
        }

    @contextmanager
    def _reported(self, query: QueryBundle, nodes: list[NodeWithScore]) -> Iterator[list[NodeWithScore]]:
        """Report start and end to both of LlamaIndex's systems; the caller fills the list in between."""
        top_n = self.top_n or len(nodes)
        reranked: list[NodeWithScore] = []
        dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=top_n, model_name=self.model))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model,
            EventPayload.QUERY_STR: query.query_str,
            EventPayload.TOP_K: top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield reranked
            event.on_end(payload={EventPayload.NODES: list(reranked)})
        dispatcher.event(ReRankEndEvent(nodes=reranked))

    def _select(self, nodes: list[NodeWithScore], ranking: list[dict[str, Any]]) -> list[NodeWithScore]:
        """Return new scored nodes in the order of the ranking, those below ``min_score`` left out."""
        lowest = -math.inf if self.min_score is None else self.min_score
        return [
            self._rescore(nodes[hit["corpus_id"]], float(hit["score"]))
            for hit in ranking
            if hit["score"] >= lowest
        ]

    def _rescore(self, item: NodeWithScore, score: float) -> NodeWithScore:
        changes: dict[str, Any] = {"score": score}
        if self.keep_retrieval_score:
            changes["node"] = _note_score(item.node, item.score)
        return item.model_copy(update=changes)  # the caller's object keeps its score

    # --- serialization ---

    @field_serializer("metadata_mode")
    def _write_metadata_mode(self, value: MetadataMode) -> str:
        return value.value

    @field_serializer("model_kwargs")
    def _write_model_kwargs(self, value: dict[str, Any]) -> dict[str, Any]:
        return write_settings(value)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out a model that was opened by name: whoever unpickles opens it there."""
        copied = self.__copy__()
        if not self._is_given:
            copied._opened = None
        state = super(FletchingRerank, copied).__getstate__()
        check_pickled(type(self).__name__, state, "_opened")  # the base class drops what it cannot pickle
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a loaded model too; the base class calls the constructor and forgets it."""
        super().__setstate__(state)
        for name, value in (state.get("__pydantic_private__") or {}).items():
            setattr(self, name, value)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> FletchingRerank:
        """Copy the settings and share the model."""
        memo = {} if memo is None else memo
        memo[id(self._opened)] = self._opened
        return super().__deepcopy__(memo)


def _name_model(owner: str, model: object) -> tuple[str, Any]:
    """Return the model's name, and the model if it is loaded."""
    if isinstance(model, (str, Path)) and str(model).strip():
        return str(model), None
    domain = "a checkpoint name, a folder, a hub id or a loaded fletching.Reranker"
    if isinstance(model, (str, Path)) or not isinstance(model, fletching.Reranker):
        raise bad_argument(owner, "model", domain, model, "`fletching.load` opens one")
    return type(model).__name__, model


def _check_min_score(owner: str, parameter: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise bad_argument(owner, parameter, "a finite number or None", value)
    return float(value)


def _check_choice(options: tuple[str, ...], owner: str, parameter: str, value: object) -> object:
    if value is not None and value not in options:
        raise bad_choice(owner, parameter, options, value)
    return value


def _check_metadata_mode(owner: str, parameter: str, value: object) -> MetadataMode:
    options = [mode.value for mode in MetadataMode]
    if value not in options:
        raise bad_choice(owner, parameter, options, value)
    return MetadataMode(value)


def _check_query(owner: str, query_bundle: object) -> QueryBundle:
    if not isinstance(query_bundle, QueryBundle):
        remedy = "Pass the query as `query_bundle`, or its text as `query_str`"
        raise bad_argument(owner, "query_bundle", "a QueryBundle", query_bundle, remedy)
    query = query_bundle.query_str
    if not isinstance(query, str) or not query.strip():
        domain, remedy = "a query with at least one visible character", "Skip the call when there is no query"
        raise bad_argument(owner, "query_str", domain, query, remedy)
    return query_bundle


def _check_nodes(owner: str, nodes: object) -> list[Any]:
    if isinstance(nodes, (str, bytes, Mapping)) or not isinstance(nodes, Iterable):
        raise bad_argument(owner, "nodes", "a list of NodeWithScore", nodes)
    return list(nodes)


def _is_media(node: BaseNode) -> bool:
    """Say whether a node holds an image, a sound or a video; an empty text alone is scored like any other."""
    if isinstance(node, Node):
        return any((node.image_resource, node.audio_resource, node.video_resource))
    return isinstance(node, ImageNode)


def _note_score(node: BaseNode, score: float | None) -> BaseNode:
    """Copy a node with the score in its metadata, hidden from embedders and language models."""
    hidden = {
        name: [*(key for key in getattr(node, name) if key != RETRIEVAL_SCORE), RETRIEVAL_SCORE]
        for name in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys")
    }
    return node.model_copy(update={"metadata": {**(node.metadata or {}), RETRIEVAL_SCORE: score}, **hidden})


def _check_callback_manager(owner: str, parameter: str, value: object) -> CallbackManager:
    if value is None:
        return CallbackManager()
    if not isinstance(value, CallbackManager):
        raise bad_argument(owner, parameter, "a CallbackManager or None", value)
    return value


_CHECKS: dict[str, Callable[[str, str, Any], Any]] = {
    "model": check_model_name,
    "top_n": check_count,
    "min_score": _check_min_score,
    "scores": partial(_check_choice, SCORES),
    "long": partial(_check_choice, LONG),
    "batch_size": check_count,
    "metadata_mode": _check_metadata_mode,
    "keep_retrieval_score": check_flag,
    "model_kwargs": check_model_kwargs,
    "callback_manager": _check_callback_manager,
}
