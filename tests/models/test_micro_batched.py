"""What embedders and rerankers do with text: precision, budgets, duplicates, the lock."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning

import numpy as np
import pytest
import torch

from fletching.errors import ArgumentError
from fletching.models.embedder import Embedder
from fletching.models.micro_batched import TokenizerLock
from fletching.models.reranker import Reranker
from fletching.testing import save_tiny_cross_encoder, save_tiny_embedder

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


# --- the lock ---


def test_tokenization_waits_for_the_lock(folder):
    model = Embedder(folder, device="cpu")
    with ThreadPoolExecutor(1) as threads:
        with model._tokenizer_lock:
            waiting = threads.submit(model.encode, "wood")
            with pytest.raises(StillRunning):
                waiting.result(timeout=0.2)
        assert waiting.result(timeout=30).shape == (32,)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda lock: pickle.loads(pickle.dumps(lock))])
def test_a_copied_lock_is_free(copied):
    lock = TokenizerLock()
    with lock:
        twin = copied(lock)
    with ThreadPoolExecutor(1) as threads, lock:
        assert threads.submit(lambda: twin.__enter__()).result(timeout=5) is None
