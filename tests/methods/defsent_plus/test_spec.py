"""What must hold, items 1, 4, 5, 6 and 7: the head, the frozen entries, the stages."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fletching.methods.defsent_plus import stages as stages_module
from fletching.methods.defsent_plus.data import DefinitionSet
from fletching.methods.defsent_plus.entries import EntryEmbeddings
from fletching.methods.defsent_plus.heads import ProjectionHead, build_head
from fletching.methods.defsent_plus.losses import DefinitionProjectionLoss
from fletching.methods.defsent_plus.model import DefSentPlusEmbedder
from fletching.methods.defsent_plus.stages import ProgressiveSeparateTrainer, Stage
from fletching.methods.defsent_plus.training import TrainingOptions, fit
from fletching.testing import save_tiny_bert
from fletching.training import TrainingFolder

PAIRS = [
    ("bow", "a string on wood"),
    ("bow", "what the archer is with"),
    ("goose feather", "the fletching of an arrow"),
    ("shaft", "the wood of an arrow"),
    ("nock", "the point on the string"),
    ("nock point", "the point of the shaft on the string"),
    ("arrow", "a shaft with a point and feathers"),
    ("target", "what an arrow is for"),
]
OPTIONS = TrainingOptions(batch_size=3, seed=1)


class Stand(nn.Module):
    """A model that only says that it trains: the embeddings are given."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_bert(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def definitions() -> DefinitionSet:
    return DefinitionSet.from_pairs(PAIRS)


def build_toy(activation: str, entries: Tensor) -> DefinitionProjectionLoss:
    dense = nn.Linear(2, 2)
    with torch.no_grad():
        dense.weight.copy_(torch.diag(torch.tensor([1.0, 2.0])))
        dense.bias.copy_(torch.tensor([0.0, 1.5]))
    return DefinitionProjectionLoss(Stand(), entries, head=ProjectionHead(dense, activation))


ENTRIES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
VECTOR = torch.tensor([[0.5, -0.25]])


@pytest.mark.parametrize(
    ("activation", "projected", "logits", "losses"),
    [
        ("tanh", [0.4621, 0.7616], [0.4621, 0.7616, 1.2237], [1.502040, 1.202563, 0.740446]),
        ("gelu", [0.3457, 0.8413], [0.3457, 0.8413, 1.1871], [1.601605, 1.105992, 0.760260]),
    ],
)
def test_1_head_toy(
    activation: str, projected: list[float], logits: list[float], losses: list[float]
) -> None:
    loss = build_toy(activation, ENTRIES)
    assert loss.head(VECTOR)[0].tolist() == pytest.approx(projected, abs=5e-5)
    assert loss.score_entries(VECTOR)[0].tolist() == pytest.approx(logits, abs=1e-4)
    found = [loss.compute_loss_from_embeddings(VECTOR, torch.tensor([label])).item() for label in range(3)]
    assert found == pytest.approx(losses, abs=1e-6)


def test_4_entries_stay_and_the_projection_moves(
    base: str, definitions: DefinitionSet, tmp_path: Path
) -> None:
    model = DefSentPlusEmbedder(base, pooling="cls", device="cpu")
    entries = EntryEmbeddings.build(model, definitions)
    before = entries.vectors.clone()
    start = build_head(model)
    loss = DefinitionProjectionLoss(model, entries)
    rows = definitions.to_dataset()
    fit(model, loss, rows, TrainingFolder(tmp_path), options=OPTIONS, learning_rate=1e-3)
    assert torch.equal(loss.entry_matrix, before)
    assert torch.equal(entries.vectors, before)
    assert loss.entry_matrix.grad is None
    assert not torch.equal(loss.head.dense.weight, start.dense.weight)
    assert not torch.equal(loss.head.dense.bias, start.dense.bias)


def test_5_permuted_entries_permute_the_logits() -> None:
    order = torch.tensor([2, 0, 1])
    plain, permuted = build_toy("tanh", ENTRIES), build_toy("tanh", ENTRIES[order])
    assert torch.equal(permuted.score_entries(VECTOR), plain.score_entries(VECTOR)[:, order])
    vectors, labels = VECTOR.repeat(3, 1) * torch.tensor([[1.0], [2.0], [-1.0]]), torch.tensor([0, 2, 1])
    places = order.argsort()[labels]  # where each label's row has gone
    torch.testing.assert_close(
        permuted.compute_loss_from_embeddings(vectors, places),
        plain.compute_loss_from_embeddings(vectors, labels),
    )


@pytest.fixture(scope="module")
def two_stages(
    base: str, definitions: DefinitionSet, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Tensor]], list[Tensor]]:
    """Two stages, and what the encoder and the entries were when each began."""
    starts: list[dict[str, Tensor]] = []
    matrices: list[Tensor] = []

    def watch(model: Any, loss: Any, *args: Any, **kwargs: Any) -> None:
        starts.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        matrices.append(loss.entry_matrix.clone())
        fit(model, loss, *args, **kwargs)

    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages_module, "fit", watch)
        both = [Stage(learning_rate=1e-3), Stage(learning_rate=1e-3)]
        ProgressiveSeparateTrainer(base, definitions, both, options=OPTIONS).train(folder)
    return folder, starts, matrices


def test_6_every_stage_starts_from_the_base(
    base: str, two_stages: tuple[Path, list[dict[str, Tensor]], list[Tensor]]
) -> None:
    folder, starts, _ = two_stages
    first = DefSentPlusEmbedder(base, pooling="cls", device="cpu").state_dict()
    assert len(starts) == 2
    for start in starts:
        assert start.keys() == first.keys()
        assert all(torch.equal(start[name], first[name]) for name in first)
    trained = DefSentPlusEmbedder(str(folder / "stage_1"), device="cpu").state_dict()
    assert not all(torch.equal(trained[name], first[name]) for name in first)


def test_6_entries_of_the_second_stage_are_those_of_the_first_ones_model(
    base: str,
    definitions: DefinitionSet,
    two_stages: tuple[Path, list[dict[str, Tensor]], list[Tensor]],
) -> None:
    folder, _, (first, second) = two_stages
    assert (first - second).abs().max() > 1e-3
    for location, expected in ((base, first), (folder / "stage_1", second)):
        model = DefSentPlusEmbedder(str(location), device="cpu")
        rebuilt = EntryEmbeddings.build(model, definitions)
        torch.testing.assert_close(rebuilt.vectors, expected, atol=1e-5, rtol=1e-5)


def test_6_one_stage_is_one_plain_run(base: str, definitions: DefinitionSet, tmp_path: Path) -> None:
    staged = ProgressiveSeparateTrainer(
        base, definitions, [Stage(learning_rate=1e-3)], options=OPTIONS
    ).train(tmp_path / "staged")
    torch.manual_seed(OPTIONS.seed)
    model = DefSentPlusEmbedder(base, pooling="cls", device="cpu")
    entries = EntryEmbeddings.build(model, definitions, how="ac")
    loss = DefinitionProjectionLoss(model, entries)
    folder = TrainingFolder(tmp_path / "plain")
    fit(model, loss, definitions.to_dataset(), folder, options=OPTIONS, learning_rate=1e-3)
    plain, found = model.state_dict(), staged.state_dict()
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    dictionary: Any = staged.dictionary
    assert torch.equal(dictionary.weight, loss.head.dense.weight)


def test_7_a_tie_cannot_be_broken(base: str) -> None:
    pairs = [*PAIRS, ("long bow", PAIRS[1][1]), ("long bow", PAIRS[0][1])]  # the two definitions of a bow
    definitions = DefinitionSet.from_pairs(pairs, merge_identical=False)
    model = DefSentPlusEmbedder(base, pooling="mean", device="cpu").eval()
    entries = EntryEmbeddings.build(model, definitions, how="amp")
    bow, long_bow = (definitions.find_label(name) for name in ("bow", "long bow"))
    assert bow is not None
    assert long_bow is not None
    assert torch.equal(entries.vectors[bow], entries.vectors[long_bow])
    loss = DefinitionProjectionLoss(model, entries)
    with torch.no_grad():
        for factor in (1.0, 10.0, 1000.0):  # however sure the model is
            vectors = model.encode([PAIRS[0][1]], convert_to_tensor=True).clone() * factor
            for label in (bow, long_bow):
                value = loss.compute_loss_from_embeddings(vectors, torch.tensor([label]))
                assert value.item() >= math.log(2) - 1e-6
