"""Dictionaries of whatever kind, by their paths and names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from fletching.errors import bad_argument
from fletching.methods.defsent_plus.data import DefinitionSet

__all__ = ["read_definitions", "sample_definitions"]


def read_definitions(
    sources: Sequence[str],
    *,
    encoding: str = "utf-8",
    clean: bool = False,
    words: str | None = None,
    split: str | None = None,
    merge_identical: bool = True,
) -> DefinitionSet:
    """Read dictionaries of whatever kind and put them together.

    Args:
        sources: As ``train_data`` of the recipe.
        encoding: Of tab-separated files.
        clean: As for ``DefinitionSet.from_tsv``.
        words: As for ``DefinitionSet.from_open_wordnet``; likewise the next.
        split: Which part of it.
        merge_identical: Whether entries with the same definitions are one class.

    Returns:
        The definitions.

    Raises:
        ArgumentError: If there is no source, ``words`` or ``split`` is given for none of them, or a package
            lacks what is asked of it.
        DataError: If a file is missing or malformed.
        MissingExtraError: If ``wn`` or ``nltk`` is asked for and not installed.
    """
    if not sources:
        raise bad_argument("read_definitions", "sources", "at least one dictionary", sources)
    if (words or split) and not any(source.removesuffix(".gz").endswith(".jsonl") for source in sources):
        domain = "left out without `.jsonl` synsets, whose words it divides"
        name, value = ("words", words) if words else ("split", split)
        raise bad_argument("read_definitions", name, domain, value)
    sets = []
    for source in sources:
        name, _, lexicon = source.partition(":")
        stem = source.removesuffix(".gz")
        if source == "nltk":
            found = DefinitionSet.from_nltk(merge_identical=merge_identical)
        elif name == "wn":
            found = DefinitionSet.from_wn(lexicon or None, merge_identical=merge_identical)
        elif Path(source).is_dir():
            found = DefinitionSet.from_wordnet(source, merge_identical=merge_identical)
        elif stem.endswith(".jsonl"):
            found = DefinitionSet.from_open_wordnet(
                source, words=words, split=split, merge_identical=merge_identical
            )
        else:
            found = DefinitionSet.from_tsv(
                source, encoding=encoding, clean=clean, merge_identical=merge_identical
            )
        sets.append(found)
    if len(sets) == 1:
        return sets[0]
    pairs = [
        (name, definition)
        for found in sets
        for names, definitions in zip(found.members, found.definitions, strict=True)
        for name in names
        for definition in definitions
    ]
    return DefinitionSet.from_pairs(pairs, merge_identical=merge_identical)


def sample_definitions(definitions: DefinitionSet, n_entries: int | None, *, seed: int) -> DefinitionSet:
    """Draw entries of a dictionary.

    Args:
        definitions: The dictionary.
        n_entries: Classes to draw; ``None``, or more than there are, takes all.
        seed: Of the draw.

    Returns:
        Their definitions; the same for the same seed.
    """
    if n_entries is None or n_entries >= len(definitions):
        return definitions
    drawn = Random(seed).sample(range(len(definitions)), n_entries)
    kept = {name for label in drawn for name in definitions.members[label]}
    return definitions.select(kept.__contains__)
