"""What comes out, and that what went in is as it was."""

from __future__ import annotations

import copy
import subprocess
import sys
import time

import pytest
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import Document, ImageNode, IndexNode, NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.fletching import FletchingRerank

import fletching
from fletching.errors import ArgumentError, CheckpointError
from fletching.testing import save_tiny_cross_encoder, save_tiny_embedder

QUERY = "what keeps the arrow true"


def contents(nodes):
    return [node.node.get_content("embed") for node in nodes]


def as_pairs(nodes):
    return [(node.node_id, node.score) for node in nodes]


def test_the_class_is_a_postprocessor():
    names = [base.__name__ for base in FletchingRerank.__mro__]
    assert BaseNodePostprocessor.__name__ in names


def test_importing_and_constructing_loads_no_torch():
    code = (
        "import sys; from llama_index.postprocessor.fletching import FletchingRerank; "
        "FletchingRerank(model='mvp-mini'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nodes_come_in_the_order_of_the_model(postprocessor, reranker, nodes):
    ranking = reranker.rank(QUERY, contents(nodes))
    expected = [(nodes[hit["corpus_id"]].node_id, hit["score"]) for hit in ranking]
    assert as_pairs(postprocessor.postprocess_nodes(nodes, query_str=QUERY)) == expected


def test_a_query_bundle_is_a_query(postprocessor, nodes):
    by_text = postprocessor.postprocess_nodes(nodes, query_str=QUERY)
    assert as_pairs(postprocessor.postprocess_nodes(nodes, QueryBundle(QUERY))) == as_pairs(by_text)


def test_the_nodes_handed_in_stay_as_they_were(postprocessor, nodes):
    before, identities = copy.deepcopy(nodes), [id(node) for node in nodes]
    postprocessor.keep_retrieval_score = True
    postprocessor.postprocess_nodes(nodes, query_str=QUERY)
    assert nodes == before
    assert [id(node) for node in nodes] == identities


def test_the_nodes_themselves_are_shared(postprocessor, nodes):
    reranked = postprocessor.postprocess_nodes(nodes, query_str=QUERY)
    assert {id(node.node) for node in reranked} == {id(node.node) for node in nodes}
    assert not {id(node) for node in reranked} & {id(node) for node in nodes}


def test_scores_are_python_floats(postprocessor, nodes):
    assert {type(node.score) for node in postprocessor.postprocess_nodes(nodes, query_str=QUERY)} == {float}


def test_equal_texts_keep_their_order(postprocessor):
    nodes = [NodeWithScore(node=TextNode(text="wood", id_=str(place))) for place in range(6)]
    reranked = postprocessor.postprocess_nodes(nodes, query_str=QUERY)
    assert [node.node_id for node in reranked] == list("012345")
    assert len({node.score for node in reranked}) == 1


def test_the_same_node_twice_comes_out_twice(postprocessor, nodes):
    assert len(postprocessor.postprocess_nodes([nodes[0], nodes[0]], query_str=QUERY)) == 2


def test_top_n_is_three_unless_said_otherwise(folder, nodes):
    assert len(FletchingRerank(folder).postprocess_nodes(nodes, query_str=QUERY)) == 3


@pytest.mark.parametrize(("top_n", "count"), [(1, 1), (5, 5), (99, 5), (None, 5)])
def test_top_n_bounds_what_comes_out(folder, nodes, top_n, count):
    everything = FletchingRerank(folder, top_n=None).postprocess_nodes(nodes, query_str=QUERY)
    reranked = FletchingRerank(folder, top_n=top_n).postprocess_nodes(nodes, query_str=QUERY)
    assert as_pairs(reranked) == as_pairs(everything)[:count]


def test_min_score_drops_what_is_below(postprocessor, nodes):
    scores = [node.score for node in postprocessor.postprocess_nodes(nodes, query_str=QUERY)]
    postprocessor.min_score = scores[2]
    assert [node.score for node in postprocessor.postprocess_nodes(nodes, query_str=QUERY)] == scores[:3]


def test_min_score_can_drop_all(folder, nodes):
    strict = FletchingRerank(folder, min_score=1e9)
    assert strict.postprocess_nodes(nodes, query_str=QUERY) == []


@pytest.mark.parametrize("scores", ["logit", "probability", None])
def test_scores_has_the_scale_that_was_asked_for(folder, reranker, nodes, scores):
    expected = [hit["score"] for hit in reranker.rank(QUERY, contents(nodes), scores=scores)]
    reranked = FletchingRerank(folder, top_n=None, scores=scores).postprocess_nodes(nodes, query_str=QUERY)
    assert [node.score for node in reranked] == expected


def test_long_documents_are_read_whole_on_request(folder, reranker):
    long = "wood and wind " * 40 + "feathers keep the arrow true"
    expected = reranker.rank(QUERY, [long], long="chunk_max")[0]["score"]
    node = NodeWithScore(node=TextNode(text=long))
    reranked = FletchingRerank(folder, long="chunk_max").postprocess_nodes([node], query_str=QUERY)
    assert reranked[0].score == expected
    assert FletchingRerank(folder).postprocess_nodes([node], query_str=QUERY)[0].score != expected


def test_the_batch_size_changes_no_score(folder, nodes):
    one_by_one = FletchingRerank(folder, batch_size=1, top_n=None)
    expected = FletchingRerank(folder, top_n=None).postprocess_nodes(nodes, query_str=QUERY)
    scores = [node.score for node in one_by_one.postprocess_nodes(nodes, query_str=QUERY)]
    assert scores == pytest.approx([node.score for node in expected], abs=1e-5)


@pytest.mark.parametrize("mode", ["embed", "llm", "all", "none"])
def test_the_metadata_mode_decides_what_is_read(folder, reranker, mode):
    node = TextNode(
        text="wood",
        metadata={"title": "bow", "author": "archer"},
        excluded_embed_metadata_keys=["author"],
        excluded_llm_metadata_keys=["title"],
    )
    expected = reranker.rank(QUERY, [node.get_content(mode)])[0]["score"]
    postprocessor = FletchingRerank(folder, metadata_mode=mode)
    assert postprocessor.postprocess_nodes([NodeWithScore(node=node)], query_str=QUERY)[0].score == expected


def test_the_retrieval_score_goes_to_a_copy(folder, nodes):
    keeping = FletchingRerank(folder, keep_retrieval_score=True)
    reranked = keeping.postprocess_nodes(nodes, query_str=QUERY)
    assert [node.node.metadata["retrieval_score"] for node in reranked] == [0.5] * 3
    assert not any("retrieval_score" in node.node.metadata for node in nodes)
    assert {node.node_id for node in reranked} <= {node.node_id for node in nodes}


def test_the_retrieval_score_is_no_text(folder, nodes):
    keeping = FletchingRerank(folder, keep_retrieval_score=True, top_n=1)
    kept = keeping.postprocess_nodes(nodes, query_str=QUERY)[0].node
    assert "retrieval_score" not in kept.get_content("embed") + kept.get_content("llm")
    assert "page" in kept.get_content("llm")


def test_a_second_reranker_reads_the_same_text(folder, nodes):
    keeping = FletchingRerank(folder, keep_retrieval_score=True, top_n=None)
    once = keeping.postprocess_nodes(nodes, query_str=QUERY)
    twice = keeping.postprocess_nodes(once, query_str=QUERY)
    assert as_pairs(twice) == as_pairs(once)
    assert twice[0].node.excluded_embed_metadata_keys.count("retrieval_score") == 1


def test_a_subclass_of_the_scored_node_stays_one(postprocessor):
    class Marked(NodeWithScore):
        mark: str = ""

    reranked = postprocessor.postprocess_nodes([Marked(node=TextNode(text="bow"), mark="x")], query_str=QUERY)
    assert reranked[0].mark == "x"


@pytest.mark.parametrize("given", [(), []])
def test_no_nodes_give_no_nodes(postprocessor, given):
    assert postprocessor.postprocess_nodes(given, query_str=QUERY) == []


def test_no_nodes_open_no_model():
    assert FletchingRerank(model="no/such/folder").postprocess_nodes([], query_str=QUERY) == []


def test_a_missing_model_is_found_at_the_first_call(nodes):
    postprocessor = FletchingRerank(model="no-such-model")
    with pytest.raises(CheckpointError, match="Checkpoint 'no-such-model': there is no such folder"):
        postprocessor.postprocess_nodes(nodes, query_str=QUERY)


def test_an_embedder_is_refused(tmp_path, nodes):
    postprocessor = FletchingRerank(model=save_tiny_embedder(tmp_path))
    with pytest.raises(CheckpointError, match="which is no reranker"):
        postprocessor.postprocess_nodes(nodes, query_str=QUERY)


def test_a_loaded_model_is_used_as_it_is(own_reranker, postprocessor, nodes):
    given = FletchingRerank(model=own_reranker, top_n=None)
    assert given.model == "Reranker"
    expected = postprocessor.postprocess_nodes(nodes, query_str=QUERY)
    assert as_pairs(given.postprocess_nodes(nodes, query_str=QUERY)) == as_pairs(expected)


def test_all_postprocessors_share_one_model(folder, nodes, monkeypatch):
    loads = []
    load = fletching.load_shared
    monkeypatch.setattr(
        fletching, "load_shared", lambda *args, **kwargs: loads.append(load(*args, **kwargs)) or loads[-1]
    )
    postprocessors = [FletchingRerank(folder), FletchingRerank(folder, top_n=1)]
    for postprocessor in postprocessors * 3:
        postprocessor.postprocess_nodes(nodes, query_str=QUERY)
    assert len(loads) == 2
    assert loads[0] is loads[1]


def test_mvp_mini_reranks():
    texts = ["A dance.", "Feathers keep an arrow straight.", "A quiver holds arrows."]
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in texts]
    best = FletchingRerank(model="mvp-mini", top_n=1).postprocess_nodes(
        nodes, query_str="What keeps an arrow straight?"
    )
    assert [node.text for node in best] == [texts[1]]


# --- odd nodes and odd queries ---


def test_an_image_without_text_is_named(postprocessor, nodes):
    nodes.insert(1, NodeWithScore(node=ImageNode(id_="photo", image_url="http://example.org/x.png")))
    message = (
        r"^FletchingRerank: `nodes\[1\]` must be a node with text; got 'ImageNode photo'\. "
        r"Give it a text, such as a caption, or filter it out before\.$"
    )
    with pytest.raises(ArgumentError, match=message):
        postprocessor.postprocess_nodes(nodes, query_str=QUERY)


def test_a_document_of_media_without_text_is_named(postprocessor):
    photo = Document(doc_id="photo", image_resource={"url": "http://example.org/x.png"})
    with pytest.raises(ArgumentError, match=r"`nodes\[0\]` must be a node with text; got 'Document photo'"):
        postprocessor.postprocess_nodes([NodeWithScore(node=photo)], query_str=QUERY)


def test_an_image_with_a_caption_is_read(postprocessor):
    photo = ImageNode(text="an arrow", image_url="http://example.org/x.png")
    assert len(postprocessor.postprocess_nodes([NodeWithScore(node=photo)], query_str=QUERY)) == 1


@pytest.mark.parametrize("metadata", [{}, {"page": 1}])
def test_a_node_whose_text_is_none_is_named(postprocessor, metadata):
    node = TextNode(id_="hollow", metadata=metadata)
    node.__dict__["text"] = None  # what a lenient store can bring back
    with pytest.raises(ArgumentError, match=r"`nodes\[0\]` must be a node with text; got 'TextNode hollow'"):
        postprocessor.postprocess_nodes([NodeWithScore(node=node)], query_str=QUERY)


@pytest.mark.parametrize("node", [TextNode(text=""), Document(text=""), IndexNode(text="", index_id="x")])
def test_an_empty_text_is_scored_like_any_other(postprocessor, reranker, node):
    expected = reranker.rank(QUERY, [""])[0]["score"]
    assert postprocessor.postprocess_nodes([NodeWithScore(node=node)], query_str=QUERY)[0].score == expected


def test_metadata_that_is_none_counts_as_none(folder, reranker):
    node = TextNode(text="wood")
    node.__dict__["metadata"] = None
    keeping = FletchingRerank(folder, keep_retrieval_score=True)
    reranked = keeping.postprocess_nodes([NodeWithScore(node=node, score=0.5)], query_str=QUERY)
    assert reranked[0].score == reranker.rank(QUERY, ["wood"])[0]["score"]
    assert reranked[0].node.metadata == {"retrieval_score": 0.5}
    assert node.metadata is None


def test_metadata_need_not_be_strings(postprocessor, reranker):
    node = TextNode(text="wood", metadata={"page": 3, "tags": ["bow", None], "score": 0.25, "missing": None})
    expected = reranker.rank(QUERY, [node.get_content("embed")])[0]["score"]
    assert postprocessor.postprocess_nodes([NodeWithScore(node=node)], query_str=QUERY)[0].score == expected


def test_a_node_that_is_not_scored_is_named(postprocessor):
    message = (
        r"`nodes\[0\]` must be a NodeWithScore; got TextNode\(.*\. Wrap it: NodeWithScore\(node=\.\.\.\)\.$"
    )
    with pytest.raises(ArgumentError, match=message):
        postprocessor.postprocess_nodes([TextNode(text="bow")], query_str=QUERY)


def test_a_query_of_100000_characters_is_ranked(postprocessor):
    query = "feathers " * 11_112
    assert len(query) >= 100_000
    nodes = [NodeWithScore(node=TextNode(text=f"arrow {place}")) for place in range(100)]
    started = time.perf_counter()
    assert len(postprocessor.postprocess_nodes(nodes, query_str=query)) == 100
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize("query", ["", " \n\t"])
@pytest.mark.parametrize("count", [0, 5])
def test_a_blank_query_is_refused(postprocessor, nodes, query, count):
    message = (
        "^FletchingRerank: `query_str` must be a query with at least one visible character; got .*"
        "Skip the call when there is no query.$"
    )
    with pytest.raises(ArgumentError, match=message):
        postprocessor.postprocess_nodes(nodes[:count], query_str=query)


@pytest.mark.parametrize("query", [None, "a bare string"])
def test_a_missing_query_is_refused(postprocessor, nodes, query):
    message = (
        r"^FletchingRerank: `query_bundle` must be a QueryBundle; got .*\. "
        r"Pass the query as `query_bundle`, or its text as `query_str`\.$"
    )
    with pytest.raises(ArgumentError, match=message):
        postprocessor.postprocess_nodes(nodes, query)


def test_lone_surrogates_are_read(postprocessor):
    nodes = [NodeWithScore(node=TextNode(text="bow \ud83d"))]
    assert len(postprocessor.postprocess_nodes(nodes, query_str="arrow \ud83d")) == 1


@pytest.mark.parametrize("metadata", [3, "page 1", ["page"]])
def test_metadata_that_is_no_mapping_is_named(metadata):
    node = TextNode(text="wood")
    node.__dict__["metadata"] = metadata
    scored = NodeWithScore(node=node)
    with pytest.raises(ArgumentError, match=r"`nodes\[0\]\.metadata` must be a mapping or None; got"):
        FletchingRerank("no/such/folder").postprocess_nodes([scored], query_str=QUERY)


@pytest.mark.parametrize("given", [None, 3, "bow"])
def test_what_is_no_list_of_nodes_is_refused(given):
    with pytest.raises(
        ArgumentError, match=r"^FletchingRerank: `nodes` must be a list of NodeWithScore; got"
    ):
        FletchingRerank("no/such/folder").postprocess_nodes(given, query_str=QUERY)


def test_a_node_that_is_missing_is_named(postprocessor):
    scored = NodeWithScore.model_construct(node=None, score=1.0)
    with pytest.raises(ArgumentError, match=r"`nodes\[0\]\.node` must be a node; got None"):
        postprocessor.postprocess_nodes([scored], query_str=QUERY)


# --- what is changed later, and subclasses ---


async def test_a_model_assigned_later_is_opened(postprocessor, nodes, tmp_path):
    other = save_tiny_cross_encoder(tmp_path, seed=1)
    before = as_pairs(postprocessor.postprocess_nodes(nodes, query_str=QUERY))
    expected = as_pairs(FletchingRerank(other, top_n=None).postprocess_nodes(nodes, query_str=QUERY))
    copied = postprocessor.model_copy(update={"model": other})
    postprocessor.model = other
    for changed in (copied, postprocessor):
        assert as_pairs(await changed.apostprocess_nodes(nodes, query_str=QUERY)) == expected != before
        assert as_pairs(changed.postprocess_nodes(nodes, query_str=QUERY)) == expected


def test_options_changed_in_place_open_the_model_again(postprocessor):
    first = postprocessor._load()
    postprocessor.model_kwargs["dtype"] = "bfloat16"
    assert postprocessor._load() is not first


@pytest.mark.parametrize("name", ["model", "model_kwargs"])
def test_a_given_model_stays(own_reranker, name):
    given = FletchingRerank(own_reranker)
    with pytest.raises(ArgumentError, match=f"^FletchingRerank: `{name}` must be (left|empty)"):
        setattr(given, name, {"device": "cpu"} if name == "model_kwargs" else "other")


async def test_a_synchronous_override_is_asked_asynchronously(folder, nodes):
    class Reversed(FletchingRerank):
        def _postprocess_nodes(self, nodes, query_bundle=None):
            return nodes[::-1]

    assert await Reversed(folder).apostprocess_nodes(nodes, query_str=QUERY) == nodes[::-1]
