"""What may be passed as text, and how errors name what may not."""

from __future__ import annotations

import numpy as np
import pytest

from fletching.errors import ArgumentError
from fletching.models.inputs import (
    check_count,
    check_pairs,
    check_positive,
    check_query,
    check_text,
    check_texts,
)


@pytest.mark.parametrize("text", ["", "wood", "Pfeil und Bogen, f\u00fcr \U0001f3f9"])
def test_text_is_returned_as_it_is(text):
    assert check_text("Owner", "query", text) is text


@pytest.mark.parametrize(
    ("value", "remedy"),
    [(None, "Drop the missing ones or pass ''."), (b"wood", "Decode it first"), (3, "Convert it with str()")],
)
def test_what_is_not_text_is_refused_with_a_remedy(value, remedy):
    with pytest.raises(ArgumentError) as caught:
        check_text("Owner.rank", "documents[3]", value)
    assert str(caught.value).startswith(
        f"Owner.rank: `documents[3]` must be a string; got {value!r}. {remedy}"
    )


def test_each_lone_surrogate_is_replaced_and_reported(caplog):
    assert check_text("Owner", "query", "a\ud83cb\udff9") == "a\ufffdb\ufffd"
    assert "Owner: `query` holds lone surrogates" in caplog.text


def test_texts_are_copied_into_a_list():
    texts = ["wood", "bow"]
    assert check_texts("Owner", "documents", iter(texts)) == texts
    assert check_texts("Owner", "documents", texts) is not texts


class Markup(str):
    """Text that escapes what is put in front of it, as that of template engines does."""

    def __str__(self):
        return "escaped"

    def __radd__(self, other):
        return f"escaped {other}{self}"


@pytest.mark.parametrize("text", [Markup("wood"), np.str_("wood")], ids=type)
def test_a_special_string_is_read_as_a_plain_one(text):
    checked = check_text("Owner", "query", text)
    assert (type(checked), "a " + checked) == (str, "a wood")


@pytest.mark.parametrize(
    "value", ["wood", b"wood", None, 3, {"id": "wood"}, {"wood"}, frozenset(["wood"])], ids=repr
)
def test_what_is_no_list_of_texts_is_refused(value):
    with pytest.raises(ArgumentError, match=r"`documents` must be a list of strings; got .* Pass a list"):
        check_texts("Owner", "documents", value)


def test_texts_name_the_position_of_what_is_not_text():
    with pytest.raises(ArgumentError, match=r"`documents\[1\]` must be a string; got None"):
        check_texts("Owner", "documents", ["wood", None])


@pytest.mark.parametrize("query", ["", " ", "\n\t"], ids=repr)
def test_a_blank_query_is_refused(query):
    with pytest.raises(ArgumentError, match="must be a query with at least one visible character"):
        check_query("Owner", "query", query)


def test_pairs_become_tuples():
    assert check_pairs("Owner", [["bow", "wood"], ("bow", "")]) == [("bow", "wood"), ("bow", "")]


@pytest.mark.parametrize("pair", ["bow", ("bow",), ("bow", "wood", "goose"), 3], ids=repr)
def test_what_is_no_pair_is_refused(pair):
    with pytest.raises(ArgumentError, match=r"`inputs\[1\]` must be a \(query, document\) pair"):
        check_pairs("Owner", [("bow", "wood"), pair])


@pytest.mark.parametrize(
    ("pair", "place"), [((None, "wood"), r"inputs\[0\]\[0\]"), (("bow", 3), r"inputs\[0\]\[1\]")]
)
def test_pairs_name_the_half_that_is_not_text(pair, place):
    with pytest.raises(ArgumentError, match=f"`{place}` must be a string"):
        check_pairs("Owner", [pair])


@pytest.mark.parametrize("value", [None, 1, 10])
def test_a_count_is_returned_as_it_is(value):
    assert check_count("Owner", "top_k", value) is value


@pytest.mark.parametrize("check", [check_count, check_positive])
def test_an_integer_of_numpy_is_a_count(check):
    count = check("Owner", "top_k", np.int64(3))
    assert (type(count), count) == (int, 3)


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1"], ids=repr)
def test_what_is_no_count_is_refused(value):
    with pytest.raises(ArgumentError, match="`top_k` must be a positive integer or None"):
        check_count("Owner", "top_k", value)


def test_a_positive_integer_is_returned_as_it_is():
    assert check_positive("Owner", "top_k", 10) == 10


@pytest.mark.parametrize("value", [None, 0, -1, True, 1.0, "1"], ids=repr)
def test_what_is_no_positive_integer_is_refused(value):
    with pytest.raises(ArgumentError, match="`top_k` must be a positive integer; got"):
        check_positive("Owner", "top_k", value)
