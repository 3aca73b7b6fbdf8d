"""In a query engine, over a real index."""

from __future__ import annotations

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import TextNode
from llama_index.postprocessor.fletching import FletchingRerank

QUERY = "what keeps the arrow true"


@pytest.fixture
def index(nodes):
    return VectorStoreIndex([node.node for node in nodes], embed_model=MockEmbedding(embed_dim=4))


@pytest.fixture
def engine(index, folder):
    return index.as_query_engine(
        llm=MockLLM(), similarity_top_k=5, node_postprocessors=[FletchingRerank(folder, top_n=2)]
    )


@pytest.fixture
def expected(index, postprocessor):
    retrieved = index.as_retriever(similarity_top_k=5).retrieve(QUERY)
    reranked = postprocessor.postprocess_nodes(retrieved, query_str=QUERY)[:2]
    return [(node.node_id, node.score) for node in reranked]


def test_a_query_engine_answers_from_the_best_nodes(engine, expected):
    sources = engine.query(QUERY).source_nodes
    assert [(node.node_id, node.score) for node in sources] == expected


async def test_a_query_engine_answers_asynchronously(engine, expected):
    sources = (await engine.aquery(QUERY)).source_nodes
    assert [(node.node_id, node.score) for node in sources] == expected


def test_an_engine_of_a_retriever_takes_it(index, folder, expected):
    engine = RetrieverQueryEngine.from_args(
        index.as_retriever(similarity_top_k=5),
        llm=MockLLM(),
        node_postprocessors=[FletchingRerank(folder, top_n=2)],
    )
    assert [(node.node_id, node.score) for node in engine.query(QUERY).source_nodes] == expected


def test_the_index_is_as_it_was(engine, index):
    before = {key: node.to_dict() for key, node in index.docstore.docs.items()}
    engine.query(QUERY)
    assert {key: node.to_dict() for key, node in index.docstore.docs.items()} == before
    assert all(isinstance(node, TextNode) for node in index.docstore.docs.values())
