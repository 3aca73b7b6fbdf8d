"""What must hold, items 3 to 9, with the numbers of the method's definition; 1 and 2 are on the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from sentence_transformers.base.losses.gradcache import _create_minibatch, _minibatch_ranges
from sentence_transformers.base.trainer import BaseTrainer
from torch import Tensor, nn

from fletching.methods.ullme import LLMEmbedder
from fletching.methods.ullme.data import ULLMECollator
from fletching.methods.ullme.functional import (
    build_pair_masks,
    compute_kl,
    compute_ntxent,
    compute_preference_loss,
    compute_similarities,
    compute_supcon,
    mine_pairs,
    sum_passages,
)
from fletching.methods.ullme.losses import GRLLoss
from fletching.methods.ullme.settings import GRLSettings
from fletching.testing import save_tiny_llama

ROWS = [
    {
        "anchor": "what is a bow",
        "positive": "a bow of wood and string",
        "negative_1": "wind",
        "negative_2": "the goose",
    },
    {
        "anchor": "why the feather",
        "positive": "feathers keep the flight true",
        "negative_1": "a target of wood",
        "negative_2": "an arrow and a nock and the point of the shaft",
    },
    {"anchor": "wind", "positive": "wind on a shaft", "negative_1": "bow", "negative_2": "string to nock"},
    {"anchor": "how to nock", "positive": "a nock", "negative_1": "goose wood", "negative_2": "an archer"},
    {"anchor": "for the archer", "positive": "true flight", "negative_1": "in the wood", "negative_2": "is"},
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def make_model(base: str) -> Callable[..., LLMEmbedder]:
    """Open the tiny model in float64, with adapters that do something; the same for all tests."""

    @cache
    def make(*names: str, dropout: float = 0.0, by_row: bool = False) -> LLMEmbedder:
        model = LLMEmbedder(base, device="cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            for name in names or ("embedding",):
                model.add_lora(r=4, dropout=dropout, name=name)
            with torch.no_grad():
                for parameter_name, parameter in model.named_parameters():
                    if "lora_B" in parameter_name:
                        parameter.normal_(std=0.05)
        if by_row:
            put_row_dropout(model)
        return model.double().train()

    return make


def collate(model: LLMEmbedder, rows: list[dict[str, str]] = ROWS, **options: Any) -> list[dict[str, Any]]:
    """Lay rows out as the trainer hands them to a loss."""
    batch: Any = ULLMECollator(model, **options)(rows)
    features, _ = BaseTrainer.collect_features(None, batch)  # type: ignore[arg-type]
    return features


def step(loss: GRLLoss, features: list[dict[str, Any]]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Take one step with a fixed seed; return the parts and the gradients."""
    loss.model.zero_grad()
    torch.manual_seed(3)
    parts = loss(features)
    torch.stack(list(parts.values())).sum().backward()
    gradients = {
        name: value.grad.clone() for name, value in loss.model.named_parameters() if value.grad is not None
    }
    return {name: value.item() for name, value in parts.items()}, gradients


# --- 3, 4, 5, 6: the equations ---


def test_3_kl_of_the_toy():
    """P_gen = softmax(-1, -1.5, -2), P_rep = softmax(8, 5, 2)."""
    rep, gen = torch.tensor([[0.8, 0.5, 0.2]]), torch.tensor([[-1.0, -1.5, -2.0]])
    assert gen.softmax(dim=-1).tolist()[0] == pytest.approx([0.506480, 0.307196, 0.186324], abs=1e-6)
    assert compute_kl(rep, gen, temperature=0.1).item() == pytest.approx(1.0702846, abs=1e-6)
    other = compute_kl(rep, gen, temperature=0.1, direction="rep_gen").item()
    assert other == pytest.approx(0.4992605, abs=1e-6)


@pytest.mark.parametrize("direction", ["gen_rep", "rep_gen"])
def test_3_a_constant_added_to_the_generators_scores_changes_nothing(direction):
    rep, gen = torch.tensor([[0.8, 0.5, 0.2]]).double(), torch.tensor([[-1.0, -1.5, -2.0]]).double()
    first, second = (compute_kl(rep, scores, direction=direction).item() for scores in (gen, gen + 17))
    assert first == pytest.approx(second, abs=1e-12)


@pytest.mark.parametrize("direction", ["gen_rep", "rep_gen"])
def test_3_the_generator_gets_no_gradient_by_default(direction):
    rep = torch.tensor([[0.8, 0.5, 0.2]], requires_grad=True)
    gen = torch.tensor([[-1.0, -1.5, -2.0]], requires_grad=True)
    found = torch.autograd.grad(
        compute_kl(rep, gen, direction=direction).sum(), [rep, gen], allow_unused=True
    )
    assert found[0].abs().sum() > 0
    assert found[1] is None


def test_4_likelihoods_are_normalised_by_the_passages_length():
    """-0.3 - 0.4 - 0.5 over three tokens."""
    scores = torch.tensor([[-0.1, -0.2, -0.3, -0.4, -0.5]])
    sums, counts = sum_passages(scores, torch.tensor([[-100, -100, 5, 6, 7]]))
    assert sums.item() == pytest.approx(-1.2)
    assert (sums / counts).item() == pytest.approx(-0.4)


def test_4_what_the_prompt_scores_does_not_matter(make_model):
    model = make_model()
    rows = model.network.build_generation_rows(["what is a bow"], ["a bow of wood"])
    scores = model.network.score_tokens(**rows)
    noise = torch.rand_like(scores).masked_fill(rows["labels"] != -100, 0)
    assert noise.any()
    assert torch.equal(*(sum_passages(each, rows["labels"])[0] for each in (scores, scores + noise)))


@pytest.mark.parametrize(
    ("kind", "smoothing", "expected"),
    [
        ("sigmoid", 0.0, [0.6209571]),
        ("sigmoid", 0.1, [0.6359571]),
        ("hinge", 0.0, [0.85]),
        ("ipo", 0.0, [12.25]),
        ("kto_pair", 0.0, [0.4750208, 0.4625702]),
    ],
)
def test_5_preference_losses_of_the_toy(kind, smoothing, expected):
    """logp -10 and -12 against -11 and -11.5: gains of 1 and -0.5, so L = 1.5."""
    chosen, rejected = torch.tensor([-10.0 + 11.0]), torch.tensor([-12.0 + 11.5])
    found = compute_preference_loss(chosen, rejected, kind=kind, beta=0.1, label_smoothing=smoothing)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_5_without_reference():
    """L = -10 + 12 = 2, -log s(0.2)."""
    found = compute_preference_loss(torch.tensor([-10.0]), torch.tensor([-12.0]), beta=0.1)
    assert found.item() == pytest.approx(0.5981389, abs=1e-6)


def build_toy() -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Three queries, their positives, two negatives each."""
    queries = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    positives = [[0.9, 0.1, 0.2, 0], [0.1, 0.8, 0, 0.3], [0, 0.3, 0.7, 0.2]]
    negatives = [
        [0.5, 0.5, 0, 0],
        [0.2, 0, 0.9, 0],
        [0, 0.9, 0.1, 0],
        [0, 0, 0.5, 0.5],
        [0.3, 0.3, 0.3, 0.3],
        [1, 0, 0, 1],
    ]
    labels = torch.tensor([0, 1, 2, 0, 1, 2, -1, -2, -3, -4, -5, -6])
    return torch.tensor([*queries, *positives, *negatives]), build_pair_masks(labels)


@pytest.mark.parametrize("compute", [compute_ntxent, compute_supcon])
@pytest.mark.parametrize(
    ("similarity", "temperature", "expected"),
    [
        ("cosine", 0.05, 0.7965920),
        ("cosine", 0.1, 0.7441623),
        ("euclidean", 0.05, 1.8826332),
        ("euclidean", 0.1, 1.1147542),
    ],
)
def test_6_contrastive_losses_of_the_toy(compute, similarity, temperature, expected):
    embeddings, masks = build_toy()
    logits = compute_similarities(embeddings, similarity=similarity) / temperature
    assert compute(logits, *masks).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("epsilon", "kept", "supcon", "ntxent"),
    [(0.2, (4, 8), 1.0001068, 2.8238458), (0.25, (5, 11), 0.8400615, 2.2591395)],
)
def test_6_mined_contrastive_losses_of_the_toy(epsilon, kept, supcon, ntxent):
    embeddings, masks = build_toy()
    cosines = compute_similarities(embeddings)
    mined = mine_pairs(cosines, *masks, epsilon=epsilon)
    assert tuple(int(mask.sum()) for mask in mined) == kept
    assert compute_supcon(cosines / 0.1, *mined).item() == pytest.approx(supcon, abs=1e-6)
    distances = compute_similarities(embeddings, similarity="euclidean")
    assert compute_ntxent(distances / 0.05, *mined).item() == pytest.approx(ntxent, abs=1e-6)


# --- 7: gradient caching ---

TERMS: list[dict[str, Any]] = [
    {},
    {"gen_loss": "sft", "kl_direction": "rep_gen"},
    {"gen_loss": "ecpo", "detach_generator": False, "miner_epsilon": None},
    {"gen_loss": "kto_pair", "contrastive_loss": "ntxent", "similarity": "euclidean"},
    {"gen_loss": "ipo", "cross_row_negatives": False, "contrastive_weight": 0.0},
    {"gen_weight": 0.0, "n_positives": 2},
]


class RowDropout(nn.Module):
    """Dropout whose mask depends on the text of a row alone, so that it is the same in any mini-batch."""

    def __init__(self, number: int, tokens: list[Tensor], pad: int) -> None:
        super().__init__()
        self.number, self.tokens, self.pad = number, tokens, pad
        self.drawn: dict[tuple[int, ...], Tensor] = {}

    def forward(self, states: Tensor) -> Tensor:
        masks = torch.ones_like(states)
        for row, ids in enumerate(self.tokens[0]):
            is_token = ids != self.pad
            key = tuple(ids[is_token].tolist())
            if key not in self.drawn:
                generator = torch.Generator().manual_seed(hash((self.number, *key)) % 2**32)
                draw = torch.rand(len(key), states.shape[-1], generator=generator)
                self.drawn[key] = (draw > 0.2).to(states.dtype) / 0.8
            masks[row, is_token] = self.drawn[key]
        return states * masks


def put_row_dropout(model: LLMEmbedder) -> None:
    """Replace the dropout of all adapters."""
    tokens: list[Tensor] = []
    language_model = model.network.model

    def keep(_: nn.Module, inputs: tuple[Tensor]) -> None:
        tokens[:] = inputs

    language_model.get_input_embeddings().register_forward_pre_hook(keep)
    for number, layer in enumerate(part for part in model.modules() if hasattr(part, "lora_dropout")):
        for name in list(layer.lora_dropout):
            layer.lora_dropout[name] = RowDropout(number, tokens, language_model.config.pad_token_id)


def check_equal(found: tuple[dict[str, float], dict[str, Tensor]], expected: Any) -> None:
    assert found[0] == pytest.approx(expected[0], abs=1e-10)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert torch.allclose(found[1][name], gradient, rtol=0, atol=1e-10), name


ONE, TWO = ("embedding",), ("generation", "embedding")


@pytest.mark.parametrize(
    ("adapters", "terms"),
    [*((ONE, terms) for terms in TERMS), (TWO, TERMS[0]), (TWO, TERMS[2])],
    ids=lambda value: str(value.get("gen_loss", len(value))) if isinstance(value, dict) else f"{len(value)}",
)
def test_7_gradient_caching_equals_the_whole_batch_with_dropout(make_model, adapters, terms):
    """Mini-batches of 1, 2 (which leaves a rest) and 3 of 3 rows, against one graph over everything."""
    model = make_model(*adapters, by_row=True)
    features = collate(model, ROWS[:3])
    settings = GRLSettings(**terms, two_adapters=len(adapters) > 1)
    whole = step(GRLLoss(model, settings), features)
    assert all(math.isfinite(value) and value for value in whole[0].values())
    assert all(gradient.abs().sum() > 0 for name, gradient in whole[1].items() if "lora_B" in name)
    for size in (1, 2, 3):
        check_equal(step(GRLLoss(model, settings, mini_batch_size=size), features), whole)


def test_7_row_dropout_drops(make_model):
    """What the test above compares is not the loss without dropout."""
    models = make_model(), make_model(by_row=True)
    plain, dropped = (step(GRLLoss(model), collate(model))[0] for model in models)
    assert all(abs(plain[name] - dropped[name]) > 1e-6 for name in plain)


class HeldGraphLoss(GRLLoss):
    """The same mini-batches with their graphs kept until one backward pass: what caching saves."""

    def compute_columns(self, columns: list[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        values = []
        for column in columns:
            with self.enter_column(column):
                bounds = _minibatch_ranges(column, self.mini_batch_size or 1)
                values.append([self.run_column(_create_minibatch(column, *each)) for each in bounds])
        return self.calculate_loss(values, labels)


@pytest.mark.parametrize("size", [1, 2])
def test_7_a_mini_batch_draws_the_same_dropout_twice(make_model, size):
    """With torch's own dropout: equal to a graph held over the same mini-batches."""
    model = make_model(dropout=0.3)
    features = collate(model, ROWS[:3])
    whole = step(HeldGraphLoss(model, mini_batch_size=size), features)
    check_equal(step(GRLLoss(model, mini_batch_size=size), features), whole)


def test_7_a_single_mini_batch_draws_the_dropout_of_the_uncached_loss(make_model):
    model = make_model(dropout=0.3)
    features = collate(model)
    check_equal(step(GRLLoss(model, mini_batch_size=100), features), step(GRLLoss(model), features))


# --- 8: grouping ---


def test_8_a_row_holds_a_query_its_positives_and_its_negatives(make_model):
    """B = 5, P = 1, N = 2: (B, 1 + P + N) texts, and (B, P + N) rows for the generator."""
    model = make_model()
    *columns, generation = collate(model)
    tokenizer: Any = model.tokenizer

    def read(ids: Tensor) -> list[int]:
        return [token for token in ids.tolist() if token not in tokenizer.all_special_ids]

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    names = list(ROWS[0])
    for name, column in zip(names, columns, strict=True):
        assert [read(ids) for ids in column["input_ids"]] == [tokenize(row[name]) for row in ROWS]
    labels = generation["labels"].view(len(ROWS), 3, -1)
    ids = generation["input_ids"].view(len(ROWS), 3, -1)
    for row, texts in enumerate(ROWS):
        for place, name in enumerate(names[1:]):
            passage = labels[row, place][labels[row, place] != -100]
            assert passage.tolist() == tokenize(texts[name])
            assert read(ids[row, place]) == tokenize(texts["anchor"]) + tokenize(texts[name])


def test_8_the_loss_pairs_each_query_with_its_own_passages(make_model):
    """The KL term is that of rows taken one at a time."""
    model = make_model()
    loss = GRLLoss(model, contrastive_weight=0, gen_weight=0)
    together = loss(collate(model))["kl"].item()
    alone = [loss(collate(model, [row]))["kl"].item() for row in ROWS]
    assert together == pytest.approx(sum(alone) / len(alone), abs=1e-10)


# --- 9: reduction ---


def test_9_without_the_other_terms_it_is_the_contrastive_loss(make_model):
    model = make_model()
    features = collate(model)
    parts = GRLLoss(model, kl_weight=0, gen_weight=0)(features)
    assert list(parts) == ["contrastive"]
    with torch.no_grad():
        embeddings = torch.cat([model(dict(column))["sentence_embedding"] for column in features[:4]])
    labels = torch.tensor([*range(5), *range(5), *range(-10, 0)])
    cosines = compute_similarities(embeddings)
    mined = mine_pairs(cosines, *build_pair_masks(labels), epsilon=0.2)
    assert parts["contrastive"].item() == compute_supcon(cosines / 0.1, *mined).item()


def test_9_it_asks_for_no_rows_for_the_generator(make_model):
    model = make_model()
    loss = GRLLoss(model, kl_weight=0, gen_weight=0)
    with_rows, without = (loss(collate(model, generation=each))["contrastive"] for each in (True, False))
    assert torch.equal(with_rows, without)
