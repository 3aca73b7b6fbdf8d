"""LIMIT data: the official files, data of the same kind from a seed, and the way back to disk."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import combinations, islice
from math import comb
from pathlib import Path
from random import Random
from typing import Any

from fletching.errors import DataError, bad_argument, bad_choice, bad_record, missing_extra

PATTERNS = ("dense", "random", "cycle", "disjoint")
"""Who is relevant to whom, see :func:`build_pattern`."""

HUB = {
    "small": ("orionweller/LIMIT-small", "ff4a8f2476ae77476c1912f1f3cb5bb5f2d766d4"),
    "full": ("orionweller/LIMIT", "48142cc741b04d0b4af370ade7e8b42430382670"),
}
"""The official data sets on the hub, at the revisions that MTEB pins."""

_SOURCES = "'small', 'full' or a folder with corpus.jsonl, queries.jsonl and qrels"


@dataclass(frozen=True)
class LimitDataset:
    """Queries, documents and who is relevant to whom.

    Args:
        name: Short name, the prefix of metrics.
        queries: Query id -> text.
        corpus: Document id -> text.
        qrels: Query id -> ids of its relevant documents, in corpus order.
        query_items: Query id -> the one thing it asks for; ``None`` when only the texts are known.
        document_items: Document id -> the things the person likes; ``None`` likewise. Texts cannot be taken
            apart again: an item may hold " and " or a full stop.
    """

    name: str
    queries: Mapping[str, str]
    corpus: Mapping[str, str]
    qrels: Mapping[str, tuple[str, ...]]
    query_items: Mapping[str, str] | None = None
    document_items: Mapping[str, tuple[str, ...]] | None = None

    @classmethod
    def load(cls, source: str | Path) -> LimitDataset:
        """Read a data set.

        Args:
            source: ``"small"`` or ``"full"`` for the official data on the hub (extra ``train``), or a folder
                in BEIR's layout or that of google-deepmind/limit: ``corpus.jsonl``, ``queries.jsonl``,
                ``qrels/test.tsv`` or ``qrels.jsonl``, each plain or gzipped. The people of the two official
                sets differ: do not mix their files.

        Returns:
            The data set.

        Raises:
            DataError: If a file or a record is malformed; the text names file, line and field.
            MissingExtraError: If the hub is asked for and ``datasets`` is not installed.
        """
        if source in HUB:
            return _load_from_hub(str(source))
        folder = Path(source)
        if not folder.is_dir():
            raise bad_argument("LimitDataset.load", "source", _SOURCES, str(source))
        return _load_from_folder(folder)

    @classmethod
    def generate(
        cls,
        pattern: str = "dense",
        *,
        n_queries: int = 1000,
        k: int = 2,
        n_docs: int | None = None,
        items_per_doc: int = 45,
        seed: int = 0,
        vocabulary: Sequence[str] | None = None,
    ) -> LimitDataset:
        """Make data of the same kind: own words, own invented names, the generator of the paper.

        Every query asks for one item, which exactly its k relevant documents hold. All documents are filled
        up with items that no query asks for. Documents that are relevant to some query come first.

        Args:
            pattern: One of :data:`PATTERNS`.
            n_queries: Queries. Paper: 1000.
            k: Relevant documents of each. Paper: 2.
            n_docs: Documents; ``None``: as few as the pattern needs (46 for the default, as LIMIT-small). The
                full LIMIT has 50 000.
            items_per_doc: Items in every document. Released data: 45.
            seed: Same seed, same data, on every platform.
            vocabulary: Distinct items to take; ``None`` takes the 2377 English nouns of this package.

        Returns:
            The data set, with its items.

        Raises:
            ArgumentError: If an argument is outside its domain, or the vocabulary is too small.
        """
        generator = Random(seed)
        needed = count_documents(pattern, n_queries, k)
        size = needed if n_docs is None else n_docs
        subsets = build_pattern(pattern, n_queries, k, n_docs=size, seed=seed)
        words = read_vocabulary() if vocabulary is None else sorted(set(vocabulary))
        names = _draw_names(size, generator)
        query_items, document_items = _deal_items(subsets, size, items_per_doc, words, generator)
        return cls(
            name=f"limit_{pattern}",
            queries={f"query_{row}": f"Who likes {item}?" for row, item in enumerate(query_items)},
            corpus={
                name: _write_document(name, items) for name, items in zip(names, document_items, strict=True)
            },
            qrels={
                f"query_{row}": tuple(names[index] for index in subset) for row, subset in enumerate(subsets)
            },
            query_items={f"query_{row}": item for row, item in enumerate(query_items)},
            document_items=dict(zip(names, map(tuple, document_items), strict=True)),
        )

    def save(self, folder: str | Path) -> Path:
        """Write BEIR's layout, which :meth:`load` reads; known items go to ``items.jsonl`` beside it.

        Args:
            folder: Where to; made when missing.

        Returns:
            The folder.
        """
        folder = Path(folder)
        (folder / "qrels").mkdir(parents=True, exist_ok=True)
        _write_lines(
            folder / "corpus.jsonl", ({"_id": i, "title": "", "text": t} for i, t in self.corpus.items())
        )
        _write_lines(folder / "queries.jsonl", ({"_id": i, "text": t} for i, t in self.queries.items()))
        rows = [f"{query}\t{document}\t1\n" for query, ids in self.qrels.items() for document in ids]
        text = "".join(["query-id\tcorpus-id\tscore\n", *rows])
        (folder / "qrels" / "test.tsv").write_text(text, encoding="utf-8")
        if self.query_items is not None and self.document_items is not None:
            known = [
                *({"query": i, "items": [item]} for i, item in self.query_items.items()),
                *({"document": i, "items": items} for i, items in self.document_items.items()),
            ]
            _write_lines(folder / "items.jsonl", known)
        return folder

    def relevant_indices(self) -> list[list[int]]:
        """Return the places of every query's relevant documents: what ``free_embeddings`` takes."""
        places = {document: place for place, document in enumerate(self.corpus)}
        return [[places[document] for document in self.qrels[query]] for query in self.queries]


def count_documents(pattern: str, n_queries: int, k: int) -> int:
    """Return how many documents a pattern needs at least.

    Args:
        pattern: One of :data:`PATTERNS`.
        n_queries: Queries, >= 1.
        k: Relevant documents of each, >= 1.

    Returns:
        ``dense``: the smallest n with C(n, k) >= n_queries; ``disjoint``: n_queries * k; otherwise k.

    Raises:
        ArgumentError: If an argument is outside its domain.

    Example:
        >>> count_documents("dense", 1000, 2)
        46
    """
    owner = "LimitDataset.generate"
    if pattern not in PATTERNS:
        raise bad_choice(owner, "pattern", PATTERNS, pattern)
    for name, value in (("n_queries", n_queries), ("k", k)):
        if not (isinstance(value, int) and value >= 1):
            raise bad_argument(owner, name, "an integer >= 1", value)
    if pattern == "dense":
        n = k
        while comb(n, k) < n_queries:
            n += 1
        return n
    return n_queries * k if pattern == "disjoint" else k


def build_pattern(
    pattern: str, n_queries: int, k: int, *, n_docs: int, seed: int = 0
) -> list[tuple[int, ...]]:
    """Decide which documents are relevant to which query.

    Args:
        pattern: ``"dense"``: the first combinations of as few documents as possible, in lexicographic order;
            ``"random"``: k documents drawn for each query; ``"cycle"``: k neighbours on a ring;
            ``"disjoint"``: k documents that no other query has.
        n_queries: Queries, >= 1.
        k: Relevant documents of each, >= 1.
        n_docs: Documents.
        seed: Of the random pattern.

    Returns:
        Ascending indices in [0, n_docs) for every query.

    Raises:
        ArgumentError: If an argument is outside its domain.

    Example:
        >>> build_pattern("cycle", 3, 2, n_docs=3)
        [(0, 1), (1, 2), (0, 2)]
    """
    needed = count_documents(pattern, n_queries, k)
    if not (isinstance(n_docs, int) and n_docs >= needed):
        domain = f"at least {needed} for {n_queries} queries of pattern {pattern!r}"
        raise bad_argument("LimitDataset.generate", "n_docs", domain, n_docs)
    if pattern == "dense":
        return list(islice(combinations(range(needed), k), n_queries))
    if pattern == "random":
        generator = Random(seed)
        return [tuple(sorted(generator.sample(range(n_docs), k))) for _ in range(n_queries)]
    if pattern == "cycle":
        return [tuple(sorted((row + step) % n_docs for step in range(k))) for row in range(n_queries)]
    return [tuple(range(row * k, row * k + k)) for row in range(n_queries)]


@cache
def read_vocabulary() -> tuple[str, ...]:
    """Read the things that people can like, sorted: English nouns, collected for this library."""
    return tuple(sorted(_read_resource("vocabulary.txt")))


def _deal_items(
    subsets: Sequence[tuple[int, ...]],
    n_docs: int,
    items_per_doc: int,
    vocabulary: Sequence[str],
    generator: Random,
) -> tuple[list[str], list[list[str]]]:
    """Give each query its own item, its documents that item, and every document spare items on top."""
    owner = "LimitDataset.generate"
    degrees = [0] * n_docs
    for subset in subsets:
        for index in subset:
            degrees[index] += 1
    if not (isinstance(items_per_doc, int) and items_per_doc >= max(degrees)):
        domain = f"at least {max(degrees)}, the queries of one document"
        raise bad_argument(owner, "items_per_doc", domain, items_per_doc)
    needed = len(subsets) + items_per_doc - min(degrees)
    if len(vocabulary) < needed:
        raise bad_argument(owner, "vocabulary", f"at least {needed} different items", len(vocabulary))
    shuffled = generator.sample(list(vocabulary), len(vocabulary))
    query_items, spare = shuffled[: len(subsets)], shuffled[len(subsets) :]
    held: list[list[str]] = [[] for _ in range(n_docs)]
    for item, subset in zip(query_items, subsets, strict=True):
        for index in subset:
            held[index].append(item)
    for items in held:
        items += generator.sample(spare, items_per_doc - len(items))
        generator.shuffle(items)
    return query_items, held


def _draw_names(n: int, generator: Random) -> list[str]:
    """Draw different invented people: a first name, and a surname of two parts."""
    first_names, starts, ends = (line.split() for line in _read_resource("names.txt"))
    most = len(first_names) * len(starts) * len(ends)
    if n > most:
        raise bad_argument("LimitDataset.generate", "n_docs", f"at most {most}, one for each name", n)
    names = []
    for number in generator.sample(range(most), n):
        rest, end = divmod(number, len(ends))
        first, start = divmod(rest, len(starts))
        names.append(f"{first_names[first]} {starts[start]}{ends[end]}")
    return names


def _read_resource(name: str) -> list[str]:
    return files("fletching.methods.limit").joinpath(name).read_text(encoding="utf-8").splitlines()


def _write_document(name: str, items: Sequence[str]) -> str:
    listed = " and ".join(part for part in (", ".join(items[:-1]), *items[-1:]) if part)
    return f"{name} likes {listed}."


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)


def _load_from_folder(folder: Path) -> LimitDataset:
    corpus = _index_texts(*_read_records(_find_file(folder, "corpus.jsonl")))
    queries = _index_texts(*_read_records(_find_file(folder, "queries.jsonl")))
    path = _find_file(folder, "qrels/test.tsv", "qrels.jsonl", "qrels/test.jsonl")
    qrels = _index_qrels(*_read_records(path), queries, corpus)
    items = folder / "items.jsonl"
    query_items, document_items = _read_items(items) if items.is_file() else (None, None)
    return LimitDataset(folder.resolve().name, queries, corpus, qrels, query_items, document_items)


def _load_from_hub(size: str) -> LimitDataset:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise missing_extra("LimitDataset.load", "datasets", "train") from error
    repository, revision = HUB[size]
    try:
        corpus, queries, qrels = (
            list(load_dataset(repository, name, split=split, revision=revision))
            for name, split in (("corpus", "corpus"), ("queries", "queries"), ("default", "test"))
        )
    except Exception as error:
        raise DataError(
            f"LimitDataset.load: {repository!r} could not be had from the hub ({type(error).__name__}). "
            "Download its files and pass their folder."
        ) from error
    where = Path(repository)
    texts = _index_texts(where / "corpus", enumerate(corpus, start=1))
    questions = _index_texts(where / "queries", enumerate(queries, start=1))
    relevant = _index_qrels(where / "default", enumerate(qrels, start=1), questions, texts)
    return LimitDataset(f"limit_{size}", questions, texts, relevant)


def _find_file(folder: Path, *names: str) -> Path:
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise bad_record(folder, None, None, f"a data set with {' or '.join(names)}", "no such file")


def _read_records(path: Path) -> tuple[Path, Iterator[tuple[int, dict[str, Any]]]]:
    return path, _iterate_records(path)


def _iterate_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line numbers and records of JSON lines, or of a tab-separated table with a header."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="") as lines:
            if ".tsv" in path.suffixes:
                table = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
                yield from ((table.line_num, row) for row in table)
                return
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _parse_object(path, number, line)
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"{path}: not readable as UTF-8 text ({error}).") from error


def _parse_object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise bad_record(path, number, None, "a JSON object", line) from error
    if not isinstance(record, dict):
        raise bad_record(path, number, None, "a JSON object", record)
    return record


def _index_texts(path: Path, records: Iterable[tuple[int, Mapping[str, Any]]]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, record in records:
        key, text = record.get("_id"), record.get("text")
        if not isinstance(key, str) or not key or key in texts:
            raise bad_record(path, number, "_id", "a string that no other record has", key)
        if not isinstance(text, str) or not text.strip():
            raise bad_record(path, number, "text", "a non-empty string", text)
        texts[key] = f"{record.get('title') or ''} {text}".strip()
    if not texts:
        raise bad_record(path, None, None, "at least one record", "none")
    return texts


def _index_qrels(
    path: Path,
    records: Iterable[tuple[int, Mapping[str, Any]]],
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
) -> dict[str, tuple[str, ...]]:
    relevant: dict[str, set[str]] = {query: set() for query in queries}
    for number, record in records:
        query, document = record.get("query-id"), record.get("corpus-id")
        if not isinstance(query, str) or query not in relevant:
            raise bad_record(path, number, "query-id", "the id of a query", query)
        if not isinstance(document, str) or document not in corpus:
            raise bad_record(path, number, "corpus-id", "the id of a document", document)
        try:
            grade = float(record["score"])
        except (KeyError, TypeError, ValueError):
            raise bad_record(path, number, "score", "a number", record.get("score")) from None
        if grade > 0:
            relevant[query].add(document)
    if bare := [query for query, documents in relevant.items() if not documents]:
        domain = "a table with a relevant document for every query"
        raise bad_record(path, None, None, domain, f"none for {bare[0]!r}")
    places = {document: place for place, document in enumerate(corpus)}
    return {query: tuple(sorted(ids, key=places.__getitem__)) for query, ids in relevant.items()}


def _read_items(path: Path) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    query_items: dict[str, str] = {}
    document_items: dict[str, tuple[str, ...]] = {}
    for number, record in _iterate_records(path):
        items = record.get("items")
        if not isinstance(items, list) or not items or not all(isinstance(item, str) for item in items):
            raise bad_record(path, number, "items", "a non-empty list of strings", items)
        if "query" in record:
            query_items[str(record["query"])] = items[0]
        elif "document" in record:
            document_items[str(record["document"])] = tuple(items)
        else:
            raise bad_record(path, number, None, "an object with `query` or `document`", record)
    return query_items, document_items
