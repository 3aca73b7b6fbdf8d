"""LIMIT in the registry."""

from fletching.hookspecs import hookimpl
from fletching.registry import MethodSpec


@hookimpl
def fletching_methods() -> list[MethodSpec]:
    """Return LIMIT."""
    return [
        MethodSpec(
            name="limit",
            kind="benchmark",
            title="LIMIT",
            summary="How many top-k sets a single vector can return: bounds, experiments, data, recall.",
            paper="2508.21038",
            fidelity="paper+code",
            entry="fletching.methods.limit.evaluation:LimitEvaluator",
        )
    ]
