"""DSE on MiniLM against the cross-encoder that would teach it: 1,000 candidates reranked, and memory.

The teacher is sentence-transformers' `CrossEncoder` on all-MiniLM-L6-v2 with one label (the head is random,
which costs what a trained one costs), pairs cut to 128 tokens. The students have the same encoder, fp32, and
untrained heads. "Cached" reads the vectors of the candidates from the disk, as every call but the first does;
"not cached" encodes all of them. All rank by `rank`, from text to ranking, and take turns within one process.
Candidates are passages of TREC DL 2019.

Memory comes from fresh processes that score a million pairs of texts whose vectors are on disk: a thousand
queries against a thousand documents, and one query against a million documents (their vectors are made up,
which costs what true ones cost). What counts is the memory that the process itself took while it scored,
sampled every 10 ms; pages of mapped files are the system's, which takes them back when it needs them.

    python benchmarks/dse_speed.py --json dse_speed.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measuring import Report, build_parser, compare_seconds, read_dl19, run_script, time_turns

TEACHER = "CrossEncoder"
MAX_TOKENS = 128
BAR = 100
STUDENTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "DSE, top 4 layers (1536), cached": ({}, "float32"),
    "DSE, top 4 layers (1536), cached in float16": ({}, "float16"),
    "DSE, linear layer to 384, cached": ({"embedding_size": 384}, "float32"),
    "DSE, top 4 layers (1536), not cached": ({}, None),
}
"""Name -> what the student is made of, and the precision of its cache."""
SHAPES = {"1,000 queries x 1,000 documents": (1000, 1000), "1 query x 1,000,000 documents": (1, 1_000_000)}
QUICK_SHAPES = {"20 queries x 100 documents": (20, 100), "1 query x 20,000 documents": (1, 20_000)}


def load_teacher() -> Any:
    """Open MiniLM as a cross-encoder of sentence-transformers."""
    from sentence_transformers import CrossEncoder

    from fletching.models.minilm import find_minilm

    return CrossEncoder(find_minilm(), num_labels=1, max_length=MAX_TOKENS, device="cpu")


def load_student(fields: dict[str, Any], cache: Path | None, precision: str = "float32") -> Any:
    """Start a student on MiniLM."""
    from fletching.methods.dse import DSEConfig, DSEReranker

    return DSEReranker.from_encoder(
        config=DSEConfig(**fields), vector_cache=cache, cache_dtype=precision, device="cpu"
    )


def read_candidates(data: Path, *, quick: bool) -> tuple[list[str], list[str]]:
    """Read queries, and distinct passages that BM25 found for them and others."""
    lists = read_dl19(data, n_queries=43, n_passages=100)
    passages = list(dict.fromkeys(passage for _, found in lists for passage in found))
    queries = [query for query, _ in lists]
    return (queries[:1], passages[:40]) if quick else (queries[::15], passages[:1000])


def measure_speed(options: argparse.Namespace, report: Report, folder: Path) -> None:
    """Let the teacher and the students take turns on each query."""
    queries, passages = read_candidates(options.data, quick=options.quick)
    repetitions = options.repetitions or (1 if options.quick else 3)
    models: dict[str, Any] = {TEACHER: load_teacher()}
    for name, (fields, precision) in STUDENTS.items():
        models[name] = load_student(fields, folder if precision else None, precision or "float32")
        if precision:
            start = time.perf_counter()
            models[name].encode_document(passages)
            report.notes.append(f"{name}: {time.perf_counter() - start:.1f} s to encode and keep them once")
    report.seconds = {name: [] for name in models}
    for query in queries:
        for model in models.values():
            model.rank(query, passages[:8], show_progress_bar=False)
        contenders: dict[str, Callable[[], Any]] = {
            name: lambda model=model, query=query: model.rank(query, passages, show_progress_bar=False)
            for name, model in models.items()
        }
        for name, turns in time_turns(contenders, repetitions=repetitions)[0].items():
            report.seconds[name] += turns
    for name in models:
        report.rows.append(
            {
                f"rerank {len(passages)} passages": name,
                "seconds per query": statistics.median(report.seconds[name]),
                "times faster": compare_seconds(report.seconds, name, TEACHER),
                "bar": f"{BAR}x" if name != TEACHER and STUDENTS[name][1] else None,
            }
        )
    report.notes.append(f"{len(queries)} queries, {repetitions} turn(s) each, fp32")
    report.notes.append(compare_heads(models["DSE, top 4 layers (1536), not cached"], queries[0], passages))


def compare_heads(model: Any, query: str, passages: list[str]) -> str:
    """Say how far the decomposed head is from the plain one."""
    import torch

    u, v = (torch.from_numpy(model.encode(texts)) for texts in ([query], passages))
    with torch.inference_mode():
        plain, decomposed = model.head.score(u.expand_as(v), v), model.head.score_all(u, v)[0]
    distance, largest = (plain - decomposed).abs().max().item(), plain.abs().max().item()
    return (
        f"logits of the plain and the decomposed head, up to {largest:.2f}, differ by {distance:.1e} at most"
    )


def measure_own_memory(
    n_queries: int, n_documents: int, folder: Path, threads: int | None
) -> dict[str, float]:
    """Score all pairs of texts whose vectors are on disk; MiB taken by it, and seconds."""
    import numpy as np
    import torch

    if threads:
        torch.set_num_threads(threads)
    fields, precision = ({}, "float32") if n_queries > 1 else ({"embedding_size": 384}, "float16")
    model = load_student(fields, folder, precision)
    queries = [f"What is said of number {number}?" for number in range(n_queries)]
    documents = [f"This is said of number {number}." for number in range(n_documents)]
    cache, generator = model.open_cache(), np.random.default_rng(0)
    for start in range(0, n_documents, 50_000):
        texts = documents[start : start + 50_000]
        vectors = generator.standard_normal((len(texts), model.get_embedding_dimension()), np.float32)
        cache.add(texts, vectors)
        del vectors
    model.score_matrix(queries[:1], documents[:1])
    with sample_memory() as samples:
        started = time.perf_counter()
        scores = model.score_matrix(queries, documents)
        seconds = time.perf_counter() - started
    assert scores.shape == (n_queries, n_documents)
    on_disk = sum(path.stat().st_size for path in folder.rglob("*.vectors")) / 2**20
    taken = (max(samples) - samples[0]) / 1024
    return {"on disk": on_disk, "before": samples[0] / 1024, "taken": taken, "seconds": seconds}


@contextmanager
def sample_memory() -> Iterator[list[int]]:
    """Sample the anonymous memory of this process, in KiB."""
    samples = [read_anonymous()]
    stopped = threading.Event()

    def sample() -> None:
        while not stopped.wait(0.01):
            samples.append(read_anonymous())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        stopped.set()
        thread.join()


def read_anonymous() -> int:
    """Return what Linux says that the process holds beside pages of files."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1])


def measure_memory(options: argparse.Namespace, report: Report) -> None:
    """Score the million pairs in a process of its own for each shape."""
    if not Path("/proc/self/status").is_file():
        report.skipped.append("memory: only Linux tells anonymous memory from pages of files")
        return
    for name, shape in (QUICK_SHAPES if options.quick else SHAPES).items():
        command = [sys.executable, __file__, "--child", *map(str, shape)]
        command += ["--threads", str(options.threads)] if options.threads else []
        child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(child.stdout.splitlines()[-1])
        report.notes.append(
            f"{name}: {found['seconds']:.1f} s, {found['taken']:.0f} MiB on top of "
            f"{found['before']:.0f} MiB; vectors on disk {found['on disk']:.0f} MiB"
        )


def measure(options: argparse.Namespace, report: Report) -> None:
    """Measure speed, then memory."""
    with tempfile.TemporaryDirectory() as folder:
        measure_speed(options, report, Path(folder))
    measure_memory(options, report)


def main() -> None:
    """Measure and print the table; with `--child`, measure the memory of one shape."""
    parser = build_parser(__doc__, bfloat16=False)
    parser.add_argument("--child", nargs=2, type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure_own_memory(*options.child, Path(folder), options.threads)))
        return
    print(run_script(parser, measure, title="DSE on MiniLM against CrossEncoder on MiniLM, CPU"))


if __name__ == "__main__":
    main()
