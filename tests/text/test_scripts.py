"""Scripts by the names that Unicode gives to letters."""

from __future__ import annotations

import pytest

from fletching.text.scripts import find_script


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Why do arrows fly?", "Latin"),
        ("¿Por qué? Éa", "Latin"),
        ("\uff26\uff41", "Latin"),  # full width
        ("1º \ufb01", "Latin"),  # an ordinal, a ligature
        ("\N{MICRO SIGN}", "Greek"),
        ("Почему лёд плавает?", "Cyrillic"),
        ("Γιατί;", "Greek"),
        ("绿茶应该用多少度的水冲泡", "Han"),
        ("人々", "Han"),
        ("温泉に入る", "Japanese"),
        ("ｶﾀｶﾅ", "Japanese"),
        ("안녕하세요", "Hangul"),
        ("भारत में", "Devanagari"),
        ("لماذا ماء البحر مالح؟", "Arabic"),
        ("שלום", "Hebrew"),
        ("สวัสดี", "Thai"),
        ("𐎠𐎡", "other"),
    ],
)
def test_script_is_that_of_the_letters(text: str, script: str) -> None:
    assert find_script(text) == script


@pytest.mark.parametrize("text", ["", " \n", "42 % (3.14)", "\N{BOW AND ARROW}!", "\u0301"])
def test_text_without_letters_has_no_script(text: str) -> None:
    assert find_script(text) == "none"


def test_most_letters_decide() -> None:
    assert find_script("int лёд") == "Latin"  # three each: the first
    assert find_script("int льды") == "Cyrillic"  # three and four


def test_vowel_signs_count_for_their_script() -> None:
    """Devanagari ka with the sign of i: two characters against one Latin letter each way round."""
    assert find_script("a कि") == "Devanagari"


def test_chinese_with_a_quoted_kana_stays_han() -> None:
    """One kana among 21 letters is less than one in ten."""
    assert find_script("汉" * 20 + "の") == "Han"
    assert find_script("漢" * 8 + "の") == "Japanese"


def test_a_combining_accent_belongs_to_no_script() -> None:
    """Five accents against one Greek letter."""
    assert find_script("\N{GREEK SMALL LETTER ALPHA}" + "\u0301" * 5) == "Greek"
