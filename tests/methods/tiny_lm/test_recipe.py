"""A language model is trained: it learns, it resumes to the same weights, it says what it did."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fletching.errors import ArgumentError
from fletching.methods.tiny_lm import TinyLMRecipe, measure_language_model
from fletching.training.recipe import RESULTS_FILE

TINY = replace(
    TinyLMRecipe.smoke(), max_steps=6, save_steps=2, layers=1, hidden_size=16, feed_forward_size=32
)


def test_smoke_run_learns_its_sentences(tmp_path: Path) -> None:
    results = TinyLMRecipe.smoke().run(tmp_path)
    assert results["before"]["dev_perplexity"] == pytest.approx(384, rel=0.3)  # a guess among 384 tokens
    assert results["after"]["dev_bits_per_byte"] < results["before"]["dev_bits_per_byte"] / 2
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    written = model.generate(**tokenizer("The red archer", return_tensors="pt"), max_new_tokens=4)
    assert written.shape[1] > len(tokenizer("The red archer")["input_ids"])
    assert "perplexity" in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_other_families_open_as_they_were_saved(family: str, tmp_path: Path) -> None:
    replace(TINY, family=family).run(tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.model_type == family
    ids = tokenizer("The archer keeps the bow.")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "The archer keeps the bow."
    assert max(ids) < model.config.vocab_size


def test_a_run_killed_and_resumed_ends_with_the_same_weights(tmp_path: Path, kill_at_checkpoint: Any) -> None:
    TINY.run(tmp_path / "whole")
    with kill_at_checkpoint(1):
        TINY.run(tmp_path / "killed")
    TINY.run(tmp_path / "killed", resume=True)
    whole, killed = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "killed")
    )
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    records = [json.loads((tmp_path / name / RESULTS_FILE).read_text()) for name in ("whole", "killed")]
    assert records[0]["results"] == records[1]["results"]


def test_record_says_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("The arrow flies to the target.\n" * 400, encoding="utf-8")
    recipe = replace(TINY, synthetic=False, train_data=(str(path),), max_steps=None)
    recipe.run(tmp_path / "model")
    record = json.loads((tmp_path / "model" / RESULTS_FILE).read_text(encoding="utf-8"))
    assert list(record["data"]) == ["texts.txt"]
    # everything once: windows of 32 tokens, 16 of them a step
    assert record["steps"] == math.ceil(record["train_tokens"] // 32 / 16)
    assert record["read_tokens"] == record["steps"] * 512


def test_perplexity_of_a_uniform_model_is_the_size_of_its_vocabulary(tmp_path: Path) -> None:
    """Without weights all 384 tokens are equally likely: perplexity 384, log2(384) bits a token."""
    TINY.run(tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for parameter in model.parameters():
        parameter.data.zero_()
    tokens = np.array(tokenizer("abc", add_special_tokens=True)["input_ids"], dtype=np.int32)
    measured = measure_language_model(model, tokenizer, tokens)
    assert measured["dev_perplexity"] == pytest.approx(len(tokenizer))
    per_token = math.log2(len(tokenizer))
    assert measured["dev_bits_per_byte"] == pytest.approx(per_token * (len(tokens) - 1) / 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "bert"}, "`family` must be one of"),
        ({"hidden_size": 30}, "`hidden_size` must be a multiple of twice the heads"),
        ({"window_tokens": 4096}, "`window_tokens` must be at most max_tokens"),
        ({"rows_at_once": 5}, "`rows_at_once` must be a divisor of batch_size"),
        ({"layers": 0}, "`layers` must be an integer of at least 1"),
        ({"max_steps": 0}, "`max_steps` must be an integer of at least 1"),
    ],
)
def test_a_setting_outside_its_domain_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        replace(TINY, **changes)


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="at least one file of text"):
        TinyLMRecipe().run(tmp_path)


def test_less_text_than_a_batch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("An arrow.\n" * 20, encoding="utf-8")
    recipe = replace(TINY, synthetic=False, train_data=(str(path),))
    with pytest.raises(ArgumentError, match="text of at least 512 tokens, one batch"):
        recipe.run(tmp_path / "model")


def test_more_documents_kept_back_than_there_are_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("An arrow.\n" * 20, encoding="utf-8")
    recipe = replace(TINY, synthetic=False, train_data=(str(path),), dev_every=21)
    with pytest.raises(ArgumentError, match="`dev_every` must be at most the number of documents; got 21"):
        recipe.run(tmp_path / "model")
