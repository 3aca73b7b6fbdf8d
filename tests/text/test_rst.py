from __future__ import annotations

import pytest

from fletching.text.passages import split_text
from fletching.text.rst import read_rst


def read_paths(document: str) -> list[tuple[str, str]]:
    text, headings = read_rst(document)
    return [(passage.heading, passage.text) for passage in split_text(text, headings=headings)]


def test_kinds_of_titles_rank_as_they_appear() -> None:
    document = "****\nBook\n****\n\nBow\n***\na\n\nLimb\n~~~~\nb\n\nArrow\n*****\nc\n"

    assert read_paths(document) == [("Book > Bow", "a"), ("Book > Bow > Limb", "b"), ("Book > Arrow", "c")]


def test_title_may_follow_a_title() -> None:
    assert read_paths("Book\n====\nBow\n---\na") == [("Book > Bow", "a")]


def test_rule_is_dropped() -> None:
    assert read_paths("a\n\n-----\n\nb") == [("", "a\n\n\nb")]


@pytest.mark.parametrize(
    "text",
    [
        "goes on\nBow\n===",
        "  Bow\n  ===",
        "Bow\n==",
        "=====  =====\na      b\n=====  =====",
        "...",
        ":: \n\n  ~~~~\n  code",
    ],
)
def test_other_lines_stay(text: str) -> None:
    assert read_rst(text) == (text, ())


def test_text_without_titles_stays_as_it_is() -> None:
    assert read_rst("\n a\n\n\nb \n") == ("\n a\n\n\nb \n", ())
