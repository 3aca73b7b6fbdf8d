"""Starting up is cheap: nothing heavy is imported before it is needed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = (
    "numpy",
    "torch",
    "transformers",
    "sentence_transformers",
    "datasets",
    "huggingface_hub",
    "peft",
    "scipy",
    "pydantic",  # typer would use it to read options
    "yaml",
    "asyncio",
)
START_UP_SECONDS = 0.3


def run_and_list_heavy(code: str) -> str:
    report = f"; import sys; print([name for name in {HEAVY} if name in sys.modules])"
    child = [sys.executable, "-c", code + report]
    return subprocess.run(child, capture_output=True, text=True, check=True).stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "code",
    [
        "import fletching as f; dir(f); f.Checkpoint; f.FletchingError; f.MethodSpec; f.hookimpl",
        "from fletching.plugins import registry; list(registry())",
        "from fletching.cli import build_app; build_app()(['--help'], standalone_mode=False)",
        "from fletching.cli import build_app; build_app()(['list'], standalone_mode=False)",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert run_and_list_heavy(code) == "[]"


@pytest.mark.parametrize("argument", ["--help", "list"])
def test_command_starts_fast(argument: str) -> None:
    """Best of three, in processor time: what a clock shows on a machine that does nothing else."""

    def measure() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-m", "fletching", argument], stdout=subprocess.DEVNULL, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(measure() for _ in range(3)) < START_UP_SECONDS
