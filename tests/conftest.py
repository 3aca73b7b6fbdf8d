"""Fixtures that any test may use."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from fletching import plugins

FakeDistribution = Callable[..., Path]


@pytest.fixture
def fake_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDistribution]:
    """Install a third-party plug-in for the length of one test.

    Call it as ``fake_distribution("acme-rank", {"acme_rank": SOURCE}, {"rank": "acme_rank"})``: the name, the
    source of its modules, its entry points of group ``fletching``. It returns the folder, now importable.
    """
    installed: list[str] = []
    imported: list[str] = []

    def install(name: str, modules: Mapping[str, str], entry_points: Mapping[str, str]) -> Path:
        site = tmp_path / "site"
        info = site / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{entry} = {target}" for entry, target in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[fletching]", *lines]) + "\n")
        for module, source in modules.items():
            (site / f"{module}.py").write_text(source)
        installed.append(name)
        imported.extend(modules)
        monkeypatch.setenv("FLETCHING_PLUGINS", ",".join(installed))
        monkeypatch.syspath_prepend(site)
        plugins.reload()
        return site

    yield install
    plugins._build_registry.cache_clear()
    for module in imported:
        sys.modules.pop(module, None)


@pytest.fixture
def kill_at_checkpoint() -> Callable[[int], AbstractContextManager[list[int]]]:
    """Trainings inside the context end, as far as they can tell, with their process, behind a checkpoint.

    The context gives the steps of the checkpoints that were written.
    """
    from transformers import Trainer  # heavy, and most tests train nothing

    @contextmanager
    def kill(number: int) -> Iterator[list[int]]:
        save = Trainer._save_checkpoint
        saved: list[int] = []

        def save_and_die(self: Trainer, *args: Any, **kwargs: Any) -> None:
            save(self, *args, **kwargs)
            saved.append(self.state.global_step)
            if len(saved) == number:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "_save_checkpoint", save_and_die)
            with pytest.raises(KeyboardInterrupt):
                yield saved

    return kill


@pytest.fixture
def run_in_two_processes() -> Callable[..., list[tuple[str, str]]]:
    """Run a script as both processes of a distributed run.

    Returns:
        A function of the script's text and its arguments, which returns the output and the errors of each.
    """

    def run(script: str, *arguments: str) -> list[tuple[str, str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", script, *arguments],
                env={**shared, "RANK": rank, "LOCAL_RANK": rank},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in ("0", "1")
        ]
        return [process.communicate(timeout=300) for process in processes]

    return run


@pytest.fixture
def drawn_by_length(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The rows of each batch that a ``LengthGroupedBatchSampler`` draws during one test."""
    from fletching.training import LengthGroupedBatchSampler  # heavy, and most tests train nothing

    drawn: list[list[int]] = []
    draw = LengthGroupedBatchSampler.__iter__

    def note(self: LengthGroupedBatchSampler) -> Iterator[list[int]]:
        for batch in draw(self):
            drawn.append(batch)
            yield batch

    monkeypatch.setattr(LengthGroupedBatchSampler, "__iter__", note)
    return drawn
