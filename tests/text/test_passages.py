from __future__ import annotations

import random
from itertools import pairwise

import pytest

from fletching.errors import ArgumentError
from fletching.text.passages import Heading, Passage, split_markdown, split_text, take_words

BLOCKS = (
    "One sentence. And another one! A third?",
    "A paragraph that goes\nover two lines.",
    "- an item\n- another\n\n- a loose one\n\n  with a second paragraph",
    "1. first\n2. second",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "```python\n# no heading\n\nx = 1  <!-- no comment -->\n```",
    "~~~\n```\n~~~",
    "> quoted\n> text",
    "    indented code",
    "火箭的羽毛。它让箭飞得直。",
)
BORDERS = (
    "# Guide",
    "## Install",
    "### Deep ###",
    "Title\n=====",
    "Lower\n---",
    "<!-- [[[end]]] -->",
    "<!-- a\n\nb -->",
)


def build_document(seed: int) -> str:
    source = random.Random(seed)
    return "\n\n".join(source.choices(BLOCKS + BORDERS, k=source.randint(0, 25)))


def read_kept_characters(document: str) -> str:
    """Everything that is neither border nor comment nor space, by another road than the one under test."""
    blocks = sorted(BLOCKS + BORDERS, key=len, reverse=True)
    kept = ""
    while document:
        block = next(block for block in blocks if document.startswith(block))
        document = document.removeprefix(block).removeprefix("\n\n")
        kept += "" if block in BORDERS else "".join(block.split())
    return kept


@pytest.mark.parametrize("max_words", [1, 5, 40, 1000])
@pytest.mark.parametrize("seed", range(20))
class TestAnyDocument:
    def test_offsets_point_at_the_text(self, seed: int, max_words: int) -> None:
        document = build_document(seed)

        passages = split_markdown(document, max_words=max_words)

        assert [document[passage.start : passage.end] for passage in passages] == [
            passage.text for passage in passages
        ]

    def test_nothing_is_lost_and_order_is_kept(self, seed: int, max_words: int) -> None:
        document = build_document(seed)

        text = "".join(passage.text for passage in split_markdown(document, max_words=max_words))

        assert "".join(text.split()) == read_kept_characters(document)

    def test_passages_do_not_overlap(self, seed: int, max_words: int) -> None:
        passages = split_markdown(build_document(seed), max_words=max_words)

        assert all(left.end <= right.start for left, right in pairwise(passages))

    def test_no_passage_is_too_long_or_blank(self, seed: int, max_words: int) -> None:
        passages = split_markdown(build_document(seed), max_words=max_words)

        assert all(0 < len(passage.text.split()) <= max_words for passage in passages)


def test_headings_make_a_path() -> None:
    document = "top\n# Guide\na\n## Install\nb\n### Pip\nc\n## Use\nd\n# Other\ne\n"

    headings = [passage.heading for passage in split_markdown(document)]

    assert headings == ["", "Guide", "Guide > Install", "Guide > Install > Pip", "Guide > Use", "Other"]


@pytest.mark.parametrize(
    ("heading", "title"),
    [
        ("# Install", "Install"),
        ("   ## Install ##", "Install"),
        ("## C#", "C#"),
        ("# Install {#install}", "Install"),
        ("Install\n-------", "Install"),
        ("# `load`", "`load`"),
    ],
)
def test_heading_is_cleaned(heading: str, title: str) -> None:
    assert split_markdown(f"{heading}\n\ntext\n")[0].heading == title


@pytest.mark.parametrize("line", ["#hashtag", "####### seven", "\\# escaped"])
def test_line_that_only_looks_like_a_heading_is_text(line: str) -> None:
    assert split_markdown(line) == [Passage(line, "", 0, len(line))]


def test_endless_heading_is_shortened() -> None:
    assert split_markdown(f"# {'a' * 1000}\ntext")[0].heading == "a" * 300


def test_rule_below_a_list_is_no_heading() -> None:
    assert [passage.heading for passage in split_markdown("- item\n---\ntext")] == [""]


def test_heading_without_text_makes_no_passage() -> None:
    assert split_markdown("# Guide\n## Empty\n# Next\ntext")[0].heading == "Next"


def test_front_matter_is_dropped() -> None:
    assert [passage.text for passage in split_markdown("---\ntitle: Bow\n---\nText.\n")] == ["Text."]


@pytest.mark.parametrize(
    "comment",
    [
        "<!-- note -->",
        "<!--\n\n# not a heading\n-->",
        "<!-- [[[cog\nimport cog\ncog.outl('x')\n]]] -->",
        "  <!-- in -->",
    ],
)
def test_comment_is_dropped_and_ends_a_passage(comment: str) -> None:
    texts = [passage.text for passage in split_markdown(f"Before.\n\n{comment}\nAfter.\n")]

    assert texts == ["Before.", "After."]


def test_comment_inside_a_line_stays() -> None:
    assert split_markdown("a <!-- b --> c")[0].text == "a <!-- b --> c"


@pytest.mark.parametrize("fence", ["```", "~~~", "````"])
def test_fenced_code_is_no_markdown(fence: str) -> None:
    document = f"{fence}bash\n# comment\n\n<!-- kept -->\nTitle\n---\n{fence}"

    assert split_markdown(document) == [Passage(document, "", 0, len(document))]


def test_longer_fence_holds_a_shorter_one() -> None:
    document = "````\n```\n# code\n```\n````\n\n# Heading\n\ntext"

    assert [passage.heading for passage in split_markdown(document)] == ["", "Heading"]


def test_fence_without_an_end_runs_to_the_end() -> None:
    assert [passage.heading for passage in split_markdown("```\n# code\n\n# more code")] == [""]


def test_code_in_a_list_item_stays_with_it() -> None:
    item = "- install:\n\n  ```bash\n  # as root\n\n  make\n  ```\n- use"

    assert [passage.text for passage in split_markdown(f"{item}\n\nafter it", max_words=10)] == [
        item,
        "after it",
    ]


def test_neighbours_share_a_passage_while_they_fit() -> None:
    texts = [passage.text for passage in split_markdown("one two\n\nthree\n\nfour", max_words=3)]

    assert texts == ["one two\n\nthree", "four"]


def test_sections_do_not_share_a_passage() -> None:
    assert len(split_markdown("# A\na\n# B\nb", max_words=100)) == 2


@pytest.mark.parametrize(
    ("block", "parts"),
    [
        ("One two. Three four. Five six.", ["One two. Three four.", "Five six."]),
        ("v1.2 is a b c.d e.", ["v1.2 is a b", "c.d e."]),
        ("- one two\n- three four\n- five", ["- one two", "- three four", "- five"]),
        ("| a |\n| b |", ["| a |", "| b |"]),
        ("```\na b\nc d\n```", ["```\na b", "c d\n```"]),
        ("箭飞直。羽毛好", ["箭飞直。", "羽毛好"]),
    ],
)
def test_block_that_does_not_fit_is_cut_at_its_borders(block: str, parts: list[str]) -> None:
    assert [passage.text for passage in split_markdown(block, max_words=4)] == parts


def test_block_that_fits_is_not_cut() -> None:
    document = "one two\n\nThree four. Five six."

    assert [passage.text for passage in split_markdown(document, max_words=4)] == document.split("\n\n")


def test_carriage_returns_change_nothing() -> None:
    document = "---\na: b\n---\n# Guide\n\n```\n# code\n```\n\nTitle\n===\n\n<!-- x -->\ntext\n"

    with_returns = split_markdown(document.replace("\n", "\r\n"))

    assert [(passage.heading, passage.text.replace("\r", "")) for passage in with_returns] == [
        (passage.heading, passage.text) for passage in split_markdown(document)
    ]


def test_source_is_copied() -> None:
    assert split_markdown("text", source="README.md")[0].source == "README.md"


@pytest.mark.parametrize("document", ["", "\n\n", "   ", "# Only a heading", "<!-- only a comment"])
def test_document_without_text_has_no_passages(document: str) -> None:
    assert split_markdown(document) == []


@pytest.mark.parametrize(
    "directive",
    ["::: pkg.module", "::: pkg.module\n    options:\n      members: [a]", "::: pkg\n\n    options:\n"],
)
def test_directive_is_dropped_and_ends_a_passage(directive: str) -> None:
    texts = [passage.text for passage in split_markdown(f"# API\nBefore.\n\n{directive}\n\nAfter.")]

    assert texts == ["Before.", "After."]


def test_admonition_with_colons_is_text() -> None:
    assert split_markdown("::: tip\nWax the string.\n:::")[0].text == "::: tip\nWax the string.\n:::"


def test_title_stands_above_headings_of_lower_levels() -> None:
    document = "top\n## Use\na\n# Other\nb\n## Part\nc"

    headings = [passage.heading for passage in split_markdown(document, title="Bow")]

    assert headings == ["Bow", "Bow > Use", "Other", "Other > Part"]


@pytest.mark.parametrize("max_words", [1, 5, 40, 1000])
@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("seed", range(10))
class TestAnyText:
    def cut(self, seed: int, wrapped: bool, max_words: int) -> tuple[str, list[Passage]]:
        document = build_document(seed)
        starts = sorted(random.Random(seed).choices(range(len(document) + 1), k=3))
        headings = [Heading(start, level, "x") for level, start in enumerate(starts, start=1)]
        return document, split_text(document, headings=headings, wrapped=wrapped, max_words=max_words)

    def test_offsets_point_at_the_text(self, seed: int, wrapped: bool, max_words: int) -> None:
        document, passages = self.cut(seed, wrapped, max_words)

        assert [document[passage.start : passage.end] for passage in passages] == [
            passage.text for passage in passages
        ]

    def test_nothing_is_lost_and_order_is_kept(self, seed: int, wrapped: bool, max_words: int) -> None:
        document, passages = self.cut(seed, wrapped, max_words)

        assert "".join("".join(passage.text for passage in passages).split()) == "".join(document.split())

    def test_no_passage_is_too_long_or_blank(self, seed: int, wrapped: bool, max_words: int) -> None:
        _, passages = self.cut(seed, wrapped, max_words)

        assert all(0 < len(passage.text.split()) <= max_words for passage in passages)


@pytest.mark.parametrize("line", ["# no heading", "---\na: b\n---", "<!-- no comment -->", "```", "::: tip"])
def test_text_knows_no_markup(line: str) -> None:
    assert split_text(line) == [Passage(line, "", 0, len(line))]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("one two\n\nthree four\n\nfive", ["one two\n\nthree four", "five"]),
        ("One two\nthree. Four five\nsix.", ["One two\nthree.", "Four five\nsix."]),
        ("one two three\nfour five six", ["one two three", "four five six"]),
        ("  one two three\n  four five", ["one two three", "  four five"]),
        ("one two three four five", ["one two three four", "five"]),
        ("火箭的羽毛", ["火箭的羽", "毛"]),
        ("火。箭。羽毛", ["火。箭。", "羽毛"]),
        ("x" * 130, ["x" * 128, "xx"]),
    ],
)
def test_text_is_cut_as_coarsely_as_possible(text: str, parts: list[str]) -> None:
    assert [passage.text for passage in split_text(text, max_words=4)] == parts


def test_whole_lines_are_kept_where_nothing_runs_on() -> None:
    texts = [
        passage.text for passage in split_text("One. Two three\n  Four. Five six", wrapped=False, max_words=4)
    ]

    assert texts == ["One. Two three", "  Four. Five six"]


def test_headings_of_a_text_make_a_path() -> None:
    headings = [Heading(4, 1, "Bow"), Heading(8, 2, "Limb"), Heading(8, 2, "String"), Heading(12, 1, "Arrow")]

    passages = split_text("top\none\ntwo\nthree", headings=headings, title="Book")

    assert [(passage.heading, passage.text) for passage in passages] == [
        ("Book", "top"),
        ("Bow", "one"),
        ("Bow > String", "two"),
        ("Arrow", "three"),
    ]


def test_text_is_cut_within_its_limit() -> None:
    with pytest.raises(ArgumentError, match=r"split_text: `max_words` must be at least 1; got 0\."):
        split_text("text", max_words=0)


MEGABYTE = 1_000_000


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "document",
    [
        *(
            unit * (MEGABYTE // len(unit))
            for unit in ("a", "a ", "# ", "<!-- ", "```", "- a\n", "=", "\n", "a.\n\n")
        ),
        *(
            f"{start}{middle * (MEGABYTE // len(middle))}x"
            for start in ("# ", "-", "")
            for middle in (" ", " #", "{#")
        ),
        *(f"{start}{'w ' * 200}\n{' ' * MEGABYTE}\nx" for start in ("```\n", "- ", "")),
    ],
    ids=lambda document: repr(document[:8]),
)
def test_megabyte_is_cut_in_linear_time(document: str) -> None:
    split_markdown(document)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("unit", ["a", "a ", " ", "\n", "a\n", f"{'w ' * 130}\n{' ' * 200_000}\n"], ids=ascii)
def test_text_is_cut_in_linear_time(unit: str) -> None:
    split_text(unit * (MEGABYTE // 3 // len(unit)))


def test_limit_below_one_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"`max_words` must be at least 1; got 0\."):
        split_markdown("text", max_words=0)


@pytest.mark.parametrize(
    ("text", "max_words", "taken"),
    [
        (" A  bow bends.", 2, " A  bow"),
        ("A bow", 2, "A bow"),
        ("A bow", 3, "A bow"),
        ("箭有羽毛", 3, "箭有羽"),
        ("x" * 100, 2, "x" * 64),
        ("", 1, ""),
    ],
)
def test_words_are_taken_from_the_beginning(text: str, max_words: int, taken: str) -> None:
    """A run without spaces counts as a word for every 32 characters."""
    assert take_words(text, max_words) == taken
