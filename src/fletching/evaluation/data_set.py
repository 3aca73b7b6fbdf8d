"""What systems are evaluated on: judged queries, passages, and the candidates of a first stage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from pathlib import Path

from fletching.data import Document, SentencePair, read_lists, read_run, read_sts
from fletching.data.folders import choose_split, open_folder
from fletching.data.lines import StrPath, Words, read_json_lines
from fletching.data.runs import LAYOUTS
from fletching.data.tables import DOCUMENT, QUERY, RANK, SCORE, read_rows
from fletching.errors import bad_argument, bad_record
from fletching.progress import track

__all__ = ["EvaluationSet", "STSSet", "find_beside", "read_evaluation_set"]

_OWNER = "read_evaluation_set"
_MAX_GRADE = 1000  # as in files of judgements
_LISTS, _PAIRS = (".jsonl", ".json"), (".tsv", ".txt")
_FILE_ORDER, _ID_ORDER = "file order", "order of ids"
_UNJUDGED = "queries without a judgement"
_BLANK = "judged queries without text"
_UNKNOWN = "judged documents that the corpus lacks"
_STRANGE = "queries of the candidates without a judgement"
_LEAK = (
    "All lists stood in the order of their labels, in which a model that does nothing seems perfect; "
    "the order of ids was taken."
)
_WITHOUT = "judged queries without candidates, which count 0"


@dataclass(frozen=True)
class EvaluationSet:
    """Judged queries, the passages they ask for and, if there is one, the lists of a first stage.

    Args:
        name: Shown on tables.
        queries: Query id -> text: the judged ones.
        qrels: Query id -> document id -> grade.
        open_corpus: Opens the passages anew at each call, one at a time, in a fixed order.
        candidates: Query id -> document id -> score of the first stage; ``None`` searches the corpus.
        first_stage: Name of the system that found the candidates; empty without any.
        relevance_level: Lowest grade that counts as relevant in binary measures.
        skipped: What was left out, and how many: ``{"queries without a judgement": 3}``.
        digest: Hexadecimal digits that change with the queries, judgements, passages and candidates.
        notes: What else a reader of the figures should know, a sentence each.
    """

    name: str
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    open_corpus: Callable[[], Iterator[Document]]
    candidates: Mapping[str, Mapping[str, float]] | None = None
    first_stage: str = ""
    relevance_level: int = 1
    skipped: Mapping[str, int] = field(default_factory=dict)
    digest: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class STSSet:
    """Sentence pairs that people scored.

    Args:
        name: Shown on tables.
        pairs: At least two, with scores that are not all equal.
        digest: Hexadecimal digits that change with the pairs.
    """

    name: str
    pairs: tuple[SentencePair, ...]
    digest: str = ""


def read_evaluation_set(
    path: StrPath,
    *,
    split: str | None = None,
    candidates: StrPath | None = None,
    relevance_level: int = 1,
    name: str | None = None,
    show_progress_bar: bool | None = None,
) -> EvaluationSet | STSSet:
    """Read what systems can be evaluated on, in any layout that `fletching.data` knows, plain or gzipped.

    - a folder in the layout of BEIR, MS MARCO, T2Ranking or Multi-CPR: see `open_folder`
    - a file of JSON lines, each a query with labelled candidates: see `read_lists`. The labels are grades,
      the candidates are a first stage in the order of the file. Where that is the order of the labels, as for
      positives before negatives, it would give them away, and the order of ids is taken. Documents are called
      by the file's ids where each names one text, else by a digest of the text.
    - a tab-separated file of sentence pairs with a score: see `read_sts`

    The passages of a folder are read once here, one at a time, to count and to compare, and are not kept.

    Args:
        path: The folder or file.
        split: Which judgements of a folder to read; ``None`` takes the only split, else ``"test"``.
        candidates: A run file, as `read_run` reads it: what a first stage found. A relative path is looked
            for in the working directory, then in the folder. ``None`` lets every system search all passages.
        relevance_level: Lowest grade that counts as relevant in binary measures: 2 for TREC Deep Learning
            and T2Ranking. nDCG does not depend on it.
        name: Shown on tables; ``None`` takes the name of the folder or file, and of the split.
        show_progress_bar: Whether to draw a progress bar while the passages are read; ``None`` draws one for
            a terminal at log level INFO.

    Returns:
        The data; what was left out is counted in it. An `STSSet` for sentence pairs.

    Raises:
        ArgumentError: If there is no such split, or an argument does not go with the data.
        DataError: If nothing is there, its layout is not known, or a record is malformed; the text names file
            and line. A candidate whose text is missing is an error; judged documents that are missing are
            counted, since no system can find them.
    """
    if not isinstance(relevance_level, int) or relevance_level < 1:
        raise bad_argument(_OWNER, "relevance_level", "a whole number of at least 1", relevance_level)
    path = Path(path)
    if path.is_dir():
        run_path = None if candidates is None else find_beside(path, candidates)
        return _read_folder(path, split, run_path, relevance_level, name, show_progress_bar)
    if not path.exists():
        raise bad_record(path, None, None, "an existing folder or file", Words("none under this name"))
    for parameter, value in (("split", split), ("candidates", candidates)):
        if value is not None:
            domain = f"left out: {path.name} is one file and no folder"
            raise bad_argument(_OWNER, parameter, domain, str(value))
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix in _LISTS:
        return _read_lists(path, relevance_level, name or _strip(path))
    if suffix in _PAIRS:
        return _read_pairs(path, name or _strip(path))
    lists, pairs = " or ".join(_LISTS), " or ".join(_PAIRS)
    domain = f"one that ends in {lists} (lists), or {pairs} (sentence pairs), or .gz after it"
    raise bad_record(path, None, None, domain, path.name, "Everything else is read from a folder.")


def find_beside(folder: Path, path: StrPath) -> Path:
    """Look for a file in the working directory, then in the folder of the data.

    Args:
        folder: The folder of the data.
        path: What the user typed.

    Returns:
        The path, or that of the file in the folder where only there is one.
    """
    given = Path(path)
    return folder / given if not given.exists() and (folder / given).exists() else given


def _read_folder(
    path: Path,
    split: str | None,
    run_path: Path | None,
    relevance_level: int,
    name: str | None,
    show_progress_bar: bool | None,
) -> EvaluationSet:
    folder = open_folder(path)
    split = choose_split(_OWNER, path, folder.qrels_paths, split)
    judged = folder.read_split(split)
    if not judged.queries:
        domain = "judgements of at least one query with text"
        raise bad_record(folder.qrels_paths[split], None, None, domain, Words("none"))
    skipped = {_UNJUDGED: judged.n_unjudged_queries, _BLANK: judged.n_blank_queries}
    candidates = None if run_path is None else _read_candidates(run_path, judged.queries, skipped)

    digest = _Digest()
    digest.add(judged.queries)
    digest.add(judged.qrels)
    digest.add(candidates or {})
    wanted = {document for scores in (candidates or {}).values() for document in scores}
    unknown = {document for grades in judged.qrels.values() for document in grades}
    for document in track(folder.read_corpus(), desc="Reading passages", show=show_progress_bar):
        wanted.discard(document.id)
        unknown.discard(document.id)
        digest.add_texts(document.id, document.title, document.text)
    if run_path is not None and wanted:
        raise _name_unknown(run_path, judged.queries, wanted, path)
    skipped[_UNKNOWN] = len(unknown)
    return EvaluationSet(
        name=name
        or (path.resolve().name if len(folder.qrels_paths) == 1 else f"{path.resolve().name}/{split}"),
        queries=judged.queries,
        qrels=judged.qrels,
        open_corpus=folder.read_corpus,
        candidates=candidates,
        first_stage="" if run_path is None else _strip(run_path),
        relevance_level=relevance_level,
        skipped={reason: count for reason, count in skipped.items() if count},
        digest=digest.finish(),
    )


def _read_candidates(
    path: Path, queries: Mapping[str, str], skipped: dict[str, int]
) -> dict[str, dict[str, float]]:
    """Read the candidates of the judged queries, in the order of the queries; count what does not fit."""
    run = read_run(path)
    candidates = {query: run[query] for query in queries if query in run}
    if not candidates:
        domain = f"a run with a judged query, such as {next(iter(queries))!r}"
        raise bad_record(path, None, None, domain, f"{next(iter(run))!r} first")
    skipped[_STRANGE] = len(run) - len(candidates)
    skipped[_WITHOUT] = len(queries) - len(candidates)
    return candidates


def _name_unknown(path: Path, queries: Mapping[str, str], wanted: set[str], folder: Path) -> Exception:
    """Find the first line that names a candidate without a text."""
    for number, (query, document, *_) in read_rows(path, (QUERY, DOCUMENT, RANK, SCORE), LAYOUTS):
        if query in queries and document in wanted:
            domain = f"a passage of {folder}"
            more = f"{len(wanted) - 1} more are missing." if len(wanted) > 1 else ""
            return bad_record(path, number, DOCUMENT, domain, document, more)
    raise AssertionError("the file changed while it was read")


def _read_lists(path: Path, relevance_level: int, name: str) -> EvaluationSet:
    queries: dict[str, str] = {}
    lists: dict[str, list[_Entry]] = {}
    texts_by_id: dict[str, set[str]] = {}
    is_ordered = True
    for (number, record), found in zip(read_json_lines(path), read_lists(path), strict=True):
        is_ordered &= "candidates" in record or "documents" in record  # else positives, then negatives
        query = found.query_id or str(number)
        if query in queries:
            raise bad_record(path, number, "query_id", "unique", query)
        for label in found.labels:
            if not label.is_integer() or abs(label) > _MAX_GRADE:
                remedy = "nDCG counts grades; a teacher's scores are none."
                raise bad_record(path, number, "label", f"a whole number up to {_MAX_GRADE}", label, remedy)
        ids = found.document_ids or ("",) * len(found.documents)
        queries[query] = found.query
        lists[query] = list(map(_Entry, ids, found.documents, map(int, found.labels)))
        for entry in lists[query]:
            texts_by_id.setdefault(entry.id, set()).add(entry.text)
    if "" in texts_by_id or any(len(texts) > 1 for texts in texts_by_id.values()):
        lists = {query: _name_by_text(entries) for query, entries in lists.items()}
    leaks = not is_ordered or _gives_labels_away(lists.values())
    if leaks:
        if _gives_labels_away(_sort_by_id(entries) for entries in lists.values()):
            lists = {query: _name_by_text(entries) for query, entries in lists.items()}
        lists = {query: _sort_by_id(entries) for query, entries in lists.items()}
    return _build_lists(queries, lists, leaks, relevance_level, name)


@dataclass(frozen=True)
class _Entry:
    """A candidate of a list."""

    id: str
    text: str
    grade: int


def _build_lists(
    queries: dict[str, str], lists: dict[str, list[_Entry]], leaks: bool, relevance_level: int, name: str
) -> EvaluationSet:
    texts = {entry.id: entry.text for entries in lists.values() for entry in entries}
    qrels = {query: {entry.id: entry.grade for entry in entries} for query, entries in lists.items()}
    candidates = {
        query: {entry.id: float(len(entries) - place) for place, entry in enumerate(entries)}
        for query, entries in lists.items()
    }
    digest = _Digest()
    digest.add(queries)
    digest.add(qrels)
    digest.add(candidates)
    digest.add(texts)
    return EvaluationSet(
        name=name,
        queries=queries,
        qrels=qrels,
        open_corpus=partial(_open_texts, texts),
        candidates=candidates,
        first_stage=_ID_ORDER if leaks else _FILE_ORDER,
        relevance_level=relevance_level,
        digest=digest.finish(),
        notes=(_LEAK,) if leaks else (),
    )


def _gives_labels_away(lists: Iterable[Sequence[_Entry]]) -> bool:
    """Say whether the best stand first in every list of several; a single one may be a good first stage."""
    grades = [[entry.grade for entry in entries] for entries in lists]
    mixed = [found for found in grades if len(set(found)) > 1]
    return len(mixed) > 1 and all(found == sorted(found, reverse=True) for found in mixed)


def _sort_by_id(entries: Sequence[_Entry]) -> list[_Entry]:
    return sorted(entries, key=attrgetter("id"))


def _name_by_text(entries: Sequence[_Entry]) -> list[_Entry]:
    """Name documents so that the order of names says nothing of their places."""
    names: dict[str, int] = {}
    renamed = []
    for entry in entries:
        key = hashlib.blake2b(entry.text.encode(), digest_size=6).hexdigest()
        names[key] = names.get(key, 0) + 1
        renamed.append(replace(entry, id=f"{key}-{names[key]}" if names[key] > 1 else key))
    return renamed


def _open_texts(texts: Mapping[str, str]) -> Iterator[Document]:
    for key, text in texts.items():
        yield Document(key, text)


def _read_pairs(path: Path, name: str) -> STSSet:
    pairs = tuple(read_sts(path))
    if len({pair.score for pair in pairs}) < 2:
        scores = Words(f"{len(pairs)} of {pairs[0].score:g}")
        raise bad_record(path, None, None, "pairs with at least two different scores", scores)
    digest = _Digest()
    for pair in pairs:
        digest.add_texts(pair.sentence1, pair.sentence2, repr(pair.score))
    return STSSet(name, pairs, digest.finish())


def _strip(path: Path) -> str:
    """Name a file without its endings."""
    name = path.name.removesuffix(".gz")
    return name.rpartition(".")[0] or name


class _Digest:
    """A digest of records, each kept apart from its neighbours."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, mapping: Mapping[str, object]) -> None:
        """Add a mapping, in any order."""
        self._hash.update(f"{json.dumps(mapping, sort_keys=True)}\n".encode())

    def add_texts(self, *texts: str) -> None:
        """Add a record of a collection, which has millions of them."""
        self._hash.update(f"{[*map(len, texts)]}{''.join(texts)}".encode())

    def finish(self) -> str:
        return self._hash.hexdigest()
