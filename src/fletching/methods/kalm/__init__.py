"""KaLM-Embedding-V2: a 0.5B general embedder and how it is trained (Zhao et al., arXiv 2506.20923).

A Qwen2 without its causal mask, mean pooling, and an instruction before each query. Training weighs hard rows
up (focal weights), mixes hard negatives on the fly, trains several widths at once (Matryoshka), and ends with
the mean of several models (V2) or with the scores of a large teacher (V2.5).

Map of the folder, in reading order:

- `config.py`: the prompts, the options of the loss, the hyper-parameters of the stages, and their sources
- `checkpoints.py`: which checkpoints are KaLM-Embedding's, which are causal, and what V2.5 computes
- `model.py`: :class:`KaLMEmbedder`, what users call
- `functional.py`: the equations of the loss
- `losses.py`: :class:`KaLMLoss`
- `data.py`: rows, from files or from labelled texts
- `mining.py`: rows that the last model does not understand leave, hard negatives come
- `batching.py`: :class:`TaskBatching`, batches from one task each, or nearly so
- `soup.py`: :func:`model_soup`, the mean of several models
- `evaluation.py`: search among the texts of rows
- `recipe.py`, `stages.py`: the whole training; `synthetic.py`: made-up rows for first tries
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.methods.kalm.batching import TaskBatching as TaskBatching
    from fletching.methods.kalm.batching import TaskBatchSampler as TaskBatchSampler
    from fletching.methods.kalm.checkpoints import PUBLISHED as PUBLISHED
    from fletching.methods.kalm.checkpoints import check_conformance as check_conformance
    from fletching.methods.kalm.config import INSTRUCTIONS as INSTRUCTIONS
    from fletching.methods.kalm.config import SYMMETRIC as SYMMETRIC
    from fletching.methods.kalm.config import TEMPLATE as TEMPLATE
    from fletching.methods.kalm.config import KaLMConfig as KaLMConfig
    from fletching.methods.kalm.config import KaLMLossOptions as KaLMLossOptions
    from fletching.methods.kalm.config import MixingOptions as MixingOptions
    from fletching.methods.kalm.config import fill_template as fill_template
    from fletching.methods.kalm.data import KaLMRow as KaLMRow
    from fletching.methods.kalm.data import RowSampler as RowSampler
    from fletching.methods.kalm.data import build_label_rows as build_label_rows
    from fletching.methods.kalm.data import read_rows as read_rows
    from fletching.methods.kalm.data import write_rows as write_rows
    from fletching.methods.kalm.losses import KaLMLoss as KaLMLoss
    from fletching.methods.kalm.mining import mine_rows as mine_rows
    from fletching.methods.kalm.mining import score_rows as score_rows
    from fletching.methods.kalm.model import KaLMEmbedder as KaLMEmbedder
    from fletching.methods.kalm.recipe import KaLMRecipe as KaLMRecipe
    from fletching.methods.kalm.soup import model_soup as model_soup

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "INSTRUCTIONS": "fletching.methods.kalm.config:INSTRUCTIONS",
        "KaLMConfig": "fletching.methods.kalm.config:KaLMConfig",
        "KaLMEmbedder": "fletching.methods.kalm.model:KaLMEmbedder",
        "KaLMLoss": "fletching.methods.kalm.losses:KaLMLoss",
        "KaLMLossOptions": "fletching.methods.kalm.config:KaLMLossOptions",
        "KaLMRecipe": "fletching.methods.kalm.recipe:KaLMRecipe",
        "KaLMRow": "fletching.methods.kalm.data:KaLMRow",
        "MixingOptions": "fletching.methods.kalm.config:MixingOptions",
        "PUBLISHED": "fletching.methods.kalm.checkpoints:PUBLISHED",
        "RowSampler": "fletching.methods.kalm.data:RowSampler",
        "SYMMETRIC": "fletching.methods.kalm.config:SYMMETRIC",
        "TEMPLATE": "fletching.methods.kalm.config:TEMPLATE",
        "TaskBatchSampler": "fletching.methods.kalm.batching:TaskBatchSampler",
        "TaskBatching": "fletching.methods.kalm.batching:TaskBatching",
        "build_label_rows": "fletching.methods.kalm.data:build_label_rows",
        "check_conformance": "fletching.methods.kalm.checkpoints:check_conformance",
        "fill_template": "fletching.methods.kalm.config:fill_template",
        "mine_rows": "fletching.methods.kalm.mining:mine_rows",
        "model_soup": "fletching.methods.kalm.soup:model_soup",
        "read_rows": "fletching.methods.kalm.data:read_rows",
        "score_rows": "fletching.methods.kalm.mining:score_rows",
        "write_rows": "fletching.methods.kalm.data:write_rows",
    },
)
