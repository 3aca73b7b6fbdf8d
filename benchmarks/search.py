"""`fletching.search` on 10,000 passages of TREC DL 2019: what an index costs beyond the embedding itself.

The peer of indexing is the bare `Embedder.encode_document` loop over the same passages. A turn goes from
files to a published index (reading, cutting, embedding, writing, BM25); turns begin with another contender.
Queries are real ones. Memory is the peak of a fresh process that indexes synthetic passages of a dozen words,
all different, with the first layer of MiniLM.

    python benchmarks/search.py --json search.json
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from measuring import Report, build_parser, read_dl19, run_script, time_turns

import fletching
from fletching.models.minilm import HUB_ID
from fletching.search import Index, UpdateReport

SECTIONS = 20  # passages of one file
PEAK = """
import sys, fletching
from pathlib import Path
from fletching.models.minilm import HUB_ID
from fletching.search import Index
model = fletching.load(HUB_ID)
model[0].model.encoder.layer = model[0].model.encoder.layer[:1]  # memory is asked for, not vectors
Index(sys.argv[1], embedder=model, cache=sys.argv[2]).update()
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
START = "import sys, lancedb, fletching; fletching.load(sys.argv[1], dtype='auto').encode_query('start')"


def write_passages(folder: Path, passages: list[str]) -> None:
    """Write Markdown files of `SECTIONS` sections, one passage in each."""
    folder.mkdir(parents=True)
    for start in range(0, len(passages), SECTIONS):
        sections = [
            f"# Passage {number}\n\n{text}\n"
            for number, text in enumerate(passages[start : start + SECTIONS], start=start)
        ]
        (folder / f"{start:06d}.md").write_text("\n".join(sections), encoding="utf-8")


def read_passages(data: Path, n_passages: int) -> list[str]:
    """Read the first passages of the DL19 corpus, each on one line."""
    with gzip.open(data / "trec_dl" / "dl19" / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [" ".join(json.loads(line)["text"].split()) for line in islice(lines, n_passages)]


def write_synthetic(folder: Path, n_passages: int) -> None:
    """Write passages of a dozen words that differ in their numbers."""
    words = "the quick archer draws a bow and arrow number {} flies over hill {}"
    write_passages(folder, [words.format(number, number * 7 % 1000) for number in range(n_passages)])


def measure_index(options: argparse.Namespace, report: Report, root: Path) -> None:
    """Time indexing against the bare encode loop, then updates and queries that find everything done."""
    n_passages = 200 if options.quick else 10_000
    write_passages(root / "docs", read_passages(options.data, n_passages))
    embedder = fletching.load(HUB_ID, dtype="auto")
    contents = read_contents(root)
    embedder.encode_document(contents[:64])
    indexes: list[Index] = []

    def build_index() -> UpdateReport:
        indexes.append(Index(root / "docs", cache=root / f"cache-{len(indexes)}"))
        return indexes[-1].update(show_progress_bar=False)

    contenders = {
        "encode": lambda: embedder.encode_document(contents, show_progress_bar=False),
        "index": build_index,
    }
    report.seconds, results = time_turns(contenders, repetitions=options.repetitions or 2)
    encode, build, built, index = (
        report.seconds["encode"],
        report.seconds["index"],
        results["index"],
        indexes[-1],
    )
    ratio = statistics.median(b / e for b, e in zip(build, encode, strict=True))
    add_row(report, f"encode {len(contents):,} passages", f"{statistics.median(encode):.1f} s", "")
    add_row(
        report,
        f"index {built.passages:,} passages",
        f"{statistics.median(build):.1f} s",
        f"{ratio:.3f} (1.1)",
    )
    again = index.update(show_progress_bar=False)
    add_row(report, "second update", f"{again.seconds:.2f} s", f"{again.embedded} embedded (0)")
    queries = [query for query, _ in read_dl19(options.data, n_queries=20)]
    index.retrieve(queries[0])
    seconds = []
    for query in queries:
        begin = time.perf_counter()
        index.retrieve(query)
        seconds.append(time.perf_counter() - begin)
    slowest, median = max(seconds) * 1000, statistics.median(seconds) * 1000
    add_row(report, "warm query, no reranking", f"{median:.0f} ms", f"slowest {slowest:.0f} ms (150)")
    measure_process(report, root, queries[0], index)


def read_contents(root: Path) -> list[str]:
    """Cut the files as the index does; return what the embedder reads."""
    from fletching.search.hits import join_content
    from fletching.search.readers import find_files, read_document, split_document

    return [
        join_content(passage.heading, passage.text)
        for path in find_files(root / "docs")
        for passage in split_document(read_document(path.read_bytes(), path.suffix))
    ]


def measure_process(report: Report, root: Path, query: str, index: Index) -> None:
    """Time the whole command against a process that only starts, loads the embedder and encodes a query."""
    command = [sys.executable, "-m", "fletching", "search", str(root / "docs"), query]
    command += ["--rerank", "none", "--json", "--cache", str(index.root.parents[1])]
    start, search = [], []
    for _ in range(3):
        start.append(time_process([sys.executable, "-c", START, HUB_ID]))
        search.append(time_process(command))
    difference = statistics.median(s - b for s, b in zip(search, start, strict=True))
    add_row(
        report,
        "the command, second run",
        f"{statistics.median(search):.2f} s",
        f"{difference * 1000:.0f} ms beyond import, model and query",
    )


def time_process(command: list[str]) -> float:
    """Run a command and return its seconds."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def measure_memory(options: argparse.Namespace, report: Report, root: Path) -> None:
    """Compare the peak memory of small and large folders."""
    for n_passages in (100, 400) if options.quick else (1_000, 10_000, 100_000):
        folder = root / f"synthetic-{n_passages}"
        write_synthetic(folder, n_passages)
        command = [sys.executable, "-c", PEAK, str(folder), str(root / "memory")]
        begin = time.perf_counter()
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024
        add_row(
            report,
            f"index {n_passages:,} synthetic",
            f"{time.perf_counter() - begin:.1f} s",
            f"{peak:.0f} MiB",
        )


def add_row(report: Report, what: str, measured: str, ratio: str) -> None:
    """Append one line of the table."""
    report.rows.append({"what": what, "measured": measured, "ratio or bound": ratio})


def measure(options: argparse.Namespace, report: Report) -> None:
    """Measure everything in a folder that is deleted afterwards."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        measure_index(options, report, Path(folder))
        measure_memory(options, report, Path(folder))


def main() -> None:
    """Run the script."""
    parser = build_parser(__doc__, bfloat16=False)
    print(run_script(parser, measure, title="fletching.search, all-MiniLM-L6-v2, CPU"))


if __name__ == "__main__":
    main()
