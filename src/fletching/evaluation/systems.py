"""Anything that ranks, behind one interface: run files, BM25, and models of every kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
from sentence_transformers.base.model import BaseModel

from fletching.data import read_run
from fletching.errors import CheckpointError, bad_argument, bad_record, did_you_mean
from fletching.evaluation.answering import BM25_NAME, BM25System, RerankerSystem, RunSystem, ScorerSystem
from fletching.evaluation.bm25 import BM25
from fletching.evaluation.encoding import EncoderSystem
from fletching.evaluation.interface import System, hash_file
from fletching.evaluation.vectors import AdapterEncoder, DenseEncoder, MultiVectorEncoder, SparseEncoder
from fletching.models.hardware import resolve_dtype
from fletching.models.loading import find_kind, load

__all__ = ["System", "find_system_kind", "name_system", "open_system"]

_HUB_OPTIONS = ("token", "cache_folder", "revision", "local_files_only")
_RUN_SUFFIXES = (".tsv", ".trec", ".run", ".txt", ".tsv.gz", ".trec.gz", ".run.gz", ".txt.gz")
_MODELS = (
    "a run file, 'bm25', a checkpoint, a sentence-transformers model, an object with embed_documents and "
    "embed_query (LangChain) or get_text_embedding and get_query_embedding (LlamaIndex), or one with "
    "rank(query, documents) or score(queries, documents)"
)


def find_system_kind(system: Any, **model_options: Any) -> str:
    """Say what a system is, and complain about a wrong name, before anything is opened.

    Args:
        system: As for `open_system`.
        **model_options: As for `open_system`.

    Returns:
        Its ``kind``.

    Raises:
        ArgumentError: If nothing here can rank with it, or torch does not know the device or dtype.
        CheckpointError: If the name belongs to no checkpoint.
        DataError: If it is the name of a run file that does not exist.
    """
    if isinstance(system, System):
        return system.kind
    if isinstance(system, (str, Path)):
        name = str(system)
        if name == BM25_NAME:
            return BM25System.kind
        if Path(name).is_file():
            return RunSystem.kind
        if name.endswith(_RUN_SUFFIXES) and not Path(name).is_dir():
            raise bad_record(name, None, None, "an existing run file", "none under this name")
        _check_device_and_dtype(model_options)
        hub_options = {key: model_options[key] for key in _HUB_OPTIONS if key in model_options}
        try:
            return find_kind(system, **hub_options)
        except CheckpointError as error:
            suggestion = did_you_mean(name.lower(), [BM25_NAME])
            if not suggestion:
                raise
            raise CheckpointError(f"{error} {suggestion}.") from error
    if isinstance(system, BM25):
        return BM25System.kind
    if isinstance(system, sentence_transformers.SparseEncoder):
        return "sparse"
    if isinstance(system, sentence_transformers.MultiVectorEncoder):
        return "multi_vector"
    if callable(getattr(system, "rank", None)):
        return RerankerSystem.kind
    if all(hasattr(system, name) for name in ("encode_query", "encode_document", "similarity")):
        return "embedder"
    if AdapterEncoder.takes(system):
        return "embedder"
    if callable(getattr(system, "score", None)):
        return ScorerSystem.kind
    raise bad_argument("open_system", "system", _MODELS, system)


def _check_device_and_dtype(model_options: Mapping[str, Any]) -> None:
    """Refuse a device or dtype that nobody knows, before anything is opened.

    Args:
        model_options: As for `open_system`.

    Raises:
        ArgumentError: If torch does not know one of them.
    """
    device = model_options.get("device")
    try:
        device_type = torch.device(device or "cpu").type
    except (RuntimeError, TypeError) as error:
        domain = "one that torch knows, such as 'cpu', 'cuda', 'cuda:1' or 'mps'"
        raise bad_argument("open_system", "device", domain, device) from error
    resolve_dtype("open_system", model_options.get("dtype"), device_type)


def open_system(
    system: Any,
    *,
    name: str | None = None,
    truncate_dim: int | None = None,
    batch_size: int | None = None,
    **model_options: Any,
) -> System:
    """Open what a user names or passes.

    Args:
        system: A run file (an existing file, TREC or tab-separated, plain or gzipped); ``"bm25"``; a
            registered checkpoint (``"mvp-mini"``), a model folder or a hub id; or an object: any
            sentence-transformers model, embeddings of LangChain or LlamaIndex, something with
            ``rank(query, documents)`` that returns ``[{"corpus_id": int, "score": float}, ...]``, or with
            ``score(queries, documents)`` that returns a matrix.
        name: What to call it; ``None`` takes the name that was typed, or the class.
        truncate_dim: Dimensions that dense vectors are cut to; ``None`` keeps all. Ignored by other kinds,
            and by embedders that are neither of sentence-transformers, LangChain nor LlamaIndex.
        batch_size: Texts of one batch; ``None`` leaves it to the model. Ignored by what is not of
            sentence-transformers.
        **model_options: Arguments of `fletching.load`, such as ``device`` and ``dtype``, where it opens a
            checkpoint.

    Returns:
        The system, ready to `System.prepare`.

    Raises:
        ArgumentError: If nothing here can rank with it.
        CheckpointError: If the checkpoint cannot be opened.
        DataError: If the run file is malformed.
        MissingExtraError: If it needs a package that is not installed.

    Example:
        >>> system = open_system("bm25")
        >>> system.prepare([("d1", "A bow bends."), ("d2", "Rain.")])
        >>> system.search("q1", "Which bow?", 10)
        {'d1': 0.261...}
    """
    kind = find_system_kind(system, **model_options)
    if isinstance(system, System):
        return system
    name = name or name_system(system)
    if kind == RunSystem.kind:
        return RunSystem(name, read_run(system), hash_file(Path(system)))
    if kind == BM25System.kind:
        return BM25System(name, system if isinstance(system, BM25) else None)
    model = load(system, **model_options) if isinstance(system, (str, Path)) else system
    takes_options = isinstance(model, BaseModel)
    options: dict[str, Any] = {"show_progress_bar": False} if takes_options else {}
    if batch_size is not None and takes_options:
        options["batch_size"] = batch_size
    if kind == RerankerSystem.kind:
        return RerankerSystem(name, model, options)
    if kind == ScorerSystem.kind:
        return ScorerSystem(name, model)
    if kind == "sparse":
        return EncoderSystem(name, kind, SparseEncoder(model, options))
    if kind == "multi_vector":
        return EncoderSystem(name, kind, MultiVectorEncoder(model, options))
    if not hasattr(model, "encode_query"):
        return EncoderSystem(name, kind, AdapterEncoder(model, truncate_dim=truncate_dim))
    if truncate_dim is not None and takes_options:
        options["truncate_dim"] = truncate_dim
    return EncoderSystem(name, kind, DenseEncoder(model, options))


def name_system(system: Any) -> str:
    """Name a system that was not given a name.

    Args:
        system: As for `open_system`.

    Returns:
        What was typed, or the name of the class.
    """
    if isinstance(system, System):
        return system.name
    return str(system) if isinstance(system, (str, Path)) else type(system).__name__
