"""ULLME in the registry: the embedder, and the same language model as a reranker."""

from fletching.hookspecs import hookimpl
from fletching.registry import MethodSpec


@hookimpl
def fletching_methods() -> list[MethodSpec]:
    """Return ULLME's embedder and its generative reranker."""
    return [
        MethodSpec(
            name="ullme",
            kind="embedder",
            title="ULLME",
            summary="Any causal language model as an embedder, by bidirectional attention; trained by GRL.",
            paper="2408.03402",
            fidelity="paper+code",
            entry="fletching.methods.ullme.model:LLMEmbedder",
            recipe="fletching.methods.ullme.recipe:ULLMERecipe",
            module_classes=(
                "fletching.methods.ullme.modules.LLMTransformer",
                "fletching.methods.ullme.heads.TextPooling",
                "fletching.methods.ullme.heads.ProjectionHead",
            ),
            architectures=("LlamaEmbeddingLM", "MistralEmbeddingLM", "PhiEmbeddingLM"),
        ),
        MethodSpec(
            name="ullme_reranker",
            kind="reranker",
            title="ULLME's generative reranker",
            summary="Any causal language model as a reranker: how likely is the passage after the query?",
            paper="2408.03402",
            fidelity="paper+code",
            entry="fletching.methods.ullme.reranker:GenerativeReranker",
            module_classes=("fletching.methods.ullme.likelihood.LikelihoodTransformer",),
        ),
    ]
