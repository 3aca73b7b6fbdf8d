"""Hyper-parameters of MVP training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MVPConfig:
    """What the paper's base model was trained with, and where each number comes from.

    Args:
        n_views: Relevance vectors per passage.
        passages_per_list: Passages of a training list.
        temperature: Of the target and of the rank loss.
        orthogonality_weight: Weight of the anchor term.
        double_softmax: Whether the rank loss applies softmax twice.
        target: What labels mean, see ``MVPLoss``.
        max_seq_length: Tokens of a row in training.
        learning_rate: Peak, reached after the warm-up, then linear decay.
        warmup_ratio: Part of all steps.
        lists_per_batch: Lists of one optimiser step.
        epochs: Passes over the data.
        optimizer: Name of a transformers optimiser; Adafactor without relative steps, weight decay 0.
        seed: Of data order and initialisation.
    """

    n_views: int = 4  # reference script
    passages_per_list: int = 5  # reference script
    temperature: float = 0.8  # reference script
    orthogonality_weight: float = 1.0  # reference script
    double_softmax: bool = True  # reference code
    target: str = "reciprocal_rank"  # reference code
    max_seq_length: int = 256  # reference script
    learning_rate: float = 1e-4  # reference script, base model
    warmup_ratio: float = 0.05  # reference script
    lists_per_batch: int = 64  # reference script: 16 x 2 GPUs x 2 accumulation steps
    epochs: float = 1.0  # reference script
    optimizer: str = "adafactor"  # reference code
    seed: int = 0  # reference script
