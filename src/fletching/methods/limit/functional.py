"""The equations of LIMIT (arXiv 2508.21038) on tensors, one pure function each.

Shapes: B queries (the paper's m), N documents (n), D dimensions (d); k is the size of a relevant set.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fletching.errors import bad_argument, bad_shape
from fletching.models.inputs import check_positive

_BLOCK = 1024  # rows of a square matrix that are held at once


class QrelDensity(NamedTuple):
    """How much the relevant sets of a benchmark overlap.

    Attributes:
        density: Share of query pairs that share a document; the number the paper reports.
        query_strength: Mean over the queries of the summed Jaccard overlap with all other queries.
        document_density: Share of document pairs that are relevant to one query together; what the paper's
            text defines.
    """

    density: float
    query_strength: float
    document_density: float


def compute_contrastive_loss(logits: Tensor, relevance: Tensor, *, form: str = "each") -> Tensor:
    """Compute the loss of the free-embedding experiment; positives stay in each other's denominator.

    ``form="each"``, the reference code: ``-sum(R * log_softmax(logits)) / sum(R)``. ``form="any"``, the
    paper's footnote: ``-log(sum of the positives' softmax)``, averaged over queries; one relevant document
    satisfies it, so that it stalls.

    Args:
        logits: Scores over temperature, shape ``(B, N)``.
        relevance: 1 at relevant documents, else 0, shape ``(B, N)``; each row has at least one.
        form: ``"each"`` or ``"any"``.

    Returns:
        Float scalar.

    Raises:
        ShapeError: If the tensors differ in shape.

    Example:
        >>> logits, relevance = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]])
        >>> compute_contrastive_loss(logits, relevance)
        tensor(0.9076)
        >>> compute_contrastive_loss(logits, relevance, form="any")
        tensor(0.0943)
    """
    if logits.shape != relevance.shape:
        raise bad_shape("compute_contrastive_loss", "relevance", "B, N", logits.shape, relevance.shape)
    if form == "any":
        found = logits.masked_fill(relevance == 0, float("-inf")).logsumexp(dim=1)
        return (logits.logsumexp(dim=1) - found).mean()
    spread = relevance.sum(dim=1) * logits.logsumexp(dim=1)
    return (spread - (relevance * logits).sum(dim=1)).sum() / relevance.sum()


def compute_margins(scores: Tensor, relevance: Tensor) -> Tensor:
    """Return half the gap between each query's worst relevant and best other document.

    With unit vectors this is the ``g`` of Theorem 1. A query returns its set exactly where it is positive.

    Args:
        scores: Shape ``(B, N)``.
        relevance: 1 at relevant documents, else 0, shape ``(B, N)``.

    Returns:
        Shape ``(B,)``; infinite where every document is relevant, or none.

    Raises:
        ShapeError: If the tensors differ in shape.

    Example:
        >>> compute_margins(torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[1, 1, 0]]))
        tensor([0.2000])
    """
    if scores.shape != relevance.shape:
        raise bad_shape("compute_margins", "relevance", "B, N", scores.shape, relevance.shape)
    relevant = relevance.bool()
    worst = scores.masked_fill(~relevant, float("inf")).amin(dim=1)
    return (worst - scores.masked_fill(relevant, float("-inf")).amax(dim=1)) / 2


def qrel_density(relevance: Tensor) -> QrelDensity:
    """Measure how much the relevant sets overlap.

    Two queries are joined where their Jaccard overlap is positive: ``density = 2 |E| / (B (B - 1))``. The
    paper defines density on documents; its numbers are those of queries (LIMIT: 0.0855 and 28.47).

    Args:
        relevance: Positive at relevant documents, shape ``(B, N)``; both at least 2.

    Returns:
        The three numbers.

    Raises:
        ArgumentError: If there are fewer than two queries or documents.

    Example:
        >>> qrel_density(torch.tensor([[1, 1, 0], [0, 1, 1]]))
        QrelDensity(density=1.0, query_strength=0.333..., document_density=0.666...)
    """
    if relevance.dim() != 2 or min(relevance.shape) < 2:
        domain = "a matrix of at least two queries and two documents"
        raise bad_argument("qrel_density", "relevance", domain, tuple(relevance.shape))
    b, n = relevance.shape
    hits = relevance > 0
    hits = hits[:, hits.any(dim=0)].float()  # most documents of a large collection are relevant to nobody
    sizes = hits.sum(dim=1)
    edges, strength, pairs = 0, 0.0, 0
    for rows in torch.arange(b).split(_BLOCK):  # one block of the (B, B) matrix at a time
        shared = hits[rows] @ hits.T
        shared[torch.arange(len(rows)), rows] = 0
        union = (sizes[rows, None] + sizes - shared).clamp(min=1)
        edges += int((shared > 0).sum())
        strength += float((shared / union).double().sum())
    for columns in hits.split(_BLOCK, dim=1):  # likewise of documents; each is relevant together with itself
        pairs += int((columns.T @ hits > 0).sum()) - columns.shape[1]
    return QrelDensity(edges / (b * (b - 1)), strength / b, pairs / (n * (n - 1)))


def build_moment_curve(n: int, k: int) -> Tensor:
    """Place n unit documents in 2k dimensions so that every k-subset is somebody's exact top k.

    ``v_j = (cos t, sin t, ..., cos kt, sin kt) / sqrt(k)`` with ``t = 2 pi j / n``, the trigonometric moment
    curve: why, without a margin, dimension does not have to grow with n. The margins are tiny.

    Args:
        n: Documents, >= 1.
        k: Size of the subsets, >= 1.

    Returns:
        Shape ``(n, 2k)``, float64, unit rows.

    Raises:
        ArgumentError: If an argument is not a positive integer.

    Example:
        >>> build_moment_curve(4, 1).abs().round()
        tensor([[1., 0.],
                [0., 1.],
                [1., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    check_positive("build_moment_curve", "n", n)
    check_positive("build_moment_curve", "k", k)
    angles = torch.arange(n, dtype=torch.float64)[:, None] * (2 * math.pi / n)
    multiples = angles * torch.arange(1, k + 1)
    return torch.stack((multiples.cos(), multiples.sin()), dim=-1).flatten(1) / math.sqrt(k)


def build_moment_queries(subsets: Tensor, n: int) -> Tensor:
    """Build the query that returns exactly a given subset of :func:`build_moment_curve`.

    ``prod_{s in S} (1 - cos(t - t_s))`` is zero at the documents of S and positive elsewhere; the query holds
    the negative of its Fourier coefficients, without the constant.

    Args:
        subsets: Indices of the documents, shape ``(B, k)``, integers in [0, n).
        n: Documents on the curve.

    Returns:
        Shape ``(B, 2k)``, float64, unit rows.
    """
    b, k = subsets.shape
    coefficients = torch.zeros(b, 2 * k + 1, dtype=torch.complex128)  # of exp(i m t), m = -k to k
    coefficients[:, k] = 1
    for angles in (subsets.double() * (2 * math.pi / n)).T:
        turn = torch.polar(torch.ones_like(angles), -angles)[:, None]
        raised, lowered = coefficients.roll(1, dims=1), coefficients.roll(-1, dims=1)
        coefficients = coefficients - (turn * raised + turn.conj() * lowered) / 2
    positive = coefficients[:, k + 1 :]
    queries = torch.stack((-2 * positive.real, 2 * positive.imag), dim=-1).flatten(1)
    return queries / queries.norm(dim=1, keepdim=True)
