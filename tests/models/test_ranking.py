"""The list that a rerank call returns."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from fletching.models.ranking import Ranking

HITS = [{"corpus_id": 1, "score": 2.5}, {"corpus_id": 0, "score": 1.0}]


def test_a_ranking_is_the_list_of_its_hits():
    assert Ranking(HITS) == HITS
    assert json.loads(json.dumps(Ranking(HITS))) == HITS


def test_a_ranking_says_what_was_lost():
    assert Ranking(HITS, lost_tokens={1: 40}).lost_tokens == {1: 40}


def test_unknown_is_not_nothing_lost():
    assert Ranking(HITS).lost_tokens is None
    assert Ranking(HITS, lost_tokens={}).lost_tokens == {}


def test_a_ranking_owns_its_report():
    lost = {1: 40}
    ranking = Ranking(HITS, lost_tokens=lost)
    lost.clear()
    assert ranking.lost_tokens == {1: 40}


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda ranking: pickle.loads(pickle.dumps(ranking))]
)
def test_a_copy_keeps_the_report(copied):
    twin = copied(Ranking(HITS, lost_tokens={1: 40}))
    assert (twin, twin.lost_tokens) == (HITS, {1: 40})
