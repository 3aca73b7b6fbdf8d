"""Made-up rows and a tiny Qwen2: for first tries and tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import Qwen2Config, Qwen2Model, Qwen2Tokenizer

from fletching.methods.kalm.config import INSTRUCTIONS, fill_template
from fletching.methods.kalm.data import KaLMRow, build_label_rows

__all__ = ["build_synthetic_rows", "save_smoke_qwen2"]

_TOPICS = ("arrow", "bow", "feather", "string", "target", "quiver", "glove", "wind")
_DETAILS = ("oak", "silk", "wax", "iron", "reed", "cork", "bone", "flax", "resin", "clay", "wool", "jade")
_ASKED = ("which {topic} has {detail}?", "where is the {topic} of {detail}?")
_SAID = ("a {topic} of {detail}", "this {topic} has {detail} in it", "{detail}, for a {topic}")
_INSTRUCTION = "Identify the thing that a text is about"


def build_synthetic_rows(*, seed: int = 0, wording: int = 0) -> list[KaLMRow]:
    """Make rows of two tasks: questions about things and what they are of, and things by topic.

    Args:
        seed: Same seed, same rows.
        wording: Of the questions, 0 or 1, so that those for training and for evaluation can differ.

    Returns:
        A row for each thing asked about, and a row for each sentence to classify.
    """
    generator = Random(seed)
    prompt = fill_template(INSTRUCTIONS["retrieval"])
    things = [(topic, detail) for topic in _TOPICS for detail in _DETAILS]
    generator.shuffle(things)
    rows = []
    for topic, detail in things:
        query = prompt + _ASKED[wording].format(topic=topic, detail=detail)
        positive = generator.choice(_SAID).format(topic=topic, detail=detail)
        others = [thing for thing in things if thing != (topic, detail) and topic in thing]
        negatives = [
            generator.choice(_SAID).format(topic=other_topic, detail=other)
            for other_topic, other in generator.sample(others, min(2, len(others)))
        ]
        rows.append(KaLMRow(query, (positive,), tuple(negatives), "things"))
    said = [(_SAID[0].format(topic=topic, detail=detail), topic) for topic, detail in things[:32]]
    texts, labels = zip(*said, strict=True)
    rows += build_label_rows(texts, labels, task="topics", instruction=_INSTRUCTION, n_negatives=3, seed=seed)
    return rows


def save_smoke_qwen2(folder: str | Path, *, seed: int = 0) -> str:
    """Save a Qwen2 of two small layers with random weights, whose tokens are words of these rows, or bytes.

    Args:
        folder: Where to; made when missing.
        seed: Decides the weights.

    Returns:
        ``folder`` as a string.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*_merge(), "<|endoftext|>"]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys([*alphabet, *words]))}
    merges: Any = [(word[:-1], word[-1]) for word in _merge()]
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=512)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.02,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        Qwen2Model(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _merge() -> Iterator[str]:
    """Yield the beginnings of all words, so that each word becomes one token."""
    prompts = (fill_template(instruction) for instruction in (INSTRUCTIONS["retrieval"], _INSTRUCTION))
    words = {word for text in (*prompts, *_ASKED, *_SAID) for word in re.findall(r"\w+", text)}
    pieces = {f"Ġ{word}" for word in {*words, *_TOPICS, *_DETAILS} - {"topic", "detail"}}
    beginnings = {piece[:end] for piece in pieces for end in range(2, len(piece) + 1)}
    yield from sorted(beginnings, key=lambda piece: (len(piece), piece))
