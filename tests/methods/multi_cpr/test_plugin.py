"""The registry entry is true, and the recipe runs by its name."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fletching.cli import build_app
from fletching.plugins import registry
from fletching.testing import check_method


@pytest.fixture(autouse=True)
def _keep_level() -> Iterator[None]:
    level = logging.getLogger("fletching").level
    yield
    logging.getLogger("fletching").setLevel(level)


def test_description_is_true() -> None:
    check_method(registry().get("multi_cpr"))


def test_smoke_run_from_the_command_line(tmp_path: Path) -> None:
    output = tmp_path / "out"
    settings = ["--set", "epochs=0.2", "--set", "domain=medical"]
    result = CliRunner().invoke(
        build_app(), ["train", "multi_cpr", "--smoke", "--output", str(output), *settings]
    )
    assert result.exit_code == 0, result.stderr
    assert "development_mrr_at_10" in result.stdout
    assert "test_recall_at_30" in result.stdout
    assert "loss" not in result.stdout  # results only
    assert (output / "model.safetensors").is_file()


def test_without_data_the_command_line_says_what_is_missing(tmp_path: Path) -> None:
    result = CliRunner().invoke(build_app(), ["train", "multi_cpr", "--output", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "`train_data` must be the folder that holds the domains, one; got ()" in result.stderr
    assert not (tmp_path / "out").exists()
