"""Splits texts into the words that BM25 counts."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Iterable
from itertools import islice

from fletching.errors import bad_choice, missing_extra

__all__ = ["Splitter", "find_splitter", "split_chinese_words", "split_words"]

Splitter = Callable[[str], list[str]]

logger = logging.getLogger(__name__)

# Vowel signs and accents, which Unicode calls marks and `\w` leaves out; Hindi words are full of them.
_MARKS = "".join(chr(code) for code in range(0x300, 0xAC00) if unicodedata.category(chr(code))[0] == "M")
_WORD = re.compile(rf"\w+(?:[{_MARKS}]+\w*)*")
_LETTER = re.compile(r"[^\W\d_]")
_HAN = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
_KANA = "\u3040-\u30ff"
_OTHERS_WITHOUT_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
_HAN_CHARACTER = re.compile(f"[{_HAN}]")
_KANA_CHARACTER = re.compile(f"[{_KANA}]")
_CHARACTER_WITHOUT_SPACES = re.compile(f"[{_HAN}{_KANA}{_OTHERS_WITHOUT_SPACES}]")
_RUN = re.compile(rf"[{_HAN}]+|[^\W{_HAN}]+(?:[{_MARKS}]+[^\W{_HAN}]*)*")

# What "auto" looks at, and what share of the letters decides.
_SAMPLES = 200
_SAMPLE_LENGTH = 2000
_MIN_SHARE = 0.1
_MAX_KANA_PER_HAN = 0.2  # Japanese has more kana than Han characters


def split_words(text: str) -> list[str]:
    """Split into lower-case words.

    Args:
        text: Any text.

    Returns:
        Runs of letters, digits and underscores, with the vowel signs and accents that belong to them.

    Example:
        >>> split_words("Who likes Tie Dye?")
        ['who', 'likes', 'tie', 'dye']
    """
    return _WORD.findall(text.lower())


def split_chinese_words(text: str) -> list[str]:
    """Split Chinese, alone or among other scripts, with the dictionary of jieba (extra ``chinese``).

    Characters are brought to their usual width first (NFKC). Runs of Han characters are cut by rjieba;
    anything else is split as `split_words` does, so that English passages of a Chinese collection lose
    nothing. Traditional characters stay as they are: a simplified query does not find them.

    rjieba cuts without its hidden Markov model, which makes new words of characters by what surrounds them,
    so that the same name is cut in two ways; and without the shorter words of its search mode. BM25 put the
    asked-for paragraphs of CMRC 2018 and DRCD higher that way.

    Args:
        text: Any text.

    Returns:
        Lower-case words in the order of the text.

    Raises:
        MissingExtraError: If rjieba is not installed.

    Example:
        >>> split_chinese_words("用BM25检索北京大学。")
        ['用', 'bm25', '检索', '北京大学']
    """
    try:
        from rjieba import cut
    except ImportError as error:
        raise missing_extra("split_chinese_words", "rjieba", "chinese") from error
    words: list[str] = []
    for run in _RUN.findall(unicodedata.normalize("NFKC", text).lower()):
        if _HAN_CHARACTER.match(run):
            words += cut(run, False)
        else:
            words.append(run)
    return words


_SPLITTERS: dict[str, Splitter] = {"words": split_words, "chinese": split_chinese_words}


def find_splitter(name: str, samples: Iterable[str] = ()) -> Splitter:
    """Find the function that splits a collection's texts into words.

    ``"auto"`` looks at the beginnings of the first samples. It takes Chinese where a tenth of the letters or
    more are Han characters and kana are rare among them; words otherwise. No splitter here knows the words of
    Japanese, Thai, Lao, Khmer or Burmese, which are written without spaces: ``"words"`` takes the characters
    between two spaces or punctuation marks for one word, and a warning is logged. Give `BM25` a function of
    your own for these.

    Args:
        name: ``"auto"``, ``"words"`` or ``"chinese"``.
        samples: Texts of the collection, for ``"auto"``; at most 200 are read.

    Returns:
        `split_words` or `split_chinese_words`; the same for the same samples.

    Raises:
        ArgumentError: If there is no such splitter.
        MissingExtraError: If the texts are Chinese and rjieba is not installed.

    Example:
        >>> find_splitter("auto", ["The bow bends.", "An arrow flies."]).__name__
        'split_words'
    """
    if name != "auto":
        if name not in _SPLITTERS:
            raise bad_choice("find_splitter", "name", ["auto", *_SPLITTERS], name)
        chosen = _SPLITTERS[name]
    else:
        chosen = _guess_splitter(" ".join(text[:_SAMPLE_LENGTH] for text in islice(samples, _SAMPLES)))
    chosen("")  # a missing extra is reported here, not at the first text
    return chosen


def _guess_splitter(sample: str) -> Splitter:
    n_letters = max(1, len(_LETTER.findall(sample)))
    n_han, n_kana = len(_HAN_CHARACTER.findall(sample)), len(_KANA_CHARACTER.findall(sample))
    if n_han / n_letters >= _MIN_SHARE and n_kana <= _MAX_KANA_PER_HAN * n_han:
        return split_chinese_words
    share = len(_CHARACTER_WITHOUT_SPACES.findall(sample)) / n_letters
    if share >= _MIN_SHARE:
        logger.warning(
            "%.0f %% of the letters belong to scripts without spaces between words, and the texts are not "
            "Chinese: whole phrases count as one word. Pass a function that splits them.",
            100 * min(1.0, share),
        )
    return split_words
