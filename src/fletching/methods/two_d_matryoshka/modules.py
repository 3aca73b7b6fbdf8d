"""ElasticTransformer: the first module of an embedder, which runs as many layers as it is asked to."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn
from transformers import PreTrainedModel

from fletching.errors import FletchingError, bad_argument
from fletching.nn import (
    check_depth,
    check_num_layers,
    copy_structure,
    count_layers,
    find_final_norm,
    layer_view,
    view_module,
)

__all__ = [
    "ElasticTransformer",
    "find_transformers",
    "make_elastic",
    "make_stock",
    "measure_width",
    "read_state",
    "view_with_states",
]

_OWNER = "ElasticTransformer"
_OUTPUT, _STATES = "token_embeddings", "all_layer_embeddings"
_FOUND = "_found_norm"  # a plain attribute: no part of the module, of its files or of its weights


class ElasticTransformer(Transformer):
    """A ``Transformer`` whose ``forward`` takes ``num_layers``, and so does ``encode`` of its model.

    The layers after that are not run: time falls with their number. What follows the last layer, such as the
    final norm of a decoder, is applied to the last one that was run. Nothing on the module changes during a
    call, so threads may ask for different numbers at once.

    Its arguments are those of ``Transformer``, and it holds nothing beyond it; an embedder that is saved by
    :class:`ElasticEmbedder` names the stock class in its files.
    """

    forward_kwargs = {"num_layers"}

    @property
    def num_layers(self) -> int:
        """How many layers there are."""
        return count_layers(self.model)

    def forward(
        self, features: dict[str, Any], num_layers: int | tuple[int, ...] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Run the first layers.

        Args:
            features: Output of ``preprocess``.
            num_layers: How many, from 1 to all; ``None`` runs all. Several give the states after each of
                them, from one pass.
            **kwargs: Passed to the network.

        Returns:
            ``features`` with ``token_embeddings (B, T, D)``. For several depths, every row of every feature
            is there once for each of them, the rows of the first one first: ``(L * B, T, D)``.

        Raises:
            ArgumentError: If there are not so many layers, or the network gives no token embeddings for
                several of them.
        """
        if num_layers is None:
            return super().forward(features, **kwargs)
        if isinstance(num_layers, tuple):
            return self._run_depths(features, num_layers, **kwargs)
        count = self.num_layers
        if check_num_layers(_OWNER, num_layers, count) == count:
            return super().forward(features, **kwargs)
        config = self.model.config  # a network that hands out its inner states puts hooks on its modules
        hooks = any(getattr(config, name, False) for name in ("output_hidden_states", "output_attentions"))
        view = layer_view(self.model, num_layers, isolated=hooks)
        found: dict[str, Any] = view_module(self, Transformer, model=view).forward(features, **kwargs)
        return found

    def check(self, owner: str) -> None:
        """Refuse a network that cannot be cut, before it computes something else in silence.

        Args:
            owner: The call named in the error.

        Raises:
            ArgumentError: If it cannot.
        """
        if self.backend != "torch":
            remedy = "Cut the model with truncate_model, then export what it saves"
            raise bad_argument(
                owner, "backend", "'torch', the only one that can skip layers", self.backend, remedy
            )
        check_depth(self.model, owner=owner)
        self._find_norm()

    def _run_depths(self, features: dict[str, Any], layers: tuple[int, ...], **kwargs: Any) -> dict[str, Any]:
        count = self.num_layers
        deepest = max(check_num_layers(_OWNER, layer, count) for layer in layers)
        if self.module_output_name != _OUTPUT:
            domain = "one number for a network that does not give token embeddings"
            raise bad_argument(_OWNER, "num_layers", domain, layers)
        view = view_with_states(self.model, deepest)
        found = view_module(self, Transformer, model=view).forward(dict(features), **kwargs)
        norm = self._find_norm()
        states = torch.cat([read_state(found, layer, norm) for layer in layers])
        rows = len(found[_OUTPUT])
        repeated = {
            name: value.repeat(len(layers), *[1] * (value.ndim - 1))
            if isinstance(value, Tensor) and value.ndim and len(value) == rows
            else value
            for name, value in found.items()
            if name not in (_OUTPUT, _STATES)
        }
        return {**repeated, _OUTPUT: states}

    def _find_norm(self) -> nn.Module | None:
        """Find the final norm once for each network; it takes a run on a few tokens."""
        known: Any = vars(self).get(_FOUND)
        if known is None or known[0] is not self.model:
            known = vars(self)[_FOUND] = (self.model, find_final_norm(self.model))
        norm: nn.Module | None = known[1]
        return norm


_OURS = (Transformer, ElasticTransformer)


def view_with_states(network: nn.Module, num_layers: int) -> Any:
    """Make a view that hands out the states after each of its layers.

    To do so, transformers puts hooks on modules at the first call, for good: on those of the view, which is
    thrown away, and not on those of a model that is to be pickled.

    Args:
        network: The network; it stays as it is.
        num_layers: Layers of the view.

    Returns:
        The view, which shares every weight.
    """
    view = layer_view(network, num_layers)
    view.config.output_hidden_states = True
    return view


def read_state(features: dict[str, Any], layer: int, norm: nn.Module | None) -> Tensor:
    """Read what a network of so many layers would have computed from what a deeper one has.

    Args:
        features: Output of a ``Transformer`` around `view_with_states`.
        layer: Number of layers; 0 for the output of the embeddings.
        norm: What the network applies after its last layer; ``None`` for nothing.

    Returns:
        Shape ``(B, T, D)``.
    """
    states: tuple[Tensor, ...] = features[_STATES]
    if layer == len(states) - 1:  # the norm is in it
        last: Tensor = features[_OUTPUT]
        return last
    return states[layer] if norm is None else norm(states[layer])


def measure_width(model: nn.Module) -> int:
    """Find how many numbers a vector has before it is cut.

    Args:
        model: An embedder.

    Returns:
        D.

    Raises:
        FletchingError: If no module says it.
    """
    for module in reversed([*model.children()]):
        measure: Any = getattr(module, "get_embedding_dimension", None)
        if measure is not None and (width := measure()) is not None:
            return int(width)
    raise FletchingError(f"{type(model).__name__}: no module says how many numbers a vector has.")


def make_elastic(module: nn.Module) -> nn.Module:
    """Put an :class:`ElasticTransformer` in the place of every stock ``Transformer``.

    Args:
        module: A module of an embedder.

    Returns:
        The elastic one; a ``Router`` with elastic routes; any other module as it is. What was given stays as
        it was, and shares its network.
    """
    return _change_class(module, Transformer, ElasticTransformer)


def make_stock(module: nn.Module) -> Any:
    """Undo :func:`make_elastic`, for saving.

    Args:
        module: A module of an embedder, or a whole embedder.

    Returns:
        A copy of stock modules, which shares every weight.
    """
    return _change_class(module, ElasticTransformer, Transformer)


def _change_class(module: nn.Module, old: type[nn.Module], new: type[nn.Module]) -> nn.Module:
    if not any(type(part) is old for part in module.modules()):
        return module
    networks: dict[int, nn.Module] = {
        id(part): part for part in module.modules() if isinstance(part, PreTrainedModel)
    }
    twin: nn.Module = copy_structure(module, networks)
    for part in twin.modules():
        if type(part) is old:
            object.__setattr__(part, "__class__", new)
            vars(part).pop(_FOUND, None)
    return twin


def find_transformers(module: nn.Module) -> list[Any]:
    """List the modules of an embedder that run a network, elastic or not: one for each route of a ``Router``.

    Args:
        module: The embedder.

    Returns:
        The modules; none of another method's.
    """
    found: list[nn.Module] = []
    level = [module]
    while level:
        found += [part for part in level if type(part) in _OURS]
        level = [child for part in level if not isinstance(part, Transformer) for child in part.children()]
    return found
