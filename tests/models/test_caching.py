from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fletching.errors import MissingExtraError
from fletching.models.caching import find_cache


def test_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLETCHING_CACHE", str(tmp_path))
    assert find_cache() == tmp_path


def test_cache_is_the_users_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLETCHING_CACHE", raising=False)
    assert find_cache().name == "fletching"


def test_missing_platformdirs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLETCHING_CACHE", raising=False)
    monkeypatch.setitem(sys.modules, "platformdirs", None)

    with pytest.raises(MissingExtraError, match='pip install "platformdirs"'):
        find_cache()


def test_home_folder_is_spelt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLETCHING_CACHE", "~/cache")
    assert find_cache() == Path.home() / "cache"
