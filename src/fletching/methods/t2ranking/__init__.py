"""T2Ranking: 2.3 million Chinese passages with graded judgements (SIGIR 2023, arXiv 2304.03679).

Questions from a search engine's log, passages of several engines, four levels of relevance. Here are the
loader, the exact measures, the authors' weights as models, and the baselines as a recipe.

Map of the folder, in reading order:

- `data.py`: :class:`T2RankingDataset`, the files; `negatives.py`: :class:`StridedNegativeSampler`
- `functional.py`: levels to labels, the stride, the measures
- `evaluation.py`: :class:`T2RankingEvaluator`, :class:`GradedRerankingEvaluator`
- `model.py`: the networks of the baselines; `weights.py`: the authors' weights in them
- `config.py`, `recipe.py`: :class:`T2RankingRecipe`; `stages.py`: its trained baselines
- `synthetic.py`: made-up collections in the same layout
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.methods.t2ranking.config import T2RankingConfig as T2RankingConfig
    from fletching.methods.t2ranking.data import T2RankingDataset as T2RankingDataset
    from fletching.methods.t2ranking.evaluation import GradedRerankingEvaluator as GradedRerankingEvaluator
    from fletching.methods.t2ranking.evaluation import T2RankingEvaluator as T2RankingEvaluator
    from fletching.methods.t2ranking.functional import measure_rankings as measure_rankings
    from fletching.methods.t2ranking.functional import sample_strided as sample_strided
    from fletching.methods.t2ranking.model import build_cross_encoder as build_cross_encoder
    from fletching.methods.t2ranking.model import build_dual_encoder as build_dual_encoder
    from fletching.methods.t2ranking.negatives import StridedNegativeSampler as StridedNegativeSampler
    from fletching.methods.t2ranking.recipe import T2RankingRecipe as T2RankingRecipe
    from fletching.methods.t2ranking.synthetic import write_synthetic as write_synthetic
    from fletching.methods.t2ranking.weights import load_weights as load_weights

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "GradedRerankingEvaluator": "fletching.methods.t2ranking.evaluation:GradedRerankingEvaluator",
        "StridedNegativeSampler": "fletching.methods.t2ranking.negatives:StridedNegativeSampler",
        "T2RankingConfig": "fletching.methods.t2ranking.config:T2RankingConfig",
        "T2RankingDataset": "fletching.methods.t2ranking.data:T2RankingDataset",
        "T2RankingEvaluator": "fletching.methods.t2ranking.evaluation:T2RankingEvaluator",
        "T2RankingRecipe": "fletching.methods.t2ranking.recipe:T2RankingRecipe",
        "build_cross_encoder": "fletching.methods.t2ranking.model:build_cross_encoder",
        "build_dual_encoder": "fletching.methods.t2ranking.model:build_dual_encoder",
        "load_weights": "fletching.methods.t2ranking.weights:load_weights",
        "measure_rankings": "fletching.methods.t2ranking.functional:measure_rankings",
        "sample_strided": "fletching.methods.t2ranking.functional:sample_strided",
        "write_synthetic": "fletching.methods.t2ranking.synthetic:write_synthetic",
    },
)
