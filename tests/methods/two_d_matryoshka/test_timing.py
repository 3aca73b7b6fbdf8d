from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn
from transformers import BertConfig, BertModel

from fletching.errors import ArgumentError
from fletching.methods.two_d_matryoshka import ElasticEmbedder
from fletching.methods.two_d_matryoshka.sizes import open_elastic
from fletching.methods.two_d_matryoshka.timing import describe_device, time_depths
from fletching.testing import build_tiny_tokenizer, save_tiny_embedder


class Clock(nn.Module):
    """A model for which every layer takes a second, by the clock that it turns."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.calls: list[int] = []
        self.shapes: set[tuple[int, ...]] = set()
        self.extra = iter([0.0] * 4 + [9.0] + [0.0] * 99)  # the fifth call is disturbed

    def preprocess(self, texts: list[str], *, task: str) -> dict[str, Any]:
        assert task == "query"
        length = max(len(text.split()) for text in texts) + 2
        ids = torch.ones(len(texts), length, dtype=torch.long)
        return {"input_ids": ids, "attention_mask": ids, "modality": "text"}

    def forward(self, features: dict[str, Any], *, num_layers: int, task: str) -> None:
        assert task == "query"
        self.calls.append(num_layers)
        self.shapes |= {tuple(features[name].shape) for name in ("input_ids", "attention_mask")}
        self.now += num_layers + next(self.extra)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    model = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: model.now)
    return model


def test_timing_takes_the_median_of_five_interleaved_rounds_after_two(clock: Clock) -> None:
    """The disturbed call is one of the five that count for depth 2, and no median moves."""
    found, n_tokens = time_depths(clock, [2, 4], batch_size=3, n_tokens=7)
    assert clock.calls == [2, 4] * 7
    assert found == {2: 2000.0, 4: 4000.0}
    assert (n_tokens, clock.shapes) == (7, {(3, 7)})


def test_timing_leaves_the_mode_as_it_was(clock: Clock) -> None:
    time_depths(clock.train(), [1])
    assert clock.training
    time_depths(clock.eval(), [1])
    assert not clock.training


def test_timing_needs_tokens(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "preprocess", lambda texts, task: {"pixel_values": torch.ones(1, 3)})
    with pytest.raises(ArgumentError, match="reads text as tokens; got 'Clock'"):
        time_depths(clock, [1])


def test_timing_keeps_to_the_window(tmp_path: Any) -> None:
    model = ElasticEmbedder(save_tiny_embedder(tmp_path / "model"), device="cpu")
    found, n_tokens = time_depths(model, [1, 2], batch_size=2, n_tokens=10_000)
    assert n_tokens == model.max_seq_length
    assert set(found) == {1, 2}
    assert min(found.values()) > 0


def test_device_is_told(clock: Clock) -> None:
    n_threads = torch.get_num_threads()
    assert describe_device(clock) == f"cpu, {n_threads} thread{'s' if n_threads > 1 else ''}, float32"


@pytest.mark.slow
def test_half_the_layers_take_less_than_seven_tenths_of_the_time(tmp_path: Any) -> None:
    """What must hold, 10, on a network in which the layers are most of the work, as in any real encoder."""
    tokenizer = build_tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=4,
    )
    BertModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    stock = SentenceTransformer(modules=[Transformer(str(tmp_path)), Pooling(256, "mean")], device="cpu")
    found, _ = time_depths(open_elastic("here", stock), [3, 6], batch_size=8, n_tokens=48)
    assert found[3] < 0.7 * found[6]
