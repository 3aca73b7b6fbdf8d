"""Models on data, measured: quality with intervals, and what it cost.

- `data_set.py`: judged queries, passages and candidates, read from any layout that `fletching.data` knows
- `comparison.py`: `evaluate`, several systems side by side; `results.py`: what comes out
- `systems.py`: from what a user names to a system; `interface.py`: what every system can be asked;
  `answering.py`: runs, BM25, rerankers; `encoding.py`: embedders of all families, and `vectors.py`, what they
  make of texts; `streaming.py`: dense search of many queries, which keeps no vector of a passage
- `bm25.py`: word overlap
- `sts.py`: the same for sentence pairs
- `report.py`: rows, JSON, CSV, files; `plots.py`: one figure
- `costs.py`: time, tokens, memory; `cache.py`: what was answered already
- `audit/`: what a model should not mind, tried
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.evaluation.bm25 import BM25 as BM25
    from fletching.evaluation.comparison import evaluate as evaluate
    from fletching.evaluation.data_set import EvaluationSet as EvaluationSet
    from fletching.evaluation.data_set import STSSet as STSSet
    from fletching.evaluation.data_set import read_evaluation_set as read_evaluation_set
    from fletching.evaluation.interface import System as System
    from fletching.evaluation.plots import plot_comparison as plot_comparison
    from fletching.evaluation.report import describe_results as describe_results
    from fletching.evaluation.report import save_comparison as save_comparison
    from fletching.evaluation.results import Comparison as Comparison
    from fletching.evaluation.results import Cost as Cost
    from fletching.evaluation.results import Difference as Difference
    from fletching.evaluation.results import SystemResult as SystemResult
    from fletching.evaluation.sts import evaluate_sts as evaluate_sts
    from fletching.evaluation.systems import find_system_kind as find_system_kind
    from fletching.evaluation.systems import open_system as open_system

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "BM25": "fletching.evaluation.bm25:BM25",
        "Comparison": "fletching.evaluation.results:Comparison",
        "Cost": "fletching.evaluation.results:Cost",
        "Difference": "fletching.evaluation.results:Difference",
        "EvaluationSet": "fletching.evaluation.data_set:EvaluationSet",
        "STSSet": "fletching.evaluation.data_set:STSSet",
        "System": "fletching.evaluation.interface:System",
        "SystemResult": "fletching.evaluation.results:SystemResult",
        "describe_results": "fletching.evaluation.report:describe_results",
        "evaluate": "fletching.evaluation.comparison:evaluate",
        "evaluate_sts": "fletching.evaluation.sts:evaluate_sts",
        "find_system_kind": "fletching.evaluation.systems:find_system_kind",
        "open_system": "fletching.evaluation.systems:open_system",
        "plot_comparison": "fletching.evaluation.plots:plot_comparison",
        "read_evaluation_set": "fletching.evaluation.data_set:read_evaluation_set",
        "save_comparison": "fletching.evaluation.report:save_comparison",
    },
)
