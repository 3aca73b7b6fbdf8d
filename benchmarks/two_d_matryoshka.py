"""What 2DMSE and ESE gain over plain fine-tuning at every depth and width, with intervals over seeds.

    python benchmarks/two_d_matryoshka.py train --runs runs/two_d_matryoshka
    python benchmarks/two_d_matryoshka.py report --runs runs/two_d_matryoshka --plot runs/two_d_matryoshka.png

Each run is kept, one JSON file each, so that a second call goes on. Training is on the train part of STSb
with CoSENT, from two starts: all-MiniLM-L6-v2, and the same with its three upper layers drawn anew, which
have seen no sentence pair. Every model is measured after each of its 6 layers, cut to 32, 64 and 128 of 384
numbers and whole: Spearman on the test part of STSb, and nDCG@10 on Cranfield, which is not like the training
texts.

The interval of a difference is Student's over seeds, paired by seed with plain fine-tuning: other batches,
dropout and draws of sizes and, for the second start, other weights of the upper layers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from seeds import build_seeds_parser, format_table, read_options, save_figure, student_interval, write_record
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import CoSENTLoss, Matryoshka2dLoss
from starts import build_untrained_upper

from fletching.evaluation import EvaluationSet, STSSet, read_evaluation_set
from fletching.methods.two_d_matryoshka import (
    ElasticEmbedder,
    TwoDMatryoshkaLoss,
    TwoDMatryoshkaLossOptions,
    frontier,
)
from fletching.methods.two_d_matryoshka.data import read_rows
from fletching.models.minilm import find_minilm

TRAIN = "sts/stsb/en_train.tsv.gz"
SETS = {"stsb": "sts/stsb/en_test.tsv.gz", "cranfield": "cranfield"}
MEASURES = {"stsb": "Spearman", "cranfield": "nDCG@10"}
DIMS = (32, 64, 128, 384)
STOCK_DIMS = [384, 256, 128, 64, 32, 16, 8]  # as its authors would list them; ours draws from 8 to 256
MAX_TOKENS = 128
EPOCHS, ROWS, LEARNING_RATE = 1.0, 32, 5e-5
SEEDS = 3
BASELINE, START = "plain", "start"


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        title: Shown on the table.
        loss: Builds the loss from the model; ``None`` trains nothing.
    """

    title: str
    loss: Callable[[ElasticEmbedder], torch.nn.Module] | None


def _build_2dmse(model: ElasticEmbedder, **settings: Any) -> TwoDMatryoshkaLoss:
    return TwoDMatryoshkaLoss(model, CoSENTLoss(model), **settings)


ARMS = {
    START: Arm("before training", None),
    BASELINE: Arm("plain fine-tuning", CoSENTLoss),
    "2dmse": Arm("2DMSE", _build_2dmse),
    "ese": Arm("ESE", lambda model: _build_2dmse(model, objective="ese")),
    "stock": Arm(
        "Matryoshka2dLoss", lambda model: Matryoshka2dLoss(model, CoSENTLoss(model), list(STOCK_DIMS))
    ),
    # as the reference code has it
    "2dmse_literal": Arm("2DMSE, teacher learns", lambda model: _build_2dmse(model, detach_teacher=False)),
    "2dmse_legacy": Arm(
        "2DMSE, legacy weights",
        lambda model: _build_2dmse(model, options=TwoDMatryoshkaLossOptions(weighting="legacy")),
    ),
    "2dmse_no_kl": Arm("2DMSE, no alignment", lambda model: _build_2dmse(model, kl_weight=0.0)),
}
USUAL = (START, BASELINE, "2dmse", "ese", "stock")
STARTS = {"minilm": "all-MiniLM-L6-v2", "upper": "all-MiniLM-L6-v2, upper half drawn anew"}


def open_start(name: str, options: argparse.Namespace, seed: int) -> ElasticEmbedder:
    """Open what training starts from."""
    folder = find_minilm()
    if name == "upper":
        folder = str(build_untrained_upper(options.runs / f"upper-{seed}", n_layers=3, seed=seed))
    model = ElasticEmbedder(folder, untrained="allow", device=options.device)
    model.max_seq_length = MAX_TOKENS
    return model


def train(arm: Arm, model: ElasticEmbedder, options: argparse.Namespace, seed: int) -> float:
    """Train one arm with one seed, in place; return the seconds that it took."""
    if arm.loss is None:
        return 0.0
    torch.manual_seed(seed)
    rows = Dataset.from_dict(read_rows(options.data / TRAIN).to_columns())
    with TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            num_train_epochs=options.epochs,
            max_steps=options.steps or -1,
            per_device_train_batch_size=ROWS,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="linear",
            warmup_steps=0.1,
            seed=seed,
            save_strategy="no",
            logging_steps=10,
            disable_tqdm=True,
            use_cpu=options.device == "cpu",
            dataloader_pin_memory=options.device != "cpu",
            report_to="none",
        )
        trainer = SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=rows, loss=arm.loss(model)
        )
        start = time.perf_counter()
        trainer.train()
    model.eval()
    return time.perf_counter() - start


def measure(model: ElasticEmbedder, sets: dict[str, EvaluationSet | STSSet]) -> dict[str, dict[str, float]]:
    """Measure every depth and width, from one pass over each set."""
    layers = range(1, model.num_layers + 1)
    found: dict[str, dict[str, float]] = {}
    for name, data in sets.items():
        measured = frontier(
            model,
            data,
            layers=layers,
            dims=DIMS,
            measure_latency=False,
            n_resamples=1,
            show_progress_bar=False,
        )
        found[name] = {_name(point.num_layers, point.truncate_dim): point.score for point in measured.points}
    return found


def run_training(options: argparse.Namespace) -> None:
    """Train and measure every arm with every seed; what an earlier call has finished is left out."""
    sets = {
        name: read_evaluation_set(options.data / path, show_progress_bar=False)
        for name, path in SETS.items()
        if name in options.sets
    }
    for seed in range(options.seeds):
        for start in options.starts:
            for name in options.arms:
                path = options.runs / f"{start}-{name}-{seed}.json"
                if path.is_file():
                    continue
                model = open_start(start, options, seed)
                seconds = train(ARMS[name], model, options, seed)
                begin = time.perf_counter()
                record = {"start": start, "arm": name, "seed": seed, "seconds": seconds}
                record |= {"epochs": options.epochs, "steps": options.steps, "sets": measure(model, sets)}
                write_record(path, record)
                sizes = (_name(model.num_layers // 2, DIMS[0]), _name(model.num_layers, DIMS[-1]))
                means = ", ".join(
                    f"{key} {' and '.join(f'{value[size]:.3f}' for size in sizes)}"
                    for key, value in record["sets"].items()
                )
                measuring = time.perf_counter() - begin
                print(
                    f"{start}, {name}, seed {seed}: {means} at {' and '.join(sizes)} "
                    f"({seconds:.0f} s to train, {measuring:.0f} s to measure)",
                    file=sys.stderr,
                    flush=True,
                )


def report(options: argparse.Namespace) -> None:
    """Print the tables; draw them, if asked to."""
    records = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(options.runs.glob("*.json"))
        if path.stem.split("-")[0] in STARTS
    ]
    scores: dict[tuple[str, str], dict[int, Any]] = {}
    for record in records:
        scores.setdefault((record["start"], record["arm"]), {})[record["seed"]] = record["sets"]
    for start in options.starts:
        for name in options.sets:
            rows = list(_summarise(scores, start, name, options.arms))
            if not rows:
                continue
            print(f"\n### {STARTS[start]}: {MEASURES[name]} on {name}, difference to plain fine-tuning\n")
            print(format_table(rows))
            for dim in options.dims:
                rows = list(_tabulate(scores, start, name, options.arms, dim))
                print(f"\n{STARTS[start]}, {name}, {dim} numbers of a vector\n\n{format_table(rows)}")
    if options.plot:
        _draw(scores, options)


def _summarise(
    scores: dict[tuple[str, str], dict[int, Any]], start: str, name: str, arms: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Say what the promise is about: cut models, and the whole one."""
    for arm in arms:
        if arm == BASELINE:
            continue
        for what, sizes in (
            ("whole model", lambda layers: [_name(layers, DIMS[-1])]),
            ("cut in depth, mean", lambda layers: [_name(n, DIMS[-1]) for n in range(1, layers)]),
            ("cut in width, mean", lambda layers: [_name(layers, dim) for dim in DIMS[:-1]]),
            ("cut in both, mean", lambda layers: [_name(n, d) for n in range(1, layers) for d in DIMS[:-1]]),
        ):
            pairs = list(_pair(scores, start, name, arm))
            if not pairs:
                continue
            differences = [
                statistics.mean(mine[size] - plain[size] for size in sizes(_count_layers(mine)))
                for mine, plain in pairs
            ]
            yield {"training": ARMS[arm].title, "size": what, "seeds": len(pairs)} | _describe(differences)


def _tabulate(
    scores: dict[tuple[str, str], dict[int, Any]], start: str, name: str, arms: Sequence[str], dim: int
) -> Iterator[dict[str, Any]]:
    """Build a row for each depth: the mean of each arm and its difference to plain fine-tuning."""
    present = {
        arm: [found[name] for found in scores.get((start, arm), {}).values() if name in found] for arm in arms
    }
    present = {arm: found for arm, found in present.items() if found}
    n_layers = max(_count_layers(found[0]) for found in present.values())
    for layer in range(1, n_layers + 1):
        size = _name(layer, dim)
        row: dict[str, Any] = {"layers": layer}
        for arm, found in present.items():
            row[ARMS[arm].title] = f"{statistics.mean(each[size] for each in found):.3f}"
            if arm in (START, BASELINE):
                continue
            differences = [mine[size] - plain[size] for mine, plain in _pair(scores, start, name, arm)]
            if differences:
                told = _describe(differences)
                row[ARMS[arm].title] += f" ({told['difference']}, {told['interval over seeds']})"
        yield row


def _pair(
    scores: dict[tuple[str, str], dict[int, Any]], start: str, name: str, arm: str
) -> Iterator[tuple[dict[str, float], dict[str, float]]]:
    mine, plain = scores.get((start, arm), {}), scores.get((start, BASELINE), {})
    for seed in sorted(mine.keys() & plain.keys()):
        if name in mine[seed] and name in plain[seed]:
            yield mine[seed][name], plain[seed][name]


def _describe(differences: list[float]) -> dict[str, str]:
    interval = "one seed"
    if len(differences) > 1:
        low, high = student_interval(differences)
        interval = f"{low:+.3f} to {high:+.3f}"
    return {"difference": f"{statistics.mean(differences):+.3f}", "interval over seeds": interval}


def _name(layers: int, dim: int) -> str:
    return f"{layers}x{dim}"


def _count_layers(found: dict[str, float]) -> int:
    return max(int(size.split("x")[0]) for size in found)


def _draw(scores: dict[tuple[str, str], dict[int, Any]], options: argparse.Namespace) -> None:
    """Draw quality over depth: whole vectors as lines, the shortest ones dashed."""
    import matplotlib.pyplot as plt

    starts, sets = list(options.starts), list(options.sets)
    figure, axes = plt.subplots(
        len(starts),
        len(sets),
        figsize=(5 * len(sets), 3.6 * len(starts)),
        layout="constrained",
        squeeze=False,
    )
    for panels, start in zip(axes, starts, strict=True):
        for panel, name in zip(panels, sets, strict=True):
            for place, arm in enumerate(options.arms):
                found = [each[name] for each in scores.get((start, arm), {}).values() if name in each]
                if not found:
                    continue
                layers = range(1, _count_layers(found[0]) + 1)
                for dim, style in ((DIMS[-1], "-"), (DIMS[0], "--")):
                    values = [statistics.mean(each[_name(n, dim)] for each in found) for n in layers]
                    title = ARMS[arm].title if dim == DIMS[-1] else None
                    panel.plot(layers, values, style, marker="o", color=f"C{place}", label=title)
            panel.set_title(f"{STARTS[start]}\n{name}, dashed: {DIMS[0]} of {DIMS[-1]} numbers", fontsize=9)
            panel.set_xlabel("layers")
            panel.set_ylabel(MEASURES[name])
            if panel.lines:
                panel.legend(fontsize=7)
    save_figure(figure, options.plot)


def main() -> None:
    """Parse the command line and run."""
    commands = {"train": run_training, "report": report}
    parser = build_seeds_parser(__doc__, commands, name="two_d_matryoshka")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(USUAL))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--dims", nargs="+", type=int, choices=DIMS, default=[DIMS[-1], DIMS[0]])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=float, default=EPOCHS)
    parser.add_argument("--steps", type=int, default=None, help="stop after so many steps, for a try")
    parser.add_argument("--device", default="cpu")
    options = read_options(parser)
    needed = [] if options.command == "report" else [TRAIN, *(SETS[name] for name in options.sets)]
    missing = [path for path in needed if not (options.data / path).exists()]
    if missing:
        print(f"Skipped everything: {options.data} lacks {', '.join(missing)}.", file=sys.stderr)
        return
    commands[options.command](options)


if __name__ == "__main__":
    main()
