"""The networks of the baselines: two untied BERTs, and a BERT that reads query and passage together."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers.base.modules import Module, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from fletching.errors import bad_argument
from fletching.methods.t2ranking.config import BASE, PAIR_TOKENS, PASSAGE_TOKENS, QUERY_TOKENS
from fletching.models.embedder import Embedder
from fletching.models.reranker import Reranker

__all__ = ["ROUTES", "build_cross_encoder", "build_dual_encoder"]

ROUTES = ("query", "document")
"""The two towers, as sentence-transformers calls them."""


def build_dual_encoder(
    base: str | tuple[str, str] = BASE,
    *,
    query_tokens: int = QUERY_TOKENS,
    passage_tokens: int = PASSAGE_TOKENS,
    seed: int = 0,
    **kwargs: Any,
) -> Embedder:
    """Build the dual encoder: two networks that share no weight, one for queries, one for passages.

    The vector of a text is that of ``[CLS]`` in the last layer: no pooler, no normalisation; vectors are
    compared by their dot product. Made of stock modules only, so that a saved model opens with
    ``SentenceTransformer`` as well.

    Args:
        base: Folder or hub id of the network that both start from, or one for queries and one for passages.
        query_tokens: Of a query, special ones included.
        passage_tokens: Of a passage, special ones included.
        seed: Of weights that the base lacks, such as a pooler's; none of them is read.
        **kwargs: Arguments of `Embedder`, such as ``device``.

    Returns:
        The model; ``encode_query`` and ``encode_document`` take the right tower.

    Raises:
        ArgumentError: If a number of tokens is too small for a text.
    """
    for_query, for_passage = (base, base) if isinstance(base, str) else base
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        router = Router.for_query_document(
            _build_tower(for_query, query_tokens), _build_tower(for_passage, passage_tokens)
        )
    return Embedder(modules=[router], similarity_fn_name="dot", **kwargs)


def build_cross_encoder(
    base: str = BASE, *, pair_tokens: int = PAIR_TOKENS, seed: int = 0, **kwargs: Any
) -> Reranker:
    """Build the cross-encoder: one logit for query and passage, cut where the longer of the two is.

    The logit is the score; it is not squeezed, as the authors compare raw logits.

    Args:
        base: Folder or hub id of the network to start from.
        pair_tokens: Of a pair, special ones included.
        seed: Of the new head, if the network has none.
        **kwargs: Arguments of `Reranker`, such as ``device``.

    Returns:
        The model.

    Raises:
        ArgumentError: If the number of tokens is too small for a pair.
    """
    _check_tokens("build_cross_encoder", pair_tokens)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Reranker(base, num_labels=1, activation_fn=torch.nn.Identity(), **kwargs)
    model.max_seq_length = pair_tokens
    return model


def _build_tower(base: str, tokens: int) -> list[Module]:
    _check_tokens("build_dual_encoder", tokens)
    transformer = Transformer(base, max_seq_length=tokens)
    return [transformer, Pooling(transformer.get_embedding_dimension(), "cls")]


def _check_tokens(owner: str, tokens: int) -> None:
    if not (isinstance(tokens, int) and tokens >= 4):
        raise bad_argument(owner, "tokens", "at least 4, as special ones count", tokens)
