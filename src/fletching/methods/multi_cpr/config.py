"""Hyper-parameters of the baselines, and the names that they take."""

from __future__ import annotations

from dataclasses import dataclass

from fletching.errors import bad_argument, bad_choice

BASE = "google-bert/bert-base-chinese"  # reference script, by its full name on the hub

DOMAINS = ("ecom", "medical", "video")
"""The domains, as their folders are called."""

BASELINES = ("bm25", "dual_encoder", "cross_encoder", "mvp")
"""What ``baseline`` may be."""

SCORES = ("cosine", "l2", "dot")
"""What ``score`` may be, see ``compare_vectors``."""

TRAINING: dict[str, dict[str, float]] = {
    "dual_encoder": {
        "learning_rate": 2e-5,  # reference script
        "epochs": 6.0,  # reference script
        "batch_size": 32,  # reference script: of each GPU, no negatives across GPUs
        "accumulation_steps": 2,  # reference script: 2 GPUs, whose gradients are averaged
        "seed": 2021,  # reference script
    },
    "cross_encoder": {
        "learning_rate": 1e-5,  # reference script
        "epochs": 3.0,  # reference script
        "batch_size": 8,  # reference script: groups
        "accumulation_steps": 2,  # reference script
        "seed": 42,  # the default of the transformers trainer, which the reference script leaves as it is
    },
}
"""What differs between the two trained baselines; a field of the configuration that is ``None`` takes it."""


@dataclass(frozen=True)
class MultiCPRConfig:
    """What the reference trains its baselines with, and where each number comes from.

    ``None`` takes what :data:`TRAINING` says of the baseline; for ``"mvp"`` what the recipe of MVP says.

    Args:
        learning_rate: Peak, reached after the warm-up, then linear decay.
        epochs: Passes over the training queries.
        batch_size: Queries at once: pairs, each with the positives of the others as negatives; or groups.
        accumulation_steps: Batches of one optimiser step.
        warmup_ratio: Part of all steps.
        weight_decay: Of AdamW.
        max_tokens: Of a text, or of a pair of query and passage; batches are padded to their longest.
        scale: Multiplies the cosines in the dual encoder's loss.
        group_size: Passages of a cross-encoder's group, the positive among them.
        pool_size: Negatives that groups are drawn from, for each query.
        depth: Passages that a search returns.
        fp16: Whether to train in half precision (autocast) where there is a GPU.
        seed: Of data order, initialisation and sampling.
    """

    learning_rate: float | None = None
    epochs: float | None = None
    batch_size: int | None = None
    accumulation_steps: int | None = None
    warmup_ratio: float = 0.1  # reference script
    weight_decay: float = 0.01  # reference script
    max_tokens: int = 256  # reference script
    scale: float = 20.0  # reference code
    group_size: int = 8  # reference script: 1 positive and 7 negatives
    pool_size: int = 100  # reference code
    depth: int = 1000  # reference script
    fp16: bool = True  # reference script
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check every number."""
        owner = type(self).__name__
        for name in ("learning_rate", "epochs", "scale"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise bad_argument(owner, name, "positive", value)
        for name, lowest in (
            ("batch_size", 1),
            ("accumulation_steps", 1),
            ("max_tokens", 3),
            ("group_size", 2),
            ("pool_size", 1),
            ("depth", 1),
        ):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= lowest):
                raise bad_argument(owner, name, f"an integer >= {lowest}", value)
        if not 0 <= self.warmup_ratio < 1:
            raise bad_argument(owner, "warmup_ratio", "from 0 to less than 1", self.warmup_ratio)
        if not self.weight_decay >= 0:
            raise bad_argument(owner, "weight_decay", "zero or positive", self.weight_decay)


def check_choice(owner: str, parameter: str, options: tuple[str, ...], value: object) -> None:
    """Refuse a name that is not among the options.

    Args:
        owner: The call named in the error.
        parameter: The parameter named in the error.
        options: The names there are.
        value: What was given.

    Raises:
        ArgumentError: If it is none of them.
    """
    if value not in options:
        raise bad_choice(owner, parameter, options, value)
