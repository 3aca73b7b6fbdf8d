"""A reader who knows one folder knows them all."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "fletching"
TESTS = ROOT / "tests"
METHODS = sorted(path.parent for path in SOURCE.glob("methods/*/__init__.py"))
FREE_TEST_FOLDERS = {"architecture", "contract", "docs", "reference", "scripts"}  # they mirror no room


def test_front_matter_is_present() -> None:
    files = [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "constraints.txt",
        "Makefile",
        ".ci/run",
    ]
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_import_contracts_are_present() -> None:
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    types = re.findall(
        r'^\[\[tool\.importlinter\.contracts]]\nname = .*\ntype = "(.*)"', settings, re.MULTILINE
    )
    assert set(types) == {"layers", "independence", "forbidden"}


@pytest.mark.parametrize("word", ["utils", "helpers", "common", "misc"])
def test_no_module_has_an_empty_name(word: str) -> None:
    assert [str(path) for path in SOURCE.rglob("*") if path.stem.strip("_") in {word, word.rstrip("s")}] == []


@pytest.mark.parametrize("method", METHODS, ids=lambda folder: folder.name)
def test_method_has_a_short_plugin_a_page_and_tests(method: Path) -> None:
    plugin = (method / "plugin.py").read_text(encoding="utf-8")
    assert len(plugin.splitlines()) <= 60
    assert f'"{method.name}"' in plugin
    assert (ROOT / "docs" / "methods" / f"{method.name}.md").is_file()
    assert (TESTS / "methods" / method.name).is_dir()


@pytest.mark.parametrize("method", METHODS, ids=lambda folder: folder.name)
def test_method_describes_itself_without_heavy_imports(method: Path) -> None:
    """What is imported to list, configure and feed a method; ruff holds the other rooms to the same."""
    files = [method / f"{name}.py" for name in ("__init__", "plugin", "config", "data")]
    imported = {name for path in files if path.exists() for name in find_imports(path)}
    assert imported & {"torch", "transformers", "sentence_transformers", "datasets", "numpy"} == set()


def find_imports(path: Path) -> Iterator[str]:
    """Yield the packages that a module imports at its top level."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_test_folders_mirror_the_rooms() -> None:
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    strangers = [
        str(folder)
        for folder in folders
        if folder.parts and folder.parts[0] not in FREE_TEST_FOLDERS and not (SOURCE / folder).is_dir()
    ]
    assert strangers == []


def test_test_files_are_collected() -> None:
    others = [path for path in TESTS.rglob("*.py") if not path.name.startswith("test_")]
    assert [str(path) for path in others if "\ndef test_" in path.read_text(encoding="utf-8")] == []


def test_kernel_modules_have_tests() -> None:
    modules = {path.stem for path in SOURCE.glob("*.py")} - {"__init__", "__main__", "hookspecs"}
    tests = {path.stem.removeprefix("test_") for path in TESTS.glob("test_*.py")}
    assert sorted(module.strip("_") for module in modules if module.strip("_") not in tests) == []
