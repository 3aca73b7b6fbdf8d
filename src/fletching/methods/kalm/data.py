"""Rows of queries with positives and negatives: read, written, made from labels, sampled."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

from fletching.data.lines import StrPath, read_json_lines, write_lines
from fletching.errors import DataError, bad_argument, bad_record
from fletching.methods.kalm.config import TEMPLATE, fill_template

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["KaLMRow", "RowSampler", "build_label_rows", "read_rows", "write_rows"]

logger = logging.getLogger(__name__)

TASK = "task_name"
"""Column that says which task a row is of."""

LABEL = "label"
"""Column of the teacher's scores."""

_NO_TASK = ""


@dataclass(frozen=True)
class KaLMRow:
    """One query and what it should and should not find.

    Args:
        query: With its instruction in front.
        positives: Texts it should find, at least one.
        negatives: Texts it should not.
        task: Name of its task; rows of one task share batches.
        positive_scores: A teacher's scores of the positives, one each; empty without a teacher.
        negative_scores: Of the negatives, likewise.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    task: str = _NO_TASK
    positive_scores: tuple[float, ...] = ()
    negative_scores: tuple[float, ...] = ()

    @property
    def has_scores(self) -> bool:
        """Whether a teacher has scored it."""
        return bool(self.positive_scores)


def read_rows(path: StrPath) -> list[KaLMRow]:
    r"""Read rows from JSON lines, ``{"query": "...", "pos": [...], "neg": [...], "task_name": "..."}``.

    The layout of the reference code; queries carry their instruction. A teacher's scores may stand beside the
    texts as ``pos_scores`` and ``neg_scores``. Other fields are ignored.

    Args:
        path: The file, plain or gzipped.

    Returns:
        The rows, in the file's order.

    Raises:
        DataError: If there is no row, or one is malformed: without a query, without positives, with a text
            that is none, or with scores that do not fit.
    """
    return [_parse_row(path, number, record) for number, record in read_json_lines(path)]


def write_rows(path: StrPath, rows: Iterable[KaLMRow]) -> None:
    """Write rows as `read_rows` reads them.

    Args:
        path: The file; it appears when it is complete.
        rows: The rows.
    """

    def lines() -> Iterator[str]:
        for row in rows:
            record: dict[str, Any] = {"query": row.query, "pos": row.positives, "neg": row.negatives}
            if row.task:
                record[TASK] = row.task
            if row.has_scores:
                record |= {"pos_scores": row.positive_scores, "neg_scores": row.negative_scores}
            yield json.dumps(record, ensure_ascii=False)

    write_lines(path, lines())


def build_label_rows(
    texts: Sequence[str],
    labels: Sequence[Any],
    *,
    task: str,
    instruction: str = "",
    template: str = TEMPLATE,
    n_positives: int = 1,
    n_negatives: int = 7,
    seed: int = 0,
) -> list[KaLMRow]:
    """Build rows from labelled texts: for classification and clustering, without the names of the labels.

    "Example-based multi-class labelling": each text is a query, its positives are other texts of its class,
    its negatives texts of other classes, drawn without replacement. The reference builds on texts so; how
    many of each it draws is not known. A text alone in its class makes no row, since nothing is its positive;
    equal texts are no positives of each other.

    Args:
        texts: The texts.
        labels: Their classes, one each.
        task: Name of the task.
        instruction: Put in front of each query; ``""`` for none. V2 puts it in front of queries only.
        template: Where it is put.
        n_positives: Of a row, at most.
        n_negatives: Of a row, at most.
        seed: Same seed, same rows.

    Returns:
        One row for each text that has a positive, in their order.

    Raises:
        ArgumentError: If lengths differ, a text is none or empty, there is only one class, or no text has a
            positive.

    Example:
        >>> rows = build_label_rows(["a", "b", "c"], [0, 0, 1], task="letters")
        >>> [(row.query, row.positives, row.negatives) for row in rows]
        [('a', ('b',), ('c',)), ('b', ('a',), ('c',))]
    """
    owner = "build_label_rows"
    if len(texts) != len(labels):
        raise bad_argument(owner, "labels", f"one for each of the {len(texts)} texts", len(labels))
    for name, count in (("n_positives", n_positives), ("n_negatives", n_negatives)):
        if not isinstance(count, int) or count < 1:
            raise bad_argument(owner, name, "a positive integer", count)
    classes: dict[Any, list[str]] = {}
    for place, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if not isinstance(text, str) or not text.strip():
            raise bad_argument(owner, f"texts[{place}]", "text that is not empty", text)
        classes.setdefault(label, []).append(text)
    if len(classes) < 2:
        raise bad_argument(owner, "labels", "of two classes or more", list(classes))
    members = {label: list(dict.fromkeys(own)) for label, own in classes.items()}
    pool = [(text, label) for label, own in members.items() for text in own]
    prompt = fill_template(instruction, template=template)
    rows = []
    for place, (text, label) in enumerate(zip(texts, labels, strict=True)):
        generator = Random(f"{seed}/{place}")
        own = [other for other in members[label] if other != text]
        if not own:
            continue
        positives = generator.sample(own, min(n_positives, len(own)))
        negatives = _draw_others(generator, pool, label, members[label], n_negatives)
        rows.append(KaLMRow(prompt + text, tuple(positives), tuple(negatives), task))
    if not rows:
        raise bad_argument(owner, "labels", "classes of more than one text", "one text each")
    if len(rows) < len(texts):
        logger.info("Left out %d texts that are alone in their class.", len(texts) - len(rows))
    return rows


class RowSampler:
    """Builds what a trainer reads: a query, one of its positives, and M of its negatives, anew in each epoch.

    Source: the reference code. The positive is drawn at random; negatives are drawn without replacement,
    and where a row has fewer than M, some twice. A draw depends on seed, epoch and row only, so that a run
    that goes on from a checkpoint reads the same texts. Columns: ``query, positive, negative_1, ...``, then
    ``label`` with the teacher's scores of the positive and the negatives if they are wanted.

    Call :meth:`set_epoch` before each epoch, or give ``EpochCallback(sampler)`` to the trainer; give its
    batches one task each with ``batch_sampler=TaskBatching(sampler.tasks)``.

    Args:
        rows: The rows.
        n_negatives: M; 0 for training on pairs.
        scores: Whether the teacher's scores are a column; every row must have them.
        seed: Same seed, same texts.

    Raises:
        ArgumentError: If there is no row, or ``n_negatives`` is no whole number from 0 up.
        DataError: If a row has no negatives where some are wanted, or no scores where they are.

    Example:
        >>> sampler = RowSampler([KaLMRow("q", ("p",), ("n",))], n_negatives=2)
        >>> sampler.build(0)
        {'query': 'q', 'positive': 'p', 'negative_1': 'n', 'negative_2': 'n'}
    """

    def __init__(
        self, rows: Sequence[KaLMRow], *, n_negatives: int = 7, scores: bool = False, seed: int = 0
    ) -> None:
        if not isinstance(n_negatives, int) or isinstance(n_negatives, bool) or n_negatives < 0:
            raise bad_argument("RowSampler", "n_negatives", "an integer from 0 up", n_negatives)
        if not rows:
            raise bad_argument("RowSampler", "rows", "at least one row", rows)
        for place, row in enumerate(rows):
            if n_negatives and not row.negatives:
                remedy = "Mine some, or train on pairs with n_negatives=0."
                raise DataError(f"RowSampler: row {place} ({row.query[:40]!r}) must have negatives. {remedy}")
            if scores and not row.has_scores:
                raise DataError(f"RowSampler: row {place} ({row.query[:40]!r}) must have a teacher's scores.")
        self.rows = rows
        self.n_negatives = n_negatives
        self.scores = scores
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of rows of an epoch."""
        return len(self.rows)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the text columns, in their order."""
        return ("query", "positive", *(f"negative_{number}" for number in range(1, self.n_negatives + 1)))

    @property
    def tasks(self) -> list[str]:
        """The task of each row."""
        return [row.task for row in self.rows]

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins.

        Args:
            epoch: From 0.
        """
        self.epoch = int(epoch)

    def build(self, place: int) -> dict[str, Any]:
        """Build a row as it is in the current epoch.

        Args:
            place: Of the row.

        Returns:
            Column -> text, and ``label`` -> scores.
        """
        row = self.rows[place]
        generator = Random(f"{self.seed}/{self.epoch}/{place}")
        positive = generator.randrange(len(row.positives))
        found = len(row.negatives)
        negatives: list[int] = []
        while len(negatives) < self.n_negatives:
            missing = self.n_negatives - len(negatives)
            negatives += generator.sample(range(found), min(missing, found))
        texts = (row.query, row.positives[positive], *(row.negatives[number] for number in negatives))
        built: dict[str, Any] = dict(zip(self.columns, texts, strict=True))
        if self.scores:
            built[LABEL] = [
                row.positive_scores[positive],
                *(row.negative_scores[number] for number in negatives),
            ]
        return built

    def to_dataset(self) -> Dataset:
        """Wrap the rows for a trainer; texts are drawn when a batch is made, for the epoch that is set then.

        Returns:
            A dataset with one row for each query.
        """
        from datasets import Dataset

        places = [str(place) for place in range(len(self))]
        table: dict[str, Any] = dict.fromkeys(self.columns, places)
        if self.scores:
            table[LABEL] = [[0.0] * (1 + self.n_negatives)] * len(self)
        dataset = Dataset.from_dict(table)
        dataset.set_transform(self._fill)
        return dataset

    def _fill(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Replace the places of rows by what is in them."""
        first = next((column for column in self.columns if column in batch), None)
        if first is None:  # the scores alone, which nobody trains on
            return batch
        built = [self.build(int(place)) for place in batch[first]]
        return {column: [row[column] for row in built] for column in batch}


def drop_scores(row: KaLMRow) -> KaLMRow:
    """Return a row without the scores of a teacher, which no longer fit other negatives.

    Args:
        row: The row.

    Returns:
        The same without scores.
    """
    return replace(row, positive_scores=(), negative_scores=())


def _draw_others(
    generator: Random, pool: Sequence[tuple[str, Any]], label: Any, own: Sequence[str], count: int
) -> list[str]:
    """Draw different texts of other classes; a text that is in both classes is none."""
    known = set(own)
    others = len(pool) - len(own)
    if others <= 4 * count:  # few are left: look at all of them
        rest = [text for text, other in pool if other != label and text not in known]
        rest = list(dict.fromkeys(rest))
        return generator.sample(rest, min(count, len(rest)))
    drawn: dict[str, None] = {}
    for _ in range(100 * count):
        text, other = pool[generator.randrange(len(pool))]
        if other != label and text not in known:
            drawn[text] = None
        if len(drawn) == count:
            break
    return list(drawn)


def _parse_row(path: StrPath, number: int, record: dict[str, Any]) -> KaLMRow:
    query = record.get("query")
    if not isinstance(query, str) or not query.strip():
        raise bad_record(path, number, "query", "a text that is not empty", query)
    positives = _parse_texts(path, number, record, "pos")
    if not positives:
        raise bad_record(path, number, "pos", "a list with at least one text", record.get("pos"))
    negatives = _parse_texts(path, number, record, "neg") if record.get("neg") is not None else ()
    task = record.get(TASK, _NO_TASK)
    if not isinstance(task, str):
        raise bad_record(path, number, TASK, "text", task)
    scores: list[tuple[float, ...]] = []
    if record.get("pos_scores") is not None or record.get("neg_scores") is not None:
        for field, texts in (("pos_scores", positives), ("neg_scores", negatives)):
            scores.append(_parse_scores(path, number, field, record.get(field) or [], len(texts)))
    positive_scores, negative_scores = scores or ((), ())
    return KaLMRow(query, positives, negatives, task, positive_scores, negative_scores)


def _parse_texts(path: StrPath, number: int, record: dict[str, Any], field: str) -> tuple[str, ...]:
    texts = record.get(field)
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise bad_record(path, number, field, "a list of texts that are not empty", texts)
    return tuple(texts)


def _parse_scores(path: StrPath, number: int, field: str, scores: object, count: int) -> tuple[float, ...]:
    if (
        not isinstance(scores, list)
        or len(scores) != count
        or not all(isinstance(score, (int, float)) and not isinstance(score, bool) for score in scores)
        or not all(abs(score) < float("inf") for score in scores)
    ):
        raise bad_record(path, number, field, f"{count} finite numbers, one for each text", scores)
    return tuple(map(float, scores))
