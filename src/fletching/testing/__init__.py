"""The kit for tests of methods and plug-ins: tiny models, and the promises as test suites to inherit.

- `tiny.py`: random models of a few thousand weights, the same for the same seed, built without a network
- `decoders.py`: tiny decoders of many families, for what hooks into any decoder
- `contracts/`: `RerankerContract` and `EmbedderContract`, pytest classes; `check_method`, for a whole method

A plug-in inherits the promises of every reranker in four lines::

    class TestMyReranker(RerankerContract):
        @classmethod
        def make_model(cls, folder):
            return MyReranker(save_tiny_cross_encoder(folder), device="cpu")

The contracts need pytest.
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.testing.contracts.embedder import EmbedderContract as EmbedderContract
    from fletching.testing.contracts.method import check_method as check_method
    from fletching.testing.contracts.reranker import RerankerContract as RerankerContract
    from fletching.testing.decoders import EAGER_DECODERS as EAGER_DECODERS
    from fletching.testing.decoders import SLIDING_DECODERS as SLIDING_DECODERS
    from fletching.testing.decoders import TINY_DECODERS as TINY_DECODERS
    from fletching.testing.decoders import build_tiny_decoder as build_tiny_decoder
    from fletching.testing.decoders import build_tiny_decoder_config as build_tiny_decoder_config
    from fletching.testing.encoders import TINY_ENCODERS as TINY_ENCODERS
    from fletching.testing.encoders import build_tiny_encoder as build_tiny_encoder
    from fletching.testing.tiny import build_tiny_qwen2_tokenizer as build_tiny_qwen2_tokenizer
    from fletching.testing.tiny import build_tiny_t5_tokenizer as build_tiny_t5_tokenizer
    from fletching.testing.tiny import build_tiny_tokenizer as build_tiny_tokenizer
    from fletching.testing.tiny import save_tiny_bert as save_tiny_bert
    from fletching.testing.tiny import save_tiny_cross_encoder as save_tiny_cross_encoder
    from fletching.testing.tiny import save_tiny_embedder as save_tiny_embedder
    from fletching.testing.tiny import save_tiny_llama as save_tiny_llama
    from fletching.testing.tiny import save_tiny_qwen2 as save_tiny_qwen2
    from fletching.testing.tiny import save_tiny_t5 as save_tiny_t5

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "EAGER_DECODERS": "fletching.testing.decoders:EAGER_DECODERS",
        "EmbedderContract": "fletching.testing.contracts.embedder:EmbedderContract",
        "RerankerContract": "fletching.testing.contracts.reranker:RerankerContract",
        "SLIDING_DECODERS": "fletching.testing.decoders:SLIDING_DECODERS",
        "TINY_DECODERS": "fletching.testing.decoders:TINY_DECODERS",
        "TINY_ENCODERS": "fletching.testing.encoders:TINY_ENCODERS",
        "build_tiny_decoder": "fletching.testing.decoders:build_tiny_decoder",
        "build_tiny_decoder_config": "fletching.testing.decoders:build_tiny_decoder_config",
        "build_tiny_encoder": "fletching.testing.encoders:build_tiny_encoder",
        "build_tiny_qwen2_tokenizer": "fletching.testing.tiny:build_tiny_qwen2_tokenizer",
        "build_tiny_t5_tokenizer": "fletching.testing.tiny:build_tiny_t5_tokenizer",
        "build_tiny_tokenizer": "fletching.testing.tiny:build_tiny_tokenizer",
        "check_method": "fletching.testing.contracts.method:check_method",
        "save_tiny_bert": "fletching.testing.tiny:save_tiny_bert",
        "save_tiny_cross_encoder": "fletching.testing.tiny:save_tiny_cross_encoder",
        "save_tiny_embedder": "fletching.testing.tiny:save_tiny_embedder",
        "save_tiny_llama": "fletching.testing.tiny:save_tiny_llama",
        "save_tiny_qwen2": "fletching.testing.tiny:save_tiny_qwen2",
        "save_tiny_t5": "fletching.testing.tiny:save_tiny_t5",
    },
)
