"""A DSE model: cached or not, its nodes come in the same order."""

from __future__ import annotations

import pytest
from llama_index.postprocessor.fletching import FletchingRerank

from fletching.methods.dse import DSEConfig, DSEReranker
from fletching.testing import save_tiny_bert

QUERY = "what keeps the arrow true"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = DSEConfig(num_layers=2, fc_dims=(16, 1))
    return DSEReranker.from_encoder(save_tiny_bert(tmp_path_factory.mktemp("bert")), config, device="cpu")


def test_a_save_reranks_and_keeps_its_vectors(model, nodes, tmp_path):
    model.save(str(tmp_path / "model"))
    options = {"device": "cpu", "vector_cache": str(tmp_path / "vectors")}
    postprocessor = FletchingRerank(model=str(tmp_path / "model"), model_kwargs=options)
    ranking = model.rank(QUERY, [node.node.get_content("embed") for node in nodes], top_k=postprocessor.top_n)
    expected = [nodes[hit["corpus_id"]].node_id for hit in ranking]
    for _ in range(2):
        assert [node.node_id for node in postprocessor.postprocess_nodes(nodes, query_str=QUERY)] == expected
    assert [*(tmp_path / "vectors").rglob("*.vectors")]


def test_a_loaded_model_reranks(model, nodes):
    reranked = FletchingRerank(model=model, top_n=None).postprocess_nodes(nodes, query_str=QUERY)
    scores = [hit["score"] for hit in model.rank(QUERY, [node.node.get_content("embed") for node in nodes])]
    assert [node.score for node in reranked] == scores
