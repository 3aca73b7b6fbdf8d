"""Several systems on the same queries: what is compared, how, and what is complained about before."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytrec_eval

from fletching.data import Document
from fletching.errors import ArgumentError, CheckpointError, DataError, FletchingError
from fletching.evaluation import EvaluationSet, evaluate, open_system
from fletching.evaluation import systems as systems_module
from fletching.metrics import Interval

DataBuilder = Callable[..., EvaluationSet]
N_RESAMPLES = 50  # intervals have their own tests


class InputOrder:
    """The fault to catch: it returns what it was given as it was given."""

    def __init__(self) -> None:
        self.lists: list[list[str]] = []

    def rank(self, query: str, documents: list[str]) -> list[dict[str, Any]]:
        self.lists.append(documents)
        return [{"corpus_id": place, "score": -place} for place in range(len(documents))]


class ByLength:
    """Prefers long documents."""

    def rank(self, query: str, documents: list[str]) -> list[dict[str, Any]]:
        return [{"corpus_id": place, "score": len(text)} for place, text in enumerate(documents)]


def compare(systems: Any, data: EvaluationSet, **options: Any) -> Any:
    return evaluate(systems, data, n_resamples=N_RESAMPLES, **options)


def by_name(comparison: Any) -> dict[str, Any]:
    return {result.name: result for result in comparison.results}


# --- values ---


def test_values_equal_a_plain_loop_over_trec_eval(
    models: dict[str, Any], documents: dict[str, str], build_data: DataBuilder
) -> None:
    """The sixth query has no candidates: it adds 0 to each mean over six."""
    data = build_data()
    assert data.candidates is not None
    model = models["reranker"]
    run = {}
    for query, candidates in data.candidates.items():
        scores = model.predict([(data.queries[query], documents[key]) for key in candidates])
        run[query] = dict(zip(candidates, scores.tolist(), strict=True))
    names = {"ndcg_cut.10": "ndcg_at_10", "map": "map", "recip_rank": "mrr", "recall.5": "recall_at_5"}
    evaluator = pytrec_eval.RelevanceEvaluator(data.qrels, set(names))
    rows = evaluator.evaluate(run)
    found = by_name(compare([model], data, measures=list(names.values())))
    result = found["Reranker"]
    for theirs, ours in names.items():
        mean = sum(row[theirs.replace(".", "_")] for row in rows.values()) / 6
        assert result.intervals[ours].mean == pytest.approx(mean, abs=1e-9)
        assert result.evaluation.means()[ours] == pytest.approx(mean, abs=1e-9)
    assert result.evaluation.n_missing == 1


def test_every_system_but_a_run_orders_the_same_candidates(
    models: dict[str, Any], build_data: DataBuilder, run_file: Path
) -> None:
    data = build_data()
    comparison = compare([run_file, "bm25", *models.values()], data)
    first, run, *rest = comparison.results
    assert (first.name, first.kind, first.run) == ("draw", "run", data.candidates)
    assert run.run == {"q0": {"d09": 2.5, "d05": 1.5, "d03": 1.5}}
    assert (first.first_stage, run.first_stage, run.first_stage_recall) == ("", "", None)
    recall = first.evaluation.means()["recall_at_100"]
    assert [result.kind for result in rest] == ["bm25", "embedder", "reranker", "sparse", "multi_vector"]
    for result in rest:
        assert {query: set(scores) for query, scores in result.run.items()} == {
            query: set(scores) for query, scores in first.run.items()
        }
        assert (result.first_stage, result.first_stage_recall) == ("draw", recall)
        assert set(result.cost.latency_ms) == set(first.run)


def test_without_candidates_rerankers_order_what_bm25_finds(
    models: dict[str, Any], build_data: DataBuilder
) -> None:
    data = build_data(candidates=False)
    bm25, dense, reranker = compare([models["embedder"], ByLength()], data).results
    assert (bm25.name, bm25.kind, reranker.first_stage, dense.first_stage) == ("bm25", "bm25", "bm25", "")
    assert all(len(scores) == 30 for scores in dense.run.values())
    assert {query: set(scores) for query, scores in reranker.run.items()} == {
        query: set(scores) for query, scores in bm25.run.items()
    }
    assert reranker.first_stage_recall == bm25.evaluation.means()["recall_at_100"]


def test_bm25_that_was_asked_for_is_the_first_stage(build_data: DataBuilder) -> None:
    comparison = compare([ByLength(), "bm25"], build_data(candidates=False))
    assert [result.name for result in comparison.results] == ["bm25", "ByLength"]
    assert comparison.baseline == "bm25"


def test_no_first_stage_where_nothing_is_reordered(models: dict[str, Any], build_data: DataBuilder) -> None:
    comparison = compare([models["embedder"]], build_data(candidates=False))
    assert [result.kind for result in comparison.results] == ["embedder"]


def test_only_so_many_candidates_are_ordered(build_data: DataBuilder) -> None:
    data = build_data()
    first, reranked = compare([ByLength()], data, rerank_depth=4).results
    assert all(len(scores) == 10 for scores in first.run.values())
    assert reranked.run.keys() == first.run.keys()
    for query, scores in reranked.run.items():
        assert set(scores) == set(list(first.run[query])[:4])
    recall = compare([ByLength()], data, measures=["recall_at_4"]).results[0].intervals["recall_at_4"].mean
    assert reranked.first_stage_recall == recall


def test_searches_return_so_many(models: dict[str, Any], build_data: DataBuilder) -> None:
    comparison = compare(["bm25", models["embedder"]], build_data(candidates=False), depth=3)
    assert comparison.measures == ("ndcg_at_10", "mrr_at_10", "map", "recall_at_3")
    assert all(len(scores) <= 3 for result in comparison.results for scores in result.run.values())


def test_a_search_that_finds_nothing_counts_as_zero(build_data: DataBuilder) -> None:
    data = replace(build_data(candidates=False), queries={"q0": "zebra", "q1": "yak"})
    (result,) = compare(["bm25"], data).results
    assert result.run == {}
    assert result.evaluation.n_missing == 2
    assert result.intervals["map"] == Interval(0.0, 0.0, 0.0, 0.95)


def test_one_query_says_nothing_about_others(build_data: DataBuilder) -> None:
    data = replace(build_data(), queries={"q0": "arrow bow"})
    _, result = compare([ByLength()], data).results
    assert (result.intervals["map"].low, result.intervals["map"].high) == (0.0, 1.0)
    assert (result.differences["map"].interval.low, result.differences["map"].p_value) == (-1.0, 1.0)


def test_what_was_skipped_is_passed_on(build_data: DataBuilder) -> None:
    comparison = compare([ByLength()], build_data())
    assert (comparison.data_name, comparison.data_digest) == ("toy", "d1")
    assert comparison.skipped == {"blank queries": 2}


# --- order ---


def test_candidates_are_shown_best_first(documents: dict[str, str], build_data: DataBuilder) -> None:
    """The first call only warms up."""
    data, model = build_data(), InputOrder()
    first, reranked = compare([model], data).results
    assert model.lists[1:] == [[documents[key] for key in scores] for scores in first.run.values()]
    assert reranked.evaluation.means() == first.evaluation.means()


def test_equal_scores_of_the_first_stage_are_shown_by_id(
    documents: dict[str, str], build_data: DataBuilder
) -> None:
    model = InputOrder()
    compare([model], replace(build_data(), candidates={"q0": {"d05": 1.0, "d02": 2.0, "d03": 1.0}}))
    assert model.lists[-1] == [documents[key] for key in ("d02", "d03", "d05")]


def test_shuffling_exposes_a_model_that_returns_its_input_order(build_data: DataBuilder) -> None:
    data = build_data()
    _, order, length = compare([InputOrder(), ByLength()], data).results
    shuffled = [compare([InputOrder(), ByLength()], data, order="shuffled", seed=seed) for seed in (1, 1, 2)]
    runs = [comparison.results[1].run for comparison in shuffled]
    assert runs[0] == runs[1]
    assert len({str(run) for run in (order.run, runs[0], runs[2])}) == 3
    assert all(comparison.results[2].run == length.run for comparison in shuffled)
    assert [comparison.order for comparison in shuffled] == ["shuffled"] * 3


def test_random_order_depends_on_the_candidates_not_on_their_order(build_data: DataBuilder) -> None:
    data = build_data()
    assert data.candidates is not None
    turned = {
        query: {key: -score for key, score in scores.items()} for query, scores in data.candidates.items()
    }
    first, second = InputOrder(), InputOrder()
    compare([first], data, order="shuffled")
    compare([second], replace(data, candidates=turned), order="shuffled")
    assert first.lists == second.lists


# --- names and the baseline ---


def test_equal_names_are_told_apart(build_data: DataBuilder) -> None:
    data = replace(build_data(), first_stage="ByLength")
    names = [result.name for result in compare([ByLength(), ByLength(), "bm25"], data).results]
    assert names == ["ByLength (candidates)", "ByLength", "ByLength #2", "bm25"]


def test_systems_can_be_named(build_data: DataBuilder) -> None:
    names = [result.name for result in compare({"ours": ByLength(), "theirs": "bm25"}, build_data()).results]
    assert names == ["draw", "ours", "theirs"]


def test_an_open_system_is_taken(build_data: DataBuilder) -> None:
    assert set(by_name(compare([open_system(ByLength(), name="mine")], build_data()))) == {"draw", "mine"}


def test_differences_are_those_to_the_baseline(build_data: DataBuilder) -> None:
    found = by_name(compare([ByLength(), "bm25"], build_data(), baseline="bm25"))
    assert not found["bm25"].differences
    for name in ("draw", "ByLength"):
        for measure, difference in found[name].differences.items():
            gap = found[name].intervals[measure].mean - found["bm25"].intervals[measure].mean
            assert difference.interval.mean == pytest.approx(gap, abs=1e-12)
            assert 0 < difference.p_value <= 1


# --- before the work ---


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"systems": []}, "`systems` must be at least one system"),
        ({"systems": "bm25"}, "`systems` must be a list of systems; got 'bm25'"),
        ({"baseline": "bm52"}, "`baseline` must be one of 'draw', 'ByLength', 'bm25'; got 'bm52'. Did you"),
        ({"measures": ["ndgc_at_10"]}, "`measures` must be one of"),
        ({"measures": "map"}, "`measures` must be a list of at least one name"),
        ({"depth": 0}, "`depth` must be a positive integer"),
        ({"rerank_depth": 0}, "`rerank_depth` must be a positive integer"),
        ({"n_resamples": 0}, "`n_resamples` must be a positive integer"),
        ({"seed": -1}, "`seed` must be a whole number of at least 0; got -1"),
        ({"order": "random"}, "`order` must be one of 'first_stage', 'shuffled'; got 'random'"),
    ],
)
def test_wrong_arguments_are_errors(build_data: DataBuilder, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        evaluate(**{"systems": [ByLength(), "bm25"], "data": build_data(), **options})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dtype": "flot16"}, "`dtype` must be one of .*Did you mean 'float16'"),
        ({"device": "cuba"}, "`device` must be one that torch knows, such as 'cpu'.*; got 'cuba'"),
    ],
)
def test_wrong_options_are_reported_before_anything_runs(
    build_data: DataBuilder, options: dict[str, str], text: str
) -> None:
    model = InputOrder()
    with pytest.raises(ArgumentError, match=text):
        evaluate([model, "mvp-mini"], build_data(), **options)
    assert model.lists == []


def test_queries_of_a_run_that_nobody_judged_are_counted(build_data: DataBuilder, run_file: Path) -> None:
    """The file has one of the six queries, and two that are none."""
    with run_file.open("a") as file:
        file.write("x1 Q0 d09 1 2.5 x\nx2 Q0 d05 2 1.5 x\n")
    evaluation = compare([run_file], build_data()).results[1].evaluation
    assert (evaluation.n_unjudged, evaluation.n_missing) == (2, 5)


@pytest.mark.parametrize(
    ("name", "error"), [("no-such-model", CheckpointError), ("missing.trec", DataError), (3, ArgumentError)]
)
def test_wrong_names_are_reported_before_anything_runs(
    build_data: DataBuilder, name: Any, error: type[Exception]
) -> None:
    model = InputOrder()
    with pytest.raises(error):
        compare([model, name], build_data())
    assert model.lists == []


def test_a_run_of_other_data_is_reported_before_anything_runs(
    build_data: DataBuilder, tmp_path: Path
) -> None:
    path = tmp_path / "x.run"
    path.write_text("other Q0 d01 1 1.0 x\n")
    model = InputOrder()
    with pytest.raises(ArgumentError, match="runs with judged queries"):
        compare([model, path], build_data())
    assert model.lists == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"qrels": {"other": {"d01": 1}}}, "`data` must be a set with at least one judged query"),
        ({"candidates": {"other": {"d01": 1.0}}}, "`data.candidates` must be lists for the judged queries"),
    ],
)
def test_data_that_cannot_be_evaluated_is_an_error(
    build_data: DataBuilder, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(ArgumentError, match=text):
        compare([ByLength()], replace(build_data(), **changes))


def test_a_candidate_that_the_collection_lacks_is_named(build_data: DataBuilder) -> None:
    data = replace(build_data(), candidates={"q0": {"d01": 1.0, "d98": 0.5, "d99": 0.2}})
    with pytest.raises(DataError, match="must hold all candidates; 2 are missing, such as 'd98'"):
        compare([ByLength()], data)


# --- failures and memory ---


@pytest.mark.parametrize("error", [RuntimeError("no room"), FletchingError("no room")], ids=repr)
def test_a_failure_names_the_system(build_data: DataBuilder, error: Exception) -> None:
    class Broken:
        def rank(self, query: str, documents: list[str]) -> list[dict[str, Any]]:
            raise error

    with pytest.raises(FletchingError, match=r"^System 'bad'.*no room"):
        compare({"good": ByLength(), "bad": Broken()}, build_data())


def test_a_model_is_freed_before_the_next_is_opened(
    folders: dict[str, str], build_data: DataBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[weakref.ref[Any]] = []
    load = systems_module.load

    def watched(*args: Any, **kwargs: Any) -> Any:
        assert all(reference() is None for reference in opened)
        model = load(*args, **kwargs)
        opened.append(weakref.ref(model))
        return model

    monkeypatch.setattr(systems_module, "load", watched)
    compare([folders["embedder"], folders["reranker"]], build_data(), device="cpu")
    assert len(opened) == 2


def test_costs_come_with_each_model(models: dict[str, Any], build_data: DataBuilder) -> None:
    """Six words each and two in the prompts: [CLS] passage ... [SEP] is 9, [CLS] query and two words is 5."""
    data = build_data()
    assert data.candidates is not None
    first, dense = compare([models["embedder"]], data).results
    n_documents = len({key for scores in data.candidates.values() for key in scores})
    assert dense.cost.tokens == 9 * n_documents + 5 * 5
    assert dense.cost.padding == 0.0
    assert dense.cost.bytes_per_vector == 4 * 32
    assert all(value > 0 for value in dense.cost.latency_ms.values())
    assert (first.cost.latency_ms, first.cost.tokens, first.cost.prepare_seconds) == ({}, None, None)


def test_lost_tokens_are_reported(models: dict[str, Any], build_data: DataBuilder) -> None:
    """[CLS] query [SEP] leaves 44 of 48 for 60 words and [SEP], but for the two words of the query."""
    data = build_data()
    long = Document("d00", " ".join(["arrow"] * 60))
    data = replace(
        data,
        queries={"q0": "bow"},
        candidates={"q0": {"d00": 1.0}},
        open_corpus=lambda: iter([long]),
    )
    _, result = compare([models["reranker"]], data).results
    assert result.cost.lost_tokens == 60 - (48 - 4)
