"""DefSent+ in the registry."""

from fletching.hookspecs import hookimpl
from fletching.registry import MethodSpec


@hookimpl
def fletching_methods() -> list[MethodSpec]:
    """Return DefSent+."""
    return [
        MethodSpec(
            name="defsent_plus",
            kind="embedder",
            title="DefSent+",
            summary="Sentence embeddings learned from a dictionary: each definition is told its entry.",
            paper="2405.16153",
            fidelity="reconstruction",
            entry="fletching.methods.defsent_plus.model:DefSentPlusEmbedder",
            recipe="fletching.methods.defsent_plus.recipe:DefSentPlusRecipe",
            recognise="fletching.methods.defsent_plus.checkpoints:is_defsent_plus",
            module_classes=(
                "fletching.methods.defsent_plus.modules.PromptTransformer",
                "fletching.methods.defsent_plus.modules.MaskPooling",
            ),
        )
    ]
