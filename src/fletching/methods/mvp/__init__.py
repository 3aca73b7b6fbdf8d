"""MVP: multi-view-guided passage reranking (Na, Kwon, Choi, Lee, EMNLP 2025, arXiv 2509.07485).

A whole candidate list is ranked in one pass: each passage is encoded alone into a few relevance vectors, one
per view; a decoder reads the list's vectors of a view into an anchor; a score is the mean over views of
anchor times vector.

Map of the folder, in reading order:

- `functional.py`: the equations
- `modules.py`: what all backbones share; `t5.py`: the paper's T5; `encoder.py`: ours, on any encoder
- `model.py`: :class:`MVPReranker`, what users call
- `losses.py`, `data.py`, `recipe.py`, `config.py`: training
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.methods.mvp.config import MVPConfig as MVPConfig
    from fletching.methods.mvp.losses import MVPLoss as MVPLoss
    from fletching.methods.mvp.model import MVPReranker as MVPReranker
    from fletching.methods.mvp.recipe import MVPRecipe as MVPRecipe

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "MVPConfig": "fletching.methods.mvp.config:MVPConfig",
        "MVPLoss": "fletching.methods.mvp.losses:MVPLoss",
        "MVPRecipe": "fletching.methods.mvp.recipe:MVPRecipe",
        "MVPReranker": "fletching.methods.mvp.model:MVPReranker",
    },
)
