"""How long a batch takes at each depth."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.util import batch_to_device

from fletching.errors import bad_argument
from fletching.progress import track

__all__ = ["BATCH_SIZE", "N_TOKENS", "describe_device", "time_depths"]

BATCH_SIZE = 8
"""Texts of the batch that is timed. Ours."""

N_TOKENS = 128
"""Tokens of each of them, fewer where the model's window is shorter. Ours."""

_WARM_UP, _COUNTED = 2, 5  # rounds; the median is taken
_SIDE = "query"  # the route of a model with two networks: queries are in a hurry
_WORD = "arrow "  # a token or more, in any vocabulary


@torch.inference_mode()
def time_depths(
    model: Any,
    layers: Sequence[int],
    *,
    batch_size: int = BATCH_SIZE,
    n_tokens: int = N_TOKENS,
    show_progress_bar: bool | None = None,
) -> tuple[dict[int, float], int]:
    """Time one batch of fixed size and length, without padding, at each depth.

    The depths take turns, so that whatever else the machine does meets them alike; two rounds warm up, and
    the median of five counts. What is timed is the network with all that follows it, without the tokenizer
    and the cut to fewer dimensions, which cost next to nothing.

    Args:
        model: An `ElasticEmbedder`.
        layers: Numbers of layers.
        batch_size: Texts of the batch.
        n_tokens: Tokens of each; a shorter window of the model cuts them.
        show_progress_bar: ``None``: if the ``fletching`` logger is at INFO and stderr is a terminal.

    Returns:
        ``(layers -> milliseconds of the batch, tokens of each text)``.

    Raises:
        ArgumentError: If the model does not read text as tokens.
    """
    features = _build_batch(model, batch_size, n_tokens)
    was_training = model.training
    model.eval()
    seconds: dict[int, list[float]] = {depth: [] for depth in layers}
    rounds = range(_WARM_UP + _COUNTED)
    try:
        for place in track(rounds, desc="Timing", show=show_progress_bar):
            for depth, found in seconds.items():
                spent = _time_once(model, features, depth)
                if place >= _WARM_UP:
                    found.append(spent)
    finally:
        model.train(was_training)
    length = features["input_ids"].numel() // batch_size
    return {depth: 1000 * statistics.median(found) for depth, found in seconds.items()}, length


def describe_device(model: Any) -> str:
    """Say where a model runs, as it bears on time.

    Args:
        model: A model with a device.

    Returns:
        Such as ``"cpu, 2 threads, float32"``, or the name of the accelerator.
    """
    device = torch.device(model.device)
    name = str(device.type)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        n_threads = torch.get_num_threads()
        name = f"cpu, {n_threads} thread{'s' if n_threads > 1 else ''}"
    return f"{name}, {str(model.dtype).removeprefix('torch.')}"


def _build_batch(model: Any, batch_size: int, n_tokens: int) -> dict[str, Any]:
    """Make equal texts of so many tokens: a longer text, cut."""
    features = model.preprocess([_WORD * n_tokens] * batch_size, task=_SIDE)
    ids = features.get("input_ids")
    if not isinstance(ids, torch.Tensor) or ids.ndim != 2:
        raise bad_argument("time_depths", "model", "one that reads text as tokens", type(model).__name__)
    length = ids.shape[1]
    cut = {
        name: value[:, :n_tokens].contiguous()
        if isinstance(value, torch.Tensor) and value.shape[:2] == (batch_size, length)
        else value
        for name, value in features.items()
    }
    return batch_to_device(cut, model.device)


def _time_once(model: Any, features: dict[str, Any], depth: int) -> float:
    _wait(model.device)
    start = time.perf_counter()
    model(dict(features), num_layers=depth, task=_SIDE)
    _wait(model.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    """Let an accelerator finish what it was given."""
    accelerator = getattr(torch, torch.device(device).type, None)
    if accelerator is not None and hasattr(accelerator, "synchronize"):
        accelerator.synchronize()
