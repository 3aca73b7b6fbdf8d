"""Cuts Markdown and plain text into passages along their structure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

from fletching.errors import bad_argument

__all__ = ["Heading", "Passage", "split_markdown", "split_text", "take_words"]

Span = tuple[int, int]
_Block = tuple[Span, Sequence[re.Pattern[str]]]  # with the borders at which it may be cut, the coarsest first

# The parts of CommonMark that decide where a document may be cut; every line is in exactly one token.
_FRONT_MATTER = re.compile(r"---[^\S\n]*\n.*?^---[^\S\n]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_TOKEN = re.compile(
    r"""
      (?P<blank>      [^\S\n]* (?: \n | \Z ) )
    | (?P<comment>    [^\S\n]* <!--.*? (?: -->[^\S\n]*\n? | \Z ) )
    | (?P<code>       [^\S\n]* (?P<fence> `{3,} | ~{3,} ) [^\n`]* (?: \n | \Z )
                      (?: .*? ^[^\S\n]* (?P=fence) [`~]* [^\S\n]* (?: \n | \Z ) | .* ) )
    | (?P<heading>    [ ]{0,3} \#{1,6} (?: \s*? (?: \n | \Z ) | [ \t][^\n]* (?: \n | \Z ) ) )
    | (?P<underlined> [ ]{0,3} (?! [ ] | [-*+>|] | \d+[.)] ) [^\n]+ \n
                      [ ]{0,3} (?: =+ | -+ ) [^\S\n]* (?: \n | \Z ) )
    | (?P<text>       [^\n]+ (?: \n | \Z ) )
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
# Borders of blocks: what is indented belongs to what is above it.
_INDENT = re.compile(r"[ ]{2}|\t")
_LIST_ITEM = re.compile(r"\s*(?:[-*+]|\d+[.)])\s")
_LINE_BY_LINE = re.compile(r"\s*(?:[-*+]\s|\d+[.)]\s|\||>|`{3}|~{3})")
_ANCHOR = re.compile(r"\{[:#][^{}]*\}$")
_CLOSING_MARKS = re.compile(r"\s#+\s*$")
_LONGEST_HEADING = 300  # characters; every passage below carries it
_DIRECTIVE = ":::"  # where mkdocstrings puts the reference: nothing to read yet

# Borders inside a block that does not fit, from coarse to fine. A match begins at a line's start or at a
# visible character: a megabyte of spaces costs a megabyte of steps.
_IDEOGRAPH = (  # written without spaces: each counts as a word
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af"
)
_WORDS = re.compile(rf"[{_IDEOGRAPH}]|[^\s{_IDEOGRAPH}]{{1,32}}")  # a long run, as in Thai or base64, is many
_LINES = re.compile(r"(?:^[^\S\n]*)?\S[^\n]*", re.MULTILINE)
_SENTENCES = re.compile(r"\S.*?(?:[.!?](?=\s|\Z)|[\u3002\uff01\uff1f]|\Z)", re.DOTALL)
_PROSE = (_SENTENCES, _LINES, _WORDS)
_WHOLE_LINES = (_LINES, _SENTENCES, _WORDS)


@dataclass(frozen=True)
class Heading:
    """A place in a text where a section begins.

    Args:
        start: Offset of the section's first line.
        level: 1 for the title of the whole text, 2 for its chapters, and so on; it ends the sections of this
            level and below.
        title: What the heading says.
    """

    start: int
    level: int
    title: str


@dataclass(frozen=True)
class Passage:
    """A part of a document.

    Args:
        text: The part itself, as it stands in the document.
        heading: The headings above it, outermost first, as ``"Guide > Install"``; empty above the first one.
        start: Offset of its first character in the document.
        end: Offset after its last character: ``document[start:end] == text``.
        source: Where the document came from, as the caller names it.
        page: Page on which it begins, from 1; ``None`` without pages.
    """

    text: str
    heading: str
    start: int
    end: int
    source: str = ""
    page: int | None = None


def split_markdown(
    document: str, *, max_words: int = 120, source: str = "", title: str = ""
) -> list[Passage]:
    """Cut a Markdown document into passages.

    Neighbouring paragraphs, lists, tables and code blocks of one section share a passage while they fit. One
    that is too long by itself is cut: prose after a sentence, everything else after a line, and only then
    inside. A heading goes into ``heading``, not into a text. Front matter, comments that stand on lines of
    their own, and mkdocstrings directives (``::: package.module``) are dropped.

    Args:
        document: The document.
        max_words: Words of a passage, at least 1; a Chinese or Japanese character is one, and so are 32
            characters without a space. Default: ours.
        source: Copied into every passage.
        title: Name of the document; it stands first in each ``heading`` that no heading of level 1 begins.

    Returns:
        The passages in the document's order; they do not overlap.

    Raises:
        ArgumentError: If ``max_words`` is not positive.

    Example:
        >>> document = chr(10).join(["# Bow", "A bow bends.", "## String", "It holds."])
        >>> for passage in split_markdown(document):
        ...     print(passage.heading, "|", passage.text)
        Bow | A bow bends.
        Bow > String | It holds.
    """
    _check("split_markdown", max_words)
    groups = (
        (_join(title, headings), [(block, _choose_borders(document, block)) for block in neighbours])
        for headings, blocks in _read_groups(document)
        for is_read, neighbours in groupby(blocks, lambda block: not _is_directive(document, block))
        if is_read
    )
    return list(_cut(document, groups, max_words, source))


def split_text(
    document: str,
    *,
    headings: Sequence[Heading] = (),
    wrapped: bool = True,
    max_words: int = 120,
    source: str = "",
    title: str = "",
) -> list[Passage]:
    """Cut a text without markup into passages.

    Neighbouring paragraphs of one section share a passage while they fit; blank lines part them. A paragraph
    that is too long by itself is cut after a sentence, then after a line, and only then inside.

    Args:
        document: The text.
        headings: Where its sections begin, in order of ``start``.
        wrapped: Whether sentences run on from line to line. If not, every line is a whole (a paragraph, an
            item, a row), and a long block is cut after a line first.
        max_words: Words of a passage, at least 1, counted as `split_markdown` does. Default: ours.
        source: Copied into every passage.
        title: Name of the text; it stands first in each ``heading`` that no heading of level 1 begins.

    Returns:
        The passages in the text's order; they do not overlap.

    Raises:
        ArgumentError: If ``max_words`` is not positive.

    Example:
        >>> text = chr(10).join(["A bow bends.", "", "# is no heading here."])
        >>> [passage.text for passage in split_text(text, max_words=5)]
        ['A bow bends.', '# is no heading here.']
    """
    _check("split_text", max_words)
    borders = _PROSE if wrapped else _WHOLE_LINES
    groups = (
        (_join(title, above), [(block, borders) for block in _read_paragraphs(document, start, end)])
        for above, start, end in _read_sections(len(document), headings)
    )
    return list(_cut(document, groups, max_words, source))


def take_words(text: str, max_words: int) -> str:
    """Cut a text off after so many words.

    Args:
        text: Any text.
        max_words: Words to keep, at least 1, counted as `split_markdown` does.

    Returns:
        The beginning of the text, or all of it.

    Raises:
        ArgumentError: If ``max_words`` is not positive.

    Example:
        >>> take_words("A bow bends.", 2), take_words("箭有羽毛", 2)
        ('A bow', '箭有')
    """
    _check("take_words", max_words)
    last = next(islice(_WORDS.finditer(text), max_words - 1, None), None)
    return text[: last.end()] if last else text


def _check(owner: str, max_words: int) -> None:
    if max_words < 1:
        raise bad_argument(owner, "max_words", "at least 1", max_words)


def _cut(
    document: str, groups: Iterable[tuple[str, Sequence[_Block]]], max_words: int, source: str
) -> Iterator[Passage]:
    for heading, blocks in groups:
        for start, end in _fit(document, blocks, max_words):
            yield Passage(document[start:end], heading, start, end, source)


def _read_sections(
    length: int, headings: Sequence[Heading]
) -> Iterator[tuple[list[tuple[int, str]], int, int]]:
    """Yield the headings above each section, and its span."""
    above: list[tuple[int, str]] = []
    start = 0
    for heading in headings:
        yield above, start, heading.start
        above, start = _step(above, heading.level, heading.title), heading.start
    yield above, start, length


def _read_paragraphs(document: str, start: int, end: int) -> list[Span]:
    """List the runs of lines that are not blank."""
    paragraphs: list[Span] = []
    after = -1  # where the next line would go on with the last paragraph
    for line in _LINES.finditer(document, start, end):
        begin = paragraphs.pop()[0] if line.start() == after else line.start()
        paragraphs.append((begin, line.start() + len(line.group().rstrip())))
        after = line.end() + 1
    return paragraphs


def _read_groups(document: str) -> Iterator[tuple[list[tuple[int, str]], list[Span]]]:
    """Yield the headings above, and the blocks that may share a passage."""
    headings: list[tuple[int, str]] = []
    blocks: list[Span] = []
    is_open = False  # whether the next line may belong to the last block without further signs
    front_matter = _FRONT_MATTER.match(document)
    for token in _TOKEN.finditer(document, front_matter.end() if front_matter else 0):
        kind, line = token.lastgroup, token.group()
        if kind == "blank":
            is_open = False
        elif kind == "comment" or kind == "heading" or (kind == "underlined" and not is_open):
            yield headings, blocks
            blocks, is_open = [], False
            if kind != "comment":
                headings = _step(headings, *_parse_heading(line))
        else:
            end = token.start() + len(line.rstrip())
            indented = bool(_INDENT.match(line))
            if blocks and (
                indented or (is_open and kind != "code") or _continues_list(document, blocks[-1], line)
            ):
                blocks[-1] = (blocks[-1][0], end)
            else:
                blocks.append((token.start(), end))
            is_open = indented or kind != "code"
    yield headings, blocks


def _parse_heading(line: str) -> tuple[int, str]:
    """Read level and title of ``## Title`` or of a title with a line below it."""
    text = line.strip()
    if text.startswith("#"):
        title = text.lstrip("#")
        level = len(text) - len(title)
        return level, _ANCHOR.sub("", _CLOSING_MARKS.sub("", title)).strip()
    title, underline = text.rsplit("\n", 1)
    return 1 if "=" in underline else 2, _ANCHOR.sub("", title.strip()).strip()


def _step(headings: Iterable[tuple[int, str]], level: int, title: str) -> list[tuple[int, str]]:
    """Go on to the next heading: those of its level and below end."""
    return [*(above for above in headings if above[0] < level), (level, title[:_LONGEST_HEADING])]


def _join(title: str, headings: Sequence[tuple[int, str]]) -> str:
    has_top = any(level == 1 for level, _ in headings)
    return " > ".join(part for part in ("" if has_top else title, *(name for _, name in headings)) if part)


def _continues_list(document: str, block: Span, line: str) -> bool:
    return bool(_LIST_ITEM.match(document, *block) and _LIST_ITEM.match(line))


def _is_directive(document: str, block: Span) -> bool:
    """Whether a block is a ``::: package.module`` with its options, and no text follows."""
    if not document.startswith(_DIRECTIVE, *block):
        return False
    _, *below = document[slice(*block)].split("\n")
    return all(not line or line[0].isspace() for line in below)


def _fit(document: str, blocks: Iterable[_Block], max_words: int) -> list[Span]:
    """Join neighbours while they fit; cut what does not fit by itself, as coarsely as possible."""
    fitted: list[Span] = []
    room = 0
    for (start, end), borders in blocks:
        words = _count_words(document, start, end, max_words + 1) if borders else 1
        if words > max_words:
            coarse, *finer = borders
            parts = ((part.span(), finer) for part in coarse.finditer(document, start, end))
            fitted += _fit(document, parts, max_words)
            room = 0
        elif words <= room:
            fitted[-1] = (fitted[-1][0], end)
            room -= words
        else:
            fitted.append((start, end))
            room = max_words - words
    return fitted


def _count_words(document: str, start: int, end: int, limit: int) -> int:
    return sum(1 for _ in islice(_WORDS.finditer(document, start, end), limit))


def _choose_borders(document: str, block: Span) -> Sequence[re.Pattern[str]]:
    return _WHOLE_LINES if _LINE_BY_LINE.match(document, *block) else _PROSE
