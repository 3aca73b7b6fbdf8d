"""The examples of the docstrings, in modules imported under their own names."""

from __future__ import annotations

import doctest

from llama_index.postprocessor.fletching import base


def test_the_examples_are_true():
    result = doctest.testmod(base)
    assert result.attempted > 0
    assert result.failed == 0
