"""Any fletching embedder behind LlamaIndex's embedding interface."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_serializer,
)
from llama_index.core.callbacks import CallbackManager
from llama_index.core.storage.kvstore.types import BaseKVStore
from llama_index.embeddings.fletching.cache import COLLECTIONS, build_keys, read_entry, write_entry

import fletching
from fletching.errors import bad_argument
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
    from fletching import Embedder

_OWNER = "FletchingEmbedding"
_LAYERS = ("num_layers", "truncate_layers")  # what modules call it: ours, and those of some checkpoints
_MAX_BATCH_SIZE = 2048  # the base class refuses more


class FletchingEmbedding(BaseEmbedding):
    """Embed queries and documents, each as the checkpoint wants it, with any embedder that fletching opens.

    The model is opened at the first call, once per process for all embeddings with the same arguments, and
    kept. Queries go through ``encode_query``, documents through ``encode_document``; the asynchronous methods
    compute in a thread and leave the event loop free.

    Args:
        model: Folder, hub id, name of a registered checkpoint, or a loaded ``fletching.Embedder``. `to_dict`
            writes the name; of a loaded model, only its class and fingerprint.
        model_name: What the base class calls the name, and `to_dict` writes; may stand in for ``model``.
        truncate_dim: Dimensions to keep; unit vectors get length one again. ``None`` keeps what the model
            gives.
        num_layers: Layers to compute, for models trained to leave early; ``None`` computes all.
        query_prompt: Text to put in front of queries; ``""`` puts nothing, ``None`` the checkpoint's own.
        document_prompt: Text to put in front of documents; as ``query_prompt``.
        normalize: Whether every vector gets length one; ``False`` leaves it to the checkpoint.
        embed_batch_size: Texts of one call of the model, and of one pair of events; from 1 to 2048.
        embeddings_cache: Store of vectors, by model, settings, prompt, task and text; ``None`` keeps none. It
            is not in `to_dict`, and reads as ``None``: `cache` returns it.
        model_kwargs: Arguments of ``fletching.load_shared``, such as ``device``, ``dtype``, ``revision``,
            ``token``. Secrets are not in `to_dict`, `to_json` or the repr; they are in a pickle.
        num_workers: Batches that the asynchronous methods compute at once; ``None`` sets no limit.
        rate_limiter: Asked by the base class before each batch; ``None`` asks nobody.
        callback_manager: Told about each batch; ``None`` makes one without handlers.
        **kwargs: Fields that a subclass declares.

    Raises:
        ArgumentError: If an argument, or what is assigned later, is outside its domain. What only the model
            can tell is found at the first call.

    Example:
        >>> embed_model = FletchingEmbedding(model="sentence-transformers/all-MiniLM-L6-v2", truncate_dim=32)
        >>> len(embed_model.get_query_embedding("What keeps an arrow straight?"))
        32
    """

    model_config = ConfigDict(
        protected_namespaces=("pydantic_model_",), arbitrary_types_allowed=True, hide_input_in_errors=True
    )

    truncate_dim: int | None = Field(default=None, description="Dimensions to keep; None keeps all.")
    num_layers: int | None = Field(default=None, description="Layers to compute; None computes all.")
    query_prompt: str | None = Field(default=None, description="Put in front of queries.")
    document_prompt: str | None = Field(default=None, description="Put in front of documents.")
    normalize: bool = Field(default=False, description="Whether every vector gets length one.")
    model_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of fletching.load_shared.", repr=False
    )

    _opened: tuple[Any, Any] | None = PrivateAttr(default=None)  # the model, and what it was opened from
    _is_given: bool = PrivateAttr(default=False)
    _fingerprint: tuple[Any, Any, str] | None = PrivateAttr(default=None)  # model, its stamp, fingerprint
    _cache: Any = PrivateAttr(default=None)

    def __init__(
        self,
        model: str | Path | Embedder | None = None,
        *,
        model_name: str | None = None,
        truncate_dim: int | None = None,
        num_layers: int | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        normalize: bool = False,
        embed_batch_size: int = 64,
        embeddings_cache: BaseKVStore | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        num_workers: int | None = None,
        rate_limiter: Any = None,
        callback_manager: CallbackManager | None = None,
        **kwargs: Any,
    ) -> None:
        owner = type(self).__name__
        refuse_unknown(owner, type(self).model_fields, kwargs)
        name, embedder = _name_model(owner, model, model_name)
        cache = _check_cache(owner, "embeddings_cache", embeddings_cache)
        given: dict[str, Any] = {
            "truncate_dim": truncate_dim,
            "num_layers": num_layers,
            "query_prompt": query_prompt,
            "document_prompt": document_prompt,
            "normalize": normalize,
            "embed_batch_size": embed_batch_size,
            "model_kwargs": model_kwargs,
            "num_workers": num_workers,
            "rate_limiter": rate_limiter,
            "callback_manager": callback_manager,
        }
        fields = {field: _CHECKS[field](owner, field, value) for field, value in given.items()}
        if embedder is not None:
            refuse_model_kwargs(owner, fields["model_kwargs"])
        try:
            super().__init__(model_name=name, **fields, **kwargs)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False)[0]
            raise bad_field(owner, problem) from None  # pydantic's error holds every argument, secrets too
        self._opened = None if embedder is None else (embedder, None)
        self._is_given = embedder is not None
        self._cache = cache

    @classmethod
    def class_name(cls) -> str:
        """Name the class in serialized form.

        Returns:
            ``"FletchingEmbedding"``.
        """
        return _OWNER

    @property
    def model(self) -> str:
        """The model's name, as ``model_name``."""
        return self.model_name

    @property
    def cache(self) -> BaseKVStore | None:
        """The store of vectors; ``None`` when there is none."""
        cache: BaseKVStore | None = self._cache
        return cache

    def __setattr__(self, name: str, value: Any) -> None:
        """Check what is assigned as the constructor does; a model that was given loaded stays.

        The store is kept from the base class, which would look up queries and documents under one key.
        """
        owner, field = type(self).__name__, "model_name" if name == "model" else name
        if field in _CHECKS:
            value = _CHECKS[field](owner, name, value)
        if field == "model_name" and self._is_given and value != self.model_name:
            raise refuse_other_model(owner, name, value)
        if field == "model_kwargs" and self._is_given:
            refuse_model_kwargs(owner, value)
        super().__setattr__("_cache" if field == "embeddings_cache" else field, value)

    def model_copy(
        self, *, update: Mapping[str, Any] | None = None, deep: bool = False
    ) -> FletchingEmbedding:
        """Copy, and assign what differs; the base class would not check it.

        Args:
            update: New values by name.
            deep: Whether the settings are copied too; model and store are shared either way.

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

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embed("query", [query])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        if self._is_only_synchronous("get_query_embedding"):
            return await asyncio.to_thread(self._get_query_embedding, query)
        return (await self._aembed("query", [query]))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embed("document", [text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        if self._is_only_synchronous("get_text_embedding"):
            return await asyncio.to_thread(self._get_text_embedding, text)
        return (await self._aembed("document", [text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embed("document", texts)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        if self._is_only_synchronous("get_text_embeddings"):
            return await asyncio.to_thread(self._get_text_embeddings, texts)
        return await self._aembed("document", texts)

    def _is_only_synchronous(self, name: str) -> bool:
        """Say whether a subclass changed the synchronous method and left the other one to us."""
        own, ours = type(self), FletchingEmbedding
        if is_overridden(own, ours, f"_a{name}"):
            return False
        return is_overridden(own, ours, f"_{name}")

    # --- the two ways through the cache ---

    def _embed(self, task: str, texts: list[str]) -> list[list[float]]:
        _check_texts(type(self).__name__, texts)
        if self._cache is None:
            return self._encode(task, texts)
        store, collection = self._cache, COLLECTIONS[task]
        keys, dimension = self._describe(task, texts)
        found = [read_entry(store.get(key, collection=collection), dimension) for key in keys]
        missing = [place for place, embedding in enumerate(found) if embedding is None]
        computed = self._encode(task, [texts[place] for place in missing]) if missing else []
        for place, embedding in zip(missing, computed, strict=True):
            store.put(keys[place], write_entry(embedding), collection=collection)
        return _fill(found, computed)

    async def _aembed(self, task: str, texts: list[str]) -> list[list[float]]:
        _check_texts(type(self).__name__, texts)
        if self._cache is None:
            return await asyncio.to_thread(self._encode, task, texts)
        store, collection = self._cache, COLLECTIONS[task]
        keys, dimension = await asyncio.to_thread(self._describe, task, texts)  # may open the model
        entries = await asyncio.gather(*(store.aget(key, collection=collection) for key in keys))
        found = [read_entry(entry, dimension) for entry in entries]
        missing = [place for place, embedding in enumerate(found) if embedding is None]
        if not missing:
            return _fill(found, [])
        computed = await asyncio.to_thread(self._encode, task, [texts[place] for place in missing])
        puts = (
            store.aput(keys[place], write_entry(embedding), collection=collection)
            for place, embedding in zip(missing, computed, strict=True)
        )
        await asyncio.gather(*puts)
        return _fill(found, computed)

    # --- the model ---

    def _find(self) -> Any:
        """Return the model, if it is the one that the settings name by now."""
        opened = self._opened
        return opened[0] if opened and (self._is_given or opened[1] == self._source()) else None

    def _source(self) -> tuple[str, Any]:
        return self.model_name, freeze_settings(self.model_kwargs)

    def _load(self) -> Any:
        """Open the model, or take the one that another embedding of this process opened."""
        embedder, source = self._find(), self._source()
        if embedder is None:
            embedder = fletching.load_shared(self.model_name, kind="embedder", **self.model_kwargs)
            self._opened = (embedder, source)
        return embedder

    def _encode(self, task: str, texts: list[str]) -> list[list[float]]:
        """Compute the vectors; a truncation that the model cannot give is refused, not ignored."""
        owner, embedder = type(self).__name__, self._load()
        encode = embedder.encode_query if task == "query" else embedder.encode_document
        options: dict[str, Any] = {}
        if self.num_layers is not None:
            known = embedder.get_model_kwargs()
            name = next((name for name in _LAYERS if name in known), None)
            if name is None:
                remedy = "Only models trained to leave early can be cut"
                domain = f"None: {self.model_name} always computes all its layers"
                raise bad_argument(owner, "num_layers", domain, self.num_layers, remedy)
            options[name] = self.num_layers
        embeddings: list[list[float]] = encode(
            texts,
            prompt=self._prompt(task),
            normalize_embeddings=self.normalize,
            truncate_dim=self.truncate_dim,
            show_progress_bar=False,
            **options,
        ).tolist()
        if self.truncate_dim is not None and embeddings and len(embeddings[0]) < self.truncate_dim:
            domain = f"at most {len(embeddings[0])}, the dimensions of {self.model_name}"
            raise bad_argument(owner, "truncate_dim", domain, self.truncate_dim)
        return embeddings

    def _identify(self, embedder: Any) -> str:
        """Return the fingerprint, computed again when the weights were trained since."""
        stamp, known = _stamp(embedder), self._fingerprint
        if known is None or known[0] is not embedder or known[1] != stamp:
            known = self._fingerprint = (embedder, stamp, fletching.fingerprint(embedder))
        return known[2]

    def _prompt(self, task: str) -> str | None:
        return self.query_prompt if task == "query" else self.document_prompt

    def _describe(self, task: str, texts: list[str]) -> tuple[list[str], int | None]:
        """Return the keys of the texts, and the dimensions that their vectors must have."""
        embedder = self._load()
        dimension = embedder.truncate_dim if self.truncate_dim is None else self.truncate_dim
        settings = {
            "model": self._identify(embedder),
            "task": task,
            "prompt": self._prompt(task),
            "prompts": [dict(embedder.prompts), embedder.default_prompt_name],  # applied where prompt is None
            "truncate_dim": dimension,
            "max_seq_length": embedder.max_seq_length,
            "num_layers": self.num_layers,
            "normalize": self.normalize,
        }
        if self.truncate_dim is None:
            dimension = embedder.get_embedding_dimension()
        return build_keys(settings, texts), dimension

    # --- serialization ---

    @field_serializer("model_kwargs")
    def _write_model_kwargs(self, value: dict[str, Any]) -> dict[str, Any]:
        return write_settings(value)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out a model that was opened by name: whoever unpickles opens it there."""
        copied = self.__copy__()
        copied._fingerprint = None
        if not self._is_given:
            copied._opened = None
        state = super(FletchingEmbedding, copied).__getstate__()
        check_pickled(type(self).__name__, state, "_opened")  # the base class drops what it cannot pickle
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a loaded model and the cache too; the base class calls the constructor and forgets them."""
        super().__setstate__(state)
        for name, value in (state.get("__pydantic_private__") or {}).items():
            setattr(self, name, value)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> FletchingEmbedding:
        """Copy the settings; share the model and the cache."""
        memo = {} if memo is None else memo
        memo |= {id(shared): shared for shared in (self._opened, self._fingerprint, self._cache)}
        return super().__deepcopy__(memo)


def _name_model(owner: str, model: object, model_name: object) -> tuple[str, Any]:
    """Return the model's name, and the model if it is loaded."""
    chosen = model_name if model is None else model
    domain = "a folder, a hub id, a checkpoint name or a loaded fletching.Embedder"
    if isinstance(chosen, (str, Path)) and str(chosen).strip():
        name, embedder = str(chosen), None
    elif isinstance(chosen, (str, Path)) or not isinstance(chosen, fletching.Embedder):
        raise bad_argument(owner, "model", domain, chosen, "`fletching.load` opens one")
    else:
        name, embedder = f"{type(chosen).__name__}:{fletching.fingerprint(chosen)}", chosen
    if model_name is not None and model_name != name:
        raise bad_argument(owner, "model_name", "left out beside `model`, or equal to it", model_name)
    return name, embedder


def _stamp(model: Any) -> tuple[object, ...]:
    """Say cheaply whether the weights are as they were; those of inference mode count no changes."""
    return tuple(
        (weight.data_ptr(), None if weight.is_inference() else weight._version)
        for weight in chain(model.parameters(), model.buffers())
    )


def _fill(found: list[list[float] | None], computed: list[list[float]]) -> list[list[float]]:
    """Put the computed vectors, in order, where none was found."""
    rest = iter(computed)
    return [next(rest) if embedding is None else embedding for embedding in found]


def _check_texts(owner: str, texts: list[str]) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise bad_argument(owner, "text", "a string", text)


def _check_batch_size(owner: str, parameter: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_BATCH_SIZE:
        return value
    raise bad_argument(owner, parameter, f"an integer from 1 to {_MAX_BATCH_SIZE}", value)


def _check_prompt(owner: str, parameter: str, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise bad_argument(owner, parameter, "a string or None", value)


def _check_cache(owner: str, parameter: str, value: object) -> BaseKVStore | None:
    if value is None or isinstance(value, BaseKVStore):
        return value
    raise bad_argument(owner, parameter, "a BaseKVStore or None", value)


def _check_rate_limiter(owner: str, parameter: str, value: object) -> object:
    """Refuse what an older base class would ignore."""
    if value is not None and "rate_limiter" not in BaseEmbedding.model_fields:
        remedy = "Upgrade llama-index-core"
        raise bad_argument(owner, parameter, "None: the base class knows no limiter", value, remedy)
    return value


def _check_callback_manager(owner: str, parameter: str, value: object) -> CallbackManager:
    if value is None:
        return CallbackManager()
    if not isinstance(value, CallbackManager):
        raise bad_argument(owner, parameter, "a CallbackManager or None", value)
    return value


_CHECKS: dict[str, Callable[[str, str, Any], Any]] = {
    "model_name": check_model_name,
    "truncate_dim": check_count,
    "num_layers": check_count,
    "query_prompt": _check_prompt,
    "document_prompt": _check_prompt,
    "normalize": check_flag,
    "embed_batch_size": _check_batch_size,
    "embeddings_cache": _check_cache,
    "model_kwargs": check_model_kwargs,
    "num_workers": check_count,
    "rate_limiter": _check_rate_limiter,
    "callback_manager": _check_callback_manager,
}
