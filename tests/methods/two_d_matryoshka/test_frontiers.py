from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fletching.errors import ArgumentError
from fletching.methods.two_d_matryoshka import Frontier, FrontierPoint
from fletching.methods.two_d_matryoshka.frontiers import mark_best

# layers, dimensions, score, latency: a toy of two depths and two widths
FULL = (4, 64, 0.80, 10.0)
DEEP_NARROW = (4, 16, 0.79, 10.0)
SHALLOW_WIDE = (2, 64, 0.70, 5.0)
SHALLOW_NARROW = (2, 16, 0.72, 5.0)


def build(*rows: tuple[int, int, float, float | None]) -> Frontier:
    full = rows[0][2]
    points = [
        FrontierPoint(n, d, score, None, None, score / full if full > 0 else None, latency, 4 * d)
        for n, d, score, latency in rows
    ]
    best = mark_best(points)
    points = [replace(point, is_best=found) for point, found in zip(points, best, strict=True)]
    return Frontier("toy", "pairs", "spearman", 7, tuple(points), "cpu", 8, 16)


@pytest.fixture
def toy() -> Frontier:
    return build(FULL, DEEP_NARROW, SHALLOW_WIDE, SHALLOW_NARROW)


def size(point: FrontierPoint) -> tuple[int, int]:
    return point.num_layers, point.truncate_dim


def test_pareto_drops_what_another_size_beats(toy: Frontier) -> None:
    """(2, 64) has a lower score than (2, 16), which is as fast and smaller; the others each win in one."""
    assert [size(point) for point in toy.pareto()] == [(4, 64), (4, 16), (2, 16)]


def test_pareto_takes_layers_where_latency_was_not_measured() -> None:
    points = build((4, 64, 0.8, None), (2, 64, 0.7, None), (4, 16, 0.7, None), (2, 16, 0.7, None)).points
    assert [point.is_best for point in points] == [True, False, False, True]


def test_pareto_keeps_sizes_that_are_equal_in_everything() -> None:
    """Neither is strictly better than the other."""
    points = build((4, 64, 0.8, 5.0), (2, 64, 0.8, 5.0)).points
    assert [point.is_best for point in points] == [True, True]


@pytest.mark.parametrize(
    ("wish", "chosen"),
    [
        ({}, (4, 16)),  # 0.98 * 0.80 = 0.784: the narrower of the two that have it
        ({"relative_quality": 1.0}, (4, 64)),
        ({"relative_quality": 0.89}, (2, 16)),  # 0.712: the fastest that has it
        ({"min_score": 0.7}, (2, 16)),  # of two that are as fast, the smaller
        ({"min_score": 0.75}, (4, 16)),
        ({"max_latency_ms": 5.0}, (2, 16)),  # the best within the limit
        ({"max_latency_ms": 9.9, "min_score": 0.5}, (2, 16)),
        ({"max_bytes": 256}, (4, 64)),
        ({"max_bytes": 255}, (4, 16)),
        ({"max_bytes": 64, "max_latency_ms": 6}, (2, 16)),
        ({"min_score": 0.7, "relative_quality": 0.98}, (4, 16)),  # both hold
    ],
)
def test_select_takes_the_cheapest_or_the_best(
    toy: Frontier, wish: dict[str, float], chosen: tuple[int, int]
) -> None:
    assert size(toy.select(**wish)) == chosen  # type: ignore[arg-type]


def test_select_may_prefer_bytes() -> None:
    found = build((4, 64, 0.8, 10.0), (4, 16, 0.79, 10.0), (2, 64, 0.79, 5.0))
    assert size(found.select(min_score=0.79)) == (2, 64)
    assert size(found.select(min_score=0.79, prefer="bytes")) == (4, 16)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (
            {"min_score": 0.9},
            r"no size of toy .* spearman of 0\.9000; the best has 0\.8000, with 4 layers and 64",
        ),
        ({"min_score": 0.75, "max_latency_ms": 6}, r"the best has 0\.7200, with 2 layers and 16 dim"),
        ({"max_latency_ms": 4}, r"`max_latency_ms` must be at least 5 ms"),
        ({"max_bytes": 63}, r"`max_bytes` must be at least 64"),
        ({"prefer": "speed"}, r"`prefer` must be one of 'latency', 'bytes'"),
    ],
)
def test_select_says_what_can_be_had(toy: Frontier, wish: dict[str, float], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        toy.select(**wish)  # type: ignore[arg-type]


def test_select_knows_no_latency_that_was_not_measured() -> None:
    found = build((4, 64, 0.8, None))
    with pytest.raises(ArgumentError, match="The latency was not measured"):
        found.select(max_latency_ms=5)


def test_select_knows_no_share_of_a_score_that_is_not_positive() -> None:
    found = build((4, 64, -0.1, 1.0), (2, 64, 0.3, 1.0))
    with pytest.raises(
        ArgumentError, match=r"left out where the full size's score is not positive; .* -0\.1"
    ):
        found.select()
    assert size(found.select(min_score=0.2)) == (2, 64)


def test_at_finds_a_size(toy: Frontier) -> None:
    assert toy.at(2, 16).score == 0.72
    with pytest.raises(
        ArgumentError, match=r"one of the layers \[2, 4\] with one of the dimensions \[16, 64\]"
    ):
        toy.at(3, 16)


def test_rows_are_sorted_by_score(toy: Frontier) -> None:
    rows = toy.rows()
    assert [row["spearman"] for row in rows] == [0.80, 0.79, 0.72, 0.70]
    assert rows[1] | {"relative_quality": 0.9875, "is_best": True, "bytes_per_vector": 64} == rows[1]


def test_describe_is_plain(toy: Frontier) -> None:
    found = json.loads(json.dumps(toy.describe()))
    assert (found["layers"], found["dims"], found["latency"]["tokens"]) == ([2, 4], [16, 64], 16)
    assert len(found["sizes"]) == 4
