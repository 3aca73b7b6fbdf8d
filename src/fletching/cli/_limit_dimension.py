"""``fletching limit dimension``: is my dimension enough?"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from fletching.cli._models import quieten, someone_watches
from fletching.cli._output import AsJson, print_json
from fletching.cli._plots import Plot, check_plot
from fletching.errors import bad_argument

__all__ = ["dimension"]

_OWNER = "fletching limit dimension"
_BEST_CASE = "best case reached by InfoNCE at T=0.1"
_COUNTLESS = 10**18  # documents; a bound beyond says nothing
_MAX_CELLS = 5_000_000  # queries times documents: at 384 dimensions some 0.3 s a step on two cores


def dimension(
    docs: Annotated[int | None, typer.Option(min=1, help="Documents of the collection.")] = None,
    k: Annotated[int, typer.Option(min=1, help="Relevant documents of a query.")] = 2,
    margin: Annotated[
        float, typer.Option(help="Half the gap between the worst relevant and the best other cosine.")
    ] = 0.1,
    dim: Annotated[int | None, typer.Option(min=1, help="Dimensions of your embedder.")] = None,
    qrels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your own judgements: can --dim dimensions return them?"),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="With --qrels: most steps of the optimiser.")] = 10_000,
    certify: Annotated[
        bool,
        typer.Option("--certify", help="With --qrels: ask a linear program about the queries that failed."),
    ] = False,
    seed: Annotated[int, typer.Option(help="With --qrels: of the free vectors.")] = 42,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Say whether a dimension is enough.

    A bound says what no model escapes, and what an optimiser reached, what to expect at best.
    """
    _check(docs, k, margin, dim, qrels, plot)
    check_plot(_OWNER, plot)
    relevance = _try_relevance(qrels, dim, steps, certify, seed) if qrels and dim else None
    answer = None if docs is None else _judge(docs, k, margin, dim)
    if plot is not None and docs is not None:
        from fletching.methods.limit import plot_dimension_bounds

        plot_dimension_bounds(docs, k, margin=margin, dim=dim).savefig(plot)
    if as_json:
        print_json({**(asdict(answer) if answer else {}), "relevance": relevance})
        return
    if relevance:
        typer.echo(relevance["answer"])
    if answer:
        typer.echo("\n".join(_word_answer(answer)))


def _check(
    docs: int | None, k: int, margin: float, dim: int | None, qrels: Path | None, plot: Path | None
) -> None:
    if docs is None and qrels is None:
        raise bad_argument(_OWNER, "--docs", "given, or --qrels", None)
    if docs is not None and k > docs:
        raise bad_argument(_OWNER, "--k", f"at most --docs, {docs}", k)
    if not 0 < margin <= 1:
        raise bad_argument(_OWNER, "--margin", "above 0 and at most 1", margin)
    if qrels is not None and dim is None:
        raise bad_argument(_OWNER, "--dim", "given with --qrels", None)
    if plot is not None and docs is None:
        raise bad_argument(_OWNER, "--plot", "left out without --docs", str(plot))


@dataclass(frozen=True)
class _Answer:
    """What is known about a dimension."""

    docs: int
    k: int
    margin: float
    dim: int | None
    verdict: str
    answer: str
    min_dim: int
    max_docs: int | None
    critical_n: dict[str, Any] | None
    critical_dim: dict[str, Any] | None
    best_case: str = _BEST_CASE


def _judge(docs: int, k: int, margin: float, dim: int | None) -> _Answer:
    """Hold the numbers against the dimension; k = 2 is all that the optimiser was measured on."""
    from fletching.methods.limit import critical_dim, critical_n, max_docs, min_dim

    needed = min_dim(docs, k, margin)
    reached = critical_n(dim) if dim is not None and k == 2 else None
    taken = critical_dim(docs) if k == 2 else None
    most = None
    if dim is not None and (k > _COUNTLESS or min_dim(_COUNTLESS, k, margin) > dim):
        most = max_docs(dim, k, margin)
    goal = f"{_word_sets(docs, k)} with a margin of {margin:g}"
    above = f"{dim} dimensions are not below the bound of {needed} for {goal}"
    if k == docs:
        verdict, answer = "trivial", "Yes: all documents are one set, which any dimension returns."
    elif dim is None:
        verdict, answer = "needed", f"At least {needed} dimensions: fewer cannot return {goal}, in any model"
        answer += f"; the {_BEST_CASE} took {_about('dimensions', *taken)}." if taken else "."
    elif dim < needed:
        verdict, answer = "ruled_out", f"No: every model needs at least {needed} dimensions for {goal}."
    elif reached is None:
        verdict = "not_ruled_out"
        answer = f"Not ruled out: {above}. What an optimiser reaches is known for k = 2 only."
    elif docs <= reached.n:
        verdict = "within_best_case"
        answer = f"Possibly: {above}, and the {_BEST_CASE} is {_about('documents', *reached)}. "
        answer += "A model that reads text may stay below it."
    else:
        verdict = "beyond_best_case"
        answer = f"Doubtful: {above}, but the {_BEST_CASE} is {_about('documents', *reached)}."
    return _Answer(
        *(docs, k, margin, dim, verdict, answer, needed, most),
        critical_n=reached._asdict() if reached else None,
        critical_dim=taken._asdict() if taken else None,
    )


def _word_answer(found: _Answer) -> list[str]:
    if found.verdict == "trivial":
        return [found.answer]
    sets, dims = _word_sets(found.docs, found.k), f"{found.dim} dimensions"
    width = max(len(sets), len(dims)) + 2
    lines = [found.answer, ""]
    lines.append(f"Bound for every model, margin {found.margin:g} (cosines {2 * found.margin:g} apart):")
    lines.append(f"  {sets:<{width}}at least {found.min_dim} dimensions")
    if found.dim is not None:
        most = "no bound below 10^18" if found.max_docs is None else f"at most {found.max_docs:,}"
        lines.append(f"  {dims:<{width}}{most} documents")
    if found.critical_dim:
        lines.append(f"{_BEST_CASE[0].upper()}{_BEST_CASE[1:]}, with free vectors; not a bound:")
        lines.append(f"  {sets:<{width}}{_about('dimensions', *found.critical_dim.values())}")
    if found.critical_n:
        lines.append(f"  {dims:<{width}}every pair of {_about('documents', *found.critical_n.values())}")
    return lines


def _word_sets(docs: int, k: int) -> str:
    what = {1: "each", 2: "every pair"}.get(k, f"every set of {k:,}")
    return f"{what} of {docs:,} documents"


def _about(noun: str, number: int, extrapolated: bool) -> str:
    """Word a number of the law; what is extrapolated is rounded to three digits."""
    if not extrapolated:
        return f"{number:,} {noun}"
    digits = max(0, len(str(number)) - 3)
    return f"about {round(number, -digits):,} {noun} (extrapolated)"


def _try_relevance(path: Path, dim: int, steps: int, certify: bool, seed: int) -> dict[str, Any]:
    """Fit free vectors to somebody's own judgements."""
    target, n_documents = _read_relevance(path)
    quieten()
    from fletching.methods.limit import FreeEmbeddingConfig, free_embeddings

    found = free_embeddings(
        target,
        dim,
        n_documents=n_documents,
        config=FreeEmbeddingConfig(max_iterations=steps, seed=seed),
        certify=certify,
        show_progress_bar=someone_watches(),
    )
    n_queries = len(target)
    possible = None if found.certified is None else int(found.certified.sum())
    is_enough = found.accuracy == 1.0 or possible == n_queries
    place = (
        f"for your relevance ({n_queries:,} queries, {n_documents:,} judged documents) in {dim} dimensions"
    )
    if found.accuracy == 1.0:
        answer = f"Yes, {place}: free vectors return all that is relevant on top."
    elif is_enough:
        answer = f"Yes, {place}: on the free vectors some query returns each set, by linear programming."
    else:
        answer = f"Not shown {place}: free vectors put {found.accuracy:.1%} of what is relevant on top in "
        answer += f"{found.iterations:,} steps, the {_BEST_CASE}. That rules nothing out."
        if possible is not None:
            answer += f" Some query returns {possible:,} of the {n_queries:,} sets, by linear programming."
    smallest = float(found.margins.min())
    return {
        "answer": answer,
        "is_enough": True if is_enough else None,
        "queries": n_queries,
        "documents": n_documents,
        "dim": dim,
        "accuracy": found.accuracy,
        "steps": found.iterations,
        "possible_sets": possible,
        "smallest_margin": smallest if math.isfinite(smallest) else None,
    }


def _read_relevance(path: Path) -> tuple[list[list[int]], int]:
    """Return the places of each query's relevant documents, and how many documents are judged."""
    from fletching.data import read_qrels

    qrels = read_qrels(path)
    places = {document: place for place, document in enumerate(sorted(set().union(*qrels.values())))}
    sets = [[places[key] for key, grade in grades.items() if grade > 0] for grades in qrels.values()]
    target = [relevant for relevant in sets if relevant]
    if not target:
        raise bad_argument(_OWNER, "--qrels", "judgements with a relevant document", str(path))
    if len(target) * len(places) > _MAX_CELLS:
        domain = f"at most {_MAX_CELLS:,} queries times documents"
        found = f"{len(target):,} times {len(places):,}"
        raise bad_argument(_OWNER, "--qrels", domain, found, "Judge by a part of the queries")
    return target, len(places)
