"""The tokenizer writes every text and reads it back, also after it was saved."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from fletching.errors import ArgumentError
from fletching.methods.tiny_lm import train_tokenizer
from fletching.methods.tiny_lm.tokenizer import pack_documents

DOCUMENTS = ["The arrow flies to the target.", "The archer draws the bow."] * 4


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(DOCUMENTS, 300)


@pytest.mark.parametrize("text", ["", "The arrow", "  two spaces\n", "naïve ➳ 矢 🏹", "<unk>"])
def test_every_text_comes_back(tokenizer, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_a_saved_tokenizer_writes_the_same_tokens(tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*DOCUMENTS, "矢 <|eot_id|> bow"]
    assert again(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert again.padding_side == "left"
    assert again.model_max_length == 512


def test_frequent_words_are_one_token(tokenizer) -> None:
    assert len(tokenizer("The")["input_ids"]) == 2


def test_documents_are_packed_with_their_ends(tokenizer) -> None:
    packed = pack_documents(tokenizer, ["The arrow", ""])
    first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert packed.tolist() == [*tokenizer("The arrow")["input_ids"], last, first, last]
    assert pack_documents(tokenizer, []).tolist() == []


def test_a_vocabulary_too_small_for_the_bytes_is_refused() -> None:
    with pytest.raises(ArgumentError, match="`vocab_size` must be an integer of at least 262; got 261"):
        train_tokenizer(DOCUMENTS, 261)
