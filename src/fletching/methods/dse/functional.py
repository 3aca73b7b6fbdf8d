"""The equations of DSE: pooling of the top layers, the features of a pair, the decomposed head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def drop_first_token(mask: Tensor) -> Tensor:
    """Leave the first token of each row, [CLS], out of its mask; a row of one token keeps it.

    Args:
        mask: 1 for tokens, 0 for padding on either side, shape ``(B, T)``.

    Returns:
        A boolean mask, shape ``(B, T)``.

    Example:
        >>> drop_first_token(torch.tensor([[1, 1, 1, 0], [0, 0, 0, 1]])).int()
        tensor([[0, 1, 1, 0],
                [0, 0, 0, 1]], dtype=torch.int32)
    """
    keep = mask.bool()
    return keep & ((keep.cumsum(dim=1) > 1) | (keep.sum(dim=1, keepdim=True) == 1))


def pool_tokens(states: Tensor, mask: Tensor, token_pooling: str = "mean") -> Tensor:
    """Make one vector of the tokens of each row.

    ``mean``: ``sum_t m_t z_t / sum_t m_t``; ``sqrt_mean``: divided by the root of the length instead;
    ``max``: the largest value of each dimension.

    Args:
        states: Shape ``(B, T, D)``.
        mask: Tokens that count, shape ``(B, T)``; a row without any gives zeros.
        token_pooling: ``"mean"``, ``"sqrt_mean"`` or ``"max"``.

    Returns:
        Shape ``(B, D)``, float32 for lower precision.
    """
    states = states.float() if torch.finfo(states.dtype).bits < 32 else states
    keep = mask.bool()[..., None]
    if token_pooling == "max":
        highest = states.masked_fill(~keep, float("-inf")).amax(dim=1)
        return highest.masked_fill(~keep.any(dim=1), 0.0)
    total = states.masked_fill(~keep, 0.0).sum(dim=1)
    length = keep.sum(dim=1).clamp(min=1).to(total.dtype)
    return total / (length.sqrt() if token_pooling == "sqrt_mean" else length)


def pool_top_layers(
    layers: Sequence[Tensor], mask: Tensor, combine: str = "concat", token_pooling: str = "mean"
) -> Tensor:
    """Make one vector of several layers.

    Args:
        layers: The top layers, lowest first, each of shape ``(B, T, D)``.
        mask: Tokens that count, shape ``(B, T)``.
        combine: ``"concat"`` lays the layers side by side, lowest first; ``"mean"`` averages them.
        token_pooling: As for :func:`pool_tokens`.

    Returns:
        Shape ``(B, L * D)``, or ``(B, D)`` for the mean.
    """
    if combine == "mean":
        return pool_tokens(torch.stack([*layers]).mean(dim=0), mask, token_pooling)
    return torch.cat([pool_tokens(layer, mask, token_pooling) for layer in layers], dim=-1)


def build_pair_features(u: Tensor, v: Tensor) -> Tensor:
    """Lay out what the head reads of a pair: ``[u ; v ; u * v ; |u - v|]``, in this order.

    Args:
        u: Vectors of the first sentences, shape ``(..., D)``.
        v: Of the second ones, the same shape.

    Returns:
        Shape ``(..., 4 D)``.

    Example:
        >>> build_pair_features(torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0]))
        tensor([ 1.,  2.,  3., -1.,  3., -2.,  2.,  3.])
    """
    return torch.cat([u, v, u * v, (u - v).abs()], dim=-1)


def score_first_layer(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute the head's first layer for one sentence against many, in half of the products.

    With ``W1 = [Wu | Wv | Wh | Wd]``: ``W1 f = Wu u + (Wv + Wh diag(u)) v + Wd |u - v|``. What depends on
    ``u`` alone is computed once.

    Args:
        u: One vector, shape ``(D,)``.
        v: N vectors, shape ``(N, D)``.
        weight: ``W1``, shape ``(F, 4 D)``.
        bias: Shape ``(F,)``.

    Returns:
        ``W1 f + b1`` of the N pairs, shape ``(N, F)``.
    """
    of_u, of_v, of_product, of_distance = weight.split(u.shape[-1], dim=1)
    first = torch.addmm(of_u @ u + bias, v, (of_v + of_product * u).T)
    return first.addmm((u - v).abs(), of_distance.T)


def compute_log_odds(logits: Tensor, label: int) -> Tensor:
    """Turn the logits of several classes into one score: how much more likely is a class than all others?

    Args:
        logits: Shape ``(..., C)``, C >= 2.
        label: The class.

    Returns:
        ``z_label - log sum_{c != label} exp z_c``, shape ``(...)``; its sigmoid is the softmax of the class.

    Example:
        >>> logits = torch.tensor([1.0, 3.0])
        >>> compute_log_odds(logits, 1), logits.softmax(dim=-1)[1].logit()
        (tensor(2.), tensor(2.0000))
    """
    others = torch.cat([logits[..., :label], logits[..., label + 1 :]], dim=-1)
    return logits[..., label] - others.logsumexp(dim=-1)
