"""What must hold, items 1-10 and 12, one test each; two toy queries in two dimensions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from fletching.methods.kalm.config import KaLMLossOptions, MixingOptions
from fletching.methods.kalm.functional import (
    CandidatePool,
    MixDraws,
    compute_distillation,
    compute_focal_weights,
    compute_gaps,
    compute_row_losses,
    draw_mixes,
    mix_lists,
    mix_pairs,
    normalize_vectors,
    score_candidates,
)
from fletching.methods.kalm.losses import KaLMLoss
from fletching.testing.tiny import save_tiny_embedder

TAU = 0.5
TOLERANCE = 5e-7  # the expected numbers have seven digits, of float32
QUERIES = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
POSITIVES = torch.tensor([[0.9, 0.1], [0.6, 0.8]], dtype=torch.float64)
NEGATIVES = torch.tensor([[[0.8, 0.6], [0.5, -0.5]], [[0.9, 0.2], [-0.2, 0.7]]], dtype=torch.float64)
COLUMNS = [QUERIES, POSITIVES, NEGATIVES[:, 0], NEGATIVES[:, 1]]
POOL = CandidatePool(
    normalize_vectors(QUERIES), normalize_vectors(torch.cat([POSITIVES[:, None], NEGATIVES], dim=1))
)
ROWS = torch.arange(2)
QUARTER = MixDraws(  # lam = .25 on (first, second)
    torch.zeros(2, 1, dtype=torch.int64),
    torch.ones(2, 1, dtype=torch.int64),
    torch.full((2, 1), 0.25, dtype=torch.float64),
    torch.zeros(2, 0, 2, dtype=torch.bool),
)
WHOLE_LIST = MixDraws(
    *(torch.zeros(2, 0, dtype=dtype) for dtype in (torch.int64, torch.int64, torch.float64)),
    torch.ones(2, 1, 2, dtype=torch.bool),
)
TEXTS = [
    ["what keeps an arrow true", "what is a bow", "why feathers", "what is a nock"],
    ["the feathers keep it true", "a bow is wood and string", "for the flight", "the end of a shaft"],
    ["the archer and the wind", "the target", "an arrow point of wood", "the string"],
    ["a goose", "the wind is in the wood", "a query", "feathers of a goose on the shaft"],
    ["a passage", "how to aim", "what why how", "the wood"],
]


class Stand(nn.Module):
    """A model that only says that it trains: the embeddings are given."""


def build(**options: Any) -> KaLMLoss:
    return KaLMLoss(Stand(), **{"temperature": TAU, "mixing": (), **options})  # type: ignore[arg-type]


def score(pool: CandidatePool, **options: Any) -> Tensor:
    """Return the gap of each row."""
    return compute_gaps(score_candidates(pool, ROWS, **options) / TAU, 3 * ROWS)


def test_1_contrastive_loss_of_the_toy() -> None:
    """The columns are those of row 1, then of row 2; the expected ones have both positives first."""
    cosines = score_candidates(POOL, ROWS)[:, [0, 3, 1, 2, 4, 5]]
    expected = torch.tensor(
        [
            [0.99388, 0.6, 0.8, 0.70711, 0.97619, -0.27472],
            [0.11043, 0.8, 0.6, -0.70711, 0.21693, 0.96152],
        ]
    ).double()
    torch.testing.assert_close(cosines, expected, atol=5e-6, rtol=0)
    losses = compute_row_losses(score(POOL))
    assert torch.exp(-losses).tolist() == pytest.approx([0.26728955, 0.27291837], abs=TOLERANCE)
    assert losses.tolist() == pytest.approx([1.3194227, 1.2985826], abs=TOLERANCE)
    assert build(gamma=0.0).compute_loss_from_embeddings(COLUMNS).item() == pytest.approx(
        1.3090026, abs=TOLERANCE
    )


@pytest.mark.parametrize(
    ("gamma", "expected"), [(0.0, 1.3090026), (0.5, 1.1183479), (1.0, 0.9554652), (2.0, 0.6974220)]
)
def test_2_focal_weights_of_the_toy(gamma: float, expected: float) -> None:
    assert build(gamma=gamma).compute_loss_from_embeddings(COLUMNS).item() == pytest.approx(
        expected, abs=TOLERANCE
    )


def test_2_weights_are_ordered_by_difficulty_and_fall_with_gamma() -> None:
    gaps = score(POOL)
    assert compute_focal_weights(gaps).tolist() == pytest.approx([0.8559851, 0.8526908], abs=TOLERANCE)
    many = torch.linspace(-30, 30, 50)
    gammas = [0.0, 0.1, 0.5, 1.0, 2.0, 5.0]
    weights = torch.stack([compute_focal_weights(many, gamma=gamma) for gamma in gammas])
    assert torch.equal(weights[0], torch.ones(50))
    assert (weights.diff(dim=0) <= 0).all()
    assert torch.equal(weights[2].argsort(), compute_row_losses(many).argsort())


def test_3_pair_mix_of_the_toy() -> None:
    """m of row 1 is .25 (.8, .6) + .75 (.70711, -.70711), normalised."""
    mixes = mix_pairs(POOL.documents[:, 1:], QUARTER)
    expected = torch.tensor([[0.8869390, -0.4618865], [0.0489573, 0.9988009]]).double()
    torch.testing.assert_close(mixes[:, 0], expected, atol=TOLERANCE, rtol=0)
    pool = POOL._replace(mixes=mixes)
    seen = compute_row_losses(score(pool, visibility="all"))
    assert seen.tolist() == pytest.approx([1.5475185, 1.6548905], abs=TOLERANCE)
    own = compute_row_losses(score(pool, visibility="own"))
    assert own.tolist() == pytest.approx([1.5148412, 1.6394531], abs=TOLERANCE)
    loss = build(gamma=0.5).compute_loss_from_embeddings(COLUMNS, draws=QUARTER)
    assert loss.item() == pytest.approx(1.4307120, abs=TOLERANCE)


def test_4_list_mix_of_the_toy() -> None:
    """The mix of row 1 is nearer to its query than its positive is: cosine .99996 against .99388."""
    negatives = POOL.documents[:, 1:]
    shares = torch.tensor([[0.5463135, 0.4536865], [0.1840438, 0.8159562]]).double()
    mixes = mix_lists(POOL.queries, negatives, WHOLE_LIST, temperature=0.5)[:, 0]
    by_hand = normalize_vectors((shares[..., None] * negatives).sum(dim=1))
    torch.testing.assert_close(mixes, by_hand, atol=TOLERANCE, rtol=0)
    expected = torch.tensor([[0.9999575, 0.0092141], [-0.0538937, 0.9985467]]).double()
    torch.testing.assert_close(mixes, expected, atol=TOLERANCE, rtol=0)
    assert mixes[0, 0] > POOL.documents[0, 0, 0]


def test_5_pair_mixes_are_unit_vectors_between_two_negatives() -> None:
    """Beta(2, 2) has the mean 1/2 and the variance 1/20; the bounds are five standard errors wide."""
    n = 20_000
    draws = draw_mixes(np.random.default_rng(0), n_rows=n, n_negatives=7)
    assert draws.shares.mean().item() == pytest.approx(0.5, abs=5 * math.sqrt(0.05 / n))
    assert draws.shares.var().item() == pytest.approx(0.05, abs=0.002)
    negatives = normalize_vectors(torch.randn(n, 7, 8, generator=torch.Generator().manual_seed(0)))
    mixes = mix_pairs(negatives, draws)
    torch.testing.assert_close(mixes.norm(dim=-1), torch.ones(n, 1))
    for share, column in ((1.0, draws.first), (0.0, draws.second)):
        ends = mix_pairs(negatives, draws._replace(shares=torch.full((n, 1), share)))
        torch.testing.assert_close(ends[:, 0], negatives[torch.arange(n), column[:, 0]])
    duplicate = POOL._replace(mixes=POOL.documents[:, 1:2])
    logits = score_candidates(POOL, ROWS) / TAU
    by_hand = torch.cat([logits, logits[:, [1, 4]]], dim=1)  # the first negatives once more
    torch.testing.assert_close(score(duplicate), compute_gaps(by_hand, 3 * ROWS))


@pytest.mark.parametrize(
    ("detach", "expected"),
    [
        (False, [-0.6438915, 0.6133544, 0.0305371]),
        (True, [-0.4387606, 0.4179519, 0.0208086]),
    ],
)
def test_6_gradient_of_a_single_row(detach: bool, expected: list[float]) -> None:
    """The gradient with respect to the cosines [.3, .1, -.2], at tau = .1."""
    cosines = torch.tensor([[0.3, 0.1, -0.2]], dtype=torch.float64, requires_grad=True)
    gaps = compute_gaps(cosines / 0.1, torch.tensor([0]))
    (compute_focal_weights(gaps, detach=detach) * compute_row_losses(gaps)).sum().backward()
    assert cosines.grad is not None
    assert cosines.grad[0].tolist() == pytest.approx(expected, abs=TOLERANCE)
    assert cosines.grad.sum().item() == pytest.approx(0.0, abs=1e-12)


def test_7_stable_form_is_finite_where_the_naive_form_is_not() -> None:
    def run(logits: Tensor, *, stable: bool) -> tuple[Tensor, Tensor]:
        logits = logits.clone().requires_grad_()
        gaps = compute_gaps(logits, torch.zeros(len(logits), dtype=torch.int64))
        p = logits.softmax(dim=1)[:, 0]
        losses = (
            compute_focal_weights(gaps) * compute_row_losses(gaps) if stable else (1 - p) ** 0.5 * -p.log()
        )
        losses.sum().backward()
        assert logits.grad is not None
        return losses.detach(), logits.grad

    far = torch.tensor([[90.0, -90.0, -80.0]])
    assert run(far, stable=False)[1].isnan().any()
    loss, gradient = run(far, stable=True)
    assert loss.item() == 0.0
    assert gradient.tolist() == [[0.0, 0.0, 0.0]]
    logits = torch.randn(500, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    logits = logits[logits.softmax(dim=1)[:, 0] < 0.999]
    for ours, naive in zip(run(logits, stable=True), run(logits, stable=False), strict=True):
        torch.testing.assert_close(ours, naive, atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    folder = save_tiny_embedder(tmp_path_factory.mktemp("embedder"), normalize=False)
    model = SentenceTransformer(folder, device="cpu").double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def run_on(model: SentenceTransformer, loss: KaLMLoss, labels: Tensor | None) -> dict[str, Tensor]:
    """Return the loss and the gradient of each weight, with the same mixes every time."""
    model.train()
    model.zero_grad()
    torch.manual_seed(3)
    value = loss([model.preprocess(column) for column in TEXTS], labels)
    value.backward()
    gradients = {
        name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
    }
    return {"loss": value.detach(), **gradients}


@pytest.mark.parametrize("chunk", [1, 2, 4])
@pytest.mark.parametrize(
    "options",
    [
        {"matryoshka": {32: 1.0, 8: 0.3}},
        {"mixing": MixingOptions(n_pairs=2, n_lists=2, visibility="own"), "options": KaLMLossOptions("sum")},
        {
            "mixing": MixingOptions(gradient=False),
            "matryoshka": [16, 4],
            "options": KaLMLossOptions(
                directions=("query_to_doc", "query_to_query", "doc_to_doc"), distillation_weight=0.7
            ),
        },
    ],
    ids=["matryoshka", "own", "distillation"],
)
def test_8_gradient_caching_equals_the_whole_batch(
    chunk: int, options: dict[str, Any], encoder: SentenceTransformer
) -> None:
    distil = options.get("options", KaLMLossOptions()).distillation_weight > 0
    labels = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) / 10 if distil else None
    whole = run_on(encoder, KaLMLoss(encoder, temperature=0.1, **options), labels)
    parts = run_on(encoder, KaLMLoss(encoder, temperature=0.1, mini_batch_size=chunk, **options), labels)
    assert whole.keys() == parts.keys()
    assert max(gradient.abs().max() for name, gradient in whole.items() if name != "loss") > 1e-3
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("visibility", ["all", "own"])
def test_9_permuting_the_rows_permutes_losses_and_weights(visibility: str) -> None:
    generator = torch.Generator().manual_seed(0)
    columns = [torch.randn(6, 8, generator=generator, dtype=torch.float64) for _ in range(5)]
    draws = draw_mixes(np.random.default_rng(0), n_rows=6, n_negatives=3, n_pairs=2, n_lists=2)
    order = torch.tensor([3, 0, 5, 1, 4, 2])

    def run(columns: list[Tensor], draws: MixDraws) -> tuple[Tensor, Tensor, Tensor]:
        queries, documents = normalize_vectors(columns[0]), normalize_vectors(torch.stack(columns[1:], dim=1))
        lists = mix_lists(queries, documents[:, 1:], draws, temperature=TAU)
        mixes = torch.cat([mix_pairs(documents[:, 1:], draws), lists], dim=1)
        rows = torch.arange(6)
        pool = CandidatePool(queries, documents, mixes)
        gaps = compute_gaps(score_candidates(pool, rows, visibility=visibility) / TAU, 4 * rows)
        loss = build(mixing=MixingOptions(visibility=visibility))
        total = loss.compute_loss_from_embeddings(columns, draws=draws)
        torch.testing.assert_close(total, (compute_row_losses(gaps) * compute_focal_weights(gaps)).mean())
        return compute_row_losses(gaps), compute_focal_weights(gaps), total

    losses, weights, total = run(columns, draws)
    permuted = run([column[order] for column in columns], MixDraws(*(part[order] for part in draws)))
    torch.testing.assert_close(permuted[0], losses[order])
    torch.testing.assert_close(permuted[1], weights[order])
    torch.testing.assert_close(permuted[2], total)


def test_10_matryoshka_is_the_weighted_sum_of_truncated_vectors() -> None:
    """By hand: each dimension alone, on vectors that were cut and normalised before."""
    generator = torch.Generator().manual_seed(0)
    columns = [torch.randn(4, 8, generator=generator, dtype=torch.float64) * 3 for _ in range(4)]
    draws = draw_mixes(np.random.default_rng(0), n_rows=4, n_negatives=2)
    weights = {8: 1.0, 4: 0.3, 2: 0.2}
    by_hand = sum(
        weight
        * build().compute_loss_from_embeddings(
            [normalize_vectors(column[:, :dim]) for column in columns], draws=draws
        )
        for dim, weight in weights.items()
    )
    total = build(matryoshka=weights).compute_loss_from_embeddings(columns, draws=draws)
    torch.testing.assert_close(total, by_hand)
    assert total > build().compute_loss_from_embeddings(columns, draws=draws)


def test_12_distillation_of_the_toy() -> None:
    student = torch.tensor([[0.9, 0.3, 0.1]], dtype=torch.float64) / 0.05
    teacher = torch.tensor([[0.8, 0.6, 0.1]], dtype=torch.float64) / 0.05
    assert compute_distillation(student, teacher).item() == pytest.approx(0.1257467, abs=TOLERANCE)
    assert compute_distillation(teacher, teacher).item() == pytest.approx(0.0, abs=1e-15)
