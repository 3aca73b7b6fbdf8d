"""Definitions: from files and dictionaries to classes and training rows, with every pair accounted for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from fletching.data.lines import StrPath, Words
from fletching.errors import bad_argument, bad_choice, missing_extra
from fletching.methods.defsent_plus.config import NO_ENTRY
from fletching.methods.defsent_plus.readers import (
    Pair,
    clean_definition,
    clean_entry,
    read_lemmas,
    read_pairs,
    read_wordnet,
    read_words,
    spell_lemma,
)

__all__ = ["DefinitionSet", "DefinitionStatistics"]

logger = logging.getLogger(__name__)

_OWNER = "DefinitionSet"
_WORDNET_PARTS = ("noun", "verb", "adj", "adv")


@dataclass(frozen=True)
class DefinitionStatistics:
    """What became of the pairs that were read; nothing is left out that is not counted here.

    ``pairs == examples + repeated_by_merging + empty_entries + empty_definitions + self_definitions +
    duplicates``.

    Args:
        pairs: (entry, definition) pairs read.
        empty_entries: Left out: the entry is blank.
        empty_definitions: Left out: the definition is blank.
        self_definitions: Left out (unless they were to be kept): the definition is the entry itself, but for
            case and white space.
        duplicates: Left out: the entry has this definition already.
        undefined_entries: Entries that have no definition left, so that they are no class.
        entries: Entries that have one.
        multi_word_entries: Of these, those of several words.
        merged_entries: Of these, those that share their class with an earlier entry, since their definitions
            are the same.
        classes: Classes, ``entries - merged_entries``.
        repeated_by_merging: Pairs that belong to merged entries: their class has the definition already.
        examples: Rows to train on, one for each class and definition.
        distinct_definitions: Different definitions among them.
        shared_definitions: Of these, those that belong to several classes: no model can tell which is meant.
        longest: Words of the longest definition.
    """

    pairs: int
    empty_entries: int
    empty_definitions: int
    self_definitions: int
    duplicates: int
    undefined_entries: int
    entries: int
    multi_word_entries: int
    merged_entries: int
    classes: int
    repeated_by_merging: int
    examples: int
    distinct_definitions: int
    shared_definitions: int
    longest: int

    @property
    def lost_pairs(self) -> int:
        """Pairs that were left out."""
        return self.empty_entries + self.empty_definitions + self.self_definitions + self.duplicates


class DefinitionSet:
    """Entries with their definitions, as classes with their examples.

    Build one with :meth:`from_pairs`, :meth:`from_tsv`, :meth:`from_wordnet`, :meth:`from_open_wordnet`,
    :meth:`from_wn` or :meth:`from_nltk`. White space is made uniform. Left out, counted in
    :attr:`statistics` and logged are blank entries and definitions, a definition that an entry has already,
    and definitions that are the entry itself. Long definitions stay; whoever reads them cuts what does not
    fit its window, and logs that.

    Entries with the very same definitions are synonyms that nothing can tell apart. By default they are one
    class, named after the first; ``members`` has all of them. A definition that different classes share
    stays with each: one example for each.

    Args:
        members: The entries of each class, the first one naming it.
        definitions: The definitions of each class.
        statistics: What became of the pairs.
    """

    def __init__(
        self,
        members: Sequence[Sequence[str]],
        definitions: Sequence[Sequence[str]],
        *,
        statistics: DefinitionStatistics,
    ) -> None:
        self.members = tuple(map(tuple, members))
        self.definitions = tuple(map(tuple, definitions))
        self.statistics = statistics
        self._labels = {name: label for label, names in enumerate(self.members) for name in names}

    # --- building ---

    @classmethod
    def from_pairs(
        cls,
        pairs: Iterable[Pair],
        *,
        merge_identical: bool = True,
        keep_self_definitions: bool = False,
    ) -> DefinitionSet:
        """Build a set of (entry, definition) pairs, in their order.

        Args:
            pairs: The pairs; an entry may come again, with another definition.
            merge_identical: Whether entries with the very same definitions become one class. The reference
                code keeps them apart, with labels that contradict each other.
            keep_self_definitions: Whether a definition that is the entry itself stays, as in the reference
                code.

        Returns:
            The set.

        Raises:
            ArgumentError: If a pair is no pair of texts, or nothing is left.

        Example:
            >>> words = DefinitionSet.from_pairs([("bow", "a weapon"), ("arc", "a bend"), ("bend", "a bend")])
            >>> words.entries, words.members[1], words.statistics.merged_entries
            (('bow', 'arc'), ('arc', 'bend'), 1)
        """
        counts = dict.fromkeys(("pairs", "empty_entries", "empty_definitions", "self_definitions"), 0)
        counts["duplicates"] = 0
        seen: dict[str, dict[str, None]] = {}  # entry -> its definitions, in order
        for pair in pairs:
            entry, definition = _check_pair(pair, counts["pairs"])
            counts["pairs"] += 1
            if not entry:
                counts["empty_entries"] += 1
                continue
            known = seen.setdefault(entry, {})
            if not definition:
                counts["empty_definitions"] += 1
            elif definition.casefold() == entry.casefold() and not keep_self_definitions:
                counts["self_definitions"] += 1
            elif definition in known:
                counts["duplicates"] += 1
            else:
                known[definition] = None
        defined = {entry: tuple(known) for entry, known in seen.items() if known}
        if not defined:
            found = Words(f"none among {counts['pairs']} pairs")
            raise bad_argument(f"{_OWNER}.from_pairs", "pairs", "at least one entry with a definition", found)
        members, definitions = _form_classes(defined, merge_identical=merge_identical)
        statistics = _count(
            members, definitions, defined, undefined_entries=len(seen) - len(defined), **counts
        )
        _report(statistics)
        return cls(members, definitions, statistics=statistics)

    @classmethod
    def from_tsv(
        cls,
        path: StrPath,
        *,
        encoding: str = "utf-8",
        columns: Sequence[str] | None = None,
        clean: bool = False,
        merge_identical: bool = True,
        keep_self_definitions: bool = False,
    ) -> DefinitionSet:
        """Read a tab-separated file, one definition or several in a line.

        Several definitions have ``<|list_more_def|>`` between them, as in the authors' files (their encoding
        is ``"utf-16"``); they are taken apart before repeated ones are looked for.

        Args:
            path: The file, plain or gzipped.
            encoding: Its encoding, by Python's name.
            columns: What the columns are: ``"entry"``, ``"definition"``, any other name to leave a column
                out; columns behind the last one named are left out, too. ``None``: as the header line says;
                without one, entry and definition, and nothing else.
            clean: Whether to clean the tokenized text of Ishiwatari et al. (2019), see
                ``clean_definition``; the columns of those files are ``("entry", "", "", "definition")``.
            merge_identical: As for :meth:`from_pairs`.
            keep_self_definitions: As for :meth:`from_pairs`.

        Returns:
            The set.

        Raises:
            ArgumentError: If ``columns`` lacks one of the two, or there is no such encoding.
            DataError: If the file is missing, empty or not in this encoding, or a line is malformed.
        """
        pairs = read_pairs(path, encoding=encoding, columns=columns)
        if clean:
            pairs = ((clean_entry(entry), clean_definition(definition)) for entry, definition in pairs)
        return cls._build(path, pairs, merge_identical, keep_self_definitions)

    @classmethod
    def from_wordnet(
        cls,
        folder: StrPath,
        *,
        parts: Sequence[str] = _WORDNET_PARTS,
        merge_identical: bool = True,
        keep_self_definitions: bool = False,
    ) -> DefinitionSet:
        """Read the files of Princeton WordNet: ``data.noun``, ``data.verb``, ``data.adj``, ``data.adv``.

        The definition is the gloss up to its examples, which begin at the first ``; "``.

        Args:
            folder: The folder ``dict`` of a WordNet, such as ``/usr/share/wordnet``.
            parts: Parts of speech to read.
            merge_identical: As for :meth:`from_pairs`.
            keep_self_definitions: As for :meth:`from_pairs`.

        Returns:
            The set. An entry is a lemma, its underscores replaced by spaces.

        Raises:
            ArgumentError: If there is no such part of speech.
            DataError: If a file is missing, or a line is malformed.
        """
        for part in parts:
            if part not in _WORDNET_PARTS:
                raise bad_choice(f"{_OWNER}.from_wordnet", "parts", _WORDNET_PARTS, part)
        pairs = (pair for part in parts for pair in read_wordnet(Path(folder) / f"data.{part}"))
        return cls._build(folder, pairs, merge_identical, keep_self_definitions)

    @classmethod
    def from_open_wordnet(
        cls,
        synsets: StrPath,
        *,
        words: StrPath | None = None,
        split: str | None = None,
        merge_identical: bool = True,
        keep_self_definitions: bool = False,
    ) -> DefinitionSet:
        """Read synsets of the Open English WordNet as JSON lines, and a table that divides its words.

        Args:
            synsets: JSON lines with ``_id``, ``lemmas`` and ``definition``, plain or gzipped.
            words: A table with the columns ``word``, ``split`` and ``synset``, one row for each word of a
                synset; ``None`` takes the ``lemmas``.
            split: Rows of this split only, such as ``"train"``; ``None`` takes all. Needs ``words``.
            merge_identical: As for :meth:`from_pairs`.
            keep_self_definitions: As for :meth:`from_pairs`.

        Returns:
            The set.

        Raises:
            ArgumentError: If ``split`` is given without ``words``, or no row has it.
            DataError: If a file is missing, or a record is malformed.
        """
        if split is not None and words is None:
            domain = "given together with `words`, the table that has it"
            raise bad_argument(f"{_OWNER}.from_open_wordnet", "split", domain, split)
        pairs = read_lemmas(synsets) if words is None else read_words(synsets, words, split)
        return cls._build(synsets, pairs, merge_identical, keep_self_definitions)

    @classmethod
    def from_wn(
        cls, lexicon: Any = None, *, merge_identical: bool = True, keep_self_definitions: bool = False
    ) -> DefinitionSet:
        """Take the definitions of a lexicon of the package ``wn``.

        Args:
            lexicon: A ``wn.Wordnet``, or the name of a lexicon that was downloaded, such as ``"oewn:2024"``;
                ``None`` takes all that is there.
            merge_identical: As for :meth:`from_pairs`.
            keep_self_definitions: As for :meth:`from_pairs`.

        Returns:
            The set. A synset without a definition counts as an empty one for each of its lemmas.

        Raises:
            ArgumentError: If the lexicon is not there.
            MissingExtraError: If ``wn`` is not installed.
        """
        owner = f"{_OWNER}.from_wn"
        wordnet = lexicon
        if lexicon is None or isinstance(lexicon, str):
            try:
                wn = import_module("wn")
            except ImportError as error:
                raise missing_extra(owner, "wn", "") from error
            try:
                wordnet = wn.Wordnet(lexicon)
            except wn.Error as error:
                remedy = f"Download it first: python -m wn download {lexicon or 'oewn:2024'}"
                raise bad_argument(owner, "lexicon", "a lexicon that is there", lexicon, remedy) from error
        pairs = (
            (str(lemma), synset.definition() or "")
            for synset in wordnet.synsets()
            for lemma in synset.lemmas()
        )
        return cls._build("wn", pairs, merge_identical, keep_self_definitions)

    @classmethod
    def from_nltk(
        cls, reader: Any = None, *, merge_identical: bool = True, keep_self_definitions: bool = False
    ) -> DefinitionSet:
        """Take the definitions of a WordNet that NLTK reads.

        Args:
            reader: A ``WordNetCorpusReader``; ``None`` for ``nltk.corpus.wordnet``, whose data must have been
                downloaded.
            merge_identical: As for :meth:`from_pairs`.
            keep_self_definitions: As for :meth:`from_pairs`.

        Returns:
            The set. An entry is a lemma, its underscores replaced by spaces.

        Raises:
            ArgumentError: If NLTK has no WordNet.
            MissingExtraError: If NLTK is not installed.
        """
        owner = f"{_OWNER}.from_nltk"
        if reader is None:
            try:
                reader = import_module("nltk.corpus").wordnet
            except ImportError as error:
                raise missing_extra(owner, "nltk", "") from error
        try:
            synsets = reader.all_synsets()
            pairs = [
                (spell_lemma(lemma), synset.definition() or "")
                for synset in synsets
                for lemma in synset.lemma_names()
            ]
        except LookupError as error:
            remedy = "Run: python -m nltk.downloader wordnet"
            raise bad_argument(owner, "reader", "a WordNet that is there", None, remedy) from error
        return cls._build("nltk", pairs, merge_identical, keep_self_definitions)

    @classmethod
    def _build(
        cls, source: StrPath, pairs: Iterable[Pair], merge_identical: bool, keep_self_definitions: bool
    ) -> DefinitionSet:
        logger.info("Definitions from %s.", source)
        return cls.from_pairs(
            pairs, merge_identical=merge_identical, keep_self_definitions=keep_self_definitions
        )

    # --- reading ---

    @property
    def entries(self) -> tuple[str, ...]:
        """Name of each class: its first entry."""
        return tuple(names[0] for names in self.members)

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.members)

    def __repr__(self) -> str:
        return f"{_OWNER}({len(self)} classes, {self.statistics.examples} examples)"

    def find_label(self, entry: str) -> int | None:
        """Find the class of an entry.

        Args:
            entry: The entry, as it is written; also one that was merged into another's class.

        Returns:
            The class; ``None`` if there is no such entry.
        """
        return self._labels.get(entry)

    def examples(self) -> Iterator[tuple[str, int]]:
        """Yield what is trained on.

        Yields:
            A definition and its class, class by class.
        """
        for label, definitions in enumerate(self.definitions):
            for definition in definitions:
                yield definition, label

    def to_dataset(self, *, multi_positive: bool = False) -> Any:
        """Turn the examples into a data set of ``datasets``.

        Args:
            multi_positive: Whether a definition that several classes share is one row, labelled with all of
                them, instead of one row for each; the labels of the other rows are filled up with -1.

        Returns:
            A ``datasets.Dataset`` with the columns ``definition`` and ``label``, class by class: shuffle it.

        Raises:
            MissingExtraError: If ``datasets`` is not installed.
        """
        try:
            from datasets import Dataset
        except ImportError as error:
            raise missing_extra(f"{_OWNER}.to_dataset", "datasets", "train") from error
        if not multi_positive:
            definitions, labels = zip(*self.examples(), strict=True)
            return Dataset.from_dict({"definition": list(definitions), "label": list(labels)})
        owners: dict[str, list[int]] = {}
        for definition, label in self.examples():
            owners.setdefault(definition, []).append(label)
        widest = max(map(len, owners.values()))
        filled = [own + [NO_ENTRY] * (widest - len(own)) for own in owners.values()]
        return Dataset.from_dict({"definition": list(owners), "label": filled})

    def select(self, keep: Callable[[str], bool]) -> DefinitionSet:
        """Keep some of the entries; a class that loses all of its own is gone.

        Args:
            keep: Says of an entry whether it stays.

        Returns:
            A new set.

        Raises:
            ArgumentError: If no entry stays.
        """
        merged = len(self._labels) > len(self)
        pairs = [
            (name, definition)
            for names, definitions in zip(self.members, self.definitions, strict=True)
            for name in names
            if keep(name)
            for definition in definitions
        ]
        return type(self).from_pairs(pairs, merge_identical=merged, keep_self_definitions=True)


def _check_pair(pair: Any, position: int) -> Pair:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(t, str) for t in pair):
        raise bad_argument(f"{_OWNER}.from_pairs", f"pairs[{position}]", "an entry and a definition", pair)
    entry, definition = (" ".join(text.split()) for text in pair)
    return entry, definition


def _form_classes(
    defined: Mapping[str, tuple[str, ...]], *, merge_identical: bool
) -> tuple[list[list[str]], list[tuple[str, ...]]]:
    """Put entries with the same definitions, in whatever order, into one class."""
    if not merge_identical:
        return [[entry] for entry in defined], list(defined.values())
    classes: dict[frozenset[str], int] = {}
    members: list[list[str]] = []
    definitions: list[tuple[str, ...]] = []
    for entry, known in defined.items():
        label = classes.setdefault(frozenset(known), len(members))
        if label == len(members):
            members.append([])
            definitions.append(known)
        members[label].append(entry)
    return members, definitions


def _count(
    members: Sequence[Sequence[str]],
    definitions: Sequence[Sequence[str]],
    defined: Mapping[str, Sequence[str]],
    **counts: int,
) -> DefinitionStatistics:
    examples = sum(map(len, definitions))
    owners: dict[str, int] = {}
    for known in definitions:
        for definition in known:
            owners[definition] = owners.get(definition, 0) + 1
    return DefinitionStatistics(
        **counts,
        entries=len(defined),
        multi_word_entries=sum(" " in entry for entry in defined),
        merged_entries=len(defined) - len(members),
        classes=len(members),
        repeated_by_merging=sum(map(len, defined.values())) - examples,
        examples=examples,
        distinct_definitions=len(owners),
        shared_definitions=sum(count > 1 for count in owners.values()),
        longest=max(len(definition.split()) for definition in owners),
    )


def _report(statistics: DefinitionStatistics) -> None:
    """Log what was read, and louder what was left out."""
    logger.info(
        "%d examples of %d classes from %d pairs; %d entries share a class with another.",
        statistics.examples,
        statistics.classes,
        statistics.pairs,
        statistics.merged_entries,
    )
    if statistics.lost_pairs:
        logger.warning(
            "%d of %d pairs are left out: %d without entry, %d without definition, %d defined by themselves, "
            "%d there already; %d entries have no definition left.",
            statistics.lost_pairs,
            statistics.pairs,
            statistics.empty_entries,
            statistics.empty_definitions,
            statistics.self_definitions,
            statistics.duplicates,
            statistics.undefined_entries,
        )
