from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
METHOD_HEADINGS = [
    "What it does",
    "When to use it",
    "Try it",
    "Train it",
    "What the paper reports",
    "How we differ",
    "API",
]


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_generated_blocks_are_current() -> None:
    pages = [str(path.relative_to(ROOT)) for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]]
    result = run_module("cogapp", "--check", *pages)
    assert result.returncode == 0, f"{result.stdout}\nRun `make fix`."


def test_documentation_builds(tmp_path: Path) -> None:
    result = run_module("mkdocs", "build", "--strict", "--site-dir", str(tmp_path))
    assert result.returncode == 0, result.stderr


def test_plugin_page_shows_the_hook() -> None:
    assert "def fletching_methods() -> list[MethodSpec]" in (DOCS / "plugins.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", sorted(DOCS.glob("methods/*.md")), ids=lambda page: page.stem)
def test_method_page_has_the_usual_headings(page: Path) -> None:
    assert re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE) == METHOD_HEADINGS
