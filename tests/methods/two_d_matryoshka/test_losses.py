"""The loss around any base loss, on small networks with and without a final norm."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer import losses as stock
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, WeightedLayerPooling
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, mse_loss, normalize, softmax

from fletching.errors import ArgumentError
from fletching.methods.two_d_matryoshka import (
    CombinedAnglELoss,
    ElasticEmbedder,
    TwoDMatryoshkaLoss,
    TwoDMatryoshkaLossOptions,
)
from fletching.methods.two_d_matryoshka.batches import EmbeddedBatch
from fletching.methods.two_d_matryoshka.synthetic import save_smoke_bert
from fletching.testing import save_tiny_llama

FIRST = ["a bow of oak", "this wind has silk in it", "flax"]
SECOND = ["oak, for a bow", "a wind of silk", "a string of flax"]
THIRD = ["an arrow of iron", "reed", "wax, for a glove"]
LAYERS, WIDTH = 4, 32
Options = TwoDMatryoshkaLossOptions


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_smoke_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def transformer(bert: str) -> Transformer:
    return Transformer(bert)


@pytest.fixture
def build(transformer: Transformer) -> Callable[..., SentenceTransformer]:
    """Build a model of four layers that computes the same each time in training mode."""

    def make(*modules: nn.Module, pooling: str = "mean") -> SentenceTransformer:
        parts = [copy.deepcopy(transformer), Pooling(WIDTH, pooling), *modules]
        model = SentenceTransformer(modules=parts, device="cpu").train()
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        return model

    return make


@pytest.fixture
def model(build: Callable[..., SentenceTransformer]) -> SentenceTransformer:
    return build()


def tokenize(model: SentenceTransformer, *columns: list[str]) -> list[dict[str, Any]]:
    return [model.preprocess(column) for column in columns]


def read_depths(model: SentenceTransformer, columns: list[dict[str, Any]]) -> list[list[Tensor]]:
    """Mean-pool the states after each layer, in the plain way: depth -> column -> ``(B, D)``."""
    found = []
    for column in columns:
        states = model[0].model(**column, output_hidden_states=True).hidden_states
        mask = column["attention_mask"].unsqueeze(-1)
        found.append([(state * mask).sum(dim=1) / mask.sum(dim=1) for state in states])
    return [list(depth) for depth in zip(*found, strict=True)]


def rank(columns: list[Tensor]) -> Tensor:
    """What `MultipleNegativesRankingLoss` computes of two columns."""
    queries, documents = (normalize(column, dim=-1) for column in columns)
    return nn.functional.cross_entropy(queries @ documents.T * 20, torch.arange(len(queries)))


def cut(columns: list[Tensor], dim: int) -> list[Tensor]:
    return [column[:, :dim] for column in columns]


def align(students: list[Tensor], teachers: list[Tensor]) -> Tensor:
    return kl_div(
        log_softmax(torch.cat(students), dim=-1), softmax(torch.cat(teachers), dim=-1), reduction="batchmean"
    )


def draw(loss: TwoDMatryoshkaLoss, layer: int, dim: int) -> TwoDMatryoshkaLoss:
    loss.draw_sizes = lambda: (layer, dim)  # type: ignore[method-assign]
    return loss


# --- 2dmse ---


def test_2dmse_is_the_sum_of_its_terms_on_a_real_network(model: SentenceTransformer) -> None:
    columns = tokenize(model, FIRST, SECOND)
    depths = read_depths(model, columns)
    loss = TwoDMatryoshkaLoss(
        model,
        stock.MultipleNegativesRankingLoss(model),
        kl_weight=0.5,
        teacher_weight=2.0,
        student_weight=3.0,
    )
    last, drawn = depths[4], depths[2]
    expected = (
        2 * rank(last)
        + 3 * rank(drawn)
        + 2 * rank(cut(last, 8))
        + 3 * rank(cut(drawn, 8))
        + align(drawn, last) / 2
    )
    torch.testing.assert_close(draw(loss, 2, 8)(columns), expected)


def test_legacy_weights_shrink_with_depth_and_the_alignment_grows(model: SentenceTransformer) -> None:
    """``l(E_N) + l(E_n) / n + l(E_N^d) + l(E_n^d) / n + KL * T * ln(2 + n)`` at n = 3, T = 1."""
    columns = tokenize(model, FIRST, SECOND)
    depths = read_depths(model, columns)
    options = Options(weighting="legacy")
    loss = TwoDMatryoshkaLoss(model, stock.MultipleNegativesRankingLoss(model), options=options)
    last, drawn = depths[4], depths[3]
    expected = rank(last) + rank(cut(last, 16)) + (rank(drawn) + rank(cut(drawn, 16))) / 3
    expected = expected + align(drawn, last) * math.log(5)
    torch.testing.assert_close(draw(loss, 3, 16)(columns), expected)


def test_a_unit_length_model_is_cut_before_and_aligned_without_it(
    build: Callable[..., SentenceTransformer],
) -> None:
    """With euclidean distances the base loss shows whether prefixes have length one."""
    model = build(Normalize())
    columns = tokenize(model, FIRST, SECOND, THIRD)
    depths = read_depths(model, columns)
    seen: list[list[Tensor]] = []

    class Record(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, features: list[dict[str, Any]], labels: Any) -> Tensor:
            seen.append([self.model(column)["sentence_embedding"] for column in features])
            return seen[-1][0].sum() * 0

    loss = draw(TwoDMatryoshkaLoss(model, Record()), 1, 8)(columns)
    for found, depth, dim in zip(seen, (4, 1, 4, 1), (32, 32, 8, 8), strict=True):
        for column, expected in zip(found, cut(depths[depth], dim), strict=True):
            torch.testing.assert_close(column, normalize(expected, dim=-1))
    torch.testing.assert_close(loss, align(depths[1], depths[4]))


def test_modules_behind_the_pooling_read_every_layer(build: Callable[..., SentenceTransformer]) -> None:
    """A ``Dense`` to 24 is applied to each depth; sizes are those of its output."""
    dense = Dense(WIDTH, 24, activation_function=nn.Identity())
    model = build(dense)
    columns = tokenize(model, FIRST, SECOND)
    depths = [[dense.linear(column) for column in depth] for depth in read_depths(model, columns)]
    loss = TwoDMatryoshkaLoss(model, stock.MultipleNegativesRankingLoss(model))
    assert (loss.width, loss.dims) == (24, (8, 16))
    last, drawn = depths[4], depths[1]
    expected = rank(last) + rank(drawn) + rank(cut(last, 16)) + rank(cut(drawn, 16)) + align(drawn, last)
    torch.testing.assert_close(draw(loss, 1, 16)(columns), expected)


def test_early_states_get_the_final_norm_that_inference_applies(tmp_path: Path) -> None:
    """A Llama of one layer ends with the norm of the whole; without it, states are something else."""
    model = ElasticEmbedder(save_tiny_llama(tmp_path), device="cpu")
    (column,) = tokenize(model, ["arrows fly in the wind"])
    used = torch.from_numpy(model.encode(["arrows fly in the wind"], num_layers=1))
    base_loss = stock.MultipleNegativesRankingLoss(model)
    found = {}
    for final_norm in ("auto", "none"):
        loss = TwoDMatryoshkaLoss(model, base_loss, options=Options(final_norm=final_norm))
        with torch.no_grad():
            found[final_norm] = EmbeddedBatch(model, [column], norm=loss._norm[0]).stack(1)
    torch.testing.assert_close(found["auto"], used, rtol=0, atol=1e-5)
    assert (found["none"] - used).abs().max() > 0.1


def test_the_network_runs_once_for_each_column(model: SentenceTransformer) -> None:
    calls: list[int] = []
    loss = TwoDMatryoshkaLoss(model, stock.MultipleNegativesRankingLoss(model))
    model[0].register_forward_hook(lambda *_: calls.append(1))
    loss(tokenize(model, FIRST, SECOND))
    assert len(calls) == 2


def test_padding_changes_nothing(
    model: SentenceTransformer, build: Callable[..., SentenceTransformer]
) -> None:
    teacher = build(pooling="cls")
    loss = TwoDMatryoshkaLoss(
        model, stock.MultipleNegativesRankingLoss(model), options=Options(fixed_teacher=teacher)
    )
    columns = tokenize(model, FIRST, SECOND)
    padded = [
        {
            name: nn.functional.pad(value, (0, 5))
            for name, value in column.items()
            if isinstance(value, Tensor)
        }
        for column in columns
    ]
    torch.testing.assert_close(draw(loss, 2, 8)(padded), draw(loss, 2, 8)(columns))


def test_labels_as_wide_as_the_vectors_are_cut_with_them(model: SentenceTransformer) -> None:
    columns = tokenize(model, FIRST)
    depths = read_depths(model, columns)
    labels = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    loss = TwoDMatryoshkaLoss(model, stock.MSELoss(model), kl_weight=0.0)
    expected = sum(
        mse_loss(depths[depth][0][:, :dim], labels[:, :dim]) for depth in (4, 1) for dim in (WIDTH, 8)
    )
    torch.testing.assert_close(draw(loss, 1, 8)(columns, labels), expected)


def test_evaluation_gives_the_same_each_time(model: SentenceTransformer) -> None:
    loss = TwoDMatryoshkaLoss(model, stock.MultipleNegativesRankingLoss(model))
    model.eval()
    columns = tokenize(model, FIRST, SECOND)
    state = torch.get_rng_state()
    with torch.no_grad():
        assert loss(columns).item() == loss(columns).item()
    assert loss.draw_sizes() == (2, 16)
    assert torch.equal(state, torch.get_rng_state())


def test_a_seed_gives_a_stream_that_a_saved_state_goes_on_with(model: SentenceTransformer) -> None:
    def make() -> TwoDMatryoshkaLoss:
        base_loss = stock.MultipleNegativesRankingLoss(model)
        return TwoDMatryoshkaLoss(model, base_loss, options=Options(seed=5))

    one, other = make(), make()
    drawn = [one.draw_sizes() for _ in range(20)]
    assert len(set(drawn)) > 1
    torch.randn(3)  # what others draw does not matter
    assert [other.draw_sizes() for _ in range(10)] == drawn[:10]
    resumed = make()
    resumed.load_state_dict(other.state_dict())
    assert [resumed.draw_sizes() for _ in range(10)] == drawn[10:]


def test_half_precision_gives_a_float32_loss(model: SentenceTransformer) -> None:
    loss = TwoDMatryoshkaLoss(model.bfloat16(), stock.MultipleNegativesRankingLoss(model))
    found = loss(tokenize(model, FIRST, SECOND))
    assert found.dtype == torch.float32
    assert found.isfinite()


def test_a_wrapper_that_copies_its_input_is_seen_through(model: SentenceTransformer) -> None:
    """As ``DistributedDataParallel`` does, which training puts around the model of both losses."""

    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, features: dict[str, Any]) -> Any:
            return self.module({**features})

    base_loss = stock.MultipleNegativesRankingLoss(model)
    loss = draw(TwoDMatryoshkaLoss(model, base_loss), 2, 8)
    columns = tokenize(model, FIRST, SECOND)
    expected = loss(columns)
    loss.model = base_loss.model = Wrapper(model)
    torch.testing.assert_close(loss(columns), expected)


TWO_DEVICES = """
import sys
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from fletching.methods.two_d_matryoshka import TwoDMatryoshkaLoss, TwoDMatryoshkaLossOptions

torch.set_num_threads(1)
rank, store, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
FIRST = ["a bow of oak", "this wind has silk in it", "flax", "an arrow of iron"]
SECOND = ["oak, for a bow", "a wind of silk", "a string of flax", "wax, for a glove"]
SCORES = torch.tensor([1.0, 0.5, 0.8, 0.0])

def run(rows, is_wrapped):
    model = SentenceTransformer(modules=[Transformer(folder), Pooling(32, "mean")], device="cpu").train()
    model[0].model.pooler.requires_grad_(False)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    base_loss = CosineSimilarityLoss(model)
    loss = TwoDMatryoshkaLoss(model, base_loss, options=TwoDMatryoshkaLossOptions(seed=3))
    if is_wrapped:
        loss.model = base_loss.model = DistributedDataParallel(model)
    values = []
    for step in range(2):
        columns = [
            {name: model.preprocess(texts)[name][rows] for name in ("input_ids", "attention_mask")}
            for texts in (FIRST, SECOND)
        ]
        value = loss(columns, SCORES[rows])
        value.backward()
        values.append(value.detach())
    return torch.stack(values), [part.grad for part in model.parameters() if part.requires_grad]

values, gradients = run(slice(0, 4), False)
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
mine, my_gradients = run(slice(2 * rank, 2 * rank + 2), True)
distributed.all_reduce(mine)
torch.testing.assert_close(mine / 2, values)
torch.testing.assert_close(my_gradients, gradients)
distributed.destroy_process_group()
print("equal")
"""


@pytest.mark.slow
def test_two_devices_have_the_loss_and_gradients_of_one(bert: str, tmp_path: Path) -> None:
    """Base loss and alignment are means over rows: that of two devices with two rows each is that of four."""
    script = tmp_path / "devices.py"
    script.write_text(TWO_DEVICES)
    command = [sys.executable, str(script)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store"), bert],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [output.splitlines()[-1:] for output in outputs] == [["equal"], ["equal"]], outputs


# --- a fixed teacher ---


def test_a_fixed_teacher_replaces_the_last_layer_and_aligns_its_tokens(
    model: SentenceTransformer, tmp_path: Path
) -> None:
    save_smoke_bert(tmp_path, seed=7)
    teacher = SentenceTransformer(
        modules=[Transformer(str(tmp_path)), Pooling(WIDTH, "mean"), Normalize()], device="cpu"
    ).eval()
    columns = tokenize(model, FIRST, SECOND)
    drawn, wanted = read_depths(model, columns)[2], read_depths(teacher, columns)[4]
    tokens = 0.0
    for column in columns:
        mine, theirs = (each[0].model(**column).last_hidden_state for each in (model, teacher))
        gaps = softmax(theirs, dim=-1) * (log_softmax(theirs, dim=-1) - log_softmax(mine, dim=-1))
        tokens = tokens + (gaps.sum(dim=-1) * column["attention_mask"]).sum()
    loss = TwoDMatryoshkaLoss(
        model,
        stock.MultipleNegativesRankingLoss(model),
        kl_temperature=2.0,
        teacher_weight=0.0,
        student_weight=0.0,
        options=Options(fixed_teacher=teacher),
    )
    halves = [[column / 2 for column in side] for side in (drawn, wanted)]
    expected = align(*halves) * 4 + tokens / 6
    found = draw(loss, 2, 8)(columns)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(part.grad is None for part in teacher.parameters())
    assert "fixed_teacher" not in str(loss.state_dict().keys())


# --- ese ---


@pytest.mark.parametrize(
    ("off_by_one", "weights"),
    [
        (False, {1: 1.0, 2: 1 / (1 + math.log(2)), 3: 1 / (1 + math.log(3))}),
        (True, {0: 1.0, 1: 1 / (1 + math.log(2)), 2: 1 / (1 + math.log(3))}),
    ],
)
def test_ese_is_the_sum_of_its_terms(
    model: SentenceTransformer, off_by_one: bool, weights: dict[int, float]
) -> None:
    """Every layer below the last one by its weight, with its own compressed vectors as targets."""
    columns = tokenize(model, FIRST, SECOND)
    depths = read_depths(model, columns)

    def compress(vectors: Tensor) -> Tensor:
        related = softmax(vectors.T @ vectors / WIDTH**0.5, dim=-1)
        left, strengths, _ = torch.linalg.svd(related)
        signs = left[left.abs().argmax(dim=0), torch.arange(WIDTH)].sign()
        return (vectors @ (left * signs * strengths)[:, :8]).detach()

    def shorten(depth: list[Tensor]) -> Tensor:
        vectors = torch.cat(depth)
        target = compress(vectors) / 2
        short = vectors[:, :8]
        divergence = kl_div(log_softmax(short / 2, dim=-1), softmax(target, dim=-1), reduction="batchmean")
        return rank(cut(depth, 8)) + mse_loss(short, target * 2) + divergence * 2

    expected = rank(depths[4]) + shorten(depths[4])
    expected = expected + sum(weight * shorten(depths[layer]) for layer, weight in weights.items()) / 3
    loss = TwoDMatryoshkaLoss(
        model,
        stock.MultipleNegativesRankingLoss(model),
        objective="ese",
        dims=8,
        kl_temperature=2.0,
        options=Options(off_by_one=off_by_one),
    )
    torch.testing.assert_close(loss(columns), expected)
    assert loss.trained_layers == ((1, 2, 4) if off_by_one else (1, 2, 3, 4))


def test_randomised_compression_draws_and_is_finite(model: SentenceTransformer) -> None:
    loss = TwoDMatryoshkaLoss(
        model,
        stock.MultipleNegativesRankingLoss(model),
        objective="ese",
        dims=[8],
        options=Options(exact=False),
    )
    columns = tokenize(model, FIRST, SECOND)
    torch.manual_seed(0)
    first = loss(columns)
    assert first.isfinite()
    assert loss(columns).item() != first.item()
    torch.manual_seed(0)
    assert loss(columns).item() == first.item()


# --- base losses ---

SCORES = torch.tensor([1.0, 0.5, 0.0])
CLASSES = torch.tensor([0, 0, 1])
BASE_LOSSES: dict[str, tuple[Callable[[Any], nn.Module], int, Tensor | None]] = {
    "MultipleNegativesRankingLoss": (stock.MultipleNegativesRankingLoss, 3, None),
    "CoSENTLoss": (stock.CoSENTLoss, 2, SCORES),
    "AnglELoss": (stock.AnglELoss, 2, SCORES),
    "CosineSimilarityLoss": (stock.CosineSimilarityLoss, 2, SCORES),
    "ContrastiveLoss": (stock.ContrastiveLoss, 2, torch.tensor([1, 1, 0])),
    "TripletLoss": (stock.TripletLoss, 3, None),
    "MarginMSELoss": (stock.MarginMSELoss, 3, SCORES),
    "BatchAllTripletLoss": (stock.BatchAllTripletLoss, 1, CLASSES),
    "BatchHardTripletLoss": (stock.BatchHardTripletLoss, 1, CLASSES),
    "BatchSemiHardTripletLoss": (stock.BatchSemiHardTripletLoss, 1, CLASSES),
    "MegaBatchMarginLoss": (
        lambda model: stock.MegaBatchMarginLoss(model, use_mini_batched_version=False),
        2,
        None,
    ),
    "GISTEmbedLoss": (lambda model: stock.GISTEmbedLoss(model, build_guide(model)), 3, None),
    "GlobalOrthogonalRegularizationLoss": (stock.GlobalOrthogonalRegularizationLoss, 2, None),
    "CombinedAnglELoss": (lambda model: CombinedAnglELoss(model, cosine_weight=1.0), 3, None),
    "CombinedAnglELoss, scored": (CombinedAnglELoss, 2, SCORES),
}


def build_guide(model: SentenceTransformer) -> SentenceTransformer:
    return SentenceTransformer(modules=[model[0], Pooling(WIDTH, "max")], device="cpu")


@pytest.mark.parametrize(
    ("name", "objective"),
    [*((name, "2dmse") for name in BASE_LOSSES), ("CoSENTLoss", "ese"), ("BatchAllTripletLoss", "ese")],
)
def test_any_base_loss_sends_gradients_to_every_layer(
    model: SentenceTransformer, name: str, objective: str
) -> None:
    make, n_columns, labels = BASE_LOSSES[name]
    loss = TwoDMatryoshkaLoss(model, make(model), objective=objective, dims=[8])
    model.zero_grad()
    found = loss(tokenize(model, *[FIRST, SECOND, THIRD][:n_columns]), labels)
    found.backward()
    assert found.shape == ()
    assert found.isfinite()
    for layer in model[0].model.encoder.layer:
        gradients = [part.grad for part in layer.parameters()]
        assert all(each is not None and each.isfinite().all() for each in gradients)
        assert any(each.any() for each in gradients)


def test_the_model_and_the_batch_are_themselves_again_afterwards(model: SentenceTransformer) -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, features: Any, labels: Any) -> Tensor:
            raise RuntimeError("broken")

    columns = tokenize(model, FIRST, SECOND)
    before = [dict(column) for column in columns]
    with pytest.raises(RuntimeError, match="broken"):
        TwoDMatryoshkaLoss(model, Broken())(columns)
    TwoDMatryoshkaLoss(model, stock.CoSENTLoss(model))(columns, SCORES)
    assert [column.keys() for column in columns] == [column.keys() for column in before]
    assert "forward" not in vars(model)
    assert "all_layer_embeddings" not in model(dict(columns[0]))
    vectors = model(columns[0])["sentence_embedding"]
    torch.testing.assert_close(vectors, read_depths(model, before[:1])[4][0])


def test_training_leaves_no_hook_on_the_model(model: SentenceTransformer) -> None:
    """Transformers puts hooks on a network that hands out its states; a model that has them has no pickle."""
    loss = TwoDMatryoshkaLoss(model, stock.CoSENTLoss(model))
    network = model[0].model
    for _ in range(2):
        loss(tokenize(model, FIRST, SECOND), SCORES).backward()
    assert model[0].model is network
    assert not any(part._forward_hooks for part in model.modules())
    pickle.dumps(model)


def test_a_base_loss_that_cuts_its_columns_is_refused(model: SentenceTransformer) -> None:
    class Halved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, features: list[dict[str, Any]], labels: Any) -> Tensor:
            first = {name: value[1:] for name, value in features[0].items() if isinstance(value, Tensor)}
            found: Tensor = self.model(first)["sentence_embedding"].sum()
            return found

    with pytest.raises(ArgumentError, match="`base_loss` must be a loss that embeds its columns as they are"):
        TwoDMatryoshkaLoss(model, Halved())(tokenize(model, FIRST, SECOND))


def refused() -> Iterator[tuple[str, Callable[[Any], Any]]]:
    ranking = stock.MultipleNegativesRankingLoss
    yield "cache gradients", stock.CachedMultipleNegativesRankingLoss
    yield "cache gradients", stock.MegaBatchMarginLoss
    yield "leaves layers and dimensions alone", lambda model: stock.MatryoshkaLoss(model, ranking(model), [8])
    yield "leaves layers and dimensions alone", lambda model: stock.AdaptiveLayerLoss(model, ranking(model))
    yield "leaves layers and dimensions alone", lambda model: TwoDMatryoshkaLoss(model, ranking(model))
    yield "without a classifier", lambda model: stock.SoftmaxLoss(model, WIDTH, num_labels=2)
    yield "of a single network", stock.ContrastiveTensionLoss
    yield "a loss on `model`", lambda model: ranking(build_guide(model))
    yield "a loss of sentence-transformers", lambda model: "CoSENTLoss"


@pytest.mark.parametrize(("text", "make"), list(refused()))
def test_a_base_loss_that_cannot_be_used_is_refused(
    model: SentenceTransformer, text: str, make: Callable[[Any], Any]
) -> None:
    with pytest.raises(ArgumentError, match=f"TwoDMatryoshkaLoss: `base_loss` must be .*{text}"):
        TwoDMatryoshkaLoss(model, make(model))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"objective": "2dms"},
            "`objective` must be one of '2dmse', 'ese'; got '2dms'. Did you mean '2dmse'?",
        ),
        ({"dims": [0]}, "`dims` must be a positive integer"),
        ({"dims": [64]}, "`dims` must be sizes of at most 32"),
        ({"dims": [32]}, "`dims` must be sizes below 32"),
        ({"objective": "ese"}, "`dims` must be one size below 32.*got \\(128,\\)"),
        ({"objective": "ese", "dims": [8, 16]}, "`dims` must be one size below 32"),
        ({"kl_temperature": 0}, "`kl_temperature` must be positive"),
        ({"kl_weight": -1}, "`kl_weight` must be zero or positive"),
        ({"teacher_weight": math.nan}, "`teacher_weight` must be zero or positive"),
        ({"options": {"off_by_one": True}}, "`off_by_one` must be left out: objective='2dmse'"),
        ({"options": {"exact": False}}, "`exact` must be left out: objective='2dmse'"),
        ({"objective": "ese", "dims": 8, "options": {"weighting": "legacy"}}, "`weighting` must be left out"),
        ({"objective": "ese", "dims": 8, "detach_teacher": False}, "`detach_teacher` must be left out"),
        ({"options": {"weighting": "log"}}, "`weighting` must be one of 'uniform', 'legacy'"),
        ({"options": {"final_norm": True}}, "`final_norm` must be one of 'auto', 'none'"),
        ({"options": {"seed": -1}}, "`seed` must be a whole number"),
        ({"options": {"fixed_teacher": "bert"}}, "`fixed_teacher` must be a SentenceTransformer"),
    ],
)
def test_an_argument_outside_its_domain_is_named(
    model: SentenceTransformer, arguments: dict[str, Any], text: str
) -> None:
    def make(options: dict[str, Any] | None = None, **settings: Any) -> TwoDMatryoshkaLoss:
        base_loss = stock.CoSENTLoss(model)
        return TwoDMatryoshkaLoss(model, base_loss, options=Options(**options or {}), **settings)

    with pytest.raises(ArgumentError, match=text):
        make(**arguments)


def test_a_teacher_that_does_not_fit_is_refused(
    model: SentenceTransformer, build: Callable[..., SentenceTransformer], tmp_path: Path
) -> None:
    base_loss = stock.CoSENTLoss(model)
    narrow = build(Dense(WIDTH, 16))
    other_words = SentenceTransformer(
        modules=[Transformer(save_tiny_llama(tmp_path)), Pooling(WIDTH, "mean")], device="cpu"
    )
    for teacher, text in (
        (model, "another model than the one that is trained"),
        (narrow, "a model whose vectors and states are 32 and 32 wide"),
        (other_words, "a model with the vocabulary of the student"),
    ):
        with pytest.raises(ArgumentError, match=f"`fixed_teacher` must be {text}"):
            TwoDMatryoshkaLoss(model, base_loss, options=Options(fixed_teacher=teacher))
    with pytest.raises(ArgumentError, match="`kl_weight` must be positive for a fixed teacher"):
        TwoDMatryoshkaLoss(model, base_loss, kl_weight=0, options=Options(fixed_teacher=build()))


def test_a_model_that_cannot_be_cut_is_refused(bert: str) -> None:
    mixed = SentenceTransformer(
        modules=[Transformer(bert), WeightedLayerPooling(WIDTH, num_hidden_layers=4), Pooling(WIDTH, "mean")],
        device="cpu",
    )
    with pytest.raises(ArgumentError, match="`model` must be one whose pooling reads one layer"):
        TwoDMatryoshkaLoss(mixed, stock.CoSENTLoss(mixed))
    with pytest.raises(ArgumentError, match="`model` must be a SentenceTransformer"):
        TwoDMatryoshkaLoss(nn.Linear(2, 2), nn.Linear(2, 2))  # type: ignore[arg-type]


def test_the_full_width_is_not_drawn(model: SentenceTransformer) -> None:
    loss = TwoDMatryoshkaLoss(model, stock.CoSENTLoss(model), dims=[32, 16, 4, 16])
    assert loss.dims == (4, 16)


def test_the_model_card_knows_the_settings(model: SentenceTransformer) -> None:
    loss = TwoDMatryoshkaLoss(model, stock.CoSENTLoss(model), dims=[8])
    settings = loss.get_config_dict()
    assert (settings["base_loss"], settings["objective"], settings["dims"]) == ("CoSENTLoss", "2dmse", (8,))
    assert "2402.14776" in loss.citation
