"""Generation from the weights that embed: the same tokens and logits, bit for bit."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import fletching
from fletching.methods.ullme import LLMEmbedder

TEXTS = ["The archer draws the bow.", "wood"]
PROMPT = torch.tensor([[20, 7, 31, 4]])
FAMILIES = ["llama", "mistral-sliding", "gemma2", "gpt2", "falcon-alibi", "stablelm"]


def generate(model: Any) -> tuple[list[int], Tensor]:
    """Ten greedy tokens and the logits they were chosen by."""
    output = model.generate(
        PROMPT,
        attention_mask=torch.ones_like(PROMPT),
        do_sample=False,
        max_new_tokens=10,
        min_new_tokens=10,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return output.sequences[0].tolist(), torch.cat(output.logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_embedding_and_saving_change_nothing(save_decoder, tmp_path, family):
    tokens, logits = generate(AutoModelForCausalLM.from_pretrained(save_decoder(family)))
    model = LLMEmbedder(save_decoder(family), device="cpu")
    for _ in range(2):
        got_tokens, got_logits = generate(model[0].model)
        assert got_tokens == tokens
        assert torch.equal(got_logits, logits)
        model.encode(TEXTS)
    model.save(str(tmp_path))
    for saved in (
        AutoModelForCausalLM.from_pretrained(tmp_path),
        fletching.load(tmp_path, device="cpu")[0].model,
    ):
        got_tokens, got_logits = generate(saved)
        assert got_tokens == tokens
        assert torch.equal(got_logits, logits)


def test_the_configuration_is_saved_as_it_was(save_decoder, tmp_path):
    """sentence-transformers would switch the cache of keys off, and a flag of attention could stay."""
    LLMEmbedder(save_decoder(), device="cpu").save(str(tmp_path))
    before, after = (
        json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        for folder in (save_decoder(), tmp_path)
    )
    assert after == before
    assert before["use_cache"]


def test_generation_in_another_thread_stays_causal(make_embedder):
    model = make_embedder()
    expected, embedded = generate(model[0].model), model.encode(TEXTS)
    ready = threading.Barrier(2)

    def generate_often() -> list[tuple[list[int], Tensor]]:
        ready.wait()
        return [generate(model[0].model) for _ in range(5)]

    with ThreadPoolExecutor(1) as threads:
        generated = threads.submit(generate_often)
        ready.wait()
        encoded = [model.encode(TEXTS)]
        while not generated.done():
            encoded.append(model.encode(TEXTS))
    for tokens, logits in generated.result():
        assert tokens == expected[0]
        assert torch.equal(logits, expected[1])
    assert all((vectors == embedded).all() for vectors in encoded)


def test_a_token_that_generates_between_two_that_embed(make_embedder):
    """Embedding in the middle of generating, from within: at each step of it."""
    model = make_embedder()
    tokens, logits = generate(model[0].model)

    def embed(*_: Any) -> None:
        model.encode("wood")

    handle = model[0].model.lm_head.register_forward_hook(embed)
    try:
        got_tokens, got_logits = generate(model[0].model)
    finally:
        handle.remove()
    assert got_tokens == tokens
    assert torch.equal(got_logits, logits)
