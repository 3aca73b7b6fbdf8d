from __future__ import annotations

import sys
from types import ModuleType

import pytest

import fletching
from fletching._lazy import import_target, lazy_exports


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("lazy_example")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exports = lazy_exports(module.__name__, {"sqrt": "math:sqrt", "lost": "math:lost"})
    module.__getattr__, module.__dir__, module.__all__ = exports  # type: ignore[method-assign,assignment,attr-defined]
    return module


def test_lazy_name_is_imported_once(package: ModuleType) -> None:
    assert "sqrt" not in vars(package)
    assert package.sqrt(9.0) == 3.0
    assert "sqrt" in vars(package)


def test_lazy_package_lists_its_names(package: ModuleType) -> None:
    assert package.__all__ == ["lost", "sqrt"]
    assert {"lost", "sqrt", "__name__"} <= set(dir(package))


def test_lazy_package_refuses_other_names(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match="module 'lazy_example' has no attribute 'cbrt'"):
        _ = package.cbrt


def test_import_target_follows_dots() -> None:
    assert import_target("os:path.join").__name__ == "join"  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", fletching.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(fletching, name) is not None
    assert name in dir(fletching)
