"""KaLMLoss: what it equals, what it refuses, what it draws, and that it trains."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import (
    DistillKLDivLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.util import pairwise_cos_sim
from torch import Tensor, nn

from fletching.errors import ArgumentError, FidelityWarning, ShapeError
from fletching.methods.kalm.config import KaLMLossOptions, MixingOptions
from fletching.methods.kalm.functional import MixDraws
from fletching.methods.kalm.losses import KaLMLoss
from fletching.testing.tiny import HIDDEN_SIZE, build_tiny_tokenizer, save_tiny_embedder

ROWS = {
    "query": ["what keeps an arrow true", "what is a bow", "why feathers", "what is a nock"] * 2,
    "positive": ["feathers keep it true", "wood and string", "for the flight", "the end of a shaft"] * 2,
    "negative_1": ["the archer", "the target", "an arrow point of wood", "the string"] * 2,
    "negative_2": ["a goose", "the wind in the wood", "a query", "feathers of a goose"] * 2,
}


class EchoModel(nn.Module):
    """Looks rows up in a table; has nothing but its call, as a model wrapped for several devices."""

    def __init__(
        self, n_columns: int, *, n_rows: int = 4, width: int = 8, dtype: Any = torch.float32
    ) -> None:
        super().__init__()
        table = torch.randn(n_columns, n_rows, width, generator=torch.Generator().manual_seed(0))
        self.table = nn.Parameter(table.to(dtype))

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": self.table.flatten(0, 1)[features["rows"]]}

    def build_features(self) -> list[dict[str, Tensor]]:
        n_columns, n_rows, _ = self.table.shape
        return [{"rows": torch.arange(n_rows) + column * n_rows} for column in range(n_columns)]


def build(model: Any, **options: Any) -> KaLMLoss:
    return KaLMLoss(model, **{"temperature": 0.1, **options})


def run(loss: KaLMLoss, labels: Tensor | None = None, *, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return loss(loss.model.build_features(), labels)


def run_on(columns: list[Tensor], labels: Tensor | None = None, **options: Any) -> Tensor:
    torch.manual_seed(0)
    return build(EchoModel(1), **options).compute_loss_from_embeddings(columns, labels)


def draw_columns(n_columns: int, *, seed: int = 1, width: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, width, generator=generator) for _ in range(n_columns)]


@pytest.mark.parametrize(
    "directions",
    [
        ("query_to_doc",),
        ("query_to_doc", "query_to_query"),
        ("query_to_doc", "query_to_query", "doc_to_doc"),
    ],
)
@pytest.mark.parametrize("n_columns", [2, 3, 6])
def test_plain_loss_is_multiple_negatives_ranking(n_columns: int, directions: Any) -> None:
    columns = draw_columns(n_columns)
    stock = MultipleNegativesRankingLoss(EchoModel(1), scale=10.0, directions=directions)  # type: ignore[arg-type]
    ours = run_on(columns, gamma=0.0, mixing=(), options=KaLMLossOptions(directions=directions))
    torch.testing.assert_close(ours, stock.compute_loss_from_embeddings(columns, torch.zeros(0)))


def test_distillation_is_distill_kl_div_over_the_squared_temperature() -> None:
    columns, labels = draw_columns(4), torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    options = KaLMLossOptions(distillation_weight=0.7, student_temperature=0.5, teacher_temperature=0.2)
    stock = DistillKLDivLoss(
        EchoModel(1),  # type: ignore[arg-type]
        similarity_fct=pairwise_cos_sim,
        student_temperature=0.5,
        teacher_temperature=0.2,
    )
    expected = stock.compute_loss_from_embeddings(columns, labels) / 0.5**2 * 0.7
    ours = run_on(columns, labels, mixing=(), options=options) - run_on(columns, mixing=())
    torch.testing.assert_close(ours, expected)


def test_distillation_takes_the_temperature_of_the_loss_unless_told() -> None:
    columns, labels = draw_columns(4), torch.rand(4, 3)
    explicit = KaLMLossOptions(distillation_weight=1.0, student_temperature=0.1, teacher_temperature=0.1)
    expected = run_on(columns, labels, mixing=(), options=explicit)
    implicit = KaLMLossOptions(distillation_weight=1.0)
    assert run_on(columns, labels, mixing=(), options=implicit) == expected


def test_matryoshka_distils_each_dimension() -> None:
    columns, labels = draw_columns(4), torch.rand(4, 3)
    options = KaLMLossOptions(distillation_weight=1.0)
    short = [column[:, :3] for column in columns]
    by_hand = 2 * run_on(columns, labels, mixing=(), options=options) + 0.5 * run_on(
        short, labels, mixing=(), options=options
    )
    ours = run_on(columns, labels, mixing=(), options=options, matryoshka={8: 2.0, 3: 0.5})
    torch.testing.assert_close(ours, by_hand)


@pytest.mark.parametrize("mini_batch_size", [None, 3])
def test_matryoshka_is_that_of_sentence_transformers(mini_batch_size: int | None, folder: str) -> None:
    model = SentenceTransformer(folder, device="cpu").double().eval()
    dims, weights = [HIDDEN_SIZE, 8], [1.0, 0.3]
    inner = build(model, mixing=(), mini_batch_size=mini_batch_size)
    stock = MatryoshkaLoss(model, inner, dims, weights)
    ours = build(model, mixing=(), matryoshka=dict(zip(dims, weights, strict=True)))
    results = []
    for loss in (ours, stock):
        model.zero_grad()
        value = loss([model.preprocess(texts) for texts in ROWS.values()], None)
        value.backward()
        results.append([value, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(*results)


def test_matryoshka_dimensions_alone_have_weight_one() -> None:
    columns = draw_columns(3)
    assert run_on(columns, mixing=(), matryoshka=[8, 4]) == run_on(
        columns, mixing=(), matryoshka={8: 1.0, 4: 1.0}
    )


@pytest.mark.parametrize("mini_batch_size", [None, 3])
@pytest.mark.parametrize("visibility", ["all", "own"])
def test_gradient_reaches_every_column(visibility: str, mini_batch_size: int | None) -> None:
    loss = build(EchoModel(5), mixing=MixingOptions(visibility=visibility), mini_batch_size=mini_batch_size)
    run(loss).backward()
    gradient = loss.model.table.grad
    assert gradient.isfinite().all()
    assert (gradient.abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize("kind", ["pair", "list"])
def test_mixes_without_gradient_have_the_value_but_not_the_gradient(kind: str) -> None:
    losses, gradients = [], []
    for gradient in (True, False):
        loss = build(EchoModel(5), mixing=MixingOptions(kinds=(kind,), gradient=gradient))
        value = run(loss)
        value.backward()
        losses.append(value.item())
        gradients.append(loss.model.table.grad)
    assert losses[0] == losses[1]
    assert (gradients[0] - gradients[1]).abs().max() > 1e-4


def test_detached_weight_has_the_value_but_not_the_gradient() -> None:
    losses, gradients = [], []
    for detach in (True, False):
        loss = build(EchoModel(3), mixing=(), options=KaLMLossOptions(detach_weight=detach))
        value = run(loss)
        value.backward()
        losses.append(value.item())
        gradients.append(loss.model.table.grad)
    assert losses[0] == losses[1]
    assert (gradients[0] - gradients[1]).abs().max() > 1e-4


def test_loss_falls_as_gamma_grows() -> None:
    losses = [run_on(draw_columns(5), gamma=gamma).item() for gamma in (0.0, 0.2, 0.5, 1.0, 3.0)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]


@pytest.mark.parametrize(
    ("mixing", "n_mixes"),
    [
        ((), 0),
        (("pair",), 1),
        (("list",), 1),
        (("pair", "list"), 2),
        (MixingOptions(n_pairs=3, n_lists=2), 5),
        (MixingOptions(kinds=("list",), n_pairs=3), 1),
    ],
)
@pytest.mark.parametrize("visibility", ["all", "own"])
def test_equal_scores_count_the_candidates(mixing: Any, n_mixes: int, visibility: str) -> None:
    """All vectors are one: p = 1 / C, l = log C, w = (1 - 1 / C) ** .5; C = 4 (1 + 3) + the mixes seen."""
    if isinstance(mixing, tuple):
        mixing = MixingOptions(kinds=mixing)
    mixing = MixingOptions(mixing.kinds, mixing.n_pairs, mixing.n_lists, visibility)
    n = 16 + n_mixes * (4 if visibility == "all" else 1)
    loss = run_on([torch.ones(4, 8)] * 5, mixing=mixing)
    assert loss.item() == pytest.approx((1 - 1 / n) ** 0.5 * math.log(n), rel=1e-5)


def test_equal_scores_have_finite_gradients() -> None:
    loss = build(EchoModel(4), temperature=0.01)
    nn.init.ones_(loss.model.table)
    run(loss).backward()
    assert loss.model.table.grad.isfinite().all()


def test_sum_is_the_mean_times_the_rows() -> None:
    columns, labels = draw_columns(4), torch.rand(4, 3)
    mean, total = (
        run_on(columns, labels, options=KaLMLossOptions(reduction, distillation_weight=0.5))
        for reduction in ("mean", "sum")
    )
    torch.testing.assert_close(total, 4 * mean)


@pytest.mark.parametrize("mini_batch_size", [None, 1])
def test_a_query_alone_has_no_loss_and_no_gradient(mini_batch_size: int | None) -> None:
    loss = build(EchoModel(2, n_rows=1), mixing=(), mini_batch_size=mini_batch_size)
    value = run(loss)
    value.backward()
    assert value.item() == 0.0
    assert loss.model.table.grad.abs().max() == 0.0


def test_a_batch_of_one_learns_from_its_own_negatives() -> None:
    """By hand, unmixed: the softmax over positive and two negatives."""
    queries, *documents = (column[:1] for column in draw_columns(4))
    logits = torch.cat([pairwise_cos_sim(queries, document) for document in documents]) / 0.1
    expected = logits.logsumexp(dim=0) - logits[0]
    loss = run_on([queries, *documents], gamma=0.0, mixing=())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert run_on([queries, *documents], gamma=0.0) > loss  # two negatives more


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_the_float32_loss_of_the_same_numbers(dtype: torch.dtype) -> None:
    columns = [column.to(dtype) for column in draw_columns(5)]
    half = run_on(columns, temperature=0.01)
    assert half.dtype == torch.float32
    assert half == run_on([column.float() for column in columns], temperature=0.01)


def test_autocast_is_off_inside() -> None:
    columns = draw_columns(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run_on(columns, temperature=0.01)
    assert inside.dtype == torch.float32
    assert inside == run_on(columns, temperature=0.01)


def test_float16_near_its_limit_does_not_overflow() -> None:
    """The largest float16 is 65504; a squared length of such numbers would be infinite."""
    loss = build(EchoModel(5, dtype=torch.float16), temperature=0.01)
    with torch.no_grad():
        loss.model.table.copy_(loss.model.table.sign() * 65504)
    value = run(loss)
    assert value.isfinite()
    value.backward()
    assert loss.model.table.grad.isfinite().all()


def test_overflow_before_the_loss_is_nan() -> None:
    columns = draw_columns(4)
    columns[1][0, 0] = math.inf
    assert run_on(columns).isnan()


def test_zero_vectors_get_no_gradient() -> None:
    loss = build(EchoModel(4))
    with torch.no_grad():
        loss.model.table[1, 2] = 0.0
        loss.model.table[2, 0] = 0.0
    run(loss).backward()
    gradient = loss.model.table.grad
    assert gradient.isfinite().all()
    assert gradient[1, 2].abs().max() == 0.0
    assert gradient[0, 2].abs().max() > 0.0


def test_each_step_draws_other_mixes_from_torchs_generator() -> None:
    loss = build(EchoModel(5))
    torch.manual_seed(5)
    first, second = loss(loss.model.build_features()), loss(loss.model.build_features())
    torch.manual_seed(5)
    again = loss(loss.model.build_features())
    assert first == again
    assert first != second


@pytest.mark.parametrize("options", [{"mixing": ()}, {"options": KaLMLossOptions(seed=3)}])
def test_what_needs_no_global_draw_leaves_the_generator_alone(options: dict[str, Any]) -> None:
    loss = build(EchoModel(5), **options)
    before = torch.get_rng_state()
    loss(loss.model.build_features())
    assert torch.equal(torch.get_rng_state(), before)


def test_own_stream_goes_on_from_the_saved_state() -> None:
    def build_seeded(seed: int = 3) -> KaLMLoss:
        return build(EchoModel(5), options=KaLMLossOptions(seed=seed))

    def step(loss: KaLMLoss, n: int) -> list[float]:
        return [loss(loss.model.build_features()).item() for _ in range(n)]

    whole = step(build_seeded(), 4)
    assert len(set(whole)) == 4
    stopped = build_seeded()
    assert step(stopped, 2) == whole[:2]
    going_on = build_seeded()
    going_on.load_state_dict(stopped.state_dict())
    assert step(going_on, 2) == whole[2:]
    assert step(build_seeded(4), 4) != whole


def test_each_device_draws_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for rank in (0, 1):
        monkeypatch.setattr("fletching.methods.kalm.losses.get_rank", lambda rank=rank: rank)
        losses.append(run(build(EchoModel(5))).item())
    assert losses[0] != losses[1]


@pytest.mark.parametrize("mini_batch_size", [None, 2])
def test_evaluation_mixes_nothing(mini_batch_size: int | None) -> None:
    loss = build(EchoModel(5), mini_batch_size=mini_batch_size)
    trained = run(loss)
    loss.model.eval()
    before = torch.get_rng_state()
    with torch.no_grad():
        values = [loss(loss.model.build_features()).item() for _ in range(3)]
    assert torch.equal(torch.get_rng_state(), before)
    plain = build(EchoModel(5), mixing=())
    assert values == pytest.approx([run(plain).item()] * 3)
    assert len(set(values)) == 1
    assert trained.item() > max(values)


def test_explicit_draws_are_used_as_they_are() -> None:
    columns = draw_columns(4)
    first = torch.zeros(4, 1, dtype=torch.int64)
    draws = MixDraws(first, first + 1, torch.ones(4, 1), torch.zeros(4, 0, 2, dtype=torch.bool))
    by_hand = run_on([*columns, columns[2]], mixing=())  # lam = 1: the first negative once more
    loss = build(EchoModel(1)).compute_loss_from_embeddings(columns, draws=draws)
    torch.testing.assert_close(loss, by_hand)


@pytest.mark.parametrize(("n_columns", "said"), [(2, "there are none"), (3, "there is 1")])
def test_too_few_negatives_are_not_mixed_and_said_once(n_columns: int, said: str) -> None:
    loss = build(EchoModel(n_columns))
    with pytest.warns(FidelityWarning, match=f"two hard negatives of each query, and {said}"):
        value = run(loss)
    assert value == run(build(EchoModel(n_columns), mixing=()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(loss)


def test_rows_without_negatives_train_without_a_warning_when_nothing_is_mixed() -> None:
    loss = build(EchoModel(2), mixing=())
    run(loss).backward()
    assert (loss.model.table.grad.abs().sum(dim=-1) > 0).all()


def test_teacher_may_leave_out_a_candidate() -> None:
    """-inf gives it no share; the row then distils over the others, and the student's share of it counts."""
    columns, labels = draw_columns(4), torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    labels[0, 2] = -math.inf
    assert run_on(columns, labels, options=KaLMLossOptions(distillation_weight=1.0)).isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "KaLMLoss: `temperature` must be positive and finite; got 0.0"),
        ({"temperature": "0.1"}, "`temperature` must be positive and finite; got '0.1'"),
        ({"temperature": math.nan}, "`temperature` must be positive and finite; got nan"),
        ({"gamma": -0.5}, "`gamma` must be zero or positive; got -0.5"),
        ({"gamma": math.inf}, "`gamma` must be zero or positive; got inf"),
        ({"beta": 0}, "`beta` must be positive and finite; got 0"),
        ({"mixing": "pair"}, r"`kinds` must be a tuple of names; got 'pair'. Write \('pair',\)."),
        ({"mixing": ("pairs",)}, "`kinds` must be one of 'pair', 'list'; got 'pairs'. Did you mean 'pair'?"),
        ({"mixing": ("pair", "pair")}, "`kinds` must be a tuple of different names"),
        ({"mini_batch_size": 0}, "`mini_batch_size` must be a positive integer or None; got 0"),
        ({"mini_batch_size": True}, "`mini_batch_size` must be a positive integer or None; got True"),
        ({"matryoshka": []}, "`matryoshka` must be one or more different dimensions"),
        ({"matryoshka": [8, 8]}, r"`matryoshka` must be one or more different dimensions; got \[8, 8\]"),
        ({"matryoshka": [0]}, "`matryoshka` must be a positive integer; got 0"),
        ({"matryoshka": {8: -1.0}}, r"`matryoshka\[8\]` must be positive and finite; got -1.0"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        KaLMLoss(EchoModel(2), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("mini_batch_size", [None, 2])
def test_a_single_column_is_refused(mini_batch_size: int | None) -> None:
    loss = build(EchoModel(1), mini_batch_size=mini_batch_size)
    with pytest.raises(
        ArgumentError, match="`columns` must be two or more: query, positive, then negatives; got 1"
    ):
        run(loss)


def test_columns_of_different_shapes_are_refused() -> None:
    columns = draw_columns(3)
    columns[2] = columns[2][:, :5]
    with pytest.raises(ShapeError, match=r"`embeddings\[2\]` .* expected \(B, D\) = \(4, 8\), got \(4, 5\)"):
        run_on(columns)


def test_one_vector_for_each_token_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"expected \(B, D\) = \(4, 8\), got \(4, 5, 8\)"):
        run_on([torch.ones(4, 5, 8)] * 3)


def test_labels_without_distillation_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"`labels` must be left out .* Set KaLMLossOptions"):
        run_on(draw_columns(3), torch.zeros(4, 2))


@pytest.mark.parametrize(
    ("n_columns", "labels", "message"),
    [
        (3, None, "`labels` must be the teacher's scores, as distillation is on; got None"),
        (3, torch.zeros(4, 3), r"`labels` has the wrong shape: expected \(B, N\) = \(4, 2\), got \(4, 3\)"),
        (3, torch.zeros(4), r"`labels` has the wrong shape: expected \(B, N\) = \(4, 2\), got \(4,\)"),
        (3, torch.full((4, 2), math.nan), "`labels` must be scores without NaN or inf"),
        (3, torch.full((4, 2), math.inf), "`labels` must be scores without NaN or inf"),
        (3, torch.full((4, 2), -math.inf), "-inf only for some candidates of a row"),
        (2, torch.zeros(4, 1), "`columns` must be of queries with one hard negative or more"),
    ],
)
def test_labels_that_cannot_be_distilled_are_refused(
    n_columns: int, labels: Tensor | None, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        run_on(draw_columns(n_columns), labels, mixing=(), options=KaLMLossOptions(distillation_weight=1.0))


def test_dimensions_beyond_the_embedding_are_refused(folder: str) -> None:
    with pytest.raises(ArgumentError, match="`matryoshka` must be dimensions of at most 8"):
        run_on(draw_columns(3), mixing=(), matryoshka=[9, 4])
    message = rf"dimensions of at most {HIDDEN_SIZE}, the width of the embeddings; got \(64, 8\)"
    with pytest.raises(ArgumentError, match=message):
        KaLMLoss(SentenceTransformer(folder, device="cpu"), matryoshka=[64, 8])


def test_leaving_out_the_whole_vector_is_logged(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    model = SentenceTransformer(folder, device="cpu")
    KaLMLoss(model, matryoshka=[HIDDEN_SIZE, 8])
    assert not caplog.records
    KaLMLoss(model, matryoshka=[8])
    assert [record.getMessage() for record in caplog.records] == [
        "KaLMLoss: the whole vector of 32 dimensions is not in `matryoshka`."
    ]


def test_gradient_caching_of_static_embeddings_is_refused() -> None:
    static = StaticEmbedding(build_tiny_tokenizer(), embedding_dim=4)
    model = SentenceTransformer(modules=[static], device="cpu")
    KaLMLoss(model)
    with pytest.raises(ArgumentError, match="`mini_batch_size` must be None for a model of static"):
        KaLMLoss(model, mini_batch_size=2)


def test_configuration_for_the_model_card_is_plain() -> None:
    loss = build(EchoModel(2), matryoshka={8: 1.0, 4: 0.3}, options=KaLMLossOptions(seed=3))
    config = json.loads(json.dumps(loss.get_config_dict()))
    assert config["mixing"]["kinds"] == ["pair", "list"]
    assert config["matryoshka"] == {"8": 1.0, "4": 0.3}
    assert (config["temperature"], config["gamma"], config["seed"]) == (0.1, 0.5, 3)
    assert "2506.20923" in loss.citation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_embedder(tmp_path_factory.mktemp("embedder"))


def train(
    folder: str, output: Path, *, steps: int = 2, labels: bool = False, resume: int = 0, **options: Any
) -> tuple[SentenceTransformer, SentenceTransformerTrainer]:
    from datasets import Dataset

    model = SentenceTransformer(folder, device="cpu")
    rows: dict[str, Any] = dict(ROWS)
    if labels:
        rows["label"] = [[0.9, 0.3, 0.1]] * len(rows["query"])
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=4,
        max_steps=steps,
        save_strategy="steps" if steps > 2 else "no",
        save_steps=1,
        logging_steps=1,
        learning_rate=1e-3,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(rows),
        eval_dataset=Dataset.from_dict(rows),
        loss=KaLMLoss(model, **options),
    )
    trainer.train(resume_from_checkpoint=str(output / f"checkpoint-{resume}") if resume else None)
    return model, trainer


@pytest.mark.parametrize(
    "options",
    [
        {"matryoshka": {HIDDEN_SIZE: 1.0, 8: 0.3}},
        {"labels": True, "mini_batch_size": 3, "options": KaLMLossOptions(distillation_weight=1.0)},
    ],
    ids=["plain", "cached-distillation"],
)
def test_trainer_trains_with_the_loss(options: dict[str, Any], folder: str, tmp_path: Path) -> None:
    model, trainer = train(folder, tmp_path, **options)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    before = SentenceTransformer(folder, device="cpu").state_dict()
    assert any(not torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    evaluated = [trainer.evaluate()["eval_loss"] for _ in range(2)]
    assert evaluated[0] == evaluated[1]


@pytest.fixture(scope="module")
def whole(folder: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A run of three steps that nobody stopped: its checkpoints, after each step, and its weights."""
    output = tmp_path_factory.mktemp("whole")
    return output, train(folder, output, steps=3, mini_batch_size=3)[0].state_dict()


@pytest.mark.parametrize("step", [1, 2], ids=["within-an-epoch", "between-epochs"])
def test_a_run_that_was_killed_draws_what_it_would_have_drawn(
    whole: tuple[Path, dict[str, Tensor]], step: int, folder: str
) -> None:
    """Two steps make an epoch; the weights at the end tell, dropout included."""
    again, trainer = train(folder, whole[0], steps=3, resume=step, mini_batch_size=3)
    assert trainer.state.global_step == 3
    torch.testing.assert_close(again.state_dict(), whole[1], atol=0, rtol=0)


def test_another_draw_ends_in_other_weights(
    whole: tuple[Path, dict[str, Tensor]], folder: str, tmp_path: Path
) -> None:
    """So that the test before this one could fail."""
    options = KaLMLossOptions(seed=1)
    state = train(folder, tmp_path, steps=3, mini_batch_size=3, options=options)[0].state_dict()
    assert any(not torch.equal(state[name], weight) for name, weight in whole[1].items())


TWO_DEVICES = """
import sys
import numpy as np
import torch
from torch import distributed, nn
from fletching.methods.kalm.functional import MixDraws, draw_mixes
from fletching.methods.kalm.losses import KaLMLoss
from fletching.methods.kalm.config import KaLMLossOptions, MixingOptions

torch.set_num_threads(1)
rank, store = int(sys.argv[1]), sys.argv[2]


class Model(nn.Module):
    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(table.clone())

    def forward(self, features):
        return {"sentence_embedding": self.table.flatten(0, 1)[features["rows"]]}


def run(table, draws, mini_batch_size, kinds, visibility, gather):
    model = Model(table)
    loss = KaLMLoss(
        model,
        temperature=0.1,
        mixing=MixingOptions(kinds, visibility=visibility),
        matryoshka={8: 1.0, 4: 0.3},
        mini_batch_size=mini_batch_size,
        options=KaLMLossOptions(
            directions=("query_to_doc", "query_to_query", "doc_to_doc"), gather_across_devices=gather
        ),
    )
    rows = torch.arange(table.shape[1])
    features = [{"rows": rows + column * table.shape[1]} for column in range(len(table))]
    if draws is None:
        value = loss(features)
    else:
        value = loss.compute_loss_from_embeddings(list(model.table), draws=draws)
    value.backward()
    return value.detach(), model.table.grad


table = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
draws = draw_mixes(np.random.default_rng(0), n_rows=6, n_negatives=2, n_pairs=2)
mine = slice(3 * rank, 3 * rank + 3)
cases = [
    (chunk, kinds, visibility)
    for visibility in ("all", "own")
    for chunk, kinds in ((None, ("pair", "list")), (None, ("list",)), (2, ("list",)))
]
whole = [run(table, draws if "pair" in case[1] else None, *case, False) for case in cases]
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
for case, (value, gradient) in zip(cases, whole):
    my_draws = MixDraws(*(part[mine] for part in draws)) if "pair" in case[1] else None
    my_value, my_gradient = run(table[:, mine], my_draws, *case, True)
    distributed.all_reduce(my_value)
    torch.testing.assert_close(my_value / 2, value)
    torch.testing.assert_close(my_gradient / 2, gradient[:, mine])
distributed.destroy_process_group()
print("equal")
"""


@pytest.mark.slow
def test_two_devices_have_the_loss_and_gradients_of_one(tmp_path: Path) -> None:
    """The mean over two devices with three rows each is the loss of one device with the six rows."""
    script = tmp_path / "devices.py"
    script.write_text(TWO_DEVICES)
    command = [sys.executable, str(script)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [output.splitlines()[-1:] for output in outputs] == [["equal"], ["equal"]], outputs
