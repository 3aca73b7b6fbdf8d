"""A student of five layers, and texts."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel

from fletching.methods.dse import DSEConfig, DSEReranker
from fletching.testing.tiny import HIDDEN_SIZE, MAX_SEQ_LENGTH, build_tiny_tokenizer

LAYERS = 5


@pytest.fixture(scope="session")
def deep_encoder(tmp_path_factory):
    """A BERT of five layers, so that "the top four" is not "all"."""
    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = build_tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=HIDDEN_SIZE,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=2 * MAX_SEQ_LENGTH,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def shared_student(deep_encoder):
    """The defaults of the reference code, but for a narrower head. Change nothing on it."""
    return DSEReranker.from_encoder(deep_encoder, DSEConfig(fc_dims=(16, 1)), device="cpu")


@pytest.fixture
def make_student(deep_encoder):
    """Build a student from the fields of its configuration and other options."""

    def make(options=None, **fields):
        config = DSEConfig(**{"fc_dims": (16, 1), **fields})
        return DSEReranker.from_encoder(deep_encoder, config, device="cpu", **(options or {}))

    return make
