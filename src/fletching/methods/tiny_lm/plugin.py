"""The tiny language model in the registry."""

from fletching.hookspecs import hookimpl
from fletching.registry import MethodSpec


@hookimpl
def fletching_methods() -> list[MethodSpec]:
    """Return the tiny language model."""
    return [
        MethodSpec(
            name="tiny_lm",
            kind="training",
            title="Tiny language model",
            summary="A tokenizer and a decoder of 10 million weights from plain text, on a CPU.",
            paper="",
            fidelity="reconstruction",
            entry="fletching.methods.tiny_lm.recipe:TinyLMRecipe",
            recipe="fletching.methods.tiny_lm.recipe:TinyLMRecipe",
        )
    ]
