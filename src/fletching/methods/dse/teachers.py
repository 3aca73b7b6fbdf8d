"""What a teacher thinks of pairs, as logits that a student can be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fletching.errors import bad_argument
from fletching.methods.dse.data import PairRow, build_dataset, count_logits, read_pairs
from fletching.models.inputs import check_count
from fletching.models.loading import load
from fletching.models.sharing import fingerprint
from fletching.training.teacher_scores import TeacherScores

__all__ = ["add_teacher_logits", "check_teacher", "compute_logits", "open_teacher", "reduce_logits"]

_OWNER = "DSE"


def open_teacher(path_or_id: str | Path, **options: Any) -> Any:
    """Open a reranker as a teacher.

    Args:
        path_or_id: Whatever `fletching.load` opens as a reranker: any cross-encoder, or a listwise reranker
            such as ``"mvp-mini"``.
        **options: Passed to `fletching.load`, such as ``device``.

    Returns:
        The teacher.

    Raises:
        CheckpointError: If it cannot be opened, or is no reranker.
    """
    return load(path_or_id, kind="reranker", **options)


def check_teacher(teacher: Any, *, task: str, num_labels: int | None = None) -> None:
    """Refuse a teacher whose labels are not those of the task.

    Args:
        teacher: A cross-encoder.
        task: ``"binary"``: 1 or 2 labels; ``"multiclass"``: ``num_labels``; ``"regression"``: 1.
        num_labels: Classes of a multiclass task.

    Raises:
        ArgumentError: If it has another number of labels.
    """
    n_logits = count_logits(_OWNER, task, num_labels)
    found = int(teacher.num_labels)
    fits = found in (1, 2) if task == "binary" else found == n_logits
    if not fits:
        number = "1 or 2 labels" if task == "binary" else f"{n_logits} label{'s' * (n_logits > 1)}"
        remedy = "Take one that was trained for this task"
        raise bad_argument(_OWNER, "teacher", f"a model with {number} for the {task} task", found, remedy)


def reduce_logits(logits: Tensor, *, task: str) -> Tensor:
    """Turn a teacher's logits into what the student is compared with.

    Two logits of a binary task become ``t = z_1 - z_0``, whose sigmoid is the teacher's probability of class
    1 (reference code of arXiv 1908.05161); all else stays.

    Args:
        logits: Shape ``(N, C)``, or ``(N,)`` for one label.
        task: ``"binary"``, ``"multiclass"`` or ``"regression"``.

    Returns:
        Shape ``(N, C)``; C is 1 for a binary task.

    Example:
        >>> reduce_logits(torch.tensor([[0.2, 1.5], [1.0, -1.0]]), task="binary")
        tensor([[ 1.3000],
                [-2.0000]])
    """
    logits = logits[:, None] if logits.ndim == 1 else logits
    if task == "binary" and logits.shape[1] == 2:
        return logits[:, 1:] - logits[:, :1]
    return logits


def compute_logits(
    teacher: Any,
    pairs: Sequence[tuple[str, str]],
    *,
    task: str,
    labels: Sequence[str] = (),
    batch_size: int | None = None,
    show_progress_bar: bool | None = False,
) -> Tensor:
    """Ask a model what it thinks of pairs; nothing is kept.

    A listwise reranker reads each pair as a list of one: what it says of a passage then depends on nothing
    else, as what the student says.

    Args:
        teacher: A ``CrossEncoder``, of fletching or of sentence-transformers alone; a student will do, too.
        pairs: The pairs.
        task: ``"binary"``, ``"multiclass"`` or ``"regression"``.
        labels: Names of the labels in the task's order. A teacher that calls its labels the same in another
            order (``id2label`` in its configuration) has them put into this one.
        batch_size: Pairs of one batch; ``None`` leaves it to the model.
        show_progress_bar: Passed on.

    Returns:
        Logits, as `reduce_logits` leaves them, shape ``(N, C)``, float32, on the CPU.

    Raises:
        ArgumentError: If ``batch_size`` is not positive.
        FletchingError: If the model computes NaN.
    """
    check_count("compute_logits", "batch_size", batch_size)
    if not pairs:
        return torch.zeros(0, 1)
    options: dict[str, Any] = {"show_progress_bar": show_progress_bar}
    if batch_size is not None:
        options["batch_size"] = batch_size
    if getattr(teacher, "listwise", False):
        lists = [[second] for _, second in pairs]
        rankings = teacher.rank_batch([first for first, _ in pairs], lists, scores="logit", **options)
        return torch.tensor([[ranking[0]["score"]] for ranking in rankings])
    found = teacher.predict(list(pairs), activation_fn=torch.nn.Identity(), convert_to_tensor=True, **options)
    logits = found.float().cpu().view(len(pairs), -1)
    order = _find_order(teacher, labels)
    return reduce_logits(logits if order is None else logits[:, order], task=task)


def add_teacher_logits(
    data: Any,
    teacher: Any,
    *,
    task: str = "binary",
    labels: Sequence[str] = (),
    num_labels: int | None = None,
    path: str | Path | None = None,
    batch_size: int | None = None,
    show_progress_bar: bool | None = None,
) -> Any:
    """Attach a teacher's logits to pairs, computed once and kept in a file if wanted.

    Logits go with their pair: the data can be shuffled, filtered and put together afterwards. In the file
    they are found by the texts and the teacher's weights, so that logits of a text that has changed, or of
    another teacher, are never taken; an interrupted run goes on where it stopped.

    Args:
        data: Pairs of `read_pairs`; or a ``datasets.Dataset``, as `read_pairs` reads it.
        teacher: A cross-encoder, an opened one or what `fletching.load` opens.
        task: ``"binary"``, ``"multiclass"`` or ``"regression"``.
        labels: Names of the labels in their order, as for `compute_logits`.
        num_labels: Classes of a multiclass task; ``None`` counts ``labels``.
        path: File for the logits, see `TeacherScores`; ``None`` keeps nothing.
        batch_size: Pairs of one batch; ``None`` leaves it to the model.
        show_progress_bar: ``None``: if the ``fletching`` logger is at INFO and stderr is a terminal.

    Returns:
        New pairs with logits; for a data set, what `build_dataset` makes of them.

    Raises:
        ArgumentError: If the teacher has another number of labels than the task.
        CheckpointError: If the teacher cannot be opened.
        FletchingError: If the teacher computes NaN.
    """
    num_labels = len(labels) or None if num_labels is None else num_labels
    count_logits("add_teacher_logits", task, num_labels)  # before a model is opened
    if isinstance(teacher, (str, Path)):
        teacher = open_teacher(teacher)
    check_teacher(teacher, task=task, num_labels=num_labels)
    is_rows = isinstance(data, Sequence) and all(isinstance(row, PairRow) for row in data)
    rows: Sequence[PairRow] = data if is_rows else read_pairs(data, labels=labels)
    store = TeacherScores(path, teacher=fingerprint(teacher), settings={"task": task, "labels": list(labels)})

    def compute(pairs: list[tuple[str, ...]]) -> Sequence[list[float]]:
        chunk = [(first, second) for first, second in pairs]
        logits = compute_logits(teacher, chunk, task=task, labels=labels, batch_size=batch_size)
        found: list[list[float]] = logits.tolist()
        return found

    scores = store.score(
        [(row.first, row.second) for row in rows], compute, show_progress_bar=show_progress_bar
    )
    scored = [replace(row, teacher=found) for row, found in zip(rows, scores, strict=True)]
    return scored if is_rows else build_dataset(scored)


def _find_order(teacher: Any, labels: Sequence[str]) -> list[int] | None:
    """Say where the teacher has the labels of the task; ``None`` if it calls them otherwise."""
    config = getattr(getattr(teacher[0], "model", None), "config", None)
    id2label = getattr(config, "id2label", None) or {}
    names = {str(name).lower(): int(place) for place, name in id2label.items()}
    wanted = [label.lower() for label in labels]
    if not wanted or len(wanted) != len(names) or set(wanted) != set(names):
        return None
    return [names[label] for label in wanted]
