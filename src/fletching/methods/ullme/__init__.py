"""ULLME: any causal language model as an embedder (Man et al., EMNLP 2024, arXiv 2408.03402).

Attention is switched to bidirectional to embed and is causal again to generate, from one set of weights. The
embedding is fine-tuned by contrastive, preference and supervised losses, and by GRL, which aligns the scores
of the embeddings with the language model's own likelihood of a passage given the query.

Map of the folder, in reading order:

- `config.py`: the choices and defaults of the network
- `templates.py`: the published templates, and which one a model gets
- `tokenization.py`: from texts and a template to tokens, with the place of each text
- `modules.py`: :class:`LLMTransformer`, tokens in, hidden states or likelihoods of tokens out
- `heads.py`: pooling that knows where the text begins, and the projection of the losses
- `adapters.py`: LoRA adapters that are added, switched for a block, and merged
- `model.py`: :class:`LLMEmbedder`, what users call
- `likelihood.py`, `reranker.py`: :class:`GenerativeReranker`, the likelihood of a passage as its score
- `functional.py`: the equations of the losses
- `settings.py`: :class:`GRLSettings`, every choice among them, with the source of its default
- `losses.py`: :class:`GRLLoss`, all of them, each with its weight
- `caching.py`: gradient caching, so that a large batch fits
- `data.py`: training rows, and how they are laid out for the loss
- `presets.py`, `training.py`, `evaluation.py`, `synthetic.py`: what the recipe is made of
- `recipe.py`: :class:`ULLMERecipe`, fine-tuning from start to end
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.methods.ullme.data import ULLMECollator as ULLMECollator
    from fletching.methods.ullme.losses import GRLLoss as GRLLoss
    from fletching.methods.ullme.model import LLMEmbedder as LLMEmbedder
    from fletching.methods.ullme.modules import LLMTransformer as LLMTransformer
    from fletching.methods.ullme.recipe import ULLMERecipe as ULLMERecipe
    from fletching.methods.ullme.reranker import GenerativeReranker as GenerativeReranker
    from fletching.methods.ullme.settings import GRLSettings as GRLSettings
    from fletching.methods.ullme.templates import TEMPLATES as TEMPLATES
    from fletching.methods.ullme.templates import Template as Template

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "GRLLoss": "fletching.methods.ullme.losses:GRLLoss",
        "GRLSettings": "fletching.methods.ullme.settings:GRLSettings",
        "GenerativeReranker": "fletching.methods.ullme.reranker:GenerativeReranker",
        "LLMEmbedder": "fletching.methods.ullme.model:LLMEmbedder",
        "LLMTransformer": "fletching.methods.ullme.modules:LLMTransformer",
        "TEMPLATES": "fletching.methods.ullme.templates:TEMPLATES",
        "Template": "fletching.methods.ullme.templates:Template",
        "ULLMECollator": "fletching.methods.ullme.data:ULLMECollator",
        "ULLMERecipe": "fletching.methods.ullme.recipe:ULLMERecipe",
    },
)
