"""The rules of T2Ranking, on toys that can be checked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from fletching.errors import ArgumentError
from fletching.methods.t2ranking.functional import map_to_binary, measure_rankings, sample_strided
from fletching.metrics import evaluate_run

POSITIVES = {"q1": ["a", "b", "c"], "q2": ["d"]}
RUN = {"q1": ["a", "x", "b"], "q2": ["x", "d", "y"], "q3": ["x", "y", "z"]}  # nothing is relevant for q3


def test_1_measures_are_those_of_the_reference() -> None:
    """MRR = (1 + 1/2 + 0) / 3 queries of the run; recall = found / 4 relevant: 1 at 1, 3 at 50."""
    metrics = measure_rankings(RUN, POSITIVES)
    assert metrics == {
        "t2_mrr_at_10": 0.5,
        "micro_recall_at_1": 0.25,
        "micro_recall_at_50": 0.75,
        "micro_recall_at_1000": 0.75,
        "queries_ranked": 3.0,
    }


def test_1_standard_measures_differ() -> None:
    """MRR = (1 + 1/2) / 2 queries with a relevant passage; recall = (2/3 + 1) / 2 of them."""
    standard = measure_rankings(RUN, POSITIVES, style="standard")
    assert standard["mrr_at_10"] == 0.75
    assert standard["recall_at_50"] == pytest.approx(0.8333333, abs=1e-6)
    reference = measure_rankings(RUN, POSITIVES)
    assert standard["mrr_at_10"] != reference["t2_mrr_at_10"]
    assert standard["recall_at_50"] != reference["micro_recall_at_50"]


def test_standard_measures_are_trec_evals() -> None:
    run = {query: dict(zip(ids, (3.0, 2.0, 1.0), strict=True)) for query, ids in RUN.items()}
    qrels = {query: dict.fromkeys(ids, 1) for query, ids in POSITIVES.items()}
    qrels["q4"] = {"e": 1}  # the run lacks it: 0 for both
    expected = evaluate_run(run, qrels, ["mrr_at_10", "recall_at_1", "recall_at_50"]).means()
    found = measure_rankings(RUN, {**POSITIVES, "q4": ["e"]}, style="standard")
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_2_ndcg_has_a_linear_gain() -> None:
    """DCG = 2/log2(2) + 3/log2(3) + 1/log2(5) = 2 + 1.892789 + .430677 = 4.323466; the ideal 3, 2, 1 gives
    3 + 1.261860 + .5 = 4.761860. With the gain 2^level - 1 it would be 0.835448.
    """
    levels = {"q": {"a": 3, "b": 2, "c": 0, "d": 1}}
    run = {"q": {"b": 4.0, "a": 3.0, "x": 2.0, "d": 1.0}}
    means = evaluate_run(run, levels, ["ndcg_at_20", "ndcg_at_100"]).means()
    assert means == pytest.approx({"ndcg_at_20": 0.907937, "ndcg_at_100": 0.907937}, abs=1e-6)
    assert means["ndcg_at_20"] != pytest.approx(0.835448, abs=1e-3)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, [1, 6, 10, 14]), (1, [2, 7, 11, 15]), (2, [4, 8, 12, 16]), (5, [2, 7, 11, 15])],
)
def test_3_stride_walks_down_the_list(epoch: int, expected: list[int]) -> None:
    """18 negatives are left of 0 to 19; the interval is 18 // 4 = 4, so that epoch 5 begins where 1 did."""
    ranked = [rank for rank in range(20) if rank not in (0, 3)]
    assert sample_strided(ranked, 4, epoch=epoch) == expected


def test_one_negative_is_that_of_rank_epoch() -> None:
    assert [sample_strided("abcde", 1, epoch=epoch) for epoch in (0, 3, 7)] == [["a"], ["d"], ["c"]]


def test_4_levels_two_and_three_are_relevant() -> None:
    assert map_to_binary([0, 1, 2, 3]) == [0, 0, 1, 1]


def test_a_positive_after_rank_ten_counts_for_recall_only() -> None:
    ranking = [*(f"x{rank}" for rank in range(10)), "d"]
    metrics = measure_rankings({"q2": ranking}, POSITIVES, recall_at=[10, 11])
    assert (metrics["t2_mrr_at_10"], metrics["micro_recall_at_10"], metrics["micro_recall_at_11"]) == (
        0,
        0,
        1,
    )


def test_a_judged_query_that_the_run_lacks_counts_for_standard_only() -> None:
    """q2 alone: the reference sees one query; others see two, and 0 for q1."""
    run = {"q2": ["d"]}
    assert measure_rankings(run, POSITIVES)["t2_mrr_at_10"] == 1.0
    assert measure_rankings(run, POSITIVES)["micro_recall_at_1"] == 1.0
    assert measure_rankings(run, POSITIVES, style="standard")["mrr_at_10"] == 0.5


def test_a_missing_rank_is_never_relevant() -> None:
    """Passage 0 is relevant, the run leaves ranks 1 and 2 out: the reference would count it there."""
    metrics = measure_rankings({"q": [None, None, "0"]}, {"q": ["0"]}, recall_at=[1, 50])
    assert metrics["t2_mrr_at_10"] == pytest.approx(1 / 3)
    assert (metrics["micro_recall_at_1"], metrics["micro_recall_at_50"]) == (0.0, 1.0)


def test_rankings_may_come_one_at_a_time() -> None:
    assert measure_rankings(iter(RUN.items()), POSITIVES) == measure_rankings(RUN, POSITIVES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": "t3"}, "must be one of 't2', 'standard'; got 't3'"),
        ({"mrr_at": 0}, "must be positive integers; got 0"),
        ({"recall_at": [1, -5]}, "must be positive integers; got -5"),
    ],
)
def test_bad_settings_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        measure_rankings(RUN, POSITIVES, **options)


@pytest.mark.parametrize("run", [{}, {"q9": ["a"]}])
def test_a_run_without_anything_relevant_is_refused(run: Any) -> None:
    with pytest.raises(ArgumentError, match="a run with a query that has a relevant passage"):
        measure_rankings(run, POSITIVES)


@pytest.mark.parametrize(
    ("n", "message"), [(0, "`n` must be a positive"), (4, "a list of at least 4; got 3")]
)
def test_bad_strides_are_refused(n: int, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        sample_strided("abc", n)
