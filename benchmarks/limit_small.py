"""Recall on LIMIT-small, the released data: 46 documents, 1000 queries, nearly every pair is an answer.

Word overlap (BM25) and random word vectors stand beside all-MiniLM-L6-v2 and `mvp-mini`, as every result on
LIMIT should be read. `mvp-mini` reads all 46 documents for every query, a list each; by default for every
tenth query only. For the vectors of MiniLM, the exact share of pairs that some query could return is printed
too.

    python benchmarks/limit_small.py --json limit_small.json
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from measuring import Report, build_parser, run_script

MINI_STEP = 10  # mvp-mini ranks every tenth query unless told otherwise
DIMS = (32, 384)


def build_contenders() -> dict[str, tuple[Callable[[], Any], int | None]]:
    """Return name -> (how to load it, dimensions to cut to)."""
    from fletching import load
    from fletching.methods.limit import BM25Baseline, RandomWordVectors
    from fletching.models.embedder import Embedder
    from fletching.models.minilm import find_minilm

    def open_minilm() -> Any:
        return Embedder(find_minilm(), device="cpu")

    return {
        "BM25 (k1 1.2, b 0.75)": (BM25Baseline, None),
        "random word vectors, 12 dimensions": (lambda: RandomWordVectors(12), None),
        "random word vectors, 64 dimensions": (lambda: RandomWordVectors(64), None),
        "random word vectors, 1024 dimensions": (lambda: RandomWordVectors(1024), None),
        "all-MiniLM-L6-v2, cut to 32 dimensions": (open_minilm, DIMS[0]),
        "all-MiniLM-L6-v2, 384 dimensions": (open_minilm, DIMS[1]),
        "mvp-mini": (lambda: load("mvp-mini", device="cpu"), None),
    }


def measure(options: argparse.Namespace, report: Report) -> None:
    """Evaluate the contenders one after the other."""
    from fletching.methods.limit import LimitDataset, LimitEvaluator, capacity, compute_chance

    folder = options.data / "limit_small"
    if not folder.is_dir():
        report.skipped.append(f"everything: there is no {folder}; name its parent with --data")
        return
    dataset = LimitDataset.load(folder)
    if options.quick:
        dataset = take_every(dataset, 50)
    report.rows.append(build_row("chance", [compute_chance(len(dataset.corpus), k) for k in (2, 10, 20)]))
    for name, (build, dim) in build_contenders().items():
        step = options.mini_step if name == "mvp-mini" else 1
        part = take_every(dataset, step)
        model, start = build(), time.perf_counter()
        evaluator = LimitEvaluator(part, truncate_dim=dim, name="limit", show_progress_bar=False)
        metrics = evaluator(model)
        recalls = [metrics[f"limit_recall_at_{k}"] for k in (2, 10, 20)]
        seconds = time.perf_counter() - start
        row = build_row(name, recalls, metrics["limit_set_accuracy"], len(part.queries), seconds)
        report.rows.append(row)
        sys.stderr.write(f"{row}\n")
        if dim is not None:
            documents = model.encode_document(list(dataset.corpus.values()), truncate_dim=dim)
            found = capacity(documents, k=2, n_samples=2000, show_progress_bar=False)
            low, middle, high = found.margin_quantiles()
            report.notes.append(
                f"{name}: some query returns {found.fraction:.1%} of the {found.tested} pairs; margins "
                f"{low:.2g} (smallest), {middle:.2g} (median), {high:.2g} (largest)"
            )
    if options.mini_step > 1:
        report.skipped.append(
            f"mvp-mini on all but every {options.mini_step}th query; --mini-step 1 runs all"
        )


def take_every(dataset: Any, step: int) -> Any:
    """Keep every `step`-th query and all documents."""
    keys = list(dataset.queries)[::step]
    queries = {key: dataset.queries[key] for key in keys}
    return replace(dataset, queries=queries, qrels={key: dataset.qrels[key] for key in keys})


def build_row(
    name: str,
    recalls: list[float],
    solved: float | None = None,
    queries: int | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Lay out one row, in percent."""
    return {
        "model": name,
        "R@2": f"{100 * recalls[0]:.1f}",
        "R@10": f"{100 * recalls[1]:.1f}",
        "R@20": f"{100 * recalls[2]:.1f}",
        "whole pairs": None if solved is None else f"{100 * solved:.1f}",
        "queries": queries,
        "seconds": seconds,
    }


def main() -> None:
    """Measure and print the table."""
    parser = build_parser(__doc__, bfloat16=False)
    parser.add_argument(
        "--mini-step", type=int, default=MINI_STEP, help="mvp-mini ranks every so-many-th query"
    )
    print(run_script(parser, measure, title="LIMIT-small, percent"))


if __name__ == "__main__":
    main()
