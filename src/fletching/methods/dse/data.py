"""Sentence pairs with a label, out of files and out of data sets of Hugging Face."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from fletching.data.lines import StrPath, Words, no_records, parse_number, read_json_lines, read_lines
from fletching.data.tables import simplify
from fletching.errors import bad_argument, bad_choice, bad_record
from fletching.models.inputs import check_count

__all__ = ["LABELS", "TASKS", "PairRow", "build_dataset", "count_logits", "read_pairs"]

logger = logging.getLogger(__name__)

TASKS = ("binary", "multiclass", "regression")
"""What ``task`` may be."""

LABELS = {  # GLUE's order, as the reference code has it
    "mnli": ("contradiction", "entailment", "neutral"),
    "snli": ("contradiction", "entailment", "neutral"),
    "qnli": ("entailment", "not_entailment"),
    "rte": ("entailment", "not_entailment"),
}
"""Names of labels in the order of their numbers, from 0, for GLUE's tasks that have some."""

NAN = float("nan")

_FIRST, _SECOND, _LABEL, _TEACHER = "sentence1", "sentence2", "label", "teacher"
# What header lines and JSON call them, as `simplify` leaves it.
_NAMES = {
    **dict.fromkeys(["sentence1", "sentencea", "text1", "texta", "premise", "question1", "question"], _FIRST),
    **dict.fromkeys(["query", "#1string"], _FIRST),
    **dict.fromkeys(["sentence2", "sentenceb", "text2", "textb", "hypothesis", "question2"], _SECOND),
    **dict.fromkeys(["sentence", "document", "passage", "answer", "#2string"], _SECOND),
    **dict.fromkeys(["label", "goldlabel", "score", "similarity", "quality", "isduplicate"], _LABEL),
    **dict.fromkeys(["relatednessscore", "entailment", "entailmentjudgment"], _LABEL),
    **dict.fromkeys(["teacher", "teacherlogits", "logits"], _TEACHER),
}
_ROLES = (_FIRST, _SECOND, _LABEL)
_NO_LABEL = ("", "-")  # SNLI's mark where the five who were asked did not agree
_HUGGING_FACE_NO_LABEL = -1


@dataclass(frozen=True, slots=True)
class PairRow:
    """Two sentences, what people say of them, and what a teacher says.

    Args:
        first: The first sentence, or the query.
        second: The second sentence, or the document.
        label: 0 or 1, the number of a class, or any number; NaN where nobody said.
        teacher: Logits of a teacher, one for each logit of the student; ``None`` where none was asked.
    """

    first: str
    second: str
    label: float = NAN
    teacher: tuple[float, ...] | None = None


def read_pairs(
    source: StrPath | Iterable[Mapping[str, Any]],
    *,
    labels: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
) -> list[PairRow]:
    """Read sentence pairs from a tab-separated file, JSON lines, or a data set of Hugging Face.

    Pairs that lack a sentence are left out and counted, as in the reference code; a pair whose label is
    missing, ``-`` or, in a data set of Hugging Face with named labels, -1, has the label NaN.

    Args:
        source: A file with a header line or of JSON objects, plain or gzipped; a folder that ``save_to_disk``
            of ``datasets`` wrote; or rows, such as a ``datasets.Dataset``.
        labels: Names of the labels in the order of their numbers, where labels are names; see `LABELS`.
        columns: What the columns are called: ``{"sentence1": ..., "sentence2": ..., "label": ...}``, and
            ``"teacher"`` for a list of logits; ``None``, and for what it does not name, the usual names.

    Returns:
        The pairs in their order.

    Raises:
        ArgumentError: If ``columns`` or ``labels`` make no sense.
        DataError: If a file or a record is malformed, or no pair is left.
    """
    unknown = [name for name in columns or {} if name not in (*_ROLES, _TEACHER)]
    if unknown:
        raise bad_choice("read_pairs", "columns", (*_ROLES, _TEACHER), unknown[0])
    if isinstance(labels, str) or len(set(labels)) < len(labels):
        raise bad_argument("read_pairs", "labels", "a list of different names", labels)
    name = str(source) if isinstance(source, (str, PathLike)) else type(source).__name__
    places = {label.strip().lower(): float(place) for place, label in enumerate(labels)}
    rows: list[PairRow] = []
    n_skipped = 0
    for number, record in _read_records(source, columns):
        first, second = record.get(_FIRST), record.get(_SECOND)
        if not _is_text(first) or not _is_text(second):
            n_skipped += 1
            continue
        label = _read_label(name, number, record.get(_LABEL), places)
        teacher = record.get(_TEACHER)
        if teacher is not None:
            values = teacher if isinstance(teacher, (list, tuple)) else [teacher]
            teacher = tuple(parse_number(name, number, _TEACHER, value) for value in values)
        rows.append(PairRow(str(first), str(second), label, teacher))
    if n_skipped:
        n_all = n_skipped + len(rows)
        logger.warning("%s: left out %d of %d pairs, which lack a sentence.", name, n_skipped, n_all)
    if not rows:
        raise no_records(name)
    return rows


def build_dataset(rows: Sequence[PairRow]) -> Any:
    """Turn pairs into what a trainer takes: the sentences, and label and logits in one column.

    Trainers pass one label on: ``label`` is ``[label, t_1, ..., t_C]``. Logits are part of the row, so that
    nothing comes apart when rows are shuffled, filtered or put together.

    Args:
        rows: The pairs; either all with logits or none.

    Returns:
        A ``datasets.Dataset`` with the columns ``sentence1``, ``sentence2`` and ``label``.

    Raises:
        ArgumentError: If there is no row, or rows differ in how many logits they have.
    """
    from datasets import Dataset

    if not rows:
        raise bad_argument("build_dataset", "rows", "at least one pair", rows)
    sizes = {len(row.teacher or ()) for row in rows}
    if len(sizes) > 1:
        domain = "pairs with equally many logits of a teacher"
        raise bad_argument("build_dataset", "rows", domain, sorted(sizes), "add_teacher_logits adds them")
    return Dataset.from_dict(
        {
            _FIRST: [row.first for row in rows],
            _SECOND: [row.second for row in rows],
            _LABEL: [[row.label, *(row.teacher or ())] for row in rows],
        }
    )


def count_logits(owner: str, task: str, num_labels: int | None = None) -> int:
    """Say how many logits a student has.

    Args:
        owner: The call named in errors.
        task: One of `TASKS`.
        num_labels: Classes of a multiclass task.

    Returns:
        1 for binary and regression, ``num_labels`` for multiclass.

    Raises:
        ArgumentError: If the two do not go together.
    """
    if task not in TASKS:
        raise bad_choice(owner, "task", TASKS, task)
    check_count(owner, "num_labels", num_labels)
    if task == "multiclass":
        if num_labels is None or num_labels < 2:
            raise bad_argument(owner, "num_labels", "at least 2 for the multiclass task", num_labels)
        return num_labels
    if task == "regression" and num_labels not in (None, 1):
        raise bad_argument(owner, "num_labels", "1 or None for the regression task", num_labels)
    if task == "binary" and num_labels not in (None, 1, 2):
        raise bad_argument(owner, "num_labels", "1, 2 or None for the binary task", num_labels)
    return 1


def _read_records(
    source: StrPath | Iterable[Mapping[str, Any]], columns: Mapping[str, str] | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield records under the names of this module, with their lines, or numbers from 1."""
    if isinstance(source, (str, PathLike)):
        path = Path(source)
        if path.is_dir():
            yield from _read_mappings(_open_dataset(path), columns, str(path))
            return
        _, first = next(read_lines(path))
        if first.lstrip().startswith("{"):
            order = None
            for number, record in read_json_lines(path):
                order = _find_columns(str(path), number, list(record), columns, known=order)
                yield number, {role: record.get(name) for role, name in order.items()}
            return
        yield from _read_table(path, columns)
        return
    yield from _read_mappings(source, columns, type(source).__name__)


def _read_table(path: Path, columns: Mapping[str, str] | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read a table whose rows may be cut short: what is missing is empty."""
    lines = read_lines(path)
    number, header = next(lines)
    names = header.split("\t")
    order = _find_columns(str(path), number, names, columns)
    places = {role: names.index(name) for role, name in order.items()}
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) > len(names):
            found = Words(f"{len(fields)}: {line[:40]!r}")
            raise bad_record(path, number, None, f"a row of {len(names)} columns, as the header has", found)
        yield number, {role: fields[place] if place < len(fields) else None for role, place in places.items()}


def _read_mappings(
    rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str] | None, name: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read rows that are mappings, and numbers of labels as the names that the data set gives them."""
    order = None
    features = getattr(rows, "features", None) or {}
    for number, row in enumerate(rows, start=1):
        order = _find_columns(name, number, list(row), columns, known=order)
        record = {role: row.get(column) for role, column in order.items()}
        names = getattr(features.get(order.get(_LABEL)), "names", None)
        if names and isinstance(record.get(_LABEL), int):
            place = record[_LABEL]
            record[_LABEL] = None if place == _HUGGING_FACE_NO_LABEL else (names[place], place)
        yield number, record


def _open_dataset(path: Path) -> Any:
    from datasets import Dataset, load_from_disk

    try:
        found = load_from_disk(str(path))
    except FileNotFoundError as error:
        domain = "a file, or a folder that save_to_disk of datasets wrote"
        raise bad_record(path, None, None, domain, Words("another folder")) from error
    if not isinstance(found, Dataset):
        splits = ", ".join(map(str, found))
        raise bad_record(path, None, None, "one split of a data set", Words(f"several: {splits}"))
    return found


def _find_columns(
    name: str,
    number: int,
    found: Sequence[str],
    columns: Mapping[str, str] | None,
    *,
    known: dict[str, str] | None = None,
) -> dict[str, str]:
    """Say which column plays which role; the first of several that could, but none that plays another."""
    if known is not None:
        return known
    order = dict(columns or {})
    missing = [column for column in order.values() if column not in found]
    if missing:
        raise bad_record(name, number, None, f"a record with {', '.join(missing)}", Words(", ".join(found)))
    for column in found:
        role = _NAMES.get(simplify(column))
        if role is not None and column not in order.values():
            order.setdefault(role, column)
    lacking = [role for role in (_FIRST, _SECOND) if role not in order]
    if lacking:
        domain = f"a record with {' and '.join(lacking)}"
        remedy = "Say what they are called with `columns`"
        raise bad_record(name, number, None, domain, Words(", ".join(found)), remedy)
    return order


def _read_label(name: str, number: int, value: object, places: Mapping[str, float]) -> float:
    """Read a label by name or as a number; a pair of both means either."""
    label_name, label = value if isinstance(value, tuple) else (value, value)
    if label_name is None or (isinstance(label_name, str) and label_name.strip() in _NO_LABEL):
        return NAN
    if isinstance(label_name, str) and places:
        place = places.get(label_name.strip().lower())
        if place is None and not isinstance(value, tuple):
            domain = f"one of {', '.join(map(repr, places))}"
            raise bad_record(name, number, _LABEL, domain, label_name, "`labels` names them in order")
        if place is not None:
            return place
    if isinstance(label, bool):
        return float(label)
    if isinstance(label, float) and math.isnan(label):
        return NAN
    return parse_number(name, number, _LABEL, label)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value) and not value.isspace()
