"""Made-up pairs and a tiny BERT: for first tries and tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from random import Random

from fletching.data.lines import StrPath, write_lines
from fletching.training import save_word_bert

__all__ = ["build_synthetic_pairs", "save_smoke_bert", "write_pairs"]

_TOPICS = ("arrow", "bow", "feather", "string", "target", "quiver", "glove", "wind")
_DETAILS = ("oak", "silk", "wax", "iron", "reed", "cork", "bone", "flax")
_SAID = ("a {topic} of {detail}", "this {topic} has {detail} in it", "{detail}, for a {topic}")

Pair = tuple[float, str, str]


def build_synthetic_pairs(n_pairs: int, *, seed: int = 0) -> list[Pair]:
    """Make pairs of sentences about things; the score is 5 for one thing, 2.5 if half is alike, else 0.

    Args:
        n_pairs: How many.
        seed: Same seed, same pairs.

    Returns:
        Score, first and second sentence.
    """
    generator = Random(seed)
    pairs = []
    for number in range(n_pairs):
        topic, detail = generator.choice(_TOPICS), generator.choice(_DETAILS)
        other_topic = topic if number % 4 in (0, 1) else _choose_other(generator, _TOPICS, topic)
        other_detail = detail if number % 4 in (0, 2) else _choose_other(generator, _DETAILS, detail)
        first, second = generator.sample(_SAID, 2)
        score = 2.5 * ((topic == other_topic) + (detail == other_detail))
        sentences = (
            first.format(topic=topic, detail=detail),
            second.format(topic=other_topic, detail=other_detail),
        )
        pairs.append((score, *sentences))
    return pairs


def write_pairs(path: StrPath, pairs: Iterable[Pair]) -> None:
    """Write scored pairs as ``fletching.data.read_sts`` reads them.

    Args:
        path: The file; it appears when it is complete.
        pairs: Score, first and second sentence.
    """
    lines = (f"{score}\t{first}\t{second}" for score, first, second in pairs)
    write_lines(path, ["score\tsentence1\tsentence2", *lines])


def save_smoke_bert(folder: str | Path, *, seed: int = 0) -> str:
    """Save a BERT of four small layers with random weights, whose tokens are the words of these pairs.

    Args:
        folder: Where to; made when missing.
        seed: Decides the weights.

    Returns:
        ``folder`` as a string.
    """
    return save_word_bert(folder, (*_SAID, *_TOPICS, *_DETAILS), seed=seed)


def _choose_other(generator: Random, options: tuple[str, ...], one: str) -> str:
    return generator.choice([option for option in options if option != one])
