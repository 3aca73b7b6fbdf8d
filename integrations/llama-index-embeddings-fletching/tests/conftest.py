"""A tiny model with prompts of its own, a store that counts, and a handler that writes down the events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.base import BaseEvent
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.embeddings.fletching import FletchingEmbedding

import fletching
from fletching.testing import save_tiny_embedder

PROMPTS = {"query": "what is: ", "document": "passage: "}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("FLETCHING_PLUGINS", "")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_embedder(tmp_path_factory.mktemp("embedder"), prompts=PROMPTS)


@pytest.fixture(scope="session")
def embedder(folder: str) -> Any:
    return fletching.load_shared(folder, kind="embedder", device="cpu")


@pytest.fixture
def own_embedder(folder: str) -> Any:
    """A model that a test may change."""
    return fletching.load(folder, kind="embedder", device="cpu")


@pytest.fixture
def counted(own_embedder: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model whose ``computed`` lists the texts it computed."""
    encode, own_embedder.computed = own_embedder.encode, []

    def encode_and_count(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        own_embedder.computed += inputs
        return encode(inputs, *args, **kwargs)

    monkeypatch.setattr(own_embedder, "encode", encode_and_count)
    return own_embedder


@pytest.fixture
def embed_model(folder: str) -> FletchingEmbedding:
    return FletchingEmbedding(folder, model_kwargs={"device": "cpu"})


@pytest.fixture
def store() -> SimpleKVStore:
    return SimpleKVStore()


class Recorder(BaseEventHandler):
    """Writes down what it is told about embeddings."""

    seen: list[BaseEvent] = []

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        if event.class_name().startswith("Embedding"):
            self.seen.append(event)


@pytest.fixture
def events() -> Iterator[Recorder]:
    recorder, root = Recorder(), get_dispatcher()
    root.add_event_handler(recorder)
    yield recorder
    root.event_handlers.remove(recorder)
