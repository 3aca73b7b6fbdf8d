"""The encoder that benchmarks start from where a gain must not be in the start already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from fletching.models.minilm import find_minilm

__all__ = ["build_untrained_upper"]


def build_untrained_upper(folder: str | Path, *, n_layers: int = 3, seed: int = 0) -> Path:
    """Save all-MiniLM-L6-v2 with its upper layers drawn anew, as a stock folder.

    Args:
        folder: Where to save it; a folder that holds a model already is taken as it is.
        n_layers: How many of the 6 layers to draw anew, from the top.
        seed: Of the draw.

    Returns:
        The folder.
    """
    folder = Path(folder)
    if (folder / "modules.json").is_file():
        return folder
    model = SentenceTransformer(find_minilm(), device="cpu")
    network: Any = model[0].model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh: Any = AutoModel.from_config(network.config)
    for layer, other in zip(network.encoder.layer[-n_layers:], fresh.encoder.layer[-n_layers:], strict=True):
        layer.load_state_dict(other.state_dict())
    model.save(str(folder), create_model_card=False)
    return folder
