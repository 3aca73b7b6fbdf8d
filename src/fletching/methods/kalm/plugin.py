"""KaLM-Embedding in the registry."""

from fletching.hookspecs import hookimpl
from fletching.registry import MethodSpec


@hookimpl
def fletching_methods() -> list[MethodSpec]:
    """Return KaLM-Embedding."""
    return [
        MethodSpec(
            name="kalm",
            kind="embedder",
            title="KaLM-Embedding-V2",
            summary="A bidirectional Qwen2 embedder: focal weights, mixed hard negatives, Matryoshka, soup.",
            paper="2506.20923",
            fidelity="reconstruction",
            entry="fletching.methods.kalm.model:KaLMEmbedder",
            recipe="fletching.methods.kalm.recipe:KaLMRecipe",
            recognise="fletching.methods.kalm.checkpoints:is_kalm",
        )
    ]
