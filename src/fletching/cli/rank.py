"""``fletching rank``: order candidates from files or a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fletching.cli._models import open_model, rank_by_similarity, someone_watches
from fletching.cli._output import AsJson, one_line, print_json
from fletching.errors import bad_argument, bad_record

__all__ = ["command"]

_STDIN = Path("-")
_JSON_SUFFIXES = (".json", ".jsonl")
_OWNER = "fletching rank"


@dataclass(frozen=True)
class _Candidate:
    text: str
    title: str = ""
    id: str | int | None = None

    @property
    def passage(self) -> str:
        """What the model reads."""
        return f"{self.title} {self.text}".strip() if self.title else self.text


def command(
    query: Annotated[str, typer.Argument(help="What the candidates are ranked for.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            help='One candidate a line, or JSON lines with "text" and, if you like, "id" and "title"; '
            "standard input when there is no FILE, or for -.",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Checkpoint name, folder or hub id; an embedder ranks by similarity.")
    ] = "mvp-mini",
    top_k: Annotated[int | None, typer.Option(min=1, help="Print only the best of them.")] = None,
    scores: Annotated[
        Literal["logit", "probability"] | None, typer.Option(help="Raw scores, or their sigmoid.")
    ] = None,
    long: Annotated[
        Literal["truncate", "chunk_max"] | None,
        typer.Option(help="Cut a candidate that does not fit, or score it in chunks and take the best."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, ...")] = None,
    as_json: AsJson = False,
) -> None:
    """Rank candidates for a query."""
    from fletching.models.inputs import check_query

    query = check_query(_OWNER, "query", query)
    candidates = []
    blank = 0
    for path in files or [_STDIN]:
        found = list(_read_candidates(path))
        candidates += [candidate for candidate in found if candidate is not None]
        blank += found.count(None)
    hits = _rank(query, candidates, open_model(model, dtype=dtype, device=device), top_k, scores, long)
    rows = [
        {
            "rank": rank,
            "score": hit["score"],
            "position": hit["corpus_id"] + 1,
            "id": candidates[hit["corpus_id"]].id,
            "text": candidates[hit["corpus_id"]].text,
        }
        for rank, hit in enumerate(hits, start=1)
    ]
    if as_json:
        print_json(rows)
    else:
        _print_table(rows)
    if blank:
        typer.echo(f"Skipped {blank} blank {'line' if blank == 1 else 'lines'}.", err=True)


def _rank(
    query: str,
    candidates: list[_Candidate],
    model: Any,
    top_k: int | None,
    scores: str | None,
    long: str | None,
) -> list[dict[str, Any]]:
    passages = [candidate.passage for candidate in candidates]
    watched = someone_watches()
    if hasattr(model, "rank"):
        ranking: list[dict[str, Any]] = model.rank(
            query, passages, top_k, show_progress_bar=watched, scores=scores, long=long
        )
        return ranking
    for option, value in (("--scores", scores), ("--long", long)):
        if value is not None:
            raise bad_argument(_OWNER, option, "left out: the model is an embedder", value)
    embeddings = model.encode_document(passages, show_progress_bar=watched)
    return rank_by_similarity(model, query, embeddings, top_k=top_k)


def _read_candidates(path: Path) -> Iterator[_Candidate | None]:
    """Yield the candidates of one file, ``None`` for a blank line."""
    source = "<stdin>" if path == _STDIN else str(path)
    lines = _read_text(path, source).split("\n")
    if not lines[-1]:
        lines.pop()  # the last line ends with a line feed, or the file is empty
    first = next((line for line in lines if line.strip()), "")
    as_json = path.suffix in _JSON_SUFFIXES or isinstance(_parse_json(first), dict)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            yield None
        else:
            yield _read_record(source, number, line) if as_json else _Candidate(line.removesuffix("\r"))


def _read_text(path: Path, source: str) -> str:
    try:
        content = _read_stdin() if path == _STDIN else path.read_bytes()
    except OSError as error:
        raise bad_record(source, None, None, "readable", error.strerror or str(error)) from error
    zero = content.find(b"\0")
    if zero >= 0:
        raise bad_record(source, None, None, "text", f"a zero byte at offset {zero}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte {content[error.start]:#x} at offset {error.start}"
        raise bad_record(source, None, None, "text in UTF-8", found) from error


def _read_stdin() -> bytes:
    if sys.stdin is None:
        raise OSError("it is closed")
    if sys.stdin.isatty():
        typer.echo("Reading candidates from the keyboard, one a line; Ctrl-D ends them.", err=True)
    return sys.stdin.buffer.read()


def _read_record(source: str, number: int, line: str) -> _Candidate:
    record = _parse_json(line)
    if not isinstance(record, dict):
        raise bad_record(source, number, None, 'a JSON object with "text"', line, "Write one object a line")
    text: Any = record.get("text")
    title, identifier = record.get("title") or "", record.get("id")
    for field, kinds, domain, value in (
        ("text", str, "a string", text),
        ("title", str, "a string", title),
        ("id", (str, int, type(None)), "a string or an integer", identifier),
    ):
        if not isinstance(value, kinds):
            raise bad_record(source, number, field, domain, value)
    return _Candidate(text, title, identifier)


def _parse_json(line: str) -> Any:
    """Parse one line; what is not JSON comes back as it is."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("position", justify="right", no_wrap=True)
    table.add_column("id", overflow="ellipsis", no_wrap=True)
    table.add_column("text", overflow="ellipsis", no_wrap=True, ratio=1)
    for row in rows:
        name = "" if row["id"] is None else str(row["id"])
        table.add_row(
            str(row["rank"]),
            f"{row['score']:.4f}",
            str(row["position"]),
            Text(one_line(name)),
            Text(one_line(row["text"])),
        )
    Console().print(table)
