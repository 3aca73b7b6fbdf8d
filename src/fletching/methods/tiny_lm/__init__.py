"""Tiny language models: a tokenizer and a small decoder, trained from plain text on a CPU.

No research system: the ground that experiments with decoders stand on where none can be downloaded, in tests
and in teaching. The sizes follow the small end of Llama, the recipe what is common for models of this size.

Map of the folder, in reading order:

- `data.py`: documents out of files of text
- `tokenizer.py`: a byte-level tokenizer, and documents packed into one long row of tokens
- `recipe.py`: :class:`TinyLMRecipe`, what users call
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.methods.tiny_lm.data import read_documents as read_documents
    from fletching.methods.tiny_lm.recipe import TinyLMRecipe as TinyLMRecipe
    from fletching.methods.tiny_lm.recipe import measure_language_model as measure_language_model
    from fletching.methods.tiny_lm.tokenizer import train_tokenizer as train_tokenizer

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "TinyLMRecipe": "fletching.methods.tiny_lm.recipe:TinyLMRecipe",
        "measure_language_model": "fletching.methods.tiny_lm.recipe:measure_language_model",
        "read_documents": "fletching.methods.tiny_lm.data:read_documents",
        "train_tokenizer": "fletching.methods.tiny_lm.tokenizer:train_tokenizer",
    },
)
