"""What a DSE student is made of, and where each number comes from."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from fletching.errors import bad_argument, bad_choice
from fletching.methods.dse.data import TASKS
from fletching.models.inputs import check_count, check_positive

COMBINE = ("concat", "mean")
"""How the top layers become one."""

TOKEN_POOLING = ("mean", "sqrt_mean", "max")
"""How the tokens become one."""

POOLERS: dict[str, tuple[str, str, bool]] = {
    f"{combine}_top_{tokens}{'_with_cls' * include_cls}": (combine, tokens, include_cls)
    for combine, tokens, include_cls in product(COMBINE, TOKEN_POOLING, (False, True))
}
"""The poolers of the reference code but ``"cls"``: name -> (combine, token pooling, whether [CLS] counts)."""

HEADS = ("mlp", "dot")
"""What the head reads of a pair: all four features, or only the dot product."""


@dataclass(frozen=True)
class DSEConfig:
    """What a student is made of; the defaults are those of the reference code.

    Args:
        pooling: A name of :data:`POOLERS`, or ``"cls"``: a dense layer with tanh over the first token.
        num_layers: Top layers that the pooling reads; ``"cls"`` reads the last one.
        embedding_size: Width of a linear layer behind the pooling; ``None`` adds none.
        head: ``"mlp"`` or ``"dot"``.
        fc_dims: Widths of the head's layers; the last is the number of labels. Empty, the score is the dot
            product itself, which only ``head="dot"`` can do.
        task: ``"binary"``, ``"multiclass"`` or ``"regression"``; ``None`` takes ``"binary"`` for one label
            and ``"multiclass"`` for more.
        symmetric: Whether a score is the mean of both orders of the pair, in training too.
        label: The class that a multiclass model ranks by; ``None`` leaves it to whoever opens the model.
        max_seq_length: Tokens of a sentence; ``None`` takes 128, or what the encoder has positions for.
        dropout: Of the pooled vector in training; ``None`` takes the encoder's hidden dropout, else 0.1.
        apply_final_norm: Whether the norm that a pre-norm encoder applies behind its last layer is applied to
            the other layers too. An encoder without such a norm stays as it is.
        seed: Of the weights that are new.

    Raises:
        ArgumentError: If a value is outside its domain.
    """

    pooling: str = "concat_top_mean"  # reference code
    num_layers: int = 4  # reference code
    embedding_size: int | None = None  # reference code: -1, off
    head: str = "mlp"  # reference code
    fc_dims: tuple[int, ...] = (512, 1)  # reference code
    task: str | None = None
    symmetric: bool = False  # reference code
    label: int | None = None  # ours
    max_seq_length: int | None = None  # reference code: 128
    dropout: float | None = None  # reference code: that of the encoder
    apply_final_norm: bool = False  # ours
    seed: int = 0  # ours

    def __post_init__(self) -> None:
        """Check what can be checked without the encoder."""
        owner = type(self).__name__
        if self.pooling not in POOLERS and self.pooling != "cls":
            raise bad_choice(owner, "pooling", [*POOLERS, "cls"], self.pooling)
        if self.head not in HEADS:
            raise bad_choice(owner, "head", HEADS, self.head)
        check_positive(owner, "num_layers", self.num_layers)
        for name in ("embedding_size", "max_seq_length"):
            check_count(owner, name, getattr(self, name))
        object.__setattr__(self, "fc_dims", check_fc_dims(owner, self.head, self.fc_dims))
        choose_task(owner, self.task, self.num_labels)
        check_label(owner, self.label, self.num_labels)

    @property
    def num_labels(self) -> int:
        """Labels that the head scores."""
        return self.fc_dims[-1] if self.fc_dims else 1

    @property
    def chosen_task(self) -> str:
        """The task, found from the number of labels where none is given."""
        return choose_task(type(self).__name__, self.task, self.num_labels)


def check_fc_dims(owner: str, head: str, fc_dims: object) -> tuple[int, ...]:
    """Return the widths of a head's layers.

    Args:
        owner: Class named in the error.
        head: One of :data:`HEADS`.
        fc_dims: Anything.

    Returns:
        The widths.

    Raises:
        ArgumentError: If they are no positive integers, or none where the head needs some.
    """
    if not isinstance(fc_dims, (list, tuple)):
        raise bad_argument(owner, "fc_dims", "a list of positive integers, the last the labels", fc_dims)
    for place, width in enumerate(fc_dims):
        check_positive(owner, f"fc_dims[{place}]", width)
    if head == "mlp" and not fc_dims:
        raise bad_argument(owner, "fc_dims", "at least one width for head='mlp'", fc_dims)
    return tuple(fc_dims)


def choose_task(owner: str, task: str | None, num_labels: int) -> str:
    """Return the task of a head, if it goes with its number of labels.

    Args:
        owner: Class named in the error.
        task: One of :data:`TASKS`; ``None`` takes ``"binary"`` for one label and ``"multiclass"`` for more.
        num_labels: Labels of the head.

    Returns:
        The task.

    Raises:
        ArgumentError: If there is no such task, or it has another number of labels.
    """
    task = ("binary" if num_labels == 1 else "multiclass") if task is None else task
    if task not in TASKS:
        raise bad_choice(owner, "task", TASKS, task)
    if (task == "multiclass") == (num_labels == 1):
        domain = "2 or more labels for a multiclass task, 1 for the others"
        raise bad_argument(owner, "fc_dims", domain, num_labels, "The last width is the number of labels")
    return task


def check_label(owner: str, label: object, num_labels: int) -> None:
    """Refuse a class to rank by that a head does not have.

    Args:
        owner: Class named in the error.
        label: Anything.
        num_labels: Labels of the head.

    Raises:
        ArgumentError: If it is neither ``None`` nor one of several classes.
    """
    is_class = isinstance(label, int) and not isinstance(label, bool) and 0 <= label < num_labels
    if label is not None and (num_labels == 1 or not is_class):
        domain = "None for one label" if num_labels == 1 else f"from 0 to {num_labels - 1}, or None"
        raise bad_argument(owner, "label", domain, label)
