"""A made-up dictionary with pairs of sentences, and what smoke runs start from."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from random import Random

from fletching.data import SentencePair
from fletching.training import save_character_bert

__all__ = ["build_synthetic_definitions", "build_synthetic_pairs", "save_smoke_encoder"]

_MATERIALS = ("oak", "yew", "ash", "elm", "silk", "flax", "horn", "bone")
_THINGS = {
    "bow": ("weapon that bends and sends off an arrow", "arm of an archer"),
    "quiver": ("case that holds arrows", "bag on the back of an archer"),
    "shaft": ("straight rod of an arrow", "body that flies to the target"),
    "glove": ("cover that keeps the fingers safe", "guard for the hand that draws"),
    "case": ("box to put a thing in", "place to keep a thing dry"),
    "target": ("mark that is shot at", "disc at the end of the range"),
}
_WORDINGS = ("a {thing} made of {material}", "a {material} {thing}", "{thing}, of {material}")


def build_synthetic_definitions() -> list[tuple[str, str]]:
    """Make up a dictionary: each material with each thing, three definitions to an entry of two words.

    Returns:
        Pairs of an entry and a definition.
    """
    pairs = []
    for material in _MATERIALS:
        for name, glosses in _THINGS.items():
            for place, wording in enumerate(_WORDINGS):
                gloss = glosses[place % len(glosses)]
                pairs.append((f"{material} {name}", wording.format(thing=gloss, material=material)))
    return pairs


def build_synthetic_pairs(*, n_pairs: int = 120, seed: int = 0) -> list[SentencePair]:
    """Make up pairs of sentences in words that the dictionary uses.

    Args:
        n_pairs: How many.
        seed: Of the choice.

    Returns:
        Pairs; the score is 2 for the same thing of the same material, 1 for one of the two, else 0.
    """
    described = [
        (material, name, f"here is {gloss} and the {material} is old")
        for material in _MATERIALS
        for name, glosses in _THINGS.items()
        for gloss in glosses
    ]
    every = list(combinations(described, 2))
    by_score: dict[int, list[SentencePair]] = {0: [], 1: [], 2: []}
    for (material, name, first), (other_material, other_name, second) in every:
        score = (material == other_material) + (name == other_name)
        by_score[score].append(SentencePair(first, second, float(score)))
    draw = Random(seed)
    return [pair for pairs in by_score.values() for pair in draw.sample(pairs, min(n_pairs // 3, len(pairs)))]


def save_smoke_encoder(folder: str | Path, *, seed: int = 0) -> str:
    """Save a small BERT with random weights that reads the dictionary letter by letter.

    Args:
        folder: Where to.
        seed: Of the weights.

    Returns:
        ``folder`` as a string.
    """
    texts = [text for pair in build_synthetic_definitions() for text in pair]
    texts += [pair.sentence1 for pair in build_synthetic_pairs(seed=seed)]
    return save_character_bert(folder, texts, seed=seed)
