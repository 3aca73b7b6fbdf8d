"""Hyper-parameters of the baselines, and where each comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fletching.errors import bad_argument, bad_choice

BASE = "google-bert/bert-base-chinese"  # reference scripts, by its full name on the hub
QUERY_TOKENS = 32  # reference scripts
PASSAGE_TOKENS = 300  # reference scripts
PAIR_TOKENS = 332  # reference scripts

BASELINES = ("bm25", "dual_encoder", "cross_encoder", "mvp")
"""What ``baseline`` may be."""

STAGES = ("bm25", "mined", "self_mined")
"""What ``negatives`` may name: the authors' two lists, and one that our own dual encoder makes."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "bm25": {"negatives": ()},
    "dual_encoder": {
        "negatives": ("bm25", "self_mined"),  # README: one model with each
        "group_size": 2,  # reference script: 1 positive, 1 negative
        "window": 200,  # reference code
        "batch_size": 512,  # reference script: 64 queries on each of 8 GPUs, negatives of all
        "learning_rate": 2e-5,  # reference script
        "epochs": 200.0,  # reference script
        "eval_epochs": 10,  # reference script
    },
    "cross_encoder": {
        "negatives": ("mined",),  # reference script
        "group_size": 64,  # reference script: 1 positive, 63 negatives
        "window": 256,  # reference code
        "batch_size": 128,  # reference script: 16 queries on each of 8 GPUs
        "learning_rate": 3e-5,  # reference script
        "epochs": 20.0,  # reference script
        "eval_epochs": 1,  # reference script
    },
    "mvp": {
        "negatives": ("bm25",),  # ours
        "group_size": 5,  # reference script of MVP
        "window": 200,  # as the dual encoder
        "batch_size": 64,  # reference script of MVP
        "learning_rate": 1e-4,  # reference script of MVP
        "epochs": 1.0,  # reference script of MVP
        "eval_epochs": 1,  # ours
    },
}
"""What differs between the baselines; a field that is ``None`` takes it."""


@dataclass(frozen=True)
class T2RankingConfig:
    """What the authors trained their baselines with; ``None`` takes what :data:`DEFAULTS` says.

    Args:
        baseline: ``"bm25"``, ``"dual_encoder"``, ``"cross_encoder"`` or ``"mvp"``.
        base: Folder or hub id of the network to start from.
        negatives: What lists the negatives come from, one training after the other: ``"bm25"`` and
            ``"mined"`` read the file of that name, ``"self_mined"`` mines with the model of the stage before.
            Each stage starts from ``base``. All but the dual encoder take one.
        learning_rate: Constant, without warm-up.
        epochs: Passes over the training queries.
        batch_size: Queries of one optimiser step, on all devices together.
        eval_epochs: Epochs between evaluations and checkpoints.
        weight_decay: Of the optimiser.
        optimizer: Name of a transformers optimiser. The reference takes LAMB, which torch does not have, for
            the dual encoder, and Adam, which is AdamW without weight decay, for the cross-encoder.
        query_tokens: Of a query of the dual encoder.
        passage_tokens: Of a passage of the dual encoder.
        pair_tokens: Of a pair of the cross-encoder.
        group_size: Passages of a query in training, the positive among them.
        window: Ranks that negatives come from, counted without the positives.
        depth: Passages that a search returns, and candidates of a query that are reranked.
        fp16: Whether to train in half precision (autocast) where there is a GPU.
        seed: Of data order, initialisation and sampling.
    """

    baseline: str = "dual_encoder"
    base: str = BASE
    negatives: tuple[str, ...] | None = None
    learning_rate: float | None = None
    epochs: float | None = None
    batch_size: int | None = None
    eval_epochs: int | None = None
    weight_decay: float = 0.0  # reference code: the argument of 0.01 is not used
    optimizer: str = "adamw_torch"  # ours: the reference takes LAMB or Adam
    query_tokens: int = QUERY_TOKENS
    passage_tokens: int = PASSAGE_TOKENS
    pair_tokens: int = PAIR_TOKENS
    group_size: int | None = None
    window: int | None = None
    depth: int = 1000  # reference scripts
    fp16: bool = True  # reference scripts
    seed: int = 2023  # reference scripts

    def __post_init__(self) -> None:
        """Check every value."""
        owner = type(self).__name__
        if self.baseline not in BASELINES:
            raise bad_choice(owner, "baseline", BASELINES, self.baseline)
        for stage in self.negatives or ():
            if stage not in STAGES:
                raise bad_choice(owner, "negatives", STAGES, stage)
        if self.negatives is not None and self.baseline != "bm25":
            if not self.negatives or (len(self.negatives) > 1 and self.baseline != "dual_encoder"):
                raise bad_argument(owner, "negatives", "one source", self.negatives)
            if self.negatives[0] == "self_mined":
                remedy = "Put 'bm25' in front of it."
                raise bad_argument(
                    owner, "negatives", "a list whose first stage reads a file", self.negatives, remedy
                )
        for name, lowest in (
            ("group_size", 2),
            ("window", 1),
            ("batch_size", 1),
            ("eval_epochs", 1),
            ("query_tokens", 4),
            ("passage_tokens", 4),
            ("pair_tokens", 4),
            ("depth", 1),
        ):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= lowest):
                raise bad_argument(owner, name, f"an integer >= {lowest}", value)
        for name in ("learning_rate", "epochs"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise bad_argument(owner, name, "positive", value)
        if not self.weight_decay >= 0:
            raise bad_argument(owner, "weight_decay", "zero or positive", self.weight_decay)

    def resolve(self, name: str) -> Any:
        """Return a field, or what the baseline takes where it is ``None``.

        Args:
            name: Name of the field.

        Returns:
            Its value.

        Example:
            >>> T2RankingConfig("cross_encoder").resolve("group_size")
            64
        """
        value = getattr(self, name)
        return DEFAULTS[self.baseline].get(name) if value is None else value
