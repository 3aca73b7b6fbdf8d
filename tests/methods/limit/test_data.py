"""Patterns of relevance, generated data, reading and writing."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fletching.errors import ArgumentError, DataError, MissingExtraError
from fletching.methods.limit.data import (
    HUB,
    PATTERNS,
    LimitDataset,
    build_pattern,
    count_documents,
    read_vocabulary,
)


def test_item_2_dense_pattern() -> None:
    """Row sums 2, all rows distinct; degrees 45 for documents 0 to 36, 38 for 37 and 38, 37 for 39 to 45."""
    rows = build_pattern("dense", 1000, 2, n_docs=46)
    assert len(set(rows)) == 1000
    assert {len(set(row)) for row in rows} == {2}
    degrees = Counter(index for row in rows for index in row)
    assert [degrees[index] for index in range(46)] == [45] * 37 + [38] * 2 + [37] * 7
    missing = set(combinations(range(46), 2)) - set(rows)
    expected = {(i, j) for i in (37, 38) for j in range(39, 46)} | set(combinations(range(39, 46), 2))
    assert missing == expected
    assert len(missing) == 35


@pytest.mark.parametrize("n_docs", [46, 300])
def test_item_3_items_decide_relevance(n_docs: int) -> None:
    """Exactly the two relevant documents hold the item; 45 different items each; no distractor helps."""
    data = LimitDataset.generate(n_docs=n_docs, seed=11)
    assert data.query_items is not None
    assert data.document_items is not None
    for query, item in data.query_items.items():
        assert {name for name, items in data.document_items.items() if item in items} == set(
            data.qrels[query]
        )
    assert {len(items) for items in data.document_items.values()} == {45}
    assert {len(set(items)) for items in data.document_items.values()} == {45}
    asked = set(data.query_items.values())
    distractors = list(data.document_items.values())[46:]
    assert len(distractors) == n_docs - 46
    assert all(asked.isdisjoint(items) for items in distractors)


def test_texts_follow_the_template(tiny: LimitDataset) -> None:
    assert tiny.query_items is not None
    assert tiny.document_items is not None
    for query, text in tiny.queries.items():
        assert text == f"Who likes {tiny.query_items[query]}?"
    for name, text in tiny.corpus.items():
        first, second, third, fourth, fifth = tiny.document_items[name]
        assert text == f"{name} likes {first}, {second}, {third}, {fourth} and {fifth}."
    assert list(tiny.queries) == [f"query_{row}" for row in range(6)]


def test_full_size_has_unique_people_and_items(full_size: LimitDataset) -> None:
    assert (len(full_size.queries), len(full_size.corpus)) == (1000, 46)
    assert len(set(full_size.queries.values())) == 1000
    assert all(len(name.split()) == 2 for name in full_size.corpus)


def test_fifty_thousand_people_have_fifty_thousand_names() -> None:
    data = LimitDataset.generate(n_queries=3, n_docs=50_000, items_per_doc=2)
    assert len(data.corpus) == 50_000


@pytest.mark.parametrize("pattern", PATTERNS)
def test_same_seed_same_data(pattern: str) -> None:
    sizes: dict[str, Any] = {"n_queries": 8, "n_docs": 20, "items_per_doc": 12}
    first, again = (LimitDataset.generate(pattern, seed=4, **sizes) for _ in range(2))
    assert first == again
    assert list(first.corpus) == list(again.corpus)
    assert first.queries != LimitDataset.generate(pattern, seed=5, **sizes).queries
    assert all(len(ids) == 2 for ids in first.qrels.values())


def test_cycle_is_a_ring() -> None:
    assert build_pattern("cycle", 4, 2, n_docs=3) == [(0, 1), (1, 2), (0, 2), (0, 1)]


def test_disjoint_shares_nothing() -> None:
    rows = build_pattern("disjoint", 5, 3, n_docs=15)
    assert [index for row in rows for index in row] == list(range(15))


def test_random_draws_from_all_documents() -> None:
    rows = build_pattern("random", 500, 2, n_docs=30, seed=1)
    assert {index for row in rows for index in row} == set(range(30))
    assert all(len(set(row)) == 2 for row in rows)
    assert rows != build_pattern("random", 500, 2, n_docs=30, seed=2)


@pytest.mark.parametrize(
    ("pattern", "k", "needed"), [("dense", 2, 46), ("dense", 3, 20), ("disjoint", 2, 2000), ("cycle", 2, 2)]
)
def test_patterns_know_how_many_documents_they_need(pattern: str, k: int, needed: int) -> None:
    """Smallest n with C(n, 2) >= 1000 is 46, with C(n, 3) >= 1000 is 20 (1140)."""
    assert count_documents(pattern, 1000, k) == needed


def test_vocabulary_has_no_duplicates() -> None:
    words = [word.lower() for word in read_vocabulary()]
    assert len(set(words)) == len(words) == 2377


def test_data_survives_disk(tiny: LimitDataset, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "limit_dense")
    loaded = LimitDataset.load(folder)
    assert loaded == tiny
    assert list(loaded.corpus) == list(tiny.corpus)
    assert loaded.relevant_indices() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]


def test_sampled_queries_keep_documents_and_order(tiny: LimitDataset) -> None:
    sample = tiny.sample_queries(3, seed=5)
    assert sample == tiny.sample_queries(3, seed=5)
    assert sample.corpus == tiny.corpus
    assert list(sample.queries) == [query for query in tiny.queries if query in sample.queries]
    assert len(sample.queries) == 3
    assert sample.query_items is not None
    assert list(sample.qrels) == list(sample.query_items) == list(sample.queries)
    assert {tuple(tiny.sample_queries(3, seed=seed).queries) for seed in range(20)} != {tuple(sample.queries)}
    with pytest.raises(ArgumentError, match="at most 6, the queries of 'limit_dense'; got 7"):
        tiny.sample_queries(7)


def test_layout_of_the_authors_is_read(tiny: LimitDataset, tmp_path: Path) -> None:
    """Gzipped files, ``qrels.jsonl`` in the folder itself, no item lists."""
    folder = tiny.save(tmp_path / "data")
    shutil.rmtree(folder / "qrels")
    (folder / "items.jsonl").unlink()
    rows = [
        json.dumps({"query-id": query, "corpus-id": document, "score": 1})
        for query, ids in tiny.qrels.items()
        for document in ids
    ]
    (folder / "qrels.jsonl").write_text("\n".join(rows), encoding="utf-8")
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    loaded = LimitDataset.load(folder)
    assert (loaded.queries, loaded.corpus, loaded.qrels) == (tiny.queries, tiny.corpus, tiny.qrels)
    assert (loaded.query_items, loaded.document_items) == (None, None)


def test_judgements_of_zero_are_no_relevance(tiny: LimitDataset, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "data")
    other = list(tiny.corpus)[3]
    with (folder / "qrels" / "test.tsv").open("a", encoding="utf-8") as file:
        file.write(f"query_0\t{other}\t0\n")
    assert LimitDataset.load(folder).qrels == tiny.qrels


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("corpus.jsonl", "{broken", ":5: the record must be a JSON object"),
        ("corpus.jsonl", "[1]", ":5: the record must be a JSON object"),
        ("corpus.jsonl", '{"_id": "", "text": "x"}', ":5: `_id` must be a non-empty string; got ''"),
        ("corpus.jsonl", '{"_id": "x", "text": " "}', ":5: `text` must be a non-empty string"),
        ("queries.jsonl", '{"_id": "query_0", "text": "x"}', ":7: `id` must be unique; got 'query_0'"),
        (
            "qrels/test.tsv",
            "query_9\tx\t1",
            ":14: `query` must be one of the ids that were given; got 'query_9'",
        ),
        (
            "qrels/test.tsv",
            "query_0\tx\t1",
            ":14: `document` must be one of the ids that were given; got 'x'",
        ),
        ("qrels/test.tsv", "query_0\t{name}\tone", ":14: `grade` must be a finite number; got 'one'"),
        ("items.jsonl", '{"query": "query_0", "items": []}', ":11: `items`"),
        ("items.jsonl", '{"items": ["x"]}', ":11: the record must be an object with `query` or `document`"),
    ],
)
def test_malformed_records_name_file_line_and_field(
    tiny: LimitDataset, tmp_path: Path, file: str, line: str, message: str
) -> None:
    folder = tiny.save(tmp_path / "data")
    with (folder / file).open("a", encoding="utf-8") as lines:
        lines.write(f"{line.replace('{name}', next(iter(tiny.corpus)))}\n")
    with pytest.raises(DataError) as caught:
        LimitDataset.load(folder)
    assert message in str(caught.value)
    assert str(folder / file) in str(caught.value)


def test_queries_without_relevant_documents_are_refused(tiny: LimitDataset, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "data")
    with (folder / "queries.jsonl").open("a", encoding="utf-8") as lines:
        lines.write('{"_id": "query_6", "text": "x"}\n')
    with pytest.raises(
        DataError, match=r"test.tsv: the file must be a table with a relevant document for every"
    ):
        LimitDataset.load(folder)


@pytest.mark.parametrize("kind", ["query", "document"])
def test_items_that_are_missing_are_reported(tiny: LimitDataset, tmp_path: Path, kind: str) -> None:
    folder = tiny.save(tmp_path / "data")
    path = folder / "items.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if f'"{kind}"' not in line), encoding="utf-8")
    first = next(iter(tiny.queries if kind == "query" else tiny.corpus))
    with pytest.raises(DataError, match=f"items.jsonl: .* got none for the {kind} '{first}'"):
        LimitDataset.load(folder)


def test_missing_and_damaged_files_are_refused(tiny: LimitDataset, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="`source` must be 'small', 'full' or a folder"):
        LimitDataset.load(tmp_path / "nowhere")
    folder = tiny.save(tmp_path / "data")
    (folder / "queries.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"queries.jsonl: the file must be UTF-8 text"):
        LimitDataset.load(folder)
    (folder / "queries.jsonl").unlink()
    with pytest.raises(DataError, match=r"must be a BEIR folder with queries.jsonl"):
        LimitDataset.load(folder)


def fake_hub(monkeypatch: pytest.MonkeyPatch, load_dataset: Any) -> None:
    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_hub_data_is_read_at_the_pinned_revision(tiny: LimitDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(repository: str, name: str, *, split: str, revision: str) -> list[dict[str, Any]]:
        asked.append((repository, name, split, revision))
        return {
            "corpus": [{"_id": i, "title": "", "text": text} for i, text in tiny.corpus.items()],
            "queries": [{"_id": i, "text": text} for i, text in tiny.queries.items()],
            "test": [
                {"query-id": i, "corpus-id": document, "score": 1}
                for i, ids in tiny.qrels.items()
                for document in ids
            ],
        }[split]

    fake_hub(monkeypatch, load_dataset)
    loaded = LimitDataset.load("small")
    assert (loaded.name, loaded.corpus, loaded.qrels) == ("limit_small", tiny.corpus, tiny.qrels)
    repository, revision = HUB["small"]
    configs = (("corpus", "corpus"), ("queries", "queries"), ("default", "test"))
    assert asked == [(repository, name, split, revision) for name, split in configs]


def test_hub_that_cannot_be_reached_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("no route")

    fake_hub(monkeypatch, load_dataset)
    with pytest.raises(DataError, match=r"could not be had from the hub \(ConnectionError\)"):
        LimitDataset.load("full")


def test_hub_without_datasets_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r'pip install "fletching\[train\]"'):
        LimitDataset.load("small")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pattern": "dens"}, "`pattern` must be one of 'dense', .*Did you mean 'dense'"),
        ({"n_queries": 0}, "`n_queries` must be a positive integer; got 0"),
        ({"k": 0}, "`k`"),
        ({"n_docs": 45}, "`n_docs` must be at least 46 for 1000 queries of pattern 'dense'; got 45"),
        ({"items_per_doc": 44}, "`items_per_doc` must be at least 45"),
        ({"vocabulary": ["a", "b"]}, "`vocabulary` must be at least 1008 different items; got 2"),
        ({"n_queries": 3, "n_docs": 10**6, "items_per_doc": 2}, "`n_docs` must be at most"),
    ],
)
def test_generator_refuses_what_it_cannot_make(values: dict[str, Any], message: str) -> None:
    """1000 queries' items, and 45 - 37 spare ones for the document of the lowest degree."""
    with pytest.raises(ArgumentError, match=f"LimitDataset.generate: {message}"):
        LimitDataset.generate(**values)
