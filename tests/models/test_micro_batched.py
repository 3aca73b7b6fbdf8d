"""What embedders and rerankers do with text: precision, budgets, duplicates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from fletching.errors import ArgumentError
from fletching.models import micro_batched
from fletching.models.embedder import Embedder
from fletching.models.reranker import Reranker
from fletching.testing import (
    build_tiny_decoder,
    build_tiny_tokenizer,
    save_tiny_cross_encoder,
    save_tiny_embedder,
)

TEXTS = ["wood", "The archer draws the bow.", "goose feathers in the wind", "wood", "nock", "string", "wood"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_embedder(tmp_path_factory.mktemp("embedder"))


@pytest.fixture(scope="module")
def reranker_folder(tmp_path_factory):
    return save_tiny_cross_encoder(tmp_path_factory.mktemp("reranker"))


def watch_batches(model):
    """Collect the shape of every micro-batch of token ids."""
    shapes = []
    model[0].register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0]["input_ids"].shape)))
    return shapes


@pytest.mark.parametrize("model_class", [Embedder, Reranker])
@pytest.mark.parametrize("options", [{}, {"modules": []}, {"model_name_or_path": ""}], ids=str)
def test_a_model_of_nothing_is_refused(model_class, options):
    with pytest.raises(ArgumentError, match="must be a folder or a hub id, unless `modules` are given"):
        model_class(**options)


# --- precision ---


def test_the_default_is_the_checkpoint_s_precision(folder):
    assert Embedder(folder, device="cpu").dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16], ids=str)
def test_every_weight_gets_the_dtype(folder, dtype):
    model = Embedder(folder, device="cpu", dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(("tiles", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_follows_the_hardware(folder, monkeypatch, tiles, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": tiles}, raising=False)
    assert Embedder(folder, device="cpu", dtype="auto").dtype == dtype


def test_a_bfloat16_embedder_gives_float32_vectors(folder):
    exact = Embedder(folder, device="cpu").encode(TEXTS)
    vectors = Embedder(folder, device="cpu", dtype="bfloat16").encode(TEXTS)
    assert vectors.dtype == np.float32
    assert (vectors * exact).sum(axis=1).min() > 0.99


def test_a_bfloat16_reranker_gives_float32_scores(reranker_folder):
    pairs = [("bow", text) for text in TEXTS]
    exact = Reranker(reranker_folder, device="cpu").predict(pairs)
    scores = Reranker(reranker_folder, device="cpu", dtype="bfloat16").predict(pairs)
    assert scores.dtype == np.float32
    assert np.abs(scores - exact).max() < 0.05


@pytest.mark.parametrize(
    "option", [{"dtype": "float8"}, {"max_tokens_per_batch": 0}], ids=lambda option: next(iter(option))
)
def test_a_bad_option_is_refused_before_anything_is_opened(option):
    with pytest.raises(ArgumentError, match=f"Embedder: `{next(iter(option))}` must be"):
        Embedder("no/such/folder", **option)


# --- batches ---


def test_batches_stay_within_the_budget_longest_first(folder):
    model = Embedder(folder, device="cpu", max_tokens_per_batch=40)
    shapes = watch_batches(model)
    model.encode(TEXTS)
    assert all(rows == 1 or rows * width <= 40 for rows, width in shapes)
    widths = [width for _, width in shapes]
    assert len(widths) > 1
    assert widths == sorted(widths, reverse=True)


def test_equal_texts_are_computed_once(folder):
    model = Embedder(folder, device="cpu")
    shapes = watch_batches(model)
    model.encode(TEXTS)
    assert sum(rows for rows, _ in shapes) == len(set(TEXTS))


def test_short_passages_do_not_pay_for_long_ones_of_another_list(reranker_folder):
    model = Reranker(reranker_folder, device="cpu", max_tokens_per_batch=60)
    shapes = watch_batches(model)
    model.rank_batch(["bow", "string"], [["wood", "goose feather " * 30], ["nock", "arrow"]])
    assert sorted(shapes)[-1] == (3, min(width for _, width in shapes))


def test_a_very_long_text_is_tokenized_apart():
    """Its padding would be that of 255 short ones: of a megabyte without a limit, gigabytes."""
    chunks = [*micro_batched._cut([2**20, *[4] * 300])]
    assert [len(chunk) for chunk in chunks] == [256, 44, 1]
    assert chunks[-1] == [0]


def test_padding_in_front_does_not_move_positions(tmp_path):
    """GPT-2 counts its positions from the first column, which is padding where another text is longer."""
    build_tiny_decoder("gpt2", vocab_size=200).save_pretrained(tmp_path)
    options = {"padding_side": "left", "model_input_names": ["input_ids", "attention_mask"]}
    build_tiny_tokenizer(**options).save_pretrained(tmp_path)
    modules = [Transformer(str(tmp_path)), Pooling(32, "lasttoken")]
    model = Embedder(modules=modules, device="cpu")
    assert model.encode(TEXTS) == pytest.approx(model.encode(TEXTS, batch_size=1), abs=1e-5)
