"""Embeddings for LangChain's vector stores."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, ClassVar

from langchain_core.embeddings import Embeddings
from pydantic import Field, ValidationInfo, field_validator

from fletching.errors import bad_argument
from fletching.models.inputs import check_count
from langchain_fletching._model import ModelAdapter

_LAYERS = ("num_layers", "truncate_layers")  # what modules call it: ours, and those of some checkpoints


class FletchingEmbeddings(ModelAdapter, Embeddings):
    """Embed queries and documents with any sentence-transformers checkpoint, each with its own prompt.

    The model is opened on first use, once per process, and may be used from any thread and any event loop.

    Args:
        model: Checkpoint name, folder, hub id, or a loaded ``fletching.Embedder``. A loaded one is pickled
            with the adapter, but cannot be serialised.
        truncate_dim: Leading dimensions to keep, >= 1; a unit vector has length one again. ``None`` takes the
            checkpoint's.
        num_layers: Layers to run, >= 1, for checkpoints trained to be cut there; ``None`` runs all.
        query_prompt: Put in front of queries; ``""`` for nothing; ``None`` takes the checkpoint's own.
        document_prompt: The same for documents.
        normalize: True gives vectors of length one; ``None`` leaves that to the checkpoint; False demands
            that they keep their length.
        batch_size: Most texts of one micro-batch, >= 1; ``None`` lets the token budget decide.
        show_progress_bar: Whether to draw a progress bar; ``None`` draws one at log level INFO.
        model_kwargs: Arguments of ``fletching.load_shared``, such as ``device`` and ``dtype``. A ``token`` is
            neither shown nor serialised, but a pickle holds it. Empty for a loaded model.

    Raises:
        ArgumentError: If an argument is unknown or outside its domain; no model is opened for that.

    Example:
        >>> embeddings = FletchingEmbeddings(truncate_dim=128)
        >>> embeddings.truncate_dim
        128
    """

    model: Any = "sentence-transformers/all-MiniLM-L6-v2"
    truncate_dim: int | None = None
    num_layers: int | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    normalize: bool | None = Field(default=None, strict=True)
    batch_size: int | None = None
    show_progress_bar: bool | None = Field(default=None, strict=True)

    _kind: ClassVar[str] = "embedder"
    _class_name: ClassVar[str] = "Embedder"

    @field_validator("truncate_dim", "num_layers", "batch_size", mode="before")
    @classmethod
    def _check_count(cls, value: object, info: ValidationInfo) -> int | None:
        return check_count(cls.__name__, str(info.field_name), value)

    def embed_query(self, text: str) -> list[float]:
        """Embed one query.

        Args:
            text: The query.

        Returns:
            Its vector, as Python floats.

        Raises:
            ArgumentError: If ``text`` is not a string, or the model cannot do what a field asks for.
            CheckpointError: If the model cannot be opened.
        """
        if not isinstance(text, str):
            raise bad_argument(f"{type(self).__name__}.embed_query", "text", "a string", text)
        model = self._open()
        vector: list[float] = model.encode_query(text, **self._options(model, self.query_prompt)).tolist()
        return vector

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents.

        Args:
            texts: The documents; an empty list gives an empty list.

        Returns:
            One vector per document, in order, as Python floats.

        Raises:
            ArgumentError: If an item is not a string, or the model cannot do what a field asks for.
            CheckpointError: If the model cannot be opened.
        """
        texts = self._read_texts(texts)
        if not texts:
            return []
        model = self._open()
        options = self._options(model, self.document_prompt)
        vectors: list[list[float]] = model.encode_document(texts, **options).tolist()
        return vectors

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` in a thread, so that the event loop stays responsive.

        Args:
            text: The query.

        Returns:
            Exactly what `embed_query` returns.
        """
        return await asyncio.to_thread(self.embed_query, text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """`embed_documents` in a thread, so that the event loop stays responsive.

        Args:
            texts: The documents.

        Returns:
            Exactly what `embed_documents` returns.
        """
        return await asyncio.to_thread(self.embed_documents, texts)

    def _read_texts(self, texts: object) -> list[str]:
        owner = f"{type(self).__name__}.embed_documents"
        if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
            raise bad_argument(owner, "texts", "a list of strings", texts, "Pass a list, even for one text")
        texts = list(texts)
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise bad_argument(owner, f"texts[{index}]", "a string", text)
        return texts

    def _options(self, model: Any, prompt: str | None) -> dict[str, Any]:
        """Say what ``encode`` shall do, or that this model cannot."""
        self._check_width(model)
        self._check_length(model)
        options: dict[str, Any] = {
            "prompt": prompt,
            "batch_size": self.batch_size,
            "show_progress_bar": self.show_progress_bar,
            "normalize_embeddings": bool(self.normalize),
            "truncate_dim": self.truncate_dim,
        }
        if self.num_layers is not None:
            known = model.get_model_kwargs()
            name = next((name for name in _LAYERS if name in known), None)
            if name is None:
                domain = "None for a model that cannot stop at a layer"
                remedy = "ElasticEmbedder opens one that can"
                raise bad_argument(type(self).__name__, "num_layers", domain, self.num_layers, remedy)
            options[name] = self.num_layers
        return options

    def _check_width(self, model: Any) -> None:
        if self.truncate_dim is None:
            return
        modules = [module for module in model.children() if hasattr(module, "get_embedding_dimension")]
        width = modules[-1].get_embedding_dimension() if modules else None
        if width is not None and self.truncate_dim > width:
            domain = f"at most {width}, the dimensions of the model"
            raise bad_argument(type(self).__name__, "truncate_dim", domain, self.truncate_dim)

    def _check_length(self, model: Any) -> None:
        if self.normalize is False and any(type(module).__name__ == "Normalize" for module in model):
            domain = "True or None for a checkpoint that normalises by itself"
            raise bad_argument(type(self).__name__, "normalize", domain, False)
