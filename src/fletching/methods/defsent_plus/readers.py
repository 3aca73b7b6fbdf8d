"""Definitions out of files: tables, the files of WordNet, the Open English WordNet as JSON lines."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fletching.data.lines import StrPath, Words, no_records, read_json_lines, read_lines
from fletching.data.tables import read_table, simplify
from fletching.errors import bad_argument, bad_choice, bad_record

__all__ = [
    "SEPARATOR",
    "clean_definition",
    "clean_entry",
    "parse_gloss_line",
    "read_lemmas",
    "read_pairs",
    "read_wordnet",
    "read_words",
    "spell_lemma",
]

SEPARATOR = "<|list_more_def|>"
"""What stands between the definitions of one line, as in the authors' files."""

_OWNER = "DefinitionSet"
_GZIP = b"\x1f\x8b"
_ENTRY, _DEFINITION = "entry", "definition"
# What header lines call the columns, as `simplify` leaves it.
_NAMES = {
    **dict.fromkeys(["entry", "word", "lemma", "headword", "term"], _ENTRY),
    **dict.fromkeys(["definition", "definitions", "gloss", "meaning"], _DEFINITION),
}
_MARKER = re.compile(r"\((?:a|p|ip)\)$")  # where an adjective may stand
_QUOTED = re.compile(r"`` (.*?)''")
_CLEANING = ((" .", "."), (" ,", ","), (" ;", ";"), ("( ", "("), (" )", ")"), (" '", "'"))

Pair = tuple[str, str]


def clean_definition(definition: str) -> str:
    """Undo the tokenization of the files of Ishiwatari et al. (2019), as the code of DefSent does.

    No space before ``. , ; ) '`` and after ``(``; what stands between two backticks and two apostrophes
    loses them and gets a capital.

    Args:
        definition: The definition as it is in the file.

    Returns:
        The definition.

    Example:
        >>> clean_definition("( of a bow ) drawn , as in `` full draw''")
        '(of a bow) drawn, as in Full draw'
    """
    for old, new in _CLEANING:
        definition = definition.replace(old, new)
    return _QUOTED.sub(lambda found: found.group(1).capitalize(), definition).strip()


def parse_gloss_line(line: str) -> tuple[list[str], str]:
    """Take a line of ``data.noun`` and its like apart.

    Left of ``|`` the fourth field is the number of lemmas, in hexadecimal, then come the lemmas, each with a
    number behind it. Right of it stands the gloss.

    Args:
        line: The line.

    Returns:
        The lemmas, without the markers ``(a)``, ``(p)`` and ``(ip)`` and with spaces for underscores; the
        definition, which is the gloss up to the first ``; "``, where the examples begin.

    Raises:
        ValueError: If it is no such line.

    Example:
        >>> parse_gloss_line('00001740 00 a 02 able 0 fit(p) 0 000 | having the power; "able to swim"')
        (['able', 'fit'], 'having the power')
    """
    left, bar, gloss = line.partition("|")
    fields = left.split()
    if not bar or len(fields) < 6:
        raise ValueError("it has no gloss, or too few fields")
    count = int(fields[3], 16)
    lemmas = fields[4 : 4 + 2 * count : 2]
    if count < 1 or len(lemmas) < count:
        raise ValueError(f"it has fewer lemmas than the {count} it counts")
    return [spell_lemma(lemma) for lemma in lemmas], gloss.split('; "')[0].strip()


def spell_lemma(lemma: str) -> str:
    """Write a lemma of WordNet as people do.

    Args:
        lemma: The lemma, perhaps with a marker.

    Returns:
        The lemma without ``(a)``, ``(p)`` or ``(ip)`` at its end, and with spaces for underscores.

    Example:
        >>> spell_lemma("full_draw"), spell_lemma("fit(p)")
        ('full draw', 'fit')
    """
    return _MARKER.sub("", lemma).replace("_", " ")


def clean_entry(entry: str) -> str:
    """Drop what names the sense in the files of Ishiwatari et al. (2019).

    Args:
        entry: The entry, such as ``bow%noun.1``.

    Returns:
        What stands before the last ``%``.

    Example:
        >>> clean_entry("100%%noun.1")
        '100%'
    """
    return entry.rsplit("%", 1)[0]


def read_pairs(path: StrPath, *, encoding: str, columns: Sequence[str] | None) -> Iterator[Pair]:
    """Read a tab-separated file, several definitions of a line one by one.

    Args:
        path: The file, plain or gzipped.
        encoding: Its encoding.
        columns: What the columns are, as for ``DefinitionSet.from_tsv``.

    Yields:
        Entry and definition, as they are in the file.

    Raises:
        ArgumentError: If ``columns`` lacks one of the two, or there is no such encoding.
        DataError: If the file is missing, empty or not in this encoding, or a line is malformed.
    """
    if columns is not None and not {_ENTRY, _DEFINITION} <= set(columns):
        domain = f"names with {_ENTRY}, {_DEFINITION} among them"
        raise bad_argument(f"{_OWNER}.from_tsv", "columns", domain, columns)
    order: Sequence[str | None] | None = columns
    is_first = is_empty = True
    for number, line in _read_encoded(path, encoding):
        fields = line.split("\t")
        if is_first:
            is_first = False
            names = [_NAMES.get(simplify(field)) for field in fields]
            if _ENTRY in names and _DEFINITION in names:
                order = order or names
                continue
        places = [order.index(_ENTRY), order.index(_DEFINITION)] if order else [0, 1]
        size = max(places) + 1
        if len(fields) < size or (order is None and len(fields) > size):
            domain = f"a row of {'at least ' if order else ''}{size} columns"
            raise bad_record(path, number, None, domain, Words(f"{len(fields)}: {line[:40]!r}"))
        entry, definitions = (fields[place] for place in places)
        is_empty = False
        for definition in definitions.split(SEPARATOR):
            yield entry, definition
    if is_empty:
        raise no_records(path)


def _read_encoded(path: StrPath, encoding: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank of a file in any encoding, plain or gzipped."""
    try:
        name = codecs.lookup(encoding).name
    except LookupError as error:
        raise bad_argument(f"{_OWNER}.from_tsv", "encoding", "the name of an encoding", encoding) from error
    if name in ("utf-8", "ascii"):
        yield from read_lines(path)
        return
    path = Path(path)
    if not path.is_file():
        raise bad_record(path, None, None, "an existing file", Words("no file under this name"))
    number, is_empty = 0, True
    try:
        with ExitStack() as stack:
            file: Any = stack.enter_context(path.open("rb"))
            is_packed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            if is_packed:
                file = stack.enter_context(gzip.open(file))
            lines = stack.enter_context(io.TextIOWrapper(file, encoding=name, newline="\n"))
            for number, line in enumerate(lines, start=1):
                text = line.rstrip("\r\n").removeprefix("\ufeff" if number == 1 else "")
                if text and not text.isspace():
                    is_empty = False
                    yield number, text
    except UnicodeError as error:
        found = Words(f"something else after line {number}")
        raise bad_record(path, None, None, f"{encoding} text", found) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        found = Words(f"a broken one, readable at least up to line {number}")
        raise bad_record(path, None, None, "a whole gzip file", found) from error
    if is_empty:
        raise no_records(path)


def read_wordnet(path: Path) -> Iterator[Pair]:
    """Read the lemmas of one of WordNet's data files with their definitions, past the licence at its top.

    Args:
        path: The file.

    Yields:
        Lemma and definition.

    Raises:
        DataError: If the file is missing, or a line is malformed.
    """
    for number, line in read_lines(path):
        if line.startswith("  "):
            continue
        try:
            lemmas, definition = parse_gloss_line(line)
        except ValueError as error:
            domain = "a synset of WordNet's data files, with its gloss after `|`"
            raise bad_record(path, number, None, domain, line) from error
        for lemma in lemmas:
            yield lemma, definition


def _read_synsets(path: StrPath) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, record in read_json_lines(path):
        definition = record.get("definition", "")
        if not isinstance(definition, str):
            raise bad_record(path, number, "definition", "text", definition)
        yield number, {**record, "definition": definition}


def read_lemmas(synsets: StrPath) -> Iterator[Pair]:
    """Read the lemmas of synsets in JSON lines with their definitions.

    Args:
        synsets: The file, with ``lemmas`` and ``definition``.

    Yields:
        Lemma and definition; ``""`` for a synset without one.

    Raises:
        DataError: If the file is missing, or a record is malformed.
    """
    for number, record in _read_synsets(synsets):
        lemmas = record.get("lemmas")
        if not isinstance(lemmas, list) or not all(isinstance(lemma, str) for lemma in lemmas):
            raise bad_record(synsets, number, "lemmas", "a list of texts", lemmas)
        for lemma in lemmas:
            yield lemma, record["definition"]


def read_words(synsets: StrPath, words: StrPath, split: str | None) -> Iterator[Pair]:
    """Read the words of a split with the definitions of their synsets, in the table's order.

    Args:
        synsets: JSON lines with ``_id`` and ``definition``.
        words: A table with the columns ``word``, ``split`` and ``synset``.
        split: Rows of this split only; ``None`` for all.

    Yields:
        Word and definition.

    Raises:
        ArgumentError: If no row has this split.
        DataError: If a file is missing, a record is malformed, or a synset is not there.
    """
    definitions = {str(record.get("_id")): record["definition"] for _, record in _read_synsets(synsets)}
    splits: dict[str, None] = {}
    for row in read_table(words, columns=("word", "split", "synset")):
        splits[row["split"]] = None
        if row["synset"] not in definitions:
            remedy = f"The synsets were read from {synsets}"
            raise bad_record(words, None, "synset", "one of the synsets", row["synset"], remedy)
        if split is None or row["split"] == split:
            yield row["word"], definitions[row["synset"]]
    if split is not None and split not in splits:
        raise bad_choice(f"{_OWNER}.from_open_wordnet", "split", sorted(splits), split)
