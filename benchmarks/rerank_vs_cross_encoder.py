"""MVP on an encoder against a cross-encoder on the same encoder: seconds per list and peak memory.

The peer is sentence-transformers' `CrossEncoder` on all-MiniLM-L6-v2 with one label (the head is random,
which costs what a trained one costs), rows of 256 tokens, its own default batching. Ours are
`MVPReranker.from_encoder` (view embeddings in front of the pair, a small decoder over the list) and
`MVPReranker.from_bi_encoder`, the architecture of `mvp-mini`. All in fp32, all by `rank`, from text to
ranking, on queries of TREC DL 2019 with the 100 passages that BM25 found first.

Seconds come from turns within one process. Memory comes from one fresh process per contender, which loads
only what it needs and ranks the same lists: the peak of the whole process, and how far ranking raised it.

    python benchmarks/rerank_vs_cross_encoder.py --json rerank.json
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import Report, build_parser, compare_seconds, find_missing, read_dl19, run_script, time_turns

STOCK, ENCODER, BI_ENCODER = "CrossEncoder", "MVPReranker.from_encoder", "MVPReranker.from_bi_encoder"
MAX_TOKENS = 256


def load_cross_encoder() -> Any:
    """Open MiniLM as a cross-encoder of sentence-transformers."""
    from sentence_transformers import CrossEncoder

    from fletching.models.minilm import find_minilm

    return CrossEncoder(find_minilm(), num_labels=1, max_length=MAX_TOKENS, device="cpu")


def load_mvp_on_encoder() -> Any:
    """Open MiniLM as an MVP with view embeddings."""
    from fletching.methods.mvp import MVPReranker
    from fletching.models.minilm import find_minilm

    return MVPReranker.from_encoder(find_minilm(), max_seq_length=MAX_TOKENS, device="cpu")


def load_mvp_on_bi_encoder() -> Any:
    """Open MiniLM as the untrained `mvp-mini`."""
    from fletching.methods.mvp import MVPReranker

    return MVPReranker.from_bi_encoder(max_seq_length=MAX_TOKENS, device="cpu")


LOADERS: dict[str, Callable[[], Any]] = {
    STOCK: load_cross_encoder,
    ENCODER: load_mvp_on_encoder,
    BI_ENCODER: load_mvp_on_bi_encoder,
}


def read_lists(data: Path, *, quick: bool) -> list[tuple[str, list[str]]]:
    """Read the lists that every contender ranks."""
    n_queries, n_passages = (2, 12) if quick else (5, 100)
    return read_dl19(data, n_queries=n_queries, n_passages=n_passages)


def measure_own_memory(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Load one contender, rank the lists, and return this process's peak in MiB, before and after ranking."""
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    lists = read_lists(options.data, quick=options.quick)
    model = LOADERS[name]()
    loaded = _read_peak()
    for query, passages in lists:
        model.rank(query, passages, show_progress_bar=False)
    return {"loaded": loaded, "peak": _read_peak()}


def _read_peak() -> float:
    """Return the peak resident memory of this process in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def measure_memory(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure every contender in a process of its own.

    Call it before this process has grown: on Linux, the peak of a child starts at what its parent held.

    Args:
        options: The command line, passed on.

    Returns:
        Name -> MiB of :func:`measure_own_memory`.
    """
    memory = {}
    for name in LOADERS:
        command = [sys.executable, __file__, "--child", name, "--data", str(options.data)]
        command += ["--quick"] if options.quick else []
        command += ["--threads", str(options.threads)] if options.threads else []
        child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        memory[name] = json.loads(child.stdout.splitlines()[-1])
    return memory


def measure(options: argparse.Namespace, report: Report, memory: dict[str, dict[str, float]]) -> None:
    """Time the contenders list by list and put memory beside."""
    lists = read_lists(options.data, quick=options.quick)
    repetitions = options.repetitions or (1 if options.quick else 5)
    models = {name: load() for name, load in LOADERS.items()}
    report.seconds = {name: [] for name in models}
    for query, passages in lists:
        for model in models.values():
            model.rank(query, passages[:8], show_progress_bar=False)
        contenders: dict[str, Callable[[], Any]] = {
            name: lambda model=model, query=query, passages=passages: model.rank(
                query, passages, show_progress_bar=False
            )
            for name, model in models.items()
        }
        seconds, _ = time_turns(contenders, repetitions=repetitions)
        for name, turns in seconds.items():
            report.seconds[name] += turns
    for name in models:
        report.rows.append(
            {
                "rerank 100 passages" if not options.quick else "rerank 12 passages": name,
                "seconds per query": statistics.median(report.seconds[name]),
                "times faster": compare_seconds(report.seconds, name, STOCK),
                "peak MiB": memory[name]["peak"],
                "of that by ranking": memory[name]["peak"] - memory[name]["loaded"],
                "peak / CrossEncoder's": memory[name]["peak"] / memory[STOCK]["peak"],
                "bar": None if name == STOCK else "1x, memory not higher",
            }
        )
    report.notes.append(f"{len(lists)} lists of DL19 passages, {repetitions} turn(s) each, fp32")


def main() -> None:
    """Measure and print the table; with `--child`, measure one contender's memory."""
    parser = build_parser(__doc__, bfloat16=False)
    parser.add_argument("--child", choices=list(LOADERS), default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure_own_memory(options.child, options)))
        return
    memory = {} if find_missing(options.data) else measure_memory(options)  # before torch is imported here

    def measure_rest(options: argparse.Namespace, report: Report) -> None:
        measure(options, report, memory)

    print(run_script(parser, measure_rest, title="MVP on MiniLM against CrossEncoder on MiniLM, CPU"))


if __name__ == "__main__":
    main()
