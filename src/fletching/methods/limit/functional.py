"""The equations of LIMIT (arXiv 2508.21038), one pure function each.

Shapes: B queries (the paper's m), N documents (n), D dimensions (d); k is the size of a relevant set. Only
the margin bound and the moment curve are theorems; the critical-n law describes an optimiser.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fletching.errors import bad_argument, bad_shape

_TABLE_6 = """
    10 14 19 24 28 32 36 42 47 54 62 70 79 89 99 109 120 132 144 157 170 184 198 213 229 245 261 278 296 314
    333 352 372 392 413 434 460 484 505 545 605 626
"""
CRITICAL_N = {dim: int(n) for dim, n in enumerate(_TABLE_6.split(), start=4)}
"""Most documents whose pairs (k = 2) the authors' optimiser fitted, by dimension (Table 6)."""

CRITICAL_N_COEFFICIENTS = (-10.53217, 4.030936, 0.0520465, 0.00367559)
"""The cubic of :func:`critical_n`, constant first: our least-squares fit of Table 6, r^2 = 0.9986."""

_ROUNDING = 1e-12  # a quotient of logarithms that is whole must not be rounded up to the next whole number


class CriticalN(NamedTuple):
    """How many documents an optimiser was seen to handle.

    Attributes:
        n: Documents.
        extrapolated: Whether the number comes from the fitted cubic and not from a run of the authors.
    """

    n: int
    extrapolated: bool


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


def log_combinations(n: int, k: int) -> float:
    """Return ``ln C(n, k)`` without computing the binomial.

    Args:
        n: Documents, >= k.
        k: Size of a subset, >= 0.

    Returns:
        The natural logarithm; 0 for one combination.

    Example:
        >>> round(math.exp(log_combinations(46, 2)))
        1035
    """
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def min_dim(n: int, k: int = 2, margin: float = 0.1) -> int:
    """Return the fewest dimensions in which all k-subsets of n unit documents can have a margin.

    Implements Theorem 1 of the ICLR version, a bound that no model escapes: if for every k-subset some unit
    query scores its documents at least ``2 * margin`` above all others, ``D >= ln C(n, k) / ln(1 + 1 /
    margin)``. It is necessary, not sufficient, and says nothing about queries without a margin.

    Args:
        n: Documents.
        k: Relevant documents per query, from 1 to n.
        margin: Half the gap between the worst relevant and the best other cosine, in (0, 1]. Paper: 0.1.

    Returns:
        Dimensions; 0 when there is a single subset (k = n).

    Raises:
        ArgumentError: If an argument is outside its domain.

    Example:
        >>> min_dim(1_000_000, k=100)
        425
    """
    _check_sizes("min_dim", n, k, margin)
    return math.ceil(log_combinations(n, k) / math.log1p(1 / margin) - _ROUNDING)


def max_docs(dim: int, k: int = 2, margin: float = 0.1) -> int:
    """Return the most documents of which all k-subsets can have a margin: :func:`min_dim` solved for n.

    Args:
        dim: Dimensions, >= 1.
        k: Relevant documents per query, >= 1.
        margin: As in :func:`min_dim`.

    Returns:
        Documents, at least k: an upper bound, not a promise that some model reaches it.

    Raises:
        ArgumentError: If an argument is outside its domain.

    Example:
        >>> n = max_docs(4)
        >>> min_dim(n), min_dim(n + 1)
        (4, 5)
    """
    _check_at_least("max_docs", "dim", dim, 1)
    _check_sizes("max_docs", k, k, margin)
    low, high = k, 2 * k + 1
    while min_dim(high, k, margin) <= dim:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if min_dim(middle, k, margin) <= dim else (low, middle)
    return low


def critical_n(dim: int) -> CriticalN:
    """Return for how many documents free vectors of ``dim`` dimensions were fitted to every pair (k = 2).

    The best case of a contrastive loss at temperature 0.1 (Table 6), not a maximum: other vectors hold more,
    see :func:`build_moment_curve`. Outside d = 4 to 45 it extrapolates by the cubic of
    :data:`CRITICAL_N_COEFFICIENTS`, but not below d + 1, which a simplex always reaches.

    Args:
        dim: Dimensions, >= 1.

    Returns:
        The number, and whether it is extrapolated.

    Raises:
        ArgumentError: If ``dim`` is not a positive integer.

    Example:
        >>> critical_n(12)
        CriticalN(n=47, extrapolated=False)
        >>> critical_n(1024).extrapolated
        True
    """
    _check_at_least("critical_n", "dim", dim, 1)
    if dim in CRITICAL_N:
        return CriticalN(CRITICAL_N[dim], extrapolated=False)
    fitted = sum(coefficient * dim**power for power, coefficient in enumerate(CRITICAL_N_COEFFICIENTS))
    return CriticalN(max(dim + 1, math.floor(fitted)), extrapolated=True)


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
    hits = (relevance > 0).float()
    sizes = hits.sum(dim=1)
    edges, strength = 0, 0.0
    for rows in torch.arange(len(hits)).split(1024):  # one block of the (B, B) matrix at a time
        shared = hits[rows] @ hits.T
        shared[torch.arange(len(rows)), rows] = 0
        union = (sizes[rows, None] + sizes - shared).clamp(min=1)
        edges += int((shared > 0).sum())
        strength += float((shared / union).double().sum())
    together = hits.T @ hits
    pairs = int((together > 0).sum() - (together.diagonal() > 0).sum())
    b, n = relevance.shape
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
    _check_at_least("build_moment_curve", "n", n, 1)
    _check_at_least("build_moment_curve", "k", k, 1)
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


def _check_sizes(owner: str, n: int, k: int, margin: float) -> None:
    _check_at_least(owner, "n", n, 1)
    if not (isinstance(k, int) and 1 <= k <= n):
        raise bad_argument(owner, "k", f"an integer from 1 to n ({n})", k)
    if not 0 < margin <= 1:
        raise bad_argument(owner, "margin", "in (0, 1]", margin)


def _check_at_least(owner: str, name: str, value: int, least: int) -> None:
    if not (isinstance(value, int) and value >= least):
        raise bad_argument(owner, name, f"an integer >= {least}", value)
