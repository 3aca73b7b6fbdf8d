"""Names, templates and settings of DefSent+, and where each comes from."""

from __future__ import annotations

from dataclasses import dataclass

from fletching.errors import bad_argument, bad_choice
from fletching.models.inputs import check_positive

ENTRY_POOLINGS = {"ac": "cls", "amp": "mean"}  # reference code: average CLS, average mean pooling
"""How an entry's vector is made of its definitions, and how each of these is pooled."""

TRAINING_POOLINGS = ("cls", "mean")  # reference code
"""How DefSent+ pools a definition in training."""

BARE_POOLINGS = (*TRAINING_POOLINGS, "max")  # the last one: DefSent only
"""How a text without a template may be pooled."""

POOLINGS = (*TRAINING_POOLINGS, "prompt", "max")  # reference code
"""How a model may pool a sentence."""

ACTIVATIONS = ("tanh", "gelu")  # reference code: BERT's pooler; RoBERTa's, overwritten
"""What follows the projection."""

VARIANCES = ("arbitrary", "unit")
"""What a column of independent components varies by; see :class:`ICAConfig`."""

NO_ENTRY = -1
"""Fills up rows of labels where some definitions belong to fewer entries than others."""

SENTENCE, MASK = "{sentence}", "{mask}"

TEMPLATE = 'This sentence : "{sentence}" means {mask} . '  # reference code, with the space at the end
"""What a sentence is put into for the pooling ``"prompt"``; the mask token is the tokenizer's own."""


@dataclass(frozen=True)
class ICAConfig:
    """Settings of the independent component analysis of entry embeddings.

    The components come with ``fun="logcosh"`` after each column has mean 0 and deviation 1, and are
    multiplied by ``scale``. With ``variance="arbitrary"`` a column then has the deviation
    ``scale / sqrt(V)``, close to that of a hidden state, as with the scikit-learn (up to 1.0) that the
    authors ran. ``variance="unit"`` is what the same line of code does with today's: the deviation is
    ``scale`` itself, 100, and the logits explode.

    Args:
        variance: ``"arbitrary"`` or ``"unit"``.
        scale: Multiplies the components; > 0.
        max_iterations: Most iterations; where they do not suffice, scikit-learn warns.
        tolerance: Where the iteration stops; > 0.
        seed: Decides where it starts.

    Raises:
        ArgumentError: If an argument is outside its domain.
    """

    variance: str = "arbitrary"  # ours, for what the reference code did when it was written
    scale: float = 100.0  # reference code
    max_iterations: int = 1000  # reference code
    tolerance: float = 1e-4  # reference code
    seed: int = 42  # reference code

    def __post_init__(self) -> None:
        """Check what scikit-learn would not, or would word otherwise."""
        owner = type(self).__name__
        if self.variance not in VARIANCES:
            raise bad_choice(owner, "variance", VARIANCES, self.variance)
        check_positive(owner, "max_iterations", self.max_iterations)
        for name in ("scale", "tolerance"):
            check_number(owner, name, getattr(self, name))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise bad_argument(owner, "seed", "an integer from 0 to 2**32 - 1", self.seed)


def check_number(owner: str, parameter: str, value: object) -> None:
    """Refuse what is no positive number.

    Args:
        owner: Who asks.
        parameter: Name of the parameter.
        value: What was given.

    Raises:
        ArgumentError: If it is something else.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < float("inf"):  # type: ignore[operator]
        raise bad_argument(owner, parameter, "positive and finite", value)


def split_template(template: str) -> tuple[str, str, str]:
    """Take a template apart into what stands before the sentence, up to the mask, and after it.

    Args:
        template: Text with one ``{sentence}`` and, after it, one ``{mask}``.

    Returns:
        The three texts, white space included.

    Raises:
        ArgumentError: If it is no such text.

    Example:
        >>> split_template(TEMPLATE)
        ('This sentence : "', '" means ', ' . ')
    """
    domain = f"text with one {SENTENCE} and, after it, one {MASK}"
    if not isinstance(template, str) or template.count(SENTENCE) != 1 or template.count(MASK) != 1:
        raise bad_argument("DefSentPlusEmbedder", "template", domain, template)
    before, _, rest = template.partition(SENTENCE)
    middle, found, after = rest.partition(MASK)
    if not found:
        raise bad_argument("DefSentPlusEmbedder", "template", domain, template)
    return before, middle, after
