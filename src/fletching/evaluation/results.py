"""What an evaluation found, for one system and for several side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fletching.metrics import Interval, RunEvaluation

__all__ = ["Comparison", "Cost", "Difference", "SystemResult"]


@dataclass(frozen=True)
class Cost:
    """What the answers cost; ``None`` for what cannot be known, as of a run file.

    Args:
        latency_ms: Query id -> milliseconds from the query's text to its ranked ids, one query at a time.
        prepare_seconds: Once for all queries: embed or index the passages.
        tokens: Tokens that the networks read, special tokens included, for passages and queries.
        padding: Share of the positions that the networks computed which were padding, from 0 to 1.
        peak_memory_mib: Highest memory of the process, above what it held before the system was opened;
            of the accelerator where the model runs on one.
        bytes_per_vector: Bytes that an index stores for one passage, the mean; of a dense float32 vector
            4 * D.
        lost_tokens: Tokens of passages that were cut off.
    """

    latency_ms: Mapping[str, float] = field(default_factory=dict)
    prepare_seconds: float | None = None
    tokens: int | None = None
    padding: float | None = None
    peak_memory_mib: float | None = None
    bytes_per_vector: float | None = None
    lost_tokens: int | None = None


@dataclass(frozen=True)
class Difference:
    """A measure of a system minus that of the baseline, on the same queries.

    Args:
        interval: Mean difference, paired bootstrap.
        p_value: Paired permutation test, two-sided.
    """

    interval: Interval
    p_value: float

    @property
    def leaves_zero_out(self) -> bool:
        """Whether the interval speaks for a difference: zero is outside."""
        return not self.interval.low <= 0 <= self.interval.high


@dataclass(frozen=True)
class SystemResult:
    """One row of the table.

    Args:
        name: What the user called the system.
        kind: ``"run"``, ``"bm25"``, ``"embedder"``, ``"sparse"``, ``"multi_vector"``, ``"reranker"`` or
            ``"scorer"`` (an object that returns a matrix).
        fingerprint: Changes with whatever changes the scores.
        run: Query id -> document id -> score.
        evaluation: The per-query table.
        intervals: Measure -> mean and bootstrap interval.
        differences: Measure -> difference to the baseline; empty for the baseline itself.
        cost: What it cost.
        first_stage: Name of the system whose candidates it ordered; empty where it searched the corpus.
        first_stage_recall: Share of the relevant documents among the candidates: no order of them gets more;
            ``None`` without a first stage.
        from_cache: Whether an earlier run had computed it.
    """

    name: str
    kind: str
    fingerprint: str
    run: Mapping[str, Mapping[str, float]]
    evaluation: RunEvaluation
    intervals: Mapping[str, Interval]
    differences: Mapping[str, Difference]
    cost: Cost
    first_stage: str = ""
    first_stage_recall: float | None = None
    from_cache: bool = False


@dataclass(frozen=True)
class Comparison:
    """Systems side by side on the same queries.

    Args:
        data_name: Name of the data set.
        data_digest: Its digest.
        measures: Names, in the order of the table.
        baseline: Name of the system that the others are compared with.
        results: In the order asked for; the first stage, where there is one, comes first.
        skipped: What was left out of the data, and how many.
        order: How candidates were handed to rerankers: ``"first_stage"``, best first, or ``"shuffled"``.
        relevance_level: Lowest grade that binary measures count.
    """

    data_name: str
    data_digest: str
    measures: tuple[str, ...]
    baseline: str
    results: tuple[SystemResult, ...]
    skipped: Mapping[str, int]
    order: str = "first_stage"
    relevance_level: int = 1
