"""The rerankers of fletching as a LlamaIndex node postprocessor.

- `base.py`: `FletchingRerank`
"""

from llama_index.postprocessor.fletching.base import FletchingRerank

__all__ = ["FletchingRerank"]
