"""Which script a text is written in: Latin, Cyrillic, Han; a script, not a language."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

__all__ = ["find_script"]

NO_SCRIPT = "none"
"""What `find_script` says of a text without letters."""

OTHER_SCRIPT = "other"
"""What `find_script` says of scripts that `_SCRIPTS` does not name."""

_JAPANESE, _HAN = "Japanese", "Han"
_KANA_SHARE = 0.1  # a Chinese text quotes a kana now and then; every third letter of Japanese prose is one

# How the names of a script's letters begin in Unicode -> the script.
_SCRIPTS = {
    "ARABIC": "Arabic",
    "ARMENIAN": "Armenian",
    "BENGALI": "Bengali",
    "BOPOMOFO": "Bopomofo",
    "CHEROKEE": "Cherokee",
    "CJK": _HAN,
    "CYRILLIC": "Cyrillic",
    "DEVANAGARI": "Devanagari",
    "ETHIOPIC": "Ethiopic",
    "GEORGIAN": "Georgian",
    "GREEK": "Greek",
    "GUJARATI": "Gujarati",
    "GURMUKHI": "Gurmukhi",
    "HANGUL": "Hangul",
    "HEBREW": "Hebrew",
    "HIRAGANA": _JAPANESE,
    "IDEOGRAPHIC": _HAN,
    "KANNADA": "Kannada",
    "KATAKANA": _JAPANESE,
    "KATAKANA-HIRAGANA": _JAPANESE,
    "KHMER": "Khmer",
    "LAO": "Lao",
    "LATIN": "Latin",
    "MALAYALAM": "Malayalam",
    "MONGOLIAN": "Mongolian",
    "MYANMAR": "Myanmar",
    "ORIYA": "Oriya",
    "SINHALA": "Sinhala",
    "SYRIAC": "Syriac",
    "TAMIL": "Tamil",
    "TELUGU": "Telugu",
    "THAANA": "Thaana",
    "THAI": "Thai",
    "TIBETAN": "Tibetan",
    "TIFINAGH": "Tifinagh",
}


def find_script(text: str) -> str:
    """Name the script that most letters of a text belong to.

    A script is not a language: English, Spanish and Vietnamese are all Latin. Japanese is the exception,
    since no other language writes kana; its Han characters count as Japanese where at least one letter in ten
    is a kana. Digits, punctuation and emoji do not count.

    Args:
        text: Any text.

    Returns:
        The script's English name in Unicode, such as ``"Latin"`` or ``"Devanagari"``; ``"other"`` for rare
        and historic scripts, ``"none"`` for a text without letters. Of two scripts with equally many letters,
        the one that occurs first.

    Example:
        >>> find_script("Why do arrows have feathers?"), find_script("北京到上海"), find_script("42 %")
        ('Latin', 'Han', 'none')
    """
    counts: Counter[str] = Counter()
    for character, count in Counter(text).items():  # in the order of first occurrence, and so are scripts
        if (script := _script_of(character)) is not None:
            counts[script] += count
    if not counts:
        return NO_SCRIPT
    east_asian = counts[_JAPANESE] + counts[_HAN]
    if counts[_JAPANESE] and counts[_JAPANESE] >= _KANA_SHARE * east_asian:
        counts[_JAPANESE] = east_asian
    return max(counts, key=counts.__getitem__)


@lru_cache(maxsize=1 << 14)
def _script_of(character: str) -> str | None:
    """Name the script of one letter or vowel sign; ``None`` for what belongs to no script."""
    category = unicodedata.category(character)
    if category[0] not in "LM":
        return None
    plain = unicodedata.normalize("NFKC", character)[0]  # full width, ligatures, bold for mathematics
    name = unicodedata.name(plain, "")
    known = _SCRIPTS.get(name.split(" ", 1)[0])
    if known is None and category in {"Lm", "Mn", "Me"}:
        return None  # accents and modifiers, which several scripts share
    return known or OTHER_SCRIPT
