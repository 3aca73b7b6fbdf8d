"""A byte-level tokenizer, trained; and documents as one long row of its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from fletching.errors import bad_argument

__all__ = ["SPECIAL_TOKENS", "pack_documents", "train_tokenizer"]

SPECIAL_TOKENS = {
    "pad_token": "<|finetune_right_pad_id|>",
    "bos_token": "<|begin_of_text|>",
    "eos_token": "<|end_of_text|>",
}
"""Named as in Llama 3."""

_CHAT_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_BYTES = 256
_DOCUMENTS_AT_ONCE = 2048


def train_tokenizer(
    documents: Iterable[str], vocab_size: int, *, max_tokens: int = 512
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with the special tokens of Llama 3.

    Any text can be written in its bytes, so that there is no unknown token. A text begins with
    ``<|begin_of_text|>``; padding goes to the left, as decoders want it.

    Args:
        documents: What to learn from.
        vocab_size: Tokens at most, special ones included; at least 262, the bytes and the special tokens.
        max_tokens: Longest input of the model.

    Returns:
        The tokenizer.

    Raises:
        ArgumentError: If ``vocab_size`` is too small.

    Example:
        >>> tokenizer = train_tokenizer(["an arrow", "two arrows"], 270)
        >>> tokenizer.decode(tokenizer("arrow ➳")["input_ids"], skip_special_tokens=True)
        'arrow ➳'
    """
    special = [*SPECIAL_TOKENS.values(), *_CHAT_TOKENS]
    lowest = _BYTES + len(special)
    if not (isinstance(vocab_size, int) and vocab_size >= lowest):
        raise bad_argument("train_tokenizer", "vocab_size", f"an integer of at least {lowest}", vocab_size)
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    first = SPECIAL_TOKENS["bos_token"]
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{first} $A",
                pair=f"{first} $A {first} $B",
                special_tokens=[(first, tokenizer.token_to_id(first))],
            ),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_tokens,
        model_input_names=["input_ids", "attention_mask"],
        padding_side="left",
        additional_special_tokens=list(_CHAT_TOKENS),
        **SPECIAL_TOKENS,
    )


def pack_documents(tokenizer: Any, documents: Iterable[str]) -> NDArray[np.int32]:
    """Write documents one after another, each as begin, text, end.

    Args:
        tokenizer: What ``train_tokenizer`` returns.
        documents: The texts.

    Returns:
        Token ids, shape ``(tokens of all documents,)``.
    """
    parts: list[NDArray[np.int32]] = []
    for batch in _batch(documents):
        for ids in tokenizer(batch, return_attention_mask=False, verbose=False)["input_ids"]:
            parts.append(np.array([*ids, tokenizer.eos_token_id], dtype=np.int32))
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)


def _batch(documents: Iterable[str]) -> Iterator[Sequence[str]]:
    waiting = iter(documents)
    while batch := list(islice(waiting, _DOCUMENTS_AT_ONCE)):
        yield batch
