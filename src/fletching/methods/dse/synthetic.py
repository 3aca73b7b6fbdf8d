"""Made-up pairs for first tries: are both sentences about archery?"""

from __future__ import annotations

from random import Random

from fletching.methods.dse.data import PairRow

__all__ = ["ALPHABET", "build_synthetic_pairs"]

_ARCHERY, _KITCHEN = (
    "abcdefghijkl",
    "mnopqrstuvwx",
)  # a letter is a thing: a tiny model has to read nothing else
_THINGS_PER_SENTENCE = 4
_OTHERS = ((_ARCHERY, _KITCHEN), (_KITCHEN, _ARCHERY), (_KITCHEN, _KITCHEN))

ALPHABET = _ARCHERY + _KITCHEN
"""All letters that occur."""


def build_synthetic_pairs(n_pairs: int = 200, *, seed: int = 0) -> list[PairRow]:
    """Build pairs of lists of things; those with archery on both sides have the label 1, half of all.

    Args:
        n_pairs: How many.
        seed: Same seed, same pairs.

    Returns:
        The pairs.

    Example:
        >>> first, second = build_synthetic_pairs(2)
        >>> first.label, second.label
        (1.0, 0.0)
    """
    generator = Random(seed)
    rows = []
    for place in range(n_pairs):
        label = float(place % 2 == 0)
        topics = (_ARCHERY, _ARCHERY) if label else generator.choice(_OTHERS)
        first, second = (" ".join(generator.choices(topic, k=_THINGS_PER_SENTENCE)) for topic in topics)
        rows.append(PairRow(first, second, label))
    return rows
