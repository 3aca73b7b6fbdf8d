"""Reads the files of a folder and cuts them into passages."""

from __future__ import annotations

import logging
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from fletching.errors import DataError, bad_argument, bad_choice, bad_record, missing_extra
from fletching.text.decoding import clean, decode
from fletching.text.html import read_html
from fletching.text.passages import Heading, Passage, split_markdown, split_text
from fletching.text.rst import read_rst

__all__ = ["READER_VERSION", "SUFFIXES", "Document", "find_files", "read_document", "split_document"]

logger = logging.getLogger(__name__)

READER_VERSION = 1  # a setting of every index: raise it when the same file would be cut differently

_NOT_WRITTEN_BY_HAND = frozenset({"node_modules", "__pycache__"})

_FRONT_MATTER_TITLE = re.compile(r"---[^\S\n]*\n(?:(?!---)[^\n]*\n)*?title:[^\S\n]*([^\n]*)\n")
_PRINTED = str.maketrans(  # what printing leaves in the text of a PDF
    {
        "\ufb00": "ff",
        "\ufb01": "fi",
        "\ufb02": "fl",
        "\ufb03": "ffi",
        "\ufb04": "ffl",
        "\ufb05": "st",
        "\u00ad": "",
    }
)
_HYPHEN_AT_LINE_END = re.compile(r"(?<![^\W\d_])([^\W\d_]+)(?:(\u00ad)|[-\u2010])\n(?=([^\W\d_]+))")
_WORD = re.compile(r"[^\W\d_]+")
_NUMBERING = re.compile(r"(?:\d+\.)*\d*\s+")
_LONGEST_TITLE = 300  # characters
_NO_TITLE = re.compile(
    r"\W* | untitled.* | microsoft\ (?:word|powerpoint|excel)\b.* | \S*\.[a-z]{2,5}",
    re.IGNORECASE | re.VERBOSE,
)  # what programs write when nobody gave one


@dataclass(frozen=True)
class Document:
    r"""A file that was read.

    Args:
        text: What passages are cut from. It is not the file: lines end in ``\n``, control characters are
            spaces, and of HTML, reStructuredText and PDF only the text is left. Offsets count its characters.
        markup: How to cut it: as ``"markdown"``, as ``"text"`` whose sentences run on from line to line, or
            as ``"lines"``, each of which is a whole.
        headings: Headings that are not in the text, or not recognisable there, by ``start``.
        page_starts: Offset at which each page begins; empty without pages.
        title: Name of the document, to stand above headings that no heading of level 1 begins; may be empty.
    """

    text: str
    markup: Literal["markdown", "text", "lines"] = "text"
    headings: tuple[Heading, ...] = ()
    page_starts: tuple[int, ...] = ()
    title: str = ""


def find_files(folder: Path) -> list[Path]:
    """List the files of a folder that can be read.

    Hidden files and folders, ``node_modules`` and ``__pycache__`` are left out; links to folders are not
    followed.

    Args:
        folder: The folder.

    Returns:
        Their paths, beginning with ``folder``, sorted by the path below it.

    Raises:
        ArgumentError: If there is no such folder.
    """
    if not folder.is_dir():
        raise bad_argument("find_files", "folder", "a folder", str(folder))
    return sorted(_walk(folder), key=lambda path: path.relative_to(folder).as_posix())


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder, onerror=_report):
        folders[:] = [name for name in folders if name[0] != "." and name not in _NOT_WRITTEN_BY_HAND]
        for name in files:
            path = Path(root, name)
            if name[0] != "." and path.suffix.lower() in SUFFIXES and _is_file(path):
                yield path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # in a folder that may be listed, but not entered
        _report(error)
        return False


def _report(error: OSError) -> None:
    logger.warning("Left out what cannot be read: %s", error)


def read_document(content: bytes, suffix: str, *, source: str = "read_document") -> Document:
    """Read a file.

    Args:
        content: The file.
        suffix: Ending of its name, one of ``SUFFIXES`` in any case: it decides how the file is read.
        source: How errors name the file.

    Returns:
        The document. Its text is empty where the file has none, as a scanned PDF.

    Raises:
        ArgumentError: If the suffix is none of ``SUFFIXES``.
        DataError: If the file is no text in a known encoding, or a PDF that is broken or asks for a password.
        MissingExtraError: If the package that reads such a file is not installed.

    Example:
        >>> read_document(b"A bow bends.", ".txt")
        Document(text='A bow bends.', markup='text', headings=(), page_starts=(), title='')
    """
    reader = SUFFIXES.get(suffix.lower())
    if reader is None:
        raise bad_choice("read_document", "suffix", SUFFIXES, suffix)
    return reader(content, source)


def split_document(document: Document, *, max_words: int = 120, source: str = "") -> list[Passage]:
    """Cut a document into passages.

    Args:
        document: The document.
        max_words: Words of a passage, at least 1, counted as `split_markdown` does. Default: ours.
        source: Copied into every passage.

    Returns:
        The passages in the document's order, with the page on which each begins;
        ``document.text[passage.start : passage.end] == passage.text``.

    Raises:
        ArgumentError: If ``max_words`` is not positive.
    """
    if document.markup == "markdown":
        return split_markdown(document.text, max_words=max_words, source=source, title=document.title)
    passages = split_text(
        document.text,
        headings=document.headings,
        wrapped=document.markup == "text",
        max_words=max_words,
        source=source,
        title=document.title,
    )
    if not document.page_starts:
        return passages
    return [
        replace(passage, page=bisect_right(document.page_starts, passage.start))
        for passage in passages
        if not _repeats_heading(passage)
    ]


def _repeats_heading(passage: Passage) -> bool:
    """Whether nothing is left but the line at which the bookmark points."""
    title = passage.heading.rpartition(" > ")[2]
    return bool(title) and _normalise(passage.text) == _normalise(title)


def _read_text(content: bytes, source: str) -> Document:
    return Document(_decode(content, source))


def _read_markdown(content: bytes, source: str) -> Document:
    text = _decode(content, source)
    title = _FRONT_MATTER_TITLE.match(text)
    return Document(text, "markdown", title=_tidy_title(title[1].strip().strip("\"'")) if title else "")


def _read_rst(content: bytes, source: str) -> Document:
    text, headings = read_rst(_decode(content, source))
    return Document(text, "text", headings)


def _read_html(content: bytes, source: str) -> Document:
    _require("lxml")
    text, headings, title = read_html(_decode(content, source, declared=True))
    return Document(text, "lines", headings, title=_tidy_title(title))


def _decode(content: bytes, source: str, *, declared: bool = False) -> str:
    _require("charset_normalizer")
    try:
        return decode(content, declared=declared)
    except ValueError as error:
        raise bad_record(source, None, None, "text", str(error), "Save text as UTF-8") from error


def _read_pdf(content: bytes, source: str) -> Document:
    pypdf = _require("pypdf")
    try:
        reader = pypdf.PdfReader(BytesIO(content))
        pages = [clean(page.extract_text()) for page in reader.pages]
    except Exception as error:  # a broken file can break its reader anywhere
        raise _explain(error, source) from error
    pages = [page.translate(_PRINTED).strip() for page in _join_words(pages)]
    starts = tuple(accumulate((len(page) + 2 for page in pages), initial=0))[:-1]
    try:
        title = _tidy_title(clean((reader.metadata and reader.metadata.title) or ""))
        headings = _find_headings(_read_outline(reader), pages, starts)
    except Exception as error:  # both are a help; the text is there
        logger.info("%s: left out a broken title or outline: %s", source, error)
        title, headings = "", ()
    return Document("\n\n".join(pages), "text", headings, starts, title)


def _tidy_title(title: str) -> str:
    title = " ".join(title.split())
    return "" if len(title) > _LONGEST_TITLE or _NO_TITLE.fullmatch(title) else title


def _explain(error: Exception, source: str) -> DataError:
    from pypdf.errors import DependencyError, FileNotDecryptedError

    if isinstance(error, (DependencyError, FileNotDecryptedError)):
        domain = "a PDF that opens without a password"
        return bad_record(source, None, None, domain, "an encrypted one", "Save it without encryption")
    problem = " ".join(str(error).split()) or type(error).__name__
    return bad_record(source, None, None, "a readable PDF", problem)


def _join_words(pages: Sequence[str]) -> list[str]:
    """Undo the hyphenation of words that are written in one elsewhere; ``well-known`` keeps its hyphen."""
    known = {word.lower() for page in pages for word in _WORD.findall(page)}

    def join(match: re.Match[str]) -> str:
        head, soft, tail = match.groups()
        return head if soft or f"{head}{tail}".lower() in known else match[0]

    return [_HYPHEN_AT_LINE_END.sub(join, page) for page in pages]


def _read_outline(reader: Any) -> Iterator[tuple[int, int, str]]:
    """Yield page, level and title of each bookmark; level 1 is left to the document itself."""
    levels = [iter(reader.outline)]
    while levels:
        for item in levels[-1]:
            if isinstance(item, list):
                levels.append(iter(item))
                break
            page = reader.get_destination_page_number(item)
            title = " ".join(clean(str(item.title)).split())
            if page is not None and page >= 0 and 0 < len(title) <= _LONGEST_TITLE:
                yield page, len(levels) + 1, title
        else:
            levels.pop()


def _find_headings(
    outline: Iterator[tuple[int, int, str]], pages: Sequence[str], starts: Sequence[int]
) -> tuple[Heading, ...]:
    """Find the lines to which bookmarks point: those that say the same, else where the one above does."""
    lines: dict[int, dict[str, int]] = {}
    headings: list[Heading] = []
    for page, level, title in outline:
        if page not in lines:
            lines[page] = dict(_read_lines(pages[page], starts[page]))
        above = headings[-1].start if headings else 0
        top = above if bisect_right(starts, above) == page + 1 else starts[page]
        headings.append(Heading(lines[page].get(_normalise(title), top), level, title))
    return tuple(sorted(headings, key=lambda heading: heading.start))


def _read_lines(page: str, start: int) -> Iterator[tuple[str, int]]:
    for line in page.split("\n"):
        yield _normalise(line), start
        start += len(line) + 1


def _normalise(title: str) -> str:
    text = " ".join(title.split()).casefold()
    number = _NUMBERING.match(text)
    return text[number.end() :] if number else text


def _require(package: str) -> Any:
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise missing_extra("fletching search", package.replace("_", "-"), "search") from error


SUFFIXES: dict[str, Callable[[bytes, str], Document]] = {
    ".md": _read_markdown,
    ".markdown": _read_markdown,
    ".mdx": _read_markdown,
    ".txt": _read_text,
    ".text": _read_text,
    ".rst": _read_rst,
    ".html": _read_html,
    ".htm": _read_html,
    ".xhtml": _read_html,
    ".pdf": _read_pdf,
}
