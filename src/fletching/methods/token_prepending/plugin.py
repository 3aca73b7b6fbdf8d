"""Token Prepending in the registry."""

from fletching.hookspecs import hookimpl
from fletching.registry import MethodSpec


@hookimpl
def fletching_methods() -> list[MethodSpec]:
    """Return Token Prepending."""
    return [
        MethodSpec(
            name="token_prepending",
            kind="embedder",
            title="Token Prepending",
            summary="Embeddings from any decoder, untrained: a token that sums the sentence up goes first.",
            paper="2412.11556",
            fidelity="paper+code",
            entry="fletching.methods.token_prepending.model:TokenPrependingEmbedder",
            module_classes=("fletching.methods.token_prepending.modules.TokenPrependingTransformer",),
        )
    ]
