"""``fletching limit run``: recall of a model on LIMIT, beside the baselines."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fletching.cli._models import open_model, quieten, someone_watches
from fletching.cli._output import AsJson, one_line, print_json, reserve_stdout
from fletching.cli._plots import Plot, check_plot
from fletching.errors import bad_argument

if TYPE_CHECKING:
    from fletching.methods.limit import LimitDataset, LimitEvaluator

__all__ = ["run"]

_OWNER = "fletching limit run"
_RANDOM_DIMS = (64, 1024)
_QUALITY = (
    "Recall on LIMIT is no measure of general quality: it does not correlate with BEIR, and word overlap "
    "solves it. Read it beside the baselines."
)
_TRUNCATED = "A model that was not trained to be truncated is naturally poor at few dimensions."


def run(
    model: Annotated[
        str, typer.Argument(help="Checkpoint name, folder or hub id of any kind; bm25, or a run file.")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="small|full|FOLDER",
            help="The released data from the hub, or a folder with them or in BEIR's layout; when left out, "
            "data of the size of LIMIT-small are generated.",
        ),
    ] = None,
    dims: Annotated[
        str | None,
        typer.Option(metavar="8,64,384", help="Cut dense vectors to these dimensions as well."),
    ] = None,
    queries: Annotated[
        int | None, typer.Option(min=2, help="Ask so many queries only, drawn at random.")
    ] = None,
    candidates: Annotated[
        int, typer.Option(min=1, help="Most documents that a reranker reads; more are cut by BM25.")
    ] = 100,
    seed: Annotated[int, typer.Option(help="Of generated data, random word vectors and drawn queries.")] = 0,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Texts of one batch.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, ...")] = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Measure recall on LIMIT, beside the baselines."""
    check_plot(_OWNER, plot)
    cuts = _parse_dims(dims)
    dataset = _open_data(data, queries, seed)
    quieten()
    from fletching.evaluation.systems import find_system_kind
    from fletching.methods.limit import LimitEvaluator

    with reserve_stdout():
        kind = find_system_kind(model)
    if cuts and kind != "embedder":
        raise bad_argument(_OWNER, "--dims", f"left out: only a dense embedder is cut, not a {kind}", dims)
    opened: Any = model if kind in ("bm25", "run") else open_model(model, dtype=dtype, device=device)
    size = opened.get_embedding_dimension() if kind == "embedder" else None
    if cuts and size is not None and cuts[-1] > size:
        raise bad_argument(_OWNER, "--dims", f"at most {size}, the dimensions of the model", cuts[-1])
    if data is None:
        typer.echo(_word_generated(dataset, seed), err=True)

    def build(dim: int | None = None) -> LimitEvaluator:
        return LimitEvaluator(
            dataset,
            truncate_dim=dim,
            candidates=candidates,
            batch_size=batch_size,
            show_progress_bar=someone_watches(),
        )

    rows = _measure_baselines(dataset, build(), seed)
    for dim in [*(dim for dim in cuts if dim != size), None]:
        rows.append(_measure(model, kind, build(dim), opened, dim or size))
    notes = [_QUALITY, *([_TRUNCATED] if cuts else [])]
    if "ceiling" in rows[-1].metrics:
        best = rows[-1].metrics["ceiling"]["value"]
        notes.append(
            f"{model} read the first {candidates} of BM25: no order of them has a recall over {best:.1%}."
        )
    if plot is not None:
        _draw_run(rows, model, plot)
    if as_json:
        print_json(
            {
                "data": {
                    "name": dataset.name,
                    "source": data or "generated",
                    "queries": len(dataset.queries),
                    "documents": len(dataset.corpus),
                    "seed": seed,
                },
                "systems": [asdict(row) for row in rows],
                "notes": notes,
            }
        )
        return
    _print_rows(rows)
    for note in notes:
        typer.echo(note, err=True)


@dataclass(frozen=True)
class _Row:
    """One system: measure -> ``{"value", "low", "high"}``."""

    name: str
    kind: str
    dim: int | None
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    seconds: float | None = None


def _open_data(data: str | None, queries: int | None, seed: int) -> LimitDataset:
    from fletching.methods.limit import LimitDataset

    dataset = LimitDataset.generate(seed=seed) if data is None else LimitDataset.load(data)
    if queries is None or queries >= len(dataset.queries):
        return dataset
    return dataset.sample_queries(queries, seed=seed)


def _word_generated(dataset: LimitDataset, seed: int) -> str:
    return (
        f"Generated data, seed {seed}: {len(dataset.queries)} queries on {len(dataset.corpus)} documents, of "
        "the kind of LIMIT-small, with other words; --data small takes the released ones."
    )


def _parse_dims(dims: str | None) -> list[int]:
    parts = [] if dims is None else [part.strip() for part in dims.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise bad_argument(_OWNER, "--dims", "positive integers, as in 8,64,384", dims)
    return sorted({int(part) for part in parts})


def _measure_baselines(dataset: LimitDataset, evaluator: LimitEvaluator, seed: int) -> list[_Row]:
    """Measure what every result is read against."""
    from fletching.evaluation.bm25 import BM25
    from fletching.methods.limit import ItemMatcher, RandomWordVectors, compute_chance

    n, sizes = len(dataset.corpus), [len(ids) for ids in dataset.qrels.values()]
    chance = {f"recall_at_{k}": compute_chance(n, k) for k in evaluator.k_values}
    chance["set_accuracy"] = sum(1 / math.comb(n, size) for size in sizes) / len(sizes)
    exact = {metric: {"value": value, "low": None, "high": None} for metric, value in chance.items()}
    rows = [_Row("chance", "baseline", None, exact)]
    baselines: list[tuple[str, Any, int | None]] = [
        ("random word vectors", RandomWordVectors(dim, seed), dim) for dim in _RANDOM_DIMS
    ]
    baselines.append(("BM25", BM25("words"), None))
    if dataset.query_items is not None:
        baselines.append(("item matcher (the answer key)", ItemMatcher(dataset), None))
    for name, baseline, dim in baselines:
        rows.append(_measure(name, "baseline", evaluator, baseline, dim))
    return rows


def _measure(name: str, kind: str, evaluator: LimitEvaluator, model: Any, dim: int | None) -> _Row:
    """Measure a system; intervals by bootstrap over the queries."""
    from fletching.metrics import bootstrap_interval

    start = time.perf_counter()
    measured = evaluator.measure(model)
    seconds = time.perf_counter() - start
    metrics: dict[str, dict[str, float | None]] = {}
    for metric, values in measured.items():
        interval = bootstrap_interval(values) if len(values) > 1 else None
        metrics[metric] = {
            "value": float(values.mean()),
            "low": interval.low if interval else None,
            "high": interval.high if interval else None,
        }
    return _Row(name, kind, dim, metrics, seconds)


def _print_rows(rows: Sequence[_Row]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    caption = "percent, with 95 % intervals over queries"
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
    table.add_column("system", overflow="fold", min_width=16)
    for metric in rows[0].metrics:
        title = "whole sets" if metric == "set_accuracy" else metric.replace("recall_at_", "recall@")
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    for row in rows:
        size = "" if row.dim is None else f"\n{row.dim} dimensions"
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        cells = [_draw_cell(row.metrics[metric]) for metric in rows[0].metrics]
        table.add_row(Text.assemble(one_line(row.name), (size, "dim")), *cells, seconds)
    Console().print(table)


def _draw_cell(found: Mapping[str, float | None]) -> Any:
    from rich.text import Text

    shown = {name: f"{100 * value:.1f}" for name, value in found.items() if value is not None}
    percent = {name: text.replace("100.0", "100") for name, text in shown.items()}
    interval = f"\n{percent['low']}-{percent['high']}" if "low" in percent else ""
    return Text.assemble(percent["value"], (interval, "dim"))


def _draw_run(rows: Sequence[_Row], model: str, path: Path) -> None:
    """Draw a dense model as a curve, all others as lines."""
    from fletching.methods.limit import plot_dimensions

    metric = next(iter(rows[0].metrics))
    curve = {
        row.dim: {metric: float(row.metrics[metric]["value"] or 0.0)}
        for row in rows
        if row.kind == "embedder" and row.dim is not None
    }
    lines = {
        f"{row.name}, {row.dim}" if row.dim else row.name: float(row.metrics[metric]["value"] or 0.0)
        for row in rows
        if row.kind != "embedder"
    }
    plot_dimensions({Path(model).name: curve} if curve else {}, metric, baselines=lines).savefig(path)
