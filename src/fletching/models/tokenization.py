"""Tokenization: one thread at a time, how many tokens a model reads, and how many a text loses."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from sentence_transformers.base.model import BaseModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "TokenizerLock",
    "count_lost_tokens",
    "count_positions",
    "find_lock",
    "find_window",
    "keep_to_positions",
]


class TokenizerLock:
    """A lock that pickles and copies as a fresh lock.

    Fast tokenizers keep truncation and padding as mutable state: two threads with different settings corrupt
    each other's results in silence. The network needs no lock.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[TokenizerLock], tuple[()]]:
        return TokenizerLock, ()


_locks: WeakKeyDictionary[Any, TokenizerLock] = WeakKeyDictionary()
_locks_lock = threading.Lock()


def find_lock(module: nn.Module) -> TokenizerLock:
    """Find the lock of a tokenizer; modules that share a tokenizer share the lock.

    Args:
        module: The first module of a sentence-transformers model.

    Returns:
        The lock of its tokenizer, or its own if the tokenizer is not of transformers.
    """
    tokenizer = getattr(module, "tokenizer", None)
    owner = tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else module
    with _locks_lock:
        return _locks.setdefault(owner, TokenizerLock())


def count_lost_tokens(
    model: Any, texts: Sequence[str], queries: Sequence[str] | None = None
) -> list[int] | None:
    """Count the tokens beyond what a model reads.

    Args:
        model: Any object; of a sentence-transformers model the tokenizer is locked meanwhile.
        texts: What it is given, prompt included.
        queries: What it reads in front of each text, in one row with it.

    Returns:
        One number for each text; ``None`` for a model that has no tokenizer or no limit that could be asked.
    """
    tokenizer, window = getattr(model, "tokenizer", None), find_window(model)
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or window is None or not texts:
        return None
    rows = ([*texts],) if queries is None else ([*queries], [*texts])
    with find_lock(model[0]) if isinstance(model, BaseModel) else TokenizerLock():
        ids = tokenizer(*rows, truncation=False, padding=False, verbose=False)["input_ids"]
    return [max(0, len(row) - window) for row in ids]


def find_window(model: Any) -> int | None:
    """Say how many tokens of a row a model reads.

    Args:
        model: Any object.

    Returns:
        Its ``max_seq_length``, or the ``max_length`` that its checkpoint tells the tokenizer if that is less;
        ``None`` without a limit.
    """
    first = model[0] if isinstance(model, BaseModel) else None
    options = (getattr(first, "processing_kwargs", None) or {}).get("text") or {}
    limits = (getattr(model, "max_seq_length", None), options.get("max_length"))
    return min((limit for limit in limits if isinstance(limit, int)), default=None)


def count_positions(network: PreTrainedModel) -> int | None:
    """Count the tokens that a network with a table of positions can number.

    Args:
        network: A model of transformers, with or without a head.

    Returns:
        The rows of the table that are for tokens: in RoBERTa's two of them are not. ``None`` without a table
        (rotary or relative positions).
    """
    embeddings = getattr(network.base_model, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return None
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def keep_to_positions(model: BaseModel) -> None:
    """Let a tokenizer cut rows to what the network can number, where its checkpoint says nothing or more.

    sentence-transformers takes the rows of the table instead, and a long text to RoBERTa ends in an
    ``IndexError``.

    Args:
        model: A sentence-transformers model; its tokenizer is changed.
    """
    tokenizer, network = getattr(model[0], "tokenizer", None), getattr(model[0], "model", None)
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or not isinstance(network, PreTrainedModel):
        return
    positions = count_positions(network)
    if positions is not None and (tokenizer.model_max_length or positions) > positions:
        tokenizer.model_max_length = positions
