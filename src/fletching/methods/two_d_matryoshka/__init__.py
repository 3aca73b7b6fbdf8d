"""2D Matryoshka: one embedder, cut after any layer and to any size (Li et al., arXiv 2402.14776).

Training looks at the vector after a random layer, whole and cut, beside that of the last layer (2DMSE), or at
all layers and one width (ESE, the Espresso revision of ICLR 2025). At use, layers that are not asked for are
not computed, and vectors are cut before they are stored.

Map of the folder, in reading order:

- `config.py`: what is trained by default, and what happens at sizes that were not
- `modules.py`: :class:`ElasticTransformer`, which runs as many layers as it is asked to
- `checkpoints.py`: which checkpoints say that they may be cut, and the released ones
- `model.py`: :class:`ElasticEmbedder`, what users call
- `truncation.py`: :func:`truncate_model`, a smaller model in a folder of stock modules
- `functional.py`: the equations of both objectives
- `batches.py`, `losses.py`: :class:`TwoDMatryoshkaLoss`; `angle.py`: the base loss of the authors
- `data.py`, `recipe.py`: training rows, and the whole training
- `depth_vectors.py`, `retrieval.py`, `timing.py`, `sizes.py`: quality and time at each size, from one pass
- `evaluation.py`: :class:`ElasticEvaluator`, any evaluator at every size
- `measuring.py`, `frontiers.py`, `plots.py`: :func:`frontier`, the sizes that are worth choosing
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.methods.two_d_matryoshka.angle import CombinedAnglELoss as CombinedAnglELoss
    from fletching.methods.two_d_matryoshka.checkpoints import PUBLISHED as PUBLISHED
    from fletching.methods.two_d_matryoshka.evaluation import ElasticEvaluator as ElasticEvaluator
    from fletching.methods.two_d_matryoshka.frontiers import Frontier as Frontier
    from fletching.methods.two_d_matryoshka.frontiers import FrontierPoint as FrontierPoint
    from fletching.methods.two_d_matryoshka.losses import TwoDMatryoshkaLoss as TwoDMatryoshkaLoss
    from fletching.methods.two_d_matryoshka.losses import (
        TwoDMatryoshkaLossOptions as TwoDMatryoshkaLossOptions,
    )
    from fletching.methods.two_d_matryoshka.measuring import frontier as frontier
    from fletching.methods.two_d_matryoshka.model import ElasticEmbedder as ElasticEmbedder
    from fletching.methods.two_d_matryoshka.modules import ElasticTransformer as ElasticTransformer
    from fletching.methods.two_d_matryoshka.plots import plot_frontier as plot_frontier
    from fletching.methods.two_d_matryoshka.recipe import TwoDMatryoshkaRecipe as TwoDMatryoshkaRecipe
    from fletching.methods.two_d_matryoshka.truncation import truncate_model as truncate_model

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "CombinedAnglELoss": "fletching.methods.two_d_matryoshka.angle:CombinedAnglELoss",
        "ElasticEmbedder": "fletching.methods.two_d_matryoshka.model:ElasticEmbedder",
        "ElasticEvaluator": "fletching.methods.two_d_matryoshka.evaluation:ElasticEvaluator",
        "ElasticTransformer": "fletching.methods.two_d_matryoshka.modules:ElasticTransformer",
        "Frontier": "fletching.methods.two_d_matryoshka.frontiers:Frontier",
        "FrontierPoint": "fletching.methods.two_d_matryoshka.frontiers:FrontierPoint",
        "PUBLISHED": "fletching.methods.two_d_matryoshka.checkpoints:PUBLISHED",
        "TwoDMatryoshkaLoss": "fletching.methods.two_d_matryoshka.losses:TwoDMatryoshkaLoss",
        "TwoDMatryoshkaLossOptions": "fletching.methods.two_d_matryoshka.losses:TwoDMatryoshkaLossOptions",
        "TwoDMatryoshkaRecipe": "fletching.methods.two_d_matryoshka.recipe:TwoDMatryoshkaRecipe",
        "frontier": "fletching.methods.two_d_matryoshka.measuring:frontier",
        "plot_frontier": "fletching.methods.two_d_matryoshka.plots:plot_frontier",
        "truncate_model": "fletching.methods.two_d_matryoshka.truncation:truncate_model",
    },
)
