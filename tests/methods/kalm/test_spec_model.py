"""What must hold of models, item by item of the specification; the loss's items are in test_spec.py."""

from __future__ import annotations

import pytest
import torch

from fletching.errors import FletchingError
from fletching.methods.kalm import PUBLISHED, KaLMEmbedder, check_conformance, model_soup
from fletching.methods.kalm.checkpoints import CONFORMANCE_TOLERANCE, CONFORMANCE_VECTOR
from fletching.testing import save_tiny_qwen2


def test_11_a_soup_of_identical_models_is_the_model(qwen2, tmp_path):
    KaLMEmbedder(qwen2, causal=False, device="cpu").save(str(tmp_path / "model"))
    soup = model_soup([tmp_path / "model"] * 3)
    for name, tensor in KaLMEmbedder(str(tmp_path / "model"), device="cpu").state_dict().items():
        assert torch.equal(soup.state_dict()[name], tensor), name


def test_11_a_soup_of_two_models_is_the_mean(tmp_path):
    folders = [save_tiny_qwen2(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    models = [KaLMEmbedder(folder, causal=False, device="cpu") for folder in folders]
    soup = model_soup(models).state_dict()
    first, second = (model.state_dict() for model in models)
    for name, tensor in soup.items():
        expected = ((first[name].double() + second[name].double()) / 2).to(tensor.dtype)
        assert torch.equal(tensor, expected), name


def test_11_buffers_and_whole_numbers_are_those_of_the_first():
    """BatchNorm has two buffers of floats and one count; only its weight and bias are averaged."""
    first, second = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    first.running_mean.fill_(1.0)
    second.running_mean.fill_(5.0)
    second.num_batches_tracked.fill_(7)
    second.weight.data.fill_(3.0)
    soup = model_soup([first, second])
    assert soup.running_mean.tolist() == [1.0, 1.0]
    assert soup.num_batches_tracked.item() == 0
    assert soup.weight.tolist() == [2.0, 2.0]


@pytest.mark.network
def test_13_the_published_weights_give_the_published_numbers():
    model = KaLMEmbedder(PUBLISHED[-1].model, dtype="float32", device="cpu")
    assert check_conformance(model) <= CONFORMANCE_TOLERANCE


@pytest.mark.network
def test_13_the_published_weights_read_from_left_to_right_do_not():
    model = KaLMEmbedder(PUBLISHED[-1].model, causal=True, dtype="float32", device="cpu")
    with pytest.raises(FletchingError, match="Is the model causal by mistake"):
        check_conformance(model)


def test_13_the_numbers_are_those_of_the_specification():
    assert CONFORMANCE_VECTOR == (
        -0.01055833, -0.02115268, 0.00994598, -0.00856667, -0.0047357,
        0.01062506, 0.00235983, -0.07997689, -0.03332109, 0.01760131,
    )  # fmt: skip


def test_13_a_causal_load_fails_the_check(qwen2):
    """The same weights in both modes: the check passes in the mode that the numbers are from only."""
    right, wrong = (KaLMEmbedder(qwen2, causal=causal, device="cpu") for causal in (False, True))
    expected = right.encode("This is an example sentence")[:10].tolist()
    assert check_conformance(right, expected=expected) == 0
    with pytest.raises(FletchingError, match=r"is off by .* Is the model causal by mistake"):
        check_conformance(wrong, expected=expected)


def test_13_a_narrower_model_is_refused(qwen2):
    with pytest.raises(ValueError, match="`model` must be at least 33 wide; got 32"):
        check_conformance(KaLMEmbedder(qwen2, causal=False, device="cpu"), expected=[0.0] * 33)
