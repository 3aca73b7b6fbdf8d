"""The equations that the items of the description leave out."""

from __future__ import annotations

import math

import pytest
import torch

from fletching.methods.two_d_matryoshka.functional import (
    compress_vectors,
    compute_cosent,
    compute_distillation,
    compute_kl,
    compute_token_kl,
    list_dims,
)


@pytest.mark.parametrize(
    ("width", "dims"),
    [
        (1024, (8, 16, 32, 64, 128, 256, 512)),
        (384, (8, 16, 32, 64, 128, 256)),
        (16, (8,)),
        (9, (8,)),
        (8, ()),
        (4, ()),
    ],
)
def test_sizes_double_from_eight_and_stay_below_the_width(width: int, dims: tuple[int, ...]) -> None:
    assert list_dims(width) == dims


def test_token_kl_leaves_padding_out_and_divides_by_texts() -> None:
    """Two texts of two and one tokens: three times the KL of ``compute_kl``'s own mean, over two texts."""
    students, teachers = torch.randn(2, 2, 2, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1], [1, 0]])
    rows = [(0, 0), (0, 1), (1, 0)]
    kept = [torch.stack([side[row] for row in rows]) for side in (students, teachers)]
    expected = compute_kl(*kept) * 3 / 2
    torch.testing.assert_close(compute_token_kl(students, teachers, mask), expected)


def test_distillation_of_equal_vectors_is_zero_and_scales_by_the_temperature() -> None:
    """MSE of (1, 1) and (0, 0) is 1, their KL is 0: both are uniform. (2, 0) and (0, 2): MSE 4, and at T = 2
    softmax(1, 0) against softmax(0, 1): (p - q) * 1 = (e - 1) / (e + 1), times T.
    """
    ones = torch.ones(1, 2)
    assert compute_distillation(ones, ones).item() == pytest.approx(0, abs=1e-7)
    assert compute_distillation(ones, 0 * ones).item() == pytest.approx(1)
    first, second = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    divergence = 2 * (math.e - 1) / (math.e + 1)
    found = [compute_distillation(first, second, temperature=2.0, kl_weight=weight) for weight in (1, 3, 0)]
    assert [each.item() for each in found] == pytest.approx([4 + divergence, 4 + 3 * divergence, 4])


def test_compressed_vectors_carry_no_gradient() -> None:
    vectors = torch.randn(3, 8, requires_grad=True)
    assert compress_vectors(vectors, 2).shape == (3, 2)
    assert not compress_vectors(vectors, 2).requires_grad
    assert not compress_vectors(vectors, 2, exact=False).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_vectors_of_half_precision_are_compressed_in_float32(dtype: torch.dtype) -> None:
    """torch decomposes no matrix of half precision; these vectors are exact in it."""
    vectors = torch.tensor([[1.0, 0.0, 2.0, -1.0], [0.0, 1.0, -1.0, 1.0], [2.0, 1.0, 0.0, 0.0]])
    assert torch.equal(compress_vectors(vectors.to(dtype), 2), compress_vectors(vectors, 2))


def test_cosent_counts_pairs_in_the_wrong_order_and_no_ties() -> None:
    """Labels 0, 1, 1 with scores 2, 1, 5: pairs (0, 1) and (0, 2): ``ln(1 + e^1 + e^-3)``."""
    found = compute_cosent(torch.tensor([2.0, 1.0, 5.0]), torch.tensor([0, 1, 1]))
    assert found.item() == pytest.approx(math.log(1 + math.e + math.exp(-3)))
    assert compute_cosent(torch.tensor([2.0, 1.0]), torch.tensor([1, 1])).item() == 0
