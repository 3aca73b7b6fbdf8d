"""Token-budget micro-batches: rows without padding, sorted by length, cut by padded tokens.

A *row* is one tokenized input without its padding: ``{"input_ids": (T,), "token_type_ids": (T,), ...}``. Rows
of all lists of a call are batched together, so a list of short passages never waits behind the padding of a
long one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_OUT_OF_MEMORY = (
    "can't allocate memory",  # CPU
    "not enough memory",  # CPU under Windows
    "out of memory",  # accelerators that raise a plain RuntimeError
)

Features = dict[str, Any]
Row = dict[str, Tensor]


@dataclass
class TokenizedRows:
    """Tokenized inputs of one call.

    Args:
        rows: One row per input, in the caller's order.
        constants: Features that are the same for every row, e.g. ``{"modality": "text"}``.
    """

    rows: list[Row] = field(default_factory=list)
    constants: Features = field(default_factory=dict)

    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [row["attention_mask"].numel() for row in self.rows]

    def distinct(self) -> tuple[list[int], list[int]]:
        """Find equal rows.

        Encoding a duplicate once makes its score exactly, not nearly, that of its twin.

        Returns:
            ``(first, inverse)``: positions of the first row of each kind, and for every row its place in
            ``first``.
        """
        first: list[int] = []
        inverse: list[int] = []
        places: dict[tuple[bytes, ...], int] = {}
        for index, row in enumerate(self.rows):
            key = tuple(row[name].numpy().tobytes() for name in sorted(row))
            if key not in places:
                places[key] = len(first)
                first.append(index)
            inverse.append(places[key])
        return first, inverse


def can_split(features: Mapping[str, Any]) -> bool:
    """Whether padded features can be taken apart into rows: text with a 2-D mask, not flattened."""
    mask = features.get("attention_mask")
    return isinstance(mask, Tensor) and mask.ndim == 2 and isinstance(features.get("input_ids"), Tensor)


def split_rows(features: Mapping[str, Any]) -> TokenizedRows:
    """Take a padded batch apart.

    Args:
        features: Output of a ``preprocess``; tensors of the shape ``(B, T)`` of its ``attention_mask`` are
            split and stripped of padding on either side, everything else is constant.

    Returns:
        ``B`` rows of their own lengths, and the constants.
    """
    mask = features["attention_mask"].bool()
    per_token = {
        name: value if value.numel() else value.long()  # tokenizers make floats of nothing
        for name, value in features.items()
        if isinstance(value, Tensor) and value.shape == mask.shape
    }
    constants = {name: value for name, value in features.items() if name not in per_token}
    rows = []
    for index, keep in enumerate(mask):
        span = slice(None) if keep.all() else keep
        rows.append({name: value[index][span] for name, value in per_token.items()})
    return TokenizedRows(rows, constants)


def pad_rows(rows: Sequence[Row], *, padding: Mapping[str, int], side: str) -> dict[str, Tensor]:
    """Put rows together into one batch.

    Args:
        rows: Rows with the same names.
        padding: Value that fills each name; 0 where it is not listed.
        side: ``"left"`` or ``"right"``.

    Returns:
        Tensors of shape ``(B, T)`` with T the longest row, at least 1: networks refuse rows of nothing, which
        an empty text is where the tokenizer adds nothing to it.
    """
    padded = {}
    for name in rows[0]:
        fill = padding.get(name, 0)
        padded[name] = torch.nn.utils.rnn.pad_sequence(
            [row[name] for row in rows], batch_first=True, padding_value=fill, padding_side=side
        )
        if not padded[name].shape[1]:
            padded[name] = padded[name].new_full((len(rows), 1), fill)
    return padded


def plan_batches(lengths: Sequence[int], *, max_tokens: int, max_rows: int | None = None) -> list[list[int]]:
    """Cut rows into micro-batches whose padded size stays within a budget.

    Args:
        lengths: Tokens of each row.
        max_tokens: Padded tokens of one batch; a single longer row makes a batch of its own.
        max_rows: Rows of one batch; ``None`` sets no limit.

    Returns:
        Lists of positions, longest rows first, each position once. Equal lengths keep their order, so that
        the plan does not depend on chance.

    Example:
        >>> plan_batches([3, 9, 4, 8], max_tokens=18)
        [[1, 3], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    for index in order:
        batch = batches[-1] if batches else []
        widest = max(lengths[batch[0]], 1) if batch else 0
        if batch and (len(batch) + 1) * widest <= max_tokens and len(batch) != max_rows:
            batch.append(index)
        else:
            batches.append([index])
    return batches


def run_batches(
    lengths: Sequence[int],
    run: Callable[[list[int]], Tensor],
    *,
    max_tokens: int,
    max_rows: int | None = None,
    before_batch: Callable[[], None] = lambda: None,
) -> Iterator[tuple[list[int], Tensor]]:
    """Run every micro-batch, with half the budget for the rest each time memory runs out.

    Args:
        lengths: Tokens of each row.
        run: Computes the rows at the given positions.
        max_tokens: As in :func:`plan_batches`.
        max_rows: As in :func:`plan_batches`.
        before_batch: Called before each batch; may raise to stop.

    Yields:
        ``(positions, output)`` of each batch that ran.

    Raises:
        RuntimeError: The device's own out-of-memory error, when a single row does not fit.
    """
    pending = plan_batches(lengths, max_tokens=max_tokens, max_rows=max_rows)
    while pending:
        before_batch()
        batch = pending[0]
        output = _run_or_run_out(run, batch)
        if output is not None:
            pending.pop(0)
            yield batch, output
            continue
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        left = [index for waiting in pending for index in waiting]
        max_tokens, max_rows = max_tokens // 2, len(batch) // 2
        plan = plan_batches([lengths[index] for index in left], max_tokens=max_tokens, max_rows=max_rows)
        pending = [[left[place] for place in places] for places in plan]


def _run_or_run_out(run: Callable[[list[int]], Tensor], batch: list[int]) -> Tensor | None:
    """Run a batch; ``None`` if memory ran out, with everything the batch had taken given back."""
    try:
        return run(batch)
    except (RuntimeError, MemoryError) as error:
        if len(batch) == 1 or not _is_out_of_memory(error):
            raise
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    """Recognise exhausted memory on CPU (no type of its own) and on accelerators."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        words in str(error) for words in _OUT_OF_MEMORY
    )
