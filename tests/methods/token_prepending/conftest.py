"""Tiny decoders with a tokenizer, on disk, that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from fletching.methods.token_prepending import TokenPrependingEmbedder
from fletching.testing import build_tiny_decoder_config, build_tiny_tokenizer

WINDOW = 512
MakeEmbedder = Callable[..., TokenPrependingEmbedder]


@pytest.fixture(scope="session")
def save_decoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Save a causal language model of any family, as transformers does."""
    saved: dict[str, str] = {}

    def save(family: str = "llama", **tokenizer_options: Any) -> str:
        key = f"{family} {sorted(tokenizer_options.items())}"
        if key not in saved:
            folder = tmp_path_factory.mktemp("decoder")
            options = {
                "padding_side": "left",
                "model_max_length": WINDOW,
                "model_input_names": ["input_ids", "attention_mask"],
            }
            tokenizer = build_tiny_tokenizer(**{**options, **tokenizer_options})
            longest = "n_positions" if family == "gpt2" else "max_position_embeddings"
            changes = {"vocab_size": len(tokenizer), longest: WINDOW}
            config = build_tiny_decoder_config(family, **changes)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = AutoModelForCausalLM.from_config(config)
                for parameter in model.parameters():
                    if parameter.ndim > 1:
                        torch.nn.init.normal_(parameter, std=0.2)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            saved[key] = str(folder)
        return saved[key]

    return save


@pytest.fixture
def make_embedder(save_decoder: Callable[..., str]) -> MakeEmbedder:
    """Open a tiny decoder as an embedder, on the CPU."""

    def make(family: str = "llama", *, tokenizer: dict[str, Any] | None = None, **options: Any) -> Any:
        return TokenPrependingEmbedder(save_decoder(family, **(tokenizer or {})), device="cpu", **options)

    return make


@pytest.fixture(scope="session")
def saved_folder(save_decoder: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved embedder."""
    folder = tmp_path_factory.mktemp("saved")
    TokenPrependingEmbedder(save_decoder(), stop=2, output_layer=3, device="cpu").save(str(folder))
    return folder
