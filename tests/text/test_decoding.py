from __future__ import annotations

import codecs

import pytest

from fletching.text.decoding import clean, decode


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_is_decoded(encoding: str) -> None:
    assert decode("Köcher 箭".encode(encoding)) == "Köcher 箭"


def test_big_endian_mark_is_read() -> None:
    assert decode(codecs.BOM_UTF16_BE + "箭".encode("utf-16-be")) == "箭"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Café", "cp1252"),
        ("Der Pfeil fliegt über die Brücke, schön und groß.", "cp1252"),
        ("Стрела летит прямо, и перья помогают ей. Лучник натягивает тетиву.", "cp1251"),
        ("Стрела летит прямо, и перья помогают ей. Лучник натягивает тетиву.", "koi8_r"),
        ("火箭的羽毛让箭飞得直。弓箭手需要它。", "gb18030"),
        ("矢の羽根は矢をまっすぐ飛ばします。弓を引く人にはそれが必要です。", "euc_jp"),
    ],
)
def test_older_encodings_are_guessed(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == text


@pytest.mark.parametrize(
    "declaration",
    [
        '<meta charset="windows-1251">',
        "<META http-equiv=Content-Type content='text/html; charset=windows-1251'>",
        '<?xml version="1.0" encoding="windows-1251"?>',
    ],
)
def test_declared_encoding_is_believed(declaration: str) -> None:
    assert decode((declaration + "ток").encode("cp1251"), declared=True) == declaration + "ток"


def test_latin_1_means_the_encoding_of_windows() -> None:
    assert decode(b"<meta charset=iso-8859-1>\x93", declared=True)[-1] == "\N{LEFT DOUBLE QUOTATION MARK}"


@pytest.mark.parametrize("name", ["rot13", "hex", "punycode", "unicode_escape", "utf-16", "utf-7", "no-such"])
def test_declaration_that_is_no_encoding_of_pages_is_ignored(name: str) -> None:
    page = f"<meta charset={name}>ä\\ud800"

    assert decode(page.encode(), declared=True) == page


def test_declaration_in_plain_text_is_text() -> None:
    assert decode('<meta charset="cp1251">ä'.encode()) == '<meta charset="cp1251">ä'


@pytest.mark.parametrize("content", [b"a\0b", "a\0b".encode("utf-16"), b"\x7fELF\0"])
def test_zero_bytes_are_binary(content: bytes) -> None:
    with pytest.raises(ValueError, match="binary content"):
        decode(content)


@pytest.mark.parametrize("content", [bytes(range(1, 256)) * 3, codecs.BOM_UTF16_LE + b"\x00\xd8"])
def test_unknown_encoding_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="text in an unknown encoding"):
        decode(content)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\r\nb\rc\n", "a\nb\nc\n"),
        ("page\fpage", "page\npage"),
        ("\x1b[1mbold\x07", " [1mbold "),
        ("\ud800", "\ufffd"),
        ("a\tb\u200bc\n", "a\tb\u200bc\n"),
        ("", ""),
    ],
)
def test_text_is_made_safe(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned
