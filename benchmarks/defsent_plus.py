"""What sentence vectors gain from a dictionary: DefSent+, DefSent and the encoder they start from.

    python benchmarks/defsent_plus.py train --runs runs/defsent_plus --threads 1
    python benchmarks/defsent_plus.py report --runs runs/defsent_plus --plot runs/defsent_plus.png

Definitions are those of the Open English WordNet, of which each seed draws others; every stage of every way
of training reads the same number of them. Measured is Spearman's correlation on the development and test part
of STSb, on SICK (its training and development part together: nothing is trained on it), and on STS13; and the
mean cosine of the vectors of definitions that were not read.

Two starts: all-MiniLM-L6-v2, tuned on a billion pairs of sentences, and the same with its upper three layers
drawn anew, which has seen none there. The projection of the second begins as the pooler, with a rate of 2e-4.
That of the first begins as the identity, with 2e-5: on 400 pairs of the development part of STSb this did
less harm than its pooler, which no sentence vector was made with, and 1e-4. Nothing else was tuned.

Neither start has a head for masked words, which DefSent needs; so one is fitted first, on definitions, while
the encoder stays as it is. "DefSent+, single words" is the objective of DefSent+ on the words that DefSent
can read: what the longer entries add is the difference to it.

The interval of a difference is Student's over seeds, paired by seed. Each run is kept, so that a second call
goes on; so is the first stage of each seed, which is the same with one stage and with two. The seconds of a
run with two may be those of its second alone. Other numbers of definitions, learning rates or projections
belong into another folder.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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
from torch.nn.functional import cross_entropy
from transformers import AutoModelForMaskedLM, AutoTokenizer

from fletching.data import SentencePair, read_sts
from fletching.methods.defsent_plus import DefinitionSet, DefSentPlusEmbedder
from fletching.methods.defsent_plus.evaluation import DefSentPlusEvaluator, IsotropyEvaluator
from fletching.methods.defsent_plus.heads import HEADS, MaskedWordHead, find_single_words
from fletching.methods.defsent_plus.stages import ProgressiveSeparateTrainer, Stage
from fletching.methods.defsent_plus.training import TrainingOptions, train_single_words
from fletching.models.minilm import find_minilm
from fletching.training import TrainingFolder

EXAMPLES, BATCH, MAX_TOKENS = 4800, 32, 32
HEAD_STEPS, HEAD_RATE, MASKED = 300, 1e-3, 0.15
UNREAD = 1000  # definitions for the isotropy
SEEDS = 3
RATES = {"minilm": 2e-5, "untrained_upper": 2e-4}
STARTING_HEADS = {"minilm": "identity", "untrained_upper": "auto"}
STARTS = {"minilm": "all-MiniLM-L6-v2", "untrained_upper": "its upper layers drawn anew"}
SETS = ("stsb_dev", "stsb_test", "sick", "sts13")
COSINE = "definitions_mean_cosine"


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        title: Shown on the table.
        n_stages: Stages of DefSent+; 0 for DefSent.
        ica: Whether the entries' vectors of the last stage are independent components.
        single_words: Whether entries are words of one token only.
    """

    title: str
    n_stages: int
    ica: bool = False
    single_words: bool = False


ARMS = {
    "defsent": Arm("DefSent", 0, single_words=True),
    "single_words": Arm("DefSent+, single words", 1, single_words=True),
    "one_stage": Arm("DefSent+, one stage", 1),
    "two_stages": Arm("DefSent+, two stages", 2),
    "ica": Arm("DefSent+, two stages, ICA in the second", 2, ica=True),
}
BASE = "base"
BASELINES = {"defsent": "DefSent", "single_words": "single words"}


def read_dictionary(data: Path) -> DefinitionSet:
    """Read the whole dictionary."""
    folder = data / "definitions"
    return DefinitionSet.from_open_wordnet(
        folder / "oewn_synsets.jsonl.gz", words=folder / "oewn_word_definition.tsv.gz", split="train"
    )


def read_pairs(data: Path, *, limit: int | None) -> dict[str, list[SentencePair]]:
    """Read the sets of sentence pairs, or the first of each."""
    folder = data / "sts"
    paths = {
        "stsb_dev": [folder / "stsb" / "en_dev.tsv.gz"],
        "stsb_test": [folder / "stsb" / "en_test.tsv.gz"],
        "sick": [folder / "sick_train.tsv.gz", folder / "sick_dev.tsv.gz"],
        "sts13": sorted((folder / "sts13").glob("*_test.tsv.gz")),
    }
    return {
        name: [pair for path in found for pair in read_sts(path)][:limit] for name, found in paths.items()
    }


def draw(dictionary: DefinitionSet, *, names: Sequence[str], n_examples: int, seed: int) -> DefinitionSet:
    """Draw entries until they have so many definitions."""
    count, kept = 0, set()
    for name in random.Random(seed).sample(list(names), len(names)):
        if count >= n_examples:
            break
        kept.add(name)
        label = dictionary.find_label(name)
        assert label is not None
        count += len(dictionary.definitions[label])
    return dictionary.select(kept.__contains__)


def fit_word_head(start: str, folder: Path, texts: Sequence[str], *, steps: int) -> Path:
    """Fit a head for masked words to an encoder that has none and stays as it is."""
    if (folder / "config.json").is_file():
        return folder
    torch.manual_seed(0)
    tokenizer: Any = AutoTokenizer.from_pretrained(start)
    network: Any = AutoModelForMaskedLM.from_pretrained(start).eval()
    network.base_model.requires_grad_(False)
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=HEAD_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    draws = random.Random(0)
    for step in range(steps):
        batch = tokenizer(
            draws.sample(list(texts), BATCH), padding=True, truncation=True, max_length=MAX_TOKENS,
            return_tensors="pt", return_special_tokens_mask=True,
        )  # fmt: skip
        ids = batch["input_ids"].clone()
        masked = (torch.rand(ids.shape) < MASKED) & ~batch.pop("special_tokens_mask").bool()
        if not masked.any():
            continue
        batch["input_ids"][masked] = tokenizer.mask_token_id
        with torch.no_grad():
            states = network.base_model(**batch)[0]
        loss = cross_entropy(network.cls(states[masked]), ids[masked])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 99:
            print(f"head for {start}: step {step + 1}, loss {loss.item():.3f}", file=sys.stderr, flush=True)
    part = folder.with_name(f"{folder.name}.part")
    network.save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(folder)
    return folder


def train(
    arm: Arm,
    start: str,
    entries: DefinitionSet,
    options: argparse.Namespace,
    *,
    seed: int,
    rate: float,
    head: str,
    kept: Path | None,
) -> tuple[DefSentPlusEmbedder, dict[str, Any]]:
    """Train one arm with one seed; return the model and what is known of its training."""
    settings = TrainingOptions(
        head=head,
        batch_size=BATCH,
        group_by_length=True,
        max_tokens=MAX_TOKENS,
        epochs=options.epochs,
        save_steps=1_000_000,
        seed=seed,
    )
    began = time.perf_counter()
    with TemporaryDirectory() as folder:
        if arm.n_stages:
            stages = [
                Stage(entry="amp", pooling="mean", learning_rate=rate, ica=arm.ica and number == arm.n_stages)
                for number in range(1, arm.n_stages + 1)
            ]
            trainer = ProgressiveSeparateTrainer(start, entries, stages, options=settings)
            first = kept if kept is not None and kept.is_dir() and arm.n_stages > 1 else None
            if first is not None:
                shutil.copytree(first, Path(folder, "stage_1"))
            model = trainer.train(folder, resume=first is not None)
            facts: dict[str, Any] = {"stages": trainer.records}
            if kept is not None and not kept.is_dir():
                _keep_first_stage(Path(folder), kept, is_only=arm.n_stages == 1)
        else:
            model = DefSentPlusEmbedder(start, pooling="mean", device="cpu")
            model.max_seq_length = MAX_TOKENS
            word_head = MaskedWordHead.from_pretrained(str(options.word_head))
            tokens = find_single_words(entries.entries, model.tokenizer)
            pairs = [(text, tokens[entries.entries[label]]) for text, label in entries.examples()]
            place = TrainingFolder(folder)
            torch.manual_seed(seed)
            train_single_words(model, word_head, pairs, place, options=settings, learning_rate=rate)
            facts = {}
    facts |= {"seconds": time.perf_counter() - began, "entries": len(entries)}
    facts["examples"] = entries.statistics.examples
    model.max_seq_length = 128
    return model.eval(), facts


def _keep_first_stage(folder: Path, kept: Path, *, is_only: bool) -> None:
    """Copy the model of the first stage, without its checkpoints."""
    part = kept.with_name(f"{kept.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(
        folder if is_only else folder / "stage_1", part, ignore=shutil.ignore_patterns("checkpoint-*")
    )
    part.rename(kept)


def run_training(options: argparse.Namespace) -> None:
    """Train and measure every arm with every seed; what an earlier call has finished is left out."""
    dictionary = read_dictionary(options.data)
    starts = {
        "minilm": find_minilm(),
        "untrained_upper": str(build_untrained_upper(options.runs / "untrained_upper")),
    }
    unread = _draw_unread(dictionary)
    readable = [name for name, known in zip(dictionary.entries, dictionary.definitions, strict=True)
                if not unread & {*known}]  # fmt: skip
    words = list(find_single_words(readable, AutoTokenizer.from_pretrained(starts["minilm"])))
    measures = (
        DefSentPlusEvaluator(read_pairs(options.data, limit=options.pairs)),
        IsotropyEvaluator(sorted(unread)),
    )

    def measure(model: Any) -> dict[str, float]:
        return {name: value for each in measures for name, value in each(model).items()}

    for start in options.starts:
        path = options.runs / f"{start}-{BASE}-0.json"
        if not path.is_file():
            model = DefSentPlusEmbedder(starts[start], pooling="mean", device="cpu")
            write_record(path, {"arm": BASE, "start": start, "seed": 0, "metrics": measure(model)})
        if "defsent" in options.arms:
            texts = sorted({text for text, _ in dictionary.examples()} - unread)
            folder = options.runs / f"{start}-word-head"
            options.word_head = fit_word_head(starts[start], folder, texts, steps=options.head_steps)
        for seed in range(options.seeds):
            for name in options.arms:
                path = options.runs / f"{start}-{name}-{seed}.json"
                if path.is_file():
                    continue
                arm = ARMS[name]
                names = words if arm.single_words else readable
                entries = draw(dictionary, names=names, n_examples=options.examples, seed=seed)
                rate = options.learning_rate or RATES[start]
                head = options.head or STARTING_HEADS[start]
                kept = None if arm.single_words else options.runs / "first" / f"{start}-{seed}"
                model, facts = train(
                    arm, starts[start], entries, options, seed=seed, rate=rate, head=head, kept=kept
                )
                record = {"arm": name, "start": start, "seed": seed, "learning_rate": rate, **facts}
                record["metrics"] = measure(model)
                write_record(path, record)
                means = ", ".join(f"{key} {value:.4f}" for key, value in record["metrics"].items())
                seconds = facts["seconds"]
                print(f"{start}, {name}, seed {seed}: {means} ({seconds:.0f} s)", file=sys.stderr, flush=True)


def _draw_unread(dictionary: DefinitionSet) -> set[str]:
    """Keep definitions back: those that are measured, and no run reads."""
    texts = sorted({text for text, _ in dictionary.examples()})
    return set(random.Random(0).sample(texts, UNREAD))


def report(options: argparse.Namespace) -> None:
    """Print the tables; draw them, if asked to."""
    drawn = []
    for start, title in STARTS.items():
        found = {
            arm: [
                json.loads(path.read_text(encoding="utf-8"))
                for path in sorted(options.runs.glob(f"{start}-{arm}-*.json"))
            ]
            for arm in (BASE, *ARMS)
        }
        if not found[BASE]:
            continue
        print(f"\n### Start: {title}\n\n{format_table(list(_tabulate(found)))}")
        rows = list(_tabulate_isotropy(found))
        if rows:
            print(f"\n{format_table(rows)}")
        drawn.append((title, found))
    if options.plot and drawn:
        _draw(drawn, options.plot)


def _tabulate(found: dict[str, list[dict[str, Any]]]) -> Any:
    """Yield a row for each arm and set, with its differences to the start and to training on single words."""
    start = found[BASE][0]["metrics"]
    for name in (BASE, *ARMS):
        records = found[name]
        for set_name in SETS if records else ():
            key = f"sts_{set_name}"
            values = [record["metrics"][key] for record in records]
            row = {
                "training": "none" if name == BASE else ARMS[name].title,
                "set": set_name,
                "Spearman": f"{statistics.mean(values):.4f}",
                "seeds": len(values),
                "difference to the start": "" if name == BASE else _word([v - start[key] for v in values]),
            }
            for baseline, title in BASELINES.items():
                known = {record["seed"]: record["metrics"][key] for record in found[baseline]}
                pairs = [
                    record["metrics"][key] - known[record["seed"]]
                    for record in records
                    if record["seed"] in known and name not in (BASE, baseline)
                ]
                if known:
                    row[f"difference to {title}"] = _word(pairs)
            yield row


def _tabulate_isotropy(found: dict[str, list[dict[str, Any]]]) -> Any:
    """Yield how isotropic the vectors of unread definitions are, and those of the entries in each stage."""
    for name in (BASE, *ARMS):
        records = found[name]
        if not records:
            continue
        stages = [record.get("stages", []) for record in records]
        entries = [
            f"{statistics.mean(stage[number]['entries']['mean_cosine'] for stage in stages):.3f}"
            for number in range(len(stages[0]))
        ]
        yield {
            "training": "none" if name == BASE else ARMS[name].title,
            "mean cosine of definitions": _mean(records, COSINE),
            "IsoScore of definitions": _mean(records, "definitions_iso_score"),
            "mean cosine of entries, by stage": ", ".join(entries),
        }


def _mean(records: list[dict[str, Any]], key: str) -> str:
    return f"{statistics.mean(record['metrics'][key] for record in records):.3f}"


def _word(differences: list[float]) -> str:
    """Write a mean with its interval."""
    if not differences:
        return ""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f"{mean:+.4f}"
    low, high = student_interval(differences)
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"


def _draw(drawn: list[tuple[str, dict[str, list[dict[str, Any]]]]], path: Path) -> None:
    """Draw the differences to the start, with their intervals over seeds."""
    import matplotlib.pyplot as plt

    figure, panes = plt.subplots(
        1, len(drawn), figsize=(7 * len(drawn), 5), layout="constrained", squeeze=False
    )
    for axes, (title, found) in zip(panes[0], drawn, strict=True):
        start = found[BASE][0]["metrics"]
        labels = []
        for name, arm in ARMS.items():
            for set_name in SETS:
                values = [r["metrics"][f"sts_{set_name}"] - start[f"sts_{set_name}"] for r in found[name]]
                if len(values) < 2:
                    continue
                ends, middle = student_interval(values), statistics.mean(values)
                draw_interval(axes, -len(labels), middle, ends, number=SETS.index(set_name))
                labels.append(f"{arm.title}: {set_name}")
        mark_zero(axes, labels)
        axes.locator_params(axis="x", nbins=6)
        axes.set_title(title)
        axes.set_xlabel("difference to the start, 95 % interval over seeds")
    save_figure(figure, path)


def main() -> None:
    """Parse the command line and run."""
    commands = {"train": run_training, "report": report}
    parser = build_seeds_parser(__doc__, commands, name="defsent_plus")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="definitions of a stage")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--pairs", type=int, default=None, help="of each set, to try the script out")
    parser.add_argument("--learning-rate", type=float, default=None, help="instead of the start's own")
    parser.add_argument("--head", choices=HEADS, default=None, help="what the projection starts from")
    parser.add_argument("--head-steps", type=int, default=HEAD_STEPS, help="of the head for masked words")
    options = read_options(parser)
    if options.command == "train" and not (options.data / "definitions").is_dir():
        print(f"Skipped everything: there is no folder {options.data / 'definitions'}.", file=sys.stderr)
        return
    commands[options.command](options)


if __name__ == "__main__":
    main()
