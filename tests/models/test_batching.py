"""Rows, plans and the retry when memory runs out."""

from __future__ import annotations

import pytest
import torch

from fletching.models.batching import (
    TokenizedRows,
    can_split,
    pad_rows,
    plan_batches,
    run_batches,
    split_rows,
)

LENGTHS = [3, 9, 4, 8, 1, 9]


def make_row(*ids):
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(len(ids), dtype=torch.long)}


# --- rows ---


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_splitting_undo_each_other(side):
    rows = [make_row(5, 6, 7), make_row(8), make_row(9, 10)]
    padded = pad_rows(rows, padding={"input_ids": 99}, side=side)
    assert padded["input_ids"].shape == (3, 3)
    assert (padded["input_ids"] == 99).sum() == 3
    split = split_rows({**padded, "modality": "text"})
    assert [row["input_ids"].tolist() for row in split.rows] == [[5, 6, 7], [8], [9, 10]]
    assert split.constants == {"modality": "text"}


def test_a_tensor_that_is_not_per_token_is_constant():
    features = {**pad_rows([make_row(5, 6)], padding={}, side="right"), "prompt_length": torch.tensor(2)}
    assert split_rows(features).constants == {"prompt_length": torch.tensor(2)}


def test_lengths_count_tokens():
    assert TokenizedRows([make_row(5, 6, 7), make_row(8)]).lengths() == [3, 1]


def test_equal_rows_are_found():
    rows = TokenizedRows([make_row(5, 6), make_row(7), make_row(5, 6), make_row(6, 5)])
    assert rows.distinct() == ([0, 1, 3], [0, 1, 0, 2])


def test_rows_that_differ_in_any_feature_are_distinct():
    first = {**make_row(5, 6), "token_type_ids": torch.tensor([0, 0])}
    second = {**make_row(5, 6), "token_type_ids": torch.tensor([0, 1])}
    assert TokenizedRows([first, second]).distinct() == ([0, 1], [0, 1])


@pytest.mark.parametrize(
    "features",
    [
        {"input_ids": torch.ones(1, 4), "cu_seq_lens_q": torch.tensor([0, 4])},
        {"input_ids": torch.ones(1, 4), "attention_mask": torch.ones(1, 1, 4, 4)},
        {"pixel_values": torch.ones(1, 3, 4, 4), "attention_mask": torch.ones(1, 4)},
    ],
    ids=["flattened", "4-D mask", "pixels"],
)
def test_what_is_not_padded_text_is_left_to_sentence_transformers(features):
    assert not can_split(features)


# --- plans ---


@pytest.mark.parametrize("max_tokens", [1, 9, 18, 1000])
@pytest.mark.parametrize("max_rows", [None, 1, 2])
def test_a_plan_holds_every_row_once_and_keeps_its_limits(max_tokens, max_rows):
    plan = plan_batches(LENGTHS, max_tokens=max_tokens, max_rows=max_rows)
    assert sorted(index for batch in plan for index in batch) == list(range(len(LENGTHS)))
    for batch in plan:
        assert len(batch) == 1 or max(LENGTHS[index] for index in batch) * len(batch) <= max_tokens
        assert max_rows is None or len(batch) <= max_rows


def test_a_plan_is_sorted_by_length_and_stable():
    assert plan_batches(LENGTHS, max_tokens=1000) == [[1, 5, 3, 2, 0, 4]]


@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_a_plan_takes_nothing_and_empty_rows(lengths):
    assert sum(map(len, plan_batches(lengths, max_tokens=8))) == len(lengths)


# --- memory ---


def run_in(room, error, lengths=LENGTHS, max_tokens=1000):
    """Run with room for some padded tokens; return every attempt and the rows that came out."""
    attempts, done = [], []

    def run(batch):
        attempts.append(batch)
        if max(lengths[index] for index in batch) * len(batch) > room:
            raise error
        return torch.tensor(batch)

    for batch, output in run_batches(lengths, run, max_tokens=max_tokens):
        assert output.tolist() == batch
        done += batch
    return attempts, done


OUT_OF_MEMORY = [
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    RuntimeError("MPS backend out of memory (MPS allocated: 8 bytes)"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_a_batch_that_does_not_fit_is_halved(error):
    attempts, done = run_in(20, error)
    assert [len(attempt) for attempt in attempts[:2]] == [6, 3]
    assert sorted(done) == list(range(len(LENGTHS)))


def test_a_row_that_does_not_fit_alone_raises():
    with pytest.raises(MemoryError):
        run_in(8, MemoryError())


def test_another_error_is_not_retried():
    with pytest.raises(RuntimeError, match="shapes"):
        run_in(20, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_run_can_be_stopped_between_batches():
    seen = []

    def stop_before_the_second():
        if seen:
            raise KeyboardInterrupt
        seen.append(1)

    batches = run_batches(LENGTHS, torch.tensor, max_tokens=9, before_batch=stop_before_the_second)
    assert next(batches)[0] == [1]
    with pytest.raises(KeyboardInterrupt):
        next(batches)


# --- rows of nothing ---


def test_rows_of_nothing_are_padded_to_one_token():
    """What an empty text is to a tokenizer that adds nothing: networks refuse a batch without columns."""
    nothing = torch.empty((2, 0))  # as tokenizers return it, in floats
    rows = split_rows({"input_ids": nothing, "attention_mask": nothing}).rows
    padded = pad_rows(rows, padding={"input_ids": 7}, side="right")
    assert padded["input_ids"].tolist() == [[7], [7]]
    assert padded["attention_mask"].tolist() == [[0], [0]]
    assert padded["input_ids"].dtype == torch.long
