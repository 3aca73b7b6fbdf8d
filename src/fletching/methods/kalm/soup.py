"""Model soup: the weighted mean of models of one shape."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from fletching.errors import bad_argument
from fletching.models.loading import load

__all__ = ["model_soup"]

_OWNER = "model_soup"
_ADAPTER = "lora_"  # in the names of weights whose product counts, not they themselves


def model_soup(
    models: Sequence[str | Path | nn.Module],
    *,
    weights: Sequence[float] | None = None,
    output_dir: str | Path | None = None,
) -> Any:
    """Average the parameters of several models: ``theta = sum_k alpha_k theta_k``.

    The end of KaLM-Embedding-V2 (arXiv 2506.20923, first version), after LM-Cocktail. Buffers and everything
    else are those of the first model. Sums are of double precision, so that the mean of equal models is the
    model, to the last bit; of checkpoints, one is in memory at a time, beside the sums.

    ``SentenceTransformer.merge`` has more ways to merge, and needs mergekit.

    Args:
        models: Two or more of one shape: loaded models, or what ``fletching.load`` opens.
        weights: One for each, with sum 1; negative ones are allowed. ``None`` gives all the same. The paper's
            are not known.
        output_dir: Where the result is saved, a new or an empty folder; ``None`` saves nothing.

    Returns:
        The new model, of the class of the first; on the CPU where that is a checkpoint.

    Raises:
        ArgumentError: If there are fewer than two models, the weights do not fit, a model is of another
            shape or mode, or has adapters: the mean of their parts is not the mean of the models.
        CheckpointError: If a checkpoint cannot be opened.

    Example:
        >>> first, second = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
        >>> _ = first.weight.data.fill_(1.0), second.weight.data.fill_(3.0)
        >>> model_soup([first, second], weights=[0.75, 0.25]).weight.item()
        1.5
    """
    if isinstance(models, (str, Path)) or len(models) < 2:
        raise bad_argument(_OWNER, "models", "two or more models", models)
    shares = _check_weights(weights, len(models))
    if output_dir is not None and Path(output_dir).exists() and any(Path(output_dir).iterdir()):
        raise bad_argument(_OWNER, "output_dir", "a new or an empty folder", str(output_dir))
    first = models[0]
    mixed: Any = copy.deepcopy(first) if isinstance(first, nn.Module) else load(first, device="cpu")
    parameters = _list_parameters(mixed, 0)
    with torch.no_grad():
        sums = {name: shares[0] * parameter.double() for name, parameter in parameters.items()}
        for place, model in enumerate(models[1:], start=1):
            other = model if isinstance(model, nn.Module) else load(model, device="cpu")
            _check_same(place, _describe(other), _describe(mixed))
            for name, parameter in _list_parameters(other, place).items():
                sums[name] += shares[place] * parameter.to(sums[name])
        for name, parameter in parameters.items():
            parameter.copy_(sums.pop(name))
    if output_dir is not None:
        mixed.save_pretrained(str(output_dir))
    return mixed


def _check_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1 / count] * count
    shares = [float(weight) for weight in weights]
    if len(shares) != count:
        raise bad_argument(_OWNER, "weights", f"one for each of the {count} models", weights)
    if not all(map(math.isfinite, shares)) or abs(math.fsum(shares) - 1) > 1e-6:
        raise bad_argument(_OWNER, "weights", "finite numbers with sum 1", weights)
    return shares


def _list_parameters(model: nn.Module, place: int) -> dict[str, nn.Parameter]:
    """List what is averaged, each weight once, however many names it has."""
    parameters = dict(model.named_parameters())
    adapter = next((name for name in parameters if _ADAPTER in name), None)
    if adapter is not None:
        domain, remedy = "a model without adapters", "Merge them into its weights first"
        raise bad_argument(_OWNER, f"models[{place}]", domain, adapter, remedy)
    return {name: tensor for name, tensor in parameters.items() if tensor.is_floating_point()}


def _describe(model: nn.Module) -> dict[str, Any]:
    """Say what two models must have in common, most telling first."""
    network = next((part for part in model.modules() if isinstance(part, PreTrainedModel)), model)
    config = vars(network.config) if isinstance(network, PreTrainedModel) else {}
    shapes = {f"weight {name!r} of shape": tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return {"class": type(network).__name__, "is_causal": config.get("is_causal"), **shapes}


def _check_same(place: int, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key in [*wanted, *found]:
        if found.get(key) != wanted.get(key):
            domain = f"of the shape of models[0], with {key} {wanted.get(key)}"
            raise bad_argument(_OWNER, f"models[{place}]", domain, found.get(key))
