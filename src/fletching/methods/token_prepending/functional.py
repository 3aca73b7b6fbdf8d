"""The equations of Token Prepending (Fu et al., ACL 2025, arXiv 2412.11556).

The paper's h^i, the hidden states that layer i reads (h^0 is the embedding), is ``hidden_states (B, T, D)``;
i*, the place of the placeholder, is ``placeholder_positions (B,)``; n, the place of the last token that is no
padding, is ``last_positions (B,)``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def copy_last_token(hidden_states: Tensor, placeholder_positions: Tensor, last_positions: Tensor) -> Tensor:
    """Overwrite the placeholder's state by the last token's: ``h^i[b, i*_b] <- h^i[b, n_b]``.

    No norm, no scaling; every other row stays. Differs from the reference code, which writes in place: the
    input is left as it is.

    Args:
        hidden_states: What a layer is about to read, shape ``(B, T, D)``.
        placeholder_positions: i*, shape ``(B,)``.
        last_positions: n, shape ``(B,)``.

    Returns:
        A changed copy.

    Example:
        >>> hidden = torch.tensor([[[2.0], [0.0], [1.0], [5.0]]])
        >>> copy_last_token(hidden, torch.tensor([1]), torch.tensor([3])).flatten().tolist()
        [2.0, 5.0, 1.0, 5.0]
    """
    rows = torch.arange(len(hidden_states), device=hidden_states.device)
    changed = hidden_states.clone()
    changed[rows, placeholder_positions] = hidden_states[rows, last_positions]
    return changed


def find_first(mask: Tensor) -> Tensor:
    """Find the first true place of each row.

    Args:
        mask: Shape ``(B, T)``; a row without a true place gives 0.

    Returns:
        Places, shape ``(B,)``.

    Example:
        >>> find_first(torch.tensor([[0, 1, 1], [1, 0, 1]])).tolist()
        [1, 0]
    """
    return mask.to(torch.int32).argmax(dim=1)


def find_last(attention_mask: Tensor) -> Tensor:
    """Find the last token of each row that is no padding, whichever side is padded.

    Args:
        attention_mask: 1 for tokens, 0 for padding, shape ``(B, T)``.

    Returns:
        Places, shape ``(B,)``.

    Example:
        >>> find_last(torch.tensor([[1, 1, 0], [0, 1, 1]])).tolist()
        [1, 2]
    """
    return attention_mask.shape[1] - 1 - find_first(attention_mask.flip(1))


def gather_rows(hidden_states: Tensor, positions: Tensor) -> Tensor:
    """Take one state of each row.

    Args:
        hidden_states: Shape ``(B, T, D)``.
        positions: Which, shape ``(B,)``.

    Returns:
        States, shape ``(B, D)``.
    """
    return hidden_states[torch.arange(len(hidden_states), device=hidden_states.device), positions]


def count_positions(attention_mask: Tensor) -> Tensor:
    """Number the tokens of each row from 0, as if there were no padding.

    Args:
        attention_mask: 1 for tokens, 0 for padding, shape ``(B, T)``.

    Returns:
        Position ids, shape ``(B, T)``; 0 on padding in front.

    Example:
        >>> count_positions(torch.tensor([[0, 0, 1, 1, 1]])).tolist()
        [[0, 0, 0, 1, 2]]
    """
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


def draw_placeholder(dimension: int, seed: int) -> Tensor:
    """Draw the placeholder's embedding: standard normal in every dimension, as in the reference code.

    Such a vector is about fifty times as long as the rows of usual embedding tables (standard deviation
    0.02).

    Args:
        dimension: Width of the embedding table.
        seed: Decides the vector; the global random state is left alone.

    Returns:
        The vector, shape ``(D,)``, float32, on the CPU.
    """
    return torch.randn(dimension, generator=torch.Generator().manual_seed(seed))
