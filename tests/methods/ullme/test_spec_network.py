"""What must hold of the network: items 1 and 2 of the specification, for every family, through the module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fletching.methods.ullme.modules import LLMTransformer
from fletching.testing import EAGER_DECODERS, TINY_DECODERS

FAMILIES = [
    (family, attention)
    for family in TINY_DECODERS
    for attention in ("eager", "sdpa")
    if not (attention == "sdpa" and family in EAGER_DECODERS)
]
TEXT = [20, 7, 31, 4, 16]
OTHER_END = [20, 7, 31, 4, 44]


@pytest.fixture
def open_network(get_network: Any) -> Iterator[Any]:
    changed: list[tuple[LLMTransformer, str]] = []

    def open_(family: str, *, attention: str | None = None, causal: bool = False) -> LLMTransformer:
        network = get_network(family)
        changed.append((network, network.model.config._attn_implementation))
        network.causal = causal
        if attention is not None:
            network.model.set_attn_implementation(attention)
        return network

    yield open_
    for network, attention in changed:
        network.causal = False
        network.model.set_attn_implementation(attention)


def read(network: LLMTransformer, ids: list[int], *, left: int = 0, right: int = 0) -> Tensor:
    """States of the tokens, with padding around them."""
    features = {
        "input_ids": torch.tensor([[3] * left + ids + [3] * right]),
        "attention_mask": torch.tensor([[0] * left + [1] * len(ids) + [0] * right]),
    }
    with torch.no_grad():
        return network(features)["token_embeddings"][0, left : left + len(ids)]


def read_plain(network: LLMTransformer, ids: list[int]) -> Tensor:
    """States of the model as transformers runs it."""
    with torch.no_grad():
        states: Tensor = network.model.base_model(input_ids=torch.tensor([ids]), use_cache=False)[0][0]
    return states


@pytest.mark.parametrize(("family", "attention"), FAMILIES, ids=str)
def test_item_1_the_first_token_sees_the_last_one_and_causal_is_restored(open_network, family, attention):
    """A bidirectional first state moves by more than 1e-6, a causal one not at all."""
    network = open_network(family, attention=attention)
    paddings: list[dict[str, int]] = [{}, {"left": 3}, {"right": 3}]
    untouched = read_plain(network, TEXT)
    network.causal = True
    causal = [read(network, TEXT, **padding) for padding in paddings]
    for padding, before in zip(paddings, causal, strict=True):
        network.causal = False
        moved = (read(network, TEXT, **padding)[0] - read(network, OTHER_END, **padding)[0]).abs().max()
        assert moved > 1e-6
        network.causal = True
        assert torch.equal(read(network, TEXT, **padding), before)
        assert torch.equal(read(network, OTHER_END, **padding)[:-1], before[:-1])
    assert torch.equal(read_plain(network, TEXT), untouched)
    assert "is_causal" not in network.model.config.to_dict()


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("family", TINY_DECODERS)
def test_item_2_padding_on_either_side_changes_nothing(open_network, family, causal):
    """Less than 2e-6 of the largest state (here about 3), float32; learned positions by their position ids.

    The bound is relative, since one in the last place of a 3 is 2.4e-7, and processors round differently.
    """
    network = open_network(family, causal=causal)
    bare = read(network, TEXT)
    for padding in ({"left": 4}, {"right": 4}, {"left": 2, "right": 1}):
        assert (read(network, TEXT, **padding) - bare).abs().max() < 2e-6 * bare.abs().max()


def test_item_2_learned_positions_need_position_ids(open_network, monkeypatch):
    network = open_network("gpt2")
    bare = read(network, TEXT)
    monkeypatch.setattr(network, "_takes_positions", False)
    assert (read(network, TEXT, left=4) - bare).abs().max() > 1e-3
