"""Tiny embedders of many families, which the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from fletching.testing import TINY_ENCODERS, build_tiny_decoder, build_tiny_encoder, build_tiny_tokenizer
from fletching.testing.tiny import HIDDEN_SIZE, MAX_SEQ_LENGTH


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, by far where other tests run beside them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def save_family(
    folder: str | Path,
    family: str,
    *,
    pooling: str = "mean",
    normalize: bool = True,
    n_layers: int = 4,
    **options: Any,
) -> str:
    """Save an embedder on a tiny network of a family, as sentence-transformers does."""
    is_encoder = family in TINY_ENCODERS
    names = ["input_ids", *(["token_type_ids"] if family in ("bert", "albert") else []), "attention_mask"]
    tokenizer = build_tiny_tokenizer(model_input_names=names, padding_side="right" if is_encoder else "left")
    build = build_tiny_encoder if is_encoder else build_tiny_decoder
    network = build(family, vocab_size=len(tokenizer), num_hidden_layers=n_layers)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformer = Transformer(str(folder), max_seq_length=MAX_SEQ_LENGTH)
    modules = [transformer, Pooling(HIDDEN_SIZE, pooling), *([Normalize()] if normalize else [])]
    model = SentenceTransformer(modules=modules, device="cpu", **options)
    model.save(str(folder), create_model_card=False)
    return str(folder)


@pytest.fixture(scope="session")
def embedder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return the folder of a tiny embedder of a family, each saved once: do not write into it."""
    return cache(lambda family: save_family(tmp_path_factory.mktemp(family), family))


@pytest.fixture(scope="session")
def save_embedder() -> Callable[..., str]:
    """`save_family`, for test files, which cannot import this one."""
    return save_family
