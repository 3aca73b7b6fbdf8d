"""Lists short enough for tiny models."""

from __future__ import annotations

import random

import pytest

from fletching.data import CandidateList

WORDS = ("arrow", "bow", "string", "feather", "target", "wind", "wood", "goose", "shaft", "nock", "point")


@pytest.fixture(scope="session")
def lists() -> list[CandidateList]:
    """Five lists of eight passages, two of them relevant; no two passages are equal."""
    generator = random.Random(7)
    return [
        CandidateList(
            f"what is the {WORDS[place]}",
            tuple(" ".join([*generator.sample(WORDS, 1 + index % 5), str(index)]) for index in range(8)),
            tuple(float(index in (2, 5)) for index in range(8)),
        )
        for place in range(5)
    ]
