"""Searching and reranking, measured as T2Ranking does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fletching.errors import ArgumentError, DataError
from fletching.evaluation.bm25 import BM25
from fletching.methods.t2ranking import (
    GradedRerankingEvaluator,
    T2RankingDataset,
    T2RankingEvaluator,
    build_cross_encoder,
    build_dual_encoder,
)

CORPUS = {"a": "3", "b": "2", "c": "1", "d": "4", "x": "9"}
LEVELS = {"q": {"a": 3, "b": 2, "c": 0, "d": 1}}


class Reverse:
    """Ranks the last candidate first."""

    def rank(self, query: str, documents: list[str], **kwargs: Any) -> list[dict[str, Any]]:
        return [{"corpus_id": place, "score": float(place)} for place in reversed(range(len(documents)))]


class Lookup:
    """Scores a text by what a table says."""

    def __init__(self, table: dict[str, float]) -> None:
        self.table = table

    def score(self, queries: list[str], documents: list[str]) -> list[list[float]]:
        return [[self.table[text] for text in documents] for _ in queries]


@pytest.fixture(scope="module")
def dev(collection: Path) -> T2RankingDataset:
    return T2RankingDataset(collection, "dev")


def test_2_graded_evaluator_has_a_linear_gain() -> None:
    """The order b, a, x, d of the toy in test_functional: 4.323466 / 4.761860."""
    evaluator = GradedRerankingEvaluator({"q": "?"}, CORPUS, LEVELS, {"q": ["d", "x", "a", "b"]}, name="")
    assert evaluator(Reverse()) == pytest.approx({"ndcg_at_20": 0.907937, "ndcg_at_100": 0.907937}, abs=1e-6)
    assert evaluator.primary_metric == "ndcg_at_20"


@pytest.mark.parametrize("build", [Reverse, lambda: None])
def test_8_reranking_never_changes_recall_at_the_depth(build: Any, base: str, dev: T2RankingDataset) -> None:
    """Recall at 30 over lists of 30 is that of the lists, whoever orders them; what is above may differ."""
    model = build() or build_cross_encoder(base, pair_tokens=64, device="cpu")
    lists = {query: ranking[:30] for query, ranking in dev.stream_run("dpr")}
    options: dict[str, Any] = {"recall_at": (1, 30, 1000), "name": ""}
    evaluator = T2RankingEvaluator(dev.queries, dev.corpus, dev.positives, candidates=lists, **options)
    before = evaluator.measure((query, dict.fromkeys(ids, 0.0)) for query, ids in lists.items())
    after = evaluator(model)
    assert before["micro_recall_at_30"] == after["micro_recall_at_30"] == after["micro_recall_at_1000"] > 0
    assert before["t2_mrr_at_10"] != after["t2_mrr_at_10"]


def test_a_retriever_searches_the_whole_collection(base: str, dev: T2RankingDataset) -> None:
    """Against a plain loop over dot products, ordered by score, then id."""
    model = build_dual_encoder(base, passage_tokens=64, device="cpu")
    corpus = dict(dev.corpus)
    evaluator = T2RankingEvaluator(dev.queries, dev.corpus, dev.positives, recall_at=(5,), name="dev")
    metrics = evaluator(model)
    vectors = torch.tensor(model.encode_document(list(corpus.values())))
    total, found = 0.0, 0
    for query, text in dev.queries.items():
        scores = (vectors @ torch.tensor(model.encode_query(text))).tolist()
        ranking = [key for _, key in sorted(zip([-score for score in scores], corpus, strict=True))]
        relevant = dev.positives.get(query, ())
        ranks = [rank for rank, key in enumerate(ranking, start=1) if key in relevant]
        total += 1 / ranks[0] if ranks and ranks[0] <= 10 else 0
        found += sum(rank <= 5 for rank in ranks)
    assert metrics["dev_t2_mrr_at_10"] == pytest.approx(total / len(dev.queries))
    n_positives = sum(map(len, dev.positives.values()))
    assert metrics["dev_micro_recall_at_5"] == pytest.approx(found / n_positives)
    assert model.model_card_data is not None


def test_styles_differ_where_a_query_has_no_positive() -> None:
    """One of two queries has a relevant passage, found at rank 1: 1/2 for the reference, 1 for others."""
    queries, positives = {"q": "?", "r": "?"}, {"q": ["x"]}
    table = {text: float(text) for text in CORPUS.values()}
    reference = T2RankingEvaluator(queries, CORPUS, positives, name="")(Lookup(table))
    standard = T2RankingEvaluator(queries, CORPUS, positives, style="standard", name="")(Lookup(table))
    assert reference["t2_mrr_at_10"] == 0.5
    assert standard["mrr_at_10"] == 1.0


def test_levels_add_ndcg() -> None:
    """Scores 9, 4, 3, 2, 1 give the order x, d, a, b, c: (1/log2(3) + 3/log2(4) + 2/log2(5)) / 4.761860."""
    evaluator = T2RankingEvaluator(
        {"q": "?"}, CORPUS, {"q": ["a", "b"]}, levels=LEVELS, ndcg_at=(20,), name=""
    )
    metrics = evaluator(Lookup({text: float(text) for text in CORPUS.values()}))
    assert metrics["ndcg_at_20"] == pytest.approx((0.630930 + 1.5 + 0.861353) / 4.761860, abs=1e-5)
    assert metrics["t2_mrr_at_10"] == pytest.approx(1 / 3)


def test_equal_scores_are_ordered_by_id() -> None:
    table = dict.fromkeys(CORPUS.values(), 1.0)
    evaluator = T2RankingEvaluator({"q": "?"}, CORPUS, {"q": ["c"]}, name="")
    assert evaluator(Lookup(table))["t2_mrr_at_10"] == pytest.approx(1 / 3)


def test_word_overlap_with_a_chinese_dictionary_finds_the_passages(dev: T2RankingDataset) -> None:
    """Passages of level 2 and 3 repeat the words of the query; no other passage has two of them."""
    evaluator = T2RankingEvaluator(dev.queries, dev.corpus, dev.positives, style="standard", name="")
    assert evaluator(BM25("chinese"))["mrr_at_10"] == 1.0


def test_queries_without_candidates_are_not_ranked(dev: T2RankingDataset) -> None:
    lists = dict(list(dev.stream_run("bm25"))[:2])
    evaluator = T2RankingEvaluator(dev.queries, dev.corpus, dev.positives, candidates=lists, name="")
    assert evaluator(Reverse())["queries_ranked"] == 2.0


def test_a_reranker_without_candidates_is_refused(dev: T2RankingDataset) -> None:
    evaluator = T2RankingEvaluator(dev.queries, dev.corpus, dev.positives)
    with pytest.raises(ArgumentError, match="`candidates` must be given for a model that orders candidates"):
        evaluator(Reverse())


def test_an_unknown_candidate_is_named() -> None:
    evaluator = T2RankingEvaluator({"q": "?"}, CORPUS, {"q": ["a"]}, candidates={"q": ["a", "zz"]})
    with pytest.raises(DataError, match="candidate 'zz' of query 'q' must be in the corpus"):
        evaluator(Reverse())


def test_no_query_is_refused() -> None:
    with pytest.raises(ArgumentError, match="`queries` must be at least one query"):
        T2RankingEvaluator({}, CORPUS, {})


def test_a_graded_evaluator_needs_judged_candidates() -> None:
    with pytest.raises(ArgumentError, match="candidates for a judged query"):
        GradedRerankingEvaluator({"q": "?"}, CORPUS, LEVELS, {"r": ["a"]})
