from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fletching.methods
from fletching import plugins

ROOT = Path(__file__).parents[2]


@pytest.fixture
def new_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of what the script needs, holding a method ``my_method`` that fletching finds."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "new_method.py", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    result = run_script(tmp_path, "my_method")
    assert result.returncode == 0, result.stderr
    methods = tmp_path / "src" / "fletching" / "methods"
    monkeypatch.setattr(fletching.methods, "__path__", [*fletching.methods.__path__, str(methods)])
    plugins.reload()
    yield tmp_path
    plugins._build_registry.cache_clear()
    for module in [name for name in sys.modules if name.startswith("fletching.methods.my_method")]:
        del sys.modules[module]
    vars(fletching.methods).pop("my_method", None)


def run_script(root: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "scripts" / "new_method.py"), name]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_new_method_is_found_and_ranks(new_root: Path, tmp_path: Path) -> None:
    from fletching.testing import check_method, save_tiny_cross_encoder

    spec = plugins.registry().get("my_method")
    check_method(spec)
    reranker_class = plugins.registry().resolve(spec.entry)
    model = reranker_class.from_cross_encoder(save_tiny_cross_encoder(tmp_path / "tiny"), device="cpu")  # type: ignore[attr-defined]
    model.save_pretrained(str(tmp_path / "saved"))
    documents = ["a feather", "a bow"]
    assert fletching.load(str(tmp_path / "saved")).rank("arrow", documents) == model.rank("arrow", documents)


@pytest.mark.parametrize("check", [["check"], ["format", "--check"]])
def test_new_method_has_no_lint(new_root: Path, check: list[str]) -> None:
    command = [sys.executable, "-m", "ruff", *check, "src", "tests"]
    result = subprocess.run(command, cwd=new_root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_new_method_has_every_file_a_method_needs(new_root: Path) -> None:
    assert (new_root / "docs" / "methods" / "my_method.md").is_file()
    assert (new_root / "tests" / "methods" / "my_method" / "test_model.py").is_file()
    assert len((new_root / "src/fletching/methods/my_method/plugin.py").read_text().splitlines()) <= 60


def test_taken_name_is_refused(new_root: Path) -> None:
    assert (
        "NAME is taken: src/fletching/methods/my_method/__init__.py exists."
        in run_script(new_root, "my_method").stderr
    )


@pytest.mark.parametrize("name", ["", "My-Method", "../x", "1x"])
def test_bad_name_is_refused(name: str) -> None:
    assert f"got {name!r}" in run_script(ROOT, name).stderr
