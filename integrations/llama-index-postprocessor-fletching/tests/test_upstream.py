"""The defects of the stock wrappers that this one does not have, shown on the stock wrappers.

Each has its counterpart, on `FletchingRerank`, in the files beside this one. A failure here means that a
later release has repaired the defect: remove the test, and the line in the guide.
"""

from __future__ import annotations

import copy
import importlib
import sys
from enum import Enum
from unittest.mock import MagicMock

import pytest
from llama_index.core.postprocessor.sbert_rerank import SentenceTransformerRerank as RerankOfCore
from llama_index.core.schema import QueryBundle

pytestmark = pytest.mark.upstream

QUERY = "what keeps the arrow true"


@pytest.fixture
def stock(folder):
    return RerankOfCore(model=folder, top_n=5, device="cpu", trust_remote_code=False)


@pytest.fixture
def stock_package(folder):
    name = "llama_index.postprocessor.sbert_rerank"
    pytest.importorskip(name)
    return importlib.import_module(name).SentenceTransformerRerank(model=folder, top_n=2, device="cpu")


def test_it_overwrites_the_scores_of_the_caller(stock, nodes):
    before = copy.deepcopy(nodes)
    stock.postprocess_nodes(nodes, query_str=QUERY)
    assert [node.score for node in nodes] != [node.score for node in before]


def test_it_writes_into_the_shared_node(stock, nodes):
    stock.keep_retrieval_score = True
    stock.postprocess_nodes(nodes, query_str=QUERY)
    assert all("retrieval_score" in node.node.metadata for node in nodes)


def test_its_scores_are_of_numpy(stock, nodes):
    assert {type(node.score) for node in stock.postprocess_nodes(nodes, query_str=QUERY)} != {float}


def test_it_sends_no_start_event(stock, nodes, events):
    stock.postprocess_nodes(nodes, query_str=QUERY)
    assert events.log == []


def test_the_package_starts_what_it_then_refuses(stock_package, nodes, events):
    with pytest.raises(ValueError, match="Missing query bundle"):
        stock_package.postprocess_nodes(nodes)
    assert "ReRankEndEvent" not in events.log


def test_the_start_event_of_the_package_has_the_new_scores(stock_package, nodes, events):
    stock_package.postprocess_nodes(nodes, query_str=QUERY)
    assert [node.score for node in events.seen[0][1].nodes] != events.seen[0][2]


class PromptMode(Enum):
    """Stands in for that of rank_llm."""

    RANK_GPT = "rank_GPT"


def test_rank_llm_builds_its_model_at_every_call(nodes, monkeypatch):
    for name in ("", ".data", ".rerank", ".rerank.reranker", ".rerank.rankllm"):
        monkeypatch.setitem(sys.modules, f"rank_llm{name}", MagicMock(PromptMode=PromptMode))
    base = pytest.importorskip("llama_index.postprocessor.rankllm_rerank.base")
    stock, query = base.RankLLMRerank(model="any", top_n=1, batch_size=1), QueryBundle(QUERY)
    built = MagicMock()
    monkeypatch.setattr(base, "Reranker", built)
    for _ in range(2):
        stock._postprocess_nodes(nodes, query)
    assert built.create_model_coordinator.call_count == 2
