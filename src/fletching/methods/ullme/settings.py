"""Every choice of the loss, with the source of its default."""

from __future__ import annotations

from dataclasses import dataclass

from fletching.errors import bad_argument, bad_choice
from fletching.methods.ullme.functional import (
    CONTRASTIVE_LOSSES,
    KL_DIRECTIONS,
    PREFERENCE_LOSSES,
    SIMILARITIES,
)

__all__ = ["GEN_LOSSES", "NONFINITE", "REFERENCES", "GRLSettings", "is_count"]

GEN_LOSSES = (*PREFERENCE_LOSSES, "dpo", "sft", "ecpo")
"""What ``gen_loss=`` may be, besides ``None``: ``"dpo"`` is ``"sigmoid"``."""

REFERENCES = ("adapters_off", "none")
"""What ``reference=`` may be."""

NONFINITE = ("skip", "raise")
"""What ``nonfinite_kl=`` may be."""


@dataclass(frozen=True)
class GRLSettings:
    """Every choice of the loss; the defaults are those of the released checkpoints (GenC).

    The total is ``contrastive_weight * L_CL + kl_weight * L_KL + gen_weight * L_gen``. A weight of 0 leaves
    the term out, with all the work for it.

    Args:
        contrastive_loss: ``"supcon"`` or ``"ntxent"``; equal with one positive and no miner.
        similarity: ``"cosine"``, or ``"euclidean"``: minus the distance of the vectors at length one.
        temperature: Divides the similarities, > 0.
        miner_epsilon: Margin of the multi-similarity miner, >= 0; ``None`` keeps all pairs.
        cross_row_negatives: Whether the texts of other rows are negatives; ``False`` for classification and
            clustering data, whose texts repeat.
        n_positives: Columns of positives, >= 1.
        contrastive_weight: >= 0.
        kl_weight: >= 0.
        kl_temperature: Divides the cosines in the KL term, > 0.
        kl_direction: ``"gen_rep"`` is KL(P_gen || P_rep), ``"rep_gen"`` the other.
        detach_generator: Whether the KL term leaves the generator alone.
        nonfinite_kl: What to do with a query whose KL is not finite: ``"skip"`` leaves it out of the mean,
            counts it and warns; ``"raise"`` raises. If none is finite, both raise. Other terms leave nothing
            out: a trainer sees their NaN.
        gen_loss: ``"sft"``; a preference loss, ``"sigmoid"`` (DPO), ``"hinge"``, ``"ipo"`` or ``"kto_pair"``;
            ``"ecpo"``, which is sigmoid, whose ``reference`` is not asked, plus ``"sft"``; ``None`` for none.
        gen_weight: >= 0.
        beta: Of the preference losses, > 0.
        label_smoothing: Of ``"sigmoid"``, from 0 to below 0.5.
        reference: What a preference is measured against: ``"adapters_off"``, the same weights without their
            adapters, or ``"none"``.
        two_adapters: Whether an adapter of its own generates; the model then has ``embedding`` and
            ``generation``.

    Raises:
        ArgumentError: If a value is outside its domain.

    Example:
        >>> GRLSettings(gen_loss="ecpo").uses_reference
        False
    """

    contrastive_loss: str = "supcon"  # GenC; ULLME: ntxent
    similarity: str = "cosine"  # GenC; ULLME: euclidean
    temperature: float = 0.1  # GenC; ULLME: 0.05
    miner_epsilon: float | None = 0.2  # GenC; ULLME: 0.25
    cross_row_negatives: bool = True  # ULLME's enable_cross_batch_negative_sampling
    n_positives: int = 1  # GenC, ULLME
    contrastive_weight: float = 1.0  # GenC
    kl_weight: float = 1.0  # GenC, ULLME
    kl_temperature: float = 0.1  # GenC; ULLME: that of the contrastive term
    kl_direction: str = "gen_rep"  # both codes; a summary of the paper has the other
    detach_generator: bool = True  # both codes
    nonfinite_kl: str = "skip"  # ours; both codes replace it by 0
    gen_loss: str | None = "sigmoid"  # GenC, ULLME
    gen_weight: float = 0.5  # GenC; ULLME: 1
    beta: float = 0.1  # GenC, ULLME
    label_smoothing: float = 0.0  # GenC
    reference: str = "adapters_off"  # GenC, paper; the present ULLME tree has none
    two_adapters: bool = False  # GenC has two, ULLME one; a loss cannot tell what the model has

    def __post_init__(self) -> None:
        """Check every value."""
        owner = type(self).__name__
        for name, options in (
            ("contrastive_loss", CONTRASTIVE_LOSSES),
            ("similarity", SIMILARITIES),
            ("kl_direction", KL_DIRECTIONS),
            ("nonfinite_kl", NONFINITE),
            ("reference", REFERENCES),
        ):
            if getattr(self, name) not in options:
                raise bad_choice(owner, name, options, getattr(self, name))
        if self.gen_loss is not None and self.gen_loss not in GEN_LOSSES:
            raise bad_choice(owner, "gen_loss", GEN_LOSSES, self.gen_loss)
        for name in ("temperature", "kl_temperature", "beta"):
            if not getattr(self, name) > 0:
                raise bad_argument(owner, name, "positive", getattr(self, name))
        for name in ("contrastive_weight", "kl_weight", "gen_weight"):
            if not getattr(self, name) >= 0:
                raise bad_argument(owner, name, "zero or positive", getattr(self, name))
        if self.miner_epsilon is not None and not self.miner_epsilon >= 0:
            raise bad_argument(owner, "miner_epsilon", "zero or positive, or None", self.miner_epsilon)
        if not 0 <= self.label_smoothing < 0.5:
            raise bad_argument(owner, "label_smoothing", "from 0 to below 0.5", self.label_smoothing)
        if not is_count(self.n_positives):
            raise bad_argument(owner, "n_positives", "a positive integer", self.n_positives)

    @property
    def preference(self) -> str | None:
        """Which preference loss ``gen_loss`` has, if any."""
        names = {"dpo": "sigmoid", "ecpo": "sigmoid", "sft": None, None: None}
        return names.get(self.gen_loss, self.gen_loss)

    @property
    def has_sft(self) -> bool:
        """Whether ``gen_loss`` has the cross-entropy of the positives."""
        return self.gen_loss in ("sft", "ecpo")

    @property
    def uses_embeddings(self) -> bool:
        """Whether a term reads embeddings."""
        return self.contrastive_weight > 0 or self.kl_weight > 0

    @property
    def generates(self) -> bool:
        """Whether a term trains the generator by itself."""
        return self.gen_weight > 0 and self.gen_loss is not None

    @property
    def reads_likelihoods(self) -> bool:
        """Whether a term reads the likelihood of passages, so that rows for the generator are needed."""
        return self.kl_weight > 0 or self.generates

    @property
    def uses_reference(self) -> bool:
        """Whether the reference is asked."""
        is_asked = self.generates and self.preference is not None and self.gen_loss != "ecpo"
        return is_asked and self.reference == "adapters_off"

    def check_candidates(self, owner: str, count: int) -> None:
        """Make sure that rows hold what every term compares.

        Args:
            owner: Who is named in errors.
            count: Candidates of a query: positives, then negatives.

        Raises:
            ArgumentError: If they are too few.
        """
        name, remedy = "positives and negatives", "Add a column of negatives, or set "
        if count < self.n_positives:
            raise bad_argument(owner, name, f"at least {self.n_positives} a query, all positives", count)
        if self.kl_weight > 0 and count < 2:
            domain = "at least 2 a query, for the KL term to compare"
            raise bad_argument(owner, name, domain, count, remedy + "kl_weight=0")
        if self.generates and self.preference is not None and count == self.n_positives:
            domain = f"at least {count + 1} a query, with a negative for the preference loss to reject"
            raise bad_argument(owner, name, domain, count, remedy + "gen_loss='sft'")


def is_count(value: object) -> bool:
    """Say whether a value is a positive integer.

    Args:
        value: Anything.

    Returns:
        Whether it is; ``True`` is none.
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
