"""Tiny language models on disk, with the tokenizers of BERT and Llama 3, that these tests share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from fletching.methods.ullme import LLMEmbedder, LLMTransformer
from fletching.methods.ullme.templates import TEMPLATES
from fletching.testing import build_tiny_decoder_config, build_tiny_qwen2_tokenizer, build_tiny_tokenizer

WINDOW = 512
MakeEmbedder = Callable[..., LLMEmbedder]


def build_chat_tokenizer(template: str, **options: Any) -> Any:
    """Build a byte-level tokenizer that knows the special tokens of a published template."""
    special = [*TEMPLATES[template].special_tokens]
    return build_tiny_qwen2_tokenizer(extra_special_tokens=special, model_max_length=WINDOW, **options)


@pytest.fixture(scope="session", name="build_chat_tokenizer")
def fixture_build_chat_tokenizer() -> Callable[..., Any]:
    """Give the function to the tests."""
    return build_chat_tokenizer


def build_language_model(family: str, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Build a random language model with its head, with weights wide enough for every token to matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(build_tiny_decoder_config(family, **changes))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(scope="session")
def save_decoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Save a causal language model of any family with its tokenizer, as transformers does."""
    saved: dict[str, str] = {}

    def save(family: str = "llama", *, tokenizer: Any = None, **changes: Any) -> str:
        key = f"{family} {changes} {tokenizer!r}"
        if key not in saved:
            folder = tmp_path_factory.mktemp("decoder")
            tokenizer = tokenizer or build_tiny_tokenizer(
                model_max_length=WINDOW, model_input_names=["input_ids", "attention_mask"]
            )
            longest = "n_positions" if family == "gpt2" else "max_position_embeddings"
            sizes = {"vocab_size": len(tokenizer), longest: WINDOW, **changes}
            build_language_model(family, **sizes).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            saved[key] = str(folder)
        return saved[key]

    return save


@pytest.fixture
def make_embedder(save_decoder: Callable[..., str]) -> MakeEmbedder:
    """Open a tiny language model as an embedder, on the CPU."""

    def make(family: str = "llama", *, tokenizer: Any = None, **options: Any) -> LLMEmbedder:
        return LLMEmbedder(save_decoder(family, tokenizer=tokenizer), device="cpu", **options)

    return make


@pytest.fixture(scope="session")
def released_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the authors released theirs: a merged language model under the name of their class."""
    folder = tmp_path_factory.mktemp("GenC-LlaMa")
    tokenizer = build_chat_tokenizer("genc_llama")
    model = build_language_model("llama", vocab_size=len(tokenizer), max_position_embeddings=WINDOW)
    model.save_pretrained(folder, max_shard_size="20KB")
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = ["LlamaEmbeddingLM"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def get_network(save_decoder: Callable[..., str]) -> Callable[[str], LLMTransformer]:
    """Open a tiny language model of each family once; what a test changes on it, it changes back."""
    networks: dict[str, LLMTransformer] = {}

    def get(family: str) -> LLMTransformer:
        if family not in networks:
            networks[family] = LLMTransformer(save_decoder(family)).eval()
        return networks[family]

    return get
