"""Token Prepending: embeddings from any decoder without training (Fu et al., ACL 2025, arXiv 2412.11556).

One placeholder token stands in front of the sentence in a prompt such as ``This sentence : <PST> "..." means
in one word:"``. Before each of the first layers its hidden state is replaced by that of the last token, so
that the sentence's tokens, which see only what is before them, see a summary of the whole sentence. The
embedding is the last token's state at an intermediate layer.

Map of the folder, in reading order:

- `config.py`: the prompts, the published settings, and ours for every other model
- `functional.py`: the equations
- `sentences.py`: from a sentence to the text of a prompt
- `modules.py`: :class:`TokenPrependingTransformer`, tokens in, hidden states out
- `model.py`: :class:`TokenPrependingEmbedder`, what users call
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.methods.token_prepending.config import PROMPTS as PROMPTS
    from fletching.methods.token_prepending.config import PUBLISHED as PUBLISHED
    from fletching.methods.token_prepending.config import TokenPrependingConfig as TokenPrependingConfig
    from fletching.methods.token_prepending.model import TokenPrependingEmbedder as TokenPrependingEmbedder
    from fletching.methods.token_prepending.modules import (
        TokenPrependingTransformer as TokenPrependingTransformer,
    )

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "PROMPTS": "fletching.methods.token_prepending.config:PROMPTS",
        "PUBLISHED": "fletching.methods.token_prepending.config:PUBLISHED",
        "TokenPrependingConfig": "fletching.methods.token_prepending.config:TokenPrependingConfig",
        "TokenPrependingEmbedder": "fletching.methods.token_prepending.model:TokenPrependingEmbedder",
        "TokenPrependingTransformer": "fletching.methods.token_prepending.modules:TokenPrependingTransformer",
    },
)
