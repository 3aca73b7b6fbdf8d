"""The equations, on numbers that can be checked by hand."""

from __future__ import annotations

import logging
import math
import re

import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from fletching.errors import ArgumentError, ShapeError
from fletching.methods.defsent_plus import (
    ICAConfig,
    ica_transform,
    iso_score,
    mean_cosine,
    partition_isotropy,
)
from fletching.methods.defsent_plus.functional import (
    average_definitions,
    measure_isotropy,
    project_definitions,
    score_entries,
)

CROSS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])


def test_entries_may_share_definitions():
    """Row 1 is in both entries: ([1, 0] + [3, 4]) / 2 and [3, 4]."""
    vectors = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    rows, labels = torch.tensor([1, 0, 1]), torch.tensor([1, 0, 0])
    assert average_definitions(vectors, labels, entries=2, rows=rows).tolist() == [[2.0, 2.0], [3.0, 4.0]]


def test_entries_are_averaged_in_chunks_as_at_once(monkeypatch):
    vectors, labels = torch.randn(50, 3), torch.arange(50) % 7
    expected = torch.stack([vectors[labels == label].mean(dim=0) for label in range(7)])
    monkeypatch.setattr("fletching.methods.defsent_plus.functional._CHUNK", 3)
    assert torch.allclose(average_definitions(vectors, labels, entries=7), expected, atol=1e-6)


@pytest.mark.parametrize("labels", [[0, 0], [0, 2], [0, 1, 2]])
def test_an_entry_without_a_definition_is_refused(labels):
    with pytest.raises(ArgumentError):
        average_definitions(torch.zeros(2, 3), torch.tensor(labels), entries=2)


def test_labels_and_rows_must_fit():
    with pytest.raises(
        ShapeError, match=r"`labels` has the wrong shape: expected \(N\) = \(2,\), got \(3,\)"
    ):
        average_definitions(torch.zeros(2, 3), torch.tensor([0, 1, 1]), entries=2)


def test_projection_refuses_an_unknown_activation():
    with pytest.raises(ArgumentError, match="`activation` must be one of 'tanh', 'gelu'; got 'relu'"):
        project_definitions(torch.zeros(1, 2), torch.eye(2), torch.zeros(2), activation="relu")


def test_logits_are_float32_in_half_precision():
    logits = score_entries(torch.ones(1, 2, dtype=torch.bfloat16), torch.ones(3, 2, dtype=torch.float16))
    assert (logits.dtype, logits.tolist()) == (torch.float32, [[2.0, 2.0, 2.0]])


def test_mean_cosine_is_the_mean_over_pairs():
    vectors = torch.randn(20, 5)
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    cosines = (unit @ unit.T)[~torch.eye(20, dtype=torch.bool)]
    assert mean_cosine(vectors) == pytest.approx(float(cosines.mean()), abs=1e-9)


def test_mean_cosine_leaves_out_zero_rows():
    assert mean_cosine(torch.cat([CROSS, torch.zeros(3, 2)])) == pytest.approx(-1 / 3)


def test_partition_isotropy_of_a_line():
    """Of (1, 0) twice the eigenvectors are the axes: Z is 2e, 2/e and, along the other, 2: ratio e^-2."""
    line = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert partition_isotropy(line) == pytest.approx(math.exp(-2))


def test_iso_score_of_a_line_is_zero_and_of_two_equal_of_three_dimensions_a_half():
    """Variances (1, 1, 0) have length sqrt(2), scaled sqrt(3/2) each.

    The defect d has d^2 = (2 (sqrt(1.5) - 1)^2 + 1) / (2 (3 - sqrt(3))) = (6 - 2 sqrt(6)) / (6 - 2 sqrt(3)),
    the share (3 - d^2 (3 - sqrt(3)))^2 / 9 = 6 / 9 = 2 / 3, and the score (3 * 2/3 - 1) / 2 = 1/2.
    """
    line = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    plane = torch.cat([CROSS, torch.zeros(4, 1)], dim=1)
    assert iso_score(line) == pytest.approx(0.0, abs=1e-9)
    assert iso_score(plane) == pytest.approx(0.5)
    assert iso_score(100 * plane + 7) == pytest.approx(0.5)


def test_the_measures_of_a_bundle_are_below_those_of_a_cross():
    """Partition functions are those of unit vectors: ten times the length changes none."""
    cross = measure_isotropy(CROSS)
    bundle = measure_isotropy(torch.tensor([[1.0, 0.0], [1.0, 0.2], [1.0, -0.2], [0.9, 0.1]]))
    assert cross == pytest.approx({"mean_cosine": -1 / 3, "partition_isotropy": 1.0, "iso_score": 1.0})
    assert measure_isotropy(10 * CROSS) == pytest.approx(cross)
    assert bundle["mean_cosine"] > 0.9
    assert bundle["partition_isotropy"] < 0.3
    assert bundle["iso_score"] < 0.5


@pytest.mark.parametrize("measure", [mean_cosine, partition_isotropy, iso_score])
@pytest.mark.parametrize(
    "vectors", [torch.tensor([1.0]), torch.tensor([[1.0, math.nan]]), torch.empty(0, 2), [[1.0]]]
)
def test_measures_refuse_what_they_cannot_measure(measure, vectors):
    with pytest.raises(ArgumentError, match=f"{measure.__name__}: `vectors` must be"):
        measure(vectors)


def test_equal_rows_have_no_iso_score():
    with pytest.raises(ArgumentError, match="`vectors` must be vectors that differ; got 'equal rows'"):
        iso_score(torch.full((5, 3), 2.0))


def test_components_are_scaled_as_by_the_reference_code():
    """By default 100 / sqrt(V), as with old versions of scikit-learn; 100 with the variance of today's."""
    vectors = torch.rand(900, 3, generator=torch.Generator().manual_seed(0))
    for config, deviation in ((None, 100 / 30), (ICAConfig(variance="unit"), 100.0)):
        components = ica_transform(vectors, config=config)
        assert components.std(dim=0, correction=0).tolist() == pytest.approx([deviation] * 3, rel=1e-3)


def test_fewer_rows_than_columns_have_no_components():
    with pytest.raises(
        ArgumentError, match="`vectors` must be at least as many rows as its 5 columns; got '3 rows'"
    ):
        ica_transform(torch.randn(3, 5))


def test_vectors_in_a_plane_have_no_four_components():
    plane = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    message = "must be vectors that span at least 3 of their 4 dimensions; got '2 dimensions'"
    with pytest.raises(ArgumentError, match=message):
        ica_transform(torch.cat([plane, plane.flip(1)], dim=1))


def test_one_dimension_may_be_missing_as_after_layer_norm():
    """Columns that sum to zero in each row span one dimension less; the last component is then zero."""
    vectors = torch.rand(400, 3, generator=torch.Generator().manual_seed(0))
    vectors = torch.cat([vectors, -vectors.sum(dim=1, keepdim=True)], dim=1)
    components = ica_transform(vectors, config=ICAConfig(variance="unit", scale=1.0))
    assert components.std(dim=0, correction=0).tolist() == pytest.approx([1.0, 1.0, 1.0, 0.0], abs=1e-4)


def test_the_analysis_says_how_long_it_may_take_and_took(caplog):
    vectors = torch.rand(300, 2, generator=torch.Generator().manual_seed(0))
    with caplog.at_level(logging.INFO, logger="fletching"):
        ica_transform(vectors, config=ICAConfig(max_iterations=70))
    assert "Independent components of 300 x 2 numbers: at most 70 iterations." in caplog.text
    assert re.search(r"Independent components after \d+ iterations", caplog.text)


def test_iterations_that_run_out_are_told_and_leave_uncorrelated_columns():
    vectors = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    with pytest.warns(ConvergenceWarning, match="FastICA did not converge"):
        components = ica_transform(vectors, config=ICAConfig(max_iterations=1, tolerance=1e-12))
    assert torch.allclose(components.T.corrcoef(), torch.eye(6), atol=1e-3)
