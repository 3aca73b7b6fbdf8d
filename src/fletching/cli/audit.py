"""``fletching audit``: does the model keep its promises?"""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fletching.cli._models import open_model, quieten, someone_watches
from fletching.cli._output import AsJson, one_line, print_json
from fletching.errors import bad_argument

if TYPE_CHECKING:
    from fletching.evaluation.audit import AuditReport

__all__ = ["command"]

_OWNER = "fletching audit"
_COLOURS = {"ok": "green", "note": "yellow", "fault": "bold red", "skipped": "dim"}
_PACKAGE = Path(__file__).resolve().parents[1]


def command(
    model: Annotated[str, typer.Argument(help="Checkpoint name, folder or hub id; reranker or embedder.")],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Folder with queries, passages and judgements, or JSON lines with labelled candidates; "
            "lists of fletching's own when left out.",
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Which judgements of the folder to read.")] = None,
    candidates: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Run file: the lists that a first stage found.")
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write the report into the README of this folder; MODEL, if it is one."
        ),
    ] = None,
    no_card: Annotated[bool, typer.Option("--no-card", help="Write no model card.")] = False,
    max_lists: Annotated[int, typer.Option(min=1, help="Lists to draw.")] = 20,
    max_documents: Annotated[int, typer.Option(min=2, help="Passages to draw for each list.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Decides what is drawn, and how it is shuffled.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, ...")] = None,
    as_json: AsJson = False,
) -> None:
    """Shuffle, cut, copy, pad and thread lists; report what moves.

    Exits with status 1 when a fault was found. The report goes into the model card where MODEL is a folder.
    """
    folder = _find_card_folder(model, card, no_card)
    quieten()
    logging.getLogger("fletching").addHandler(logging.NullHandler())  # the report counts what was cut

    from fletching.evaluation.audit import audit, write_audit

    lists = _read_data(data, split, candidates)
    opened = open_model(model, dtype=dtype, device=device)
    report = audit(
        opened,
        lists,
        seed=seed,
        max_lists=max_lists,
        max_documents=max_documents,
        show_progress_bar=someone_watches(),
    )
    report = replace(report, model=model)
    if as_json:
        print_json(asdict(report))
    else:
        _print_report(report)
    if folder is not None:
        typer.echo(f"The report is in {write_audit(folder, report)}.", err=True)
    if report.faults:
        raise typer.Exit(1)


def _find_card_folder(model: str, card: Path | None, no_card: bool) -> Path | None:
    """Decide where the report goes, before anything is computed; never into the installed package."""
    if card is not None:
        if no_card:
            raise bad_argument(_OWNER, "--card", "left out together with --no-card", str(card))
        if not card.is_dir() or card.resolve().is_relative_to(_PACKAGE):
            raise bad_argument(_OWNER, "--card", "a folder outside of the installed package", str(card))
        return card
    folder = Path(model)
    if no_card or not folder.is_dir() or folder.resolve().is_relative_to(_PACKAGE):
        return None
    return folder


def _read_data(data: Path | None, split: str | None, candidates: Path | None) -> Any:
    """Read the lists; ``None`` for fletching's own."""
    if data is None:
        for option, value in (("--split", split), ("--candidates", candidates)):
            if value is not None:
                raise bad_argument(_OWNER, option, "left out without --data", str(value))
        return None

    from fletching.evaluation.data_set import EvaluationSet, read_evaluation_set

    found = read_evaluation_set(data, split=split, candidates=candidates, show_progress_bar=someone_watches())
    if not isinstance(found, EvaluationSet):
        raise bad_argument(_OWNER, "--data", "queries with passages, not sentence pairs", str(data))
    return found


def _print_report(report: AuditReport) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from fletching.evaluation.audit.report import show_number, show_slice

    console = Console(highlight=False)
    console.print(Text(one_line(f"{report.model}: {' '.join(report.describe())}")))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("probe", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("bound", justify="right", no_wrap=True)
    table.add_column("what was found", ratio=1)
    for probe in report.probes:
        table.add_row(
            Text(probe.verdict, style=_COLOURS[probe.verdict]),
            probe.name,
            show_number(probe.value),
            show_number(probe.bound),
            Text(one_line(probe.sentence)),
        )
    console.print(table)
    if report.slices:
        slices = Table(box=box.SIMPLE_HEAD)
        slices.add_column("slice")
        slices.add_column("")
        for heading in ("queries", "passages", "nDCG@10", "score", "grade", "tokens lost"):
            slices.add_column(heading, justify="right")
        for part in report.slices:
            slices.add_row(*map(Text, show_slice(part)))
        console.print(slices)
    for remark in report.remarks:
        console.print(Text(one_line(remark)))
    console.print(Text(report.summary(), style=_COLOURS["fault" if report.faults else "ok"]))
