"""A teacher's scores are computed once, and never taken for those of another text or teacher."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from fletching.errors import ArgumentError, FletchingError, ShapeError
from fletching.training import TeacherScores

PAIRS = [("a bow", f"arrow {number}") for number in range(10)]


class Counting:
    """Scores a row by the number at its end; counts what it is asked, and breaks after a while."""

    def __init__(self, breaks_after: int | None = None) -> None:
        self.asked: list[list[tuple[str, ...]]] = []
        self.breaks_after = breaks_after

    def __call__(self, rows: list[tuple[str, ...]]) -> Sequence[object]:
        if len(self.asked) == self.breaks_after:
            raise KeyboardInterrupt
        self.asked.append(rows)
        return [[float(row[1].split()[-1]), len(rows) / 3] for row in rows]


def interrupt(path: Path) -> None:
    """Leave the first two blocks of three rows in a file."""
    with pytest.raises(KeyboardInterrupt):
        TeacherScores(path, teacher="t").score(PAIRS, Counting(2), rows_at_once=3)


def test_scores_come_in_the_order_of_the_rows_and_equal_rows_are_computed_once() -> None:
    teacher = Counting()
    found = TeacherScores(teacher="t").score([PAIRS[2], PAIRS[1], PAIRS[2]], teacher)
    assert [scores[0] for scores in found] == [2.0, 1.0, 2.0]
    assert teacher.asked == [[PAIRS[2], PAIRS[1]]]


def test_an_interrupted_run_goes_on_with_the_same_blocks(tmp_path: Path) -> None:
    """Ten rows by three are blocks of 3, 3, 3, 1; two are there, and the scores hold the sizes of all."""
    whole = TeacherScores(teacher="t").score(PAIRS, Counting(), rows_at_once=3)
    interrupt(tmp_path / "scores.jsonl")
    teacher = Counting()
    found = TeacherScores(tmp_path / "scores.jsonl", teacher="t").score(PAIRS, teacher, rows_at_once=3)
    assert teacher.asked == [PAIRS[6:9], PAIRS[9:]]
    assert found == whole


@pytest.mark.parametrize("n_bytes", [1, 30, 100])
def test_a_line_cut_off_is_computed_again_and_the_next_one_stands_by_itself(
    tmp_path: Path, n_bytes: int
) -> None:
    path = tmp_path / "scores.jsonl"
    interrupt(path)
    path.write_bytes(path.read_bytes()[:-n_bytes])
    teacher = Counting()
    TeacherScores(path, teacher="t").score(PAIRS, teacher, rows_at_once=3)
    # without its last line break, which is all that one byte takes, the second block is still whole
    assert teacher.asked == [PAIRS[3:6], PAIRS[6:9], PAIRS[9:]][n_bytes == 1 :]
    assert len(TeacherScores(path, teacher="t")) == 10


def test_a_changed_number_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "scores.jsonl"
    TeacherScores(path, teacher="t").score(PAIRS, Counting(), rows_at_once=5)
    path.write_text(path.read_text().replace("[7.0,", "[7.5,"))
    teacher = Counting()
    TeacherScores(path, teacher="t").score(PAIRS, teacher, rows_at_once=5)
    assert teacher.asked == [PAIRS[5:]]
    assert "1 damaged lines" in caplog.text


def test_a_changed_text_is_computed_anew_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    TeacherScores(path, teacher="t").score(PAIRS, Counting())
    teacher = Counting()
    changed = ("a bow.", "arrow 4")
    found = TeacherScores(path, teacher="t").score([PAIRS[9], changed, PAIRS[0]], teacher)
    assert [scores[0] for scores in found] == [9.0, 4.0, 0.0]
    assert teacher.asked == [[changed]]


@pytest.mark.parametrize("other", [("a bo", "warrow 1"), ("arrow 1", "a bow"), ("a bow", "arrow 1", "")])
def test_texts_are_told_apart_by_where_they_end_and_in_which_order_they_stand(other: tuple[str, ...]) -> None:
    store = TeacherScores(teacher="t")
    store.score(PAIRS, Counting())
    assert store.find(("a bow", "arrow 1")) is not None
    assert store.find(other) is None


@pytest.mark.parametrize(
    ("teacher", "settings"), [("u", {}), ("t", {"template": "x"})], ids=["teacher", "settings"]
)
def test_another_teacher_or_setting_finds_nothing_of_the_first(
    tmp_path: Path, teacher: str, settings: dict[str, str]
) -> None:
    path = tmp_path / "scores.jsonl"
    TeacherScores(path, teacher="t").score(PAIRS, Counting())
    other = TeacherScores(path, teacher=teacher, settings=settings)
    assert other.find(PAIRS[0]) is None
    other.score(PAIRS[:2], lambda rows: [-1.0] * len(rows))
    assert TeacherScores(path, teacher="t").find(PAIRS[1]) == (1.0, 10 / 3)


def test_numbers_come_back_to_the_last_bit(tmp_path: Path) -> None:
    logits = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "new" / "scores.jsonl"
    TeacherScores(path, teacher="t").score(PAIRS, lambda rows: logits)
    again = TeacherScores(path, teacher="t")
    assert torch.equal(torch.tensor([again.find(row) for row in PAIRS]), logits)


@pytest.mark.parametrize("values", [np.arange(10.0), list(range(10)), torch.arange(10)])
def test_one_number_a_row_is_a_tuple_of_one(values: Sequence[object]) -> None:
    assert TeacherScores(teacher="t").score(PAIRS, lambda rows: values)[3] == (3.0,)


def test_half_of_a_surrogate_pair_is_a_text_like_any_other(tmp_path: Path) -> None:
    row = ("a \ud83c", "b")
    TeacherScores(tmp_path / "s.jsonl", teacher="t").score([row], lambda rows: [0.5])
    assert TeacherScores(tmp_path / "s.jsonl", teacher="t").find(row) == (0.5,)


def test_what_is_not_finite_is_refused_and_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    with pytest.raises(FletchingError, match=r"must compute finite scores; got \(nan,\) for 'a bow'"):
        TeacherScores(path, teacher="t").score(PAIRS[:1], lambda rows: [float("nan")])
    assert not path.exists()


def test_another_number_of_scores_than_of_rows_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"expected \(N\) = \(10,\), got \(9,\)"):
        TeacherScores(teacher="t").score(PAIRS, lambda rows: [0.0] * 9)


def test_a_teacher_without_a_name_is_refused() -> None:
    with pytest.raises(ArgumentError, match="`teacher` must be a non-empty string"):
        TeacherScores(teacher="")


def test_a_folder_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="`path` must be a file, not a folder"):
        TeacherScores(tmp_path, teacher="t")


def test_the_file_is_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    TeacherScores(path, teacher="t").score(PAIRS, Counting(), rows_at_once=4)
    assert [len(json.loads(line)["scores"]) for line in path.read_text().splitlines()] == [4, 4, 2]
