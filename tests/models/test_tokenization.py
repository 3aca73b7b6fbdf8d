"""One thread at a time in a tokenizer, and how much of a text a model reads."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning

import pytest
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from fletching.models.embedder import Embedder
from fletching.models.tokenization import TokenizerLock, count_lost_tokens, count_positions
from fletching.testing import build_tiny_encoder, build_tiny_tokenizer, save_tiny_embedder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_embedder(tmp_path_factory.mktemp("embedder"))


@pytest.fixture
def save_without_limit(tmp_path):
    """Save an encoder whose tokenizer says nothing of a longest row."""

    def save(family):
        tokenizer = build_tiny_tokenizer(model_max_length=None)
        network = build_tiny_encoder(family, vocab_size=len(tokenizer))
        network.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return str(tmp_path)

    return save


# --- the lock ---


def test_models_that_share_a_tokenizer_share_the_lock(folder):
    model = Embedder(folder, device="cpu")
    assert Embedder(modules=[*model], device="cpu")._tokenizer_lock is model._tokenizer_lock
    assert Embedder(folder, device="cpu")._tokenizer_lock is not model._tokenizer_lock


def test_lost_tokens_are_counted_under_the_lock(folder):
    model = Embedder(folder, device="cpu")
    with ThreadPoolExecutor(1) as threads:
        with model._tokenizer_lock:
            waiting = threads.submit(count_lost_tokens, model, ["wood " * 50], ["bow"])
            with pytest.raises(StillRunning):
                waiting.result(timeout=0.2)
        assert waiting.result(timeout=30) == [50 + 1 + 3 - 48]  # words, query, special tokens; it reads 48


def test_lost_tokens_of_what_has_no_tokenizer_are_not_known():
    assert count_lost_tokens(object(), ["wood"]) is None


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


# --- what the network can number ---


@pytest.mark.parametrize(
    ("family", "positions"),
    [("bert", 96), ("roberta", 94), ("xlm-roberta", 94), ("modernbert", None)],
)
def test_positions_are_those_for_tokens(family, positions):
    """The table has 96 rows; RoBERTa begins to count behind the row of its padding, which is the second."""
    assert (
        count_positions(build_tiny_encoder(family, max_position_embeddings=96, pad_token_id=1)) == positions
    )


def test_a_text_beyond_the_positions_is_cut(save_without_limit):
    transformer = Transformer(save_without_limit("roberta"))
    model = Embedder(modules=[transformer, Pooling(32)], device="cpu")
    assert model.encode("wood " * 200).shape == (32,)
    assert model.count_lost_tokens(["wood " * 200]) == [202 - model.max_seq_length]
    assert model.max_seq_length == count_positions(transformer.model)
