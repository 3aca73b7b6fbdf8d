"""Tiny random encoders of many families: what acts on "any encoder" is tested on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel, T5EncoderModel

from fletching.errors import bad_choice

_HIDDEN_SIZE = 32
_LAYERS = 4
_SIZES = {
    "vocab_size": 64,
    "hidden_size": _HIDDEN_SIZE,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 96,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}

# family -> what differs from `_SIZES`. Everything else is the family's own default.
_FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "albert": {"embedding_size": 16},
    "bert": {},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "share_att_key": True,
    },
    "distilbert": {"dim": _HIDDEN_SIZE, "hidden_dim": 48},
    "electra": {"embedding_size": 16},
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 8},
    "mpnet": {},
    "roberta": {},
    "t5": {"d_kv": 8, "d_ff": 48, "num_decoder_layers": 1},
    "xlm-roberta": {},
}

TINY_ENCODERS = tuple(_FAMILIES)
"""The families that ``build_tiny_encoder`` builds, in alphabetical order."""


def build_tiny_encoder(family: str, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Build a random encoder without a head, in evaluation mode.

    Four layers of width 32 with four heads, 64 token ids (0 pads). The weights are drawn wide enough for
    every token to matter to the others. The global random state of torch is left as it was.

    Args:
        family: One of ``TINY_ENCODERS``.
        seed: Decides the weights.
        **changes: Fields of the configuration, instead of the family's: ``num_hidden_layers=2``.

    Returns:
        The encoder, of T5 the encoder alone.

    Raises:
        ArgumentError: If the family is unknown.

    Example:
        >>> model = build_tiny_encoder("modernbert")
        >>> model(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state.shape
        torch.Size([1, 3, 32])
    """
    if family not in _FAMILIES:
        raise bad_choice("build_tiny_encoder", "family", TINY_ENCODERS, family)
    config: Any = AutoConfig.for_model(family, **{**_SIZES, **_FAMILIES[family], **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = T5EncoderModel(config) if family == "t5" else AutoModel.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()
