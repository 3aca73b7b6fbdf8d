"""What smoke runs start from: a BERT of the right shape, with random weights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForPreTraining, BertModel, PreTrainedTokenizerFast

__all__ = ["save_character_bert", "save_word_bert"]

_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_WIDTH = 32


def save_character_bert(folder: str | Path, texts: Iterable[str], *, seed: int = 0) -> str:
    """Save a BERT of two small layers with random weights; its tokenizer knows the characters of some texts.

    It opens wherever ``google-bert/bert-base-chinese`` does: Chinese is read character by character, capitals
    are told apart, and pooler and head for masked words are there.

    Args:
        folder: Where to; made when missing.
        texts: What it must be able to read.
        seed: Decides the weights.

    Returns:
        ``folder`` as a string.
    """
    characters = {character for text in texts for character in text.lower() if not character.isspace()}
    ordered = sorted(characters)
    pieces = [*_SPECIAL.values(), *ordered, *(f"##{character}" for character in ordered)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return _save(
        folder,
        Tokenizer(models.WordPiece(vocabulary, unk_token=_SPECIAL["unk"])),
        BertForPreTraining,
        lowercase=False,
        num_layers=2,
        max_positions=512,
        initializer_range=0.2,
        seed=seed,
    )


def save_word_bert(folder: str | Path, texts: Iterable[str], *, num_layers: int = 4, seed: int = 0) -> str:
    """Save a BERT of small layers with random weights and without a head, whose tokens are words.

    Args:
        folder: Where to; made when missing.
        texts: What it must be able to read, in up to 64 tokens each.
        num_layers: How many layers.
        seed: Decides the weights.

    Returns:
        ``folder`` as a string.
    """
    words = {word for text in texts for word in re.findall(r"\w+|,", text)}
    vocabulary = {piece: index for index, piece in enumerate([*_SPECIAL.values(), *sorted(words)])}
    return _save(
        folder,
        Tokenizer(models.WordLevel(vocabulary, unk_token=_SPECIAL["unk"])),
        BertModel,
        lowercase=True,
        num_layers=num_layers,
        max_positions=64,
        initializer_range=0.1,
        seed=seed,
    )


def _save(
    folder: str | Path,
    tokenizer: Tokenizer,
    model_class: type[BertModel | BertForPreTraining],
    *,
    lowercase: bool,
    num_layers: int,
    max_positions: int,
    initializer_range: float,
    seed: int,
) -> str:
    """Save the two; ``initializer_range`` is wide, since texts must differ in more than the last bit."""
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(_SPECIAL[name], tokenizer.token_to_id(_SPECIAL[name])) for name in ("cls", "sep")],
    )
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        max_position_embeddings=max_positions,
        initializer_range=initializer_range,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model_class(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_positions,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{name}_token": piece for name, piece in _SPECIAL.items()},
    ).save_pretrained(folder)
    return str(folder)
