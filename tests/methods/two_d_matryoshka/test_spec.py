"""What the description of 2DMSE and ESE demands of training, item by item, with its numbers."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn

from fletching.methods.two_d_matryoshka import TwoDMatryoshkaLoss, batches, losses
from fletching.methods.two_d_matryoshka.functional import (
    compress_vectors,
    compute_kl,
    relate_coordinates,
    weigh_layer,
)
from fletching.methods.two_d_matryoshka.synthetic import save_smoke_bert

STUDENTS = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
TEACHERS = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 0.0, 0.0, 0.0]])


class EchoTransformer(Transformer):
    """Gives the states of one token after each layer, as its features carry them."""

    def __init__(self, width: int) -> None:
        nn.Module.__init__(self)
        self.model = nn.Module()
        self.width = width

    def get_embedding_dimension(self) -> int:
        return self.width

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        states = tuple(features["states"])
        return {**features, "token_embeddings": states[-1], "all_layer_embeddings": states}


def build_echo(monkeypatch: pytest.MonkeyPatch, width: int, n_layers: int) -> SentenceTransformer:
    for module in (losses, batches):
        monkeypatch.setattr(module, "count_layers", lambda _: n_layers)
    monkeypatch.setattr(batches, "view_with_states", lambda network, _: network)
    monkeypatch.setattr(losses, "find_final_norm", lambda _: None)
    modules = [EchoTransformer(width), Pooling(width, "mean")]
    model = nn.Module.__new__(SentenceTransformer)
    nn.Sequential.__init__(model, *modules)
    model.truncate_dim = None
    model.module_kwargs = None
    return model.train()


def carry(*vectors: Tensor) -> dict[str, Any]:
    """A column of texts of one token, with a tensor ``(B, D)`` for each depth, the embeddings' first."""
    n_rows = len(vectors[0])
    mask = torch.ones(n_rows, 1)
    return {
        "input_ids": torch.zeros(n_rows, 1).long(),
        "attention_mask": mask,
        "states": torch.stack(vectors).unsqueeze(2),
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    """A BERT of four layers, 32 wide."""
    transformer = Transformer(save_smoke_bert(tmp_path_factory.mktemp("bert")))
    return SentenceTransformer(modules=[transformer, Pooling(32, "mean")], device="cpu").train()


def test_item_4_kl_toy() -> None:
    assert compute_kl(STUDENTS, TEACHERS).item() == pytest.approx(1.051649, abs=1e-6)
    cooled = compute_kl(STUDENTS, TEACHERS, temperature=0.3).item()
    assert cooled == pytest.approx(5.357894, abs=1e-5)
    assert cooled * 0.3 == pytest.approx(1.607368, abs=1e-5)
    assert cooled * 0.3**2 == pytest.approx(0.482210, abs=1e-6)


def test_item_4_the_loss_multiplies_by_the_square_of_the_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    """One text in each of two columns, so that the rows of the toy are stacked."""
    model = build_echo(monkeypatch, 4, 2)
    loss = TwoDMatryoshkaLoss(
        model,
        MultipleNegativesRankingLoss(model),
        dims=[2],
        kl_temperature=0.3,
        teacher_weight=0.0,
        student_weight=0.0,
    )
    nothing = torch.zeros(1, 4)
    columns = [carry(nothing, STUDENTS[[row]], TEACHERS[[row]]) for row in (0, 1)]
    assert loss(columns).item() == pytest.approx(0.482210, abs=1e-6)


def test_item_4_kl_is_zero_only_for_rows_that_differ_by_a_constant() -> None:
    shifted = TEACHERS + torch.tensor([[5.0], [-3.0]])
    assert compute_kl(shifted, TEACHERS).item() == pytest.approx(0, abs=1e-6)
    assert compute_kl(2 * TEACHERS, TEACHERS).item() > 0.1


def test_item_5_full_step_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_echo(monkeypatch, 4, 2)
    teachers = torch.tensor([[[1, 0, 1, 0], [0, 1, 0, 1]], [[1, 0, 0, 1], [0, 1, 1, 0]]]).float()
    students = torch.tensor([[[1, 1, 0, 0], [0, 1, 0, 1]], [[1, 0, 0, 0], [1, 1, 1, 0]]]).float()
    columns = [carry(torch.zeros(2, 4), students[side], teachers[side]) for side in (0, 1)]
    base_loss = MultipleNegativesRankingLoss(model, scale=1.0)
    found: list[float] = []
    base_loss.register_forward_hook(lambda _module, _inputs, output: found.append(output.item()))
    loss = TwoDMatryoshkaLoss(model, base_loss, dims=[2])
    total = loss(columns).item()
    assert sorted(found) == pytest.approx(sorted([0.693147, 0.629525, 0.313262, 0.625556]), abs=1e-6)
    assert total - sum(found) == pytest.approx(0.101813, abs=1e-6)
    assert total == pytest.approx(2.363303, abs=1e-6)


def test_item_6_log_weights() -> None:
    expected = [1, 0.590616, 0.476505, 0.419060, 0.383224]
    assert [weigh_layer(layer) for layer in range(1, 6)] == pytest.approx(expected, abs=1e-6)


def test_item_8_drawn_layers_are_never_the_embeddings_nor_the_last(model: SentenceTransformer) -> None:
    """10,000 draws: each of 3 layers and 2 sizes comes 1,667 times, give or take 5 deviations (37 each)."""
    loss = TwoDMatryoshkaLoss(model, MultipleNegativesRankingLoss(model))
    torch.manual_seed(0)
    drawn = Counter(loss.draw_sizes() for _ in range(10_000))
    assert set(drawn) == {(layer, dim) for layer in (1, 2, 3) for dim in (8, 16)}
    spread = 5 * math.sqrt(10_000 / 6 * 5 / 6)
    assert all(abs(count - 10_000 / 6) < spread for count in drawn.values())


def test_item_8_every_step_computes_four_base_losses(model: SentenceTransformer) -> None:
    base_loss = MultipleNegativesRankingLoss(model)
    calls: list[int] = []
    base_loss.register_forward_hook(lambda *_: calls.append(1))
    loss = TwoDMatryoshkaLoss(model, base_loss)
    columns = [model.preprocess(["a bow of oak", "wind"]), model.preprocess(["a bow has oak", "silk"])]
    for step in range(1, 6):
        loss(columns).backward()
        assert len(calls) == 4 * step


@pytest.mark.parametrize("detach_teacher", [True, False])
def test_item_8_the_detached_teacher_learns_nothing_from_the_alignment(
    model: SentenceTransformer, detach_teacher: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = TwoDMatryoshkaLoss(
        model,
        MultipleNegativesRankingLoss(model),
        teacher_weight=0.0,
        student_weight=0.0,
        detach_teacher=detach_teacher,
    )
    monkeypatch.setattr(loss, "draw_sizes", lambda: (2, 8))
    model.zero_grad()
    loss([model.preprocess(["a bow of oak"]), model.preprocess(["wind and silk"])]).backward()
    layers = model[0].model.encoder.layer

    def is_moved(layer: nn.Module) -> bool:
        return any(part.grad is not None and bool(part.grad.any()) for part in layer.parameters())

    assert [is_moved(layer) for layer in layers] == [True, True, not detach_teacher, not detach_teacher]


def test_item_9_pca_toy() -> None:
    vectors = torch.tensor([[1.0, 0.0, 2.0, -1.0], [0.0, 1.0, -1.0, 1.0], [2.0, 1.0, 0.0, 0.0]])
    related = relate_coordinates(vectors)
    assert related[0].tolist() == pytest.approx([0.668428, 0.149146, 0.149146, 0.033279], abs=1e-6)
    strengths = torch.linalg.svdvals(related)[:2]
    assert strengths.tolist() == pytest.approx([1.028822, 0.699103], abs=1e-6)
    expected = torch.tensor([[1.325685, 1.373986], [0.317240, 1.145733], [1.685453, 0.386407]])
    torch.testing.assert_close(compress_vectors(vectors, 2).abs(), expected, rtol=0, atol=2e-6)


def test_item_9_signs_are_settled() -> None:
    """Turned round, the matrix has the same dependencies: each column changes its sign, and no other way."""
    vectors = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(compress_vectors(-vectors, 3), -compress_vectors(vectors, 3))
    shuffled = compress_vectors(vectors.flip(0), 3).flip(0)
    torch.testing.assert_close(shuffled, compress_vectors(vectors, 3), rtol=1e-4, atol=1e-5)
