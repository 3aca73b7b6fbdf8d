"""The equations of KaLM-Embedding-V2 (Zhao, Hu, Shan et al., arXiv 2506.20923), one pure function each.

The paper's N queries, each with a positive p+ and M hard negatives p-, are ``queries (B, D)`` and
``documents (B, N, D)`` here: B = the paper's N, N = 1 + M, the positive first. s(q, p) is the cosine, tau the
temperature, Z_i the denominator of row i, p_i the probability that row i gives to its positive. K counts
mixed negatives. The loss of row i is ``l_i = -log p_i``, its weight ``w_i = (1 - p_i) ** gamma``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, logsigmoid

from fletching.errors import bad_shape

_NO_DIRECTION = 1e-6  # a mix of unit vectors that is shorter is rounding error


class MixDraws(NamedTuple):
    """The random choices behind the mixed negatives of one step.

    Args:
        first: Which negative comes first in a pair, shape ``(B, P)``.
        second: Which comes second, another one, shape ``(B, P)``.
        shares: lam, the share of the first, in [0, 1], shape ``(B, P)``.
        list_masks: True for the negatives that a list-wise mix weighs, shape ``(B, L, M)``.
    """

    first: Tensor
    second: Tensor
    shares: Tensor
    list_masks: Tensor


class CandidatePool(NamedTuple):
    """Unit vectors of all rows that compete in one step; on one device, the rows of the batch.

    Args:
        queries: Shape ``(B, D)``.
        documents: Positive, then hard negatives of each row, shape ``(B, N, D)``.
        mixes: Mixed negatives of each row, shape ``(B, K, D)``; ``None`` when there are none.
    """

    queries: Tensor
    documents: Tensor
    mixes: Tensor | None = None


def normalize_vectors(vectors: Tensor, *, floor: float = 1e-12) -> Tensor:
    """Divide vectors by their length.

    Args:
        vectors: Shape ``(..., D)``.
        floor: What is shorter has no direction: it becomes the zero vector, and gets no gradient.

    Returns:
        Unit vectors of the same shape.

    Example:
        >>> normalize_vectors(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    # NaN is not shorter than anything: a broken embedding stays visible
    return torch.where(lengths < floor, torch.zeros_like(vectors), vectors / lengths.clamp_min(floor))


def draw_mixes(
    generator: np.random.Generator,
    *,
    n_rows: int,
    n_negatives: int,
    n_pairs: int = 1,
    n_lists: int = 1,
    beta: float = 2.0,
) -> MixDraws:
    """Draw which negatives are mixed, and in which shares.

    Args:
        generator: Source of randomness; the same state gives the same draws on every device.
        n_rows: B.
        n_negatives: M, >= 2.
        n_pairs: Pair-wise mixes of each row; 0 for none.
        n_lists: List-wise mixes of each row; 0 for none. The first takes all negatives; each further one a
            random half, at least two.
        beta: ``lam ~ Beta(beta, beta)``; > 0. Paper: 2.

    Returns:
        The draws, on the CPU; shares in float64.

    Example:
        >>> draws = draw_mixes(np.random.default_rng(0), n_rows=3, n_negatives=2)
        >>> bool((draws.first != draws.second).all()), draws.list_masks.shape
        (True, torch.Size([3, 1, 2]))
    """
    shape = (n_rows, n_pairs)
    first = generator.integers(n_negatives, size=shape)
    second = (first + 1 + generator.integers(n_negatives - 1, size=shape)) % n_negatives
    shares = generator.beta(beta, beta, size=shape)
    # row-wise ranks of noise: the lowest make up a random subset
    ranks = generator.random((n_rows, n_lists, n_negatives)).argsort(axis=-1).argsort(axis=-1)
    masks = ranks < max(2, n_negatives // 2)
    masks[:, :1] = True
    return MixDraws(*(torch.from_numpy(array) for array in (first, second, shares, masks)))


def mix_pairs(negatives: Tensor, draws: MixDraws) -> Tensor:
    """Mix two hard negatives of the same query: ``m = lam p-_j + (1 - lam) p-_k``, then unit length.

    Args:
        negatives: Unit vectors, shape ``(B, M, D)``.
        draws: j, k and lam.

    Returns:
        Shape ``(B, P, D)``. Two opposite vectors in equal shares have no direction in the middle: they give
        the zero vector.

    Example:
        >>> draws = MixDraws(*(torch.tensor([[x]]) for x in (0, 1, 0.5)), torch.ones(1, 0, 2).bool())
        >>> mix_pairs(torch.eye(2)[None], draws)
        tensor([[[0.7071, 0.7071]]])
    """
    rows = torch.arange(len(negatives), device=negatives.device)[:, None]
    shares = draws.shares.to(negatives.dtype)[..., None]
    mixed = shares * negatives[rows, draws.first] + (1 - shares) * negatives[rows, draws.second]
    return normalize_vectors(mixed, floor=_NO_DIRECTION)


def mix_lists(queries: Tensor, negatives: Tensor, draws: MixDraws, *, temperature: float) -> Tensor:
    """Mix all hard negatives of a query, the hardest with the largest share.

    ``m_i = sum_k a_ik p-_ik`` with ``a_i = softmax_k(s(q_i, p-_ik) / temperature)``, then unit length. The
    paper names list-wise mixing; that the weights are this softmax is ours.

    Args:
        queries: Unit vectors, shape ``(B, D)``.
        negatives: Unit vectors, shape ``(B, M, D)``.
        draws: Which negatives take part.
        temperature: Divides the cosines; > 0. The lower, the nearer is the mix to the hardest negative.

    Returns:
        Shape ``(B, L, D)``.
    """
    logits = (queries[:, None] * negatives).sum(dim=-1) / temperature
    shares = logits[:, None].masked_fill(~draws.list_masks, -torch.inf).softmax(dim=-1)
    return normalize_vectors(shares @ negatives, floor=_NO_DIRECTION)


def score_candidates(
    pool: CandidatePool,
    rows: Tensor,
    *,
    visibility: str = "all",
    directions: Sequence[str] = ("query_to_doc",),
) -> Tensor:
    """Compute the cosines that make up ``Z_i``: the documents of all rows, row by row, then the mixes.

    Args:
        pool: The vectors of all rows.
        rows: Which rows are scored, shape ``(R,)``.
        visibility: ``"all"`` also scores the mixes of the other rows, ``"own"`` does not.
        directions: ``"query_to_query"`` and ``"doc_to_doc"`` in it add terms, see ``KaLMLossOptions``.

    Returns:
        Cosines, shape ``(R, C)``; the positive of row r is in column ``rows[r] * N``; ``-inf`` is no
        candidate.
    """
    queries = pool.queries[rows]
    documents = pool.documents.flatten(0, 1)
    blocks = [queries @ documents.T]
    if pool.mixes is not None and visibility == "all":
        blocks.append(queries @ pool.mixes.flatten(0, 1).T)
    elif pool.mixes is not None:
        blocks.append((queries[:, None] * pool.mixes[rows]).sum(dim=-1))
    own = rows[:, None] == torch.arange(len(pool.queries), device=rows.device)
    if "query_to_query" in directions:
        blocks.append((queries @ pool.queries.T).masked_fill(own, -torch.inf))
    if "doc_to_doc" in directions:
        own_documents = own.repeat_interleave(pool.documents.shape[1], dim=1)
        blocks.append((pool.documents[rows, 0] @ documents.T).masked_fill(own_documents, -torch.inf))
    return torch.cat(blocks, dim=1)


def compute_gaps(logits: Tensor, positive_columns: Tensor) -> Tensor:
    """Compute by how much the negatives outweigh the positive: ``g_i = log sum_neg e^x - x_pos``.

    ``1 - p_i = sigmoid(g_i)``. As functions of the gap, loss and weight stay exact where p_i rounds to 1.

    Args:
        logits: Cosines / tau, shape ``(B, C)``; ``-inf`` is no candidate.
        positive_columns: Where the positive is, shape ``(B,)``.

    Returns:
        Shape ``(B,)``; about -1e38 where there is no negative at all, so that the loss is 0.

    Example:
        >>> compute_gaps(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0]))
        tensor([-0.3069])
    """
    index = positive_columns[:, None]
    # not -inf: a row without negatives would have a NaN gradient
    negatives = logits.scatter(1, index, torch.finfo(logits.dtype).min)
    return negatives.logsumexp(dim=1) - logits.gather(1, index).squeeze(1)


def compute_row_losses(gaps: Tensor) -> Tensor:
    """Compute ``l_i = -log p_i``.

    Args:
        gaps: Of :func:`compute_gaps`, shape ``(B,)``.

    Returns:
        Shape ``(B,)``, >= 0.

    Example:
        >>> compute_row_losses(torch.tensor([0.0, -2.0, 3.0]))
        tensor([0.6931, 0.1269, 3.0486])
    """
    return -logsigmoid(-gaps)


def compute_focal_weights(gaps: Tensor, *, gamma: float = 0.5, detach: bool = False) -> Tensor:
    """Compute ``w_i = (1 - p_i) ** gamma`` as ``exp(gamma * log(1 - p_i))``.

    The power itself has an infinite slope at 0 when gamma < 1, which p_i = 1 in float32 turns into NaN.

    Args:
        gaps: Of :func:`compute_gaps`, shape ``(B,)``.
        gamma: >= 0; the larger, the less do easy rows count. 0 gives all rows weight 1. Paper: 0.5.
        detach: Whether the weight is a constant for the gradient.

    Returns:
        Shape ``(B,)``, in [0, 1].

    Example:
        >>> compute_focal_weights(torch.tensor([0.0, -200.0, 200.0]))
        tensor([0.7071, 0.0000, 1.0000])
    """
    return torch.exp(gamma * logsigmoid(gaps.detach() if detach else gaps))


def compute_distillation(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Compute ``KL(softmax(teacher) || softmax(student))`` over a query's own candidates.

    Args:
        student_logits: Cosines / student temperature, shape ``(B, N)``.
        teacher_logits: Scores / teacher temperature, shape ``(B, N)``; ``-inf`` gives a candidate no share.

    Returns:
        Shape ``(B,)``, >= 0; 0 where the two agree up to a constant.

    Raises:
        ShapeError: If the two differ in shape.

    Example:
        >>> student, teacher = torch.tensor([[0.9, 0.3, 0.1]]), torch.tensor([[0.8, 0.6, 0.1]])
        >>> compute_distillation(student / 0.05, teacher / 0.05)
        tensor([0.1257])
    """
    if student_logits.shape != teacher_logits.shape:
        raise bad_shape(
            "compute_distillation", "teacher_logits", "B, N", student_logits.shape, teacher_logits.shape
        )
    student = log_softmax(student_logits, dim=-1)
    return kl_div(student, teacher_logits.softmax(dim=-1), reduction="none").sum(dim=-1)
