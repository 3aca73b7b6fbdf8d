"""MVP in the registry."""

from fletching.hookspecs import hookimpl
from fletching.registry import Checkpoint, MethodSpec


@hookimpl
def fletching_methods() -> list[MethodSpec]:
    """Return MVP and the weights that open by name."""
    return [
        MethodSpec(
            name="mvp",
            kind="reranker",
            title="MVP",
            summary="Listwise reranking in one pass: vectors per passage, an anchor per view.",
            paper="2509.07485",
            fidelity="paper+code",
            entry="fletching.methods.mvp.model:MVPReranker",
            recipe="fletching.methods.mvp.recipe:MVPRecipe",
            module_classes=(
                "fletching.methods.mvp.t5.T5MVPModule",
                "fletching.methods.mvp.encoder.EncoderMVPModule",
                "fletching.methods.mvp.bi_encoder.BiEncoderMVPModule",
            ),
            architectures=("FiDT5",),
            checkpoints=(
                Checkpoint(
                    "mvp-mini",
                    "package:fletching.methods.mvp/checkpoints/mvp-mini",
                    "English, on all-MiniLM-L6-v2 (23M parameters); trained on public lists.",
                ),
                Checkpoint("mvp-base", "Jun421/MVP-base", "The authors' T5-base.", (("n_views", 4),)),
                Checkpoint("mvp-3b", "Jun421/MVP-3b", "The authors' T5-3b.", (("n_views", 4),)),
            ),
        )
    ]
