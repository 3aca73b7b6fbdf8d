from __future__ import annotations

import pytest

from fletching.errors import ArgumentError
from fletching.search.fusion import fuse_rankings


def test_item_of_two_rankings_wins() -> None:
    """b: 1/(60+2) + 1/(60+1) = 0.0325; a: 1/61 = 0.0164; c: 1/62 = 0.0161."""
    fused = fuse_rankings([["a", "b"], ["b", "c"]])

    assert [item for item, _ in fused] == ["b", "a", "c"]
    assert [score for _, score in fused] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62])


def test_equal_scores_keep_the_order_in_which_they_are_seen() -> None:
    assert [item for item, _ in fuse_rankings([["a"], ["b"]])] == ["a", "b"]


@pytest.mark.parametrize("rankings", [[], [[], []]])
def test_nothing_gives_nothing(rankings: list[list[str]]) -> None:
    assert fuse_rankings(rankings) == []


@pytest.mark.parametrize("constant", [-1.0, float("nan")])
def test_constant_must_not_be_negative(constant: float) -> None:
    with pytest.raises(ArgumentError, match="fuse_rankings: `constant` must be not negative; got"):
        fuse_rankings([["a"]], constant=constant)
