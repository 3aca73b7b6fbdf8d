"""Ranked ids and grades in, numbers out; none of it knows models.

- `run_evaluation.py`: nDCG, recall, MRR and others of a run, query by query; `measures.py`: their names
- `resampling.py`: intervals and tests over queries
- `correlation.py`: for sentence pairs with a score
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.metrics.correlation import pearson as pearson
    from fletching.metrics.correlation import spearman as spearman
    from fletching.metrics.resampling import Interval as Interval
    from fletching.metrics.resampling import bootstrap_interval as bootstrap_interval
    from fletching.metrics.resampling import paired_bootstrap as paired_bootstrap
    from fletching.metrics.resampling import permutation_test as permutation_test
    from fletching.metrics.run_evaluation import RunEvaluation as RunEvaluation
    from fletching.metrics.run_evaluation import break_ties as break_ties
    from fletching.metrics.run_evaluation import evaluate_run as evaluate_run

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "Interval": "fletching.metrics.resampling:Interval",
        "RunEvaluation": "fletching.metrics.run_evaluation:RunEvaluation",
        "bootstrap_interval": "fletching.metrics.resampling:bootstrap_interval",
        "break_ties": "fletching.metrics.run_evaluation:break_ties",
        "evaluate_run": "fletching.metrics.run_evaluation:evaluate_run",
        "paired_bootstrap": "fletching.metrics.resampling:paired_bootstrap",
        "pearson": "fletching.metrics.correlation:pearson",
        "permutation_test": "fletching.metrics.resampling:permutation_test",
        "spearman": "fletching.metrics.correlation:spearman",
    },
)
