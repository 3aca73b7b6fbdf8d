from __future__ import annotations

import logging
import sys

import pytest

from fletching.errors import ArgumentError, MissingExtraError
from fletching.text.words import find_splitter, split_chinese_words, split_words

CHINESE = ["北京大学在中国的首都。", "学生去图书馆看书。"]
JAPANESE = ["これはひらがなを多く含む日本語の文章です。", "東京へ行きました。"]
ENGLISH = ["The bow bends.", "An arrow flies."]


def test_words_are_lower_case_runs() -> None:
    assert split_words("The St. Louis Cardinals? x_1") == ["the", "st", "louis", "cardinals", "x_1"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी, क्षत्रिय।", ["हिन्दी", "क्षत्रिय"]),
        ("வணக்கம்!", ["வணக்கம்"]),
        ("مُحَمَّد", ["مُحَمَّد"]),
        ("cafe\N{COMBINING ACUTE ACCENT} au", ["cafe\N{COMBINING ACUTE ACCENT}", "au"]),
        ("\N{COMBINING ACUTE ACCENT} au", ["au"]),
        ("İstanbul", ["i\N{COMBINING DOT ABOVE}stanbul"]),
    ],
    ids=["hindi", "tamil", "arabic", "accent", "accent-alone", "dotted-i"],
)
def test_marks_belong_to_their_word(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_chinese_is_cut_at_the_words_of_the_dictionary() -> None:
    assert split_chinese_words("学生去图书馆看书。") == ["学生", "去", "图书馆", "看书"]


def test_chinese_splitter_leaves_other_scripts_as_words_does() -> None:
    text = "Who likes Café_1 crème, 3.14? हिन्दी"
    assert split_chinese_words(text) == split_words(text)


def test_chinese_splitter_brings_characters_to_their_usual_width() -> None:
    assert split_chinese_words("ＢＭ２５検索") == split_chinese_words("bm25検索")


def test_chinese_splitter_keeps_runs_of_latin_and_digits_whole() -> None:
    assert split_chinese_words("在GPT4o上2024年") == ["在", "gpt4o", "上", "2024", "年"]


def test_chinese_splitter_has_no_words_for_punctuation() -> None:
    assert split_chinese_words("。、《》 …\n") == []


def test_chinese_splitter_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rjieba", None)
    with pytest.raises(MissingExtraError, match=r'pip install "fletching\[chinese\]"'):
        find_splitter("chinese")


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (CHINESE, split_chinese_words),
        ([*CHINESE, *ENGLISH], split_chinese_words),
        (ENGLISH, split_words),
        ([*ENGLISH * 20, "箭"], split_words),  # 1 of more than 400 letters
        (JAPANESE, split_words),
        ([], split_words),
        (["", "1 2 3"], split_words),
    ],
    ids=["chinese", "mixed", "english", "one-character", "japanese", "none", "no-letters"],
)
def test_auto_goes_by_the_share_of_han_characters(samples: list[str], expected: object) -> None:
    assert find_splitter("auto", samples) is expected


@pytest.mark.parametrize("samples", [JAPANESE, ["ลูกศรบินไปในอากาศ"]], ids=["japanese", "thai"])
def test_auto_warns_of_scripts_without_spaces(samples: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fletching"):
        find_splitter("auto", samples)
    assert "scripts without spaces" in caplog.text


@pytest.mark.parametrize("samples", [CHINESE, ENGLISH], ids=["chinese", "english"])
def test_auto_is_silent_about_scripts_it_knows(samples: list[str], caplog: pytest.LogCaptureFixture) -> None:
    find_splitter("auto", samples)
    assert not caplog.records


def test_auto_reads_a_bounded_number_of_samples() -> None:
    endless = iter(lambda: "An arrow flies.", None)
    assert find_splitter("auto", endless) is split_words


def test_unknown_splitter_is_refused_with_the_options() -> None:
    with pytest.raises(
        ArgumentError, match=r"one of 'auto', 'words', 'chinese'; got 'chines'\. Did you mean"
    ):
        find_splitter("chines")
