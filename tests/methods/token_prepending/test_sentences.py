from __future__ import annotations

import pytest

from fletching.methods.token_prepending.sentences import clean_sentence, escape_placeholder, fill_prompt


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("", ""),
        ("Go", "Go."),
        ("Go.", "Go."),
        ("Go!", "Go!."),  # only . ? " ' end a sentence
        ("Why?", "Why."),
        ("'Go'", "'Go'"),
        ('He said "go"', "He said 'go'"),  # no full stop: the quotation mark was the end
        ('"Why?" he asked', "'Why?' he asked."),
        ("Go ", "Go ."),
    ],
)
def test_a_sentence_is_cleaned_in_the_reference_s_order(sentence, expected):
    assert clean_sentence(sentence) == expected


def test_a_filled_prompt_has_no_white_space_around_it():
    assert fill_prompt(" *sent 0* means: ", "Go.") == "Go. means:"


def test_a_sentence_that_looks_like_the_mark_stays_as_it_is():
    assert fill_prompt('"*sent 0*" means', "*sent 0* x") == '"*sent 0* x" means'


def test_the_placeholder_s_text_is_broken_up():
    assert escape_placeholder("<PST><PST>") == "< PST>< PST>"
