"""``fletching evaluate``: which system is better on these data, by how much, and at what cost?"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fletching.cli._models import quieten, someone_watches
from fletching.cli._output import AsJson, one_line, print_json, reserve_stdout
from fletching.cli._plots import Plot, check_plot
from fletching.errors import bad_argument

if TYPE_CHECKING:
    from fletching.evaluation import Comparison, EvaluationSet, STSSet

__all__ = ["command"]

_OWNER = "fletching evaluate"


def command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Run file, bm25, or an embedder or reranker: checkpoint name, folder or hub id.",
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="Folder of passages, queries and judgements (BEIR, MS MARCO, T2Ranking, Multi-CPR), lists "
            "in JSON lines, or sentence pairs in a tab-separated file."
        ),
    ],
    candidates: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="What a first stage found; else every system searches all passages."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Judgements to read; the only ones or test when left out.")
    ] = None,
    measures: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="ndcg_at_10,mrr_at_10,map,recall_at_100 when left out; also precision_at_k, ...",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What the others are compared with; else the first row."),
    ] = None,
    relevance_level: Annotated[
        int,
        typer.Option(min=1, help="Lowest grade that binary measures count; 2 for TREC DL and T2Ranking."),
    ] = 1,
    depth: Annotated[
        int | None,
        typer.Option(min=1, help="Passages that are searched for, or candidates that are ordered, by query."),
    ] = None,
    shuffle: Annotated[
        int | None,
        typer.Option(
            metavar="SEED", min=0, help="Hand candidates to rerankers in a random order, not best first."
        ),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, ...")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Keep results here; else in FLETCHING_CACHE, else in your cache folder."
        ),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep nothing, compute everything.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write the results, the table by query and run files here."),
    ] = None,
    plot: Plot = None,
    as_json: AsJson = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print comma-separated values instead of text.")
    ] = False,
) -> None:
    """Compare systems on judged queries: quality with intervals, and what it costs."""
    _check_options(as_json, as_csv, no_cache, cache, output=output, plot=plot)
    quieten()
    logging.getLogger("fletching").addHandler(
        logging.NullHandler()
    )  # the table counts what is cut and skipped

    from fletching.evaluation import STSSet

    options = {key: value for key, value in {"dtype": dtype, "device": device}.items() if value is not None}
    systems = _find_systems(models, data, options)
    settings = {
        "baseline": dict(zip(models, systems, strict=True)).get(baseline or "", baseline),
        "cache": None if no_cache else _find_cache(cache),
        "show_progress_bar": someone_watches(),
        **options,
    }
    read = _read(data, split, candidates, relevance_level)
    try:
        if isinstance(read, STSSet):
            given = {"--measures": measures, "--depth": depth, "--shuffle": shuffle}
            comparison = _compare_pairs(systems, read, given, settings)
        else:
            comparison = _compare(systems, read, measures, depth, shuffle, settings)
    except KeyboardInterrupt:
        if not no_cache:
            typer.echo("What is computed is kept; the same command goes on from there.", err=True)
        raise
    notes = _word_notes(comparison, read)
    if as_json or as_csv:
        _print_data(comparison, as_json)
        for note in notes:
            typer.echo(one_line(note), err=True)
    else:
        from fletching.cli._comparison import print_comparison

        print_comparison(comparison, [_word_conventions(comparison, read), *notes])
    _save(comparison, output, plot)


def _check_options(
    as_json: bool,
    as_csv: bool,
    no_cache: bool,
    cache: Path | None,
    *,
    output: Path | None,
    plot: Path | None,
) -> None:
    """Refuse what would fail after the work."""
    if as_json and as_csv:
        raise bad_argument(_OWNER, "--csv", "left out where --json is given", True)
    if no_cache and cache is not None:
        raise bad_argument(_OWNER, "--cache", "left out where --no-cache is given", str(cache))
    check_plot(_OWNER, plot)
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise bad_argument(_OWNER, "--output", "a folder that can be written", str(output)) from error


def _find_systems(models: Sequence[str], data: Path, options: dict[str, Any]) -> list[str]:
    """Find run files beside the data, too, and complain about a wrong name before anything is read."""
    from fletching.evaluation import find_system_kind
    from fletching.evaluation.data_set import find_beside

    systems = []
    for model in models:
        beside = find_beside(data, model)
        is_file = bool(beside.suffix) and beside.is_file()  # names of models have no ending, or no file
        systems.append(str(beside) if is_file else model)
        with reserve_stdout():
            find_system_kind(systems[-1], **options)
    return systems


def _find_cache(given: Path | None) -> Path:
    from fletching.models.caching import find_cache

    return given or find_cache() / "evaluations"


def _read(
    data: Path, split: str | None, candidates: Path | None, relevance_level: int
) -> EvaluationSet | STSSet:
    from fletching.evaluation import read_evaluation_set

    if data.is_file():
        for option, value in (("--split", split), ("--candidates", candidates)):
            if value is not None:
                raise bad_argument(_OWNER, option, f"left out: {data.name} is a file, no folder", str(value))
    return read_evaluation_set(
        data,
        split=split,
        candidates=candidates,
        relevance_level=relevance_level,
        show_progress_bar=someone_watches(),
    )


def _compare(
    systems: Sequence[str],
    data: EvaluationSet,
    measures: str | None,
    depth: int | None,
    shuffle: int | None,
    settings: dict[str, Any],
) -> Comparison:
    from fletching.evaluation import evaluate

    if measures is not None:
        settings["measures"] = [name.strip() for name in measures.split(",") if name.strip()]
    if depth is not None:
        settings |= {"depth": depth, "rerank_depth": depth}
    if shuffle is not None:
        settings |= {"order": "shuffled", "seed": shuffle}
    return evaluate(systems, data, **settings)


def _compare_pairs(
    systems: Sequence[str], data: STSSet, given: dict[str, Any], settings: dict[str, Any]
) -> Comparison:
    from fletching.evaluation import evaluate_sts

    for option, value in given.items():
        if value is not None:
            raise bad_argument(_OWNER, option, f"left out: {data.name} holds sentence pairs", value)
    return evaluate_sts(systems, data, **settings)


def _word_conventions(comparison: Comparison, data: EvaluationSet | STSSet) -> str:
    """Say what the figures are, in one line."""
    from fletching.evaluation import STSSet
    from fletching.evaluation.report import shorten_names

    names = shorten_names([result.name for result in comparison.results])
    level = next(iter(comparison.results[0].intervals.values())).level
    n = len(comparison.results[0].evaluation.query_ids)
    intervals = f"with {level:.0%} bootstrap intervals"
    if len(comparison.results) > 1:
        intervals += f"; below, the difference to {names[comparison.baseline]} (* where 0 is outside)"
    if isinstance(data, STSSet):
        return f"{comparison.data_name}: correlation over {n} pairs, {intervals}."
    sentence = (
        f"{comparison.data_name}: mean over {n} judged queries, {intervals}; equal scores by id; binary "
        f"measures count grades from {data.relevance_level}"
    )
    found = dict.fromkeys(result.first_stage for result in comparison.results if result.first_stage)
    stages = [names.get(name, name) for name in found]
    if stages:
        sentence += f"; first stage: recall of {', '.join(stages)}, whose candidates are ordered"
    if comparison.order == "shuffled" and stages:
        sentence += "; rerankers read them in a random order"
    return f"{sentence}."


def _word_notes(comparison: Comparison, data: EvaluationSet | STSSet) -> list[str]:
    """Say what was skipped, and what else a reader should know."""
    notes = [f"{comparison.data_name}: {count} {reason}." for reason, count in comparison.skipped.items()]
    notes += getattr(data, "notes", ())
    first = comparison.results[0].evaluation
    if first.n_without_relevant:
        notes.append(f"{first.n_without_relevant} judged queries have no relevant passage and count 0.")
    for result in comparison.results:
        found = result.evaluation
        if found.n_missing:
            notes.append(f"{result.name}: no answer to {found.n_missing} judged queries, which count 0.")
        if found.n_unjudged:
            notes.append(f"{result.name}: {found.n_unjudged} queries of the run without a judgement.")
    cached = [result.name for result in comparison.results if result.from_cache]
    if cached:
        notes.append(f"From an earlier run: {', '.join(cached)}.")
    return notes


def _print_data(comparison: Comparison, as_json: bool) -> None:
    from fletching.evaluation.report import describe_results, format_csv, tabulate_results

    if as_json:
        print_json(describe_results(comparison))
    else:
        typer.echo(format_csv(tabulate_results(comparison)), nl=False)


def _save(comparison: Comparison, output: Path | None, plot: Path | None) -> None:
    if output is not None:
        from fletching.evaluation import save_comparison

        saved = save_comparison(comparison, output)
        typer.echo(f"Wrote {len(saved)} files to {output}.", err=True)
    if plot is not None:
        from fletching.evaluation import plot_comparison

        plot_comparison(comparison).savefig(plot)
        typer.echo(f"Wrote {plot}.", err=True)
