"""Tiny decoders for the tests of everything that acts on a model from outside."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from transformers import PreTrainedModel

from fletching.testing import build_tiny_decoder

TinyDecoders = Callable[..., PreTrainedModel]


@pytest.fixture(scope="session")
def tiny_decoder() -> TinyDecoders:
    """Hand out tiny decoders by family and attention, each built once; leave them as you found them."""
    return cache(lambda family, attention="eager": build_tiny_decoder(family, attention=attention))
