"""A student put together around any encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sentence_transformers.base.modules import Dense
from torch import nn

from fletching.errors import bad_argument
from fletching.methods.dse.config import POOLERS, DSEConfig
from fletching.methods.dse.modules import DSEPairHead, SiameseTransformer, TopLayersPooling, draw_weights
from fletching.models.minilm import HUB_ID, find_minilm
from fletching.nn import count_layers

_LENGTH = 128  # tokens of a sentence (reference code)
_DROPOUT = 0.1  # where the encoder has none


def build_modules(network: SiameseTransformer, config: DSEConfig) -> list[nn.Module]:
    """Put a student together around an encoder.

    Args:
        network: The encoder; its length and number of labels are set.
        config: What the student is made of.

    Returns:
        The modules, in order.

    Raises:
        ArgumentError: If the encoder has too few layers or positions.
    """
    encoder: Any = network.model
    layers, width = count_layers(encoder), network.get_embedding_dimension()
    needed = 1 if config.pooling == "cls" else config.num_layers
    if needed > layers:
        raise bad_argument(
            "DSEReranker", "num_layers", f"at most {layers}, the layers of this encoder", needed
        )
    longest = network.max_seq_length
    if config.max_seq_length is not None and longest is not None and config.max_seq_length > longest:
        domain = f"at most {longest}: the encoder reads no more"
        raise bad_argument("DSEReranker", "max_seq_length", domain, config.max_seq_length)
    network.max_seq_length = config.max_seq_length or min(_LENGTH, longest or _LENGTH)
    encoder.config.num_labels = config.num_labels  # a stock CrossEncoder reads it there
    combine, tokens, include_cls = POOLERS.get(config.pooling, ("concat", "cls", True))
    dropout = (
        getattr(encoder.config, "hidden_dropout_prob", _DROPOUT) if config.dropout is None else config.dropout
    )
    pooling = TopLayersPooling(
        width,
        num_layers=needed,
        combine=combine,
        token_pooling=tokens,
        include_cls=include_cls,
        dropout=dropout,
        apply_final_norm=config.apply_final_norm,
    )
    _start_pooler(pooling, encoder, config.seed)
    modules: list[nn.Module] = [network, pooling]
    size = pooling.get_embedding_dimension()
    if config.embedding_size is not None:
        dense = Dense(size, config.embedding_size, activation_function=nn.Identity())
        draw_weights([dense.linear], config.seed + 1)
        modules.append(dense)
        size = config.embedding_size
    head = DSEPairHead(
        size,
        config.fc_dims,
        kind=config.head,
        task=config.task,
        symmetric=config.symmetric,
        label=config.label,
        seed=config.seed,
    )
    return [*modules, head]


def _start_pooler(pooling: TopLayersPooling, encoder: Any, seed: int) -> None:
    """Start the pooler of [CLS] as the encoder's own where it has one of that shape, as BERT does."""
    if pooling.dense is None:
        return
    draw_weights([pooling.dense], seed + 2)
    own = getattr(getattr(encoder, "pooler", None), "dense", None)
    if isinstance(own, nn.Linear) and own.weight.shape == pooling.dense.weight.shape:
        pooling.dense.load_state_dict(own.state_dict())


def find_network(path: str) -> str:
    """Find the encoder in a folder of sentence-transformers; older ones keep it in a folder of its own.

    Args:
        path: Folder or hub id.

    Returns:
        Where the encoder's own files are.
    """
    if path == HUB_ID:
        return str(find_minilm())
    modules = Path(path) / "modules.json"
    if not modules.is_file() or (Path(path) / "config.json").is_file():
        return path
    first = json.loads(modules.read_text(encoding="utf-8"))[0]["path"]
    return str(Path(path) / first)
