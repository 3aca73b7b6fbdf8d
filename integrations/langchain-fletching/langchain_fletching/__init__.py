"""The rerankers and embedders of fletching in LangChain.

- `compressors.py`: `FletchingReranker`, reorders the documents of any retriever
- `embeddings.py`: `FletchingEmbeddings`, for any vector store
- `retrievers.py`: `FletchingRetriever`, fetches from a vector store or a retriever and reranks;
  `FletchingSearchRetriever`, searches a folder
- `_model.py`: what they share: which model they use, how it is opened, how documents are scored

Importing this package loads neither torch nor a model; an adapter opens its model on first use.
"""

from langchain_fletching.compressors import FletchingReranker
from langchain_fletching.embeddings import FletchingEmbeddings
from langchain_fletching.retrievers import FletchingRetriever, FletchingSearchRetriever

__all__ = ["FletchingEmbeddings", "FletchingReranker", "FletchingRetriever", "FletchingSearchRetriever"]
