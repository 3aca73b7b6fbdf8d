"""LoRA adapters on a language model: added, switched for the length of a block, merged into the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from fletching.errors import bad_argument, bad_choice, missing_extra
from fletching.methods.ullme.config import LoRAConfig


def add_adapter(model: PreTrainedModel, config: LoRAConfig, *, name: str = "default") -> None:
    """Put a fresh adapter on a model and activate it; all weights but those of adapters are frozen.

    Args:
        model: A model of transformers.
        config: Its shape.
        name: What it is called; a model may have several.

    Raises:
        ArgumentError: If there is one of this name.
        MissingExtraError: If peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise missing_extra("LLMEmbedder.add_lora", "peft", "train") from error
    if name in list_adapters(model):
        raise bad_argument("LLMEmbedder.add_lora", "name", "another than those there are", name)
    targets: Any = config.target_modules
    lora = LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets if isinstance(targets, str) else [*targets],
        exclude_modules=_find_head(model),
        task_type="CAUSAL_LM" if model.get_output_embeddings() is not None else "FEATURE_EXTRACTION",
    )
    known = model.__dict__.pop("peft_config", {})  # peft warns of any that it finds; several are wanted here
    model._hf_peft_config_loaded = False
    model.add_adapter(lora, adapter_name=name)
    model.peft_config = {**known, **model.peft_config}
    for key, parameter in model.named_parameters():  # activating one froze the others
        if ".lora_" in key:
            parameter.requires_grad_(True)


def list_adapters(model: PreTrainedModel) -> list[str]:
    """Name the adapters of a model.

    Args:
        model: A model of transformers.

    Returns:
        Their names, in the order in which they were added.
    """
    return [*getattr(model, "peft_config", {})]


@contextmanager
def without_adapters(model: PreTrainedModel) -> Iterator[None]:
    """Run a model as it is without its adapters, for the length of a block.

    It changes the model for every thread. What may be trained stays so.

    Args:
        model: A model of transformers with an adapter.

    Yields:
        Nothing.

    Raises:
        ArgumentError: If it has none.
    """
    if not list_adapters(model):
        remedy = "Call `add_lora` first, or train without a reference"
        raise bad_argument("adapters_off", "model", "a model with an adapter", type(model).__name__, remedy)
    states = [(layer, layer.disable_adapters) for layer in _find_layers(model)]
    with _same_flags(model):
        for layer, _ in states:
            layer.enable_adapters(False)
    try:
        yield
    finally:
        with _same_flags(model):
            for layer, was_off in states:
                layer.enable_adapters(not was_off)


@contextmanager
def with_adapter(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Run a model with one of its adapters, for the length of a block.

    It changes the model for every thread. What may be trained stays so.

    Args:
        model: A model of transformers with several adapters.
        name: Which.

    Yields:
        Nothing.

    Raises:
        ArgumentError: If it has none of this name.
    """
    if name not in list_adapters(model):
        raise bad_choice("use_adapter", "name", list_adapters(model), name)
    states = [(layer, [*layer.active_adapters]) for layer in _find_layers(model)]
    with _same_flags(model):
        for layer, _ in states:
            layer.set_adapter([name])
    try:
        yield
    finally:
        with _same_flags(model):
            for layer, names in states:
                layer.set_adapter(names)


def merge_adapter(model: PreTrainedModel, name: str | None = None) -> None:
    """Add one adapter to the weights it stands beside, and drop all adapters.

    Args:
        model: A model of transformers with an adapter.
        name: Which; ``None`` for the active ones.

    Raises:
        ArgumentError: If there is none of this name.
    """
    names = list_adapters(model)
    if not names:
        raise bad_argument("merge_lora", "model", "a model with an adapter", type(model).__name__)
    if name is not None and name not in names:
        raise bad_choice("merge_lora", "name", names, name)
    from peft.utils import ModulesToSaveWrapper

    chosen = [name] if name is not None else model.active_adapters()
    for path, layer in [*model.named_modules()]:
        if _is_adapted(layer):
            own = layer._get_available_adapters()
            layer.merge(safe_merge=True, adapter_names=[each for each in chosen if each in own])
            merged = layer.get_base_layer()
        elif isinstance(layer, ModulesToSaveWrapper):
            own = [each for each in chosen if each in layer.modules_to_save]
            merged = layer.modules_to_save[own[-1]] if own else layer.original_module
        else:
            continue
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, merged)
    opened: Any = model
    opened._hf_peft_config_loaded = False
    del opened.peft_config
    conversions = getattr(opened, "_weight_conversions", None) or []
    if any("base_model" in pattern for each in conversions for pattern in each.source_patterns):
        opened._weight_conversions = None  # a save would name weights as in the folder of the adapter
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def _find_layers(model: nn.Module) -> list[Any]:
    return [layer for layer in model.modules() if _is_adapted(layer)]


def _is_adapted(layer: nn.Module) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(layer, BaseTunerLayer)


def _find_head(model: PreTrainedModel) -> list[str] | None:
    """Name the head, which ``"all-linear"`` would mean too in a model that is not wrapped."""
    head = model.get_output_embeddings()
    names = [name for name, part in model.named_modules() if head is not None and part is head]
    return names or None


@contextmanager
def _same_flags(model: nn.Module) -> Iterator[None]:
    """Keep what may be trained: peft freezes adapters that it puts aside, and their gradients with them."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
