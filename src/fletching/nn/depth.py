"""The first n layers of any transformer: as a view that shares every weight, or as a model to save.

The state after n layers is what a network of n layers computes, if what follows the last layer is applied to
it: nothing for encoders such as BERT, whose layers end with a norm, and the final norm for ModernBERT, T5 and
decoders such as Qwen and Llama, whose layers begin with one.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedConfig, PreTrainedModel

from fletching.errors import ArgumentError, bad_argument

__all__ = [
    "check_depth",
    "check_num_layers",
    "copy_structure",
    "count_layers",
    "find_final_norm",
    "layer_view",
    "truncate_layers",
]

_DOMAIN = "a transformer with one list of layers, such as BERT, ModernBERT or Qwen"
_COUNTERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")  # what modules keep of their config
_CONTAINERS = (dict, OrderedDict, set)
_PROBE_TOKENS = 5


@dataclass(frozen=True)
class _Place:
    """Where the layers are: names of the modules from the model to their list, and how many run."""

    path: tuple[str, ...]
    count: int


def count_layers(model: nn.Module) -> int:
    """Count the layers that a transformer runs.

    Args:
        model: A model of transformers, or anything that holds exactly one: a ``Transformer`` of
            sentence-transformers, a whole embedder, a PEFT model.

    Returns:
        How many; layers that share their weights (ALBERT) count each time they run.

    Raises:
        ArgumentError: If the model has no single list of layers.
    """
    return _find_place(model, "count_layers").count


def check_num_layers(owner: str, value: object, count: int) -> int:
    """Return ``value`` if a model of ``count`` layers can be cut there.

    Args:
        owner: The call named in the error.
        value: Anything.
        count: Layers of the model.

    Returns:
        The number of layers to keep.

    Raises:
        ArgumentError: If it is no integer from 1 to ``count``.

    Example:
        >>> check_num_layers("encode", 7, 6)
        Traceback (most recent call last):
        ...
        fletching.errors.ArgumentError: encode: `num_layers` must be an integer from 1 to 6, ...; got 7.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= count:
        return value
    raise bad_argument(owner, "num_layers", f"an integer from 1 to {count}, the layers of the model", value)


def layer_view(model: nn.Module, num_layers: int, *, isolated: bool = True) -> Any:
    """Make a network of the first layers of another one, without copying a weight.

    The view is a copy of the modules, not of their parameters and buffers. Its configuration is a copy that
    says how many layers there are, so that the view may be saved. The model stays as it is, and any number of
    threads may make and run views of it at once.

    Args:
        model: As for :func:`count_layers`; the view is of the same class.
        num_layers: Layers to keep, from 1 to all.
        isolated: True copies every module, so that hooks, adapters and training mode of the view are its own;
            False copies only those above the layers and shares the rest: faster, for one forward pass that
            asks for no hidden states.

    Returns:
        The view.

    Raises:
        ArgumentError: If there are not so many layers, or no single list of them.
    """
    place = _find_place(model, "layer_view")
    check_num_layers("layer_view", num_layers, place.count)
    view = copy_structure(model) if isolated else _copy_path(model, place.path)
    _cut(view, place, num_layers)
    return view


def truncate_layers(model: nn.Module, num_layers: int) -> Any:
    """Copy the first layers of a network into one of its own, to be saved or trained on.

    Args:
        model: As for :func:`count_layers`.
        num_layers: Layers to keep, from 1 to all.

    Returns:
        A model of the same class with its own weights and configuration.

    Raises:
        ArgumentError: If there are not so many layers, no single list of them, if the weights are spread over
            adapters, or if the configuration cannot say that there are fewer: a save of it would come back as
            another network, as that of MiniCPM3, whose layers are scaled by how many there are.
    """
    owner = "truncate_layers"
    if any(getattr(part, "_hf_peft_config_loaded", False) for part in model.modules()):
        remedy = "Merge the adapter into the model first"
        raise bad_argument(owner, "model", "a model without adapters", type(model).__name__, remedy)
    truncated = copy.deepcopy(layer_view(model, num_layers))
    _, network = _find_network(truncated, owner)
    try:
        config: Any = type(network.config).from_dict(network.config.to_dict())
        kept = config.get_text_config().num_hidden_layers
    except Exception as error:  # each configuration refuses what does not fit in its own way
        raise _refuse(model, owner, f"Its configuration cannot be cut ({error})") from error
    if kept != num_layers:
        raise _refuse(model, owner, f"Its configuration comes back with {kept} layers")
    if not getattr(network, "is_quantized", False) and not _computes_the_same(network, config):
        raise _refuse(model, owner, "Built from its configuration with fewer layers, it computes otherwise")
    return truncated


@torch.no_grad()
def find_final_norm(model: nn.Module) -> nn.Module | None:
    """Find the norm that a network applies after its last layer, by running it on a few tokens.

    Args:
        model: As for :func:`count_layers`; it must take ``input_ids``. Its training mode does not matter.

    Returns:
        The norm, the model's own module; ``None`` for a network that ends with its last layer, as BERT does.

    Raises:
        ArgumentError: If something else follows the last layer, or the model has no single list of layers.
    """
    name = _find_final_norm_name(model, "find_final_norm")
    return None if name is None else model.get_submodule(name)


@torch.no_grad()
def check_depth(model: nn.Module, *, owner: str = "check_depth") -> None:
    """Try on a few tokens whether a view of n layers computes what the whole network has after n layers.

    Meant for the moment a model is loaded: an architecture that runs its layers in a way of its own then
    raises instead of computing something else in silence.

    Args:
        model: As for :func:`find_final_norm`.
        owner: The call named in the error.

    Raises:
        ArgumentError: If it does not.
    """
    place = _find_place(model, owner)
    name = _find_final_norm_name(model, owner)
    norm = None if name is None else model.get_submodule(name)
    network: Any = _find_network(copy_structure(model).eval(), owner)[1].base_model
    inputs = _make_probe(network)
    states = network(**inputs, output_hidden_states=True).hidden_states
    if len(states) != place.count + 1:
        raise _refuse(model, owner, f"It has {place.count} layers and {len(states)} hidden states")
    for kept in sorted({1, (place.count + 1) // 2} - {place.count}):
        _, view = _find_network(layer_view(model, kept).eval(), owner)
        found = view.base_model(**inputs).last_hidden_state
        expected = states[kept] if norm is None else norm(states[kept])
        allowed = 0.01 * float(expected.float().abs().mean())  # a wrong network is off by the whole of it
        if found.shape != expected.shape or not torch.allclose(
            found.float(), expected.float(), rtol=0, atol=allowed, equal_nan=True
        ):
            raise _refuse(model, owner, f"Cut to {kept} layers, it computes something else than before")


@torch.no_grad()
def _computes_the_same(network: PreTrainedModel, config: PreTrainedConfig) -> bool:
    """Try on a few tokens whether a network is the one that its configuration describes, weights apart."""
    kernel = network.config._attn_implementation
    with torch.device("meta"):  # takes no memory: the weights are the network's
        rebuilt = type(network)._from_config(config, attn_implementation=kernel).eval()
    tensors = {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }
    inputs = _make_probe(network.base_model)
    expected: Tensor = copy_structure(network).eval()(**inputs)[0]
    found: Tensor = functional_call(rebuilt, tensors, kwargs=inputs)[0]
    allowed = 0.01 * float(expected.float().abs().mean())
    return found.shape == expected.shape and torch.allclose(
        found.float(), expected.float(), rtol=0, atol=allowed, equal_nan=True
    )


def copy_structure(module: nn.Module, memo: dict[int, nn.Module] | None = None) -> Any:
    """Copy every module of a tree, and no parameter or buffer: these are shared.

    Args:
        module: The root.
        memo: Copies made so far, by id; ``None`` for none.

    Returns:
        The copy. Modules that occur twice are copied once.

    Raises:
        ArgumentError: If a module carries a ``forward`` of its own, which would run the original.
    """
    memo = {} if memo is None else memo
    if id(module) not in memo:
        twin = memo[id(module)] = _copy_shell(module)
        for name, child in module._modules.items():
            if child is not None:
                twin._modules[name] = copy_structure(child, memo)
    return memo[id(module)]


def _copy_shell(module: nn.Module) -> nn.Module:
    """Copy one module: its dictionaries are its own, what is in them is shared."""
    state = vars(module)
    if (
        "forward" in state
    ):  # such as the hooks of accelerate, which are bound to the module they were made for
        domain = "a model whose modules run their own code, not one that is offloaded or patched"
        raise bad_argument("layer_view", "model", domain, type(module).__name__)
    twin: nn.Module = object.__new__(type(module))
    copied = {name: value.copy() if type(value) in _CONTAINERS else value for name, value in state.items()}
    object.__setattr__(twin, "__dict__", copied)
    if copied.get("_compiled_call_impl") is not None:
        copied["_compiled_call_impl"] = None
    return twin


def _copy_path(model: nn.Module, path: tuple[str, ...]) -> nn.Module:
    root = twin = _copy_shell(model)
    for name in path[:-1]:
        child = twin._modules[name]
        assert child is not None, "the path was walked before"
        twin._modules[name] = twin = _copy_shell(child)
    return root


def _cut(view: nn.Module, place: _Place, num_layers: int) -> None:
    """Keep the first layers of a view, whose modules along the path are its own."""
    *owners, layers = _walk(view, place.path)
    configs: dict[int, Any] = {}
    for part in owners:
        whole = vars(part).get("config")
        if isinstance(whole, PreTrainedConfig):
            if id(whole) not in configs:
                configs[id(whole)] = _cut_config(whole, place.count, num_layers, configs)
            vars(part)["config"] = configs[id(whole)]
        for name in _COUNTERS:
            if vars(part).get(name) == place.count:
                vars(part)[name] = num_layers
    kept = num_layers
    config: Any = vars(owners[-1]).get("config")
    groups = getattr(config, "num_hidden_groups", None)
    if groups is not None:  # ALBERT: the layers of one group are one layer, run several times
        kept, rest = (1, 0) if groups == 1 else divmod(num_layers * groups, place.count)
        if rest:
            domain = f"a multiple of {place.count // groups}, the layers that share their weights"
            raise bad_argument("layer_view", "num_layers", domain, num_layers)
        config.num_hidden_groups = kept
    cut = nn.ModuleList([*layers.children()][:kept])
    cut.training = layers.training
    owners[-1]._modules[place.path[-1]] = cut


def _cut_config(config: Any, count: int, num_layers: int, known: dict[int, Any]) -> Any:
    """Copy a configuration, and the text part of one for several modalities, with fewer layers."""
    twin = copy.copy(config)
    if hasattr(config, "is_causal"):  # within `attention_mode`, the class of the original answers for it
        twin.is_causal = config.is_causal
    if getattr(config, "num_hidden_layers", None) == count:
        twin.num_hidden_layers = num_layers
        for name, value in [*vars(twin).items()]:
            if "layer" in name and isinstance(value, (list, tuple)) and len(value) == count:
                setattr(twin, name, value[:num_layers])
    for name, value in [*vars(twin).items()]:
        if isinstance(value, PreTrainedConfig) and value is config.get_text_config():
            known[id(value)] = known.get(id(value)) or _cut_config(value, count, num_layers, known)
            setattr(twin, name, known[id(value)])
    return twin


def _walk(model: nn.Module, path: tuple[str, ...]) -> Iterator[nn.Module]:
    yield model
    for name in path:
        model = model._modules[name]  # type: ignore[assignment]
        yield model


def _find_network(model: nn.Module, owner: str) -> tuple[tuple[str, ...], PreTrainedModel]:
    """Find the one network of transformers in a module, and the way to it."""
    found: dict[int, tuple[tuple[str, ...], PreTrainedModel]] = {}
    level: list[tuple[tuple[str, ...], nn.Module]] = [((), model)]
    while level:
        deeper = []
        for path, part in level:
            if isinstance(part, PreTrainedModel):
                found.setdefault(id(part), (path, part))
            else:
                deeper += [((*path, name), child) for name, child in part.named_children()]
        level = deeper
    if len(found) != 1:
        problem = f"It holds {len(found)} networks" if found else "It holds no network of transformers"
        raise _refuse(model, owner, problem)
    return next(iter(found.values()))


def _find_place(model: nn.Module, owner: str) -> _Place:
    """Find the list of layers: the one that is as long as the configuration says, nearest to the root."""
    start, network = _find_network(model, owner)
    if all(isinstance(getattr(network, side, None), nn.Module) for side in ("encoder", "decoder")):
        raise _refuse(model, owner, "It is an encoder-decoder; cut its encoder alone")
    config: Any = network.config.get_text_config()
    count = getattr(config, "num_hidden_layers", None)
    if not isinstance(count, int):
        raise _refuse(model, owner, "Its configuration does not say how many layers there are")
    length = getattr(config, "num_hidden_groups", None) or count
    level: list[tuple[tuple[str, ...], nn.Module]] = [(start, network)]
    while level:
        children = [((*path, name), child) for path, part in level for name, child in part.named_children()]
        lists = [
            path for path, child in children if isinstance(child, nn.ModuleList) and len(child) == length
        ]
        if len(lists) == 1:
            return _Place(lists[0], count)
        if lists:
            raise _refuse(model, owner, f"It has {len(lists)} lists of {length} layers side by side")
        level = [(path, child) for path, child in children if not isinstance(child, nn.ModuleList)]
    raise _refuse(model, owner, f"It has no list of {length} layers")


def _find_final_norm_name(model: nn.Module, owner: str) -> str | None:
    """Find the module that reads what the last layer wrote, and writes what the network returns."""
    path = _find_place(model, owner).path
    twin = copy_structure(model).eval()  # its hooks and its mode are its own
    *owners, layers = _walk(twin, path)
    _, network = _find_network(twin, owner)
    written: list[Tensor] = []
    calls: list[tuple[str, Tensor, Tensor]] = []

    def hook(name: str) -> Any:
        def record(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                calls.append((name, args[0], output))

        return record

    def record_layer(_: nn.Module, args: object, output: Any) -> None:
        written.append(output if isinstance(output, Tensor) else output[0])

    [*layers.children()][-1].register_forward_hook(record_layer)
    for depth, part in enumerate(owners):
        for name, child in part.named_children():
            if child is not layers and child not in owners:
                child.register_forward_hook(hook(".".join((*path[:depth], name))))
    final = network.base_model(**_make_probe(network.base_model)).last_hidden_state
    if not written:
        raise _refuse(model, owner, "It does not run its layers")
    last = written[-1][:, : final.shape[1]]  # Longformer pads, and cuts off at the end
    if _is_same(last, final):
        return None
    for name, read, wrote in calls:
        if _is_same(read[:, : last.shape[1]], last) and _is_same(wrote[:, : last.shape[1]], final):
            return name
    raise _refuse(model, owner, "More than a norm follows its last layer")


def _make_probe(network: Any) -> dict[str, Any]:
    table: Any = network.get_input_embeddings()
    ids = torch.arange(1, 1 + _PROBE_TOKENS, device=table.weight.device)[None] % len(table.weight)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if hasattr(network.config, "use_cache"):
        inputs["use_cache"] = False
    return inputs


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and torch.allclose(one, other, equal_nan=True))


def _refuse(model: nn.Module, owner: str, problem: str) -> ArgumentError:
    return bad_argument(owner, "model", _DOMAIN, type(model).__name__, problem)
