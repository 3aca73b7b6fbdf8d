"""What a frontier found: quality, latency and bytes at every size, and which size to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fletching.errors import ArgumentError, bad_argument, bad_choice
from fletching.evaluation.results import Difference
from fletching.metrics import Interval

__all__ = ["RELATIVE_QUALITY", "Frontier", "FrontierPoint", "mark_best"]

RELATIVE_QUALITY = 0.98
"""Share of the full size's score that is asked for where nothing else is said."""

_OWNER = "Frontier.select"
_PREFERENCES = ("latency", "bytes")


@dataclass(frozen=True)
class FrontierPoint:
    """One size of a model.

    Args:
        num_layers: Layers that run; as in ``encode(texts, num_layers=...)``.
        truncate_dim: Numbers of a vector that are kept; as in ``encode(texts, truncate_dim=...)``.
        score: Quality.
        interval: The score with its bootstrap interval; ``None`` where an evaluator gives only the score.
        difference: The score minus that of the full size, on the same queries or pairs; ``None`` likewise,
            and for the full size itself.
        relative_quality: The score as a share of that of the full size; ``None`` where that is not positive.
        latency_ms: Milliseconds of one batch; ``None`` where it was not measured.
        bytes_per_vector: What an index stores for one text.
        is_best: Whether it is on the frontier: no other size is at least as good, as fast and as small, and
            better in one of the three.
    """

    num_layers: int
    truncate_dim: int
    score: float
    interval: Interval | None
    difference: Difference | None
    relative_quality: float | None
    latency_ms: float | None
    bytes_per_vector: int
    is_best: bool = False


@dataclass(frozen=True)
class Frontier:
    """Quality, latency and bytes of a model at all sizes of a grid.

    Args:
        model_name: What the user called the model.
        data_name: Name of the data set.
        measure: What the score is, such as ``"spearman"``.
        n_items: Queries or sentence pairs that were scored; ``None`` where an evaluator does not say.
        points: All sizes, the deepest and widest first.
        device: Where the model ran, such as ``"cpu, 2 threads"``.
        batch_size: Texts of the batch that was timed.
        n_tokens: Tokens of each of them.
        precision: Numbers that vectors are stored in.
        document_layers: Layers that ran for documents where only queries are cut; ``None`` where both are.
        notes: What else a reader of the figures should know, a sentence each.
    """

    model_name: str
    data_name: str
    measure: str
    n_items: int | None
    points: tuple[FrontierPoint, ...]
    device: str
    batch_size: int
    n_tokens: int
    precision: str = "float32"
    document_layers: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def full(self) -> FrontierPoint:
        """The full size, which the others are compared with."""
        return self.points[0]

    @property
    def layers(self) -> tuple[int, ...]:
        """The depths of the grid, rising."""
        return tuple(sorted({point.num_layers for point in self.points}))

    @property
    def dims(self) -> tuple[int, ...]:
        """The widths of the grid, rising."""
        return tuple(sorted({point.truncate_dim for point in self.points}))

    def pareto(self) -> tuple[FrontierPoint, ...]:
        """Take the sizes that no other one beats.

        Returns:
            Those whose `FrontierPoint.is_best` is set, the best score first.
        """
        return tuple(point for point in self.ranked() if point.is_best)

    def ranked(self) -> tuple[FrontierPoint, ...]:
        """Sort the sizes.

        Returns:
            All sizes, the best score first, of equal ones the cheapest.
        """
        return tuple(sorted(self.points, key=lambda point: (-point.score, *_costs(point))))

    def at(self, num_layers: int, truncate_dim: int) -> FrontierPoint:
        """Look a size up.

        Args:
            num_layers: Its layers.
            truncate_dim: Its dimensions.

        Returns:
            The size.

        Raises:
            ArgumentError: If the grid does not hold it.
        """
        for point in self.points:
            if (point.num_layers, point.truncate_dim) == (num_layers, truncate_dim):
                return point
        domain = f"one of the layers {list(self.layers)} with one of the dimensions {list(self.dims)}"
        raise bad_argument("Frontier.at", "num_layers, truncate_dim", domain, (num_layers, truncate_dim))

    def select(
        self,
        *,
        min_score: float | None = None,
        relative_quality: float | None = None,
        max_latency_ms: float | None = None,
        max_bytes: int | None = None,
        prefer: str = "latency",
    ) -> FrontierPoint:
        """Choose a size.

        Where quality is asked for, it is the cheapest size that meets everything; where only limits are
        given, it is the best within them. Scores are taken as they are, without their intervals.

        Args:
            min_score: Lowest score; ``None`` sets no limit.
            relative_quality: Lowest share of the full size's score; ``None`` sets no limit, or 0.98 where no
                other limit is given.
            max_latency_ms: Highest latency of the batch that was timed; ``None`` sets no limit.
            max_bytes: Most bytes for one vector; ``None`` sets no limit.
            prefer: What is cheapest: ``"latency"``, then bytes, or ``"bytes"``, then latency.

        Returns:
            The size.

        Raises:
            ArgumentError: If no size meets it all; the text says what can be had.
        """
        if prefer not in _PREFERENCES:
            raise bad_choice(_OWNER, "prefer", _PREFERENCES, prefer)
        if all(limit is None for limit in (min_score, relative_quality, max_latency_ms, max_bytes)):
            relative_quality = RELATIVE_QUALITY
        within = self._apply_limits(max_latency_ms, max_bytes)
        floor = self._find_floor(min_score, relative_quality)
        if floor is None:
            return min(within, key=lambda point: (-point.score, *_costs(point, prefer)))
        good = [point for point in within if point.score >= floor]
        if not good:
            best = max(within, key=lambda point: point.score)
            raise ArgumentError(
                f"{_OWNER}: no size of {self.model_name} within the limits has a {self.measure} of "
                f"{floor:.4f}; the best has {best.score:.4f}, with {best.num_layers} layers and "
                f"{best.truncate_dim} dimensions."
            )
        return min(good, key=lambda point: (*_costs(point, prefer), -point.score))

    def _apply_limits(self, max_latency_ms: float | None, max_bytes: int | None) -> list[FrontierPoint]:
        found = list(self.points)
        if max_latency_ms is not None:
            known = [point.latency_ms for point in found if point.latency_ms is not None]
            if not known:
                remedy = "The latency was not measured"
                raise bad_argument(_OWNER, "max_latency_ms", "left out", max_latency_ms, remedy)
            found = [point for point in found if point.latency_ms and point.latency_ms <= max_latency_ms]
            if not found:
                domain = f"at least {min(known):.3g} ms, what the fastest size takes"
                raise bad_argument(_OWNER, "max_latency_ms", domain, max_latency_ms)
        if max_bytes is not None:
            found = [point for point in found if point.bytes_per_vector <= max_bytes]
            if not found:
                least = min(point.bytes_per_vector for point in self.points)
                raise bad_argument(_OWNER, "max_bytes", f"at least {least}, the smallest vector", max_bytes)
        return found

    def _find_floor(self, min_score: float | None, relative_quality: float | None) -> float | None:
        floors = [] if min_score is None else [min_score]
        if relative_quality is not None:
            if self.full.score <= 0:
                remedy = f"The full size has a {self.measure} of {self.full.score:.4f}"
                domain = "left out where the full size's score is not positive"
                raise bad_argument(_OWNER, "relative_quality", domain, relative_quality, remedy)
            floors.append(relative_quality * self.full.score)
        return max(floors, default=None)

    def rows(self) -> list[dict[str, Any]]:
        """Make one flat row for each size, the best score first.

        Returns:
            Rows with the same columns, plain values; ``None`` for what is not known.
        """
        return [_describe(point, self.measure) for point in self.ranked()]

    def describe(self) -> dict[str, Any]:
        """Say everything in plain values, as ``fletching frontier --json`` prints it.

        Returns:
            What was measured and how, and the rows under ``"sizes"``.
        """
        return {
            "model": self.model_name,
            "data": self.data_name,
            "measure": self.measure,
            "items": self.n_items,
            "layers": list(self.layers),
            "dims": list(self.dims),
            "precision": self.precision,
            "document_layers": self.document_layers,
            "latency": {
                "device": self.device,
                "batch_size": self.batch_size,
                "tokens": self.n_tokens,
                "is_measured": self.full.latency_ms is not None,
            },
            "sizes": self.rows(),
            "notes": list(self.notes),
        }


def mark_best(points: Sequence[FrontierPoint]) -> list[bool]:
    """Say which sizes no other one beats.

    A size is beaten by one with a score at least as high, a latency at least as low and at most as many
    dimensions, if one of the three is strictly better. Where no latency is known, layers stand for it.

    Args:
        points: All sizes.

    Returns:
        One answer for each.
    """
    keys = [(-point.score, _latency(point), point.truncate_dim) for point in points]
    return [
        not any(
            other != key and all(theirs <= ours for theirs, ours in zip(other, key, strict=True))
            for other in keys
        )
        for key in keys
    ]


def _latency(point: FrontierPoint) -> float:
    return float(point.num_layers) if point.latency_ms is None else point.latency_ms


def _costs(point: FrontierPoint, prefer: str = "latency") -> tuple[float, float]:
    costs = (_latency(point), float(point.bytes_per_vector))
    return costs if prefer == "latency" else (costs[1], costs[0])


def _describe(point: FrontierPoint, measure: str) -> dict[str, Any]:
    interval, difference = point.interval, point.difference
    return {
        "num_layers": point.num_layers,
        "truncate_dim": point.truncate_dim,
        measure: point.score,
        f"{measure}_low": interval.low if interval else None,
        f"{measure}_high": interval.high if interval else None,
        "difference": difference.interval.mean if difference else None,
        "difference_low": difference.interval.low if difference else None,
        "difference_high": difference.interval.high if difference else None,
        "p_value": difference.p_value if difference else None,
        "relative_quality": point.relative_quality,
        "latency_ms": point.latency_ms,
        "bytes_per_vector": point.bytes_per_vector,
        "is_best": point.is_best,
    }
