"""T2Ranking in the registry."""

from fletching.hookspecs import hookimpl
from fletching.registry import MethodSpec


@hookimpl
def fletching_methods() -> list[MethodSpec]:
    """Return T2Ranking."""
    return [
        MethodSpec(
            name="t2ranking",
            kind="benchmark",
            title="T2Ranking",
            summary="Chinese passage ranking with graded judgements: loader, exact measures, baselines.",
            paper="2304.03679",
            fidelity="reconstruction",
            entry="fletching.methods.t2ranking.evaluation:T2RankingEvaluator",
            recipe="fletching.methods.t2ranking.recipe:T2RankingRecipe",
        )
    ]
