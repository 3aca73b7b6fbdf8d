"""What smoke runs on texts in Chinese start from: a BERT of the right shape, with random weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForPreTraining, PreTrainedTokenizerFast

__all__ = ["save_character_bert"]

_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_WIDTH = 32
_MAX_POSITIONS = 512


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
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=_SPECIAL["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(_SPECIAL[name], vocabulary[_SPECIAL[name]]) for name in ("cls", "sep")],
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=_MAX_POSITIONS,
        initializer_range=0.2,  # texts must differ in more than the last bit
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertForPreTraining(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=_MAX_POSITIONS,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{name}_token": piece for name, piece in _SPECIAL.items()},
    ).save_pretrained(folder)
    return str(folder)
