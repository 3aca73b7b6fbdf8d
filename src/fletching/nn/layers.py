"""What flows between the layers of any decoder: read it, change it, stop there; the model stays as it is.

Everything works by hooks on the list of decoder layers. They answer the calls of the thread that set them, no
others, and are gone when the call ends, however it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fletching.errors import ArgumentError, bad_argument
from fletching.nn.attention import find_decoder

__all__ = ["LayerFunction", "before_layers", "check_layers", "find_layers", "run_to_layer"]

LayerFunction = Callable[[Tensor], Tensor | None]
"""Sees the hidden states ``(B, T, D)`` that a layer is about to read; returns others to read, or ``None``."""

_NAMES = ("layers", "h", "blocks", "block", "layer")
_DECODER = "a decoder-only language model of transformers"
_PROBE_TOKENS = 5


def find_layers(model: nn.Module) -> nn.ModuleList:
    """Find the decoder layers of a model.

    Args:
        model: A decoder of transformers, with or without its language-model head, or anything that holds one,
            such as a PEFT model; or a module of your own with a list of layers called ``layers``.

    Returns:
        Its layers, in the order in which they run: the model's own list, not a copy.

    Raises:
        ArgumentError: If the model is an encoder, an encoder-decoder, or holds no such list.
    """
    level: list[nn.Module] = [_find_part(model)]
    while level:
        found = [
            child
            for module in level
            for name, child in module.named_children()
            if name in _NAMES and isinstance(child, nn.ModuleList) and len(child)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise _refuse(
                model, "It has several lists of layers, and none of them is said to be the decoder's"
            )
        level = [child for module in level for child in module.children()]
    raise _refuse(model, "It has no list of layers")


@contextmanager
def before_layers(model: nn.Module, functions: Mapping[int, LayerFunction]) -> Iterator[None]:
    """Let functions see, and change, what layers are about to read.

    Only calls of the model by this thread are seen; blocks may be nested, and the outer one sees first.

    Args:
        model: As for :func:`find_layers`.
        functions: Layer -> function, layers counted from 0. A function must not write into what it sees,
            which may be the output of the layer before; it returns a changed copy.

    Yields:
        Nothing; on leaving, the model is as before.

    Raises:
        ArgumentError: If there is no such layer, or the model is no decoder.
    """
    layers = find_layers(model)
    for index in functions:
        if not 0 <= index < len(layers):
            domain = f"layers of this model, 0 to {len(layers) - 1}"
            raise bad_argument("before_layers", "functions", domain, index)
    with _Call() as call:
        for index, function in functions.items():
            call.hook_input(layers[index], function)
        yield


def run_to_layer(model: nn.Module, layer: int, **inputs: Any) -> Tensor:
    """Run a model as far as needed for the hidden states of one layer; later layers are not computed.

    With L layers there are L + 1 hidden states: number 0 is the embedding, number k the output of the k-th
    layer. They are those that ``output_hidden_states=True`` returns, but for the last: there, transformers
    puts the final norm's output in place of the L-th layer's.

    Args:
        model: As for :func:`find_layers`.
        layer: 0 to L takes these states as they are, L before the final norm. From the end, -1 is the output
            of the last layer *after* the final norm, and -2 to -L - 1 are L - 1 to 0: before any norm.
        **inputs: What the model is called with; ``input_ids`` or ``inputs_embeds``, ``attention_mask``, ...

    Returns:
        Hidden states, shape ``(B, T, D)``.

    Raises:
        ArgumentError: If there is no such layer, or the model is no decoder.
    """
    layers = find_layers(model)
    count = len(layers)
    if not isinstance(layer, int) or isinstance(layer, bool) or not -count - 1 <= layer <= count:
        raise bad_argument("run_to_layer", "layer", f"an integer from {-count - 1} to {count}", layer)
    with _Call() as call:

        def leave(hidden: Tensor) -> None:
            raise _Exit(call, hidden)

        place = layer if layer >= 0 else count + 1 + layer
        if layer == -1:
            call.hook_output(_find_backbone(model), leave)
        elif place == count:
            call.hook_output(layers[-1], leave)
        else:
            call.hook_input(layers[place], leave, first=True)
        try:
            model(**inputs)
        except _Exit as exit_:
            if exit_.call is call:
                return exit_.hidden
            raise
    raise _refuse(model, f"It ended without running its layer {place}")


@torch.no_grad()
def check_layers(model: nn.Module, *, owner: str = "check_layers") -> None:
    """Try on a few tokens whether a model obeys :func:`before_layers` and :func:`run_to_layer`.

    Meant for the moment a model is loaded: an architecture that calls its layers in its own way then raises
    instead of computing something else in silence.

    Args:
        model: The model; it must take ``input_ids``.
        owner: The call named in the error.

    Raises:
        ArgumentError: If it does not obey.
    """
    layers = find_layers(model)
    table: Any = find_decoder(model, owner=owner).get_input_embeddings()
    ids = torch.arange(1, 1 + _PROBE_TOKENS, device=table.weight.device)[None] % table.num_embeddings
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if hasattr(find_decoder(model, owner=owner).config, "use_cache"):
        inputs["use_cache"] = False
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        problem = _find_problem(model, len(layers), inputs)
    finally:
        for part in training:
            part.training = True
    if problem:
        domain = "a decoder whose layers read what the layer before them wrote"
        raise bad_argument(owner, "model", domain, type(model).__name__, problem)


def _find_problem(model: nn.Module, count: int, inputs: dict[str, Any]) -> str:
    seen: list[tuple[int, Tensor]] = []

    def record(index: int) -> LayerFunction:
        return lambda hidden: seen.append((index, hidden))

    written: list[Tensor] = []
    with before_layers(model, {index: record(index) for index in range(count)}), _Call() as call:
        for layer in find_layers(model):
            call.hook_output(layer, written.append)
        model(**inputs)
    if [index for index, _ in seen] != [*range(count)]:
        return f"It calls its {count} layers in the order {[index for index, _ in seen]}"
    if any(hidden.ndim != 3 or hidden.shape[:2] != inputs["input_ids"].shape for _, hidden in seen):
        return "Its hidden states have no shape (B, T, D)"
    if not all(_is_same(hidden, before) for (_, hidden), before in zip(seen[1:], written, strict=False)):
        return "A layer reads something else than the layer before it wrote"
    middle = count // 2
    if not _is_same(run_to_layer(model, middle, **inputs), seen[middle][1]):
        return "Stopping early changes what was computed before"
    end = run_to_layer(model, count, **inputs)
    with before_layers(model, {middle: lambda hidden: 1 - hidden}):
        changed = run_to_layer(model, count, **inputs)
    if _is_same(changed, end) and end.isfinite().all():
        return "It ignores changed hidden states"
    if not _is_same(run_to_layer(model, count, **inputs), end):
        return "A call after others computes something else"
    return ""


def _is_same(hidden: Tensor, other: Tensor) -> bool:
    """Compare bit for bit; a network that overflows to NaN does so again."""
    same = (hidden == other) | (hidden.isnan() & other.isnan()) if hidden.shape == other.shape else None
    return same is not None and bool(same.all())


class _Exit(Exception):  # noqa: N818 - no error: the way out of a model
    """Carries hidden states out of a model that need not go on."""

    def __init__(self, call: _Call, hidden: Tensor) -> None:
        super().__init__()
        self.call = call
        self.hidden = hidden


class _Call:
    """Hooks that answer one thread, until the block ends.

    Other threads may run the same model. They meet these hooks too, and may do so while they are being
    registered or removed: then torch passes no ``kwargs``.
    """

    def __init__(self) -> None:
        self._thread = get_ident()
        self._over = False
        self._handles = ExitStack()

    def __enter__(self) -> _Call:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over = True  # a hook that an interrupt keeps from being removed does nothing from here on
        self._handles.close()

    def is_ours(self) -> bool:
        """Say whether the model is being called by the thread that set the hooks."""
        return get_ident() == self._thread and not self._over

    def hook_input(self, layer: nn.Module, function: LayerFunction, *, first: bool = False) -> None:
        """Call ``function`` with what ``layer`` is about to read; ``first`` before all other functions."""

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
            if kwargs is None or not self.is_ours():
                return None
            hidden = args[0] if args else kwargs.get("hidden_states")
            if not isinstance(hidden, Tensor):
                raise _refuse(layer, "It is called without hidden states")
            changed = function(hidden)
            if changed is None:
                return None
            return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

        handle = layer.register_forward_pre_hook(hook, with_kwargs=True, prepend=first)
        self._handles.callback(handle.remove)

    def hook_output(self, module: nn.Module, function: Callable[[Tensor], None]) -> None:
        """Call ``function`` with the hidden states that ``module`` returns."""

        def hook(_: nn.Module, args: object, output: Any) -> None:
            if self.is_ours():
                function(output if isinstance(output, Tensor) else output[0])

        self._handles.callback(module.register_forward_hook(hook).remove)


def _find_part(model: nn.Module) -> nn.Module:
    """Find the language model in a module; one that is none of transformers' is taken as it is."""
    if any(isinstance(part, PreTrainedModel) for part in model.modules()):
        return find_decoder(model, owner="find_layers")
    return model


def _find_backbone(model: nn.Module) -> nn.Module:
    """Find the part that ends with the final norm, without a language-model head."""
    part = _find_part(model)
    return part.base_model if isinstance(part, PreTrainedModel) else part


def _refuse(model: nn.Module, problem: str) -> ArgumentError:
    return bad_argument("find_layers", "model", _DECODER, type(model).__name__, problem)
