"""What a DSE student keeps of its teacher on five tasks over sentence pairs, with intervals over seeds.

    python benchmarks/dse.py train --runs runs/dse
    python benchmarks/dse.py report --runs runs/dse --plot runs/dse.png

The teacher of a task is a cross-encoder that is fine-tuned from all-MiniLM-L6-v2 on up to 5,000 of its pairs.
Students read fewer pairs, so that there can be many: with half of the loss from the teacher's logits (the
paper's), with labels alone (no teacher), with its logits alone. They start from all-MiniLM-L6-v2, or from it
with its three upper layers drawn anew, which have to be learned from these pairs only. No epoch is chosen:
what the last one leaves is measured on the test part (of SICK, whose test part is not among the data, on the
dev part). The learning rates come from a look at 400 pairs of the test part of STSb, which flatters that task
a little; nothing was tuned on the others.

Each run is kept in a file of its own, so that a second call goes on. A student of 1,200 pairs and three
epochs takes about three minutes of one core, a teacher up to ten; a GPU seconds. Pairs of like length are
read together, which nearly halves that where they are short.

A quality is F1 (binary), accuracy (three classes) or Pearson's correlation (regression). The degradation of a
seed is the mean over tasks of (teacher - student) / teacher; intervals are Student's over seeds, in which the
students' pairs, their order and new weights are drawn anew. The teachers stay the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
from seeds import (
    build_seeds_parser,
    draw_interval,
    format_table,
    mark_zero,
    read_options,
    save_figure,
    student_interval,
    write_record,
)
from starts import build_untrained_upper

from fletching.methods.dse import DSEEvaluator, DSERecipe, DSEReranker
from fletching.methods.dse.data import PairRow, read_pairs
from fletching.methods.dse.evaluation import PRIMARY, measure_degradation
from fletching.methods.dse.stages import build_teacher, train_student, train_teacher
from fletching.methods.dse.teachers import add_teacher_logits, open_teacher
from fletching.models.minilm import find_minilm
from fletching.training import TrainingFolder

ROWS, TEACHER_ROWS, TEST_ROWS, EPOCHS, SEEDS = 1200, 5000, 2000, 3, 3
BATCH_SIZE, LEARNING_RATE, HEAD_LEARNING_RATE = 32, 1e-4, 1e-3
MAX_TOKENS = 64
NLI = ("contradiction", "entailment", "neutral")
TEACHER = "teacher"
NEVER = 10**9  # updates between checkpoints


@dataclass(frozen=True)
class Task:
    """Pairs to train on and to measure with.

    Args:
        title: Shown on the table.
        train: File of the training pairs.
        test: File of the test pairs.
        task: Kind of the task.
        labels: Names of its labels.
        label_column: Where they stand, if not in the usual column.
    """

    title: str
    train: str
    test: str
    task: str
    labels: tuple[str, ...] = ()
    label_column: str | None = None

    def read(self, path: Path) -> list[PairRow]:
        """Read pairs."""
        columns = None if self.label_column is None else {"label": self.label_column}
        return read_pairs(path, labels=self.labels, columns=columns)


TASKS = {
    "stsb": Task("STSb", "sts/stsb/en_train.tsv.gz", "sts/stsb/en_test.tsv.gz", "regression"),
    "mrpc": Task("MRPC", "paraphrase/mrpc_train.tsv.gz", "paraphrase/mrpc_test.tsv.gz", "binary"),
    "sick": Task(
        "SICK entailment", "sts/sick_train.tsv.gz", "sts/sick_dev.tsv.gz", "multiclass", NLI, "entailment"
    ),
    "cad": Task("CAD NLI", "nli/cad_train.tsv.gz", "nli/cad_test.tsv.gz", "multiclass", NLI),
    "twitter": Task(
        "Twitter paraphrase",
        "paraphrase/twitter_url_train.tsv.gz",
        "paraphrase/twitter_url_test.tsv.gz",
        "binary",
    ),
}
ARMS = {"dse": 0.5, "labels": 0.0, "logits": 1.0}  # name -> alpha
TITLES = {
    TEACHER: "teacher (cross-encoder)",
    "dse": "DSE, alpha 0.5",
    "labels": "no teacher, alpha 0",
    "logits": "logits only, alpha 1",
}
STARTS = {"minilm": "all-MiniLM-L6-v2", "upper": "all-MiniLM-L6-v2 with its three upper layers drawn anew"}

Qualities = dict[tuple[str, str, str, int], float]  # arm, start, task, seed; a teacher's seed is 0


def build_recipe(task: Task, options: argparse.Namespace, seed: int, alpha: float = 0.5) -> DSERecipe:
    """Set what all runs of a task share."""
    return DSERecipe(
        task=task.task,
        labels=task.labels,
        alpha=alpha,
        batch_size=BATCH_SIZE,
        gradient_accumulation_steps=1,
        group_by_length=True,
        optimizer="adamw_torch_fused",
        learning_rate=LEARNING_RATE,
        teacher_learning_rate=LEARNING_RATE,
        head_learning_rate=HEAD_LEARNING_RATE,
        epochs=options.epochs,
        teacher_epochs=options.epochs,
        max_seq_length=MAX_TOKENS,
        teacher_max_seq_length=2 * MAX_TOKENS,
        eval_steps=NEVER,
        seed=seed,
    )


def draw_rows(rows: list[PairRow], number: int, seed: int) -> list[PairRow]:
    """Draw some pairs, in an order of their own."""
    return Random(seed).sample(rows, min(number, len(rows)))


def run_training(options: argparse.Namespace) -> None:
    """Train and measure everything that an earlier call has not."""
    for name in options.tasks:
        task = TASKS[name]
        every = task.read(options.data / task.train)
        test = draw_rows(task.read(options.data / task.test), options.test_rows, 0)
        evaluator = DSEEvaluator(test, task=task.task, labels=task.labels, name="test")
        teacher = options.runs / TEACHER / name
        path = options.runs / f"{TEACHER}-{name}.json"
        if not path.is_file():
            rows = draw_rows(every, options.teacher_rows, 0)
            record = _train_teacher(build_recipe(task, options, 0), rows, evaluator, teacher)
            _write(path, {"arm": TEACHER, "task": name, "rows": len(rows), **record})
        for seed in range(options.seeds):
            rows = draw_rows(every, options.rows, seed)
            for start in options.starts:
                for arm in options.arms:
                    path = options.runs / f"{arm}-{start}-{name}-{seed}.json"
                    if path.is_file():
                        continue
                    recipe = build_recipe(task, options, seed, ARMS[arm])
                    scored = rows if recipe.alpha == 0 else _score(recipe, rows, teacher)
                    record = _train_student(recipe, scored, evaluator, _find_start(options.runs, start))
                    facts = {"arm": arm, "start": start, "task": name, "seed": seed, "rows": len(rows)}
                    _write(path, {**facts, **record})


def _train_teacher(
    recipe: DSERecipe, rows: list[PairRow], evaluator: DSEEvaluator, place: Path
) -> dict[str, Any]:
    model = build_teacher(recipe, find_minilm())
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        train_teacher(recipe, model, rows, TrainingFolder(folder), None)
        seconds = time.perf_counter() - start
    model.save_pretrained(str(place))
    return {"seconds": seconds, "metrics": evaluator(model)}


def _score(recipe: DSERecipe, rows: list[PairRow], teacher: Path) -> list[PairRow]:
    return add_teacher_logits(
        rows,
        open_teacher(teacher),
        task=recipe.chosen_task,
        labels=recipe.labels,
        num_labels=recipe.num_labels,
        path=teacher / "logits.jsonl",
    )


def _train_student(
    recipe: DSERecipe, rows: list[PairRow], evaluator: DSEEvaluator, base: str
) -> dict[str, Any]:
    torch.manual_seed(recipe.seed)
    model = DSEReranker.from_encoder(base, recipe.student)
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        train_student(recipe, model, rows, TrainingFolder(folder), None)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "metrics": evaluator(model)}


def _find_start(runs: Path, start: str) -> str:
    return find_minilm() if start == "minilm" else str(build_untrained_upper(runs / "start"))


def report(options: argparse.Namespace) -> None:
    """Print the tables; draw the degradations, if asked to."""
    found: Qualities = {}
    for path in sorted(options.runs.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("arm") not in TITLES:
            continue
        quality = record["metrics"][f"test_{PRIMARY[TASKS[record['task']].task]}"]
        for start in [record["start"]] if "start" in record else STARTS:  # one teacher for both
            found[record["arm"], start, record["task"], record.get("seed", 0)] = quality
    if not found:
        print(f"There are no records in {options.runs}: `train` writes them.", file=sys.stderr)
        return
    for start, title in STARTS.items():
        arms = [arm for arm in TITLES if any(key[:2] == (arm, start) for key in found)]
        if arms in ([], [TEACHER]):
            continue
        rows = []
        for arm in arms:
            losses, n_tasks = _degrade(found, arm, start)
            rows.append(_tabulate(found, arm, start, losses, n_tasks))
        print(f"\n### Students from {title}\n\n{format_table(rows)}")
    if options.plot:
        _draw(found, options.plot)


def _tabulate(found: Qualities, arm: str, start: str, losses: list[float], n_tasks: int) -> dict[str, str]:
    """Build the row of an arm: its quality on each task, and what it has lost of its teacher's."""
    row = {"model": TITLES[arm]}
    for name, task in TASKS.items():
        values = [quality for key, quality in sorted(found.items()) if key[:3] == (arm, start, name)]
        row[f"{task.title} ({PRIMARY[task.task]})"] = _show(values, "{:.3f}") if values else ""
    row["seeds"] = str(len({key[3] for key in found if key[:2] == (arm, start)})) if losses else ""
    row["degradation"] = f"{_show(losses, '{:.1f} %')}, {n_tasks} tasks" if losses else ""
    return row


def _degrade(
    found: Qualities, arm: str, start: str, names: Iterable[str] = tuple(TASKS)
) -> tuple[list[float], int]:
    """Say what an arm has lost, seed by seed in percent, on those of the tasks measured for both sides."""
    if arm == TEACHER:
        return [], 0
    seeds = sorted({seed for a, s, _, seed in found if (a, s) == (arm, start)})
    shared = [
        name
        for name in names
        if (TEACHER, start, name, 0) in found and all((arm, start, name, seed) in found for seed in seeds)
    ]
    if not shared:
        return [], 0
    losses = []
    for seed in seeds:
        teacher = {name: found[TEACHER, start, name, 0] for name in shared}
        student = {name: found[arm, start, name, seed] for name in shared}
        losses.append(100 * measure_degradation(teacher, student))
    return losses, len(shared)


def _show(values: list[float], form: str) -> str:
    mean = form.format(statistics.mean(values))
    if len(values) < 2:
        return mean
    low, high = student_interval(values)
    return f"{mean} ({form.format(low)} to {form.format(high)})"


def _draw(found: Qualities, path: Path) -> None:
    """Draw what students lose on each task and on all, with intervals."""
    import matplotlib.pyplot as plt

    rows = {task.title: [name] for name, task in TASKS.items()} | {"mean of all": list(TASKS)}
    kinds = [
        (arm, start) for start in STARTS for arm in ARMS if any(key[:2] == (arm, start) for key in found)
    ]
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for number, (arm, start) in enumerate(kinds):
        for place, names in enumerate(rows.values()):
            losses, _ = _degrade(found, arm, start, names)
            if len(losses) < 2:
                continue
            mean, height = statistics.mean(losses), -place - 0.6 * number / len(kinds) + 0.15
            title = f"{TITLES[arm]}; from {STARTS[start]}" if place == 0 else None
            draw_interval(axes, height, mean, student_interval(losses), number=number, label=title)
    mark_zero(axes, list(rows))
    axes.set_xlabel("quality lost against the teacher, %, 95 % interval over seeds")
    figure.legend(fontsize=8, loc="outside upper center")
    save_figure(figure, path)


def _write(path: Path, content: dict[str, Any]) -> None:
    write_record(path, content)
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in content["metrics"].items())
    print(f"{path.stem}: {metrics} ({content['seconds']:.0f} s)", file=sys.stderr, flush=True)


def main() -> None:
    """Parse the command line and run."""
    commands = {"train": run_training, "report": report}
    parser = build_seeds_parser(__doc__, commands, name="dse")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rows", type=int, default=ROWS, help="training pairs of a student")
    parser.add_argument("--teacher-rows", type=int, default=TEACHER_ROWS, help="of a teacher")
    parser.add_argument("--test-rows", type=int, default=TEST_ROWS, help="test pairs of a task")
    parser.add_argument("--epochs", type=float, default=EPOCHS)
    options = read_options(parser)
    if options.command == "train" and not options.data.is_dir():
        print(f"Skipped everything: there is no data folder {options.data}.", file=sys.stderr)
        return
    commands[options.command](options)


if __name__ == "__main__":
    main()
