"""Definitions out of files, in the layouts that people have."""

from __future__ import annotations

import gzip
import json

import pytest

from fletching.errors import ArgumentError, DataError
from fletching.methods.defsent_plus.readers import (
    parse_gloss_line,
    read_lemmas,
    read_pairs,
    read_wordnet,
    read_words,
)

LICENCE = "  1 This software and database is being provided to you, the LICENSEE, | by\n"
ABLE = '00001740 00 a 02 able 0 fit_to_do(p) 0 000 | having the power ; "able to swim"; "fit"\n'


@pytest.fixture
def table(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "definitions.tsv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_tables_are_read_in_any_encoding(table, encoding):
    path = table("café\ta place\r\n\r\nbow\ta weapon\n", encoding)
    assert list(read_pairs(path, encoding=encoding, columns=None)) == [
        ("café", "a place"),
        ("bow", "a weapon"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_gzipped_tables_are_read(tmp_path, encoding):
    path = tmp_path / "definitions.tsv.gz"
    path.write_bytes(gzip.compress("bow\ta weapon\n".encode(encoding)))
    assert list(read_pairs(path, encoding=encoding, columns=None)) == [("bow", "a weapon")]


def test_several_definitions_of_a_line_are_taken_apart(table):
    """The layout of the authors' files, which are UTF-16."""
    path = table("bow\ta weapon<|list_more_def|>a knot\nbig game\tlarge animals\n", "utf-16")
    assert list(read_pairs(path, encoding="utf-16", columns=None)) == [
        ("bow", "a weapon"),
        ("bow", "a knot"),
        ("big game", "large animals"),
    ]


def test_a_header_says_which_columns_count(table):
    path = table("Gloss\tPOS\tWord\na weapon\tn\tbow\n")
    assert list(read_pairs(path, encoding="utf-8", columns=None)) == [("bow", "a weapon")]


def test_columns_that_are_named_count(table):
    path = table("bow%n.1\t_\t_\ta weapon\tthe bow is drawn\n")
    pairs = read_pairs(path, encoding="utf-8", columns=("entry", "", "", "definition"))
    assert list(pairs) == [("bow%n.1", "a weapon")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "bow\ta weapon\nno definition\n",
            "definitions.tsv:2: the record must be a row of 2 columns; got 1: 'no",
        ),
        ("bow\ta weapon\tn\n", "definitions.tsv:1: the record must be a row of 2 columns; got 3"),
        (
            "word\tpos\tdefinition\nbow\tn\n",
            "definitions.tsv:2: the record must be a row of at least 3 columns",
        ),
        ("word\tdefinition\n", "the file must be a file with at least one record; got none"),
        ("", "the file must be a file with at least one record; got none"),
    ],
)
def test_malformed_tables_are_refused_by_line(table, text, message):
    with pytest.raises(DataError, match=message):
        list(read_pairs(table(text), encoding="utf-8", columns=None))


def test_an_empty_table_in_another_encoding_is_refused(table):
    with pytest.raises(DataError, match="at least one record; got none"):
        list(read_pairs(table("\n \n", "utf-16"), encoding="utf-16", columns=None))


def test_the_wrong_encoding_is_an_error_not_garbage(table):
    with pytest.raises(DataError, match="must be utf-16 text; got something else after line 0"):
        list(read_pairs(table("bow\ta weapon"), encoding="utf-16", columns=None))
    with pytest.raises(DataError, match=r"must be UTF-8 text; got zero bytes: binary data, or UTF-16"):
        list(read_pairs(table("bow\ta weapon", "utf-16"), encoding="utf-8", columns=None))


def test_a_broken_gzip_file_is_refused(tmp_path):
    path = tmp_path / "definitions.tsv"
    path.write_bytes(gzip.compress("bow\ta weapon\n".encode("utf-16"))[:-4])
    with pytest.raises(DataError, match="must be a whole gzip file"):
        list(read_pairs(path, encoding="utf-16", columns=None))


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(DataError, match="must be an existing file"):
        list(read_pairs(tmp_path / "no.tsv", encoding="utf-16", columns=None))


def test_an_unknown_encoding_is_refused(table):
    with pytest.raises(ArgumentError, match="`encoding` must be the name of an encoding; got 'utf-17'"):
        list(read_pairs(table("a\tb"), encoding="utf-17", columns=None))


def test_columns_without_a_definition_are_refused(table):
    with pytest.raises(ArgumentError, match="`columns` must be names with entry, definition among them"):
        list(read_pairs(table("a\tb"), encoding="utf-8", columns=("entry", "gloss")))


def test_wordnet_lemmas_lose_markers_and_underscores(tmp_path):
    path = tmp_path / "data.adj"
    path.write_text(LICENCE + ABLE)
    assert list(read_wordnet(path)) == [("able", "having the power"), ("fit to do", "having the power")]


def test_wordnet_counts_its_lemmas_in_hexadecimal():
    """0a is ten lemmas; the pointers behind them are no lemmas."""
    lemmas = " ".join(f"word_{number} 0" for number in range(10))
    got, definition = parse_gloss_line(f"00000001 03 n 0a {lemmas} 001 @ 00000002 n 0000 | a thing")
    assert (got, definition) == ([f"word {number}" for number in range(10)], "a thing")


def test_a_gloss_keeps_its_own_semicolons():
    _, definition = parse_gloss_line('00000001 03 n 01 bow 0 000 | a weapon; made of wood; "a long bow"')
    assert definition == "a weapon; made of wood"


@pytest.mark.parametrize(
    "line", ["no gloss at all", "1 3 n zz bow 0 | x", "1 3 n 02 bow 0 | x", "1 3 n 00 0 0 | x"]
)
def test_what_is_no_line_of_wordnet_is_refused_by_line(tmp_path, line):
    path = tmp_path / "data.noun"
    path.write_text(LICENCE + line)
    with pytest.raises(DataError, match=r"data\.noun:2: the record must be a synset of WordNet's data files"):
        list(read_wordnet(path))


@pytest.fixture
def synsets(tmp_path):
    path = tmp_path / "synsets.jsonl"
    rows = [
        {"_id": "1-n", "lemmas": ["bow", "longbow"], "definition": "a weapon"},
        {"_id": "2-n", "lemmas": ["knot"]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text(
        "word\tpos\tsplit\tsynset\nbow\tn\ttrain\t1-n\nlongbow\tn\ttest\t1-n\nknot\tn\ttrain\t2-n\n"
    )
    return path


def test_synsets_give_each_lemma_the_definition(synsets):
    assert list(read_lemmas(synsets)) == [("bow", "a weapon"), ("longbow", "a weapon"), ("knot", "")]


def test_words_of_a_split_are_joined_with_their_synsets(synsets, words):
    assert list(read_words(synsets, words, "train")) == [("bow", "a weapon"), ("knot", "")]
    assert len(list(read_words(synsets, words, None))) == 3


def test_an_unknown_split_is_refused(synsets, words):
    with pytest.raises(ArgumentError, match="`split` must be one of 'test', 'train'; got 'dev'"):
        list(read_words(synsets, words, "dev"))


def test_a_word_of_an_unknown_synset_is_refused(synsets, words):
    words.write_text("word\tsplit\tsynset\nbow\ttrain\t9-n\n")
    with pytest.raises(DataError, match="`synset` must be one of the synsets; got '9-n'"):
        list(read_words(synsets, words, None))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"lemmas": "bow", "definition": "x"}, "`lemmas` must be a list of texts; got 'bow'"),
        ({"lemmas": ["bow"], "definition": None}, "`definition` must be text; got None"),
    ],
)
def test_malformed_synsets_are_refused(tmp_path, record, message):
    path = tmp_path / "synsets.jsonl"
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=message):
        list(read_lemmas(path))
