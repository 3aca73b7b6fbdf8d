"""The bookkeeping of a recipe: checkpoints to go on from, the result before training, the final record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from transformers.trainer_utils import get_last_checkpoint

__all__ = ["RESULTS_FILE", "TrainingFolder", "hash_file"]

RESULTS_FILE = "fletching_training.json"
"""What was trained on what, with which result; written beside the weights."""


class TrainingFolder:
    """Where a recipe writes, and what an earlier run that was stopped left there.

    A recipe that follows this order ends with the same files whether it was stopped or not::

        folder = TrainingFolder(output_dir, resume=resume)
        before = folder.keep_before(lambda: evaluate(model))
        trainer = ...  # writes to folder.checkpoints
        trainer.train(resume_from_checkpoint=folder.last_checkpoint)
        folder.write_record(recipe, files=data_files, results={"before": before, "after": evaluate(model)})

    Args:
        output_dir: Where the model goes; checkpoints go to ``checkpoints`` in it.
        resume: Whether to go on from the last checkpoint there; without one the run starts anew. A run that
            does not go on removes the checkpoints of an earlier one, lest it be resumed from them.
    """

    def __init__(self, output_dir: str | Path, *, resume: bool = False) -> None:
        self.output = Path(output_dir)
        self.checkpoints = self.output / "checkpoints"
        self.last_checkpoint: str | None = None
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        if resume:
            self.last_checkpoint = get_last_checkpoint(str(self.checkpoints))
        else:
            for stale in self.checkpoints.glob("checkpoint-*"):
                rmtree(stale, ignore_errors=True)  # another process may be at it

    def keep_before(self, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Evaluate the untrained model, once: a run that goes on reads what the first one found.

        Args:
            evaluate: Computes the metrics.

        Returns:
            The metrics.
        """
        path = self.checkpoints / RESULTS_FILE
        if self.last_checkpoint is not None:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        before = evaluate()
        path.write_text(json.dumps(before), encoding="utf-8")
        return before

    def write_record(
        self, recipe: Any, *, files: Iterable[str | Path], results: dict[str, Any], **facts: Any
    ) -> None:
        """Write what a reader needs to judge or repeat the run, to ``fletching_training.json``.

        Args:
            recipe: The recipe, a dataclass; all its fields are written.
            files: Data files; their names and hashes are written.
            results: Metrics before and after.
            **facts: What else to write, such as the number of rows.
        """
        import sentence_transformers
        import transformers

        import fletching

        modules: tuple[Any, ...] = (fletching, sentence_transformers, transformers, torch)
        record = {
            "recipe": asdict(recipe),
            "data": {Path(path).name: hash_file(path) for path in files},
            **facts,
            "versions": {module.__name__: module.__version__ for module in modules},
            "results": results,
        }
        path = self.output / RESULTS_FILE
        path.write_text(json.dumps(record, indent=2, default=str), encoding="utf-8")


def hash_file(path: str | Path) -> str:
    """Hash a data file for the record of a run.

    Args:
        path: The file.

    Returns:
        SHA-256 of its bytes, the first 16 hexadecimal digits.
    """
    digest = sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:16]
