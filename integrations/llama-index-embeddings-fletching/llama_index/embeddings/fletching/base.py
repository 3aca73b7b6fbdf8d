"""Any fletching embedder behind LlamaIndex's embedding interface."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr, field_serializer
from llama_index.core.callbacks import CallbackManager
from llama_index.core.storage.kvstore.types import BaseKVStore
from llama_index.embeddings.fletching.cache import COLLECTIONS, build_keys, read_entry, write_entry

import fletching
from fletching.errors import bad_argument

if TYPE_CHECKING:
    from fletching import Embedder

_OWNER = "FletchingEmbedding"
_MAX_BATCH_SIZE = 2048  # the base class refuses more
_SECRETS = frozenset({"token", "hf_token", "use_auth_token", "auth_token", "api_key"})
_RESERVED = ("path_or_id", "kind")  # what this class passes to `load_shared` itself


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
        model_kwargs: Arguments of ``fletching.load``, such as ``device``, ``dtype``, ``revision``, ``token``.
            Secrets are not in `to_dict`, `to_json` or the repr; they are in a pickle.
        num_workers: Batches that the asynchronous methods compute at once; ``None`` sets no limit.
        rate_limiter: Asked by the base class before each batch; ``None`` asks nobody.
        callback_manager: Told about each batch; ``None`` makes one without handlers.

    Raises:
        ArgumentError: If an argument is outside its domain. What only the model can tell is found at the
            first call.

    Example:
        >>> embed_model = FletchingEmbedding(model="sentence-transformers/all-MiniLM-L6-v2", truncate_dim=32)
        >>> len(embed_model.get_query_embedding("What keeps an arrow straight?"))
        32
    """

    model_config = ConfigDict(protected_namespaces=("pydantic_model_",), arbitrary_types_allowed=True)

    truncate_dim: int | None = Field(default=None, description="Dimensions to keep; None keeps all.")
    num_layers: int | None = Field(default=None, description="Layers to compute; None computes all.")
    query_prompt: str | None = Field(default=None, description="Put in front of queries.")
    document_prompt: str | None = Field(default=None, description="Put in front of documents.")
    normalize: bool = Field(default=False, description="Whether every vector gets length one.")
    model_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of fletching.load.", repr=False
    )

    _embedder: Any = PrivateAttr(default=None)
    _is_given: bool = PrivateAttr(default=False)
    _fingerprint: str | None = PrivateAttr(default=None)
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
    ) -> None:
        name, embedder = _name_model(model, model_name)
        cache = _check_cache(embeddings_cache)
        fields: dict[str, Any] = {
            "model_name": name,
            "truncate_dim": _check_count("truncate_dim", truncate_dim),
            "num_layers": _check_count("num_layers", num_layers),
            "query_prompt": _check_prompt("query_prompt", query_prompt),
            "document_prompt": _check_prompt("document_prompt", document_prompt),
            "normalize": _check_flag("normalize", normalize),
            "embed_batch_size": _check_batch_size(embed_batch_size),
            "model_kwargs": _check_model_kwargs(model_kwargs, is_given=embedder is not None),
            "num_workers": _check_count("num_workers", num_workers),
            "rate_limiter": _check_rate_limiter(rate_limiter),
            "callback_manager": callback_manager or CallbackManager(),
        }
        super().__init__(**fields)
        self._embedder = embedder
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
        """Keep the store from the base class, which would look up queries and documents under one key."""
        if name == "embeddings_cache":
            name, value = "_cache", _check_cache(value)
        super().__setattr__(name, value)

    # --- what LlamaIndex calls ---

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embed("query", [query])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await self._aembed("query", [query]))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embed("document", [text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aembed("document", [text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embed("document", texts)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self._aembed("document", texts)

    # --- the two ways through the cache ---

    def _embed(self, task: str, texts: list[str]) -> list[list[float]]:
        _check_texts(texts)
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
        _check_texts(texts)
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

    def _load(self) -> Any:
        """Open the model, or take the one that another embedding of this process opened."""
        if self._embedder is None:
            self._embedder = fletching.load_shared(self.model_name, kind="embedder", **self.model_kwargs)
        return self._embedder

    def _encode(self, task: str, texts: list[str]) -> list[list[float]]:
        """Compute the vectors; a truncation that the model cannot give is refused, not ignored."""
        embedder = self._load()
        encode = embedder.encode_query if task == "query" else embedder.encode_document
        options: dict[str, Any] = {"truncate_layers": self.num_layers} if self.num_layers else {}
        if options and "truncate_layers" not in embedder.get_model_kwargs():
            remedy = "Only models trained to leave early can be cut"
            domain = f"None: {self.model_name} always computes all its layers"
            raise bad_argument(_OWNER, "num_layers", domain, self.num_layers, remedy)
        embeddings: list[list[float]] = encode(
            texts,
            prompt=self._prompt(task),
            normalize_embeddings=self.normalize,
            truncate_dim=self.truncate_dim,
            show_progress_bar=False,
            **options,
        ).tolist()
        if self.truncate_dim and embeddings and len(embeddings[0]) < self.truncate_dim:
            domain = f"at most {len(embeddings[0])}, the dimensions of {self.model_name}"
            raise bad_argument(_OWNER, "truncate_dim", domain, self.truncate_dim)
        return embeddings

    def _prompt(self, task: str) -> str | None:
        return self.query_prompt if task == "query" else self.document_prompt

    def _describe(self, task: str, texts: list[str]) -> tuple[list[str], int | None]:
        """Return the keys of the texts, and the dimensions that their vectors must have."""
        embedder = self._load()
        if self._fingerprint is None:
            self._fingerprint = fletching.fingerprint(embedder)
        settings = {
            "model": self._fingerprint,
            "task": task,
            "prompt": self._prompt(task),
            "prompts": [dict(embedder.prompts), embedder.default_prompt_name],  # applied where prompt is None
            "truncate_dim": self.truncate_dim or embedder.truncate_dim,
            "max_seq_length": embedder.max_seq_length,
            "num_layers": self.num_layers,
            "normalize": self.normalize,
        }
        return build_keys(settings, texts), self.truncate_dim or embedder.get_embedding_dimension()

    # --- serialization ---

    @field_serializer("model_kwargs")
    def _write_model_kwargs(self, value: dict[str, Any]) -> dict[str, Any]:
        return _write_plainly(value)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out a model that was opened by name: whoever unpickles opens it there."""
        copied = self.__copy__()
        if not self._is_given:
            copied._embedder = copied._fingerprint = None
        return super(FletchingEmbedding, copied).__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a loaded model and the cache too; the base class calls the constructor and forgets them."""
        super().__setstate__(state)
        for name, value in (state.get("__pydantic_private__") or {}).items():
            setattr(self, name, value)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> FletchingEmbedding:
        """Copy the settings; share the model and the cache."""
        memo = {} if memo is None else memo
        memo |= {id(shared): shared for shared in (self._embedder, self._cache)}
        return super().__deepcopy__(memo)


def _name_model(model: object, model_name: object) -> tuple[str, Any]:
    """Return the model's name, and the model if it is loaded."""
    chosen = model_name if model is None else model
    domain = "a folder, a hub id, a checkpoint name or a loaded fletching.Embedder"
    if isinstance(chosen, (str, Path)) and str(chosen).strip():
        name, embedder = str(chosen), None
    elif isinstance(chosen, (str, Path)) or not isinstance(chosen, fletching.Embedder):
        raise bad_argument(_OWNER, "model", domain, chosen, "`fletching.load` opens one")
    else:
        name, embedder = f"{type(chosen).__name__}:{fletching.fingerprint(chosen)}", chosen
    if model_name is not None and model_name != name:
        raise bad_argument(_OWNER, "model_name", "left out beside `model`, or equal to it", model_name)
    return name, embedder


def _fill(found: list[list[float] | None], computed: list[list[float]]) -> list[list[float]]:
    """Put the computed vectors, in order, where none was found."""
    rest = iter(computed)
    return [next(rest) if embedding is None else embedding for embedding in found]


def _check_texts(texts: list[str]) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise bad_argument(_OWNER, "text", "a string", text)


def _check_count(parameter: str, value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise bad_argument(_OWNER, parameter, "a positive integer or None", value)


def _check_batch_size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_BATCH_SIZE:
        return value
    raise bad_argument(_OWNER, "embed_batch_size", f"an integer from 1 to {_MAX_BATCH_SIZE}", value)


def _check_prompt(parameter: str, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise bad_argument(_OWNER, parameter, "a string or None", value)


def _check_flag(parameter: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise bad_argument(_OWNER, parameter, "True or False", value)
    return value


def _check_cache(value: object) -> BaseKVStore | None:
    if value is None or isinstance(value, BaseKVStore):
        return value
    raise bad_argument(_OWNER, "embeddings_cache", "a BaseKVStore or None", value)


def _check_rate_limiter(value: object) -> object:
    """Refuse what an older base class would ignore."""
    if value is not None and "rate_limiter" not in BaseEmbedding.model_fields:
        remedy = "Upgrade llama-index-core"
        raise bad_argument(_OWNER, "rate_limiter", "None: the base class knows no limiter", value, remedy)
    return value


def _check_model_kwargs(value: object, *, is_given: bool) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        domain = "a mapping from argument names of fletching.load to values"
        raise bad_argument(_OWNER, "model_kwargs", domain, type(value).__name__)  # it may hold secrets
    if value and is_given:
        raise bad_argument(_OWNER, "model_kwargs", "empty when `model` is loaded already", sorted(value))
    for name in _RESERVED:
        if name in value:
            raise bad_argument(_OWNER, "model_kwargs", f"without {name!r}, which is set here", sorted(value))
    return dict(value)


def _write_plainly(value: Any) -> Any:
    """Drop secrets at any depth; write paths and torch's dtypes and devices as text, which JSON can hold."""
    if isinstance(value, Mapping):
        return {key: _write_plainly(item) for key, item in value.items() if key not in _SECRETS}
    if isinstance(value, (list, tuple)):
        return [_write_plainly(item) for item in value]
    if isinstance(value, Path) or type(value).__module__ == "torch":
        return str(value).removeprefix("torch.")
    return value
