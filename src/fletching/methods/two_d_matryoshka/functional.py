"""The equations of 2DMSE and ESE, and AnglE's, which their authors train on.

N is the number of layers, D the width of a vector. ``E_n`` is the vector read after layer n, ``E_n^d`` its
first d coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss, normalize, softmax

__all__ = [
    "compress_vectors",
    "compute_contrast",
    "compute_cosent",
    "compute_distillation",
    "compute_kl",
    "compute_token_kl",
    "list_dims",
    "relate_coordinates",
    "weigh_layer",
]

_SMALLEST_DIM = 8  # reference code


def list_dims(width: int) -> tuple[int, ...]:
    """List the sizes that 2DMSE draws from: 8, 16, 32 and so on below D, which is always trained itself.

    Args:
        width: D.

    Returns:
        The sizes, growing; none for a width of 8 or less.

    Example:
        >>> list_dims(768)
        (8, 16, 32, 64, 128, 256, 512)
    """
    n_sizes = max(0, math.ceil(math.log2(width / _SMALLEST_DIM))) if width > 0 else 0
    return tuple(_SMALLEST_DIM * 2**power for power in range(n_sizes))


def compute_kl(students: Tensor, teachers: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Compute how far the students' coordinates, as a distribution, are from the teachers'.

    ``(1 / B) sum_b sum_j q_bj (ln q_bj - ln p_bj)`` with ``q = softmax(teachers / T)`` and
    ``p = softmax(students / T)``: over the coordinates of a vector, not over the batch. No power of T is
    multiplied in.

    Args:
        students: Vectors, shape ``(B, D)``, not normalised.
        teachers: What they should be like, shape ``(B, D)``.
        temperature: T, > 0.

    Returns:
        A scalar; 0 if and only if each row differs from the teacher's by a constant.

    Example:
        >>> students = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
        >>> teachers = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
        >>> compute_kl(students, teachers)
        tensor(1.0516)
    """
    predicted = log_softmax(students / temperature, dim=-1)
    wanted = log_softmax(teachers / temperature, dim=-1)
    return kl_div(predicted, wanted, reduction="batchmean", log_target=True)


def compute_token_kl(students: Tensor, teachers: Tensor, mask: Tensor) -> Tensor:
    """Compute `compute_kl` of the states of tokens, at temperature 1, summed over the tokens of each text.

    Differs from the reference code: padding is left out.

    Args:
        students: States, shape ``(B, T, D)``.
        teachers: Those of a teacher that reads the same tokens, shape ``(B, T, D)``.
        mask: 1 for tokens, 0 for padding, shape ``(B, T)``.

    Returns:
        A scalar.
    """
    kept = mask.bool()
    return compute_kl(students[kept], teachers[kept]) * (kept.sum() / len(mask))


def weigh_layer(layer: int) -> float:
    """Weigh the loss of an earlier layer in ESE: ``1 / (1 + ln i)`` (paper v2, Eq. 2).

    Args:
        layer: i, from 1.

    Returns:
        The weight.

    Example:
        >>> [round(weigh_layer(layer), 6) for layer in (1, 2, 3)]
        [1.0, 0.590616, 0.476505]
    """
    return 1 / (1 + math.log(layer))


def relate_coordinates(vectors: Tensor) -> Tensor:
    """Compute how the coordinates of vectors depend on each other: ``A = softmax(m^T m / sqrt(D))`` by rows.

    Args:
        vectors: m, shape ``(B, D)``.

    Returns:
        A, shape ``(D, D)``; rows sum to 1.
    """
    return softmax(vectors.T @ vectors / math.sqrt(vectors.shape[-1]), dim=-1)


def compress_vectors(vectors: Tensor, size: int, *, exact: bool = True) -> Tensor:
    """Compress vectors by how their coordinates depend on each other: the ``pca`` of ESE.

    ``A = U diag(S) V^T`` with A from `relate_coordinates`, result ``m U_k diag(S_k)``. Differs from
    the reference code (SeanLee97/AnglE) by ``exact``: the columns of U are known but for their signs, which
    the reference leaves to chance, so that its target may change sign from step to step.

    Args:
        vectors: m, shape ``(B, D)``.
        size: k, at most D.
        exact: Whether to decompose exactly and turn each column of U so that its largest entry is positive;
            otherwise ``torch.svd_lowrank``, which draws from torch's global generator.

    Returns:
        Shape ``(B, k)``, float32 (float64 for float64 vectors), without a gradient.
    """
    with torch.no_grad():
        vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        dependencies = relate_coordinates(vectors)
        if exact:
            left, strengths, _ = torch.linalg.svd(dependencies)
            left, strengths = left[:, :size], strengths[:size]
            largest = left.gather(0, left.abs().argmax(dim=0, keepdim=True))
            left = left * torch.where(largest < 0, -1.0, 1.0)
        else:
            left, strengths, _ = torch.svd_lowrank(dependencies, q=size)
        return vectors @ (left * strengths)


def compute_distillation(
    students: Tensor, targets: Tensor, *, temperature: float = 1.0, kl_weight: float = 1.0
) -> Tensor:
    """Compute how far short vectors are from their targets in ESE: ``MSE + kl_weight * KL(T) * T``.

    Args:
        students: Shape ``(B, k)``.
        targets: Shape ``(B, k)``.
        temperature: T, > 0.
        kl_weight: Of the second term; the paper has 1.

    Returns:
        A scalar.
    """
    distance = mse_loss(students, targets)
    if kl_weight == 0:
        return distance
    return distance + kl_weight * temperature * compute_kl(students, targets, temperature=temperature)


def compute_cosent(scores: Tensor, labels: Tensor) -> Tensor:
    """Compute ``ln(1 + sum over labels_i < labels_j of exp(scores_i - scores_j))``.

    Args:
        scores: Of pairs of texts, scaled, shape ``(B,)``.
        labels: What people said of them, shape ``(B,)``; only their order counts.

    Returns:
        A scalar.
    """
    gaps = scores[:, None] - scores[None, :]
    wrong = gaps[labels[:, None] < labels[None, :]]
    return torch.cat([gaps.new_zeros(1), wrong]).logsumexp(dim=0)


def compute_contrast(queries: Tensor, documents: Sequence[Tensor], *, scale: float = 20.0) -> Tensor:
    """Compute the cross-entropy of finding each query's own document among all of the batch.

    Args:
        queries: Shape ``(B, D)``.
        documents: Columns of shape ``(B, D)``; the first holds the positives, all are candidates.
        scale: Multiplies the cosines.

    Returns:
        A scalar.
    """
    candidates = torch.cat([normalize(column, dim=-1) for column in documents])
    logits = normalize(queries, dim=-1) @ candidates.T * scale
    return cross_entropy(logits, torch.arange(len(queries), device=queries.device))
