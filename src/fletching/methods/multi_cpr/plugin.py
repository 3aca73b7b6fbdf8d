"""Multi-CPR in the registry."""

from fletching.hookspecs import hookimpl
from fletching.registry import MethodSpec


@hookimpl
def fletching_methods() -> list[MethodSpec]:
    """Return Multi-CPR."""
    return [
        MethodSpec(
            name="multi_cpr",
            kind="benchmark",
            title="Multi-CPR",
            summary="Chinese passages of e-commerce, video and medicine: loader, exact measures, baselines.",
            paper="2203.03367",
            fidelity="reconstruction",
            entry="fletching.methods.multi_cpr.evaluation:MultiCPREvaluator",
            recipe="fletching.methods.multi_cpr.recipe:MultiCPRRecipe",
        )
    ]
