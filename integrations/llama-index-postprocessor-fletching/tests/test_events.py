"""What LlamaIndex's two systems of events are told, and in which order."""

from __future__ import annotations

import pytest
from llama_index.core.callbacks import EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.postprocessor.fletching import FletchingRerank

from fletching.errors import ArgumentError

QUERY = "what keeps the arrow true"
ORDER = ["ReRankStartEvent", "start reranking", "end reranking", "ReRankEndEvent"]


@pytest.fixture(params=["sync", "async"])
def call(request):
    async def run(postprocessor, nodes, **query):
        if request.param == "sync":
            return postprocessor.postprocess_nodes(nodes, **query)
        return await postprocessor.apostprocess_nodes(nodes, **query)

    return run


@pytest.fixture
def told(folder, callback_manager):
    return FletchingRerank(folder, top_n=2, callback_manager=callback_manager)


async def test_start_comes_before_end(call, told, nodes, events, callbacks):
    await call(told, nodes, query_str=QUERY)
    assert events.log == ORDER


async def test_the_start_event_tells_what_is_asked(call, told, folder, nodes, events):
    await call(told, nodes, query_str=QUERY)
    _, start, scores = events.seen[0]
    assert (start.query.query_str, start.top_n, start.model_name) == (QUERY, 2, folder)
    assert scores == [0.5] * 5


async def test_the_start_event_still_tells_the_truth_afterwards(call, told, nodes, events):
    await call(told, nodes, query_str=QUERY)
    assert [node.score for node in events.seen[0][1].nodes] == [0.5] * 5


async def test_the_end_event_has_what_came_out(call, told, nodes, events):
    reranked = await call(told, nodes, query_str=QUERY)
    assert events.seen[-1][1].nodes == reranked


async def test_top_n_of_the_event_is_a_number_without_top_n(call, folder, nodes, events):
    await call(FletchingRerank(folder, top_n=None), nodes, query_str=QUERY)
    assert events.seen[0][1].top_n == 5


async def test_the_callback_manager_gets_its_payloads(call, told, folder, nodes, callbacks):
    reranked = await call(told, nodes, query_str=QUERY)
    start, end = callbacks.payloads
    assert start == {
        EventPayload.NODES: nodes,
        EventPayload.MODEL_NAME: folder,
        EventPayload.QUERY_STR: QUERY,
        EventPayload.TOP_K: 2,
    }
    assert end == {EventPayload.NODES: reranked}


async def test_events_belong_to_the_span_of_the_call(call, told, nodes, events):
    await call(told, nodes, query_str=QUERY)
    spans = {event.span_id for _, event, _ in events.seen}
    assert len(spans) == 1
    assert spans.pop().startswith("FletchingRerank.")


async def test_each_call_is_one_closed_span(call, told, nodes):
    handler, root = SimpleSpanHandler(), get_dispatcher()
    root.add_span_handler(handler)
    try:
        await call(told, nodes, query_str=QUERY)
    finally:
        root.span_handlers.remove(handler)
    assert len(handler.completed_spans) == 1
    assert not handler.open_spans


@pytest.mark.parametrize("query", [{}, {"query_str": " "}])
async def test_a_refused_call_starts_nothing(call, told, nodes, events, callbacks, query):
    with pytest.raises(ArgumentError):
        await call(told, nodes, **query)
    assert events.log == []


async def test_no_nodes_are_no_event(call, told, events, callbacks):
    assert await call(told, [], query_str=QUERY) == []
    assert events.log == []


async def test_a_failure_of_the_model_reaches_the_callback_manager(
    call, own_reranker, nodes, events, callback_manager, monkeypatch
):
    def fail(*args, **kwargs):
        raise RuntimeError("the device is on fire")

    monkeypatch.setattr(own_reranker, "encode_rows", fail)
    failing = FletchingRerank(own_reranker, callback_manager=callback_manager)
    with pytest.raises(RuntimeError, match="the device is on fire"):
        await call(failing, nodes, query_str=QUERY)
    assert events.log == [*ORDER[:2], "failed reranking"]
