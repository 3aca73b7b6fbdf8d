"""What the systems for language models gain on one small model, trained here, with intervals over seeds.

First the language model, of 10.6 million weights, from the files that the page of tiny_lm names; about
an hour on one core:

    fletching train tiny_lm --output runs/tiny_lm --set max_steps=2000 --data ...

Then everything that is measured on it; each training run is kept, so that a second call goes on:

    python benchmarks/decoders.py train --model runs/tiny_lm --runs runs/decoders
    python benchmarks/decoders.py prepend --model runs/tiny_lm --runs runs/decoders
    python benchmarks/decoders.py report --runs runs/decoders --plot runs/decoders.png

What is trained is LoRA adapters. Training rows are titles of the ACL Anthology with their abstracts; with
hard negatives where a method wants some: other abstracts, drawn from ranks 6 to 50 of BM25. Retrieval is
measured on 500 titles of papers kept back among 2,000 abstracts, and likewise on papers of the ACM, which
nothing was tuned on but the language model has read; similarity of sentences on the test part of STSb,
without any training for it.

The interval of a difference is Student's over seeds, paired by seed: the adapters start anew and other rows
are drawn; the language model and the queries stay. The second one draws queries (paired bootstrap) after the
mean over seeds.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from measuring import REPOSITORY
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
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from fletching.data import Document, read_sts
from fletching.evaluation import EvaluationSet, STSSet, evaluate, evaluate_sts
from fletching.evaluation.bm25 import BM25
from fletching.methods.kalm import KaLMLoss
from fletching.methods.token_prepending import TokenPrependingEmbedder
from fletching.methods.ullme import GRLLoss, LLMEmbedder, ULLMECollator
from fletching.metrics import paired_bootstrap

MAX_TOKENS = 32
N_QUERIES, N_DOCUMENTS = 500, 2000
NEGATIVE_RANKS = (5, 50)
STEPS, ROWS, LEARNING_RATE = 200, 32, 2e-3
SEEDS = 3
PLACEHOLDERS = 5
STS_SETS = ("stsb/en_dev", "stsb/en_test", "sick_dev", "sts13")
PLAIN, PREPENDED = "PromptEOL", "Token Prepending, placeholder "
SETS = ("acl", "acm", "stsb")
MEASURE = "nDCG@10"

Pairs = list[tuple[str, str, str]]  # id, title, abstract


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        title: Shown on the table.
        n_negatives: Hard negatives of a row.
        loss: Builds the loss from the model.
        embedder: Options of `LLMEmbedder`.
        generates: Whether the loss reads rows for the generator.
    """

    title: str
    n_negatives: int
    loss: Callable[[LLMEmbedder], torch.nn.Module]
    embedder: dict[str, Any] = field(default_factory=dict)
    generates: bool = False


def _contrastive(model: LLMEmbedder) -> torch.nn.Module:
    return GRLLoss(model, kl_weight=0, gen_weight=0)


ARMS = {
    "causal_last": Arm("causal, last token", 0, _contrastive, {"causal": True, "pooling": "lasttoken"}),
    "causal_mean": Arm("causal, mean", 0, _contrastive, {"causal": True}),
    "bidirectional": Arm("bidirectional, mean", 0, _contrastive),
    "contrastive": Arm("contrastive", 1, _contrastive),
    "kl": Arm("contrastive + KL", 1, lambda model: GRLLoss(model, gen_weight=0), generates=True),
    "grl": Arm("GRL: contrastive + KL + DPO", 1, GRLLoss, generates=True),
    "infonce": Arm("InfoNCE", 3, lambda model: KaLMLoss(model, gamma=0.0, mixing=())),
    "focal": Arm("focal", 3, lambda model: KaLMLoss(model, mixing=())),
    "focal_mixing": Arm("focal + mixing", 3, KaLMLoss),
}
QUESTIONS = {
    "Causal or bidirectional attention, after contrastive tuning": (
        "causal_mean",
        ("causal_last", "bidirectional"),
    ),
    "Contrastive tuning or GRL": ("contrastive", ("kl", "grl")),
    "InfoNCE, focal reweighting, focal with mixed negatives": ("infonce", ("focal", "focal_mixing")),
}


def read_papers(data: Path, source: str) -> Pairs:
    """Read papers that have a title and an abstract, in the order of a hash of their ids."""
    name, field_name = {
        "acl": ("graph_acl/papers.jsonl.gz", "abstract"),
        "acm": ("acm_cr/corpus.jsonl.gz", "text"),
    }[source]
    with gzip.open(data / name, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    found = [(r["_id"], r["title"], r[field_name]) for r in records if r.get("title") and r.get(field_name)]
    return sorted(found, key=lambda paper: sha256(paper[0].encode()).hexdigest())


def build_retrieval(name: str, papers: Pairs) -> EvaluationSet:
    """Ask for the abstract of each of the first papers by its title."""
    documents = [Document(key, abstract) for key, _, abstract in papers[:N_DOCUMENTS]]
    queries = {key: title for key, title, _ in papers[:N_QUERIES]}
    return EvaluationSet(
        name, queries, {key: {key: 1} for key in queries}, lambda: iter(documents), digest=name
    )


def read_stsb(data: Path, name: str = "stsb/en_test") -> STSSet:
    """Read sentence pairs."""
    pairs = tuple(read_sts(data / "sts" / f"{name}.tsv.gz"))
    return STSSet(name, pairs, digest=name)


def build_rows(papers: Pairs, *, n_negatives: int, n_rows: int, seed: int) -> Dataset:
    """Draw training rows: title, abstract, and hard negatives."""
    draw = random.Random(seed)
    chosen = draw.sample(range(len(papers)), n_rows)
    columns: dict[str, list[str]] = {
        "anchor": [papers[place][1] for place in chosen],
        "positive": [papers[place][2] for place in chosen],
    }
    if n_negatives:
        index = _open_index(papers)
        first, last = NEGATIVE_RANKS
        drawn = []
        for place in chosen:
            found = [key for key in index.retrieve(papers[place][1], last + 1) if key != papers[place][0]]
            hard = found[first:last]
            if len(hard) < n_negatives:  # a title that shares words with few abstracts
                hard += [key for key, _, _ in draw.sample(papers, n_negatives)]
            drawn.append(draw.sample(hard, n_negatives))
        texts = {key: abstract for key, _, abstract in papers}
        for number in range(n_negatives):
            columns[f"negative_{number + 1}"] = [texts[keys[number]] for keys in drawn]
    return Dataset.from_dict(columns)


_INDEX: dict[int, BM25] = {}


def _open_index(papers: Pairs) -> BM25:
    if len(papers) not in _INDEX:
        _INDEX[len(papers)] = BM25("words")
        _INDEX[len(papers)].index((key, abstract) for key, _, abstract in papers)
    return _INDEX[len(papers)]


def train(arm: Arm, options: argparse.Namespace, papers: Pairs, seed: int) -> tuple[LLMEmbedder, float]:
    """Train one arm with one seed; return the model and the seconds that training took."""
    torch.manual_seed(seed)
    model = LLMEmbedder(
        options.model, template="plain", max_seq_length=MAX_TOKENS, device="cpu", **arm.embedder
    )
    model.add_lora(dropout=0.0)  # on a CPU, dropout takes a third of the time
    rows = build_rows(papers, n_negatives=arm.n_negatives, n_rows=options.steps * ROWS, seed=seed)
    with TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            max_steps=options.steps,
            per_device_train_batch_size=ROWS,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            seed=seed,
            save_strategy="no",
            logging_steps=10,
            disable_tqdm=True,
            report_to="none",
        )
        trainer = SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            loss=arm.loss(model),
            **({"data_collator": ULLMECollator(model)} if arm.generates else {}),
        )
        start = time.perf_counter()
        trainer.train()
    return model.eval(), time.perf_counter() - start


def measure(model: Any, sets: dict[str, EvaluationSet | STSSet]) -> dict[str, Any]:
    """Measure a model; keep what every query got, so that differences can be paired."""
    found: dict[str, Any] = {}
    for name, data in sets.items():
        if isinstance(data, STSSet):
            (result,) = evaluate_sts({"model": model}, data, n_resamples=1).results
            found[name] = {"mean": result.intervals["spearman"].mean}
        else:
            compared = evaluate({"model": model}, data, measures=["ndcg_at_10"], n_resamples=1, depth=10)
            values = compared.results[-1].evaluation["ndcg_at_10"]
            found[name] = {"mean": float(values.mean()), "values": [round(float(v), 6) for v in values]}
    return found


def run_training(options: argparse.Namespace) -> None:
    """Train and measure every arm with every seed; what an earlier call has finished is left out."""
    acl = read_papers(options.data, "acl")
    held_out, papers = acl[:N_DOCUMENTS], acl[N_DOCUMENTS:]
    sets: dict[str, EvaluationSet | STSSet] = {
        "acl": build_retrieval("acl", held_out),
        "acm": build_retrieval("acm", read_papers(options.data, "acm")),
        "stsb": read_stsb(options.data),
    }
    for seed in range(options.seeds):
        for name in options.arms:
            path = options.runs / f"{name}-{seed}.json"
            if path.is_file():
                continue
            model, seconds = train(ARMS[name], options, papers, seed)
            record = {"arm": name, "seed": seed, "steps": options.steps, "seconds": seconds}
            record["sets"] = measure(model, sets)
            write_record(path, record)
            means = ", ".join(f"{key} {value['mean']:.4f}" for key, value in record["sets"].items())
            print(f"{name}, seed {seed}: {means} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    path = options.runs / "untrained.json"
    if not path.is_file():
        untrained = {}
        for name in ("causal_last", "causal_mean", "bidirectional"):
            model = LLMEmbedder(
                options.model,
                template="plain",
                max_seq_length=MAX_TOKENS,
                device="cpu",
                **ARMS[name].embedder,
            )
            untrained[name] = {key: value["mean"] for key, value in measure(model, sets).items()}
        write_record(path, untrained)


def run_prepending(options: argparse.Namespace) -> None:
    """Measure PromptEOL with and without Token Prepending; nothing is trained."""
    layer = TokenPrependingEmbedder(options.model, prompt="prompteol", device="cpu").settings.output_layer
    contenders: dict[str, dict[str, Any]] = {
        PLAIN: {"prompt": "plain_prompteol", "output_layer": layer},
        "PromptEOL, last layer": {"prompt": "plain_prompteol"},
        **{f"{PREPENDED}{seed}": {"prompt": "prompteol", "seed": seed} for seed in range(PLACEHOLDERS)},
        "Token Prepending, mean of the table as placeholder": {"prompt": "prompteol", "pst_init": "mean"},
    }
    models = {
        title: TokenPrependingEmbedder(options.model, device="cpu", **settings)
        for title, settings in contenders.items()
    }
    found: dict[str, Any] = {}
    for name in STS_SETS:
        compared = evaluate_sts(models, _read_sts(options.data, name), baseline=PLAIN, n_resamples=2000)
        found[name] = {
            result.name: {
                "mean": result.intervals["spearman"].mean,
                "difference": [
                    getattr(result.differences["spearman"].interval, end) for end in ("mean", "low", "high")
                ]
                if result.differences
                else None,
            }
            for result in compared.results
        }
        means = ", ".join(f"{title} {each['mean']:.3f}" for title, each in found[name].items())
        print(f"{name}: {means}", file=sys.stderr, flush=True)
    write_record(options.runs / "prepending.json", found)


def _read_sts(data: Path, name: str) -> STSSet:
    """Read a set of pairs; of one in parts, all test parts together."""
    folder = data / "sts" / name
    if not folder.is_dir():
        return read_stsb(data, name)
    pairs = tuple(pair for path in sorted(folder.glob("*_test.tsv.gz")) for pair in read_sts(path))
    return STSSet(name, pairs, digest=name)


def report(options: argparse.Namespace) -> None:
    """Print the tables; draw them, if asked to."""
    records: dict[str, list[dict[str, Any]]] = {}
    for name in ARMS:
        paths = sorted(options.runs.glob(f"{name}-*.json"))
        records[name] = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    figures = []
    for question, (baseline, others) in QUESTIONS.items():
        rows = list(_compare(records, baseline, others))
        if rows:
            print(f"\n### {question}\n\n{format_table(rows)}")
            figures.append((question, rows))
    path = options.runs / "untrained.json"
    if path.is_file():
        rows = [
            {"before training": ARMS[name].title, **{key: f"{value:.4f}" for key, value in means.items()}}
            for name, means in json.loads(path.read_text(encoding="utf-8")).items()
        ]
        print(f"\n{format_table(rows)}")
    path = options.runs / "prepending.json"
    if path.is_file():
        title = "PromptEOL with and without Token Prepending, untrained, Spearman"
        print(f"\n### {title}\n\n{format_table(_tabulate(path))}")
    if options.plot:
        _draw(figures, options.plot)


def _compare(
    records: dict[str, list[dict[str, Any]]], baseline: str, others: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    first = {record["seed"]: record["sets"] for record in records[baseline]}
    for name in (baseline, *others):
        mine = {record["seed"]: record["sets"] for record in records[name]}
        seeds = sorted(first.keys() & mine.keys())
        if not seeds:
            continue
        for set_name in SETS:
            values = [mine[seed][set_name]["mean"] for seed in seeds]
            row = {
                "training": ARMS[name].title,
                "set": set_name,
                "measure": "Spearman" if set_name == "stsb" else MEASURE,
                "mean": f"{statistics.mean(values):.4f}",
                "seeds": len(seeds),
                "difference": "",
                "interval over seeds": "",
                "interval over queries": "",
            }
            if name != baseline and len(seeds) > 1:
                pairs = [(mine[seed][set_name], first[seed][set_name]) for seed in seeds]
                differences = [one["mean"] - other["mean"] for one, other in pairs]
                low, high = student_interval(differences)
                row |= {
                    "difference": f"{statistics.mean(differences):+.4f}",
                    "interval over seeds": f"{low:+.4f} to {high:+.4f}",
                }
                if "values" in pairs[0][0]:
                    mean_of = [
                        np.mean([each["values"] for each in side], axis=0)
                        for side in zip(*pairs, strict=True)
                    ]
                    interval = paired_bootstrap(*mean_of)
                    row["interval over queries"] = f"{interval.low:+.4f} to {interval.high:+.4f}"
            yield row


def _tabulate(path: Path) -> list[dict[str, Any]]:
    """Build a row for each set; of Token Prepending the mean over its placeholders."""
    rows = []
    for name, found in json.loads(path.read_text(encoding="utf-8")).items():
        drawn = [each for title, each in found.items() if title.startswith(PREPENDED)]
        gains = [each["mean"] - found[PLAIN]["mean"] for each in drawn]
        low, high = student_interval(gains)
        _, first_low, first_high = drawn[0]["difference"]
        others = {
            title: f"{each['mean']:.3f}" for title, each in found.items() if not title.startswith(PREPENDED)
        }
        rows.append(
            {
                "set": name,
                **others,
                "Token Prepending": f"{statistics.mean(each['mean'] for each in drawn):.3f}",
                f"gain, interval over {len(drawn)} placeholders": (
                    f"{statistics.mean(gains):+.3f} ({low:+.3f} to {high:+.3f})"
                ),
                "of the first, over pairs": f"{first_low:+.3f} to {first_high:+.3f}",
            }
        )
    return rows


def _draw(figures: list[tuple[str, list[dict[str, Any]]]], path: Path) -> None:
    """Draw the differences to the first way of training, with their intervals over seeds."""
    import matplotlib.pyplot as plt

    rows = [(question, row) for question, table in figures for row in table if row["difference"]]
    figure, axes = plt.subplots(figsize=(8, 0.35 * len(rows) + 1.5), layout="constrained")
    for place, (_, row) in enumerate(rows):
        low, high = (float(end) for end in row["interval over seeds"].split(" to "))
        middle = float(row["difference"])
        draw_interval(axes, -place, middle, (low, high), number=SETS.index(row["set"]))
    mark_zero(axes, [f"{row['training']}: {row['set']}" for _, row in rows])
    axes.set_xlabel("difference to the baseline of its question, 95 % interval over seeds")
    save_figure(figure, path)


def main() -> None:
    """Parse the command line and run."""
    commands = {"train": run_training, "prepend": run_prepending, "report": report}
    parser = build_seeds_parser(__doc__, commands, name="decoders")
    parser.add_argument("--model", type=Path, default=REPOSITORY / "runs" / "tiny_lm")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = read_options(parser)
    if options.command != "report":
        for path, what in ((options.data, "data folder"), (options.model, "language model")):
            if not path.is_dir():
                print(f"Skipped everything: there is no {what} {path}.", file=sys.stderr)
                return
    commands[options.command](options)


if __name__ == "__main__":
    main()
