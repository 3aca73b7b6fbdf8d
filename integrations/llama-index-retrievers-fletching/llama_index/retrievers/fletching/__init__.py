"""A folder searched by fletching, as a LlamaIndex retriever.

- `base.py`: `FletchingSearchRetriever`
"""

from llama_index.retrievers.fletching.base import FletchingSearchRetriever

__all__ = ["FletchingSearchRetriever"]
