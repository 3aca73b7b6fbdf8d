"""The measures, on run files and on models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from fletching.errors import ArgumentError, DataError
from fletching.evaluation.bm25 import BM25
from fletching.methods.multi_cpr import (
    MultiCPRDataset,
    MultiCPREvaluator,
    QueryKey,
    measure_rankings,
    read_rankings,
)
from fletching.methods.multi_cpr.evaluation import search_words
from fletching.methods.multi_cpr.training import build_dual_encoder

TEN = [f"n{number}" for number in range(10)]


def test_5_rank_eleven_counts_for_recall_only() -> None:
    """Section 5, item 5: 0 for MRR@10 and 1 for recall@1000."""
    assert measure_rankings({"q": [*TEN, "p"]}, {"q": "p"}) == {
        "mrr_at_10": 0.0,
        "recall_at_1000": 1.0,
        "queries": 1,
    }


def test_5_queries_without_a_judgement_change_nothing() -> None:
    """Section 5, item 5; and a judged query without a ranking is left out as well."""
    run = {"q1": ["a", "p"], "q2": ["a"]}
    positives = {"q1": "p", "q2": "b", "q3": "c"}
    expected = {"mrr_at_10": 0.25, "recall_at_1000": 0.5, "queries": 2}
    assert measure_rankings(run, positives) == expected
    assert measure_rankings({**run, "stranger": ["a"]}, positives) == expected


def test_an_empty_ranking_counts_with_zero() -> None:
    assert measure_rankings({"q1": ["p"], "q2": []}, {"q1": "p", "q2": "p"})["mrr_at_10"] == 0.5


@pytest.mark.parametrize(
    ("rank", "reciprocal", "recall"), [(1, 1.0, 1), (10, 0.1, 1), (1000, 0, 1), (1001, 0, 0)]
)
def test_measures_at_the_cuts(rank: int, reciprocal: float, recall: int) -> None:
    ranking = [f"n{number}" for number in range(rank - 1)] + ["p"]
    measured = measure_rankings({"q": ranking}, {"q": "p"})
    assert measured == {"mrr_at_10": reciprocal, "recall_at_1000": recall, "queries": 1}


def test_recall_below_a_thousand_is_named_after_its_depth() -> None:
    assert measure_rankings({"q": [*TEN, "p"]}, {"q": "p"}, depth=10) == {
        "mrr_at_10": 0.0,
        "recall_at_10": 0.0,
        "queries": 1,
    }


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(
        ArgumentError, match="`rankings` must be rankings of at least one judged query; got '1'"
    ):
        measure_rankings({"1": ["p"]}, {QueryKey("dev", "1"): "p"})


RUN = "1\tb\t0.5\n1\ta\t0.5\n1\tc\t0.9\n2\ta\t-1e-3\n"


def test_run_file_is_ordered_by_score_and_ties_keep_its_order(tmp_path: Path) -> None:
    path = tmp_path / "run.out"
    path.write_text(RUN)
    descending = {("dev", "1"): ["c", "b", "a"], ("dev", "2"): ["a"]}
    ascending = {("dev", "1"): ["b", "a", "c"], ("dev", "2"): ["a"]}
    assert read_rankings(path) == descending
    assert read_rankings(path, ascending=True) == ascending


def test_run_files_of_other_layouts_are_read(tmp_path: Path) -> None:
    (tmp_path / "run.trec").write_text("1 Q0 b 1 0.1 x\n1 Q0 a 2 0.7 x\n")
    (tmp_path / "run.tsv").write_text("query-id\tcorpus-id\trank\tscore\n1\tb\t1\t0.1\n1\ta\t2\t0.7\n")
    for name in ("run.trec", "run.tsv"):
        assert read_rankings(tmp_path / name, split="train") == {("train", "1"): ["a", "b"]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1\tb\tnan", "run:2: `score` must be a finite number"),
        ("1\ta\t0.1", "run:2: `document` must be returned once for query '1'; got 'a'"),
        ("1\tb", "run:2"),
    ],
)
def test_malformed_runs_name_file_and_line(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "run").write_text(f"1\ta\t0.5\n{row}\n")
    with pytest.raises(DataError, match=message):
        read_rankings(tmp_path / "run")


def test_embedder_is_measured_as_sentence_transformers_does(root: Path, base: str) -> None:
    """All queries have one positive, so that the two evaluators must agree."""
    dataset = MultiCPRDataset(root, "video", "dev")
    model = build_dual_encoder(base, max_tokens=64)
    ours = MultiCPREvaluator(dataset, depth=40, name="video")(model)
    theirs = InformationRetrievalEvaluator(
        {key.id: text for key, text in dataset.queries.items()},
        dict(dataset.corpus),
        {key.id: {passage} for key, passage in dataset.positives.items()},
        mrr_at_k=[10],
        precision_recall_at_k=[40],
        accuracy_at_k=[1],
        ndcg_at_k=[1],
        map_at_k=[1],
    )(model)
    assert ours == {
        "video_mrr_at_10": pytest.approx(theirs["cosine_mrr@10"]),
        "video_recall_at_40": pytest.approx(theirs["cosine_recall@40"]),
    }
    assert 0 < ours["video_mrr_at_10"] < 1


@pytest.mark.parametrize("score", ["l2", "dot"])
def test_scores_rank_differently(score: str, root: Path, base: str) -> None:
    """A random model ends in a norm that makes all vectors equally long; a shift gives them any length."""
    dataset = MultiCPRDataset(root, "video", "dev")
    model = build_dual_encoder(base, max_tokens=64)
    with torch.no_grad():
        model[0].model.encoder.layer[-1].output.LayerNorm.bias += 3.0
    by_cosine, other = (MultiCPREvaluator(dataset, score=name).rank(model) for name in ("cosine", score))
    assert by_cosine != other


class Reranker:
    """Scores by the length of a passage, or all alike; remembers what it was shown."""

    def __init__(self, alike: bool = False) -> None:
        self.alike = alike
        self.lists: list[list[str]] = []

    def rank(self, query: str, documents: Sequence[str], **options: Any) -> list[dict[str, Any]]:
        self.lists.append(list(documents))
        return [
            {"corpus_id": place, "score": 0.0 if self.alike else float(len(text))}
            for place, text in enumerate(documents)
        ]


def test_reranker_gets_candidates_by_id_and_recall_is_the_first_stages(root: Path) -> None:
    dataset = MultiCPRDataset(root, "ecom", "dev")
    others = [key for key in dataset.corpus if key not in dataset.positives.values()][:4]
    candidates = {
        key: [positive, *others] if place % 2 else others
        for place, (key, positive) in enumerate(dataset.positives.items())
    }
    model = Reranker(alike=True)
    metrics = MultiCPREvaluator(dataset, candidates=candidates, name="x")(model)

    ids = [sorted(candidates[key]) for key in dataset.positives]
    assert model.lists == [[dataset.corpus[passage] for passage in row] for row in ids]
    ranks = [
        row.index(positive) + 1
        for row, positive in zip(ids, dataset.positives.values(), strict=True)
        if positive in row
    ]
    assert metrics == {
        "x_mrr_at_10": pytest.approx(sum(1 / rank for rank in ranks) / 20),
        "x_recall_at_1000": 0.5,
    }
    assert metrics["x_mrr_at_10"] < 0.5  # the first stage had the positive on top


def test_reranker_takes_scores_of_a_first_stage_and_reads_the_best(root: Path) -> None:
    dataset = MultiCPRDataset(root, "ecom", "dev").take(1)
    texts = list(dataset.corpus)[:30]
    candidates = {next(iter(dataset.qrels)): {key: float(place) for place, key in enumerate(texts)}}
    model = Reranker()
    MultiCPREvaluator(dataset, candidates=candidates, depth=10)(model)
    assert model.lists == [[dataset.corpus[key] for key in sorted(texts[-10:])]]


def test_a_query_without_candidates_counts_with_zero(root: Path) -> None:
    dataset = MultiCPRDataset(root, "ecom", "dev").take(2)
    first, second = dataset.positives
    candidates: dict[QueryKey, list[str]] = {first: [dataset.positives[first]], second: []}
    metrics = MultiCPREvaluator(dataset, candidates=candidates, name="x")(Reranker())
    assert metrics == {"x_mrr_at_10": 0.5, "x_recall_at_1000": 0.5}


def test_words_find_most_of_the_made_up_passages(root: Path) -> None:
    """A query has most of the words of its passage; split by characters here, which needs no extra."""
    metrics = MultiCPREvaluator(MultiCPRDataset(root, "medical", "dev"), name="x")(BM25(splitter=list))
    assert metrics["x_mrr_at_10"] > 0.5
    assert metrics["x_recall_at_1000"] == 1.0


def test_evaluator_refuses_what_it_cannot_measure(root: Path) -> None:
    dataset = MultiCPRDataset(root, "ecom", "dev")
    with pytest.raises(ArgumentError, match="`model` must be a dense embedder of sentence-transformers, a"):
        MultiCPREvaluator(dataset)(object())
    with pytest.raises(ArgumentError, match="`candidates` must be given for a reranker; got None"):
        MultiCPREvaluator(dataset)(Reranker())
    with pytest.raises(ArgumentError, match="`depth` must be an integer >= 10, where MRR is cut; got 5"):
        MultiCPREvaluator(dataset, depth=5)
    with pytest.raises(ArgumentError, match="`score` must be one of"):
        MultiCPREvaluator(dataset, score="euclidean")


def test_words_are_indexed_once_and_looked_up_query_by_query() -> None:
    class Words:
        def index(self, passages: list[tuple[str, str]]) -> None:
            self.passages = passages

        def retrieve(self, query: str, depth: int) -> dict[str, float]:
            return {key: 1.0 for key, text in self.passages if query in text}

    found = search_words(Words(), {"q1": "bow", "q2": "oak"}, passages=[("a", "a bow")], depth=5)
    assert dict(found) == {"q1": {"a": 1.0}, "q2": {}}
