"""``fletching demo``: does reranking help on my documents?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fletching.cli._models import open_model, rank_by_similarity, someone_watches
from fletching.cli._output import AsJson, one_line, print_json
from fletching.errors import bad_argument, bad_record
from fletching.text.passages import Passage, split_markdown

__all__ = ["command"]

_OWNER = "fletching demo"
_RERANKER = "mvp-mini"
_RETRIEVED = 20
_SHOWN = 5
_DIRECTIVE = ":::"  # where mkdocstrings puts the reference: nothing to read yet
_QUESTIONS = (
    "What happens to a document that is too long?",
    "Why can I not compare the scores of two lists?",
    "Which model folders are refused?",
)


@dataclass(frozen=True)
class _Hit:
    """A passage at its place in a ranking, and at its place in the first one."""

    rank: int
    score: float
    retrieved_at: int
    source: str
    heading: str
    text: str


@dataclass(frozen=True)
class _Comparison:
    """What was retrieved for a question, and the same hits reranked."""

    question: str
    before: list[_Hit]
    after: list[_Hit]


def command(
    questions: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUESTION", help="What to ask; some questions about fletching when left out."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Read its Markdown files instead of README.md and docs/ of this one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search Markdown files; show the passages before and after."""
    from fletching.models.inputs import check_query
    from fletching.models.minilm import find_minilm

    if folder is not None and not questions:
        raise bad_argument(_OWNER, "QUESTION", "given with --folder", None, "Ask what your files answer")
    asked = [check_query(_OWNER, "QUESTION", question) for question in questions or _QUESTIONS]
    passages = [passage for path in _find_files(folder) for passage in _read_passages(path)]
    if not passages:
        remedy = "Run it where README.md and docs/ are, or pass --folder"
        raise bad_argument(
            _OWNER, "--folder", "a folder with Markdown files", str(folder or Path.cwd()), remedy
        )
    embedder, reranker = open_model(find_minilm()), open_model(_RERANKER)
    comparisons = _compare(asked, passages, embedder, reranker)
    if as_json:
        print_json([asdict(comparison) for comparison in comparisons])
    else:
        _print_comparisons(comparisons, len(passages))


def _find_files(folder: Path | None) -> Iterator[Path]:
    """Yield the Markdown files in a stable order, without hidden folders."""
    if folder is None:
        yield from (path for path in [Path("README.md")] if path.is_file())
        folder = Path("docs")
    for path in sorted(folder.rglob("*.md")):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _read_passages(path: Path) -> list[Passage]:
    try:
        passages = split_markdown(path.read_text(encoding="utf-8"), source=path.as_posix())
    except OSError as error:
        raise bad_record(path, None, None, "readable", error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise bad_record(path, None, None, "text in UTF-8", error.reason) from error
    return [passage for passage in passages if not passage.text.startswith(_DIRECTIVE)]


def _compare(
    questions: Sequence[str], passages: Sequence[Passage], embedder: Any, reranker: Any
) -> list[_Comparison]:
    """Retrieve passages for each question, and rerank them; both models read a passage below its headings."""
    texts = [f"{passage.heading}\n{passage.text}".strip() for passage in passages]
    embeddings = embedder.encode_document(texts, show_progress_bar=someone_watches())
    retrieved = [
        rank_by_similarity(embedder, question, embeddings, top_k=_RETRIEVED) for question in questions
    ]
    candidates = [[texts[hit["corpus_id"]] for hit in hits] for hits in retrieved]
    comparisons = []
    for question, hits, ranking in zip(
        questions, retrieved, reranker.rank_batch(questions, candidates), strict=True
    ):
        before = []
        for rank, hit in enumerate(hits, start=1):
            passage = passages[hit["corpus_id"]]
            before.append(_Hit(rank, hit["score"], rank, passage.source, passage.heading, passage.text))
        after = [
            replace(before[hit["corpus_id"]], rank=rank, score=hit["score"])
            for rank, hit in enumerate(ranking, start=1)
        ]
        comparisons.append(_Comparison(question, before, after))
    return comparisons


def _print_comparisons(comparisons: Sequence[_Comparison], n_passages: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for comparison in comparisons:
        title = Text(comparison.question, style="bold")
        table = Table(title=title, title_justify="left", show_lines=True, expand=True)
        table.add_column("", justify="right", no_wrap=True)
        table.add_column("before: all-MiniLM-L6-v2", ratio=1)
        table.add_column("after: mvp-mini", ratio=1)
        for left, right in zip(comparison.before[:_SHOWN], comparison.after[:_SHOWN], strict=True):
            table.add_row(str(left.rank), _draw(left, ""), _draw(right, _word_move(right)))
        console.print(table)
        console.print()
    console.print(f"{n_passages} passages, the best {_RETRIEVED} reranked, the best {_SHOWN} shown.")


def _draw(hit: _Hit, move: str) -> Any:
    from rich.text import Text

    place = f"{hit.source} > {hit.heading}" if hit.heading else hit.source
    return Text.assemble(
        (move, "green" if "\N{UPWARDS ARROW}" in move else "dim"),
        (one_line(place), "bold"),
        "\n",
        one_line(hit.text, 160),
    )


def _word_move(hit: _Hit) -> str:
    moved = hit.retrieved_at - hit.rank
    if moved > 0:
        return f"\N{UPWARDS ARROW}{moved} "
    return f"\N{DOWNWARDS ARROW}{-moved} " if moved else ""
