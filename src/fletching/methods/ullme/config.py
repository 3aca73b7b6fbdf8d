"""The choices and defaults of the network."""

from __future__ import annotations

from dataclasses import dataclass

from fletching.errors import bad_argument, bad_choice

OWNER = "LLMEmbedder"
"""Who speaks in the errors of this folder."""

POOLINGS = ("mean", "weightedmean", "lasttoken", "cls", "max", "mean_sqrt_len_tokens")
"""What ``pooling=`` may be: the modes of sentence-transformers' ``Pooling``, the paper's four first."""

MAX_TOKENS = 512
"""Longest row, in tokens, unless told otherwise; GenC and ULLME."""

EMBEDDING_ADAPTER = "embedding"
"""Name of the adapter that embeds, where there are two; GenC."""

GENERATION_ADAPTER = "generation"
"""Name of the adapter that generates, where there are two; GenC."""


@dataclass(frozen=True)
class EncoderConfig:
    """How a language model embeds.

    Args:
        causal: Whether a token sees only those before it.
        pooling: One of ``POOLINGS``.
        exclude_prompt: Whether the embedding leaves out what stands in front of the text.
        projection: Whether the losses see the embedding through a small head; it is never used to encode.

    Raises:
        ArgumentError: If a value is outside its domain, or the pair of pooling and attention reads nothing.
    """

    causal: bool = False  # paper: bidirectional
    pooling: str = "mean"  # paper
    exclude_prompt: bool = True  # GenC; the present ULLME tree pools everything
    projection: bool = False  # GenC; the present ULLME tree has it

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("causal", "exclude_prompt", "projection"):
            if not isinstance(getattr(self, name), bool):
                raise bad_argument(OWNER, name, "True or False", getattr(self, name))
        if self.pooling not in POOLINGS:
            raise bad_choice(OWNER, "pooling", POOLINGS, self.pooling)
        if self.causal and self.pooling == "cls":
            remedy = "The first token sees no other; use 'lasttoken'"
            raise bad_argument(OWNER, "pooling", "another than 'cls' with causal=True", "cls", remedy)


@dataclass(frozen=True)
class LoRAConfig:
    """A low-rank adapter on every linear layer of the language model.

    Args:
        r: Rank.
        alpha: Scale; the update is multiplied by ``alpha / r``.
        dropout: On the adapter's input, while training.
        target_modules: Names of linear layers, or ``"all-linear"``: all but the head.

    Raises:
        ArgumentError: If a value is outside its domain.
    """

    r: int = 16  # GenC, ULLME
    alpha: int = 32  # GenC, ULLME
    dropout: float = 0.1  # GenC, ULLME
    target_modules: str | tuple[str, ...] = "all-linear"  # GenC

    def __post_init__(self) -> None:
        """Check every value."""
        owner = f"{OWNER}.add_lora"
        for name in ("r", "alpha"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise bad_argument(owner, name, "a positive integer", value)
        if not isinstance(self.dropout, (int, float)) or not 0 <= self.dropout < 1:
            raise bad_argument(owner, "dropout", "a number from 0 up, less than 1", self.dropout)
