"""What the adapters share: which model they use, how it is opened, how documents are scored with it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from langchain_core.documents import Document
from langchain_core.load.serializable import (
    Serializable,
    SerializedConstructor,
    SerializedNotImplemented,
)
from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)

import fletching
from fletching.errors import ArgumentError, FletchingError, bad_argument, bad_choice, did_you_mean

Scores = Literal["logit", "probability"]
Long = Literal["truncate", "chunk_max"]

_SECRETS = ("token", "use_auth_token")
_TEXT_REMEDY = "Check under which field the store keeps the text, or drop such documents"


class _Opened:
    """The model that an adapter has opened; pickles, copies and comparisons of the adapter leave it out."""

    def __init__(self) -> None:
        self.state: tuple[object, Any] | None = None

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
        protected_namespaces=(),
        validate_assignment=True,
    )

    if not TYPE_CHECKING:  # type checkers read the arguments off the fields

        def __init__(self, **kwargs: Any) -> None:
            owner, names = type(self).__name__, type(self).model_fields
            for name in kwargs:
                if name not in names:
                    domain = f"one of the arguments of {owner}"
                    raise bad_argument(owner, "kwargs", domain, name, did_you_mean(name, names))
            try:
                super().__init__(**kwargs)
            except ValidationError as error:
                raise _first_problem(owner, error) from None  # pydantic's text may hold every argument

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Say that ``dumpd`` may write the arguments down."""
        return True


class ModelAdapter(Adapter):
    """An adapter that opens its model on first use and shares it with every other adapter of the process.

    Args:
        model: Checkpoint name, folder, hub id, or a loaded model.
        model_kwargs: Arguments of ``fletching.load_shared``, such as ``device`` and ``dtype``. A ``token`` is
            kept as a ``SecretStr`` and never serialised.
        **kwargs: Fields of the subclass.

    Raises:
        ArgumentError: If an argument is unknown or outside its domain; no model is opened for that.
    """

    model: Any
    model_kwargs: dict[str, Any] = Field(default_factory=dict)

    _opened: _Opened = PrivateAttr(default_factory=lambda: _Opened())

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
            dumped["kwargs"]["model_kwargs"] = _drop_secrets(self.model_kwargs)
        return dumped

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Any:
        memo = {} if memo is None else memo
        memo[id(self.model)] = self.model  # copies share a loaded model, as they share one opened by name
        return super().__deepcopy__(memo)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, type(value) if name == "model" and not isinstance(value, str) else value

    @field_validator("model", mode="before")
    @classmethod
    def _check_model(cls, value: object) -> object:
        if isinstance(value, (str, Path)) and str(value).strip():
            return str(value)
        if value is None or isinstance(value, (str, Path)) or not cls._is_right(value):
            domain = f"a checkpoint name, a folder, a hub id or a loaded fletching.{cls._class_name}"
            raise bad_argument(cls.__name__, "model", domain, value)
        return value

    @field_validator("model_kwargs")
    @classmethod
    def _check_model_kwargs(cls, value: dict[str, Any]) -> dict[str, Any]:
        if "kind" in value:
            domain = f"without 'kind', which is {cls._kind!r}"
            raise bad_argument(cls.__name__, "model_kwargs", domain, value["kind"])
        return _hide_secrets(value)

    @field_serializer("model_kwargs", when_used="json")
    def _serialise_model_kwargs(self, value: dict[str, Any]) -> dict[str, Any]:
        return _drop_secrets(value)

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
        state = self._opened.state
        return state[1] if state is not None and state[0] == (self.model, self.model_kwargs) else None


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


def check_count(owner: str, parameter: str, value: object) -> int | None:
    """Return ``value`` as a positive integer, or ``None``.

    Args:
        owner: The call named in the error.
        parameter: The parameter named in the error.
        value: Anything.

    Returns:
        The integer, or ``None`` for ``None``.

    Raises:
        ArgumentError: If ``value`` is neither.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise bad_argument(owner, parameter, "a positive integer or None", value)
    return value


def _read_documents(owner: str, documents: object) -> tuple[list[Document], list[str]]:
    """Return the documents and their texts; the error names the first that has none."""
    if isinstance(documents, (str, bytes, Document)) or not isinstance(documents, Iterable):
        raise bad_argument(owner, "documents", "a list of Documents", documents)
    candidates, texts = list(documents), []
    for index, document in enumerate(candidates):
        if not isinstance(document, Document):
            raise bad_argument(owner, f"documents[{index}]", "a Document", document)
        text = getattr(document, "page_content", None)  # `model_construct` may leave it out
        if not isinstance(text, str):
            raise bad_argument(owner, f"documents[{index}].page_content", "a string", text, _TEXT_REMEDY)
        texts.append(text)
    return candidates, texts


def _first_problem(owner: str, error: ValidationError) -> FletchingError:
    """Turn pydantic's report into one sentence of ours."""
    problem = error.errors(include_url=False)[0]
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, FletchingError):
        return cause
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return ArgumentError(f"{owner}: `{name}` must be given; got nothing.")
    expected = problem["msg"].removeprefix("Input should be ")
    value = type(problem["input"]) if name.startswith("model_kwargs") else problem["input"]  # no token
    return bad_argument(owner, name, expected, value)


def _hide_secrets(options: dict[str, Any]) -> dict[str, Any]:
    """Wrap each token, however deep, so that no ``repr`` shows it."""
    return {
        name: _hide_secrets(value)
        if isinstance(value, dict)
        else SecretStr(value)
        if name in _SECRETS and isinstance(value, str)
        else value
        for name, value in options.items()
    }


def _show_secrets(options: dict[str, Any]) -> dict[str, Any]:
    """Undo `_hide_secrets`."""
    return {
        name: _show_secrets(value)
        if isinstance(value, dict)
        else value.get_secret_value()
        if isinstance(value, SecretStr)
        else value
        for name, value in options.items()
    }


def _drop_secrets(options: dict[str, Any]) -> dict[str, Any]:
    """Leave out what `_hide_secrets` wrapped."""
    return {
        name: _drop_secrets(value) if isinstance(value, dict) else value
        for name, value in options.items()
        if not isinstance(value, SecretStr)
    }
