"""Hyper-parameters of the free-embedding experiment."""

from __future__ import annotations

from dataclasses import dataclass

from fletching.errors import bad_argument, bad_choice
from fletching.models.inputs import check_positive

LOSS_FORMS = ("each", "any")
"""What ``loss`` may be, see ``compute_contrastive_loss``."""


@dataclass(frozen=True)
class FreeEmbeddingConfig:
    """How free vectors are optimised, and where each number comes from.

    Args:
        learning_rate: Of Adam; > 0.
        temperature: Divides the cosines; > 0.
        loss: ``"each"`` averages over all relevant documents, ``"any"`` is the paper's footnote: it stalls.
        max_iterations: Stop after so many steps; >= 1.
        patience: Stop after so many steps without improvement of the loss; >= 1.
        min_delta: A smaller drop of the loss is no improvement; >= 0.
        check_every: Steps between two looks at the accuracy; >= 1.
        queries_per_chunk: Queries whose logits are held at once; >= 1. Gradients are those of all queries.
        seed: Of the first vectors.
    """

    learning_rate: float = 0.01  # reference code
    temperature: float = 0.1  # reference code
    loss: str = "each"  # reference code
    max_iterations: int = 100_000  # reference code
    patience: int = 1000  # reference code
    min_delta: float = 1e-5  # reference code
    check_every: int = 50  # reference code
    queries_per_chunk: int = 65_536  # ours
    seed: int = 42  # reference code

    def __post_init__(self) -> None:
        """Check every value."""
        owner = type(self).__name__
        if self.loss not in LOSS_FORMS:
            raise bad_choice(owner, "loss", LOSS_FORMS, self.loss)
        for name in ("learning_rate", "temperature"):
            if not getattr(self, name) > 0:
                raise bad_argument(owner, name, "positive", getattr(self, name))
        for name in ("max_iterations", "patience", "check_every", "queries_per_chunk"):
            check_positive(owner, name, getattr(self, name))
        if not self.min_delta >= 0:
            raise bad_argument(owner, "min_delta", "zero or positive", self.min_delta)
