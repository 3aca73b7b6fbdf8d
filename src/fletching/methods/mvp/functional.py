"""The equations of MVP (arXiv 2509.07485), one pure function each.

Shapes: B lists, N passages per list, m views, D dimensions. Where the paper's text was not at hand, the
authors' code is the source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from fletching.errors import bad_shape


def score_views(anchors: Tensor, relevance_vectors: Tensor) -> Tensor:
    """Multiply each view's anchor with the relevance vectors of that view.

    Implements ``s[b, k, i] = <a[b, k], e[b, i, k]>``: no scaling, no normalisation, no temperature (reference
    code).

    Args:
        anchors: One anchor per list and view, shape ``(B, m, D)``.
        relevance_vectors: One vector per passage and view, shape ``(B, N, m, D)``.

    Returns:
        Scores of each view, shape ``(B, N, m)``, float32; a passage's score is their mean over the last axis.

    Raises:
        ShapeError: If the two tensors do not fit.

    Example:
        >>> vectors = torch.tensor([[[[1.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, -1.0]]]])
        >>> score_views(torch.tensor([[[1.0, 2.0], [0.5, -1.0]]]), vectors).mean(dim=-1)
        tensor([[1.0000, 1.5000]])
    """
    b, _, m, d = relevance_vectors.shape
    if anchors.shape != (b, m, d):
        raise bad_shape("score_views", "anchors", "B, m, D", (b, m, d), anchors.shape)
    # not einsum: a matrix product may round equal rows differently, and duplicates must score equal
    return (anchors.float()[:, None] * relevance_vectors.float()).sum(dim=-1)


def build_target(labels: Tensor, mask: Tensor | None = None, *, temperature: float = 0.8) -> Tensor:
    """Turn an order into the distribution that training aims at.

    Implements ``y = softmax((1 / r) / temperature)`` with r = 1 for the highest label (reference code). Equal
    labels are ranked by position, so that the target does not depend on the sorting routine.

    Args:
        labels: Higher is better, shape ``(B, N)`` or ``(N,)``.
        mask: 1 for passages, 0 for padding, same shape; ``None`` keeps all.
        temperature: Divides the reciprocal ranks; > 0. Reference code: 0.8.

    Returns:
        Probabilities of the same shape, 0 at padding, float32.

    Example:
        >>> build_target(torch.tensor([0.3, 0.9, 0.1, 1.9, 0.7]))
        tensor([0.1435, 0.1961, 0.1348, 0.3664, 0.1592])
    """
    labels = labels.float()
    if mask is not None:
        labels = labels.masked_fill(mask == 0, float("-inf"))
    order = labels.argsort(dim=-1, descending=True, stable=True)
    ranks = torch.empty_like(labels).scatter_(
        -1,
        order,
        torch.arange(1, labels.shape[-1] + 1, dtype=labels.dtype, device=labels.device).expand_as(labels),
    )
    logits = 1 / ranks / temperature
    if mask is not None:
        logits = logits.masked_fill(mask == 0, float("-inf"))
    return logits.softmax(dim=-1)


def compute_rank_loss(
    scores: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 0.8,
    double_softmax: bool = True,
) -> Tensor:
    """Compare the scores of a list with its target distribution.

    With ``p = softmax(s / temperature)``, the reference code passes p to a loss that applies ``log_softmax``
    again: ``-sum(y * log_softmax(p))``, minimal at large score gaps. ``double_softmax=False`` is plain
    ListNet, ``-sum(y * log p)``, minimal at ``s = 1 / r + constant``.

    Args:
        scores: Shape ``(B, N)``.
        target: Probabilities of :func:`build_target`, shape ``(B, N)``.
        mask: 1 for passages, 0 for padding, shape ``(B, N)``; ``None`` keeps all.
        temperature: Divides the scores; > 0. Reference code: 0.8.
        double_softmax: As the reference code (the released weights fit it), or ListNet.

    Returns:
        Mean over the lists, float32 scalar.

    Raises:
        ShapeError: If scores and target differ in shape.

    Example:
        >>> s = torch.tensor([[2.0, 1.0, 0.5, 0.0, -0.5]])
        >>> y = build_target(torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]]))
        >>> compute_rank_loss(s, y), compute_rank_loss(s, y, double_softmax=False)
        (tensor(1.5406), tensor(1.7721))
    """
    if scores.shape != target.shape:
        raise bad_shape("compute_rank_loss", "target", "B, N", scores.shape, target.shape)
    logits = scores.float() / temperature
    keep = torch.ones_like(logits, dtype=torch.bool) if mask is None else mask.bool()
    logits = logits.masked_fill(~keep, float("-inf"))
    if double_softmax:
        logits = logits.softmax(dim=-1).masked_fill(~keep, float("-inf"))
    log_p = log_softmax(logits, dim=-1).masked_fill(~keep, 0.0)
    return -(target * log_p).sum(dim=-1).mean()


def compute_orthogonality_loss(anchors: Tensor) -> Tensor:
    """Push the anchors of a list apart, so that the views see different things.

    Implements ``mean_b sum_kl ((A A^T - I)_kl)^2`` over unit-length anchors (reference code): a sum over all
    m * m entries. It acts on the anchors, not on the relevance vectors.

    Args:
        anchors: Shape ``(B, m, D)``.

    Returns:
        Float32 scalar; 0 for orthogonal anchors, m * (m - 1) for identical ones.

    Example:
        >>> compute_orthogonality_loss(torch.ones(1, 4, 8))
        tensor(12.)
    """
    directions = normalize(anchors.float(), p=2, dim=-1)
    gram = directions @ directions.mT
    return (gram - torch.eye(gram.shape[-1], device=gram.device)).square().sum(dim=(-2, -1)).mean()


def rename_fid_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate a Fusion-in-Decoder state dict (the authors' checkpoints) to plain T5 names.

    The FiD wrappers rename encoder keys only: ``encoder.encoder.block.0.module.layer...`` is T5's
    ``encoder.block.0.layer...``. Plain names stay as they are.

    Args:
        state: State dict in either layout.

    Returns:
        The same tensors under plain names.

    Example:
        >>> list(rename_fid_keys({"encoder.encoder.block.3.module.layer.0.layer_norm.weight": torch.ones(1)}))
        ['encoder.block.3.layer.0.layer_norm.weight']
    """
    return {
        re.sub(
            r"^encoder\.block\.(\d+)\.module\.",
            r"encoder.block.\1.",
            re.sub(r"^encoder\.encoder\.", "encoder.", key),
        ): value
        for key, value in state.items()
    }
