"""What the adapters share: which model they use, how it is opened, how documents are scored with it."""

from __future__ import annotations

import asyncio
import copy
import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from langchain_core.documents import Document
from langchain_core.load.serializable import (
    Serializable,
    SerializedConstructor,
    SerializedNotImplemented,
)
from pydantic import (
    AliasChoices,
    AliasPath,
    ConfigDict,
    Field,
    FieldSerializationInfo,
    PrivateAttr,
    Secret,
    SecretBytes,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)

import fletching
from fletching.errors import ArgumentError, FletchingError, bad_argument, bad_choice, did_you_mean
from fletching.models.inputs import check_count
from fletching.models.settings import is_secret, names_secret, refuse_model_kwargs, write_settings

Scores = Literal["logit", "probability"]
Long = Literal["truncate", "chunk_max"]

_WRAPPERS = (SecretStr, SecretBytes, Secret)
_MASK = "**********"  # as pydantic's
_LOADED = ("model", "index", "reranker")  # fields whose value is a name or something big
_TEXT_REMEDY = "Check under which field the store keeps the text, or drop such documents"


class _Opened:
    """What an adapter has opened, with the fields that asked for it.

    Pickles, deep copies and comparisons of the adapter leave it out.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.state: tuple[object, Any] | None = None

    def get(self, wanted: object) -> Any:
        """Return what is open, or ``None`` if it is not what the fields ask for by now."""
        state = self.state
        return state[1] if state is not None and state[0] == wanted else None

    def __copy__(self) -> _Opened:
        """Let a copy of the adapter open something else without a word to this one."""
        copied = _Opened()
        copied.state = self.state
        return copied

    def __reduce__(self) -> tuple[type[_Opened], tuple[()]]:
        return _Opened, ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Opened)

    __hash__ = None  # type: ignore[assignment]


class Adapter(Serializable):
    """What every adapter does with its arguments.

    Args:
        **kwargs: Fields of the subclass.

    Raises:
        ArgumentError: If an argument is unknown or outside its domain.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        extra="forbid",
        hide_input_in_errors=True,  # of several arguments one may be a token
        populate_by_name=True,  # what `dumpd` writes are names, whatever aliases a subclass gives
        protected_namespaces=(),
        validate_assignment=True,
    )

    _opened: _Opened = PrivateAttr(default_factory=lambda: _Opened())

    if not TYPE_CHECKING:  # type checkers read the arguments off the fields

        def __init__(self, **kwargs: Any) -> None:
            owner, names = type(self).__name__, list(_list_arguments(type(self)))
            for name in kwargs:
                if name not in names:
                    domain = f"one of the arguments of {owner}"
                    raise bad_argument(owner, "kwargs", domain, name, did_you_mean(name, names))
            try:
                super().__init__(**kwargs)
            except ValidationError as error:
                problem = _first_problem(owner, error)
            else:
                return
            raise problem  # outside of `except`: pydantic's error holds every argument

        def __setattr__(self, name: str, value: Any) -> None:
            try:
                super().__setattr__(name, value)
            except ValidationError as error:
                problem = _first_problem(type(self).__name__, error)
            else:
                return
            raise problem

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Say that ``dumpd`` may write the arguments down."""
        return True

    def __copy__(self) -> Any:
        copied = super().__copy__()
        copied._opened = copy.copy(self._opened)
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Any:
        memo = {} if memo is None else memo
        for name in _LOADED:  # copies share what is loaded, as they share what is opened by name
            value = self.__dict__.get(name)
            memo[id(value)] = value
        return super().__deepcopy__(memo)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            is_loaded = name in _LOADED and value is not None and not isinstance(value, str)
            yield name, type(value) if is_loaded else value


class ModelAdapter(Adapter):
    """An adapter that opens its model on first use and shares it with every other adapter of the process.

    Args:
        model: Checkpoint name, folder, hub id, or a loaded model.
        model_kwargs: Arguments of ``fletching.load_shared``, such as ``device`` and ``dtype``. A ``token`` is
            neither shown nor serialised, but pickled. Empty for a loaded model.
        **kwargs: Fields of the subclass.

    Raises:
        ArgumentError: If an argument is unknown or outside its domain; no model is opened for that.
    """

    model: Any
    model_kwargs: dict[str, Any] = Field(default_factory=dict)

    _kind: ClassVar[str]
    _class_name: ClassVar[str]

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """Write the arguments down, without secrets; a loaded model cannot be.

        Returns:
            What `langchain_core.load.dumpd` puts out.
        """
        if not isinstance(self.model, str):
            return self.to_json_not_implemented()
        dumped: Any = super().to_json()
        if "model_kwargs" in dumped["kwargs"]:
            dumped["kwargs"]["model_kwargs"] = write_settings(self.model_kwargs, hidden=_WRAPPERS)
        return dumped

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, _mask_secrets(value) if name == "model_kwargs" else value

    @field_validator("model", mode="before")
    @classmethod
    def _check_model(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, (str, Path)) and str(value).strip():
            return str(value)
        if value is None or isinstance(value, (str, Path)) or not cls._is_right(value):
            domain = f"a checkpoint name, a folder, a hub id or a loaded fletching.{cls._class_name}"
            raise bad_argument(cls.__name__, "model", domain, value)
        cls._check_together(value, info.data.get("model_kwargs"))
        return value

    @field_validator("model_kwargs")
    @classmethod
    def _check_model_kwargs(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        for name, given in (("path_or_id", "`model`"), ("kind", repr(cls._kind))):
            if name in value:
                domain = f"without {name!r}, which is {given}"
                raise bad_argument(cls.__name__, "model_kwargs", domain, value[name])
        cls._check_together(info.data.get("model"), value)
        hidden: dict[str, Any] = _hide_secrets(value)
        return hidden

    @classmethod
    def _check_together(cls, model: object, model_kwargs: Mapping[str, Any] | None) -> None:
        """Refuse options for a model that is open, whichever of the two comes last."""
        if model_kwargs and model is not None and not isinstance(model, str):
            refuse_model_kwargs(cls.__name__, model_kwargs)

    @field_serializer("model_kwargs")
    def _serialise_model_kwargs(self, value: dict[str, Any], info: FieldSerializationInfo) -> Any:
        return write_settings(value, hidden=_WRAPPERS) if info.mode_is_json() else _hide_secrets(value)

    @classmethod
    def _is_right(cls, model: object) -> bool:
        return isinstance(model, getattr(fletching, cls._class_name))

    def _open(self) -> Any:
        """Open the model, or return the one that is open."""
        model = self._opened_model()
        if model is None:
            options = _show_secrets(self.model_kwargs)
            model = fletching.load_shared(self.model, kind=self._kind, **options)
            self._opened.state = (self.model, dict(self.model_kwargs)), model
        return model

    async def _aopen(self) -> Any:
        """`_open`, with the reading of weights in a thread."""
        model = self._opened_model()
        return await asyncio.to_thread(self._open) if model is None else model

    def _opened_model(self) -> Any:
        """Return the model that is open, unless the fields ask for another one by now."""
        if not isinstance(self.model, str):
            return self.model
        return self._opened.get((self.model, self.model_kwargs))


class RerankerAdapter(ModelAdapter):
    """An adapter that scores documents.

    Args:
        model: As in `ModelAdapter`.
        model_kwargs: As in `ModelAdapter`.
        min_score: Lowest score of a document that is returned; ``None`` returns any.
        scores: Scale of the scores; ``None`` takes the checkpoint's.
        long: What happens to a document that does not fit; ``None`` takes the model's.
        batch_size: Most documents of one micro-batch; ``None`` lets the token budget decide.
        score_key: Where the metadata of a returned document holds its score.
        **kwargs: Fields of the subclass.

    Raises:
        ArgumentError: If an argument is unknown or outside its domain.
    """

    model: Any = "mvp-mini"
    min_score: float | None = None
    scores: Scores | None = None
    long: Long | None = None
    batch_size: int | None = None
    score_key: str = "relevance_score"

    _kind: ClassVar[str] = "reranker"
    _class_name: ClassVar[str] = "Reranker"

    @field_validator("batch_size", mode="before")
    @classmethod
    def _check_batch_size(cls, value: object) -> int | None:
        return check_count(cls.__name__, "batch_size", value)

    @field_validator("min_score", mode="before")
    @classmethod
    def _check_min_score(cls, value: object) -> object:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (is_number and math.isfinite(value)):  # type: ignore[arg-type]
            raise bad_argument(cls.__name__, "min_score", "a finite number or None", value)
        return value

    @field_validator("scores", "long", mode="before")
    @classmethod
    def _check_choice(cls, value: object, info: ValidationInfo) -> object:
        options = get_args({"scores": Scores, "long": Long}[str(info.field_name)])
        if value is not None and value not in options:
            raise bad_choice(cls.__name__, str(info.field_name), options, value)
        return value

    @field_validator("score_key", mode="before")
    @classmethod
    def _check_score_key(cls, value: object) -> object:
        if not isinstance(value, str) or not value:
            raise bad_argument(cls.__name__, "score_key", "a non-empty string", value)
        return value

    def _rerank(self, owner: str, documents: object, query: str, limit: int | None) -> list[Document]:
        """Return scored copies of the best documents, best first."""
        candidates, texts = _read_documents(owner, documents)
        if not candidates:
            return []
        ranking = self._open().rank(query, texts, **self._options(limit))
        return self._collect(candidates, ranking)

    async def _arerank(self, owner: str, documents: object, query: str, limit: int | None) -> list[Document]:
        """`_rerank` that leaves the event loop free, and stops when it is cancelled."""
        candidates, texts = _read_documents(owner, documents)
        if not candidates:
            return []
        model = await self._aopen()
        return self._collect(candidates, await model.arank(query, texts, **self._options(limit)))

    def _options(self, limit: int | None) -> dict[str, Any]:
        return {
            "top_k": limit,
            "scores": self.scores,
            "long": self.long,
            "batch_size": self.batch_size,
        }

    def _collect(self, documents: Sequence[Document], ranking: Iterable[dict[str, Any]]) -> list[Document]:
        lowest = -math.inf if self.min_score is None else self.min_score
        return [
            self._with_score(documents[hit["corpus_id"]], hit["score"])
            for hit in ranking
            if hit["score"] >= lowest
        ]

    def _with_score(self, document: Document, score: float) -> Document:
        metadata = {**(document.metadata or {}), self.score_key: score}
        return document.model_copy(update={"metadata": metadata})


def _read_documents(owner: str, documents: object) -> tuple[list[Document], list[str]]:
    """Return the documents and their texts; the error names the first that is not as it should be."""
    if isinstance(documents, (str, bytes, Document)) or not isinstance(documents, Iterable):
        raise bad_argument(owner, "documents", "a list of Documents", documents)
    candidates, texts = list(documents), []
    for index, document in enumerate(candidates):
        if not isinstance(document, Document):
            raise bad_argument(owner, f"documents[{index}]", "a Document", document)
        text = getattr(document, "page_content", None)  # `model_construct` may leave it out
        if not isinstance(text, str):
            raise bad_argument(owner, f"documents[{index}].page_content", "a string", text, _TEXT_REMEDY)
        if not isinstance(document.metadata, (Mapping, type(None))):
            raise bad_argument(owner, f"documents[{index}].metadata", "a mapping or None", document.metadata)
        texts.append(text)
    return candidates, texts


def is_sync_override(adapter: object, base: type, sync_name: str, async_name: str) -> bool:
    """Say whether a subclass replaces what a method does, and leaves its asynchronous twin to follow.

    Args:
        adapter: An instance of the subclass.
        base: The class that defines both methods.
        sync_name: Name of the method.
        async_name: Name of its twin.

    Returns:
        True if the twin must call the method.
    """
    is_replaced = getattr(type(adapter), sync_name) is not getattr(base, sync_name)
    return is_replaced and getattr(type(adapter), async_name) is getattr(base, async_name)


def _list_arguments(adapter_class: type[Adapter]) -> Iterator[str]:
    """Yield what the constructor takes: the fields, and the aliases that a subclass gives them."""
    for name, field in adapter_class.model_fields.items():
        yield name
        alias = field.validation_alias
        for choice in alias.choices if isinstance(alias, AliasChoices) else [alias]:
            first = choice.path[0] if isinstance(choice, AliasPath) else choice
            if isinstance(first, str):
                yield first


def _first_problem(owner: str, error: ValidationError) -> FletchingError:
    """Turn pydantic's report into one sentence of ours."""
    problem = error.errors(include_url=False)[0]
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, FletchingError):
        return cause
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] in {"extra_forbidden", "no_such_attribute"}:
        return bad_argument(owner, "kwargs", f"one of the arguments of {owner}", name)
    if problem["type"] == "missing":
        return ArgumentError(f"{owner}: `{name}` must be given; got nothing.")
    expected = problem["msg"].removeprefix("Input should be ")
    value = type(problem["input"]) if name.startswith("model_kwargs") else problem["input"]  # no token
    return bad_argument(owner, name, expected, value)


def _hide_secrets(value: Any, within: bool = False) -> Any:
    """Wrap each secret, however deep, so that no ``repr`` shows it; flags tell nothing."""
    if isinstance(value, Mapping):
        return {name: _hide_secrets(item, within or names_secret(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_hide_secrets(item, within) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if not within or isinstance(value, bool) or not isinstance(value, (str, bytes, int, float)):
        return value
    if isinstance(value, str):
        return SecretStr(value)
    return SecretBytes(value) if isinstance(value, bytes) else Secret(value)


def _show_secrets(value: Any) -> Any:
    """Undo `_hide_secrets`."""
    if isinstance(value, Mapping):
        return {name: _show_secrets(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_show_secrets(item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return value.get_secret_value() if isinstance(value, _WRAPPERS) else value


def _mask_secrets(value: Any) -> Any:
    """Put stars in the place of each secret, whether it is wrapped or was put in later."""
    if isinstance(value, Mapping):
        return {
            name: _MASK if isinstance(item, _WRAPPERS) or is_secret(name, item) else _mask_secrets(item)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        items = [_mask_secrets(item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return value
