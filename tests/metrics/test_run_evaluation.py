from __future__ import annotations

import subprocess
import sys
from itertools import permutations
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fletching.data import read_qrels, read_run, write_run
from fletching.errors import ArgumentError, MissingExtraError
from fletching.metrics import RunEvaluation, break_ties, evaluate_run

DL19 = Path(__file__).parents[3] / "shared" / "data" / "trec_dl" / "dl19"
needs_dl19 = pytest.mark.skipif(not DL19.is_dir(), reason=f"no data in {DL19}")

GRADES = {"q": {"a": 3, "b": 2, "c": 0, "d": 1}}
RANKED = {"q": {"b": 4.0, "a": 3.0, "x": 2.0, "d": 1.0}}


def evaluate(measure: str, run: dict[str, Any] = RANKED, **settings: Any) -> float:
    return evaluate_run(run, GRADES, [measure], **settings).means()[measure]


def test_ndcg_has_linear_gain() -> None:
    """b a x d, grades 2 3 0 1: (2 + 3/log2(3) + 1/log2(5)) / (3 + 2/log2(3) + 1/2) = 4.323466/4.761860."""
    gained, ideal = 2 + 3 / log2(3) + 1 / log2(5), 3 + 2 / log2(3) + 1 / 2
    assert evaluate("ndcg") == pytest.approx(gained / ideal)
    assert evaluate("ndcg_at_10") == pytest.approx(0.907937, abs=1e-6)


def test_ndcg_is_cut() -> None:
    """The first two: (2 + 3/log2(3)) / (3 + 2/log2(3))."""
    assert evaluate("ndcg_at_2") == pytest.approx((2 + 3 / log2(3)) / (3 + 2 / log2(3)))


def test_ndcg_counts_what_was_not_returned_for_the_ideal() -> None:
    """Only b of the judged: 2 / (3 + 2/log2(3) + 1/2)."""
    assert evaluate("ndcg", {"q": {"b": 1.0}}) == pytest.approx(2 / (3 + 2 / log2(3) + 1 / 2))


def test_ndcg_does_not_depend_on_the_relevance_level() -> None:
    assert evaluate("ndcg_at_10", relevance_level=3) == evaluate("ndcg_at_10")


@pytest.mark.parametrize(
    ("measure", "level", "value"),
    [
        ("map", 1, (1 + 1 + 3 / 4) / 3),  # relevant: b at 1, a at 2, d at 4
        ("map", 2, 1.0),  # relevant: b at 1, a at 2
        ("map", 3, 1 / 2),  # relevant: a at 2
        ("map_at_1", 1, 1 / 3),
        ("mrr", 3, 1 / 2),
        ("mrr_at_2", 3, 1 / 2),
        ("mrr_at_1", 3, 0.0),
        ("recall_at_1", 1, 1 / 3),
        ("recall_at_1", 2, 1 / 2),
        ("recall_at_1000", 1, 1.0),
        ("precision_at_4", 1, 3 / 4),
        ("precision_at_10", 1, 3 / 10),  # divided by k, not by what was returned
        ("success_at_1", 3, 0.0),
        ("success_at_2", 3, 1.0),
        ("r_precision", 1, 2 / 3),  # of the first three, b and a
    ],
)
def test_binary_measure_is_what_hand_counting_gives(measure: str, level: int, value: float) -> None:
    assert evaluate(measure, relevance_level=level) == pytest.approx(value)


@pytest.mark.parametrize(("rank", "value"), [(10, 0.1), (11, 0.0)])
def test_mrr_is_cut_after_rank_k(rank: int, value: float) -> None:
    run = {"q": {**{f"x{place:02}": 100.0 - place for place in range(1, rank)}, "a": 0.0}}

    assert evaluate("mrr_at_10", run) == pytest.approx(value)


@pytest.mark.parametrize("k", [1, 3, 999, 1000])
def test_mrr_at_k_keeps_rank_k(k: int) -> None:
    run = {"q": {**{f"x{place}": float(-place) for place in range(1, k)}, "a": float(-k)}}

    assert evaluate(f"mrr_at_{k}", run) == pytest.approx(1 / k)


def test_means_count_queries_without_candidates() -> None:
    """q1 1, q2 not in the run 0, q3 with an empty list 0: mean 1/3; q9 is not judged and left out."""
    qrels = {"q1": {"d": 1}, "q2": {"d": 1}, "q3": {"d": 1}}
    evaluation = evaluate_run({"q1": {"d": 1.0}, "q3": {}, "q9": {"d": 1.0}}, qrels, ["mrr", "ndcg_at_10"])

    assert evaluation.means() == {"mrr": pytest.approx(1 / 3), "ndcg_at_10": pytest.approx(1 / 3)}
    assert (evaluation.n_missing, evaluation.n_unjudged) == (2, 1)


def test_means_count_queries_without_a_relevant_document() -> None:
    evaluation = evaluate_run({"q1": {"d": 1.0}}, {"q1": {"d": 1}, "q2": {"d": 0}}, ["map"])

    assert evaluation.means() == {"map": 0.5}
    assert evaluation.n_without_relevant == 1


@pytest.mark.parametrize("measure", ["ndcg", "ndcg_at_1", "map", "mrr", "recall_at_2", "r_precision"])
def test_a_negative_grade_counts_as_0(measure: str) -> None:
    run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
    negative, zero = ({"q": {"a": grade, "b": 2, "c": 1}} for grade in (-2, 0))

    assert evaluate_run(run, negative, [measure]).means() == evaluate_run(run, zero, [measure]).means()


def test_no_negative_grade_reaches_trec_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query with nothing else made it read memory of its own choice: it returned, or never did."""
    import pytrec_eval

    seen: list[int] = []

    class Recorder(pytrec_eval.RelevanceEvaluator):
        def __init__(self, judged: Any, *args: Any, **kwargs: Any) -> None:
            seen.extend(grade for grades in judged.values() for grade in grades.values())
            super().__init__(judged, *args, **kwargs)

    monkeypatch.setattr(pytrec_eval, "RelevanceEvaluator", Recorder)
    evaluation = evaluate_run({"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": -1, "b": -2}}, ["ndcg", "map"])

    assert evaluation.means() == {"ndcg": 0.0, "map": 0.0}
    assert min(seen) >= 0
    assert evaluation.n_without_relevant == 1


def test_a_level_above_all_grades_leaves_nothing_relevant() -> None:
    assert evaluate("map", relevance_level=10**12) == 0


def test_query_with_an_empty_judgement_is_not_judged() -> None:
    assert evaluate_run({"q1": {"d": 1.0}}, {"q1": {"d": 1}, "q2": {}}, ["map"]).query_ids == ("q1",)


def test_queries_are_in_one_order_whatever_the_judgements_order() -> None:
    qrels = {"q2": {"d": 1}, "q1": {"d": 1}}

    assert evaluate_run({"q1": {"d": 1.0}}, qrels).query_ids == ("q1", "q2")


def test_evaluation_is_a_table() -> None:
    evaluation = evaluate_run(RANKED, GRADES, ["mrr", "recall_at_1"])

    assert list(evaluation.rows()) == [{"query_id": "q", "mrr": 1.0, "recall_at_1": pytest.approx(1 / 3)}]
    assert evaluation["mrr"].tolist() == [1.0]


def test_measure_that_was_not_computed_is_named() -> None:
    with pytest.raises(ArgumentError, match="RunEvaluation: `measure` must be one of 'mrr'; got 'map'"):
        evaluate_run(RANKED, GRADES, ["mrr"])["map"]


def test_equal_scores_are_ordered_by_id() -> None:
    assert list(break_ties({"d10": 1.0, "d9": 1.0, "d1": 1.0, "d5": 2.0})) == ["d5", "d1", "d10", "d9"]


@pytest.mark.parametrize("order", list(permutations("abx")))
def test_order_of_the_run_does_not_matter_under_ties(order: tuple[str, ...]) -> None:
    """All equal: a first, so MRR of a is 1, and trec_eval's own rule, x b a, would give 1/3."""
    assert evaluate("mrr", {"q": dict.fromkeys(order, 0.5)}, relevance_level=3) == 1.0


def test_trec_evals_rule_is_there_for_comparisons() -> None:
    run = {"q": dict.fromkeys("abx", 0.5)}

    assert evaluate("mrr", run, relevance_level=3, ties="trec_eval") == pytest.approx(1 / 3)


def test_scores_that_float32_takes_for_equal_keep_their_order() -> None:
    """a is better by 1e-12, but to trec_eval, which would put x, the larger id, first."""
    run = {"q": {"x": 1.0, "a": 1.0 + 1e-12}}

    assert (evaluate("mrr", run), evaluate("mrr", run, ties="trec_eval")) == (1.0, 0.5)


def test_run_may_hold_numpy_floats() -> None:
    run = {"q": {"a": np.float32(0.5), "b": np.float64(0.25)}}

    assert evaluate("mrr", run) == 1.0


def test_inputs_are_left_as_they_are() -> None:
    run, qrels = {"q": {"b": 1.0, "a": 1.0}}, {"q": {"a": 1}}
    evaluate_run(run, qrels)

    assert (list(run["q"].items()), qrels) == ([("b", 1.0), ("a", 1.0)], {"q": {"a": 1}})


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 10**400, None, "high"])
def test_score_that_is_not_finite_is_named(score: Any) -> None:
    message = "evaluate_run: `run` must be finite for document 'a' of query 'q'; got"
    with pytest.raises(ArgumentError, match=message):
        evaluate_run({"q": {"a": score}}, GRADES)


@pytest.mark.parametrize("grade", [0.5, float("nan"), 1001, "1.5", "5000", 10**400, None])
def test_grade_that_is_no_whole_number_is_named(grade: Any) -> None:
    with pytest.raises(ArgumentError, match="evaluate_run: `qrels` must be whole grades up to 1000; got"):
        evaluate_run(RANKED, {"q": {"a": grade}})


@pytest.mark.parametrize(
    ("run", "qrels", "message"),
    [
        ({"q": {1: 1.0}}, GRADES, "`run` must be a mapping with strings as document ids; got 1"),
        (RANKED, {"q": {1: 1}}, "`qrels` must be a mapping with strings as document ids; got 1"),
        (RANKED, {1: {"a": 1}}, "`qrels` must be a mapping with strings as query ids; got 1"),
        (RANKED, {"q": {"a": 1}, 1: {"a": 1}}, "`qrels` must be a mapping with strings as query ids; got 1"),
    ],
)
def test_ids_must_be_strings(run: Any, qrels: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=f"evaluate_run: {message}"):
        evaluate_run(run, qrels)


@pytest.mark.parametrize("key", ["a\0b", "a\ud800"])
@pytest.mark.parametrize(
    ("build", "what"),
    [
        (lambda key: ({"q": {key: 1.0}}, {"q": {"a": 1}}), "`run` must be a mapping with document ids"),
        (lambda key: ({"q": {"a": 1.0}}, {"q": {key: 1}}), "`qrels` must be a mapping with document ids"),
        (lambda key: ({key: {"a": 1.0}}, {key: {"a": 1}}), "`qrels` must be a mapping with query ids"),
    ],
)
def test_ids_that_trec_eval_cannot_read_are_refused(build: Any, what: str, key: str) -> None:
    """trec_eval reads an id up to its first zero byte; where two were one then, it never returned."""
    with pytest.raises(ArgumentError, match=f"{what} of Unicode text without zero characters; got"):
        evaluate_run(*build(key))


@pytest.mark.parametrize("run", [{}, {"7": {"a": 1.0}}, {"q": {}}])
def test_run_without_any_judged_query_is_refused(run: dict[str, dict[str, float]]) -> None:
    with pytest.raises(ArgumentError, match="`run` must be a run with a judged query, such as 'q'; got"):
        evaluate_run(run, GRADES)


@pytest.mark.parametrize(
    "name", ["ndgc_at_10", "ndcg@10", "ndcg_at_0", "recall", "r_precision_at_5", "", None, 10]
)
def test_unknown_measure_is_refused(name: Any) -> None:
    with pytest.raises(ArgumentError, match="evaluate_run: `measures` must be one of 'map', 'mrr', 'ndcg', "):
        evaluate_run(RANKED, GRADES, [name])


@pytest.mark.parametrize("measures", ["", []])
def test_measures_must_be_given(measures: Any) -> None:
    with pytest.raises(ArgumentError, match="evaluate_run: `measures` must be a list of at least one name"):
        evaluate_run(RANKED, GRADES, measures)


def test_relevance_level_below_1_is_refused() -> None:
    with pytest.raises(ArgumentError, match="evaluate_run: `relevance_level` must be at least 1; got 0"):
        evaluate("map", relevance_level=0)


def test_unknown_rule_for_ties_is_refused() -> None:
    with pytest.raises(
        ArgumentError, match="evaluate_run: `ties` must be one of 'id', 'trec_eval'; got 'random'"
    ):
        evaluate("map", ties="random")


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytrec_eval", None)

    with pytest.raises(MissingExtraError, match=r'pip install "fletching\[evaluate\]"'):
        evaluate("map")


def test_measuring_needs_no_torch() -> None:
    code = """if True:
        import sys
        from fletching.metrics import bootstrap_interval, evaluate_run
        evaluation = evaluate_run({"q": {"d": 1.0}}, {"q": {"d": 1}, "r": {"d": 1}}, ["map"])
        bootstrap_interval(evaluation["map"])
        print("torch" in sys.modules)
    """
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def evaluate_dl19(name: str, **settings: Any) -> RunEvaluation:
    return evaluate_run(read_run(DL19 / "lists" / name), read_qrels(DL19 / "qrels" / "test.tsv"), **settings)


@needs_dl19
@pytest.mark.parametrize(
    ("name", "known"),
    [("bm25", 0.5058), ("bm25_rm3", 0.5216), ("splade_pp_ed", 0.7308), ("tas_b", 0.7210)],
)
def test_dl19_gives_the_ndcg_of_its_data_card(name: str, known: float) -> None:
    assert evaluate_dl19(f"{name}.tsv.gz").means()["ndcg_at_10"] == pytest.approx(known, abs=5e-5)


@needs_dl19
@pytest.mark.parametrize("name", ["bm25", "openai_ada2", "repllama", "splade_pp_ed"])
def test_dl19_equals_trec_eval(name: str, tmp_path: Path) -> None:
    """trec_eval's own reader and tie rule on a written run; `repllama` has many equal scores."""
    import pytrec_eval

    run = read_run(DL19 / "lists" / f"{name}.tsv.gz")
    write_run(tmp_path / "run", run)
    with (tmp_path / "run").open() as lines:
        parsed = pytrec_eval.parse_run(lines)
    measures = {
        "ndcg_cut.10": "ndcg_at_10",
        "map": "map",
        "recall.100": "recall_at_100",
        "P.5": "precision_at_5",
    }
    qrels = read_qrels(DL19 / "qrels" / "test.tsv")
    theirs = pytrec_eval.RelevanceEvaluator(qrels, set(measures), relevance_level=2).evaluate(parsed)
    ours = evaluate_dl19(
        f"{name}.tsv.gz", measures=list(measures.values()), relevance_level=2, ties="trec_eval"
    )

    for row in ours.rows():
        expected = {name: theirs[row["query_id"]][key.replace(".", "_")] for key, name in measures.items()}
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-6)
