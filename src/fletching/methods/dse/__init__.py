"""DSE: Distilled Sentence Embedding (Barkan et al., AAAI 2020, arXiv 1908.05161).

A siamese encoder turns each sentence into one vector; a small head reads pairs of vectors and has learned to
say what a cross-encoder says of the two sentences. Sentences are encoded once, pairs cost a few products.

Map of the folder, in reading order:

- `config.py`: what a student is made of and how it is trained, and the sources of the numbers
- `functional.py`: pooling, the features of a pair, the decomposition of the head
- `modules.py`: :class:`TopLayersPooling`, :class:`DSEPairHead`, and the transformer that reads both sentences
- `students.py`: a student put together around any encoder
- `encoding.py`: texts to vectors, whole or cut; those of documents are kept on disk
- `model.py`: :class:`DSEReranker`, what users call
- `losses.py`: :class:`DSELoss`
- `data.py`, `teachers.py`: tasks over pairs, and the logits of their teacher
- `evaluation.py`: :class:`DSEEvaluator`, and what a student has lost of its teacher's quality
- `recipe.py`, `stages.py`: :class:`DSERecipe`, the whole distillation; `synthetic.py`: pairs for first tries
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.methods.dse.config import DSEConfig as DSEConfig
    from fletching.methods.dse.data import LABELS as LABELS
    from fletching.methods.dse.data import PairRow as PairRow
    from fletching.methods.dse.data import build_dataset as build_dataset
    from fletching.methods.dse.data import read_pairs as read_pairs
    from fletching.methods.dse.evaluation import DSEEvaluator as DSEEvaluator
    from fletching.methods.dse.evaluation import measure_degradation as measure_degradation
    from fletching.methods.dse.losses import DSELoss as DSELoss
    from fletching.methods.dse.model import DSEReranker as DSEReranker
    from fletching.methods.dse.modules import DSEPairHead as DSEPairHead
    from fletching.methods.dse.modules import TopLayersPooling as TopLayersPooling
    from fletching.methods.dse.recipe import DSERecipe as DSERecipe
    from fletching.methods.dse.teachers import add_teacher_logits as add_teacher_logits

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "DSEConfig": "fletching.methods.dse.config:DSEConfig",
        "DSEEvaluator": "fletching.methods.dse.evaluation:DSEEvaluator",
        "DSELoss": "fletching.methods.dse.losses:DSELoss",
        "DSEPairHead": "fletching.methods.dse.modules:DSEPairHead",
        "DSERecipe": "fletching.methods.dse.recipe:DSERecipe",
        "DSEReranker": "fletching.methods.dse.model:DSEReranker",
        "LABELS": "fletching.methods.dse.data:LABELS",
        "PairRow": "fletching.methods.dse.data:PairRow",
        "TopLayersPooling": "fletching.methods.dse.modules:TopLayersPooling",
        "add_teacher_logits": "fletching.methods.dse.teachers:add_teacher_logits",
        "build_dataset": "fletching.methods.dse.data:build_dataset",
        "measure_degradation": "fletching.methods.dse.evaluation:measure_degradation",
        "read_pairs": "fletching.methods.dse.data:read_pairs",
    },
)
