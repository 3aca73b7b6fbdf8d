"""From a `Comparison` to rows for people and machines, and to files."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fletching.data import write_run
from fletching.data.lines import write_lines
from fletching.evaluation.results import Comparison, SystemResult
from fletching.metrics import Interval

__all__ = [
    "describe_results",
    "format_csv",
    "percentiles",
    "save_comparison",
    "shorten_names",
    "tabulate_queries",
    "tabulate_results",
]

PERCENTILES = (50, 95, 99)
"""Of the latencies of single queries."""

_COSTS = ("prepare_seconds", "tokens", "padding", "lost_tokens", "peak_memory_mib", "bytes_per_vector")
_SHOWN_CHARACTERS = 36  # of a name
_NO_FILE_NAME = re.compile(r"[^\w.@+-]+")


def describe_results(comparison: Comparison) -> list[dict[str, Any]]:
    """Say everything about each system in plain values, as ``fletching evaluate --json`` prints it.

    Args:
        comparison: What an evaluation found.

    Returns:
        For each system ``name``, ``kind``, ``metrics`` (measure -> ``value``, ``low``, ``high``),
        ``baseline`` and ``differences`` to it (likewise, and ``p_value``), ``latency_ms`` (``mean``, ``p50``,
        ``p95``, ``p99``; empty where it is not known), ``tokens`` and the other costs, ``first_stage`` and
        ``first_stage_recall``, ``queries`` (counts), ``data`` (``name``, ``digest``, ``skipped``,
        ``relevance_level``, and the ``order`` of the candidates) and ``from_cache``.
    """
    data = {
        "name": comparison.data_name,
        "digest": comparison.data_digest,
        "skipped": dict(comparison.skipped),
        "relevance_level": comparison.relevance_level,
        "order": comparison.order,
    }
    return [_describe(result, comparison.baseline, data) for result in comparison.results]


def _describe(result: SystemResult, baseline: str, data: dict[str, Any]) -> dict[str, Any]:
    evaluation = result.evaluation
    return {
        "name": result.name,
        "kind": result.kind,
        "metrics": {measure: _describe_interval(found) for measure, found in result.intervals.items()},
        "baseline": baseline,
        "differences": {
            measure: {**_describe_interval(found.interval), "p_value": found.p_value}
            for measure, found in result.differences.items()
        },
        "latency_ms": percentiles(result.cost.latency_ms),
        **{name: getattr(result.cost, name) for name in _COSTS},
        "first_stage": result.first_stage or None,
        "first_stage_recall": result.first_stage_recall,
        "queries": {
            "judged": len(evaluation.query_ids),
            "missing": evaluation.n_missing,
            "unjudged": evaluation.n_unjudged,
            "without_relevant": evaluation.n_without_relevant,
        },
        "data": data,
        "fingerprint": result.fingerprint,
        "from_cache": result.from_cache,
    }


def _describe_interval(interval: Interval) -> dict[str, float]:
    return {"value": interval.mean, "low": interval.low, "high": interval.high}


def percentiles(latency_ms: Mapping[str, float]) -> dict[str, float]:
    """Sum up the latencies of single queries.

    Args:
        latency_ms: Query id -> milliseconds.

    Returns:
        ``mean``, ``p50``, ``p95`` and ``p99``; empty without any latency.

    Example:
        >>> percentiles({"q1": 10.0, "q2": 20.0})["p50"]
        15.0
    """
    if not latency_ms:
        return {}
    values = np.fromiter(latency_ms.values(), dtype=np.float64)
    ranks = np.percentile(values, PERCENTILES)
    return {
        "mean": float(values.mean()),
        **{f"p{rank}": float(value) for rank, value in zip(PERCENTILES, ranks, strict=True)},
    }


def shorten_names(names: Sequence[str]) -> dict[str, str]:
    """Make names fit for tables and figures.

    Args:
        names: Names of systems: what users typed, paths and hub ids among them.

    Returns:
        Name -> what follows the last slash, where that tells all of them apart; of a long one the end.

    Example:
        >>> shorten_names(["bm25", "sentence-transformers/all-MiniLM-L6-v2"])
        {'bm25': 'bm25', 'sentence-transformers/all-MiniLM-L6-v2': 'all-MiniLM-L6-v2'}
    """
    short = {name: name.rstrip("/").rpartition("/")[2] for name in names}
    if len(set(short.values())) < len(short):
        short = {name: name for name in names}
    return {
        name: label
        if len(label) <= _SHOWN_CHARACTERS
        else f"\N{HORIZONTAL ELLIPSIS}{label[1 - _SHOWN_CHARACTERS :]}"
        for name, label in short.items()
    }


def tabulate_results(comparison: Comparison) -> list[dict[str, Any]]:
    """Make one flat row for each system, as ``fletching evaluate --csv`` prints them.

    Args:
        comparison: What an evaluation found.

    Returns:
        Rows with the same columns: ``ndcg_at_10``, ``ndcg_at_10_low``, ``ndcg_at_10_difference_p_value``,
        ``latency_ms_p50`` and so on; ``None`` for what is not known.
    """
    ends = ("", "_low", "_high")
    rows = []
    for result in describe_results(comparison):
        row = {"name": result["name"], "kind": result["kind"]}
        for measure in comparison.measures:
            found = result["metrics"][measure]
            row |= {f"{measure}{end}": found[end.strip("_") or "value"] for end in ends}
        for measure in comparison.measures:
            found = result["differences"].get(measure, {})
            name = f"{measure}_difference"
            row |= {f"{name}{end}": found.get(end.strip("_") or "value") for end in (*ends, "_p_value")}
        for name in ("mean", *(f"p{rank}" for rank in PERCENTILES)):
            row[f"latency_ms_{name}"] = result["latency_ms"].get(name)
        row |= {name: result[name] for name in (*_COSTS, "first_stage", "first_stage_recall", "baseline")}
        rows.append({**row, "data": comparison.data_name, **result["queries"]})
    return rows


def tabulate_queries(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Go through all queries of all systems.

    Args:
        comparison: What an evaluation found.

    Yields:
        ``{"system": str, "query_id": str, measure: float, ..., "latency_ms": float or None}``.
    """
    for result in comparison.results:
        for row in result.evaluation.rows():
            latency = result.cost.latency_ms.get(row["query_id"])
            yield {"system": result.name, **row, "latency_ms": latency}


def format_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    r"""Write rows as comma-separated values with a header line.

    Args:
        rows: Rows with the same columns.

    Returns:
        The text, lines ended by ``\n``; ``None`` is an empty field.

    Example:
        >>> print(format_csv([{"name": "bm25", "tokens": None}, {"name": "a, b", "tokens": 7}]), end="")
        name,tokens
        bm25,
        "a, b",7
    """
    text = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(text, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
    return text.getvalue()


def save_comparison(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Keep an evaluation in a folder.

    - ``results.json`` and ``results.csv``: one entry or row for each system
    - ``queries.csv``: one row for each query of each system
    - ``runs/<system>.tsv``: what each system returned, for `read_run`

    Args:
        comparison: What an evaluation found.
        folder: The folder; it is made if it is not there, and files of these names are replaced.

    Returns:
        The files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "results.json": json.dumps(describe_results(comparison), indent=2),
        "results.csv": format_csv(tabulate_results(comparison)).rstrip("\n"),
        "queries.csv": format_csv(tabulate_queries(comparison)).rstrip("\n"),
    }
    for name, text in texts.items():
        write_lines(folder / name, [text])
    saved = [folder / name for name in texts]
    runs = [result for result in comparison.results if result.run]
    for result, name in zip(runs, _name_files([result.name for result in runs]), strict=True):
        (folder / "runs").mkdir(exist_ok=True)
        saved.append(folder / "runs" / f"{name}.tsv")
        write_run(saved[-1], result.run)
    return saved


def _name_files(names: Sequence[str]) -> list[str]:
    """Make file names of the names of systems, each a different one, also where case does not count."""
    taken: set[str] = set()
    found = []
    for name in names:
        base = _NO_FILE_NAME.sub("-", name).strip("-.") or "system"
        options = (base, *(f"{base}-{number}" for number in range(2, len(names) + 2)))
        chosen = next(option for option in options if option.lower() not in taken)
        taken.add(chosen.lower())
        found.append(chosen)
    return found
