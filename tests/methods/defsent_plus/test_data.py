"""Pairs become classes, and every pair is accounted for."""

from __future__ import annotations

import json
import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest

from fletching.errors import ArgumentError, MissingExtraError
from fletching.methods.defsent_plus import DefinitionSet


def test_pairs_become_classes_in_their_order(definitions):
    assert definitions.entries == ("bow", "full draw", "arrow", "goose", "nock")
    assert definitions.definitions[0] == ("a weapon of wood and string", "the point of a ship")
    assert len(definitions) == 5
    assert definitions.statistics.multi_word_entries == 1


def test_what_is_left_out_is_counted_and_logged(caplog):
    pairs = [
        ("bow", "a weapon"),
        ("bow", " a  weapon "),  # there already, but for white space
        ("bow", " "),
        ("", "of nothing"),
        ("Arrow", "arrow"),  # says nothing, and leaves the entry without a definition
        ("nock", ""),
    ]
    with caplog.at_level(logging.WARNING, logger="fletching"):
        found = DefinitionSet.from_pairs(pairs).statistics
    assert (found.duplicates, found.empty_definitions, found.empty_entries, found.self_definitions) == (
        1,
        2,
        1,
        1,
    )
    assert (found.entries, found.undefined_entries, found.lost_pairs) == (1, 2, 5)
    assert (
        "5 of 6 pairs are left out: 1 without entry, 2 without definition, 1 defined by themselves"
        in caplog.text
    )


@pytest.mark.parametrize("merge_identical", [True, False])
def test_every_pair_is_accounted_for(merge_identical):
    pairs = [("a", "x"), ("a", "y"), ("b", "y"), ("b", "x"), ("b", "x"), ("c", "x"), ("c", ""), ("d", "d")]
    found = DefinitionSet.from_pairs(pairs, merge_identical=merge_identical).statistics
    assert found.pairs == len(pairs) == found.examples + found.repeated_by_merging + found.lost_pairs
    assert found.classes == found.entries - found.merged_entries


def test_self_definitions_can_be_kept():
    kept = DefinitionSet.from_pairs([("Arrow", "arrow")], keep_self_definitions=True)
    assert kept.definitions == (("arrow",),)
    assert kept.statistics.self_definitions == 0


def test_entries_with_the_same_definitions_are_one_class():
    """Whatever their order; one that shares only some of them is a class of its own."""
    pairs = [("car", "x"), ("car", "y"), ("auto", "y"), ("auto", "x"), ("tram", "x")]
    merged = DefinitionSet.from_pairs(pairs)
    assert merged.members == (("car", "auto"), ("tram",))
    assert list(merged.examples()) == [("x", 0), ("y", 0), ("x", 1)]
    assert [merged.find_label(name) for name in ("car", "auto", "tram", "bus")] == [0, 0, 1, None]
    assert (merged.statistics.merged_entries, merged.statistics.shared_definitions) == (1, 1)


def test_entries_with_the_same_definitions_can_stay_apart():
    pairs = [("car", "x"), ("auto", "x")]
    apart = DefinitionSet.from_pairs(pairs, merge_identical=False)
    assert apart.members == (("car",), ("auto",))
    assert apart.statistics.shared_definitions == 1


@pytest.mark.parametrize("pair", [("bow",), "ab", ("bow", None), 3], ids=repr)
def test_what_is_no_pair_of_texts_is_refused_by_position(pair):
    with pytest.raises(ArgumentError, match=r"`pairs\[1\]` must be an entry and a definition"):
        DefinitionSet.from_pairs([("a", "b"), pair])


@pytest.mark.parametrize("pairs", [[], [("bow", "bow"), ("", "x")]], ids=["none", "none left"])
def test_no_definition_at_all_is_refused(pairs):
    with pytest.raises(ArgumentError, match="at least one entry with a definition; got none among"):
        DefinitionSet.from_pairs(pairs)


def test_dataset_has_a_definition_and_its_class(definitions):
    dataset = definitions.to_dataset()
    assert dataset.column_names == ["definition", "label"]
    assert list(zip(dataset["definition"], dataset["label"], strict=True)) == list(definitions.examples())


def test_a_shared_definition_can_be_one_row_of_all_its_classes():
    pairs = [("car", "x"), ("tram", "y"), ("tram", "x"), ("bus", "z")]
    rows = DefinitionSet.from_pairs(pairs).to_dataset(multi_positive=True)
    assert dict(zip(rows["definition"], rows["label"], strict=True)) == {
        "x": [0, 1],
        "y": [1, -1],
        "z": [2, -1],
    }


def test_select_forms_classes_anew():
    pairs = [("car", "x"), ("auto", "x"), ("tram", "y"), ("tram", "x")]
    chosen = DefinitionSet.from_pairs(pairs).select(lambda entry: entry != "car")
    assert chosen.members == (("auto",), ("tram",))


def test_select_keeps_entries_apart_that_were():
    apart = DefinitionSet.from_pairs([("car", "x"), ("auto", "x"), ("bus", "z")], merge_identical=False)
    assert apart.select(lambda entry: entry != "bus").members == (("car",), ("auto",))


def test_tables_can_be_cleaned(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("full draw%noun.1\t_\t_\t`` bent'' , as a bow\tcontext\n")
    columns = ("entry", "", "", "definition")
    assert DefinitionSet.from_tsv(path, columns=columns, clean=True).definitions == (("Bent, as a bow",),)
    assert DefinitionSet.from_tsv(path, columns=columns).entries == ("full draw%noun.1",)


def test_wordnet_folder_is_read_part_by_part(tmp_path):
    for part, lemma in (("noun", "bow"), ("verb", "aim"), ("adj", "able(p)"), ("adv", "aloft")):
        (tmp_path / f"data.{part}").write_text(f"  1 licence\n00000001 03 n 01 {lemma} 0 000 | of a {part}\n")
    assert DefinitionSet.from_wordnet(tmp_path).entries == ("bow", "aim", "able", "aloft")
    assert DefinitionSet.from_wordnet(tmp_path, parts=("adv",)).entries == ("aloft",)
    with pytest.raises(
        ArgumentError, match="`parts` must be one of 'noun', 'verb', 'adj', 'adv'; got 'adverb'"
    ):
        DefinitionSet.from_wordnet(tmp_path, parts=("adverb",))


def test_open_wordnet_needs_the_table_for_a_split(tmp_path):
    path = tmp_path / "synsets.jsonl"
    path.write_text(json.dumps({"_id": "1", "lemmas": ["bow"], "definition": "a weapon"}))
    assert DefinitionSet.from_open_wordnet(path).entries == ("bow",)
    with pytest.raises(ArgumentError, match="`split` must be given together with `words`"):
        DefinitionSet.from_open_wordnet(path, split="train")


class Synset:
    """A synset as both packages have it."""

    def __init__(self, lemmas, definition):
        self._lemmas, self._definition = lemmas, definition

    def lemmas(self):
        return self._lemmas

    lemma_names = lemmas

    def definition(self):
        return self._definition


def test_lexicon_of_wn_is_read(monkeypatch):
    opened = []
    package = ModuleType("wn")
    package.Error = type("Error", (Exception,), {})

    def open_lexicon(name):
        opened.append(name)
        if name == "none":
            raise package.Error("no lexicon found")
        return SimpleNamespace(
            synsets=lambda: [Synset(["bow", "long bow"], "a weapon"), Synset(["knot"], None)]
        )

    package.Wordnet = open_lexicon
    monkeypatch.setitem(sys.modules, "wn", package)
    found = DefinitionSet.from_wn("oewn:2024")
    assert (opened, found.members) == (["oewn:2024"], (("bow", "long bow"),))
    assert found.statistics.empty_definitions == 1
    with pytest.raises(
        ArgumentError, match=r"`lexicon` must be a lexicon that is there; got 'none'\. Download it"
    ):
        DefinitionSet.from_wn("none")


def test_wn_that_is_not_installed_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "wn", None)
    with pytest.raises(MissingExtraError, match="the package 'wn' is not installed"):
        DefinitionSet.from_wn()


def test_reader_of_nltk_is_read():
    reader = SimpleNamespace(all_synsets=lambda: iter([Synset(["long_bow", "able(p)"], "a weapon")]))
    assert DefinitionSet.from_nltk(reader).members == (("long bow", "able"),)


def test_nltk_without_wordnet_is_reported():
    def all_synsets():
        raise LookupError("Resource wordnet not found.")

    with pytest.raises(
        ArgumentError, match=r"`reader` must be a WordNet that is there.*nltk\.downloader wordnet"
    ):
        DefinitionSet.from_nltk(SimpleNamespace(all_synsets=all_synsets))


def test_nltk_that_is_not_installed_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    with pytest.raises(MissingExtraError, match="the package 'nltk' is not installed"):
        DefinitionSet.from_nltk()
