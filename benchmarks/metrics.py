"""What measuring itself costs, and whether its numbers are trec_eval's.

- every run file of TREC Deep Learning 2019 and 2021 against pytrec_eval called directly: largest difference
- intervals over 10,000 queries against scipy's bootstrap
- a collection of a million lines, read by `fletching.data` against a bare loop of `str.split`

    python benchmarks/metrics.py --json metrics.json
"""

from __future__ import annotations

import argparse
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Report, build_parser, compare_seconds, run_script, time_turns

from fletching.data import open_beir, read_corpus, read_run
from fletching.metrics import bootstrap_interval, evaluate_run, paired_bootstrap, permutation_test

MEASURES = {"ndcg_at_10": "ndcg_cut_10", "map": "map", "mrr": "recip_rank", "recall_at_100": "recall_100"}
N_QUERIES, N_RESAMPLES, N_LINES = 10_000, 10_000, 1_000_000


def measure(options: argparse.Namespace, report: Report) -> None:
    """Fill the report: first the values, then the speed."""
    compare_values(options.data / "trec_dl", report)
    turns = options.repetitions or (1 if options.quick else 5)
    shrink = 20 if options.quick else 1
    time_resampling(report, turns, N_QUERIES // shrink)
    time_reading(report, turns, N_LINES // shrink)


def compare_values(folder: Path, report: Report) -> None:
    """Score every run twice and keep the largest difference of any query and measure."""
    import pytrec_eval

    for year in ("dl19", "dl21"):
        if not (folder / year).is_dir():
            report.skipped.append(f"{year}: there is no {folder / year}; name its data folder with --data")
            continue
        qrels = open_beir(folder / year).read_split("test").qrels
        peer = pytrec_eval.RelevanceEvaluator(qrels, set(MEASURES.values()))
        for path in sorted((folder / year).glob("*/*.tsv.gz")):
            run = read_run(path)
            ours, theirs = evaluate_run(run, qrels, list(MEASURES), ties="trec_eval"), peer.evaluate(run)
            largest = max(
                abs(row[name] - theirs[row["query_id"]][key])
                for row in ours.rows()
                for name, key in MEASURES.items()
            )
            by_id = evaluate_run(run, qrels, ["ndcg_at_10"]).means()["ndcg_at_10"]
            report.notes.append(
                f"{year} {path.parent.name}/{path.name.removesuffix('.tsv.gz')}: nDCG@10 "
                f"{ours.means()['ndcg_at_10']:.4f}, largest difference to trec_eval {largest:.1e}; "
                f"{by_id:.4f} with ties by id"
            )


def time_resampling(report: Report, turns: int, n_queries: int) -> None:
    """Time intervals and tests beside scipy's."""
    from scipy import stats

    generator = np.random.default_rng(0)
    first, second = generator.random(n_queries), generator.random(n_queries)

    def ask_scipy() -> Any:
        return stats.bootstrap(
            (first,), np.mean, n_resamples=N_RESAMPLES, batch=100, method="percentile", rng=generator
        )

    contenders: dict[str, Callable[[], Any]] = {
        "scipy.stats.bootstrap": ask_scipy,
        "bootstrap_interval": lambda: bootstrap_interval(first, n_resamples=N_RESAMPLES),
        "paired_bootstrap": lambda: paired_bootstrap(first, second, n_resamples=N_RESAMPLES),
        "permutation_test": lambda: permutation_test(first, second, n_resamples=N_RESAMPLES),
    }
    add_rows(report, contenders, turns, f"{n_queries} queries, {N_RESAMPLES} resamples")


def time_reading(report: Report, turns: int, n_lines: int) -> None:
    """Time a streamed collection beside a bare loop, and trace what reading holds in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "collection.tsv"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(f"{i}\tpassage number {i} of a large collection\n" for i in range(n_lines))

        def split_lines() -> int:
            with path.open(encoding="utf-8") as lines:
                return sum(1 for key, _ in (line.split("\t", 1) for line in lines) if key)

        def read() -> int:
            return sum(1 for _ in read_corpus(path))

        add_rows(report, {"str.split": split_lines, "read_corpus": read}, turns, f"{n_lines} lines")
        tracemalloc.start()
        count = read()
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        report.notes.append(
            f"read_corpus: {count} passages, at most {peak:.0f} MiB of Python objects with its check of ids"
        )


def add_rows(report: Report, contenders: dict[str, Callable[[], Any]], turns: int, what: str) -> None:
    """Time the contenders; the first is the peer."""
    seconds, _ = time_turns(contenders, repetitions=turns)
    peer = next(iter(contenders))
    report.seconds |= seconds
    for name, values in seconds.items():
        faster = None if name == peer else compare_seconds(seconds, name, peer)
        report.rows.append(
            {"contender": name, "work": what, "seconds": float(np.median(values)), "times faster": faster}
        )


def main() -> None:
    """Measure and print the table."""
    print(run_script(build_parser(__doc__, bfloat16=False), measure, title="Measuring"))


if __name__ == "__main__":
    main()
