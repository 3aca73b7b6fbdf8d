"""The embedders of fletching as a LlamaIndex embedding model.

- `base.py`: `FletchingEmbedding`
- `cache.py`: keys and entries of its embedding cache
"""

from llama_index.embeddings.fletching.base import FletchingEmbedding

__all__ = ["FletchingEmbedding"]
