"""Reads HTML as a reader sees it: text and headings."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fletching.text.decoding import clean
from fletching.text.passages import Heading

__all__ = ["read_html"]

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_NEVER_TEXT = frozenset({
    "audio", "button", "canvas", "iframe", "nav", "noscript", "object", "rp", "rt", "script", "select",
    "style", "svg", "template", "textarea", "video",
})  # fmt: skip
_ASIDE = frozenset({"aside", "footer"})  # of the site; inside an article they are notes
_CONTENT = frozenset({"article", "main"})
_MARKS = frozenset({"headerlink", "linenos"})  # drawn by Sphinx, MkDocs and Pygments beside what was written
_HIDING_STYLE = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)

_PARAGRAPHS = frozenset({
    "address", "article", "aside", "blockquote", "body", "center", "details", "dialog", "div", "dl",
    "fieldset", "figure", "footer", "form", "header", "hgroup", "hr", "html", "main", "ol", "p", "pre",
    "search", "section", "table", "ul",
})  # fmt: skip
_LINES = frozenset({"br", "caption", "dd", "dt", "figcaption", "legend", "li", "summary", "tr"})
_CELLS = frozenset({"td", "th"})
_IN_CELLS = _PARAGRAPHS - {"dl", "ol", "pre", "table", "ul"} | {"br", "figcaption", "legend", "summary"}
_DEEPEST = 8  # levels of lists that are indented
_LONGEST_TITLE = 300  # characters; more is no title but a tag that was left open


def read_html(document: str) -> tuple[str, tuple[Heading, ...], str]:
    r"""Read what a page says, without navigation, scripts and hidden parts.

    Every line is a whole: a paragraph, an item with its mark, a row with ``|`` between cells, a line of code.
    Links are their text. Broken markup is read as browsers do; no nesting is too deep. Control characters,
    spelled out (``&#27;``) or not, are as `clean` leaves them.

    Args:
        document: The page.

    Returns:
        Its text without headings, the headings at offsets of that text, and its ``<title>``.

    Example:
        >>> read_html("<title>Bows</title><h1>Bow</h1><p>It <b>bends</b>.<ul><li>a<li>b</ul>")
        ('It bends.\n\n- a\n- b', (Heading(start=0, level=1, title='Bow'),), 'Bows')
    """
    from lxml import etree  # type: ignore[import-untyped]

    listener = _Listener()
    # Encoded here, so that the parser believes nothing the page says about its bytes.
    parser = etree.HTMLParser(target=listener, encoding="utf-8", huge_tree=True)
    try:
        parser.feed(document.encode("utf-8", "replace"))
        parser.close()
    except etree.XMLSyntaxError:  # a page without any element
        listener.close()
    return "".join(listener.parts), tuple(listener.headings), listener.title


class _Listener:
    """Hears the tags one by one and keeps text; a tree of them would be walked by recursion."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.headings: list[Heading] = []
        self.title = ""
        self._length = 0
        self._line: list[str] = []  # of the line that is being read
        self._mark = ""  # in front of the next line: "- "
        self._gap = False  # whether a blank line comes before the next one
        self._pending: list[tuple[int, str]] = []  # headings that wait for the text below them
        self._heading = 0  # level of the open one
        self._counts: list[int | None] = []  # of the open lists: items so far where they are numbered
        self._cells = 0  # of the row that is being read
        self._skipped = self._in_content = self._in_pre = self._in_cell = 0  # open tags of these kinds
        self._in_title = False

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if self._skipped or self._is_skipped(tag, attributes):
            self._skipped += 1
            return
        self._in_content += tag in _CONTENT
        self._in_title = tag == "title" and not self.title
        if tag in _HEADINGS:
            self._break(gap=True)
            self._heading = _HEADINGS[tag]
        else:
            self._meet(tag)
        if tag in _CELLS:
            self._line.append(" | " if self._cells else "")
            self._cells += 1
            self._in_cell += 1
        elif tag in {"ul", "ol"}:
            self._counts.append(0 if tag == "ol" else None)
        elif tag == "li":
            self._mark = self._number_item()
        elif tag == "dd":
            self._mark = "  "
        self._in_pre += tag == "pre"

    def end(self, tag: str) -> None:
        if self._skipped:
            self._skipped -= 1
            return
        if tag in _HEADINGS:
            self._break()
            self._heading = 0
        elif tag in {"ul", "ol"}:
            self._break()
            self._counts.pop()
        if tag != "br":
            self._meet(tag)
        if tag in {"ul", "ol", "li", "dd"}:
            self._mark = ""
        self._in_content -= tag in _CONTENT
        self._in_cell -= tag in _CELLS
        self._in_pre -= tag == "pre"
        self._in_title = False

    def data(self, text: str) -> None:
        if self._in_title:
            self.title += clean(text)
        elif not self._skipped:
            self._line.append(clean(text))

    def close(self) -> None:
        self._break()
        self.title = " ".join(self.title.split())

    def _is_skipped(self, tag: str, attributes: Mapping[str, str]) -> bool:
        if tag in _NEVER_TEXT or (tag in _ASIDE and not self._in_content):
            return True
        return bool(attributes) and (
            "hidden" in attributes
            or attributes.get("aria-hidden") == "true"
            or attributes.get("role") == "navigation"
            or not _MARKS.isdisjoint(attributes.get("class", "").split())
            or bool(_HIDING_STYLE.search(attributes.get("style", "")))
        )

    def _meet(self, tag: str) -> None:
        """End the line where this tag begins or ends, unless a heading, a cell or code goes on."""
        if tag not in _PARAGRAPHS and tag not in _LINES:
            return
        if self._in_pre and tag != "pre":
            self._line.append("\n" if tag == "br" else "")
        elif (self._heading or self._in_cell) and tag in _IN_CELLS:
            self._line.append(" ")
        else:
            self._break(gap=tag in _PARAGRAPHS and not self._counts)

    def _number_item(self) -> str:
        if not self._counts:
            return "- "
        indent = "  " * min(len(self._counts) - 1, _DEEPEST)
        count = self._counts[-1]
        if count is None:
            return f"{indent}- "
        self._counts[-1] = count + 1
        return f"{indent}{count + 1}. "

    def _break(self, gap: bool = False) -> None:
        """Write the line, if there is one; a blank one follows where a paragraph begins or ends."""
        if self._line:
            text = "".join(self._line)
            self._line.clear()
            if self._in_pre:
                self._write_code(text)
            else:
                self._write_prose(" ".join(text.replace("\N{SOFT HYPHEN}", "").split()))
        self._cells = 0
        self._gap |= gap

    def _write_prose(self, text: str) -> None:
        if self._heading and 0 < len(text) <= _LONGEST_TITLE:
            self._pending.append((self._heading, text.rstrip("\N{PILCROW SIGN}").rstrip()))
            self._heading = 0
        elif text.strip("| "):
            self._write(text)

    def _write_code(self, text: str) -> None:
        for line in text.strip("\n").split("\n"):
            if line.strip():
                self._write(line.rstrip())
            else:
                self._gap = True

    def _write(self, line: str) -> None:
        border = "" if not self.parts else "\n\n" if self._gap or self._pending else "\n"
        indent = self._mark or "  " * min(len(self._counts), _DEEPEST)
        self._length += len(border)
        self.headings += [Heading(self._length, level, title) for level, title in self._pending]
        self.parts.append(f"{border}{indent}{line}")
        self._length += len(indent) + len(line)
        self._pending.clear()
        self._mark, self._gap = "", False
