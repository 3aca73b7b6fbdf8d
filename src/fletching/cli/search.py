"""``fletching search``: does it help on my documents?"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fletching.cli._models import open_model, quieten, someone_watches
from fletching.cli._output import AsJson, one_line, print_json, reserve_stdout
from fletching.errors import bad_argument

if TYPE_CHECKING:
    from fletching.search import Hit, Index, UpdateReport

__all__ = ["command"]

_OWNER = "fletching search"
_NONE = "none"
_EMBEDS = "embedder"
_SHOWN_CHARACTERS = 240


@dataclass(frozen=True)
class _Column:
    """The hits of one system, under its name."""

    title: str
    hits: Sequence[Hit]


def command(
    folder: Annotated[Path, typer.Argument(help="Its Markdown, text, HTML and PDF files are searched.")],
    question: Annotated[str, typer.Argument(help="What the passages should answer.")],
    rerank: Annotated[
        str, typer.Option(metavar="none|NAME|PATH", help="Reranker: checkpoint name, folder or hub id.")
    ] = "mvp-mini",
    embed: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH", help="Embedder; sentence-transformers/all-MiniLM-L6-v2 when left out."
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Show two side by side: rerankers, embedders, or none for no reranking."
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Passages to show.")] = 5,
    candidates: Annotated[int, typer.Option(min=1, help="Passages to retrieve, and rerank.")] = 50,
    cache: Annotated[
        Path | None,
        typer.Option(help="Keep indexes here; else in FLETCHING_CACHE, else in your cache folder."),
    ] = None,
    max_words: Annotated[int, typer.Option(min=1, help="Words of a passage.")] = 120,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Embed everything again.")] = False,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, ...")] = None,
    as_json: AsJson = False,
) -> None:
    """Search a folder; show its passages before and after."""
    from fletching.models.inputs import check_query

    question = check_query(_OWNER, "QUESTION", question)
    systems = _split_systems(compare)
    options = {"dtype": dtype, "device": device}
    models = _open_systems(systems or [rerank], options, may_embed=bool(systems))
    indexes: dict[str | None, Index] = {}

    def find(name: str) -> list[Hit]:
        """Hits of a reranker, of another embedder, or of none."""
        embedder = name if models[name] == _EMBEDS else embed
        if embedder not in indexes:
            given = {"embedder": embedder, "cache": cache, "max_words": max_words, **options}
            indexes[embedder] = _open_index(folder, rebuild, given)
        reranker = None if models[name] == _EMBEDS else models[name]
        return indexes[embedder].search(question, top_k, reranker=reranker, candidates=candidates)

    columns = [_Column(name, find(name)) for name in systems or [rerank]]
    if as_json:
        print_json([row for column in columns for row in _build_rows(column, named=bool(systems))])
    elif systems:
        _print_columns(columns)
    elif rerank == _NONE:
        _print_columns([_Column("retrieved", columns[0].hits)])
    else:
        models[_NONE] = None
        _print_columns([_Column("before", find(_NONE)), _Column(f"after {rerank}", columns[0].hits)])


def _open_systems(names: Sequence[str], options: dict[str, Any], *, may_embed: bool) -> dict[str, Any]:
    """Open every reranker before anything is embedded: a wrong name costs nothing then.

    Returns:
        By name: a reranker, ``None`` for no reranking, or `_EMBEDS` for an embedder, which its index opens.
    """
    quieten()
    models: dict[str, Any] = {}
    for name in names:
        if name == _NONE:
            models[name] = None
        elif may_embed and _embeds(name):
            models[name] = _EMBEDS
        else:
            models[name] = open_model(name, kind="reranker", **options)
    return models


def _embeds(name: str) -> bool:
    with reserve_stdout():
        from fletching.models.loading import find_kind

        return find_kind(name) == _EMBEDS


def _split_systems(compare: str | None) -> list[str]:
    """Read ``A,B``; nothing when it was left out."""
    if compare is None:
        return []
    names = [name.strip() for name in compare.split(",")]
    if len(names) != 2 or not all(names):
        raise bad_argument(_OWNER, "--compare", "two models or none, as in none,mvp-mini", compare)
    return names


def _open_index(folder: Path, rebuild: bool, options: dict[str, Any]) -> Index:
    """Open the index of a folder, bring it up to date, and say what was done."""
    quieten()
    logging.getLogger("pypdf").addHandler(logging.NullHandler())  # what it repairs is of no use here

    from fletching.search import Index

    index = Index(folder, **{key: value for key, value in options.items() if value is not None})
    try:
        report = index.update(rebuild=rebuild, show_progress_bar=someone_watches())
    except KeyboardInterrupt:
        typer.echo("What is embedded is kept; the next run goes on from there.", err=True)
        raise
    for sentence in _word_report(report):
        typer.echo(sentence, err=True)
    return index


def _word_report(report: UpdateReport) -> list[str]:
    sentences = list(report.notes)
    sentences += [f"Skipped {name}: {reason}" for name, reason in report.skipped.items()]
    if report.embedded or report.changed or report.removed:
        sentences.append(
            f"{report.files} files, {report.passages} passages; {report.changed} files new or changed, "
            f"{report.removed} gone; {report.embedded} passages embedded, {report.reused} reused; "
            f"{report.seconds:.1f} s."
        )
    return [one_line(sentence) for sentence in sentences]


def _build_rows(column: _Column, *, named: bool) -> list[dict[str, Any]]:
    return [
        {**({"system": column.title} if named else {}), "rank": rank, **asdict(hit)}
        for rank, hit in enumerate(column.hits, start=1)
    ]


def _print_columns(columns: Sequence[_Column]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=True, expand=True)
    table.add_column("", justify="right", no_wrap=True)
    for column in columns:
        table.add_column(Text(one_line(column.title)), ratio=1)
    for index in range(max(len(column.hits) for column in columns)):
        cells = [
            _draw(column.hits[index], index + 1) if index < len(column.hits) else "" for column in columns
        ]
        table.add_row(str(index + 1), *cells)
    Console().print(table)


def _draw(hit: Hit, rank: int) -> Any:
    from rich.text import Text

    move = _word_move(hit.retrieval_rank - rank)
    place = " > ".join(part for part in (hit.file, hit.heading) if part)
    page = f", page {hit.page}" if hit.page else ""
    return Text.assemble(
        (move, "green" if "\N{UPWARDS ARROW}" in move else "dim"),
        (one_line(f"{place}{page}"), "bold"),
        (f"  {hit.score:.4g}\n", "dim"),
        one_line(hit.text, _SHOWN_CHARACTERS),
    )


def _word_move(places: int) -> str:
    if places > 0:
        return f"\N{UPWARDS ARROW}{places} "
    return f"\N{DOWNWARDS ARROW}{-places} " if places else ""
