"""A DefSent+ model: a save of stock modules, and one pooled at the mask of a template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fletching.methods.defsent_plus import DefSentPlusEmbedder
from fletching.testing import save_tiny_bert
from langchain_fletching import FletchingEmbeddings


@pytest.fixture(scope="module", params=["mean", "prompt"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = save_tiny_bert(tmp_path_factory.mktemp("bert"))
    return DefSentPlusEmbedder(folder, pooling=request.param, device="cpu")


def test_a_save_embeds_as_the_model(model: Any, tmp_path: Path, query: str, texts: list[str]) -> None:
    model.save(str(tmp_path))
    embeddings = FletchingEmbeddings(model=str(tmp_path), model_kwargs={"device": "cpu"})
    assert embeddings.embed_query(query) == model.encode_query(query).tolist()
    assert embeddings.embed_documents(["", *texts]) == model.encode(["", *texts]).tolist()


def test_a_loaded_model_embeds(model: Any, query: str) -> None:
    assert FletchingEmbeddings(model=model).embed_query(query) == model.encode_query(query).tolist()
