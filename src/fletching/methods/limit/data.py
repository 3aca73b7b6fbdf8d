"""LIMIT data: the official files, data of the same kind from a seed, and the way back to disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import combinations, islice
from math import comb
from pathlib import Path
from random import Random
from typing import Any

from fletching.data import Document, open_beir, read_corpus, read_qrels, read_queries, write_qrels
from fletching.data.lines import Words, read_json_lines, write_lines
from fletching.data.qrels import Qrels
from fletching.errors import DataError, bad_argument, bad_choice, bad_record, missing_extra
from fletching.models.inputs import check_positive

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
        documents = ({"_id": i, "title": "", "text": text} for i, text in self.corpus.items())
        _write_records(folder / "corpus.jsonl", documents)
        _write_records(folder / "queries.jsonl", ({"_id": i, "text": t} for i, t in self.queries.items()))
        qrels = {query: dict.fromkeys(ids, 1) for query, ids in self.qrels.items()}
        write_qrels(folder / "qrels" / "test.tsv", qrels)
        if self.query_items is not None and self.document_items is not None:
            known = [
                *({"query": i, "items": [item]} for i, item in self.query_items.items()),
                *({"document": i, "items": items} for i, items in self.document_items.items()),
            ]
            _write_records(folder / "items.jsonl", known)
        return folder

    def sample_queries(self, n: int, *, seed: int = 0) -> LimitDataset:
        """Keep some of the queries, and all documents.

        Args:
            n: Queries to keep, at least 1.
            seed: Of the draw.

        Returns:
            The smaller data set; its queries stand in the same order.

        Raises:
            ArgumentError: If there are not so many.
        """
        if check_positive("LimitDataset.sample_queries", "n", n) > len(self.queries):
            domain = f"at most {len(self.queries)}, the queries of {self.name!r}"
            raise bad_argument("LimitDataset.sample_queries", "n", domain, n)
        drawn = set(Random(seed).sample(list(self.queries), n))
        queries = {key: text for key, text in self.queries.items() if key in drawn}
        items = self.query_items
        return replace(
            self,
            queries=queries,
            qrels={key: self.qrels[key] for key in queries},
            query_items=None if items is None else {key: items[key] for key in queries},
        )

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
    check_positive(owner, "n_queries", n_queries)
    check_positive(owner, "k", k)
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


def _write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    write_lines(path, (json.dumps(record, ensure_ascii=False) for record in records))


def _load_from_folder(folder: Path) -> LimitDataset:
    layout = open_beir(folder)
    queries, corpus = read_queries(layout.queries_path), _read_documents(layout.corpus_path)
    path = layout.qrels_paths.get("test") or _find_json_qrels(folder)
    qrels = _order_relevant(path, read_qrels(path, query_ids=queries, document_ids=corpus), queries, corpus)
    items = folder / "items.jsonl"
    query_items, document_items = _read_items(items, queries, corpus) if items.is_file() else (None, None)
    return LimitDataset(folder.resolve().name, queries, corpus, qrels, query_items, document_items)


def _load_from_hub(size: str) -> LimitDataset:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise missing_extra("LimitDataset.load", "datasets", "train") from error
    repository, revision = HUB[size]
    try:
        rows, asked, judged = (
            list(load_dataset(repository, name, split=split, revision=revision))
            for name, split in (("corpus", "corpus"), ("queries", "queries"), ("default", "test"))
        )
        corpus = {row["_id"]: Document(row["_id"], row["text"], row["title"]).full_text for row in rows}
        queries = {row["_id"]: row["text"] for row in asked}
        qrels: Qrels = {}
        for row in judged:
            qrels.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    except Exception as error:
        raise DataError(
            f"LimitDataset.load: {repository!r} could not be had from the hub ({type(error).__name__}). "
            "Download its files and pass their folder."
        ) from error
    return LimitDataset(
        f"limit_{size}", queries, corpus, _order_relevant(Path(repository), qrels, queries, corpus)
    )


def _read_documents(path: Path) -> dict[str, str]:
    texts = {}
    for document in read_corpus(path):
        if not document.text.strip():
            lines = (number for number, record in read_json_lines(path) if not record["text"].strip())
            raise bad_record(path, next(lines), "text", "a non-empty string", document.text)
        texts[document.id] = document.full_text
    return texts


def _find_json_qrels(folder: Path) -> Path:
    for name in ("qrels.jsonl", "qrels/test.jsonl"):
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise bad_record(folder, None, None, "a data set with qrels/test.tsv or qrels.jsonl", Words("neither"))


def _order_relevant(
    path: Path, qrels: Qrels, queries: Mapping[str, str], corpus: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """List the relevant documents of every query in corpus order."""
    places = {document: place for place, document in enumerate(corpus)}
    ordered = {}
    for query in queries:
        relevant = [document for document, grade in qrels.get(query, {}).items() if grade > 0]
        if not relevant:
            domain = "a table with a relevant document for every query"
            raise bad_record(path, None, None, domain, Words(f"none for {query!r}"))
        ordered[query] = tuple(sorted(relevant, key=places.__getitem__))
    return ordered


def _read_items(
    path: Path, queries: Iterable[str], corpus: Iterable[str]
) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    query_items: dict[str, str] = {}
    document_items: dict[str, tuple[str, ...]] = {}
    for number, record in read_json_lines(path):
        items = record.get("items")
        if not isinstance(items, list) or not items or not all(isinstance(item, str) for item in items):
            raise bad_record(path, number, "items", "a non-empty list of strings", items)
        if "query" in record:
            query_items[str(record["query"])] = items[0]
        elif "document" in record:
            document_items[str(record["document"])] = tuple(items)
        else:
            raise bad_record(path, number, None, "an object with `query` or `document`", record)
    for kind, ids, known in (("query", queries, query_items), ("document", corpus, document_items)):
        missing = next((each for each in ids if each not in known), None)
        if missing is not None:
            domain = "a table with the items of every query and every document"
            raise bad_record(path, None, None, domain, Words(f"none for the {kind} {missing!r}"))
    return query_items, document_items
