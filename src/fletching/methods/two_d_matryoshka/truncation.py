"""A smaller model from a larger one, for good."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import Dense, Normalize, Router
from torch import Tensor, nn

from fletching.errors import bad_argument
from fletching.methods.two_d_matryoshka.model import ElasticEmbedder, check_dim
from fletching.methods.two_d_matryoshka.modules import find_transformers, make_stock
from fletching.models.embedder import Embedder
from fletching.nn import check_num_layers, truncate_layers

_OWNER = "truncate_model"


def truncate_model(
    model: Any,
    num_layers: int | None = None,
    truncate_dim: int | None = None,
    *,
    output_path: str | Path | None = None,
    **kwargs: Any,
) -> Embedder:
    """Cut an embedder to its first layers, and its vectors to their first numbers.

    The result is made of stock modules only. Its folder holds the layers that were kept and nothing of the
    others, and opens with sentence-transformers alone, or exports as any model does. It gives the vectors
    that ``ElasticEmbedder.encode(..., num_layers=..., truncate_dim=...)`` gives.

    Args:
        model: An `ElasticEmbedder` or any other embedder of sentence-transformers, which stays as it is; or
            a folder or hub id.
        num_layers: Layers to keep, from 1 to all; ``None`` keeps all.
        truncate_dim: Numbers to keep, from 1 to the width; ``None`` keeps what the model gives. Where the
            model's vectors have length one, a ``Dense`` before the last module keeps them, so that their
            length is one again; else the model's ``truncate_dim`` says it.
        output_path: Folder to save the result in; ``None`` saves nothing.
        **kwargs: For a folder or hub id, arguments of `ElasticEmbedder`, such as ``device``.

    Returns:
        The smaller model, with weights of its own.

    Raises:
        ArgumentError: If there are not so many layers or numbers, if the network cannot be cut, if it holds
            adapters, or if there are ``kwargs`` for a model that is loaded.
    """
    if isinstance(model, (str, Path)):
        model = ElasticEmbedder(model, **kwargs)
    elif kwargs:
        raise bad_argument(_OWNER, "kwargs", "empty when `model` is loaded already", sorted(kwargs))
    elif not isinstance(model, ElasticEmbedder):
        model = ElasticEmbedder.from_model(model)
    if num_layers is not None:
        check_num_layers(_OWNER, num_layers, model.num_layers)
    width = model.width
    check_dim(_OWNER, truncate_dim, width)
    dim = model.truncate_dim if truncate_dim is None else truncate_dim
    small = _copy(model, num_layers)
    if dim is not None and dim < width:
        if isinstance(small[-1], Normalize) and not any(isinstance(part, Router) for part in small):
            _insert_before_last(small, _build_slice(width, dim, like=next(small.parameters())))
        else:
            small.truncate_dim = dim
    if output_path is not None:
        small.save(str(output_path))
    return small


def _copy(model: ElasticEmbedder, num_layers: int | None) -> Embedder:
    """Copy a model, of each network only the layers to keep."""
    small = make_stock(model)
    kept: dict[int, Any] = {}
    for elastic, stock in zip(find_transformers(model), find_transformers(small), strict=True):
        network = kept.get(id(elastic.model))
        if network is None:
            network = kept[id(elastic.model)] = truncate_layers(
                elastic.model, elastic.num_layers if num_layers is None else num_layers
            )
        stock.model = network
    object.__setattr__(small, "__class__", Embedder)
    for name in ("_mark", "_untrained", "_warned", "_advised"):
        vars(small).pop(name)
    small.truncate_dim = None
    copied: Embedder = copy.deepcopy(small, {id(network): network for network in kept.values()})
    return copied.eval()


def _build_slice(width: int, dim: int, *, like: Tensor) -> Dense:
    """Build a stock module that keeps the first numbers of each vector: the first rows of the identity."""
    weight = torch.eye(dim, width, dtype=like.dtype, device=like.device)
    return Dense(width, dim, bias=False, activation_function=nn.Identity(), init_weight=weight)


def _insert_before_last(model: Embedder, module: Any) -> None:
    """Add a module; the names of those before it, which saves and settings may go by, stay."""
    names = [*model._modules]
    free = next(str(number) for number in range(len(names), 2 * len(names) + 1) if str(number) not in names)
    last = model._modules.pop(names[-1])
    model._modules |= {names[-1]: module, free: last}
