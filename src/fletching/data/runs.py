"""Runs: what a system returned for each query, as query id -> document id -> score."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping

from fletching.data.lines import StrPath, check_known, no_records, parse_number, write_lines
from fletching.data.qrels import check_id
from fletching.data.tables import DOCUMENT, QUERY, RANK, SCORE, read_rows
from fletching.errors import bad_argument, bad_choice, bad_record

__all__ = ["LAYOUTS", "Run", "read_run", "stream_run", "write_run"]

Run = dict[str, dict[str, float]]

LAYOUTS = {3: (0, 1, 2, None), 4: (0, 1, 2, 3), 6: (0, 2, 3, 4)}
"""For each number of columns of a run, where query, document, rank and score stand."""
_HEADER = ("query-id", "corpus-id", "rank", "score")
_ORDERS = ("score", "rank")


def read_run(
    path: StrPath,
    *,
    order_by: str = "score",
    query_ids: Container[str] | None = None,
    document_ids: Container[str] | None = None,
) -> Run:
    """Read a run.

    Layouts, with tabs or spaces, with or without a header line, plain or gzipped:

    - TREC: query id, ``Q0``, document id, rank, score, name of the run
    - query id, document id, rank, score
    - MS MARCO and T2Ranking: query id, document id, rank
    - columns in any order under a header line: ``query-id``, ``corpus-id``, ``rank``, ``score`` or the like

    Args:
        path: The file.
        order_by: ``"score"`` reads the score, as trec_eval does, and the rank where a file has no score;
            ``"rank"`` reads the rank: right where scores were rounded and equal ones stand in the right
            order. A rank becomes its negative, so that higher is better.
        query_ids: The queries that exist; another one is an error. ``None`` takes all.
        document_ids: The documents that exist; another one is an error. ``None`` takes all.

    Returns:
        Query id -> document id -> score, in the file's order. Rows of a query need not stand together.

    Raises:
        ArgumentError: If ``order_by`` is neither.
        DataError: If the file or a record is malformed, a score is no finite number, a document is returned
            twice for a query, or an id is unknown; the text names file and line.
    """
    run: Run = {}
    for number, query, document, score in _read_scores("read_run", path, order_by):
        check_known(path, number, QUERY, query, query_ids)
        check_known(path, number, DOCUMENT, document, document_ids)
        _add(path, number, query, run.setdefault(query, {}), document, score)
    if not run:
        raise no_records(path)
    return run


def stream_run(path: StrPath, *, order_by: str = "score") -> Iterator[tuple[str, dict[str, float]]]:
    """Read a run query by query: for files that do not fit into memory, such as T2Ranking's 200 million rows.

    Args:
        path: The file, in the layouts of `read_run`; the rows of a query stand together.
        order_by: As in `read_run`.

    Yields:
        A query id, and its document id -> score.

    Raises:
        ArgumentError: If ``order_by`` is neither ``"score"`` nor ``"rank"``.
        DataError: As `read_run`, and if a query comes back after another one.
    """
    done: set[str] = set()
    current, scores = "", dict[str, float]()
    for number, query, document, score in _read_scores("stream_run", path, order_by):
        if query != current:
            if scores:
                yield current, scores
            done.add(current)
            if query in done:
                remedy = "Sort the file by query, or use read_run."
                raise bad_record(path, number, QUERY, "in rows that stand together", query, remedy)
            current, scores = query, {}
        _add(path, number, query, scores, document, score)
    if not scores:
        raise no_records(path)
    yield current, scores


def write_run(path: StrPath, run: Mapping[str, Mapping[str, float]], *, tag: str = "fletching") -> None:
    """Write a run that `read_run` and trec_eval read.

    Documents are written best first; of equal scores the smaller id stands first.

    Args:
        path: The file. ``.tsv`` has a header line and the columns query-id, corpus-id, rank, score;
            everything else has TREC's six columns; a further ``.gz`` compresses.
        run: Query id -> document id -> score. Queries without documents leave no trace.
        tag: Name of the run, the last of the six columns.

    Raises:
        ArgumentError: If an id or ``tag`` is empty or holds what separates columns, or a score is not finite.
    """
    is_table = str(path).removesuffix(".gz").endswith(".tsv")
    check_id("write_run", "tag", tag, is_table=False)
    write_lines(path, _format(run, tag, is_table))


def _format(run: Mapping[str, Mapping[str, float]], tag: str, is_table: bool) -> Iterator[str]:
    if is_table:
        yield "\t".join(_HEADER)
    for query, scores in run.items():
        check_id("write_run", "run", query, is_table)
        for document, score in scores.items():
            check_id("write_run", "run", document, is_table)
            if not math.isfinite(score):
                raise bad_argument("write_run", "run", "finite scores", score)
        ranked = sorted(sorted(scores), key=scores.__getitem__, reverse=True)
        for rank, document in enumerate(ranked, start=1):
            score = float(scores[document])
            if is_table:
                yield f"{query}\t{document}\t{rank}\t{score!r}"
            else:
                yield f"{query} Q0 {document} {rank} {score!r} {tag}"


def _add(
    path: StrPath, number: int, query: str, scores: dict[str, float], document: str, score: float
) -> None:
    if document in scores:
        raise bad_record(path, number, DOCUMENT, f"returned once for query {query!r}", document)
    scores[document] = score


def _read_scores(owner: str, path: StrPath, order_by: str) -> Iterator[tuple[int, str, str, float]]:
    if order_by not in _ORDERS:
        raise bad_choice(owner, "order_by", _ORDERS, order_by)
    for number, (query, document, rank, score) in read_rows(path, (QUERY, DOCUMENT, RANK, SCORE), LAYOUTS):
        assert query is not None  # every layout has both
        assert document is not None
        if score is None or (rank is not None and order_by == "rank"):
            yield number, query, document, -_parse_rank(path, number, rank)
        else:
            yield number, query, document, parse_number(path, number, SCORE, score)


def _parse_rank(path: StrPath, number: int, value: object) -> float:
    rank = parse_number(path, number, RANK, value)
    if not rank.is_integer() or rank < 0:
        raise bad_record(path, number, RANK, "a whole number", value)
    return rank
