"""Chinese baselines at sample size: T2Ranking's lists, and questions to Wikipedia paragraphs.

- `zh_rerank`: 100 queries of T2Ranking with about 20 judged candidates each, reordered by word overlap (words
  of a dictionary of Chinese, or single characters) and by two English models.
- `zh_squad`: 2,104 paragraphs of CMRC 2018 (simplified characters) and DRCD (traditional). Word overlap
  searches all of them. The baselines of T2Ranking are trained with its recipe on a part of `cmrc_dev`, from
  all-MiniLM-L6-v2, an English model that knows few Chinese characters, and measured on a part of `drcd_dev`:
  other questions, other paragraphs, other script.

Nothing here compares with published figures: those take 2.3 million passages and BERT's size. By default
the trained models see so few questions (10 optimiser steps) that the table shows that the recipe runs, not
what it can reach; `--scale 16` takes all questions for the dual encoder, and hours on a CPU.

    python benchmarks/zh_baselines.py --json zh_baselines.json
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from measuring import Report, build_parser, run_script

MEASURES = ("ndcg_at_10", "mrr_at_10", "recall_at_50")
PARTS = ("lists", "words", "trained")
DEV_QUERIES = 100  # of drcd_dev, for what is trained
DEPTH = 10  # candidates that the cross-encoder reads
MODEL_TOKENS = 128  # of a passage, for the models that are not trained here
DUAL = {"max_queries": 200, "batch_size": 20, "group_size": 2, "learning_rate": 1e-4, "epochs": 1.0}
CROSS = {"max_queries": 40, "batch_size": 4, "group_size": 8, "learning_rate": 5e-5, "epochs": 1.0}
TOKENS = {"query_tokens": 48, "passage_tokens": 128, "pair_tokens": 160, "texts_per_step": 32}

Run = Mapping[str, Mapping[str, float]]
Qrels = Mapping[str, Mapping[str, int]]


def measure(options: argparse.Namespace, report: Report) -> None:
    """Measure both collections; say what is missing."""
    for part, name, run in (
        ("lists", "zh_rerank", measure_lists),
        ("words", "zh_squad", measure_words),
        ("trained", "zh_squad", measure_trained),
    ):
        if part not in options.parts:
            report.skipped.append(f"{part}: not among --parts")
        elif (folder := options.data / name).is_dir():
            run(folder, options, report)
        else:
            report.skipped.append(f"{part}: there is no {folder}; name its parent with --data")


def measure_lists(folder: Path, options: argparse.Namespace, report: Report) -> None:
    """Order T2Ranking's candidates."""
    from fletching import load
    from fletching.evaluation.bm25 import BM25
    from fletching.evaluation.systems import open_system
    from fletching.models.embedder import Embedder
    from fletching.models.minilm import find_minilm

    texts, queries, qrels = read_lists(folder / "t2ranking_100.jsonl.gz")
    if options.quick:
        queries = dict(list(queries.items())[:5])
        qrels = restrict(qrels, queries)
        texts = {passage: texts[passage] for row in qrels.values() for passage in row}
    generator = Random(0)
    random_run = {key: {passage: generator.random() for passage in row} for key, row in qrels.items()}
    task = f"T2Ranking, {len(queries)} lists"
    add_row(report, task, "random order", random_run, qrels, 0.0)
    for name, build in (
        ("BM25, Chinese words", lambda: BM25("chinese")),
        ("BM25, single characters", lambda: BM25(split_characters)),
        ("all-MiniLM-L6-v2 (English)", lambda: Embedder(find_minilm(), device="cpu")),
        ("mvp-mini (English)", lambda: load("mvp-mini", device="cpu")),
    ):
        model = build()
        if hasattr(model, "max_seq_length"):
            model.max_seq_length = MODEL_TOKENS
        system, start = open_system(model), time.perf_counter()
        system.prepare(texts.items())
        run = {key: system.score(key, query, sorted(qrels[key])) for key, query in queries.items()}
        add_row(report, task, name, run, qrels, time.perf_counter() - start)


def measure_words(folder: Path, options: argparse.Namespace, report: Report) -> None:
    """Search all paragraphs by word overlap, for every question."""
    corpus = read_texts(folder / "corpus.jsonl.gz")
    queries = read_texts(folder / "queries.jsonl.gz")
    for split in ("cmrc_dev", "drcd_dev"):
        qrels = read_split(folder, split)
        chosen = {key: queries[key] for key in list(qrels)[: 20 if options.quick else None]}
        search_words(f"{split}, {len(chosen)} questions", chosen, corpus, restrict(qrels, chosen), report)


def measure_trained(folder: Path, options: argparse.Namespace, report: Report) -> None:
    """Train the baselines of T2Ranking, and measure them beside word overlap on the same questions."""
    from fletching.methods.t2ranking import T2RankingDataset
    from fletching.methods.t2ranking.evaluation import rank_queries
    from fletching.models.embedder import Embedder
    from fletching.models.minilm import find_minilm

    corpus = read_texts(folder / "corpus.jsonl.gz")
    queries = read_texts(folder / "queries.jsonl.gz")
    with TemporaryDirectory() as temporary:
        collection = write_collection(Path(temporary), folder, corpus, queries, quick=options.quick)
        dev = T2RankingDataset(collection, "dev")
        qrels = dev.qrels_binary()
        task = f"drcd_dev, {len(dev.queries)} questions"
        search_words(task, dev.queries, dev.corpus, qrels, report)
        minilm, start = Embedder(find_minilm(), device="cpu"), time.perf_counter()
        minilm.max_seq_length = MODEL_TOKENS
        run = dict(rank_queries(minilm, dev.queries, dev.corpus, depth=50))
        add_row(report, task, "all-MiniLM-L6-v2 (English)", run, qrels, time.perf_counter() - start)
        for baseline in ("dual_encoder", "cross_encoder"):
            train_and_measure(baseline, collection, dev, qrels, task, options, report)


def search_words(
    task: str, queries: Mapping[str, str], corpus: Mapping[str, str], qrels: Qrels, report: Report
) -> None:
    """Add a row for each way to cut words."""
    from fletching.evaluation.bm25 import BM25
    from fletching.methods.t2ranking.evaluation import rank_queries

    for name, splitter in (
        ("BM25, Chinese words", "chinese"),
        ("BM25, single characters", split_characters),
    ):
        start = time.perf_counter()
        run = dict(rank_queries(BM25(splitter), queries, corpus, depth=50))
        add_row(report, task, name, run, qrels, time.perf_counter() - start)


def train_and_measure(
    baseline: str,
    collection: Path,
    dev: Any,
    qrels: Qrels,
    task: str,
    options: argparse.Namespace,
    report: Report,
) -> None:
    """Train one baseline on cmrc_dev with the recipe, and measure what it saved on drcd_dev."""
    from fletching import load
    from fletching.methods.t2ranking import T2RankingRecipe
    from fletching.methods.t2ranking.evaluation import rank_queries
    from fletching.models.minilm import find_minilm

    settings: dict[str, Any] = dict(DUAL if baseline == "dual_encoder" else CROSS)
    settings["max_queries"] *= options.scale
    if options.quick:
        settings |= {"max_queries": 8, "batch_size": 4}
    recipe = T2RankingRecipe(
        baseline=baseline,
        train_data=(str(collection),),
        base=find_minilm(),
        negatives=("bm25",),
        dev_queries=0,
        **settings,
        **TOKENS,
    )
    output = collection.parent / baseline
    start = time.perf_counter()
    recipe.run(output)
    trained = time.perf_counter() - start
    lists = dict(dev.stream_run("bm25")) if baseline == "cross_encoder" else None
    candidates = None if lists is None else {key: ranking[:DEPTH] for key, ranking in lists.items()}
    model, start = load(output, device="cpu"), time.perf_counter()
    run = dict(rank_queries(model, dev.queries, dev.corpus, candidates=candidates, depth=50))
    name = "dual encoder" if candidates is None else f"BM25 words, first {DEPTH} + cross-encoder"
    add_row(report, task, f"{name}, trained", run, qrels, time.perf_counter() - start)
    report.notes.append(
        f"{baseline}: trained {trained:.0f} s on {settings['max_queries']} questions of cmrc_dev, "
        f"{settings['group_size']} passages each, one epoch"
    )


def add_row(report: Report, task: str, name: str, run: Run, qrels: Qrels, seconds: float) -> None:
    """Measure a run, with 95 % bootstrap intervals over the queries."""
    from fletching.metrics import bootstrap_interval, evaluate_run

    evaluation = evaluate_run(run, qrels, MEASURES)
    row: dict[str, Any] = {"task": task, "system": name}
    for measure_name in MEASURES:
        interval = bootstrap_interval(evaluation[measure_name])
        row[measure_name] = f"{interval.mean:.3f} ({interval.low:.3f}-{interval.high:.3f})"
    row["seconds"] = seconds
    report.rows.append(row)
    sys.stderr.write(f"{row}\n")


def split_characters(text: str) -> list[str]:
    """Take every character that is no space as a word."""
    return [character for character in text.lower() if not character.isspace()]


def read_lists(path: Path) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, int]]]:
    """Read lists as passages, queries and judgements; equal passages stay apart."""
    texts: dict[str, str] = {}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            key = record["qid"]
            queries[key], qrels[key] = record["query"], {}
            for place, candidate in enumerate(record["candidates"]):
                passage = f"{key}-{place:03d}"
                texts[passage] = candidate["text"]
                qrels[key][passage] = int(candidate["label"])
    return texts, queries, qrels


def read_texts(path: Path) -> dict[str, str]:
    """Read a BEIR corpus or query file, title in front."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return {row["_id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in rows}


def read_split(folder: Path, split: str) -> dict[str, dict[str, int]]:
    """Read the judgements of one split."""
    from fletching.data import read_qrels

    return read_qrels(folder / "qrels" / f"{split}.tsv")


def restrict(qrels: Qrels, queries: Mapping[str, str]) -> dict[str, Mapping[str, int]]:
    """Keep the judgements of some queries."""
    return {key: qrels[key] for key in queries}


def write_collection(
    temporary: Path, folder: Path, corpus: Mapping[str, str], queries: Mapping[str, str], *, quick: bool
) -> Path:
    """Write the paragraphs in T2Ranking's layout: cmrc_dev to train on, a part of drcd_dev to measure on."""
    from fletching.methods.t2ranking import T2RankingDataset
    from fletching.methods.t2ranking.stages import write_bm25

    collection = temporary / "collection"
    collection.mkdir()
    splits = {}
    for split, name, size in (
        ("train", "cmrc_dev", 30 if quick else None),
        ("dev", "drcd_dev", 10 if quick else DEV_QUERIES),
    ):
        qrels = read_split(folder, name)
        keys = sorted(qrels)
        if split == "dev":
            keys = sorted(Random(0).sample(keys, size or len(keys)))
        else:
            Random(0).shuffle(keys)
        splits[split] = {key: qrels[key] for key in keys[:size]}
    if quick:
        judged = {passage for qrels in splits.values() for row in qrels.values() for passage in row}
        corpus = {key: text for key, text in corpus.items() if key in judged}
    places = {key: place for place, key in enumerate(corpus)}
    numbers = {key: place for place, key in enumerate(queries)}
    lines = (f"{places[key]}\t{' '.join(text.split())}" for key, text in corpus.items())
    write(collection / "collection.tsv", lines)
    for split, qrels in splits.items():
        lines = (f"{numbers[key]}\t{' '.join(queries[key].split())}" for key in qrels)
        write(collection / f"queries.{split}.tsv", lines)
        rows = ((key, passage) for key, row in qrels.items() for passage in row)
        lines = (f"{numbers[key]}\t0\t{places[passage]}\t3" for key, passage in rows)
        write(collection / f"qrels.{split}.tsv", lines)
        write_bm25(T2RankingDataset(collection, split), collection / f"{split}.bm25.tsv", depth=100)
    return collection


def write(path: Path, lines: Any) -> None:
    """Write lines, each ended."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Measure and print the table."""
    parser = build_parser(__doc__, bfloat16=False)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--scale", type=int, default=1, help="train on so many times the questions")
    print(run_script(parser, measure, title="Chinese baselines; mean and 95 % interval"))


if __name__ == "__main__":
    main()
