"""One loaded model for all who ask for it, and a name for what a loaded model computes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from fletching.models.loading import load

_PIECE = 2**20  # values of a tensor summed at once
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")  # say nothing of their own
_VOLATILE_OF_ADAPTERS = (
    "base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping",
)  # fmt: skip
_LEARNT = "embedding_dimension"  # some modules write it down at the first call; the weights tell it, too
_SETTINGS = (
    "prompts",
    "default_prompt_name",
    "truncate_dim",
    "max_seq_length",
    "similarity_fn_name",
    "max_active_dims",
    "activation_fn",
)
_OF_TOKENIZERS = ("truncation_side", "chat_template")  # beside what their own files say

_slots: dict[tuple[str, ...], _Slot] = {}
_slots_lock = threading.Lock()


def load_shared(path_or_id: str | Path, *, kind: str | None = None, **kwargs: Any) -> Any:
    """Open a checkpoint once per process, whoever asks for it and from whichever thread.

    Args:
        path_or_id: As for `load`. A folder whose files changed since is opened again.
        kind: As for `load`.
        **kwargs: As for `load`; calls with other arguments get another model.

    Returns:
        The model, the same object for every caller: change nothing on it.

    Raises:
        ArgumentError: As `load`.
        CheckpointError: As `load`; the next call tries again.
        MissingExtraError: As `load`.

    Example:
        >>> load_shared("no/such/folder")
        Traceback (most recent call last):
        ...
        fletching.errors.CheckpointError: Checkpoint 'no/such/folder': there is no such folder, ...
    """
    folder = Path(path_or_id) if isinstance(path_or_id, (str, Path)) and str(path_or_id) else None
    stamp = _stamp(folder) if folder is not None and folder.is_dir() else ()
    place = str(folder.resolve()) if folder is not None and stamp else str(path_or_id)
    key = (place, repr(kind), *(f"{name}={value!r}" for name, value in sorted(kwargs.items())))
    with _slots_lock:
        slot = _slots.setdefault(key, _Slot())
    with slot.lock:  # whoever comes second waits for the first
        if slot.model is None or slot.stamp != stamp:
            slot.model = load(path_or_id, kind=kind, **kwargs)
            slot.stamp = stamp
        return slot.model


def fingerprint(model: torch.nn.Module) -> str:
    """Name what a loaded model computes: equal fingerprints, equal embeddings or scores.

    Covers every bit of every weight, the precision, the tokenizer, the settings of the modules and of the
    networks and adapters in them, the prompts, the truncation and the activation of scores; not the device,
    the folder or the versions of the libraries. An activation that is a function goes by its name.

    Args:
        model: An embedder, a reranker, or any other sentence-transformers model.

    Returns:
        32 hexadecimal digits.

    Example:
        >>> fingerprint(torch.nn.Linear(2, 2)) == fingerprint(torch.nn.Linear(2, 2))
        False
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in _describe(model):
        digest.update(hashlib.blake2b(part).digest())
    return digest.hexdigest()


class _Slot:
    """A place for one model, and the lock of those who wait for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.model: Any = None
        self.stamp: tuple[object, ...] = ()


def _stamp(folder: Path) -> tuple[object, ...]:
    """Say cheaply whether a folder is as it was: names, sizes and times of its files."""
    stamp: list[object] = ["folder"]
    for path in sorted(folder.rglob("*")):
        with suppress(OSError):  # somebody saves into it: the next call sees the rest
            status = path.stat()
            stamp.append((str(path), status.st_size, status.st_mtime_ns))
    return tuple(stamp)


def _describe(model: torch.nn.Module) -> Iterator[bytes]:
    """Yield everything that decides on the outputs, in a fixed order."""
    settings = {name: getattr(model, name, None) for name in _SETTINGS}
    yield _encode({"class": type(model).__name__, **settings})
    children = {id(module) for module in model.children()}
    for name, module in model.named_modules():
        describe: Any = getattr(module, "get_config_dict", None)
        if describe is not None and module is not model:  # in a router, too
            settings = {key: value for key, value in describe().items() if key != _LEARNT}
            yield _encode([name, type(module).__name__, settings])
        elif id(module) in children:
            yield _encode([name, type(module).__name__, str(module)])
    for module in model.modules():
        network: Any = getattr(module, "config", None)
        if hasattr(network, "to_dict"):
            yield _encode(_drop(network.to_dict(), _VOLATILE))
        adapters: Any = getattr(module, "peft_config", None)
        for name, adapter in sorted(adapters.items()) if isinstance(adapters, dict) else ():
            yield _encode([name, _drop(adapter.to_dict(), _VOLATILE_OF_ADAPTERS)])
    tokenizer: Any = getattr(model, "tokenizer", None)
    yield _encode({name: getattr(tokenizer, name, None) for name in _OF_TOKENIZERS})
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        yield _describe_tokenizer(backend.to_str())
    elif hasattr(tokenizer, "get_vocab"):
        yield _encode(sorted(tokenizer.get_vocab().items()))
    for name, tensor in sorted(model.state_dict().items()):
        yield _encode([name, list(tensor.shape), str(tensor.dtype)])
        yield _describe_tensor(tensor)


def _describe_tokenizer(serialised: str) -> bytes:
    """Drop what stands first: truncation and padding, which every call sets anew."""
    return serialised[serialised.index('"added_tokens"') :].encode()


def _describe_tensor(tensor: Tensor) -> bytes:
    """Sum all values as integers, each times an odd number for its place: exact in any order of adding."""
    bits = tensor.detach().contiguous().flatten().view(_INTEGERS[tensor.element_size()])
    total = 0
    for start in range(0, bits.numel(), _PIECE):
        piece = bits[start : start + _PIECE].to(torch.int64)
        places = torch.arange(start, start + len(piece), device=bits.device)
        total += int((piece * (2 * places + 1)).sum())  # int64 wraps around, and that is as good
    return _encode(total)


def _drop(settings: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


def _encode(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, default=_spell).encode()


def _spell(value: object) -> object:
    """Write down what JSON cannot, alike in every process."""
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    return value.__qualname__ if isinstance(value, FunctionType) else str(value)
