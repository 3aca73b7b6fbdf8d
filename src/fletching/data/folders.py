"""Folders of passages, queries and judgements in any layout that is known here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fletching.data.beir import BEIRFolder, BEIRSplit, open_beir, read_judged
from fletching.data.lines import StrPath, Words
from fletching.data.texts import Document, read_corpus
from fletching.errors import bad_choice, bad_record

__all__ = ["TSVFolder", "choose_split", "open_folder"]

ONLY_SPLIT = "all"
"""Name of the split of a folder that has ``qrels.tsv`` and no other judgements."""

_DEFAULT_SPLIT = "test"
_LAYOUTS = (
    "corpus.jsonl (BEIR), or with collection.tsv, corpus.tsv or corpus_split_N.tsv (MS MARCO, T2Ranking, "
    "Multi-CPR)"
)
_CORPORA = ("collection.tsv", "corpus.tsv")
_PART = re.compile(r"corpus_split_([0-9]+)\.tsv")
_QRELS = re.compile(r"qrels\.(?:(?P<split>.+)\.)?(?:tsv|txt)")


@dataclass(frozen=True)
class TSVFolder:
    """A data set in tab-separated files: MS MARCO, T2Ranking, Multi-CPR; each is read when it is asked for.

    Query ids count within a split only: in the medical part of Multi-CPR, train and dev have the same ones.

    Args:
        corpus_paths: The passages, one collection in this order.
        queries_paths: Name of a split -> its queries, in a file of their own or among others; a split without
            any is left out.
        qrels_paths: Name of a split -> its judgements; empty without any.
    """

    corpus_paths: tuple[Path, ...]
    queries_paths: dict[str, Path]
    qrels_paths: dict[str, Path]

    def read_corpus(self) -> Iterator[Document]:
        """Read the passages, one at a time.

        Yields:
            The passages in the files' order.

        Raises:
            DataError: If a record is malformed or an id repeats.
        """
        yield from read_corpus(*self.corpus_paths)

    def read_split(self, name: str) -> BEIRSplit:
        """Read the judgements of one split, and its queries.

        Args:
            name: The split: one of ``qrels_paths``.

        Returns:
            The split; it says how many queries were skipped.

        Raises:
            ArgumentError: If there is no such split.
            DataError: If its queries are missing, a record is malformed, or a judged query is not in the
                queries.
        """
        if name not in self.qrels_paths:
            raise bad_choice("TSVFolder.read_split", "name", sorted(self.qrels_paths), name)
        if name not in self.queries_paths:
            domain = f"beside its queries: {', '.join(_name_queries(name))}"
            raise bad_record(self.qrels_paths[name], None, None, domain, Words("none of them"))
        return read_judged(name, self.queries_paths[name], self.qrels_paths[name])


def open_folder(folder: StrPath) -> BEIRFolder | TSVFolder:
    """Find passages, queries and judgements in a folder, each file with or without ``.gz``.

    - BEIR: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``
    - MS MARCO, T2Ranking: ``collection.tsv``, ``queries.<split>.tsv``, ``qrels.<split>.tsv``. The judgements
      ``qrels.retrieval.dev.tsv`` of T2Ranking are the split ``retrieval.dev``, with the queries of ``dev``.
    - Multi-CPR: ``corpus.tsv`` or ``corpus_split_1.tsv``, ``corpus_split_2.tsv``, ... in the order of their
      numbers, ``<split>.query.txt``, ``qrels.<split>.tsv``
    - ``queries.tsv`` and ``qrels.tsv`` where there is one split only

    Args:
        folder: The folder.

    Returns:
        Where everything is; nothing has been read yet.

    Raises:
        DataError: If there is no such folder, it has none of these layouts, or a file is there twice.

    Example:
        >>> open_folder("no/such/folder")
        Traceback (most recent call last):
        ...
        fletching.errors.DataError: no/such/folder: the file must be an existing folder; got none under ...
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise bad_record(folder, None, None, "an existing folder", Words("none under this name"))
    names = _list_names(folder)
    if "corpus.jsonl" in names:
        return open_beir(folder)
    corpus = _find_corpus(names)
    if not corpus:
        found = Words(", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "an empty folder")
        raise bad_record(folder, None, None, f"a folder with {_LAYOUTS}", found)
    qrels = {
        match["split"] or ONLY_SPLIT: path
        for name, path in names.items()
        if (match := _QRELS.fullmatch(name))
    }
    queries = {
        split: next(names[name] for name in _name_queries(split) if name in names)
        for split in qrels
        if not names.keys().isdisjoint(_name_queries(split))
    }
    return TSVFolder(corpus, queries, qrels)


def choose_split(owner: str, folder: StrPath, splits: dict[str, Path], split: str | None) -> str:
    """Choose the split to read.

    Args:
        owner: The call named in the error.
        folder: Where the splits are, for the error.
        splits: Name of a split -> its judgements.
        split: What the user asked for; ``None`` takes the only one, else ``"test"``.

    Returns:
        One of ``splits``.

    Raises:
        ArgumentError: If there is no such split, or several of which none is ``"test"``.
        DataError: If there is none at all.
    """
    if not splits:
        raise bad_record(folder, None, None, "a folder with judgements (qrels)", Words("none"))
    if split is None and len(splits) == 1:
        return next(iter(splits))
    chosen = _DEFAULT_SPLIT if split is None and _DEFAULT_SPLIT in splits else split
    if chosen not in splits:
        raise bad_choice(owner, "split", sorted(splits), split)
    return chosen


def _list_names(folder: Path) -> dict[str, Path]:
    """Map names without ``.gz`` to files; a file that is there plain and gzipped is an error."""
    names: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        name = path.name.removesuffix(".gz")
        if name in names and name.endswith((".tsv", ".txt")):
            raise bad_record(path, None, None, "the only one of its name", str(names[name]))
        names[name] = path
    return names


def _find_corpus(names: dict[str, Path]) -> tuple[Path, ...]:
    for name in _CORPORA:
        if name in names:
            return (names[name],)
    parts = {int(match[1]): path for name, path in names.items() if (match := _PART.fullmatch(name))}
    return tuple(parts[number] for number in sorted(parts))


def _name_queries(split: str) -> list[str]:
    """List where the queries of a split may be; ``retrieval.dev`` and ``dev.small`` have those of ``dev``."""
    owners = dict.fromkeys((split, split.rpartition(".")[2], split.partition(".")[0]))
    own = [name for owner in owners for name in (f"queries.{owner}.tsv", f"{owner}.query.txt")]
    return [*own, "queries.tsv"]
