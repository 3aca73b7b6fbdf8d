"""Searching: what is found, in which order, from whichever thread."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import fletching
from fletching.errors import ArgumentError, FletchingError
from fletching.search import Index
from fletching.search.table import PassageTable
from fletching.testing import save_tiny_cross_encoder, save_tiny_embedder

Open = Callable[..., Index]


@pytest.fixture
def index(open_index: Open) -> Index:
    opened = open_index()
    opened.update()
    return opened


@pytest.fixture(scope="module")
def reranker_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_cross_encoder(tmp_path_factory.mktemp("reranker"))


@pytest.fixture(scope="module")
def reranker(reranker_folder: str) -> Any:
    return fletching.load(reranker_folder)


def test_hits_tell_where_they_are(index: Index, folder: Path) -> None:
    for hit in index.retrieve("feathers"):
        assert (folder / hit.file).read_text()[hit.start : hit.end] == hit.text
    places = {(hit.file, hit.heading) for hit in index.retrieve("feathers")}
    assert ("guide/arrow.md", "Arrow > Feathers") in places


def test_every_passage_is_compared(index: Index, embedder: Any) -> None:
    hits = index.retrieve("why feathers")

    assert len(hits) == 5
    query = embedder.encode_query("why feathers")
    for hit in hits:
        expected = float(embedder.similarity(query, embedder.encode_document(hit.content)))
        assert hit.similarity == pytest.approx(expected, abs=1e-5)


def test_words_lead_to_what_vectors_miss(index: Index) -> None:
    by_words = {hit.heading: hit.bm25 for hit in index.retrieve("flight true", 5)}

    assert by_words["Arrow > Feathers"] is not None
    assert by_words["Bow"] is None


def test_order_is_that_of_the_fused_score(index: Index) -> None:
    hits = index.retrieve("feathers on the bow")

    assert [hit.retrieval_rank for hit in hits] == [1, 2, 3, 4, 5]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.score == hit.retrieval_score for hit in hits)


@pytest.mark.parametrize("word", ["北京大学", "東京", "schön", "SCHON", "v2.3", "foo"])
def test_words_of_any_script_are_found(open_index: Open, folder: Path, write: Any, word: str) -> None:
    write(folder / "words.txt", "我们在北京大学学习。 東京に住む。 Schön! version v2.3 foo::bar(x)")
    index = open_index()
    index.update()

    assert {hit.file for hit in index.retrieve(word) if hit.bm25} == {"words.txt"}


@pytest.mark.parametrize("query", ["the", "zzz", "a AND (b", '"', "+-*/", "\ud800"])
def test_query_without_words_is_answered_by_meaning(index: Index, query: str) -> None:
    assert len(index.retrieve(query)) == 5


def test_query_of_100_000_characters_is_answered(index: Index) -> None:
    assert len(index.search("feathers on an arrow " * 5000)) == 5


def test_words_of_a_long_query_are_counted_without_spaces_too(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BM25 takes time for each word; 5,000 Chinese characters are one "word" between two spaces."""
    asked: list[str] = []
    find = PassageTable.find_worded

    def record(table: PassageTable, words: str, limit: int) -> list[dict[str, Any]]:
        asked.append(words)
        return find(table, words, limit)

    monkeypatch.setattr(PassageTable, "find_worded", record)
    index.retrieve("箭" * 5000)

    assert asked == ["箭" * 1000]


@pytest.mark.parametrize("query", ["", "  ", None, 3])
def test_query_must_be_text(index: Index, query: Any) -> None:
    with pytest.raises(ArgumentError, match=r"Index.retrieve: `query` must be a"):
        index.search(query)


@pytest.mark.parametrize("name", ["top_k", "candidates"])
@pytest.mark.parametrize("value", [0, -1, True, 1.5])
def test_counts_must_be_positive(index: Index, name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=f"Index.search: `{name}` must be a positive integer"):
        index.search("feathers", **{name: value})


def test_reranker_orders_what_was_retrieved(index: Index, reranker: Any) -> None:
    retrieved = index.retrieve("why feathers")
    hits = index.search("why feathers", 3, reranker=reranker)

    ranking = reranker.rank("why feathers", [hit.content for hit in retrieved], 3)
    assert [hit.retrieval_rank for hit in hits] == [item["corpus_id"] + 1 for item in ranking]
    assert [hit.score for hit in hits] == [item["score"] for item in ranking]


def test_reranker_opens_by_name(index: Index, reranker: Any, reranker_folder: str) -> None:
    assert index.search("feathers", reranker=reranker_folder) == index.search("feathers", reranker=reranker)


def test_candidates_limit_what_is_reranked(index: Index, reranker: Any) -> None:
    assert {hit.retrieval_rank for hit in index.search("feathers", 2, reranker=reranker, candidates=2)} == {
        1,
        2,
    }


def test_embedder_is_no_reranker(index: Index, embedder: Any) -> None:
    with pytest.raises(
        ArgumentError, match=r"Index.search: `reranker` must be a reranker; got .* An embedder goes"
    ):
        index.search("feathers", reranker=embedder)


def test_search_before_the_first_update_says_so(open_index: Open) -> None:
    with pytest.raises(FletchingError, match=r"has no complete index yet\. Call `update` first"):
        open_index().search("feathers")


def test_search_with_other_weights_says_so(open_index: Open, tmp_path: Path) -> None:
    folder = save_tiny_embedder(tmp_path / "model")
    open_index(embedder=folder).update()
    save_tiny_embedder(folder, seed=1)

    with pytest.raises(FletchingError, match=r"made with other weights or settings\. Call `update`"):
        open_index(embedder=folder).search("feathers")


def test_update_elsewhere_is_seen(open_index: Open, index: Index, folder: Path) -> None:
    assert len(index.retrieve("feathers")) == 5
    (folder / "target.txt").unlink()
    open_index().update()

    assert len(index.retrieve("feathers")) == 4


async def test_asearch_finds_the_same(index: Index, reranker: Any) -> None:
    found = await asyncio.gather(*(index.asearch("why feathers", reranker=reranker) for _ in range(8)))

    assert all(hits == index.search("why feathers", reranker=reranker) for hits in found)
    assert await index.asearch("why feathers", 2) == index.search("why feathers", 2)


def test_threads_find_what_one_finds(index: Index, reranker: Any) -> None:
    queries = [f"why {word}" for word in ("feathers", "bow", "arrow", "target")] * 8
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda query: index.search(query, reranker=reranker), queries))

    assert found == [index.search(query, reranker=reranker) for query in queries]


def test_search_with_another_cut_says_so(open_index: Open, index: Index) -> None:
    with pytest.raises(FletchingError, match="made with other weights or settings"):
        open_index(max_words=50).retrieve("feathers")


@pytest.mark.parametrize("embedder", [None, 3, "", []])
def test_embedder_must_be_one(folder: Path, embedder: Any) -> None:
    with pytest.raises(
        ArgumentError, match="Index: `embedder` must be a checkpoint name, a folder, a hub id or"
    ):
        Index(folder, embedder=embedder)


@pytest.mark.parametrize("value", [None, 3, "nowhere"])
def test_folder_must_be_one(value: Any) -> None:
    with pytest.raises(ArgumentError, match="Index: `folder` must be an existing folder; got"):
        Index(value)


def test_counts_may_be_huge(index: Index) -> None:
    assert len(index.search("feathers", 2**70, candidates=2**33)) == 5


def test_ties_are_ordered_by_file_however_the_index_grew(open_index: Open, folder: Path, write: Any) -> None:
    """Sixty equal passages; the index sees the later files first."""
    index = open_index()
    for names in (range(30, 60), range(30)):
        for number in names:
            write(folder / f"same-{number:02}.txt", "The goose has feathers.")
        index.update()

    worded = {hit.file for hit in index.retrieve("goose feathers", 6) if hit.bm25}
    assert len(worded) >= 3
    assert worded == {f"same-{number:02}.txt" for number in range(len(worded))}


@pytest.mark.parametrize("value", [0, -5, True, "many", None])
def test_max_words_must_be_positive(open_index: Open, value: Any) -> None:
    with pytest.raises(ArgumentError, match="Index: `max_words` must be a positive integer"):
        open_index(max_words=value)


def test_index_survives_pickling(open_index: Open, embedder_folder: str) -> None:
    opened = open_index(embedder=embedder_folder)
    opened.update()
    expected = opened.retrieve("feathers")

    assert pickle.loads(pickle.dumps(opened)).retrieve("feathers") == expected
