"""The filter, the window, and the teacher, on a model whose vectors are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fletching.errors import ArgumentError, FletchingError
from fletching.methods.kalm import KaLMRow, fill_template, mine_rows, score_rows


class Known:
    """An embedder of numbers: "7" lies at angle 7 / 1000, and so does "Instruct: ... Query: 7"."""

    def __init__(self):
        self.read = []

    def encode(self, inputs, prompt=None, **options):
        assert prompt == ""  # queries carry theirs
        self.read += inputs
        angles = torch.tensor([float(text.split()[-1]) for text in inputs], dtype=torch.float64) / 1000
        return torch.stack([angles.cos(), angles.sin()], dim=1)


def row(query, *positives, negatives=()):
    return KaLMRow(fill_template("Find") + query, positives, tuple(negatives), "t")


CORPUS = [str(number) for number in range(200)]
"""For the query "0", text k is hit k, counted from 0."""


def test_a_row_stays_while_its_positive_is_the_51st_hit():
    """filter_top_k 50: the score of place 50 must be reached; with 51 it is below."""
    rows = [row("0", "50"), row("0", "51"), row("0", "199", "3")]
    kept = mine_rows(Known(), rows, corpus=CORPUS, mining_range=None)
    assert [each.positives for each in kept] == [("50",), ("199", "3")]


def test_nothing_is_filtered_on_request_or_in_a_small_corpus():
    rows = [row("0", "199")]
    assert len(mine_rows(Known(), rows, corpus=CORPUS, filter_top_k=None, mining_range=None)) == 1
    assert len(mine_rows(Known(), rows, corpus=CORPUS[:49], filter_top_k=50, mining_range=None)) == 1


def test_negatives_come_from_ranks_51_to_100():
    (mined,) = mine_rows(Known(), [row("0", "1")], corpus=CORPUS)
    assert len(set(mined.negatives)) == 7
    assert all(50 <= int(text) < 100 for text in mined.negatives)


def test_own_positives_and_the_query_itself_are_no_negatives():
    """A window of 0 to 4 holds the query's own text, two positives, and two candidates."""
    (mined,) = mine_rows(
        Known(), [row("0", "1", "2")], corpus=CORPUS, mining_range=(0, 5), n_negatives=2, filter_top_k=None
    )
    assert sorted(mined.negatives) == ["3", "4"]


def test_positives_of_another_row_of_the_query_are_no_negatives():
    rows = [row("0", "1"), row("0", "2")]
    mined = mine_rows(Known(), rows, corpus=CORPUS, mining_range=(0, 4), n_negatives=1, filter_top_k=None)
    assert [each.negatives for each in mined] == [("3",), ("3",)]


def test_where_all_scores_are_equal_no_row_is_below_the_51st_hit():
    class Collapsed(Known):
        def encode(self, inputs, **options):
            return torch.ones_like(super().encode(inputs, **options))

    assert len(mine_rows(Collapsed(), [row("0", "199")], corpus=CORPUS, mining_range=None)) == 1


def test_negatives_of_the_row_stay_and_come_first():
    rows = [
        row("0", "1", negatives=["150", "151"]),
        row("0", "1", negatives=[str(n) for n in range(120, 130)]),
    ]
    some, many = mine_rows(Known(), rows, corpus=CORPUS, n_negatives=4)
    assert some.negatives[:2] == ("150", "151")
    assert len(some.negatives) == 4
    assert many.negatives == rows[1].negatives


def test_random_texts_fill_up_what_the_window_lacks():
    (mined,) = mine_rows(Known(), [row("0", "1")], corpus=CORPUS, mining_range=(50, 53), n_negatives=7)
    assert set(mined.negatives[:3]) == {"50", "51", "52"}
    assert len(set(mined.negatives)) == 7
    assert not {"0", "1"} & set(mined.negatives)


def test_a_corpus_too_small_gives_what_it_has():
    (mined,) = mine_rows(Known(), [row("0", "1")], corpus=["0", "1", "2", "3"])
    assert sorted(mined.negatives) == ["2", "3"]


def test_the_corpus_is_what_the_rows_have():
    rows = [row("0", "1", negatives=["5"]), row("10", "11", negatives=["6"])]
    mined = mine_rows(Known(), rows, n_negatives=3, mining_range=(0, 9), filter_top_k=None)
    assert set(mined[0].negatives) == {"5", "6", "11"}


def test_the_seed_decides():
    first, again, other = (
        mine_rows(Known(), [row("0", "1")], corpus=CORPUS, seed=seed)[0].negatives for seed in (0, 0, 1)
    )
    assert first == again != other


def test_scores_of_a_teacher_leave_with_new_negatives():
    scored = KaLMRow("0", ("1",), ("2",), "t", (0.5,), (0.1,))
    (mined,) = mine_rows(Known(), [scored], corpus=CORPUS)
    assert not mined.has_scores


def test_each_query_and_text_is_read_once():
    model = Known()
    mine_rows(model, [row("0", "1"), row("0", "2")], corpus=CORPUS)
    assert len(model.read) == len(set(model.read)) == 201


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filter_top_k": 0}, "`filter_top_k` must be a positive integer or None; got 0"),
        ({"n_negatives": 0}, "`n_negatives` must be a positive integer"),
        ({"mining_range": (100, 50)}, "`mining_range` must be two ranks"),
    ],
)
def test_bad_numbers_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        mine_rows(Known(), [row("0", "1")], **options)


def test_no_rows_are_refused():
    with pytest.raises(ArgumentError, match="`rows` must be at least one row"):
        mine_rows(Known(), [])


def test_a_teacher_scores_by_cosine():
    (scored,) = score_rows(Known(), [row("0", "100", "200", negatives=["300"])])
    np.testing.assert_allclose(scored.positive_scores, np.cos([0.1, 0.2]), atol=1e-6)
    np.testing.assert_allclose(scored.negative_scores, np.cos([0.3]), atol=1e-6)


def test_a_teacher_gets_its_own_template():
    teacher = Known()
    score_rows(teacher, [row("0", "1")], teacher_template="Instruct: {instruction}\nQuery: ")
    assert teacher.read == ["Instruct: Find\nQuery: 0", "1"]


def test_a_teacher_that_computes_nan_is_named():
    class Broken(Known):
        def encode(self, inputs, **options):
            return super().encode(inputs, **options) * float("nan")

    with pytest.raises(FletchingError, match="the teacher computed NaN"):
        score_rows(Broken(), [row("0", "1")])


def test_a_teacher_is_not_asked_again_about_what_is_in_the_file(tmp_path):
    class Network(Known, torch.nn.Module):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.read = []

    path = tmp_path / "scores.jsonl"
    first = score_rows(Network(), [row("0", "100", negatives=["300"])], path=path)
    teacher = Network()
    again = score_rows(teacher, [row("0", "100", "200"), row("0", "100", negatives=["300"])], path=path)
    assert teacher.read == [fill_template("Find") + "0", "100", "200"]
    assert again[1] == first[0]
