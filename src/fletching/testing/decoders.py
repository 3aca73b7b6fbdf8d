"""Tiny random decoders of many families: what a hook into "any decoder" is tested on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from fletching.errors import bad_choice

VOCABULARY_SIZE = 64
"""Token ids that a tiny decoder knows, 0 to 63; 0 is the padding."""

SLIDING_WINDOW = 5
"""Width of the sliding window in the families that have one: short, so that a test can go past it."""

_HIDDEN_SIZE = 32
_HEADS = 4
_LAYERS = 3
_POSITIONS = 64

_SPECIAL_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": _HIDDEN_SIZE,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
}
_MODERN = {
    **_SIZES,
    "intermediate_size": 48,
    "max_position_embeddings": _POSITIONS,
}
_GROUPED = {**_MODERN, "num_key_value_heads": 2}
_EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 2}
_HEAD_SIZE = {"head_dim": _HIDDEN_SIZE // _HEADS}
_ALTERNATING = {
    "sliding_window": SLIDING_WINDOW,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}

# family -> (model type of transformers, sizes). Everything else is the family's own default.
_FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bloom": (
        "bloom",
        {"vocab_size": VOCABULARY_SIZE, "hidden_size": _HIDDEN_SIZE, "n_layer": _LAYERS, "n_head": _HEADS},
    ),
    "cohere": ("cohere", _GROUPED),
    "cohere2": ("cohere2", {**_GROUPED, **_ALTERNATING}),
    "deepseek_v3": (
        "deepseek_v3",
        {
            **_MODERN,
            "num_key_value_heads": _HEADS,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
        },
    ),
    "falcon": ("falcon", {**_SIZES, "alibi": False}),
    "falcon-alibi": ("falcon", {**_SIZES, "alibi": True}),
    "gemma": ("gemma", {**_GROUPED, **_HEAD_SIZE}),
    "gemma2": ("gemma2", {**_GROUPED, **_HEAD_SIZE, **_ALTERNATING}),
    "gemma3": ("gemma3_text", {**_GROUPED, **_HEAD_SIZE, **_ALTERNATING}),
    "gpt2": (
        "gpt2",
        {
            "vocab_size": VOCABULARY_SIZE,
            "n_embd": _HIDDEN_SIZE,
            "n_layer": _LAYERS,
            "n_head": _HEADS,
            "n_positions": _POSITIONS,
        },
    ),
    "gpt_neox": ("gpt_neox", _MODERN),
    "gpt_oss": (
        "gpt_oss",
        {
            **_GROUPED,
            **_HEAD_SIZE,
            **_EXPERTS,
            **_ALTERNATING,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    ),
    "granite": ("granite", _GROUPED),
    "llama": ("llama", _GROUPED),
    "mistral": ("mistral", {**_GROUPED, "sliding_window": None}),
    "mistral-sliding": ("mistral", {**_GROUPED, "sliding_window": SLIDING_WINDOW}),
    "mixtral": ("mixtral", {**_GROUPED, **_EXPERTS}),
    "olmo": ("olmo", _GROUPED),
    "olmo2": ("olmo2", _GROUPED),
    "opt": (
        "opt",
        {
            **_SIZES,
            "ffn_dim": 48,
            "max_position_embeddings": _POSITIONS,
            "word_embed_proj_dim": _HIDDEN_SIZE,
        },
    ),
    "phi": ("phi", _GROUPED),
    "phi3": ("phi3", _GROUPED),
    "qwen2": ("qwen2", _GROUPED),
    "qwen3": ("qwen3", {**_GROUPED, **_HEAD_SIZE}),
    "qwen3_moe": (
        "qwen3_moe",
        {
            **_GROUPED,
            **_HEAD_SIZE,
            "num_experts": 2,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
        },
    ),
    "smollm3": ("smollm3", _GROUPED),
    "stablelm": ("stablelm", _GROUPED),
    "starcoder2": ("starcoder2", {**_GROUPED, "sliding_window": None}),
}

TINY_DECODERS = tuple(_FAMILIES)
"""The families that ``build_tiny_decoder`` builds, in alphabetical order."""

SLIDING_DECODERS = tuple(
    name for name, (_, sizes) in _FAMILIES.items() if sizes.get("sliding_window") is not None
)
"""Those of them that have sliding-window layers."""

EAGER_DECODERS = ("bloom", "gemma2", "gpt_oss")
"""Those of them that have the ``"eager"`` attention only; the others also have ``"sdpa"``."""


def build_tiny_decoder(
    family: str, *, seed: int = 0, attention: str | None = None, **changes: Any
) -> PreTrainedModel:
    """Build a random decoder without a language-model head, in evaluation mode.

    Three layers of width 32 with four heads, 64 token ids (0 pads), 64 positions. The weights are drawn wide
    enough for every token to matter to the others. The global random state of torch is left as it was.

    Args:
        family: One of ``TINY_DECODERS``.
        seed: Decides the weights.
        attention: Implementation, ``"sdpa"`` or ``"eager"``; ``None`` takes the family's own.
        **changes: Fields of the configuration, instead of the family's: ``num_hidden_layers=2``.

    Returns:
        The headless model of the family, as ``AutoModel`` builds it.

    Raises:
        ArgumentError: If the family is unknown, or does not have this attention.

    Example:
        >>> model = build_tiny_decoder("qwen3")
        >>> type(model).__name__, model(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state.shape
        ('Qwen3Model', torch.Size([1, 3, 32]))
    """
    config = build_tiny_decoder_config(family, **changes)
    implementations = ("eager",) if family in EAGER_DECODERS else ("eager", "sdpa")
    if attention not in (None, *implementations):
        raise bad_choice(f"build_tiny_decoder({family!r})", "attention", implementations, attention)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config, attn_implementation=attention or implementations[-1])
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def build_tiny_decoder_config(family: str, **changes: Any) -> PreTrainedConfig:
    """Build the configuration of a tiny decoder, for those who want a language-model head on it.

    Args:
        family: One of ``TINY_DECODERS``.
        **changes: Fields of the configuration, instead of the family's.

    Returns:
        The configuration, of the family's own class.

    Raises:
        ArgumentError: If the family is unknown.

    Example:
        >>> build_tiny_decoder_config("gemma3").layer_types
        ['sliding_attention', 'full_attention', 'sliding_attention']
    """
    if family not in _FAMILIES:
        raise bad_choice("build_tiny_decoder", "family", TINY_DECODERS, family)
    model_type, sizes = _FAMILIES[family]
    return AutoConfig.for_model(model_type, **{**_SPECIAL_TOKENS, **sizes, **changes})
