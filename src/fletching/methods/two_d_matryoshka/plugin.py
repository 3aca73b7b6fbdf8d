"""2D Matryoshka in the registry."""

from fletching.hookspecs import hookimpl
from fletching.registry import MethodSpec


@hookimpl
def fletching_methods() -> list[MethodSpec]:
    """Return 2D Matryoshka."""
    return [
        MethodSpec(
            name="two_d_matryoshka",
            kind="embedder",
            title="2D Matryoshka Sentence Embeddings",
            summary="One embedder to be cut after any layer and to any width, and its training (2DMSE, ESE).",
            paper="2402.14776",
            fidelity="paper+code",
            entry="fletching.methods.two_d_matryoshka.model:ElasticEmbedder",
            recipe="fletching.methods.two_d_matryoshka.recipe:TwoDMatryoshkaRecipe",
            recognise="fletching.methods.two_d_matryoshka.checkpoints:is_elastic",
            module_classes=("fletching.methods.two_d_matryoshka.modules.ElasticTransformer",),
        )
    ]
