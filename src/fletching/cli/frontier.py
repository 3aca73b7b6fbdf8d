"""``fletching frontier``: how far can this embedder be cut, and what is gained?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fletching.cli._models import quieten, someone_watches
from fletching.cli._output import AsJson, one_line, print_json, reserve_stdout
from fletching.cli._plots import Plot, check_plot
from fletching.errors import ArgumentError, bad_argument

if TYPE_CHECKING:
    from fletching.methods.two_d_matryoshka import Frontier, FrontierPoint

__all__ = ["command"]

_OWNER = "fletching frontier"
_TABLES = (".json", ".csv")
_DASH = "\N{EN DASH}"


def command(
    model: Annotated[
        str, typer.Argument(help="Dense embedder: checkpoint name, folder or hub id, trained for it or not.")
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="Folder of passages, queries and judgements, lists in JSON lines, or sentence pairs in a "
            "tab-separated file; as for `fletching evaluate`."
        ),
    ],
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="2,4,6", help="Depths; those that were trained, else all, when left out. All is added."
        ),
    ] = None,
    dims: Annotated[
        str | None,
        typer.Option(
            metavar="64,128", help="Widths; those that were trained, else powers of two. All is added."
        ),
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(help="spearman or pearson for pairs; ndcg_at_10, recall_at_100, ... for queries."),
    ] = None,
    candidates: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="What a first stage found; else all passages are searched."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Judgements to read; the only ones or test when left out.")
    ] = None,
    relevance_level: Annotated[
        int,
        typer.Option(min=1, help="Lowest grade that binary measures count; 2 for TREC DL and T2Ranking."),
    ] = 1,
    document_layers: Annotated[
        int | None, typer.Option(min=1, help="Encode passages at this depth always, and cut queries alone.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="float32 or float16: what vectors are stored in.")
    ] = "float32",
    min_score: Annotated[float | None, typer.Option(help="Choose the cheapest size with this score.")] = None,
    relative_quality: Annotated[
        float | None,
        typer.Option(help="Or with this share of the full score; 0.98 where nothing is asked for."),
    ] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(min=0, help="Choose within this latency of the batch.")
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Choose within these bytes a vector.")] = None,
    prefer: Annotated[str, typer.Option(help="What is cheapest: latency or bytes.")] = "latency",
    batch_size: Annotated[int, typer.Option(min=1, help="Texts of the batch that is timed.")] = 8,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of each of them.")] = 128,
    no_latency: Annotated[bool, typer.Option("--no-latency", help="Time nothing.")] = False,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, ...")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Keep vectors here; else in FLETCHING_CACHE, else in your cache folder."
        ),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep nothing, compute everything.")] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all sizes into this file: .json or .csv.")
    ] = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Measure quality, latency and bytes of an embedder at every depth and width."""
    depths, widths = _parse_sizes("--layers", layers), _parse_sizes("--dims", dims)
    check_plot(_OWNER, plot)
    _check_files(output, cache, no_cache)
    wish = _Wish(min_score, relative_quality, max_latency_ms, max_bytes, prefer)
    wish.check(no_latency)
    quieten()

    from fletching.evaluation import find_system_kind, read_evaluation_set
    from fletching.methods.two_d_matryoshka import frontier
    from fletching.models.caching import find_cache

    given: dict[str, Any] = {"dtype": dtype, "device": device}
    options = {name: value for name, value in given.items() if value is not None}
    with reserve_stdout():
        kind = find_system_kind(model, **options)
    if kind != "embedder":
        raise bad_argument(_OWNER, "MODEL", f"a dense embedder, no {kind}", model)
    given = {"split": split, "candidates": candidates}
    read = read_evaluation_set(
        data,
        relevance_level=relevance_level,
        show_progress_bar=someone_watches(),
        **{name: value for name, value in given.items() if value is not None},
    )
    try:
        found = frontier(
            model,
            read,
            layers=depths,
            dims=widths,
            measure=measure,
            document_layers=document_layers,
            precision=precision,
            measure_latency=not no_latency,
            batch_size=batch_size,
            n_tokens=tokens,
            cache=None if no_cache else cache or find_cache() / "evaluations",
            show_progress_bar=someone_watches(),
            **options,
        )
    except KeyboardInterrupt:
        if not no_cache:
            typer.echo("What is encoded is kept; the same command goes on from there.", err=True)
        raise
    chosen, problem = wish.choose(found)
    if as_json:
        print_json(_describe(found, chosen))
    else:
        _print_table(found)
        for note in _word_notes(found, model, chosen):
            typer.echo(one_line(note), err=True)
    _save(found, chosen, output, plot)
    if problem:
        typer.secho(problem, fg="red", err=True)
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Wish:
    """What the user asks of a size; fields as the arguments of `Frontier.select`."""

    min_score: float | None
    relative_quality: float | None
    max_latency_ms: float | None
    max_bytes: int | None
    prefer: str

    @property
    def is_given(self) -> bool:
        """Whether the user asked for anything."""
        return any(value is not None for name, value in vars(self).items() if name != "prefer")

    def check(self, no_latency: bool) -> None:
        """Refuse what would fail after the work."""
        if self.prefer not in ("latency", "bytes"):
            raise bad_argument(_OWNER, "--prefer", "latency or bytes", self.prefer)
        if no_latency and self.max_latency_ms is not None:
            domain = "left out where --no-latency is given"
            raise bad_argument(_OWNER, "--max-latency-ms", domain, self.max_latency_ms)

    def choose(self, found: Frontier) -> tuple[FrontierPoint | None, str]:
        """Choose a size, or say why there is none that was asked for."""
        try:
            return found.select(**vars(self)), ""
        except ArgumentError as error:
            return None, str(error) if self.is_given else ""


def _parse_sizes(option: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise bad_argument(_OWNER, option, "positive integers, as in 2,4,6", text)
    return [int(part) for part in parts]


def _check_files(output: Path | None, cache: Path | None, no_cache: bool) -> None:
    """Refuse what would fail after the work."""
    if no_cache and cache is not None:
        raise bad_argument(_OWNER, "--cache", "left out where --no-cache is given", str(cache))
    if output is None:
        return
    if output.suffix.lower() not in _TABLES:
        raise bad_argument(_OWNER, "--output", "a file that ends in .json or .csv", str(output))
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise bad_argument(_OWNER, "--output", "a file in an existing folder", str(output))


def _print_table(found: Frontier) -> None:
    """A row for each size, the best score first; a star says that no other size beats it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    dash = ".." if console.options.ascii_only else _DASH
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("layers", "dims", found.measure, "of full", "ms", "bytes"):
        table.add_column(name, justify="left" if name == found.measure else "right", no_wrap=True)
    for point in found.ranked():
        score = Text.assemble((f"{point.score:.4f}", "bold"))
        if point.interval is not None:
            score.append(f" {point.interval.low:.2f}{dash}{point.interval.high:.2f}", "dim")
        table.add_row(
            "*" if point.is_best else "",
            str(point.num_layers),
            str(point.truncate_dim),
            score,
            "" if point.relative_quality is None else f"{point.relative_quality:.1%}",
            "" if point.latency_ms is None else _round(point.latency_ms),
            f"{point.bytes_per_vector:,}",
        )
    console.print(table, "")


def _round(milliseconds: float) -> str:
    """As many digits as a clock is good for."""
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def _word_notes(found: Frontier, model: str, chosen: FrontierPoint | None) -> list[str]:
    from fletching.evaluation.sts import MEASURES

    items = "pairs" if found.measure in MEASURES else "queries"
    notes = [
        f"{found.data_name}: {found.measure} over {found.n_items:,} {items}, with 95 % intervals; * means "
        "that no other size is at least as good, as fast and as small."
    ]
    if found.full.latency_ms is not None:
        batch = f"{found.batch_size} texts of {found.n_tokens} tokens"
        notes.append(f"ms: a batch of {batch}, median of 5 ({found.device}).")
    if found.document_layers is not None:
        notes.append(f"Passages were encoded with {found.document_layers} layers at every size.")
    notes += found.notes
    if chosen is not None:
        notes.append(
            f"Chosen: {chosen.num_layers} layers, {chosen.truncate_dim} dimensions. "
            f'ElasticEmbedder("{model}").encode(texts, num_layers={chosen.num_layers}, '
            f"truncate_dim={chosen.truncate_dim})"
        )
    return notes


def _describe(found: Frontier, chosen: FrontierPoint | None) -> dict[str, Any]:
    size = None
    if chosen is not None:
        size = {"num_layers": chosen.num_layers, "truncate_dim": chosen.truncate_dim}
    return {**found.describe(), "selected": size}


def _save(found: Frontier, chosen: FrontierPoint | None, output: Path | None, plot: Path | None) -> None:
    if output is not None:
        from fletching.data.lines import write_lines
        from fletching.evaluation.report import format_csv

        if output.suffix.lower() == ".json":
            text = json.dumps(_describe(found, chosen), indent=2)
        else:
            text = format_csv(found.rows()).rstrip("\n")
        write_lines(output, [text])
    if plot is not None:
        from fletching.methods.two_d_matryoshka import plot_frontier

        plot_frontier(found).savefig(plot)
