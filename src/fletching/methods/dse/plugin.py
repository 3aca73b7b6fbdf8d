"""DSE in the registry: the reranker, and its encoder as an embedder of its own."""

from fletching.hookspecs import hookimpl
from fletching.registry import MethodSpec


@hookimpl
def fletching_methods() -> list[MethodSpec]:
    """Return DSE's reranker, and what its sentence vectors are saved as without the head."""
    return [
        MethodSpec(
            name="dse",
            kind="reranker",
            title="DSE",
            summary="A cross-encoder distilled into sentence vectors and a small head over pairs of them.",
            paper="1908.05161",
            fidelity="paper+code",
            entry="fletching.methods.dse.model:DSEReranker",
            recipe="fletching.methods.dse.recipe:DSERecipe",
            module_classes=(
                "fletching.methods.dse.modules.SiameseTransformer",
                "fletching.methods.dse.modules.DSEPairHead",
            ),
        ),
        MethodSpec(
            name="dse_embedder",
            kind="embedder",
            title="DSE's sentence vectors",
            summary="The encoder of a DSE model without its head: vectors to compare by cosine.",
            paper="1908.05161",
            fidelity="paper+code",
            entry="fletching.models.embedder:Embedder",
            module_classes=(
                "fletching.methods.dse.modules.LayersTransformer",
                "fletching.methods.dse.modules.TopLayersPooling",
            ),
        ),
    ]
