"""Folders in the layout of the BEIR benchmark."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fletching.data.lines import StrPath, Words
from fletching.data.qrels import Qrels, read_qrels
from fletching.data.texts import Document, read_corpus, read_queries
from fletching.errors import bad_choice, bad_record

__all__ = ["BEIRFolder", "BEIRSplit", "open_beir", "read_judged"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BEIRSplit:
    """The judged queries of one split.

    Args:
        name: Name of the split, such as ``"test"``.
        queries: Query id -> text: the judged ones, in the order of the judgements.
        qrels: Query id -> document id -> grade.
        n_unjudged_queries: Queries of the folder that were skipped: without a judgement in this split.
        n_blank_queries: Judged queries that were skipped, with their judgements: without text.
    """

    name: str
    queries: dict[str, str]
    qrels: Qrels
    n_unjudged_queries: int
    n_blank_queries: int


@dataclass(frozen=True)
class BEIRFolder:
    """A data set: where its parts are; each is read when it is asked for.

    Args:
        corpus_path: The passages.
        queries_path: The queries of all splits.
        qrels_paths: Name of a split -> its judgements; empty without any.
    """

    corpus_path: Path
    queries_path: Path
    qrels_paths: dict[str, Path]

    def read_corpus(self) -> Iterator[Document]:
        """Read the passages, one at a time.

        Yields:
            The passages in the file's order.

        Raises:
            DataError: If a record is malformed or an id repeats.
        """
        yield from read_corpus(self.corpus_path)

    def read_queries(self) -> dict[str, str]:
        """Read the queries of all splits.

        Returns:
            Query id -> text; blank for queries without one.

        Raises:
            DataError: If a record is malformed or an id repeats.
        """
        return read_queries(self.queries_path, allow_blank=True)

    def read_split(self, name: str) -> BEIRSplit:
        """Read the judgements of one split, and its queries.

        Args:
            name: The split: one of ``qrels_paths``.

        Returns:
            The split; it says how many queries were skipped.

        Raises:
            ArgumentError: If there is no such split.
            DataError: If a record is malformed, or a judged query is not in the queries.
        """
        if name not in self.qrels_paths:
            raise bad_choice("BEIRFolder.read_split", "name", sorted(self.qrels_paths), name)
        return read_judged(name, self.queries_path, self.qrels_paths[name])

    def count_unknown_documents(self, split: BEIRSplit) -> int:
        """Count the judged documents that the corpus lacks; reads the corpus once.

        They still count for the ideal ranking: no system can reach a perfect score then.

        Args:
            split: One of this folder.

        Returns:
            How many there are; a document judged for several queries counts once.

        Raises:
            DataError: If a record of the corpus is malformed.
        """
        unknown = {document for grades in split.qrels.values() for document in grades}
        unknown.difference_update(document.id for document in self.read_corpus())
        return len(unknown)


def open_beir(folder: StrPath) -> BEIRFolder:
    """Find ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/*.tsv`` in a folder, each with or without ``.gz``.

    Args:
        folder: The folder.

    Returns:
        Where everything is; nothing has been read yet.

    Raises:
        DataError: If passages or queries are missing, or a split is there twice.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise bad_record(folder, None, None, "an existing folder", Words("none under this name"))
    qrels: dict[str, Path] = {}
    for path in sorted([*folder.glob("qrels/*.tsv"), *folder.glob("qrels/*.tsv.gz")]):
        name = path.name.removesuffix(".gz").removesuffix(".tsv")
        if name in qrels:
            raise bad_record(path, None, None, f"the only one of split {name!r}", str(qrels[name]))
        qrels[name] = path
    return BEIRFolder(_find(folder, "corpus.jsonl"), _find(folder, "queries.jsonl"), qrels)


def read_judged(name: str, queries_path: StrPath, qrels_path: StrPath) -> BEIRSplit:
    """Read the judgements of one split, and the queries that they belong to.

    Args:
        name: Name of the split.
        queries_path: The queries, those of other splits among them or not.
        qrels_path: The judgements.

    Returns:
        The split; it says how many queries were skipped.

    Raises:
        DataError: If a record is malformed, or a judged query is not in the queries.
    """
    queries = read_queries(queries_path, allow_blank=True)
    qrels = read_qrels(qrels_path, query_ids=queries)
    blank = [key for key in qrels if not queries[key].strip()]
    if blank:
        logger.warning("%s: skipped %d judged queries without text.", qrels_path, len(blank))
    n_unjudged = len(queries) - len(qrels)
    for key in blank:
        del qrels[key]
    return BEIRSplit(name, {key: queries[key] for key in qrels}, qrels, n_unjudged, len(blank))


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    found = Words(", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "an empty folder")
    raise bad_record(folder, None, None, f"a BEIR folder with {name} or {name}.gz", found)
