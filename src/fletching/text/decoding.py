"""Decodes the bytes of text files."""

from __future__ import annotations

import codecs
import re

__all__ = ["clean", "decode"]

_BYTE_ORDER_MARKS = (  # the longer ones first: that of UTF-16 begins that of UTF-32
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What files without Unicode are written in, the most common first; the detector knows EBCDIC, too.
_LEGACY = (
    "cp1252", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256",
    "cp932", "euc_jp", "gb18030", "big5", "cp949",
)  # fmt: skip
# A declared name means what browsers take it for, a larger set: https://encoding.spec.whatwg.org
_LARGER = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
}
_LARGER |= {"euc_kr": "cp949", "iso8859-9": "cp1254"}
_DECLARABLE = re.compile(
    r"utf-8|cp\d+|koi8-[rtu]|iso8859-\d+|iso2022_jp|big5\w*|gb18030|euc_jp|mac-\w+|tis-620"
)
_DECLARED_IN = 2048  # bytes from the top
_DECLARATION = re.compile(
    rb"""<(?:\?xml\s[^>]*?encoding|meta\s[^>]*?charset)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE
)

_LINE_ENDS = re.compile(r"\r\n?|[\v\f\x1c-\x1e\x85]")
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")


def decode(content: bytes, *, declared: bool = False) -> str:
    """Decode a text file: by its byte order mark, as UTF-8, or by a guess.

    The guess is charset-normalizer's, among the encodings that were in wide use; a few words may mislead it.

    Args:
        content: The file.
        declared: Whether to believe ``<meta charset=...>`` and ``<?xml encoding=...?>`` before UTF-8.

    Returns:
        Its text, as `clean` leaves it.

    Raises:
        ValueError: If it is no text; the message says what it is, read after "got".

    Example:
        >>> decode(bytes([0xEF, 0xBB, 0xBF]) + b"bow")
        'bow'
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return _check(_try(content, encoding))
    if b"\0" in content:
        raise ValueError("binary content")
    names = [_read_declaration(content), "utf-8"] if declared else ["utf-8"]
    for name in names:
        text = _try(content, name) if name else None
        if text is not None:
            return clean(text)
    return _check(_guess(content))


def clean(text: str) -> str:
    r"""Make a text safe to store and to print.

    Args:
        text: Any string.

    Returns:
        The text with ``\n`` at each line's end, a space for each control character but tab, and U+FFFD for
        each lone surrogate.

    Example:
        >>> clean("a" + chr(13) + chr(10) + chr(27) + "b")
        'a\n b'
    """
    if text.isprintable():
        return text
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub(" ", _LINE_ENDS.sub("\n", text)))


def _check(text: str | None) -> str:
    if text is None or "\0" in text:
        raise ValueError("text in an unknown encoding" if text is None else "binary content")
    return clean(text)


def _try(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeError:
        return None


def _read_declaration(content: bytes) -> str:
    """Read which encoding a page says it is in; empty when it says none that can be believed."""
    declaration = _DECLARATION.search(content, 0, _DECLARED_IN)
    if declaration is None:
        return ""
    try:
        name = codecs.lookup(declaration[1].decode("ascii")).name
    except (LookupError, UnicodeError):
        return ""
    name = _LARGER.get(name, name)
    return name if _DECLARABLE.fullmatch(name) else ""  # others can be slow, or are no text at all


def _guess(content: bytes) -> str | None:
    from charset_normalizer import from_bytes

    matches = list(from_bytes(content, cp_isolation=list(_LEGACY)))
    if not matches:
        return None
    best = min(matches, key=lambda match: (match.chaos, -match.coherence, _LEGACY.index(match.encoding)))
    return str(best)
