"""Tables: with a header line, and the columns of run files and judgements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fletching.data.lines import StrPath, Words, no_records, read_lines
from fletching.errors import bad_record

__all__ = ["DOCUMENT", "QUERY", "RANK", "SCORE", "read_rows", "read_table", "simplify"]

Layout = tuple[int | None, ...]  # for each role the column that holds it

QUERY, DOCUMENT, RANK, SCORE = "query", "document", "rank", "score"
# What header lines call them, as `simplify` leaves it.
_ROLES = {
    **dict.fromkeys(["queryid", "qid", "query", "topic", "topicid"], QUERY),
    **dict.fromkeys(["corpusid", "docid", "docno", "documentid", "document", "pid", "passageid"], DOCUMENT),
    **dict.fromkeys(["rank", "index", "position"], RANK),
    **dict.fromkeys(["score", "label", "rel", "relevance", "level", "grade"], SCORE),
}


def read_table(path: StrPath, *, columns: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Read any tab-separated file with a header line, plain or gzipped, without quoting.

    Args:
        path: The file.
        columns: Columns that must be there.

    Yields:
        Name of the column -> field, for each row in the file's order.

    Raises:
        DataError: If the file or a record is malformed, a column is missing or named twice.
    """
    lines = read_lines(path)
    number, line = next(lines)
    names = line.split("\t")
    missing = [name for name in columns if name not in names]
    if missing or len(set(names)) < len(names):
        domain = f"a header with {', '.join(missing)}" if missing else "a header with different names"
        raise bad_record(path, number, None, domain, Words(", ".join(names)))
    is_empty = True
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) != len(names):
            found = Words(f"{len(fields)}: {line[:40]!r}")
            raise bad_record(path, number, None, f"a row of {len(names)} columns, as the header has", found)
        is_empty = False
        yield dict(zip(names, fields, strict=True))
    if is_empty:
        raise no_records(path)


def read_rows(
    path: StrPath, roles: Sequence[str], layouts: Mapping[int, Layout]
) -> Iterator[tuple[int, list[str | None]]]:
    """Yield the rows of a table of ids and numbers.

    Columns are separated by tabs or, where the first line makes no sense so, by white space. A first line
    that names a query column, a document column and, beside them, a rank or score is a header; it decides
    what the columns are. Without one their number does.

    Args:
        path: The file.
        roles: What to return, such as ``("query", "document", "score")``; query and document come first.
        layouts: For each number of columns, where the roles stand; ``None`` for a role that is absent.

    Yields:
        The line's number, from 1, and one field for each role; ``None`` where the file has no such column.

    Raises:
        DataError: If the number of columns is none of the layouts', or changes, or an id is blank.
    """
    lines = read_lines(path)
    number, first = next(lines)
    separator: str | None = "\t"
    fields = first.split(separator)
    if len(fields) not in layouts and not _read_header(fields, roles):
        separator = None
        fields = first.split(separator)
    size = len(fields)
    named = _read_header(fields, roles)
    if named is None and size not in layouts:
        columns = ", ".join(map(str, sorted(layouts)))
        found = Words(f"{size}: {first[:40]!r}")
        raise bad_record(path, number, None, f"a row with one of these numbers of columns: {columns}", found)
    layout = named or layouts[size]
    if named is None:
        yield number, _pick(path, number, fields, layout)
    for number, line in lines:
        fields = line.split(separator)
        if len(fields) != size:
            found = Words(f"{len(fields)}: {line[:40]!r}")
            raise bad_record(path, number, None, f"a row of {size} columns, as the first one is", found)
        yield number, _pick(path, number, fields, layout)


def simplify(name: str) -> str:
    """Drop what the spellings of a column's name differ in.

    Args:
        name: The name.

    Returns:
        The name in lower case, without ``-``, ``_`` and spaces.

    Example:
        >>> simplify("Query-ID"), simplify("query_id")
        ('queryid', 'queryid')
    """
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _read_header(fields: Sequence[str], roles: Sequence[str]) -> Layout | None:
    """Find the roles in a header line; ``None`` when the line does not name query, document and a number."""
    names = [_ROLES.get(simplify(field)) for field in fields]
    if QUERY not in names or DOCUMENT not in names:
        return None
    if len(fields) > 2 and not any(role in names for role in roles[2:]):
        return None
    return tuple(names.index(role) if role in names else None for role in roles)


def _pick(path: StrPath, number: int, fields: Sequence[str], layout: Layout) -> list[str | None]:
    picked = [None if at is None else fields[at] for at in layout]
    query, document, *_ = picked
    if not query or query.isspace():
        raise bad_record(path, number, QUERY, "a non-empty id", query)
    if not document or document.isspace():
        raise bad_record(path, number, DOCUMENT, "a non-empty id", document)
    return picked
