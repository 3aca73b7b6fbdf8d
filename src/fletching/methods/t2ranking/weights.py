"""The authors' weights: pickled state dicts, read without running what a pickle may hold."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from fletching.data.lines import StrPath
from fletching.errors import bad_checkpoint
from fletching.methods.t2ranking.config import BASE
from fletching.methods.t2ranking.model import build_cross_encoder, build_dual_encoder
from fletching.models.embedder import Embedder
from fletching.models.reranker import Reranker
from fletching.registry import summarise

__all__ = ["load_weights"]

_PARALLEL = "module."  # what torch's data parallelism puts in front
_DUAL = ("lm_q", "lm_p")
_CROSS = ("lm",)
_COMPUTED = "embeddings.position_ids"  # older versions of transformers saved it
_POOLER = "pooler."  # not used: the vector is that of [CLS]


def load_weights(path: StrPath, *, base: str = BASE, **kwargs: Any) -> Embedder | Reranker:
    """Open a file of the authors: ``dual-encoder-trained-with-*.p`` or ``cross-encoder.p``.

    What it is shows in its names: ``lm_q.*`` and ``lm_p.*`` are the two towers of a dual encoder, ``lm.*`` is
    a cross-encoder; a ``module.`` in front is dropped. Only tensors are unpickled.

    Args:
        path: The file.
        base: Folder or hub id that brings tokenizer and configuration. Reference code: that of
            ``bert-base-chinese``.
        **kwargs: Arguments of `build_dual_encoder` or `build_cross_encoder`, such as ``device``.

    Returns:
        The model, ready to be saved with ``save_pretrained``; from then on ``fletching.load`` opens it.

    Raises:
        CheckpointError: If the file is missing, broken, hostile or has other weights than the base has
            places.
    """
    state = _read_state(Path(path))
    owners = {name.partition(".")[0] for name in state}
    is_cross_encoder = owners == set(_CROSS)
    if not is_cross_encoder and owners != set(_DUAL):
        found = ", ".join(sorted(owners)[:4]) or "nothing"
        problem = f"its weights must be named lm_q.* and lm_p.*, or lm.*; got {found}"
        raise bad_checkpoint(path, problem)
    auto: Any = AutoModelForSequenceClassification if is_cross_encoder else AutoModel
    config, tokenizer = _open_base(base, is_cross_encoder=is_cross_encoder)
    with TemporaryDirectory() as folder:
        places = []
        for prefix in _CROSS if is_cross_encoder else _DUAL:
            part = {
                name.removeprefix(f"{prefix}."): value
                for name, value in state.items()
                if name.startswith(f"{prefix}.")
            }
            network = _fill(Path(path), auto.from_config(config), part)
            places.append(str(Path(folder) / prefix))
            network.save_pretrained(places[-1])
            tokenizer.save_pretrained(places[-1])
        if is_cross_encoder:
            return build_cross_encoder(places[0], **kwargs)
        return build_dual_encoder((places[0], places[1]), **kwargs)


def _read_state(path: Path) -> dict[str, Tensor]:
    """Unpickle tensors, and nothing else."""
    if not path.is_file():
        raise bad_checkpoint(path, "there is no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        problem = "its pickle holds more than tensors, or is broken, and was not opened"
        raise bad_checkpoint(path, problem, "Take the file from the authors' repository") from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise bad_checkpoint(path, f"it could not be read ({summarise(error)})") from error
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise bad_checkpoint(path, "it must hold names and tensors")
    state = {name.removeprefix(_PARALLEL): value for name, value in content.items()}
    for name, value in state.items():
        if not value.isfinite().all():
            raise bad_checkpoint(path, f"the weight {name!r} holds NaN or infinity")
    return state


def _open_base(base: str, *, is_cross_encoder: bool) -> tuple[Any, PreTrainedTokenizerBase]:
    options = {"num_labels": 1} if is_cross_encoder else {}
    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=False, **options)
        return config, AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    except (OSError, ValueError) as error:
        problem = f"it brings no tokenizer and configuration ({summarise(error)})"
        raise bad_checkpoint(base, problem) from error


def _fill(path: Path, network: PreTrainedModel, state: dict[str, Tensor]) -> PreTrainedModel:
    """Put the weights in their places; none may be missing but the pooler's, and none left over."""
    state.pop(_COMPUTED, None)
    state.pop(f"{network.base_model_prefix}.{_COMPUTED}", None)
    try:
        missing, surplus = network.load_state_dict(state, strict=False)
    except RuntimeError as error:  # a shape that does not fit
        raise bad_checkpoint(path, f"its weights do not fit the base ({summarise(error)})") from error
    is_bare = type(network).__name__ == type(network.base_model).__name__
    missing = [name for name in missing if not (is_bare and name.startswith(_POOLER))]
    for what, names in (("lacks", missing), ("has no place for", surplus)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            subject = "it" if what == "lacks" else "the base"
            raise bad_checkpoint(path, f"{subject} {what} the weight {names[0]!r}{more}")
    return network
