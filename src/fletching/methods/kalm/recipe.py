"""KaLM-Embedding-V2 as a recipe: stage by stage, resumable, evaluated, documented."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.util import load_file_path

from fletching.data.lines import read_json_lines
from fletching.errors import DataError, bad_argument, missing_extra
from fletching.methods.kalm.config import KaLMConfig, check_template
from fletching.methods.kalm.data import KaLMRow, read_rows, write_rows
from fletching.methods.kalm.evaluation import KaLMRowEvaluator
from fletching.methods.kalm.mining import mine_rows, score_rows
from fletching.methods.kalm.model import KaLMEmbedder
from fletching.methods.kalm.soup import model_soup
from fletching.methods.kalm.stages import choose_dims, train_stage
from fletching.methods.kalm.synthetic import build_synthetic_rows, save_smoke_qwen2
from fletching.models.inputs import check_count, check_positive
from fletching.models.loading import load
from fletching.training import TrainingFolder, describe_run, forget_run, main_process_first

__all__ = ["KaLMRecipe"]

logger = logging.getLogger(__name__)

_MINED = "rows.mined.jsonl"
_SCORED = "rows.scored.jsonl"
_COSINES = "teacher_scores.jsonl"
_STAGES = tuple(f"{stage}/checkpoints" for stage in ("pretrain", "finetune*", "distill"))
_DONE = "done"  # beside the checkpoints of a stage whose model is written


@dataclass(frozen=True)
class KaLMRecipe(KaLMConfig):
    """Train KaLM-Embedding-V2 or V2.5 (arXiv 2506.20923) on rows; see ``KaLMConfig`` for the other fields.

    Each stage writes a model of its own into a folder of ``output_dir``, the last one into ``output_dir``
    itself, and is not repeated by a run that goes on. Fine-tuning filters and mines with the model of the
    stage before, where that is an embedder already.

    Args:
        train_data: Files of rows for fine-tuning, see `read_rows`; queries carry their instruction.
        pretrain_data: Files of rows for ``"pretrain"``, of which pairs are used.
        dev_data: Files of rows to evaluate on before and after; empty evaluates nothing.
        teacher: Folder or hub id of the embedder that scores rows for ``"distill"``; ``None`` if they have
            scores.
        teacher_template: Of the prompts that the teacher knows, with ``{instruction}``; ``None`` gives it the
            queries as they are.
        max_rows: Rows of a stage, the first of the files; ``None`` uses all.
        save_steps: Optimiser steps between checkpoints.
        synthetic: Whether to make up rows and a tiny random model in the output folder, instead of reading
            ``train_data`` and ``base``.
    """

    train_data: tuple[str, ...] = ()
    pretrain_data: tuple[str, ...] = ()
    dev_data: tuple[str, ...] = ()
    teacher: str | None = None  # paper: Qwen/Qwen3-Embedding-8B
    teacher_template: str | None = None
    max_rows: int | None = None
    save_steps: int = 1000  # ours
    synthetic: bool = False

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        owner = type(self).__name__
        if self.teacher_template is not None:
            check_template(self.teacher_template)
        check_count(owner, "max_rows", self.max_rows)
        check_positive(owner, "save_steps", self.save_steps)

    @classmethod
    def smoke(cls) -> KaLMRecipe:
        """A recipe that finishes in under a minute on a CPU, on made-up rows and a tiny random model."""
        return cls(
            synthetic=True,
            stages=("pretrain", "finetune", "soup"),
            soup_seeds=2,
            temperature=0.05,
            matryoshka_dims=(32, 16, 8),
            matryoshka_weights=(1.0, 0.3, 0.2),
            negatives=3,
            filter_top_k=80,
            mining_range=(5, 80),
            batch_size=16,
            max_tokens=64,
            learning_rate=5e-4,
            pretrain_learning_rate=3e-3,
            epochs=6,
            save_steps=20,
        )

    def run(self, output_dir: str | Path, *, resume: bool = False) -> dict[str, Any]:
        """Train, evaluate and save.

        Args:
            output_dir: Where the model goes; checkpoints of its stage go to ``checkpoints`` in it, other
                stages, mined and scored rows beside them.
            resume: Go on from what is there; ends with the weights of a run that was never stopped.

        Returns:
            ``{"before": {...}, "after": {...}}``, metrics on ``dev_data``.

        Raises:
            ArgumentError: If a stage has nothing to train on, or no teacher, or the run to go on with was
                begun otherwise.
            CheckpointError: If the base or the teacher cannot be opened.
            DataError: If a file is missing or malformed, or no row is left.
            MissingExtraError: If the ``train`` extra, or with ``dev_data`` the ``evaluate`` extra, is not
                installed.
        """
        output = Path(output_dir)
        for package in ("accelerate", "datasets"):
            if find_spec(package) is None:
                raise missing_extra(type(self).__name__, package, "train")
        if self.synthetic:
            return self._run_synthetic(output, resume=resume)
        for name, used in (
            ("pretrain_data", "pretrain" in self.stages),
            ("train_data", bool({"finetune", "distill"} & {*self.stages})),
        ):
            if used and not getattr(self, name):
                raise bad_argument(type(self).__name__, name, "at least one file of rows", ())
        for path in {*self.pretrain_data, *self.train_data, *self.dev_data}:
            next(read_json_lines(path))  # a file that is missing is found now, not behind hours of training
        if not resume:
            forget_run(output, *_STAGES, _MINED, _SCORED, _COSINES)
        dev = self._read(self.dev_data) if self.dev_data else []
        return self._run_stages(output, resume, KaLMRowEvaluator(dev) if dev else None)

    def _run_synthetic(self, output: Path, *, resume: bool) -> dict[str, Any]:
        base = output / "base"
        files = {name: str(output / f"{name}.jsonl") for name in ("pretrain", "train", "dev")}
        with main_process_first() as is_main:
            if is_main and not (resume and all(Path(path).is_file() for path in files.values())):
                save_smoke_qwen2(base, seed=self.seed)
                write_rows(files["train"], build_synthetic_rows(seed=self.seed))
                write_rows(files["pretrain"], build_synthetic_rows(seed=self.seed + 1))
                dev = build_synthetic_rows(seed=self.seed + 2, wording=1)
                write_rows(files["dev"], [row for row in dev if row.task == "things"])
        recipe = replace(
            self,
            synthetic=False,
            base=str(base),
            train_data=(files["train"],),
            pretrain_data=(files["pretrain"],),
            dev_data=(files["dev"],),
        )
        return recipe.run(output, resume=resume)

    def _run_stages(self, output: Path, resume: bool, evaluator: KaLMRowEvaluator | None) -> dict[str, Any]:
        top = TrainingFolder(output, resume=resume)
        files = {"train_data": self.train_data, "pretrain_data": self.pretrain_data}
        plan = describe_run(self, free=("dev_data", "save_steps"), **files)
        top.keep_plan(type(self).__name__, plan)
        before = top.keep_before(lambda: evaluator(self._open(self.base)) if evaluator else {})
        previous = self.base
        facts: dict[str, Any] = {}
        for stage in self.stages:
            folder = output if stage == self.stages[-1] else output / stage
            if stage == "soup":
                self._cook(output, folder, resume)
                facts[stage] = self.soup_seeds
                continue
            rows = self._prepare(stage, previous, output, resume)
            places = {self.seed: folder}
            if stage == "finetune" and "soup" in self.stages:
                places = {seed: output / f"{stage}_{seed}" for seed in self._soup_seeds()}
            for seed, place in places.items():
                self._train(stage, previous, rows, place, resume=resume, seed=seed)
            facts[stage] = len(rows)
            previous = str(folder)
        results = {"before": before, "after": evaluator(load(output)) if evaluator else {}}
        data = (*self.pretrain_data, *self.train_data, *self.dev_data)
        top.write_record(self, files=data, results=results, rows=facts)
        return results

    def _train(
        self, stage: str, start: str, rows: Sequence[KaLMRow], place: Path, *, resume: bool, seed: int
    ) -> None:
        """Train one model, unless it is there."""
        if resume and _is_done(place):
            logger.info("Stage %r in %s is done.", stage, place)
            return
        logger.info("Stage %r on %d rows, from %s.", stage, len(rows), start)
        folder = TrainingFolder(place, resume=resume)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = self._open(start)
            if stage != "pretrain" and (dims := choose_dims(self, model)):
                model.matryoshka_dims = tuple(dims)
            train_stage(self, model, rows, folder, stage=stage, seed=seed)
        with main_process_first() as is_main:
            if is_main:
                _save(model, place)

    def _cook(self, output: Path, folder: Path, resume: bool) -> None:
        with main_process_first() as is_main:
            if is_main and not (resume and _is_done(folder)):
                _save(model_soup([output / f"finetune_{seed}" for seed in self._soup_seeds()]), folder)

    def _soup_seeds(self) -> range:
        return range(self.seed, self.seed + self.soup_seeds)

    def _prepare(self, stage: str, previous: str, output: Path, resume: bool) -> list[KaLMRow]:
        """Read the rows of a stage, and let the last model and the teacher say what they have to."""
        rows = self._read(self.pretrain_data if stage == "pretrain" else self.train_data)
        if stage == "pretrain":
            return rows
        mines = self.filter_top_k is not None or self.mining_range is not None
        if mines and "finetune" in self.stages:
            if stage == "finetune" and not _is_embedder(previous):
                logger.warning("Nothing is filtered or mined: %s is no embedder yet.", previous)
            else:
                keep = resume or stage != "finetune"
                rows = _write_once(output / _MINED, lambda: self._mine(rows, previous), keep=keep)
        if stage == "distill":
            if self.teacher is not None:
                rows = _write_once(
                    output / _SCORED, lambda: self._score(rows, output / _COSINES), keep=resume
                )
            elif not all(row.has_scores for row in rows):
                place = next(place for place, row in enumerate(rows) if not row.has_scores)
                domain = "given for rows without a teacher's scores"
                raise bad_argument(type(self).__name__, "teacher", domain, None, f"Row {place} has none")
        return rows

    def _mine(self, rows: Sequence[KaLMRow], previous: str) -> list[KaLMRow]:
        mined = mine_rows(
            self._open(previous),
            rows,
            filter_top_k=self.filter_top_k,
            mining_range=self.mining_range,
            n_negatives=self.negatives,
            template=self.template,
            seed=self.seed,
        )
        if not mined:
            remedy = "Train the model before longer, or take filter_top_k=None."
            raise DataError(f"KaLMRecipe: the filter must leave a row of {len(rows)}; it left none. {remedy}")
        return mined

    def _score(self, rows: Sequence[KaLMRow], path: Path) -> list[KaLMRow]:
        teacher = load(str(self.teacher), kind="embedder")
        return score_rows(
            teacher, rows, template=self.template, teacher_template=self.teacher_template, path=path
        )

    def _read(self, paths: Sequence[str]) -> list[KaLMRow]:
        rows = [row for path in paths for row in read_rows(path)]
        return rows[: self.max_rows]

    def _open(self, path: str) -> KaLMEmbedder:
        """Open what training starts from; a decoder that says nothing is to read both ways."""
        causal = None if _is_embedder(path) else False
        return KaLMEmbedder(path, causal=causal, template=self.template, max_seq_length=self.max_tokens)


def _is_embedder(path: str) -> bool:
    return load_file_path(path, "modules.json") is not None


def _write_once(path: Path, build: Callable[[], list[KaLMRow]], *, keep: bool) -> list[KaLMRow]:
    """Build rows in one process, and read them in all."""
    with main_process_first() as is_main:
        if is_main and not (keep and path.is_file()):
            write_rows(path, build())
    return read_rows(path)


def _save(model: Any, place: Path) -> None:
    """Save a model, and mark the stage as done when everything is written."""
    model.save_pretrained(str(place))
    (place / "checkpoints" / _DONE).touch()


def _is_done(place: Path) -> bool:
    return (place / "checkpoints" / _DONE).is_file()
