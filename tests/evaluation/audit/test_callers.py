"""What models of every make return, as arrays."""

from __future__ import annotations

import pytest
import torch

from fletching.evaluation.audit.callers import EmbedCaller

VECTORS = [[1.0, 0.5], [0.25, 2.0]]  # exact in bfloat16


@pytest.mark.parametrize(
    "answer",
    [
        VECTORS,
        torch.tensor(VECTORS, dtype=torch.bfloat16),
        [torch.tensor(row, dtype=torch.bfloat16) for row in VECTORS],
        [torch.tensor(row, requires_grad=True) for row in VECTORS],
        torch.tensor(VECTORS).to_sparse(),
    ],
    ids=["lists", "tensor", "bfloat16 tensors", "tensors with gradients", "sparse"],
)
def test_vectors_are_read_in_any_form(answer):
    class Model:
        def encode(self, texts):
            return answer

    assert EmbedCaller(Model()).embed(["wood", "bow"]).tolist() == VECTORS
