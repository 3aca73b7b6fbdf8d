"""DSE as a recipe: teacher, its logits, student; resumable, evaluated, documented."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from fletching.data.lines import write_lines
from fletching.errors import bad_argument, bad_choice, bad_record, missing_extra
from fletching.methods.dse.config import DSEConfig
from fletching.methods.dse.data import PairRow, read_pairs
from fletching.methods.dse.evaluation import DSEEvaluator
from fletching.methods.dse.losses import REDUCTIONS
from fletching.methods.dse.model import DSEReranker
from fletching.methods.dse.stages import build_teacher, train_student, train_teacher
from fletching.methods.dse.synthetic import ALPHABET, build_synthetic_pairs
from fletching.methods.dse.teachers import add_teacher_logits, check_teacher, open_teacher
from fletching.models.inputs import check_count, check_positive
from fletching.training import (
    TrainingFolder,
    describe_run,
    forget_run,
    main_process_first,
    save_character_bert,
)

__all__ = ["DSERecipe"]

logger = logging.getLogger(__name__)

_TEACHER = "teacher"
_LOGITS = "teacher_logits.jsonl"
_DONE = "done"  # beside the checkpoints of a teacher whose model is written
_MAX_TOKENS = 128  # reference code


@dataclass(frozen=True)
class DSERecipe(DSEConfig):
    """Distil a cross-encoder into a student (Barkan et al., arXiv 1908.05161).

    What the student is made of: see ``DSEConfig`` for the fields that are not listed here.

    First the teacher is fine-tuned, unless ``teacher`` names one; then its logits of the training pairs are
    computed once; then the student is trained on labels and logits. Each is done once: a run that goes on
    takes what is there.

    Args:
        base: What the student starts from: an encoder, not the fine-tuned teacher (reference code).
        train_data: Files of pairs, see `read_pairs`.
        dev_data: Files of pairs to evaluate on before, during and after; empty evaluates nothing.
        labels: Names of the labels in the order of their numbers, where the files have names; `LABELS` has
            those of GLUE. They also give the last of ``fc_dims`` for a multiclass task.
        columns: What the columns of the files are called; ``None``: as usual.
        teacher: Name, folder or hub id of a trained teacher: any cross-encoder, or a listwise reranker such
            as ``"mvp-mini"``. ``None`` fine-tunes one first, unless ``alpha`` is 0.
        teacher_base: What the teacher is fine-tuned from; ``None``: from ``base``.
        teacher_learning_rate: Of that fine-tuning.
        teacher_epochs: Of that fine-tuning.
        teacher_max_seq_length: Tokens of a pair, which that teacher reads; ``max_seq_length`` is for the
            student and one sentence.
        logits_batch_size: Pairs of one batch of the teacher; ``None`` leaves it to the model.
        alpha: Share of the distillation in the loss; 0 trains on labels alone, 1 on logits alone.
        reduction: ``"sum"`` or ``"mean"`` over classes in the distillation.
        batch_size: Pairs of a step of each device.
        gradient_accumulation_steps: Steps for one update.
        group_by_length: Whether a step reads pairs of like length, which pads them less: see
            `LengthGroupedBatchSampler`.
        learning_rate: Of the student.
        head_learning_rate: Of the heads of student and teacher; ``None``: as of the rest. A higher one helps
            where updates are few: until a new head knows the scale of the labels, its errors spoil the
            encoder.
        warmup_ratio: Share of the updates over which the learning rate rises; then it falls to 0.
        epochs: Of the student.
        optimizer: A name that transformers knows.
        adam_epsilon: Of Adam.
        weight_decay: Not of biases and norms.
        max_grad_norm: Gradients of all weights together are cut to this length.
        legacy_schedule: Reproduce the reference code's learning rates: it counts steps where updates are
            meant, so that with two steps for an update the rate rises over a fifth of them and ends at 0.56
            of its highest value.
        threshold: Probability from which a pair is of class 1, for F1 and accuracy.
        eval_batch_size: Pairs of one batch of evaluations; ``None`` leaves it to the model.
        eval_steps: Updates between evaluations and checkpoints; ``None``: every epoch. The best checkpoint is
            kept: by F1, accuracy or Pearson.
        seed: Of new weights and of the order of the pairs.
        max_rows: Training pairs, the first of the files; ``None`` uses all.
        bf16: Whether to train in bfloat16 (autocast).
        synthetic: Whether to make up pairs and a tiny random model in the output folder, instead of reading
            ``train_data`` and ``base``.
    """

    base: str = "google-bert/bert-large-uncased-whole-word-masking"  # reference code
    train_data: tuple[str, ...] = ()
    dev_data: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    columns: dict[str, str] | None = None
    teacher: str | None = None
    teacher_base: str | None = None
    teacher_learning_rate: float = 2e-5  # reference README; the script's own default is 5e-5
    teacher_epochs: float = 3  # reference README
    teacher_max_seq_length: int = _MAX_TOKENS  # reference README
    logits_batch_size: int | None = 256  # reference code
    alpha: float = 0.5  # reference code
    reduction: str = "sum"  # reference code
    batch_size: int = 16  # reference code
    gradient_accumulation_steps: int = 2  # reference code: 32 pairs for an update
    group_by_length: bool = False  # reference code: in random order
    learning_rate: float = 2e-5  # reference code
    head_learning_rate: float | None = None  # reference code: one for all
    warmup_ratio: float = 0.1  # reference code
    epochs: float = 5  # reference code; 8 in its example on MRPC
    optimizer: str = "adamw_torch"  # ours; reference code: Adam without bias correction
    adam_epsilon: float = 1e-6  # reference code
    weight_decay: float = 0.01  # reference code
    max_grad_norm: float = 1.0  # reference code: of each weight matrix by itself
    legacy_schedule: bool = False
    threshold: float = 0.5  # reference code
    eval_batch_size: int | None = 128  # reference code
    eval_steps: int | None = None  # reference code: every epoch
    seed: int = 42  # reference code
    max_rows: int | None = None
    bf16: bool = False
    synthetic: bool = False

    def __post_init__(self) -> None:
        """Check every value, and fit the head to the labels."""
        owner = type(self).__name__
        object.__setattr__(self, "labels", tuple(self.labels))
        if self.task == "multiclass" and self.labels and self.fc_dims and self.fc_dims[-1] == 1:
            object.__setattr__(self, "fc_dims", (*self.fc_dims[:-1], len(self.labels)))
        super().__post_init__()
        if self.reduction not in REDUCTIONS:
            raise bad_choice(owner, "reduction", REDUCTIONS, self.reduction)
        for name in ("alpha", "warmup_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise bad_argument(owner, name, "from 0 to 1", getattr(self, name))
        if not 0 < self.threshold < 1:
            raise bad_argument(owner, "threshold", "between 0 and 1", self.threshold)
        for name in (
            "learning_rate",
            "epochs",
            "teacher_learning_rate",
            "teacher_epochs",
            "adam_epsilon",
            "max_grad_norm",
        ):
            if not getattr(self, name) > 0:
                raise bad_argument(owner, name, "positive", getattr(self, name))
        if self.head_learning_rate is not None and not self.head_learning_rate > 0:
            raise bad_argument(owner, "head_learning_rate", "positive, or None", self.head_learning_rate)
        if not self.weight_decay >= 0:
            raise bad_argument(owner, "weight_decay", "zero or positive", self.weight_decay)
        for name in ("batch_size", "gradient_accumulation_steps", "teacher_max_seq_length"):
            check_positive(owner, name, getattr(self, name))
        for name in ("logits_batch_size", "eval_batch_size", "eval_steps", "max_rows"):
            check_count(owner, name, getattr(self, name))
        n_labels = 2 if self.chosen_task == "binary" else self.num_labels
        if self.labels and self.chosen_task == "regression":
            raise bad_argument(
                owner, "labels", "left out for a regression, whose labels are numbers", self.labels
            )
        if self.labels and len(self.labels) != n_labels:
            domain = f"{n_labels} names for this {self.chosen_task} task"
            raise bad_argument(owner, "labels", domain, self.labels)

    @property
    def student(self) -> DSEConfig:
        """What the student is made of."""
        return DSEConfig(**{item.name: getattr(self, item.name) for item in fields(DSEConfig)})

    @classmethod
    def smoke(cls) -> DSERecipe:
        """A recipe that finishes in under a minute on a CPU, on made-up pairs and a tiny random model."""
        return cls(
            synthetic=True,
            num_layers=2,
            fc_dims=(64, 1),
            max_seq_length=24,
            batch_size=8,
            learning_rate=2e-3,
            teacher_learning_rate=2e-3,
            teacher_epochs=4,
            epochs=4,
        )

    def run(self, output_dir: str | Path, *, resume: bool = False) -> dict[str, Any]:
        """Train, evaluate and save.

        Args:
            output_dir: Where the student goes; a teacher that is fine-tuned goes to ``teacher`` in it, logits
                to ``teacher_logits.jsonl``, checkpoints to ``checkpoints``.
            resume: Go on from what is there; ends with the weights of a run that was never stopped.

        Returns:
            ``{"before": {...}, "after": {...}, "teacher": {...}}``, metrics on ``dev_data``.

        Raises:
            ArgumentError: If there is nothing to train on, the teacher has another number of labels, or the
                run to go on with was begun otherwise.
            CheckpointError: If the base or the teacher cannot be opened.
            DataError: If a file is missing or malformed.
            MissingExtraError: If the ``train`` extra is not installed.
        """
        output = Path(output_dir)
        for package in ("accelerate", "datasets"):
            if find_spec(package) is None:
                raise missing_extra(type(self).__name__, package, "train")
        if self.synthetic:
            return self._run_synthetic(output, resume=resume)
        if not self.train_data:
            raise bad_argument(
                type(self).__name__, "train_data", "at least one file of pairs", self.train_data
            )
        dev = self._read(self.dev_data)
        rows = self._read(self.train_data)[: self.max_rows]
        self._check_labels(self.train_data, rows)
        self._check_labels(self.dev_data, dev)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            # before the teacher: an encoder that does not fit is found now, not behind hours of training
            model = DSEReranker.from_encoder(self.base, self.student)
        teacher = self._open_given_teacher()
        if not resume:
            forget_run(output, f"{_TEACHER}/checkpoints", _LOGITS)
        files = {name: _list_all(getattr(self, name)) for name in ("train_data", "dev_data")}
        folder = TrainingFolder(output, resume=resume)
        folder.keep_plan(type(self).__name__, describe_run(self, free=("eval_batch_size",), **files))
        rows, teacher_metrics = self._ask_teacher(teacher, output, rows, dev, resume=resume)
        evaluator = self._build_evaluator(dev, teacher_metrics)
        return self._distil(folder, model, rows, evaluator, teacher_metrics)

    def _run_synthetic(self, output: Path, *, resume: bool) -> dict[str, Any]:
        files = {name: output / f"{name}.tsv" for name in ("train", "dev")}
        base = output / "base"
        with main_process_first() as is_main:
            if is_main and not (resume and all(path.is_file() for path in files.values())):
                output.mkdir(parents=True, exist_ok=True)
                save_character_bert(base, [ALPHABET], seed=self.seed)
                for place, (name, path) in enumerate(files.items()):
                    pairs = build_synthetic_pairs(200 if name == "train" else 100, seed=self.seed + place)
                    lines = (f"{row.label:.0f}\t{row.first}\t{row.second}" for row in pairs)
                    write_lines(path, ("label\tsentence1\tsentence2", *lines))
        recipe = replace(
            self,
            synthetic=False,
            base=str(base),
            train_data=(str(files["train"]),),
            dev_data=(str(files["dev"]),),
        )
        return recipe.run(output, resume=resume)

    def _open_given_teacher(self) -> Any:
        """Open the teacher that was given, if one was, and check that it speaks of the task's labels."""
        if self.teacher is None:
            return None
        teacher = open_teacher(self.teacher)
        check_teacher(teacher, task=self.chosen_task, num_labels=self.num_labels)
        return teacher

    def _ask_teacher(
        self, teacher: Any, output: Path, rows: list[PairRow], dev: list[PairRow], *, resume: bool
    ) -> tuple[list[PairRow], dict[str, float]]:
        """Fine-tune a teacher where none was given, and attach its logits to the training pairs."""
        if teacher is None and self.alpha == 0:
            return [replace(row, teacher=None) for row in rows], {}
        if teacher is None and all(row.teacher is not None for row in rows):
            logger.info("The pairs have logits: no teacher is asked.")
            return rows, {}
        evaluator = self._build_evaluator(dev)
        if teacher is None:
            teacher = self._train_teacher(output / _TEACHER, rows, evaluator, resume=resume)
        metrics = evaluator(teacher) if evaluator else {}
        if self.alpha == 0:
            return [replace(row, teacher=None) for row in rows], metrics
        with main_process_first():  # the others find in the file what the first one computed
            scored = add_teacher_logits(
                rows,
                teacher,
                task=self.chosen_task,
                labels=self.labels,
                num_labels=self.num_labels,
                path=output / _LOGITS,
                batch_size=self.logits_batch_size,
            )
        return scored, metrics

    def _train_teacher(
        self, place: Path, rows: list[PairRow], evaluator: DSEEvaluator | None, *, resume: bool
    ) -> Any:
        """Fine-tune the teacher, unless that has been done."""
        done = place / "checkpoints" / _DONE
        if not (resume and done.is_file()):
            model = build_teacher(self, self.teacher_base or self.base)
            folder = TrainingFolder(place, resume=resume)
            with torch.random.fork_rng():
                train_teacher(self, model, rows, folder, evaluator)
            folder.save(model)
            with main_process_first() as is_main:
                if is_main:
                    done.touch()
        return open_teacher(place)  # saved and opened: a run that goes on asks the very same

    def _distil(
        self,
        folder: TrainingFolder,
        model: DSEReranker,
        rows: list[PairRow],
        evaluator: DSEEvaluator | None,
        teacher_metrics: dict[str, float],
    ) -> dict[str, Any]:
        before = folder.keep_before(lambda: evaluator(model) if evaluator else {})
        with torch.random.fork_rng():
            train_student(self, model, rows, folder, evaluator)
        after = evaluator(model) if evaluator else {}
        results = {"before": before, "after": after, "teacher": teacher_metrics}
        folder.save(model)
        files = _list_all((*self.train_data, *self.dev_data))
        folder.write_record(self, files=files, results=results, rows=len(rows))
        return results

    def _build_evaluator(
        self, dev: list[PairRow], teacher_metrics: dict[str, float] | None = None
    ) -> DSEEvaluator | None:
        if not dev:
            return None
        return DSEEvaluator(
            dev,
            task=self.chosen_task,
            labels=self.labels,
            teacher_metrics=teacher_metrics,
            threshold=self.threshold,
            batch_size=self.eval_batch_size,
        )

    def _read(self, paths: Sequence[str]) -> list[PairRow]:
        labels = () if self.chosen_task == "regression" else self.labels
        return [row for path in paths for row in read_pairs(path, labels=labels, columns=self.columns)]

    def _check_labels(self, paths: Sequence[str], rows: Sequence[PairRow]) -> None:
        """Find a label that the task does not know before hours of training, not after them."""
        n_classes = {"binary": 2, "multiclass": self.num_labels}.get(self.chosen_task)
        source = ", ".join(Path(path).name for path in paths)
        for row in rows:
            known = row.label == row.label  # NaN is not
            if known and n_classes and row.label not in range(n_classes):
                domain = f"a whole number from 0 to {n_classes - 1} for this {self.chosen_task} task"
                raise bad_record(source, None, "label", domain, row.label)
            if self.teacher is None and row.teacher is not None and len(row.teacher) != self.num_labels:
                domain = f"{self.num_labels} logits for this {self.chosen_task} task"
                raise bad_record(source, None, "teacher", domain, row.teacher)


def _list_all(sources: Sequence[str]) -> list[Path]:
    return [path for source in sources for path in _list_files(source)]


def _list_files(source: str) -> Iterator[Path]:
    path = Path(source)
    if path.is_dir():
        yield from sorted(found for found in path.iterdir() if found.is_file())
    else:
        yield path
