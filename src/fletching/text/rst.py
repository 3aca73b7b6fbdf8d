"""Reads the headings of reStructuredText."""

from __future__ import annotations

import re

from fletching.text.passages import Heading

__all__ = ["read_rst"]

_RULE = re.compile(r"([!-/:-@\[-`{-~])\1*\s*")


def read_rst(document: str) -> tuple[str, tuple[Heading, ...]]:
    """Take the headings out of a reStructuredText document; everything else stays as it is.

    Titles may be underlined or over- and underlined; the kinds rank in the order in which they appear, as in
    docutils. Rules between paragraphs go with the headings.

    Args:
        document: The document.

    Returns:
        Its text without headings, and the headings, at offsets of that text.

    Example:
        >>> read_rst(chr(10).join(["Bow", "===", "It bends."]))
        ('It bends.', (Heading(start=0, level=1, title='Bow'),))
    """
    lines = document.split("\n")
    kinds: list[tuple[str, bool]] = []
    headings: list[Heading] = []
    kept: list[str] = []
    length = at = 0
    is_free = True  # whether the line above is blank or a heading: only then may one begin
    while at < len(lines):
        title, used = _read_title(lines, at) if is_free else ("", 0)
        if title:
            kind = (lines[at + used - 1][0], used == 3)
            if kind not in kinds:
                kinds.append(kind)
            headings.append(Heading(length, kinds.index(kind) + 1, title))
        if not used:
            kept.append(lines[at])
            length += len(lines[at]) + 1
        is_free = bool(used) or not lines[at].strip()
        at += used or 1
    return "\n".join(kept), tuple(headings)


def _read_title(lines: list[str], at: int) -> tuple[str, int]:
    """Read a title and how many lines it takes; a rule takes one line and has no title, text takes none."""
    line, below, last = [*lines[at : at + 3], "", ""][:3]
    if not line.strip():
        return "", 0
    if not _RULE.fullmatch(line):
        return (line.strip(), 2) if not line[0].isspace() and _underlines(below, line) else ("", 0)
    if _underlines(last, below) and line.rstrip() == last.rstrip():
        return below.strip(), 3
    return "", int(len(line.rstrip()) >= 4 and not below.strip())


def _underlines(rule: str, title: str) -> bool:
    return bool(title.strip()) and len(rule.rstrip()) >= len(title.rstrip()) and bool(_RULE.fullmatch(rule))
