"""A third-party plug-in, a distribution of its own, gets everything that a built-in method gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fletching
from fletching import plugins
from fletching.cli import build_app
from fletching.errors import CheckpointError
from fletching.testing import RerankerContract, check_method, save_tiny_bert

SITE = Path(__file__).parent / "plugin"


@pytest.fixture(scope="module", autouse=True)
def _installed():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SITE)
        patch.setenv("FLETCHING_PLUGINS", "acme-quiver")
        plugins.reload()
        yield
    plugins.reload()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model of the plug-in's, saved."""
    folder = tmp_path_factory.mktemp("quiver")
    TestQuiver.make_model(folder / "backbone").save(str(folder / "saved"))
    return folder / "saved"


class TestQuiver(RerankerContract):
    @classmethod
    def make_model(cls, folder):
        from acme_quiver.model import QuiverReranker

        return QuiverReranker.from_encoder(save_tiny_bert(folder), device="cpu")


def test_its_method_is_what_it_says():
    check_method(plugins.registry().get("quiver"))


def test_it_is_listed():
    result = CliRunner().invoke(build_app(), ["list", "--json"])
    owners = {row["name"]: row["owner"] for row in json.loads(result.stdout)}
    assert owners["quiver"] == "acme-quiver"


def test_its_model_opens_as_its_own_class(saved):
    assert type(fletching.load(saved, device="cpu")).__module__ == "acme_quiver.model"


def test_its_model_is_refused_where_it_is_not_installed(saved, monkeypatch):
    monkeypatch.setenv("FLETCHING_PLUGINS", "")
    plugins.reload()
    with pytest.raises(
        CheckpointError, match=r"'acme_quiver.model.QuiverHead', which no installed method brings"
    ):
        fletching.load(saved)
    monkeypatch.undo()
    plugins.reload()
