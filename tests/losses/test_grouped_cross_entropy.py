"""The loss of a positive among its own negatives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import ListNetLoss
from torch import Tensor, nn

import fletching
from fletching.errors import ArgumentError
from fletching.losses import GroupedCrossEntropyLoss
from fletching.losses.grouped_cross_entropy import compute_grouped_cross_entropy
from fletching.methods.mvp import MVPReranker
from fletching.models.reranker import Reranker
from fletching.testing.tiny import save_tiny_bert, save_tiny_cross_encoder

TOY = ((2.0, 1.0, 0.0, -1.0), (0.5, 0.5, 0.0, 0.0))
TOY_LOSS = 0.803707  # mean of log(1 + e^-1 + e^-2 + e^-3) and log(2 + 2 e^-0.5)
COLUMNS = [
    ["what is an arrow", "what is a bow"],
    ["the arrow is a shaft with feathers", "the bow bends"],
    ["a goose", "the string of the bow and the wind in the wood"],
    ["wind", "target"],
]


class EchoModel(nn.Module):
    """Scores are in the texts."""

    num_labels = 1
    device = torch.device("cpu")

    def preprocess(self, pairs: list[tuple[str, str]], **kwargs: Any) -> dict[str, Any]:
        return {"values": torch.tensor([[float(text)] for _, text in pairs], requires_grad=True)}

    def forward(self, features: dict[str, Any]) -> dict[str, Tensor]:
        return {"scores": features["values"]}


def to_columns(rows: Any) -> list[list[str]]:
    return [["q"] * len(rows), *([str(value) for value in column] for column in zip(*rows, strict=True))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_cross_encoder(tmp_path_factory.mktemp("cross"))


def read_gradients(loss: GroupedCrossEntropyLoss) -> dict[str, Tensor]:
    loss.model.zero_grad()
    loss(COLUMNS).backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in loss.model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("mini_batch_size", [None, 1, 3, 100])
def test_loss_is_the_worked_value(mini_batch_size: int | None) -> None:
    """log(1 + .367879 + .135335 + .049787) = .440190; log(2 + 1.213061) = 1.167224; the mean is .803707."""
    loss = GroupedCrossEntropyLoss(EchoModel(), mini_batch_size=mini_batch_size)
    assert loss(to_columns(TOY)).item() == pytest.approx(TOY_LOSS, abs=1e-6)


def test_loss_ignores_a_constant_added_to_a_group() -> None:
    shifted = torch.tensor(TOY) + torch.tensor([[3.0], [-7.0]])
    assert compute_grouped_cross_entropy(shifted).item() == pytest.approx(TOY_LOSS, abs=1e-6)


def test_bfloat16_logits_give_a_float32_loss() -> None:
    """The toy's logits have few bits: bfloat16 holds them exactly."""
    loss = compute_grouped_cross_entropy(torch.tensor(TOY, dtype=torch.bfloat16))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(TOY_LOSS, abs=1e-6)


def test_a_bfloat16_model_gives_a_float32_loss(folder: str) -> None:
    model = CrossEncoder(folder, device="cpu").bfloat16()
    assert GroupedCrossEntropyLoss(model)(COLUMNS).dtype == torch.float32


@pytest.mark.parametrize("model_class", [CrossEncoder, Reranker])
def test_loss_is_that_of_the_models_raw_logits(model_class: Any, folder: str) -> None:
    model = model_class(folder, device="cpu")
    loss = GroupedCrossEntropyLoss(model)(COLUMNS)
    pairs = [(query, text) for query, *texts in zip(*COLUMNS, strict=True) for text in texts]
    logits = torch.tensor(model.predict(pairs, activation_fn=nn.Identity())).view(2, 3)
    expected = (logits.logsumexp(1) - logits[:, 0]).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_loss_is_list_net_with_labels_of_minus_infinity(folder: str) -> None:
    model = CrossEncoder(folder, device="cpu")
    lists = [list(group) for group in zip(*COLUMNS[1:], strict=True)]
    labels = [torch.tensor([0.0, -torch.inf, -torch.inf])] * 2
    expected = ListNetLoss(model, activation_fn=nn.Identity())([COLUMNS[0], lists], labels)
    assert GroupedCrossEntropyLoss(model)(COLUMNS).item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("mini_batch_size", [1, 4])
def test_micro_batches_give_the_gradients_of_the_whole_batch(mini_batch_size: int, folder: str) -> None:
    model = CrossEncoder(folder, device="cpu").double()
    whole = read_gradients(GroupedCrossEntropyLoss(model, mini_batch_size=None))
    parts = read_gradients(GroupedCrossEntropyLoss(model, mini_batch_size=mini_batch_size))
    assert whole.keys() == parts.keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in whole.values())
    assert all(torch.allclose(whole[name], parts[name], atol=1e-6) for name in whole)


def test_micro_batches_repeat_their_dropout(folder: str) -> None:
    """Gradients are those of the loss that was returned: finite differences agree, with dropout on."""
    model = CrossEncoder(folder, device="cpu").double().train()
    loss = GroupedCrossEntropyLoss(model, mini_batch_size=2)
    bias = model[0].model.classifier.weight

    def compute() -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return loss(COLUMNS)

    compute().backward()
    gradient = bias.grad
    assert gradient is not None
    with torch.no_grad():
        place, step = 3, 1e-2
        bias[0, place] += step
        above = compute().item()
        bias[0, place] -= 2 * step
        below = compute().item()
    assert abs(gradient[0, place].item()) > 1e-4
    assert (above - below) / (2 * step) == pytest.approx(gradient[0, place].item(), rel=1e-2)


def test_every_column_has_a_gradient() -> None:
    """The derivative is softmax minus one for the positive, softmax for a negative, over two groups."""
    rows = torch.tensor(TOY, requires_grad=True)
    compute_grouped_cross_entropy(rows).backward()
    expected = rows.detach().softmax(1)
    expected[:, 0] -= 1
    assert rows.grad is not None
    assert torch.allclose(rows.grad, expected / 2)


def test_a_listwise_model_gets_whole_groups(tmp_path: Path) -> None:
    """Two groups with the same query stay two lists, however small the micro-batches are."""
    model = MVPReranker.from_encoder(save_tiny_bert(tmp_path), n_views=2, device="cpu").eval()
    columns = [["what is a bow"] * 2, *COLUMNS[1:]]
    whole = GroupedCrossEntropyLoss(model, mini_batch_size=None)(columns)
    parts = GroupedCrossEntropyLoss(model, mini_batch_size=2)(columns)
    lists = [list(group) for group in zip(*columns[1:], strict=True)]
    rankings = model.rank_batch(columns[0], lists, scores="logit")
    logits = torch.tensor(
        [[hit["score"] for hit in sorted(ranking, key=lambda hit: hit["corpus_id"])] for ranking in rankings]
    )
    assert parts.item() == pytest.approx(whole.item(), abs=1e-5)
    assert whole.item() == pytest.approx(compute_grouped_cross_entropy(logits).item(), abs=1e-5)


def test_it_trains_a_reranker_with_the_stock_trainer(folder: str, tmp_path: Path) -> None:
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments

    model = fletching.load(folder, device="cpu")
    names = ("query", "positive", "negative_1", "negative_2")
    loss = GroupedCrossEntropyLoss(model, mini_batch_size=4)
    before = loss(COLUMNS).item()
    CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=25,
            learning_rate=2e-3,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
        ),
        train_dataset=Dataset.from_dict(dict(zip(names, COLUMNS, strict=True))),
        loss=loss,
    ).train()
    model.eval()
    assert loss(COLUMNS).item() < 0.5 * before


def test_pairs_without_negatives_are_refused() -> None:
    with pytest.raises(ArgumentError, match="`inputs` must be three or more columns"):
        GroupedCrossEntropyLoss(EchoModel())(COLUMNS[:2])


def test_labels_are_refused() -> None:
    with pytest.raises(ArgumentError, match="the second column is the positive"):
        GroupedCrossEntropyLoss(EchoModel())(COLUMNS, torch.ones(2))


def test_a_model_with_two_labels_is_refused() -> None:
    model = EchoModel()
    model.num_labels = 2  # type: ignore[misc]
    with pytest.raises(ArgumentError, match="`model` must be a cross-encoder with one label; got 2"):
        GroupedCrossEntropyLoss(model)


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_a_bad_micro_batch_size_is_refused(size: Any) -> None:
    with pytest.raises(ArgumentError, match="`mini_batch_size` must be a positive integer or None"):
        GroupedCrossEntropyLoss(EchoModel(), mini_batch_size=size)
