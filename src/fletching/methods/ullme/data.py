"""Training rows: read, checked line by line, sampled to equal width, and laid out for the loss."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fletching.data.lines import StrPath, read_json_lines, read_lines
from fletching.data.lists import parse_list
from fletching.errors import DataError, bad_argument, bad_record

__all__ = [
    "CLUSTER",
    "TrainingRow",
    "ULLMECollator",
    "build_columns",
    "build_sentence_columns",
    "hold_out",
    "read_rows",
    "read_sentences",
]

logger = logging.getLogger(__name__)

CLUSTER = "cluster"
"""Column that batches are drawn by; the collator takes it out."""

_LABEL = "label"
_GENERATION = "generation"
_NO_TEXT = ("dataset_name", CLUSTER)
_ULLME_KEYS = {"positive": "positives", "negative": "negatives"}


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A query with texts that answer it and texts that do not.

    Args:
        query: The query.
        positives: At least one.
        negatives: May be empty.
        cluster: Rows of one cluster share batches; empty for none.
        label: Rows with the same number answer each other's queries; ``None``: no others do.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    cluster: str = ""
    label: int | None = None


def read_rows(path: StrPath) -> Iterator[TrainingRow]:
    """Read rows from JSON lines, plain or gzipped, one at a time.

    ULLME's layout, ``{"query", "positive": [...], "negative": [...]}``, where a single text needs no list,
    and those of `fletching.data.read_lists`, where a candidate with a label above 0 is a positive. Optional
    fields are ``cluster``, a text or a number, and ``label``, a whole number from 0 up.

    Args:
        path: The file.

    Yields:
        The rows in the file's order.

    Raises:
        DataError: If the file or a record is malformed; the text names file, line and field.
    """
    for number, record in read_json_lines(path):
        renamed = {_ULLME_KEYS.get(key, key): value for key, value in record.items()}
        for key in _ULLME_KEYS.values():
            if isinstance(renamed.get(key), str):
                renamed[key] = [renamed[key]]
        found = parse_list(path, number, renamed)
        for text in found.documents:
            if not text.strip():
                raise bad_record(path, number, "positive or negative", "texts that are not blank", text)
        texts = list(zip(found.documents, found.labels, strict=True))
        positives = tuple(text for text, label in texts if label > 0)
        if not positives:
            raise bad_record(path, number, "positive", "a non-empty list of strings", [])
        label = record.get(_LABEL)
        if label is not None and (isinstance(label, bool) or not isinstance(label, int) or label < 0):
            raise bad_record(path, number, _LABEL, "a whole number from 0 up", label)
        cluster = record.get(CLUSTER, "")
        if not isinstance(cluster, (str, int)):
            raise bad_record(path, number, CLUSTER, "a text or a number", cluster)
        negatives = tuple(text for text, label in texts if label <= 0)
        yield TrainingRow(found.query, positives, negatives, str(cluster), label)


def read_sentences(path: StrPath) -> Iterator[str]:
    """Read sentences for SimCSE: a text file with one a line, or JSON lines with ``text``; plain or gzipped.

    Args:
        path: The file; its name tells which of the two it is.

    Yields:
        The sentences in the file's order, without space around them.

    Raises:
        DataError: If the file or a record is malformed.
    """
    if ".jsonl" not in Path(path).suffixes:
        for _, line in read_lines(path):
            yield line.strip()
        return
    for number, record in read_json_lines(path):
        text = record.get("text")
        if not isinstance(text, str) or not text.strip():
            raise bad_record(path, number, "text", "a non-empty string", text)
        yield text.strip()


def hold_out(
    rows: Sequence[TrainingRow], count: int, *, seed: int
) -> tuple[list[TrainingRow], list[TrainingRow]]:
    """Set rows aside to evaluate on.

    Args:
        rows: All rows.
        count: How many to set aside, 0 to none.
        seed: Same seed, same rows, on every platform.

    Returns:
        ``(rows to train on, rows to evaluate on)``, each in the order of ``rows``.

    Raises:
        DataError: If nothing is left to train on.

    Example:
        >>> rows = [TrainingRow(str(number), ("x",)) for number in range(4)]
        >>> [len(part) for part in hold_out(rows, 1, seed=0)]
        [3, 1]
    """
    if count and count >= len(rows):
        raise DataError(
            f"ULLME training data must hold more rows than are held out, {count}; got {len(rows)}."
        )
    chosen = set(random.Random(seed).sample(range(len(rows)), count))
    kept = [row for index, row in enumerate(rows) if index not in chosen]
    return kept, [rows[index] for index in sorted(chosen)]


def build_columns(
    rows: Iterable[TrainingRow],
    *,
    n_positives: int = 1,
    n_negatives: int = 1,
    min_words: int = 0,
    seed: int = 0,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Build the rows that the trainer reads, all of equal width.

    Where a row has more texts than are wanted, some are drawn at random. A row with fewer is dropped, and the
    number is logged: a text that was repeated would count twice among the candidates of GRL.

    Args:
        rows: As `read_rows` has them.
        n_positives: Positives a row.
        n_negatives: Negatives a row; 0 drops all.
        min_words: Queries and passages of fewer words are dropped; 0 drops none. The reference data: 5.
        seed: Same seed, same rows, on every platform.
        limit: Rows to use after shuffling; ``None`` uses all.

    Returns:
        ``{"anchor", "positive", "negative_1", ...}`` a row, shuffled; several positives are called
        ``positive_1, ...``. Beside them ``cluster`` where a row has one, and ``label`` where rows have one.

    Raises:
        DataError: If nothing is left, or some rows have a label and others have none.
    """
    generator = random.Random(seed)
    everything = list(rows)
    generator.shuffle(everything)
    has_cluster = any(row.cluster for row in everything)
    labelled = sum(row.label is not None for row in everything)
    if labelled not in (0, len(everything)):
        raise DataError(
            f"ULLME training data must have a label in every row or in none; {labelled} of {len(everything)} "
            "rows have one."
        )
    columns: list[dict[str, Any]] = []
    dropped = 0
    for row in everything:
        if limit is not None and len(columns) == limit:
            break
        known = [
            [text for text in texts if _is_long(text, min_words)] for texts in (row.positives, row.negatives)
        ]
        if not _is_long(row.query, min_words) or len(known[0]) < n_positives or len(known[1]) < n_negatives:
            dropped += 1
            continue
        positives, negatives = (
            _draw(texts, count, generator)
            for texts, count in zip(known, (n_positives, n_negatives), strict=True)
        )
        built: dict[str, Any] = {"anchor": row.query, **_name("positive", positives, n_positives > 1)}
        built |= _name("negative", negatives, True)
        if has_cluster:
            built[CLUSTER] = row.cluster
        if labelled:
            built[_LABEL] = row.label
        columns.append(built)
    if dropped:
        logger.info("Dropped %d rows with too few texts or words, of %d.", dropped, len(everything))
    if not columns:
        raise DataError(
            f"ULLME training data must hold rows with {n_positives} positives and {n_negatives} negatives; "
            f"got {len(everything)} rows, none of them such."
        )
    return columns


def build_sentence_columns(
    sentences: Iterable[str], *, seed: int = 0, limit: int | None = None
) -> list[dict[str, Any]]:
    """Build rows for SimCSE: a sentence and itself, which dropout tells apart.

    Args:
        sentences: The sentences; one that repeats is taken once.
        seed: Same seed, same rows, on every platform.
        limit: Rows to use after shuffling; ``None`` uses all.

    Returns:
        ``{"anchor", "positive"}`` a row, shuffled.

    Raises:
        DataError: If there are fewer than two different sentences.
    """
    unique = list(dict.fromkeys(sentences))
    if len(unique) < 2:
        raise DataError(f"SimCSE must have at least two different sentences; got {len(unique)}.")
    random.Random(seed).shuffle(unique)
    return [{"anchor": text, "positive": text} for text in unique[:limit]]


class ULLMECollator:
    """Lays rows of text out for `GRLLoss`: tokens of every column, and rows for the generator.

    Columns, in this order: the anchor, then its candidates. The generator gets a row for each query and
    candidate, query by query: row ``i * N + n`` is candidate n of query i. Texts to embed get the model's own
    prompts, ``"query"`` in front of anchors and ``"document"`` in front of candidates.

    Args:
        model: An ``LLMEmbedder``; without ``generation`` any ``SentenceTransformer``.
        generation: Whether to add the rows for the generator, which the KL and generation terms need.
        prompts: Column -> prompt, instead of the model's own.

    Raises:
        ArgumentError: If the model cannot lay out rows for a generator.

    Example:
        Hand it to the trainer: ``SentenceTransformerTrainer(..., data_collator=ULLMECollator(model))``.
    """

    def __init__(
        self, model: Any, *, generation: bool = True, prompts: Mapping[str, str] | None = None
    ) -> None:
        from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

        if generation and not hasattr(model[0], "build_generation_rows"):
            remedy = "Or pass generation=False"
            raise bad_argument("ULLMECollator", "model", "an LLMEmbedder", type(model).__name__, remedy)
        self.model = model
        self.generation = generation
        self.prompts = None if prompts is None else dict(prompts)
        self.collator = SentenceTransformerDataCollator(preprocess_fn=model.preprocess)
        self.valid_label_columns = self.collator.valid_label_columns

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Lay out a batch.

        Args:
            rows: Columns of text, and optionally ``label``, ``cluster`` and ``dataset_name``.

        Returns:
            Tensors by column; those for the generator begin with ``generation_``.
        """
        if not rows:
            return {}
        columns = [name for name in rows[0] if name not in (*_NO_TEXT, *self.valid_label_columns)]
        anchor, *candidates = columns
        own = self.model.prompts or {}
        defaults = {name: own.get("query" if name == anchor else "document", "") for name in columns}
        chosen = defaults if self.prompts is None else self.prompts
        self.collator.prompts = {name: text for name, text in chosen.items() if text}
        kept = [{name: value for name, value in row.items() if name != CLUSTER} for row in rows]
        batch: dict[str, Any] = self.collator(kept)
        if self.generation:
            queries = [row[anchor] for row in rows for _ in candidates]
            passages = [row[name] for row in rows for name in candidates]
            built = self.model[0].build_generation_rows(queries, passages)
            batch |= {f"{_GENERATION}_{name}": value for name, value in built.items()}
        return batch


def _is_long(text: str, min_words: int) -> bool:
    return not min_words or len(text.split()) >= min_words


def _draw(texts: Sequence[str], count: int, generator: random.Random) -> list[str]:
    return list(texts) if len(texts) == count else generator.sample(texts, count)


def _name(name: str, texts: Sequence[str], is_numbered: bool) -> dict[str, str]:
    return {f"{name}_{index}" if is_numbered else name: text for index, text in enumerate(texts, start=1)}
