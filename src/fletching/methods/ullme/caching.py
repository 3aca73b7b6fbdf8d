"""Gradient caching for losses that read embeddings and log-likelihoods alike.

After Gao et al. 2021, arXiv 2101.06983. A step runs in three passes: every mini-batch without a graph; the
loss of the whole batch, back to the values that the mini-batches gave; every mini-batch once more, with a
graph, its output multiplied by the gradient found. Memory holds the activations of one mini-batch. A value
is an embedding or the summed log-likelihood of a passage, so that loss and gradient are those of the whole
batch for every term: nothing is averaged over mini-batches.

**Dropout.** The second run of a mini-batch draws what its first run drew. A batch that fits into one
mini-batch draws what a run without caching draws. Smaller mini-batches draw other masks from the same
distribution, because a network draws for all rows of a forward pass at once: with dropout, the loss is that
of a graph held over the same mini-batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from sentence_transformers.base.losses.gradcache import (
    CachedLossMixin,
    RandContext,
    _create_minibatch,
    _minibatch_ranges,
)
from torch import Tensor

__all__ = ["CachedColumnsMixin", "ReplayContext", "attach_gradient", "without_dropout"]

Features = dict[str, Any]


class ReplayContext(RandContext):
    """The random state and the precision of a forward pass, to run it again in the backward pass.

    Autocast is left before the backward pass begins; what runs again there must enter it again.

    Args:
        *tensors: Inputs of the pass; their devices' random states are kept.
    """

    def __init__(self, *tensors: Any) -> None:
        super().__init__(*tensors)
        devices = [value.device.type for value in tensors if isinstance(value, Tensor)]
        self._device = devices[0] if devices else "cpu"
        self._dtype = torch.get_autocast_dtype(self._device)
        self._enabled = torch.is_autocast_enabled(self._device)

    def __enter__(self) -> None:
        """Restore both."""
        super().__enter__()
        self._autocast = torch.autocast(self._device, dtype=self._dtype, enabled=self._enabled)
        self._autocast.__enter__()

    def __exit__(self, *raised: Any) -> None:
        """Put back what was.

        Args:
            *raised: Type, value and traceback of an exception that ended the block.
        """
        self._autocast.__exit__(*raised)
        super().__exit__(*raised)


class CachedColumnsMixin(CachedLossMixin):
    """The three passes of sentence-transformers, for columns that are not all embedded.

    A loss provides ``run_column``, ``calculate_loss`` and, where a column needs a state of the model,
    ``enter_column``; it sets ``mini_batch_size``, and calls ``compute_columns``.
    """

    mini_batch_size: int | None  # type: ignore[assignment]

    def run_column(self, features: Features) -> Tensor:
        """Run the model on rows of a column.

        Args:
            features: The rows.

        Returns:
            What the loss reads of them, first axis: the rows.
        """
        raise NotImplementedError

    def enter_column(self, features: Features) -> AbstractContextManager[Any]:
        """Put the model into the state in which it runs a column, forward and backward.

        Args:
            features: Of the column.

        Returns:
            What enters the state and leaves it.
        """
        return nullcontext()

    def compute_columns(self, columns: list[Features], labels: Tensor | None = None) -> Tensor:
        """Compute the loss of a batch, at once or in mini-batches.

        Args:
            columns: Features of each column.
            labels: Handed to ``calculate_loss``.

        Returns:
            The loss; its backward pass reaches the parameters.
        """
        if self.mini_batch_size is not None:
            return self.forward_cached(columns, labels)
        values = []
        for column in columns:
            with self.enter_column(column):
                values.append([self.run_column(dict(column))])
        return self.calculate_loss(values, labels)

    def score_column(self, column: Features) -> Tensor:
        """Run a column without a graph, in mini-batches where the loss has them; no state is entered.

        Args:
            column: Its features.

        Returns:
            What ``run_column`` finds for all rows.
        """
        size = self.mini_batch_size or len(column["input_ids"])
        with torch.no_grad():
            return torch.cat(
                [
                    self.run_column(_create_minibatch(column, *bounds))
                    for bounds in _minibatch_ranges(column, size)
                ]
            )

    def embed_minibatch(
        self,
        sentence_feature: Features,
        begin: int,
        end: int,
        with_grad: bool,
        copy_random_state: bool,
        random_state: RandContext | None = None,
    ) -> tuple[Tensor, RandContext | None]:
        """Run some rows; called by sentence-transformers, whose parameters these are.

        Args:
            sentence_feature: Features of a column.
            begin: First row.
            end: The row behind the last one.
            with_grad: Whether to build a graph.
            copy_random_state: Whether to keep the state for a second run.
            random_state: The state to run in; ``None`` takes the current one.

        Returns:
            What ``run_column`` finds, and the state.
        """
        features = _create_minibatch(sentence_feature, begin, end)
        with random_state or nullcontext(), nullcontext() if with_grad else torch.no_grad():
            kept = ReplayContext(*features.values()) if copy_random_state else None
            return self.run_column(features), kept

    def embed_minibatch_iter(self, sentence_feature: Features, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Run a column mini-batch by mini-batch.

        The column's state lasts until nobody asks for more, thus through the backward passes of its
        mini-batches: layers that gradient checkpointing computes again find the right adapter.

        Args:
            sentence_feature: Features of the column.
            *args: For sentence-transformers' own method.
            **kwargs: Likewise.

        Yields:
            What ``embed_minibatch`` returns.
        """
        with self.enter_column(sentence_feature):
            yield from super().embed_minibatch_iter(sentence_feature, *args, **kwargs)


class _AttachGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, total: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def attach_gradient(value: Tensor, total: Tensor) -> Tensor:
    """Give a number the gradient of another one.

    A trainer adds the parts of a loss up and takes the gradient of the sum. The gradient of a cached loss
    exists for the whole only: one part carries it.

    Args:
        value: The number, a scalar.
        total: What has the gradient, a scalar.

    Returns:
        A scalar: ``value`` exactly, backward as ``total``.

    Example:
        >>> total = torch.tensor(3.0, requires_grad=True)
        >>> part = attach_gradient(torch.tensor(1.0), total)
        >>> part.item(), torch.autograd.grad(part, total)[0].item()
        (1.0, 1.0)
    """
    attached: Tensor = _AttachGradient.apply(value.detach(), total)
    return attached


@contextmanager
def without_dropout(model: torch.nn.Module) -> Iterator[None]:
    """Switch a model to evaluation, and each of its parts back to what it was.

    Args:
        model: The model.

    Yields:
        Nothing.
    """
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
