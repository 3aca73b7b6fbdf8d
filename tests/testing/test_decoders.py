"""Tiny decoders: the families they claim, the same for the same seed."""

from __future__ import annotations

import pytest
import torch

from fletching.errors import ArgumentError
from fletching.testing import (
    EAGER_DECODERS,
    SLIDING_DECODERS,
    TINY_DECODERS,
    build_tiny_decoder,
    build_tiny_decoder_config,
)


def test_there_are_at_least_twenty_families():
    model_types = {build_tiny_decoder_config(family).model_type for family in TINY_DECODERS}
    assert len(model_types) >= 20


@pytest.mark.parametrize("family", TINY_DECODERS)
def test_a_tiny_decoder_is_a_small_causal_model_of_its_family(family):
    """Changing the last token moves the last state alone."""
    model = build_tiny_decoder(family)
    assert model.config.model_type == build_tiny_decoder_config(family).model_type
    assert sum(parameter.numel() for parameter in model.parameters()) < 50_000
    with torch.no_grad():
        states = model(torch.tensor([[3, 4, 5, 6], [3, 4, 5, 7]])).last_hidden_state
    torch.testing.assert_close(states[0, :-1], states[1, :-1], atol=1e-5, rtol=0)
    assert (states[0, -1] - states[1, -1]).abs().max() > 1e-2


@pytest.mark.parametrize("family", TINY_DECODERS)
def test_the_seed_decides_the_weights_and_nothing_else(family):
    before = torch.get_rng_state()
    first, again, other = (
        torch.cat([each.flatten() for each in build_tiny_decoder(family, seed=seed).parameters()])
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("family", SLIDING_DECODERS)
def test_a_sliding_decoder_forgets_what_left_its_window(family):
    """One sliding layer, window 5: the last of six tokens no longer sees the first one."""
    changes = {"layer_types": ["sliding_attention"]} if family != "mistral-sliding" else {}
    model = build_tiny_decoder(family, num_hidden_layers=1, **changes)
    with torch.no_grad():
        states = model(torch.tensor([[3, 4, 5, 6, 7, 8], [9, 4, 5, 6, 7, 8]])).last_hidden_state
    torch.testing.assert_close(states[0, -1], states[1, -1], atol=1e-5, rtol=0)
    assert (states[0, -2] - states[1, -2]).abs().max() > 1e-4


@pytest.mark.parametrize("family", [name for name in TINY_DECODERS if name not in EAGER_DECODERS])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_tiny_decoder_runs_the_attention_it_is_asked_for(family, attention):
    assert build_tiny_decoder(family, attention=attention).config._attn_implementation == attention


def test_an_unknown_family_is_an_error():
    with pytest.raises(ArgumentError, match=r"`family` must be one of .*'llama'.* Did you mean 'qwen3'\?"):
        build_tiny_decoder("qwen33")


@pytest.mark.parametrize("family", EAGER_DECODERS)
def test_an_attention_the_family_lacks_is_an_error(family):
    with pytest.raises(ArgumentError, match="`attention` must be one of 'eager'; got 'sdpa'"):
        build_tiny_decoder(family, attention="sdpa")
