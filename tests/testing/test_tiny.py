"""Tiny models: the same for the same seed, laid out as the real ones."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from fletching.testing import (
    build_tiny_qwen2_tokenizer,
    build_tiny_t5_tokenizer,
    build_tiny_tokenizer,
    save_tiny_bert,
    save_tiny_cross_encoder,
    save_tiny_embedder,
    save_tiny_llama,
    save_tiny_qwen2,
    save_tiny_t5,
)

SAVERS = [
    save_tiny_bert,
    save_tiny_embedder,
    save_tiny_cross_encoder,
    save_tiny_llama,
    save_tiny_qwen2,
    save_tiny_t5,
]


@pytest.mark.parametrize("save", SAVERS, ids=lambda save: save.__name__)
def test_the_seed_decides_the_weights(save, tmp_path):
    first, again, other = (
        load_file(f"{save(tmp_path / name, seed=seed)}/model.safetensors")
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("save", SAVERS, ids=lambda save: save.__name__)
def test_saving_leaves_the_random_state_alone(save, tmp_path):
    before = torch.random.get_rng_state()
    save(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "save", [save_tiny_bert, save_tiny_qwen2, save_tiny_t5], ids=lambda save: save.__name__
)
def test_the_saved_tokenizer_is_the_built_one(save, tmp_path):
    build = {
        save_tiny_bert: build_tiny_tokenizer,
        save_tiny_qwen2: build_tiny_qwen2_tokenizer,
        save_tiny_t5: build_tiny_t5_tokenizer,
    }[save]
    text = "<extra_id_0> | Query: What is a nock?"
    assert AutoTokenizer.from_pretrained(save(tmp_path))(text)["input_ids"] == build()(text)["input_ids"]


def test_a_pair_is_framed_as_in_bert():
    tokenizer = build_tiny_tokenizer()
    encoded = tokenizer("bow", "goose feather")
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == [
        "[CLS]", "bow", "[SEP]", "goose", "feather", "[SEP]"
    ]  # fmt: skip
    assert encoded["token_type_ids"] == [0, 0, 0, 1, 1, 1]


def test_t5_sentinels_count_down_from_the_end_of_the_vocabulary():
    tokenizer = build_tiny_t5_tokenizer(sentinels=4)
    sentinels = tokenizer.convert_tokens_to_ids([f"<extra_id_{index}>" for index in range(4)])
    assert sentinels == [len(tokenizer) - 1 - index for index in range(4)]


def test_t5_special_ids_are_the_real_ones():
    tokenizer = build_tiny_t5_tokenizer()
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer("wood")["input_ids"][-1] == 1


def test_t5_keeps_the_end_of_sequence_when_it_cuts():
    encoded = build_tiny_t5_tokenizer()("wood " * 100, truncation=True, max_length=8)["input_ids"]
    assert (len(encoded), encoded[-1]) == (8, 1)


@pytest.mark.parametrize("text", ["Instruct: find it \n Query: 弓と矢?", "\x00\t  two  spaces ", "don't 12"])
def test_qwen2_gives_every_text_back(text):
    tokenizer = build_tiny_qwen2_tokenizer()
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_qwen2_pads_with_the_end_of_text_and_adds_nothing():
    tokenizer = build_tiny_qwen2_tokenizer()
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == tokenizer.vocab_size
    assert tokenizer.convert_ids_to_tokens(tokenizer(" the arrow")["input_ids"]) == ["Ġthe", "Ġarrow"]


@pytest.mark.parametrize(("head", "name"), [("backbone", "Qwen2Model"), ("causal-lm", "Qwen2ForCausalLM")])
def test_qwen2_comes_with_or_without_a_head(head, name, tmp_path):
    assert AutoConfig.from_pretrained(save_tiny_qwen2(tmp_path, head=head)).architectures == [name]
