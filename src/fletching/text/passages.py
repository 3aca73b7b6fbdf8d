"""Cuts Markdown into passages along its structure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fletching.errors import bad_argument

__all__ = ["Passage", "split_markdown"]

Span = tuple[int, int]

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

# Borders inside a block that does not fit, from coarse to fine.
_IDEOGRAPH = "\u3040-\u30ff\u3400-\u9fff"  # written without spaces: each counts as a word
_WORDS = re.compile(rf"[{_IDEOGRAPH}]|[^\s{_IDEOGRAPH}]+")
_LINES = re.compile(r"[^\n]*\S[^\n]*")
_SENTENCES = re.compile(r"\S.*?(?:[.!?](?=\s|\Z)|[\u3002\uff01\uff1f]|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Passage:
    """A part of a document.

    Args:
        text: The part itself, as it stands in the document.
        heading: The headings above it, outermost first, as ``"Guide > Install"``; empty above the first one.
        start: Offset of its first character in the document.
        end: Offset after its last character: ``document[start:end] == text``.
        source: Where the document came from, as the caller names it.
    """

    text: str
    heading: str
    start: int
    end: int
    source: str = ""


def split_markdown(document: str, *, max_words: int = 120, source: str = "") -> list[Passage]:
    """Cut a Markdown document into passages.

    Neighbouring paragraphs, lists, tables and code blocks of one section share a passage while they fit. One
    that is too long by itself is cut: prose after a sentence, everything else after a line, and only then
    inside. A heading goes into ``heading``, not into a text. Front matter and comments that stand on lines of
    their own are dropped.

    Args:
        document: The document.
        max_words: Words of a passage, at least 1; a Chinese or Japanese character is one. Default: ours.
        source: Copied into every passage.

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
    if max_words < 1:
        raise bad_argument("split_markdown", "max_words", "at least 1", max_words)
    return [
        Passage(document[start:end], heading, start, end, source)
        for heading, blocks in _read_groups(document)
        for start, end in _fit(document, blocks, max_words)
    ]


def _read_groups(document: str) -> Iterator[tuple[str, list[Span]]]:
    """Yield the blocks that may share a passage, and the headings above them."""
    headings: list[tuple[int, str]] = []
    blocks: list[Span] = []
    is_open = False  # whether the next line may belong to the last block without further signs
    front_matter = _FRONT_MATTER.match(document)
    for token in _TOKEN.finditer(document, front_matter.end() if front_matter else 0):
        kind, line = token.lastgroup, token.group()
        if kind == "blank":
            is_open = False
        elif kind == "comment" or kind == "heading" or (kind == "underlined" and not is_open):
            yield _join(headings), blocks
            blocks, is_open = [], False
            if kind != "comment":
                level, title = _parse_heading(line)
                headings = [*(above for above in headings if above[0] < level), (level, title)]
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
    yield _join(headings), blocks


def _parse_heading(line: str) -> tuple[int, str]:
    """Read level and title of ``## Title`` or of a title with a line below it."""
    text = line.strip()
    if text.startswith("#"):
        title = text.lstrip("#")
        level = len(text) - len(title)
        return level, _ANCHOR.sub("", _CLOSING_MARKS.sub("", title)).strip()
    title, underline = text.rsplit("\n", 1)
    return 1 if "=" in underline else 2, _ANCHOR.sub("", title.strip()).strip()


def _join(headings: Sequence[tuple[int, str]]) -> str:
    return " > ".join(title for _, title in headings if title)


def _continues_list(document: str, block: Span, line: str) -> bool:
    return bool(_LIST_ITEM.match(document, *block) and _LIST_ITEM.match(line))


def _fit(
    document: str, spans: Sequence[Span], max_words: int, borders: Sequence[re.Pattern[str]] = ()
) -> list[Span]:
    """Join neighbours while they fit; cut what does not fit by itself, as coarsely as possible."""
    fitted: list[Span] = []
    room = 0
    for start, end in spans:
        words = len(_WORDS.findall(document, start, end))
        if words > max_words:
            coarse, *finer = borders or _choose_borders(document, start, end)
            parts = [part.span() for part in coarse.finditer(document, start, end)]
            fitted += _fit(document, parts, max_words, finer)
            room = 0
        elif words <= room:
            fitted[-1] = (fitted[-1][0], end)
            room -= words
        else:
            fitted.append((start, end))
            room = max_words - words
    return fitted


def _choose_borders(document: str, start: int, end: int) -> Sequence[re.Pattern[str]]:
    if _LINE_BY_LINE.match(document, start, end):
        return _LINES, _SENTENCES, _WORDS
    return _SENTENCES, _WORDS
