"""LIMIT: theoretical limits of single-vector retrieval (Weller, Boratko, Naim, Lee, arXiv 2508.21038).

A retriever with one vector of d dimensions for each text can return only some of the sets of k documents.
Here are the bounds, the experiment with free vectors, exact answers for given vectors, the data set, and an
evaluator.

Map of the folder, in reading order:

- `bounds.py`: bounds and the critical-n law; `functional.py`: the loss, overlap of relevance, the moment
  curve
- `free_vectors.py`, `config.py`: :func:`free_embeddings` and :func:`find_critical_n`
- `certificates.py`: :func:`capacity`, by linear programming
- `data.py`: :class:`LimitDataset`; `vocabulary.txt`: the words of generated data
- `baselines.py`, `evaluation.py`: :class:`LimitEvaluator`; `plots.py`: figures
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.methods.limit.baselines import BM25Baseline as BM25Baseline
    from fletching.methods.limit.baselines import ItemMatcher as ItemMatcher
    from fletching.methods.limit.baselines import RandomWordVectors as RandomWordVectors
    from fletching.methods.limit.baselines import compute_chance as compute_chance
    from fletching.methods.limit.bounds import critical_dim as critical_dim
    from fletching.methods.limit.bounds import critical_n as critical_n
    from fletching.methods.limit.bounds import max_docs as max_docs
    from fletching.methods.limit.bounds import min_dim as min_dim
    from fletching.methods.limit.certificates import Capacity as Capacity
    from fletching.methods.limit.certificates import capacity as capacity
    from fletching.methods.limit.certificates import find_query as find_query
    from fletching.methods.limit.config import FreeEmbeddingConfig as FreeEmbeddingConfig
    from fletching.methods.limit.data import LimitDataset as LimitDataset
    from fletching.methods.limit.evaluation import LimitEvaluator as LimitEvaluator
    from fletching.methods.limit.evaluation import measure_dimensions as measure_dimensions
    from fletching.methods.limit.free_vectors import CriticalSearch as CriticalSearch
    from fletching.methods.limit.free_vectors import FreeEmbeddings as FreeEmbeddings
    from fletching.methods.limit.free_vectors import find_critical_n as find_critical_n
    from fletching.methods.limit.free_vectors import free_embeddings as free_embeddings
    from fletching.methods.limit.functional import qrel_density as qrel_density
    from fletching.methods.limit.plots import plot_critical_n as plot_critical_n
    from fletching.methods.limit.plots import plot_dimension_bounds as plot_dimension_bounds
    from fletching.methods.limit.plots import plot_dimensions as plot_dimensions
    from fletching.methods.limit.plots import plot_margins as plot_margins

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "BM25Baseline": "fletching.methods.limit.baselines:BM25Baseline",
        "Capacity": "fletching.methods.limit.certificates:Capacity",
        "CriticalSearch": "fletching.methods.limit.free_vectors:CriticalSearch",
        "FreeEmbeddingConfig": "fletching.methods.limit.config:FreeEmbeddingConfig",
        "FreeEmbeddings": "fletching.methods.limit.free_vectors:FreeEmbeddings",
        "ItemMatcher": "fletching.methods.limit.baselines:ItemMatcher",
        "LimitDataset": "fletching.methods.limit.data:LimitDataset",
        "LimitEvaluator": "fletching.methods.limit.evaluation:LimitEvaluator",
        "RandomWordVectors": "fletching.methods.limit.baselines:RandomWordVectors",
        "capacity": "fletching.methods.limit.certificates:capacity",
        "compute_chance": "fletching.methods.limit.baselines:compute_chance",
        "critical_dim": "fletching.methods.limit.bounds:critical_dim",
        "critical_n": "fletching.methods.limit.bounds:critical_n",
        "find_critical_n": "fletching.methods.limit.free_vectors:find_critical_n",
        "find_query": "fletching.methods.limit.certificates:find_query",
        "free_embeddings": "fletching.methods.limit.free_vectors:free_embeddings",
        "max_docs": "fletching.methods.limit.bounds:max_docs",
        "measure_dimensions": "fletching.methods.limit.evaluation:measure_dimensions",
        "min_dim": "fletching.methods.limit.bounds:min_dim",
        "plot_critical_n": "fletching.methods.limit.plots:plot_critical_n",
        "plot_dimension_bounds": "fletching.methods.limit.plots:plot_dimension_bounds",
        "plot_dimensions": "fletching.methods.limit.plots:plot_dimensions",
        "plot_margins": "fletching.methods.limit.plots:plot_margins",
        "qrel_density": "fletching.methods.limit.functional:qrel_density",
    },
)
