"""The bookkeeping of a recipe: checkpoints to go on from, the result before training, the final record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch

from fletching.data.lines import Words, write_lines
from fletching.errors import bad_argument
from fletching.training.processes import count_processes, main_process_first

__all__ = ["RESULTS_FILE", "TrainingFolder", "describe_run", "forget_run", "hash_file"]

RESULTS_FILE = "fletching_training.json"
"""What was trained on what, with which result; written beside the weights."""

_STATE_FILE = "trainer_state.json"  # what transformers writes last into a checkpoint


class TrainingFolder:
    """Where a recipe writes, and what an earlier run that was stopped left there.

    A recipe that follows this order ends with the same files whether it was stopped or not, in one process
    or in several, of which one writes::

        folder = TrainingFolder(output_dir, resume=resume)
        folder.keep_plan("MyRecipe", describe_run(recipe, train_data=data_files))
        before = folder.keep_before(lambda: evaluate(model))
        trainer = ...  # with folder.build_arguments(...)
        run_trainer(trainer, folder)
        folder.save(model)
        folder.write_record(recipe, files=data_files, results={"before": before, "after": evaluate(model)})

    Args:
        output_dir: Where the model goes; checkpoints go to ``checkpoints`` in it.
        resume: Whether to go on from the last checkpoint there that was written to its end; without one the
            run starts anew. A run that does not go on removes what an earlier one left to go on from.
    """

    def __init__(self, output_dir: str | Path, *, resume: bool = False) -> None:
        self.output = Path(output_dir)
        self.checkpoints = self.output / "checkpoints"
        self._resume = resume
        with main_process_first() as is_main:
            if is_main:
                self.checkpoints.mkdir(parents=True, exist_ok=True)
                if not resume:
                    (self.output / RESULTS_FILE).unlink(missing_ok=True)
                    for stale in self.checkpoints.glob("checkpoint-*"):
                        rmtree(stale)
                elif last := self._find_last():
                    _point_to_best(last)
        last = self._find_last()
        self.last_checkpoint = None if last is None else str(last)

    def _find_last(self) -> Path | None:
        found = [path for path in self.checkpoints.glob("checkpoint-*") if _is_whole(path)]
        return max(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)

    def build_arguments(self, *, seed: int, save_steps: int) -> dict[str, Any]:
        """Collect what the arguments of all trainers have in common.

        Args:
            seed: Of everything that a trainer draws.
            save_steps: Optimiser steps between checkpoints, of which two are kept.

        Returns:
            Arguments of ``transformers.TrainingArguments`` and of its subclasses.
        """
        return {
            "output_dir": str(self.checkpoints),
            "seed": seed,
            "data_seed": seed,
            "save_strategy": "steps",
            "save_steps": save_steps,
            "save_total_limit": 2,
            "logging_steps": max(save_steps // 10, 1),
            "dataloader_pin_memory": torch.cuda.is_available(),
            "use_cpu": not torch.accelerator.is_available(),  # several processes divide the work there, too
            "report_to": "none",
        }

    def keep_plan(self, owner: str, plan: Mapping[str, Any]) -> None:
        """Note what a run is begun with, or refuse to go on with something else.

        Args:
            owner: Who asks, for the error.
            plan: Whatever decides on the weights: name -> a value that JSON knows. See `describe_run`. The
                number of processes is added.

        Raises:
            ArgumentError: If the run to go on with had another value.
        """
        path = self.checkpoints / f"plan_{owner}.json"
        wanted = json.loads(json.dumps({**plan, "processes": count_processes()}, default=str))
        is_begun = self._resume and path.is_file()
        begun = json.loads(path.read_text(encoding="utf-8")) if is_begun else wanted
        for name, value in wanted.items():
            if begun.get(name) != value:
                domain, given = "what the stopped run was begun with", value
                if name in begun and not isinstance(value, (list, dict)):
                    domain = f"{domain}, {begun[name]!r}"
                else:
                    given = Words("something else")
                remedy = "Begin anew, without resume, or bring back what it was begun with"
                raise bad_argument(owner, name, domain, given, remedy)
        with main_process_first() as is_main:
            if is_main and not is_begun:
                write_lines(path, [json.dumps(wanted, indent=1)])

    def keep_before(self, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Evaluate the untrained model, once: a run that goes on reads what the first one found.

        Args:
            evaluate: Computes the metrics; called in one process.

        Returns:
            The metrics.
        """
        path = self.checkpoints / RESULTS_FILE
        with main_process_first() as is_main:
            if is_main and self.last_checkpoint is None:
                write_lines(path, [json.dumps(evaluate())])
        found: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return found

    def save(self, model: Any) -> None:
        """Save a model, from one process.

        Args:
            model: Whatever has ``save_pretrained``.
        """
        with main_process_first() as is_main:
            if is_main:
                model.save_pretrained(str(self.output))

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
        with main_process_first() as is_main:
            if is_main:
                record = {
                    "recipe": asdict(recipe),
                    "data": {Path(path).name: hash_file(path) for path in files},
                    **facts,
                    "versions": {module.__name__: module.__version__ for module in modules},
                    "results": results,
                }
                path = self.output / RESULTS_FILE
                write_lines(path, [json.dumps(record, indent=2, default=str)])


def describe_run(recipe: Any, *, free: Iterable[str] = (), **files: Iterable[str | Path]) -> dict[str, Any]:
    """Collect what decides on the weights of a recipe, for `TrainingFolder.keep_plan`.

    Args:
        recipe: The recipe, a dataclass.
        free: Fields that a run that goes on may have otherwise, such as how often it saves.
        **files: Data files, by the field that names them; their contents count, not their places.

    Returns:
        Field -> value, or the hashes of the files.
    """
    left_out = {*free, *files}
    plan = {name: value for name, value in asdict(recipe).items() if name not in left_out}
    return {**plan, **{name: [hash_file(path) for path in paths] for name, paths in files.items()}}


def forget_run(output_dir: str | Path, *patterns: str) -> None:
    """Remove what an earlier run of several stages left to go on from; its models stay.

    To be called before the first stage of a run that does not go on: if that one is stopped early, the run
    that goes on must not find later stages of the earlier one.

    Args:
        output_dir: Where the run writes.
        *patterns: Files and folders in it, such as ``"stage_*/checkpoints"``; ``checkpoints`` always goes.
    """
    output = Path(output_dir)
    with main_process_first() as is_main:
        if is_main:
            for path in {path for pattern in ("checkpoints", *patterns) for path in output.glob(pattern)}:
                rmtree(path) if path.is_dir() else path.unlink()


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


def _is_whole(checkpoint: Path) -> bool:
    """Say whether a checkpoint was written to its end, by every process; what comes last is asked for."""
    n_processes = count_processes()
    states = (
        [f"rng_state_{rank}.pth" for rank in range(n_processes)] if n_processes > 1 else ["rng_state.pth"]
    )
    if not all((checkpoint / name).is_file() for name in (*states, _STATE_FILE)):
        return False
    try:
        json.loads((checkpoint / _STATE_FILE).read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def _point_to_best(checkpoint: Path) -> None:
    """Let a checkpoint of a folder that was moved or copied find the best one beside it."""
    path = checkpoint / _STATE_FILE
    state = json.loads(path.read_text(encoding="utf-8"))
    best = state.get("best_model_checkpoint")
    beside = checkpoint.with_name(Path(best).name) if best else None
    if beside is not None and beside.is_dir() and str(beside) != best:
        state["best_model_checkpoint"] = str(beside)
        write_lines(path, [json.dumps(state, indent=2, sort_keys=True)])
