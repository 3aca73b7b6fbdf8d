from __future__ import annotations

import pytest

from fletching.metrics.measures import Measure, parse_measure


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("ndcg", Measure("ndcg", "ndcg", "ndcg")),
        ("ndcg_at_10", Measure("ndcg_at_10", "ndcg_cut.10", "ndcg_cut_10")),
        ("map", Measure("map", "map", "map")),
        ("map_at_5", Measure("map_at_5", "map_cut.5", "map_cut_5")),
        ("mrr", Measure("mrr", "recip_rank", "recip_rank")),
        ("mrr_at_10", Measure("mrr_at_10", "recip_rank", "recip_rank", 10)),
        ("recall_at_100", Measure("recall_at_100", "recall.100", "recall_100")),
        ("precision_at_1", Measure("precision_at_1", "P.1", "P_1")),
        ("success_at_5", Measure("success_at_5", "success.5", "success_5")),
        ("r_precision", Measure("r_precision", "Rprec", "Rprec")),
    ],
)
def test_name_is_what_trec_eval_calls_otherwise(name: str, measure: Measure) -> None:
    assert parse_measure("test", name) == measure
