"""From what a user names to a model that can be cut, and to the grid of sizes that is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

from fletching.errors import bad_argument
from fletching.methods.two_d_matryoshka.model import ElasticEmbedder
from fletching.models.inputs import check_positive
from fletching.models.loading import load
from fletching.nn import check_num_layers

__all__ = ["Size", "open_elastic", "plan_sizes"]

Size = tuple[int, int]
"""Number of layers and of dimensions."""

_MOST_LAYERS = 12  # depths of a grid that nobody chose
_MOST_DIMS = 5  # widths likewise


def open_elastic(owner: str, model: Any, **model_options: Any) -> ElasticEmbedder:
    """Open an embedder such that any size of it may be measured.

    Args:
        owner: The call named in errors.
        model: A checkpoint name, a folder or a hub id; or a ``SentenceTransformer``, whose weights are then
            shared and which stays as it is.
        **model_options: Arguments of `fletching.load`.

    Returns:
        The embedder. It knows the sizes that the model was trained for, and minds no others.

    Raises:
        ArgumentError: If it is no embedder, cannot be cut, or is open already where there are options.
        CheckpointError: If the name belongs to no checkpoint.
    """
    if isinstance(model, (str, Path)):
        model = load(model, **model_options)
    elif model_options:
        names = ", ".join(sorted(model_options))
        raise bad_argument(owner, "model_options", "left out: the model is open already", names)
    if not isinstance(model, SentenceTransformer):
        raise bad_argument(owner, "model", "a dense embedder", type(model).__name__)
    return ElasticEmbedder.from_model(model, untrained="allow", truncate_dim=None)


def plan_sizes(
    owner: str, model: ElasticEmbedder, layers: Sequence[int] | None = None, dims: Sequence[int] | None = None
) -> list[Size]:
    """Make the grid of sizes; the full size is always in it, since the others are compared with it.

    Args:
        owner: The call named in errors.
        model: An `ElasticEmbedder`.
        layers: Numbers of layers; ``None`` takes those that the model was trained for, else all; of more than
            twelve, twelve that are evenly spread.
        dims: Widths; ``None`` takes those that the model was trained for, else the full one and the four
            highest powers of two below.

    Returns:
        The sizes, the full one first, then by falling layers and dimensions.

    Raises:
        ArgumentError: If the model has no such size.
    """
    count, width = model.num_layers, model.width
    layers = _spread_layers(model.trained_layers or range(1, count + 1)) if layers is None else layers
    dims = (model.trained_dims or _halve(width)) if dims is None else dims
    depths = {check_num_layers(owner, depth, count) for depth in _check_list(owner, "layers", layers)}
    for dim in _check_list(owner, "dims", dims):
        if check_positive(owner, "dims", dim) > width:
            raise bad_argument(owner, "dims", f"whole numbers from 1 to {width}, the model's width", dim)
    widths = {*dims, width}
    return [
        (depth, dim)
        for depth in sorted({*depths, count}, reverse=True)
        for dim in sorted(widths, reverse=True)
    ]


def _check_list(owner: str, parameter: str, values: Any) -> list[Any]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence | set | frozenset | range):
        raise bad_argument(owner, parameter, "a list of whole numbers", values)
    if not values:
        raise bad_argument(owner, parameter, "at least one number", list(values))
    return list(values)


def _spread_layers(layers: Sequence[int]) -> list[int]:
    """Take twelve depths that are evenly spread, the last one among them."""
    n = min(len(layers), _MOST_LAYERS)
    return [layers[len(layers) * place // n - 1] for place in range(1, n + 1)]


def _halve(width: int) -> list[int]:
    """Take the full width and the highest powers of two below."""
    powers = [2**power for power in range(width.bit_length()) if 2**power < width]
    return [*powers[1 - _MOST_DIMS :], width]
