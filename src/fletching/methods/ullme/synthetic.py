"""What a smoke run needs: a tiny random language model, and queries about made-up topics."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fletching.data.lines import write_lines

__all__ = ["save_word_llama", "write_rows"]

_SPECIAL = {"pad": "<pad>", "unk": "<unk>", "bos": "<s>", "eos": "</s>"}
_TOPICS = 24
_WORDS_PER_TOPIC = 6
_ASKED = 3  # words of a topic that queries have; passages have the others
_FILLERS = ("the", "of", "and", "in", "what", "is", "about", "a")
_WIDTH = 32
_MAX_POSITIONS = 64


def write_rows(path: str | Path, *, n_rows: int = 120, seed: int = 0) -> Path:
    """Write rows whose query and positive share a topic, but no word of it; the negative has another topic.

    There is one passage for each topic, and the topic's number is the row's label.

    Args:
        path: The file.
        n_rows: How many.
        seed: Same seed, same rows.

    Returns:
        The path.
    """
    generator = random.Random(seed)

    def build_lines() -> list[str]:
        lines = []
        for number in range(n_rows):
            topic = number % _TOPICS
            other = (topic + generator.randrange(1, _TOPICS)) % _TOPICS
            first, second = generator.sample(_topic_words(topic)[:_ASKED], 2)
            row = {
                "query": f"what {generator.choice(_FILLERS)} {first} {generator.choice(_FILLERS)} {second}",
                "positive": [_write_passage(topic)],
                "negative": [_write_passage(other)],
                "label": topic,
            }
            lines.append(json.dumps(row))
        return lines

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(path, build_lines())
    return path


def save_word_llama(folder: str | Path, *, seed: int = 0) -> str:
    """Save a Llama of two small layers with random weights; its tokenizer knows the words of `write_rows`.

    Args:
        folder: Where to; made when missing.
        seed: Decides the weights.

    Returns:
        ``folder`` as a string.
    """
    words = [word for topic in range(_TOPICS) for word in _topic_words(topic)]
    vocabulary = {piece: index for index, piece in enumerate([*_SPECIAL.values(), *_FILLERS, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_SPECIAL["unk"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=_MAX_POSITIONS,
        initializer_range=0.2,
        pad_token_id=vocabulary[_SPECIAL["pad"]],
        bos_token_id=vocabulary[_SPECIAL["bos"]],
        eos_token_id=vocabulary[_SPECIAL["eos"]],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=_MAX_POSITIONS,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name}_token": piece for name, piece in _SPECIAL.items()},
    ).save_pretrained(folder)
    return str(folder)


def _write_passage(topic: int) -> str:
    return " of the ".join(_topic_words(topic)[_ASKED:])


def _topic_words(topic: int) -> list[str]:
    return [f"topic{topic}word{number}" for number in range(_WORDS_PER_TOPIC)]
