"""Multi-CPR: Chinese passage retrieval in three domains (Long et al., SIGIR 2022, arXiv 2203.03367).

About a million passages each of e-commerce, entertainment video and medicine, with one judged passage for
each query. Here are the loader, the exact measures, the baselines as a recipe, and the paper's central table:
trained on one domain, evaluated on all three.

Map of the folder, in reading order:

- `data.py`: :class:`MultiCPRDataset`; `counts.py`: what the official files hold
- `functional.py`: scores and the loss
- `evaluation.py`: search, the measures, and :class:`MultiCPREvaluator`
- `negatives.py`: pools and groups of the reranker; `config.py`, `training.py`, `recipe.py`:
  :class:`MultiCPRRecipe`
- `pretraining.py`: BERT-CT, continued pre-training on the passages
- `domains.py`: :func:`evaluate_domains` and :func:`train_domains`
- `synthetic.py`: made-up collections in the same layout
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.methods.multi_cpr.config import DOMAINS as DOMAINS
    from fletching.methods.multi_cpr.config import MultiCPRConfig as MultiCPRConfig
    from fletching.methods.multi_cpr.data import MultiCPRDataset as MultiCPRDataset
    from fletching.methods.multi_cpr.data import QueryKey as QueryKey
    from fletching.methods.multi_cpr.domains import DomainTable as DomainTable
    from fletching.methods.multi_cpr.domains import evaluate_domains as evaluate_domains
    from fletching.methods.multi_cpr.domains import plot_domains as plot_domains
    from fletching.methods.multi_cpr.domains import train_domains as train_domains
    from fletching.methods.multi_cpr.evaluation import MultiCPREvaluator as MultiCPREvaluator
    from fletching.methods.multi_cpr.evaluation import measure_rankings as measure_rankings
    from fletching.methods.multi_cpr.evaluation import read_rankings as read_rankings
    from fletching.methods.multi_cpr.pretraining import pretrain_on_passages as pretrain_on_passages
    from fletching.methods.multi_cpr.recipe import MultiCPRRecipe as MultiCPRRecipe
    from fletching.methods.multi_cpr.synthetic import write_synthetic as write_synthetic

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "DOMAINS": "fletching.methods.multi_cpr.config:DOMAINS",
        "DomainTable": "fletching.methods.multi_cpr.domains:DomainTable",
        "MultiCPRConfig": "fletching.methods.multi_cpr.config:MultiCPRConfig",
        "MultiCPRDataset": "fletching.methods.multi_cpr.data:MultiCPRDataset",
        "MultiCPREvaluator": "fletching.methods.multi_cpr.evaluation:MultiCPREvaluator",
        "MultiCPRRecipe": "fletching.methods.multi_cpr.recipe:MultiCPRRecipe",
        "QueryKey": "fletching.methods.multi_cpr.data:QueryKey",
        "evaluate_domains": "fletching.methods.multi_cpr.domains:evaluate_domains",
        "measure_rankings": "fletching.methods.multi_cpr.evaluation:measure_rankings",
        "plot_domains": "fletching.methods.multi_cpr.domains:plot_domains",
        "pretrain_on_passages": "fletching.methods.multi_cpr.pretraining:pretrain_on_passages",
        "read_rankings": "fletching.methods.multi_cpr.evaluation:read_rankings",
        "train_domains": "fletching.methods.multi_cpr.domains:train_domains",
        "write_synthetic": "fletching.methods.multi_cpr.synthetic:write_synthetic",
    },
)
