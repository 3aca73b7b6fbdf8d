"""A command that can be interrupted in the middle of its work."""

from __future__ import annotations

import pytest

_SLOW = """
import signal
import time
from fletching.cli import main
from fletching.models.reranker import Reranker

def encode_slowly(self, features, **kwargs):
    print("ranking", flush=True)
    time.sleep(60)

Reranker.encode_rows = encode_slowly
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs without it
main()
"""


@pytest.fixture(scope="session")
def slow_fletching() -> str:
    """A script: ``fletching``, whose rerankers say "ranking" and then take a minute for each micro-batch."""
    return _SLOW
