"""The equations of Multi-CPR's dual encoder."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from fletching.methods.multi_cpr.config import SCORES, check_choice


def compute_contrastive_loss(
    query_embeddings: Tensor, passage_embeddings: Tensor, *, scale: float = 20.0
) -> Tensor:
    """Compute the loss of the dual encoder: the positives of the other queries are the negatives.

    ``S = scale * Q P^T`` with rows of length one, ``L`` the mean cross-entropy of the diagonal (reference
    code). ``MultipleNegativesRankingLoss(scale=20)`` of sentence-transformers is the same.

    Args:
        query_embeddings: Shape ``(B, D)``.
        passage_embeddings: The positive of each query, shape ``(B, D)``.
        scale: Multiplies the cosines; the reference's temperature is 0.05.

    Returns:
        A scalar.

    Example:
        >>> queries = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
        >>> compute_contrastive_loss(queries, torch.tensor([[6.0, 8.0], [0.0, 2.0]]))
        tensor(6.0091)
    """
    similarities = scale * normalize(query_embeddings, dim=1) @ normalize(passage_embeddings, dim=1).T
    return cross_entropy(similarities, torch.arange(len(similarities), device=similarities.device))


def compare_vectors(query_embeddings: Tensor, passage_embeddings: Tensor, *, score: str = "cosine") -> Tensor:
    """Score passages for queries, higher is better.

    The reference trains with the cosine and searches by the Euclidean distance of vectors of any length,
    which orders differently. After normalisation the two orders are the same.

    Args:
        query_embeddings: Shape ``(B, D)``.
        passage_embeddings: Shape ``(N, D)``.
        score: ``"cosine"``; ``"l2"``, the negative squared distance; or ``"dot"``.

    Returns:
        Shape ``(B, N)``.

    Raises:
        ArgumentError: If ``score`` is none of these.

    Example:
        >>> passages = torch.tensor([[3.0, 0.5], [0.9, 0.1], [5.0, 0.0]])
        >>> compare_vectors(torch.tensor([[1.0, 0.0]]), passages, score="l2")
        tensor([[ -4.2500,  -0.0200, -16.0000]])
    """
    check_choice("compare_vectors", "score", SCORES, score)
    if score == "cosine":
        return normalize(query_embeddings, dim=1) @ normalize(passage_embeddings, dim=1).T
    products = query_embeddings @ passage_embeddings.T
    if score == "dot":
        return products
    lengths = query_embeddings.square().sum(dim=1)[:, None] + passage_embeddings.square().sum(dim=1)
    return 2 * products - lengths
