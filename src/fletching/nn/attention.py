"""Attention modes: any decoder of transformers with bidirectional or causal attention, from the same weights.

How it works. transformers builds every mask of a decoder from ``config.is_causal`` and hands the same flag
to the attention kernels; where a family drops it on the way, the kernel reads ``is_causal`` of the attention
module. `attention_mode` lets these two attributes answer from a context variable while the block is open:
the class of the configuration and of the attention modules is exchanged for a subclass of the same name with
one property, and put back when the last block on the model closes. No modelling file is copied, no hook set,
no weight touched.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from fletching.errors import ArgumentError, bad_argument

__all__ = ["attention_mode", "check_attention_mode", "find_decoder"]

_SWITCHABLE_LAYERS = {"full_attention", "sliding_attention", "attention"}
_PROBE_LENGTH = 5

# What a thread has entered, the innermost last. A generator may leave its block out of turn, or in another
# thread, so that a block says itself whether it is still open.
_modes: ContextVar[tuple[tuple[_Block, bool], ...]] = ContextVar("fletching_attention_modes", default=())
_lock = threading.Lock()
# A switch keeps its objects alive, so an id stays theirs.
_open: dict[int, _Switch] = {}  # by id of the configuration
_switch_of: dict[int, _Switch] = {}  # by id of every object whose class is exchanged


@contextmanager
def attention_mode(model: nn.Module, *, causal: bool) -> Iterator[None]:
    """Run a decoder with bidirectional or with causal attention for the length of a ``with`` block.

    Source: ULLME (arXiv 2408.03402), which switches attention by copied modelling files; here every decoder
    of transformers is switched from outside. Differences: in families with sliding windows (Mistral, Gemma
    2, ...) the window stays and becomes symmetric, a token sees those at most ``sliding_window`` away on
    either side; ULLME drops it. The two differ only in texts longer than the window.

    Blocks nest in either order, and leaving one restores what was before, also after an exception. The mode
    belongs to the thread (or asyncio task) that entered it: other threads run the same model in their own
    mode, or untouched. A thread started inside the block does not inherit it; enter the mode there. Models
    that share one configuration object share its mode. A generator that yields inside a block leaves it open
    for its caller, until it goes on or is closed, in whatever order and thread.

    Padded positions are never attended to, in both modes. Positions count as they do for the family: with
    absolute positions and padding on the left (GPT-2), pass ``position_ids`` as for the causal model. The
    linear biases of BLOOM and Falcon stay as they are: they grow with the position of the key, also past the
    query.

    Generate inside ``causal=True`` or outside: a cache of keys means nothing in a bidirectional model.
    Several texts packed into one row, flash attention and ``torch.compile`` are not covered.

    Args:
        model: A decoder-only language model of transformers, with or without a head, or what holds one: a
            PEFT model, a ``Transformer`` of sentence-transformers, a whole ``SentenceTransformer``.
        causal: ``True`` for a token to see only those before it, ``False`` for it to see all.

    Yields:
        Nothing; the model itself is what runs differently.

    Raises:
        ArgumentError: If ``causal`` is neither, or if the model is not decoder-only, has layers that cannot
            be switched (state-space, linear or chunked attention), or is bidirectional already by its own
            ``use_bidirectional_attention``.

    Example:
        >>> from fletching.testing import build_tiny_decoder
        >>> model = build_tiny_decoder("llama")
        >>> text, other = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6, 8]])
        >>> with torch.no_grad(), attention_mode(model, causal=False):
        ...     first, second = model(text).last_hidden_state, model(other).last_hidden_state
        >>> bool(torch.equal(first[0, 0], second[0, 0]))  # the first token sees the last one
        False
        >>> hasattr(model.config, "is_causal")
        False
    """
    if not isinstance(causal, bool):
        raise bad_argument("attention_mode", "causal", "True or False", causal)
    decoder = find_decoder(model, owner="attention_mode")
    if not causal:
        _refuse_other_layers(decoder)
    switch = _take(decoder)
    block = _Block(switch)
    _modes.set((*_open_modes(), (block, causal)))
    try:
        yield
    finally:
        block.switch = None
        _modes.set(_open_modes())
        _give_back(switch)


def find_decoder(model: nn.Module, *, owner: str = "find_decoder") -> PreTrainedModel:
    """Find the decoder-only language model inside a module.

    Args:
        model: The model itself or anything that holds it, such as a PEFT model or a ``SentenceTransformer``.
        owner: Who asks, the first word of the error.

    Returns:
        The outermost model of transformers that runs on the text configuration; it may carry a head, of which
        ``.base_model`` is free.

    Raises:
        ArgumentError: If there is none, or if it is an encoder, an encoder-decoder, or a decoder that its own
            ``use_bidirectional_attention`` has turned into an encoder.
    """
    outer = next((part for part in model.modules() if isinstance(part, PreTrainedModel)), None)
    if outer is None:
        raise bad_argument(owner, "model", "a decoder-only model of transformers", type(model).__name__)
    text = outer.config.get_text_config(decoder=True)
    kind = _kind(outer.config, text)
    if kind != "decoder":
        described = f"{type(outer).__name__}, an {kind}"
        raise bad_argument(owner, "model", "a decoder-only language model", described)
    if getattr(text, "use_bidirectional_attention", None):
        raise bad_argument(
            owner,
            "model",
            "a decoder whose configuration leaves `use_bidirectional_attention` off",
            type(outer).__name__,
            "This checkpoint is bidirectional by itself: run it as it is.",
        )
    if outer.config is text:
        return outer
    parts = (part for part in outer.modules() if isinstance(part, PreTrainedModel) and part.config is text)
    return next(parts, outer)


def check_attention_mode(model: nn.Module, *, causal: bool | None = None, switch: bool = True) -> None:
    """Make sure that a model obeys `attention_mode`, by running a tiny input through it.

    Five tokens are run unpadded, padded on the right and padded on the left. The last token is changed: the
    first state must move in a bidirectional model, and none before the last in a causal one. The padding is
    changed: no state of a token may move. Run it once after loading; it costs three tiny batches a mode.

    Args:
        model: What ``attention_mode`` takes.
        causal: The mode to check; ``None`` checks both.
        switch: Whether the mode is switched on for the check; ``False`` runs the model as it is, by the flag
            of its own configuration, say, and takes one mode.

    Raises:
        ArgumentError: If the model does not obey, with the name of its architecture; for the reasons of
            ``attention_mode``; or if ``causal`` is missing where nothing is switched.

    Example:
        >>> from fletching.testing import build_tiny_decoder
        >>> check_attention_mode(build_tiny_decoder("gemma3"))
    """
    if causal is None and not switch:
        raise bad_argument("check_attention_mode", "causal", "given where nothing is switched", causal)
    decoder = find_decoder(model, owner="check_attention_mode")
    training = [part for part in decoder.modules() if part.training]
    decoder.eval()
    try:
        for mode in (False, True) if causal is None else (causal,):
            with torch.no_grad(), attention_mode(decoder, causal=mode) if switch else nullcontext():
                for padding in ("none", "right", "left"):
                    _probe(decoder, causal=mode, padding=padding)
    finally:
        for part in training:
            part.training = True


def _probe(decoder: PreTrainedModel, *, causal: bool, padding: str) -> None:
    """Run five tokens, the same with another last token, the same with other padding; compare the states."""
    backbone = decoder.base_model
    input_ids, attention_mask = _probe_input(decoder, padding)
    inputs = (
        {"input_ids": input_ids}
        if padding == "none"
        else {"input_ids": input_ids, "attention_mask": attention_mask}
    )
    where = "an unpadded input" if padding == "none" else f"an input padded on the {padding}"
    try:
        states: Tensor = backbone(**inputs, use_cache=False)[0].float()
    except (AttributeError, TypeError) as error:  # its own code counts on a mask that this mode does not need
        raise _disobeys(decoder, causal, f"On {where} it fails: {error}.") from error
    states = states[:, attention_mask[0].bool()]
    rounding = torch.finfo(decoder.dtype).eps ** 0.5  # rows of one batch are not rounded alike
    tolerance = rounding * states[0].square().mean().sqrt()
    text, other_end, *other_padding = states
    moved = (text[:-1] - other_end[:-1]).abs().amax(dim=-1) > tolerance
    if causal and moved.any():
        raise _disobeys(decoder, causal, f"On {where} a token sees those after it.")
    if not causal and not moved[0]:
        raise _disobeys(decoder, causal, f"On {where} its first token does not see its last one.")
    if any((text - other).abs().amax() > tolerance for other in other_padding):
        raise _disobeys(decoder, causal, f"On {where} the padding leaks into the text.")


def _probe_input(decoder: PreTrainedModel, padding: str) -> tuple[Tensor, Tensor]:
    """Lay out the three rows of a probe (two without padding) and their mask."""
    embeddings: Any = decoder.get_input_embeddings()
    step = len(embeddings.weight) // (_PROBE_LENGTH + 4)  # LoRA on an embedding has no num_embeddings
    text = [step * (index + 1) for index in range(_PROBE_LENGTH)]
    other_end = [*text[:-1], step * (_PROBE_LENGTH + 1)]
    pads, other_pads = [0, 0], [step * (_PROBE_LENGTH + 2), step * (_PROBE_LENGTH + 3)]
    if padding == "none":
        rows, mask = [text, other_end], [1] * _PROBE_LENGTH
    elif padding == "right":
        rows = [text + pads, other_end + pads, text + other_pads]
        mask = [1] * _PROBE_LENGTH + [0, 0]
    else:
        rows = [pads + text, pads + other_end, other_pads + text]
        mask = [0, 0] + [1] * _PROBE_LENGTH
    device = embeddings.weight.device
    return torch.tensor(rows, device=device), torch.tensor([mask] * len(rows), device=device)


def _disobeys(decoder: PreTrainedModel, causal: bool, finding: str) -> ArgumentError:
    """Word the error for a backbone that runs in another mode than the one it was told."""
    name = f"{type(decoder).__name__} (model type {decoder.config.model_type})"
    return bad_argument(
        "check_attention_mode",
        "model",
        f"a decoder that obeys attention_mode(causal={causal})",
        name,
        finding,
    )


def _refuse_other_layers(decoder: PreTrainedModel) -> None:
    """Refuse a decoder with layers that read from left to right by construction."""
    config = decoder.config
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or ()
    others = sorted(set(kinds) - _SWITCHABLE_LAYERS)
    if others:
        raise bad_argument(
            "attention_mode",
            "model",
            "a decoder whose every layer is full or sliding-window attention, to be made bidirectional",
            f"{type(decoder).__name__} with layers of type {', '.join(others)}",
        )


@cache
def _encoder_types() -> tuple[frozenset[str], frozenset[str]]:
    """List the model types of encoders and of encoder-decoders that transformers has."""
    encoder_decoders = frozenset(modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
    return frozenset(modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES) - encoder_decoders, encoder_decoders


def _kind(config: PreTrainedConfig, text: PreTrainedConfig) -> str:
    """Say what a model is: a decoder, an encoder or an encoder-decoder."""
    encoders, encoder_decoders = _encoder_types()
    if config.is_encoder_decoder or text.is_encoder_decoder or text.model_type in encoder_decoders:
        return "encoder-decoder"
    return "encoder" if text.model_type in encoders else "decoder"


class _Block:
    """One ``with`` block; once it is left, it has no switch and keeps no model alive."""

    def __init__(self, switch: _Switch) -> None:
        self.switch: _Switch | None = switch


class _Switch:
    """The exchanged classes of one configuration and its decoders, for as long as a block on it is open."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self.key = id(config)
        self.blocks = 0
        self.decoders: list[PreTrainedModel] = []
        self.classes: list[tuple[Any, type]] = []

    def add(self, decoder: PreTrainedModel) -> None:
        flagged = (decoder.config, *_find_flags(decoder))
        parts: dict[int, Any] = {id(each): each for each in flagged if id(each) not in _switch_of}
        kinds: list[Any] = [type(each) for each in parts.values()]
        switched = [_switched(kind) for kind in kinds]  # may fail: nothing is exchanged yet
        self.decoders.append(decoder)
        for each, kind in zip(parts.values(), switched, strict=True):
            self.classes.append((each, type(each)))
            _switch_of[id(each)] = self
            object.__setattr__(each, "__class__", kind)  # past the slow one of modules

    def remove(self) -> None:
        for each, kind in self.classes:
            object.__setattr__(each, "__class__", kind)
            del _switch_of[id(each)]


def _find_flags(module: nn.Module) -> Iterator[nn.Module]:
    """Find the attention modules, which carry the flag; several times faster than a walk by ``modules()``."""
    waiting = [module]
    while waiting:
        part = waiting.pop()
        if isinstance(part.__dict__.get("is_causal"), bool) and not getattr(
            part, "is_cross_attention", False
        ):
            yield part
        for child in part._modules.values():
            if child is not None and child._modules:  # a part without parts is no attention
                waiting.append(child)


def _take(decoder: PreTrainedModel) -> _Switch:
    """Open a block on a model; the first one exchanges its classes."""
    with _lock:
        switch = _open.get(id(decoder.config)) or _Switch(decoder.config)
        if not any(decoder is each for each in switch.decoders):
            switch.add(decoder)
        _open[switch.key] = switch
        switch.blocks += 1
        return switch


def _give_back(switch: _Switch) -> None:
    """Close a block on a model; the last one restores its classes."""
    with _lock:
        switch.blocks -= 1
        if not switch.blocks:
            switch.remove()
            del _open[switch.key]


@cache
def _switched(kind: type) -> type:
    """Derive the class whose ``is_causal`` is the mode of the current thread, or else what it is without."""

    def read(self: Any) -> bool:
        mode = _innermost(self)[1]
        if mode is not None:
            if isinstance(self, nn.Module) and not mode and self.training:
                _refuse_recomputation(_switch_of[id(self)].decoders)
            return mode
        own: dict[str, bool] = self.__dict__
        return own["is_causal"] if "is_causal" in own else _inherited(kind)

    def write(self: Any, value: bool) -> None:
        # transformers sets a configuration's flag during a call and sets it back: here, for this thread
        block = _innermost(self)[0] if isinstance(self, PreTrainedConfig) else None
        if block is not None:
            _modes.set(tuple((each, value if each is block else mode) for each, mode in _modes.get()))
        else:
            self.__dict__["is_causal"] = value

    def delete(self: Any) -> None:
        self.__dict__.pop("is_causal", None)

    def reduce(self: Any, protocol: SupportsIndex) -> tuple[Any, ...]:
        # a copy or pickle made inside a block is an ordinary object
        return _make_empty, (kind,), self.__dict__

    body = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "__reduce_ex__": reduce,
        "is_causal": property(read, write, delete),
    }
    return type(kind)(kind.__name__, (kind,), body)


def _make_empty(kind: type) -> Any:
    return object.__new__(kind)


def _open_modes() -> tuple[tuple[_Block, bool], ...]:
    """Drop what was left elsewhere from the blocks of the current thread."""
    return tuple(entry for entry in _modes.get() if entry[0].switch is not None)


def _innermost(switched: object) -> tuple[_Block, bool] | tuple[None, None]:
    """Find the current thread's block, and its mode, for a configuration or an attention module."""
    switch = _switch_of.get(id(switched))
    if switch is not None:
        for block, mode in reversed(_modes.get()):
            if block.switch is switch:
                return block, mode
    return None, None


def _inherited(kind: type) -> bool:
    try:
        value: bool = kind.is_causal  # type: ignore[attr-defined]
    except AttributeError:
        raise AttributeError("is_causal") from None
    return value


def _refuse_recomputation(decoders: list[PreTrainedModel]) -> None:
    """Refuse to train a family whose layers forget the mode before they are run a second time.

    The flag of an attention module is read where the layer does not pass on the mode of the call (StableLM).
    Gradient checkpointing runs the layer again in the backward pass, maybe outside the block, and would then
    take the gradient of another function.
    """
    for decoder in decoders:
        passes_mode = hasattr(sys.modules[type(decoder).__module__], "merge_with_config_defaults")
        if passes_mode and any(getattr(part, "gradient_checkpointing", False) for part in decoder.modules()):
            raise bad_argument(
                "attention_mode",
                "model",
                "without gradient checkpointing where its layers do not pass on the mode of a call",
                type(decoder).__name__,
                'Turn it off, or load the model with attn_implementation="eager".',
            )
