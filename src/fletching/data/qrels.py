"""Relevance judgements: query id -> document id -> grade."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from pathlib import Path

from fletching.data.lines import (
    StrPath,
    check_known,
    no_records,
    parse_number,
    read_json_id,
    read_json_lines,
    write_lines,
)
from fletching.data.tables import DOCUMENT, QUERY, SCORE, read_rows
from fletching.errors import bad_argument, bad_record

__all__ = ["Qrels", "check_id", "read_qrels", "write_qrels"]

Qrels = dict[str, dict[str, int]]

_LAYOUTS = {2: (0, 1, None), 3: (0, 1, 2), 4: (0, 2, 3)}
_QUERY, _DOCUMENT, _GRADE = "query-id", "corpus-id", "score"  # as BEIR names them
_MAX_GRADE = 1000  # trec_eval makes a table with a place for every grade up to the highest


def read_qrels(
    path: StrPath,
    *,
    query_ids: Container[str] | None = None,
    document_ids: Container[str] | None = None,
) -> Qrels:
    """Read judgements.

    Layouts, with tabs or spaces, with or without a header line, plain or gzipped:

    - TREC, MS MARCO, Multi-CPR, T2Ranking: query id, iteration, document id, grade
    - BEIR: query id, document id, grade
    - T2Ranking's retrieval part: query id, document id, where all that is listed is relevant (grade 1)
    - ``.jsonl`` (LIMIT): ``{"query-id", "corpus-id", "score"}``

    Args:
        path: The file.
        query_ids: The queries that exist; another one is an error. ``None`` takes all.
        document_ids: The documents that exist; another one is an error. ``None`` takes all: judgements of
            documents outside the collection count for the ideal ranking.

    Returns:
        Query id -> document id -> grade, in the file's order.

    Raises:
        DataError: If the file or a record is malformed, a document is judged twice for a query, or an id is
            unknown; the text names file and line.
    """
    qrels: Qrels = {}
    for number, query, document, grade in _read_grades(path):
        check_known(path, number, QUERY, query, query_ids)
        check_known(path, number, DOCUMENT, document, document_ids)
        grades = qrels.setdefault(query, {})
        if document in grades:
            domain = f"judged once for query {query!r}"
            raise bad_record(path, number, DOCUMENT, domain, document)
        grades[document] = grade
    if not qrels:
        raise no_records(path)
    return qrels


def write_qrels(path: StrPath, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write judgements that `read_qrels` and trec_eval read.

    Args:
        path: The file. ``.tsv`` is BEIR's layout with its header line, everything else TREC's four columns;
            a further ``.gz`` compresses.
        qrels: Query id -> document id -> grade.

    Raises:
        ArgumentError: If an id is empty or holds what separates columns, or a grade is no whole number.
    """
    is_table = str(path).removesuffix(".gz").endswith(".tsv")
    write_lines(path, _format(qrels, is_table))


def _format(qrels: Mapping[str, Mapping[str, int]], is_table: bool) -> Iterator[str]:
    if is_table:
        yield "\t".join((_QUERY, _DOCUMENT, _GRADE))
    for query, grades in qrels.items():
        check_id("write_qrels", "qrels", query, is_table)
        for document, grade in grades.items():
            check_id("write_qrels", "qrels", document, is_table)
            if not isinstance(grade, int) or abs(grade) > _MAX_GRADE:
                raise bad_argument("write_qrels", "qrels", f"whole grades up to {_MAX_GRADE}", grade)
            yield f"{query}\t{document}\t{grade:d}" if is_table else f"{query} 0 {document} {grade:d}"


def check_id(owner: str, parameter: str, value: object, is_table: bool) -> None:
    """Refuse an id that would not come back from the file it is written to.

    Args:
        owner: The writer.
        parameter: The parameter that holds the id.
        value: The id.
        is_table: Whether tabs separate the columns; any white space does otherwise.

    Raises:
        ArgumentError: If it would not.
    """
    if not isinstance(value, str) or not value.strip():
        raise bad_argument(owner, parameter, "ids that are non-empty strings", value)
    if is_table and any(mark in value for mark in "\t\r\n"):
        raise bad_argument(owner, parameter, "ids without tabs and line ends", value)
    if not is_table and len(value.split()) + value[0].isspace() + value[-1].isspace() != 1:
        remedy = "A file that ends in .tsv takes ids with spaces."
        raise bad_argument(owner, parameter, "ids without white space", value, remedy)


def _read_grades(path: StrPath) -> Iterator[tuple[int, str, str, int]]:
    if Path(str(path).removesuffix(".gz")).suffix == ".jsonl":
        for number, record in read_json_lines(path):
            query, document = (read_json_id(path, number, record, key) for key in (_QUERY, _DOCUMENT))
            yield number, query, document, _parse_grade(path, number, record.get(_GRADE))
        return
    for number, (query_id, document_id, grade) in read_rows(path, (QUERY, DOCUMENT, SCORE), _LAYOUTS):
        assert query_id is not None  # every layout has both
        assert document_id is not None
        yield number, query_id, document_id, 1 if grade is None else _parse_grade(path, number, grade)


def _parse_grade(path: StrPath, number: int, value: object) -> int:
    grade = parse_number(path, number, "grade", value)
    if not grade.is_integer() or abs(grade) > _MAX_GRADE:
        raise bad_record(path, number, "grade", f"a whole number up to {_MAX_GRADE}", value)
    return int(grade)
