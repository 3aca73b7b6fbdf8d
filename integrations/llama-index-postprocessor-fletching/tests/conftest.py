"""Tiny models, nodes, and handlers that write down what LlamaIndex is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.base import BaseEvent
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.fletching import FletchingRerank

import fletching
from fletching.testing import save_tiny_cross_encoder

TEXTS = [
    "the archer draws the bow",
    "feathers keep the arrow true",
    "a dance",
    "wood and wind",
    "the goose is in flight",
]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("FLETCHING_PLUGINS", "")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_cross_encoder(tmp_path_factory.mktemp("cross-encoder"))


@pytest.fixture(scope="session")
def reranker(folder: str) -> Any:
    return fletching.load_shared(folder, kind="reranker", device="cpu")


@pytest.fixture
def own_reranker(folder: str) -> Any:
    """A model that a test may change."""
    return fletching.load(folder, kind="reranker", device="cpu")


@pytest.fixture
def postprocessor(folder: str) -> FletchingRerank:
    return FletchingRerank(model=folder, top_n=None, model_kwargs={"device": "cpu"})


@pytest.fixture
def nodes() -> list[NodeWithScore]:
    return [
        NodeWithScore(node=TextNode(text=text, id_=f"node-{place}", metadata={"page": place}), score=0.5)
        for place, text in enumerate(TEXTS)
    ]


class Recorder(BaseEventHandler):
    """Writes each event down with the scores that its nodes have at that time."""

    seen: list[tuple[str, BaseEvent, list[float | None]]] = []
    log: list[str] = []

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        if event.class_name().startswith("ReRank"):
            self.seen.append((event.class_name(), event, [node.score for node in event.nodes]))
            self.log.append(event.class_name())


class CallbackRecorder(BaseCallbackHandler):
    """Writes down the events of the callback manager."""

    def __init__(self, log: list[str]) -> None:
        super().__init__([], [])
        self.log = log
        self.payloads: list[dict[Any, Any] | None] = []

    def start_trace(self, trace_id: str | None = None) -> None:
        pass

    def end_trace(self, trace_id: str | None = None, trace_map: Any = None) -> None:
        pass

    def on_event_start(self, event_type: CBEventType, payload: Any = None, **kwargs: Any) -> str:
        self.log.append(f"start {event_type.value}")
        self.payloads.append(payload)
        return str(kwargs["event_id"])

    def on_event_end(self, event_type: CBEventType, payload: Any = None, **kwargs: Any) -> None:
        failed = payload is not None and EventPayload.EXCEPTION in payload
        self.log.append(f"{'failed' if failed else 'end'} {event_type.value}")
        self.payloads.append(payload)


@pytest.fixture
def events() -> Iterator[Recorder]:
    recorder, root = Recorder(), get_dispatcher()
    root.add_event_handler(recorder)
    yield recorder
    root.event_handlers.remove(recorder)


@pytest.fixture
def callbacks(events: Recorder) -> CallbackRecorder:
    """Writes into the same log as ``events``, so that their order can be compared."""
    return CallbackRecorder(events.log)


@pytest.fixture
def callback_manager(callbacks: CallbackRecorder) -> CallbackManager:
    return CallbackManager([callbacks])
