"""The loss, term by term: on a model that echoes what it is given, and on a tiny language model."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from sentence_transformers.base.trainer import BaseTrainer
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss
from torch import Tensor, nn

from fletching.errors import ArgumentError, FidelityWarning
from fletching.methods.ullme import LLMEmbedder
from fletching.methods.ullme.data import ULLMECollator
from fletching.methods.ullme.losses import GRLLoss
from fletching.methods.ullme.settings import GRLSettings
from fletching.testing import save_tiny_llama

CONTRAST = {"kl_weight": 0.0, "gen_weight": 0.0}
ALIGN = {"contrastive_weight": 0.0, "gen_weight": 0.0}
GENERATE = {"contrastive_weight": 0.0, "kl_weight": 0.0, "gen_weight": 1.0}
Features = list[dict[str, Any]]


class EchoModel(nn.Module):
    """Returns the embeddings and token scores that its features carry; a reference subtracts one each."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = 0.0

    def __getitem__(self, index: int) -> EchoModel:
        return self

    def score_tokens(self) -> None: ...

    @contextmanager
    def adapters_off(self) -> Iterator[None]:
        self.offset = 1.0
        yield
        self.offset = 0.0

    def forward(self, features: dict[str, Any]) -> dict[str, Tensor]:
        if "labels" in features:
            return {"token_scores": features["scores"] - self.offset}
        found = {"sentence_embedding": features["embedding"]}
        return found | ({"projected_embedding": features["projected"]} if "projected" in features else {})


def embed(*vectors: Any, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """A column of rows that are embedded as given."""
    embedding = torch.tensor(vectors, dtype=dtype, requires_grad=True)
    return {"input_ids": torch.zeros(len(vectors), 1).long(), "embedding": embedding}


def score(*rows: Any, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Rows of token scores for the generator; the first token of each is the prompt's."""
    scores = torch.tensor([[-50.0, *row] for row in rows], dtype=dtype)
    labels = torch.full(scores.shape, 3)
    labels[:, 0] = -100
    return {"input_ids": torch.zeros(scores.shape).long(), "labels": labels, "scores": scores}


def call(features: Features, labels: Tensor | None = None, **settings: Any) -> dict[str, Tensor]:
    return GRLLoss(EchoModel(), **settings)(features, labels)


class WideModel(EchoModel):
    """An echo whose vectors are two wide."""

    def get_embedding_dimension(self) -> int:
        return 2


# --- contrastive ---


def test_all_texts_are_anchors_and_negatives():
    """Two rows, everything equal: each of 4 anchors has 1 positive and 2 negatives, so log 3."""
    loss = call([embed([1, 0], [1, 0]), embed([1, 0], [1, 0])], **CONTRAST, miner_epsilon=None)
    assert loss["contrastive"].item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_equal_embeddings_give_finite_gradients(similarity):
    features = [embed([1, 0], [1, 0]) for _ in range(3)]
    call(features, **CONTRAST, similarity=similarity)["contrastive"].backward()
    assert all(column["embedding"].grad.isfinite().all() for column in features)


def test_rows_with_the_same_label_are_positives():
    """Row 0 and 1 share a label, and there is nothing else: no negative, so log-softmax over 3 positives."""
    features = [embed([1, 0], [1, 0], [0, 1]), embed([1, 0], [1, 0], [0, 1])]
    apart = call(features, **CONTRAST, miner_epsilon=None)["contrastive"].item()
    together = call(features, torch.tensor([4, 4, 9]), **CONTRAST, miner_epsilon=None)["contrastive"].item()
    # four anchors of label 4: three positives at 10, two negatives at 0; two of label 9: one at 10, four at 0
    of_four = math.log(3 + 2 * math.exp(-10))
    of_nine = math.log(1 + 4 * math.exp(-10))
    assert together == pytest.approx((4 * of_four + 2 * of_nine) / 6)
    assert apart == pytest.approx((4 * of_four + 2 * of_nine) / 6)  # all three of them, as negatives
    loss = call(features, torch.tensor([4, 4, 9]), **CONTRAST, miner_epsilon=None, contrastive_loss="ntxent")
    # twelve pairs among label 4, two of label 9
    assert loss["contrastive"].item() == pytest.approx(
        (12 * math.log(1 + 2 * math.exp(-10)) + 2 * of_nine) / 14
    )


def test_without_cross_row_negatives_rows_do_not_see_each_other():
    first = [embed([1, 0]), embed([0.8, 0.6]), embed([0, 1])]
    settings: dict[str, Any] = {**CONTRAST, "miner_epsilon": None, "cross_row_negatives": False}
    alone = call(first, **settings)["contrastive"].item()
    twice = [embed(*2 * column["embedding"].tolist()) for column in first]
    assert call(twice, **settings)["contrastive"].item() == pytest.approx(alone)
    assert call(twice, **{**settings, "cross_row_negatives": True})["contrastive"].item() > alone + 0.1


def test_several_positives_share_their_row():
    """Two positives, all equal, against a far negative: log 2 for SupCon, about 0 for NT-Xent."""
    features = [embed([1, 0]), embed([1, 0]), embed([1, 0]), embed([-1, 0])]
    found = [
        call(features, **CONTRAST, miner_epsilon=None, n_positives=2, contrastive_loss=name)["contrastive"]
        for name in ("supcon", "ntxent")
    ]
    assert [value.item() for value in found] == pytest.approx([math.log(2), 0], abs=1e-6)


def test_a_batch_of_one_without_negatives_is_zero_with_a_warning():
    features = [embed([1, 0]), embed([0, 1])]
    with pytest.warns(FidelityWarning, match="no negative to tell its positives from"):
        loss = call(features, **CONTRAST)["contrastive"]
    loss.backward()
    assert loss.item() == 0
    assert not features[0]["embedding"].grad.any()


def test_a_batch_of_one_with_a_negative_learns():
    """Three anchors q, p, n; q and p have a positive at 0 and a negative at 0: log 2 each."""
    features = [embed([1, 0, 0]), embed([0, 1, 0]), embed([0, 0, 1])]
    loss = call(features, **CONTRAST, miner_epsilon=None)["contrastive"]
    assert loss.item() == pytest.approx(math.log(2))


def test_half_precision_neither_overflows_nor_comes_out():
    """60,000 squared is far beyond 65,504."""
    features = [embed([6e4, 1], [0, 6e4], dtype=torch.float16) for _ in range(2)]
    loss = call(features, **CONTRAST, miner_epsilon=None, temperature=1e-3)["contrastive"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert features[0]["embedding"].grad.isfinite().all()


def test_the_projected_embedding_is_what_the_loss_sees():
    features = [embed([1, 0], [0, 1]), embed([0, 1], [1, 0])]
    for column in features:
        column["projected"] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = call(features, **CONTRAST, miner_epsilon=None)["contrastive"]
    assert loss.item() == pytest.approx(math.log(1 + 2 * math.exp(-10)), abs=1e-6)


# --- KL ---


def align(*rows: Any, **settings: Any) -> tuple[GRLLoss, dict[str, Tensor]]:
    """Two queries with cosines 0.8 and 0.2 to their passages, whose token scores are given."""
    columns = [embed([1, 0], [1, 0]), embed([0.8, 0.6], [0.8, 0.6])]
    columns.append(embed([0.2, 0.96**0.5], [0.2, 0.96**0.5]))
    loss = GRLLoss(EchoModel(), **{**ALIGN, **settings})
    return loss, loss([*columns, score(*rows)])


def test_kl_compares_cosines_with_mean_likelihoods():
    """P_gen = softmax(-1, -2) and P_rep = softmax(8, 2): p log(p / q) for both."""
    _, parts = align([-0.5, -1.5], [-1, -3], [-0.5, -1.5], [-1, -3])
    gen = [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))]
    rep = [1 / (1 + math.exp(-6)), 1 / (1 + math.exp(6))]
    expected = sum(p * math.log(p / q) for p, q in zip(gen, rep, strict=True))
    assert parts["kl"].item() == pytest.approx(expected)


def test_rows_whose_kl_is_not_finite_are_skipped_counted_and_said(caplog):
    fine = [[-0.5, -1.5], [-1, -3]]
    _, expected = align(*fine, *fine)
    with pytest.warns(FidelityWarning, match="leaves out 1 of 2 rows"):
        loss, parts = align(*fine, [math.nan, -1], [-1, -3])
    assert parts["kl"].item() == pytest.approx(expected["kl"].item())
    assert loss.skipped_kl_rows == 1
    with caplog.at_level(logging.WARNING):
        loss([*[embed([1, 0], [0, 1])] * 3, score(*fine, [-1, -math.inf], [-1, -3])])
    assert loss.skipped_kl_rows == 2
    assert "1 rows skipped, 2 in all" in caplog.text


@pytest.mark.parametrize(("settings", "bad"), [({"nonfinite_kl": "raise"}, 1), ({"nonfinite_kl": "skip"}, 2)])
def test_a_kl_that_is_not_finite_raises_when_asked_or_when_none_is_left(settings, bad):
    rows = [[math.nan, -1], [-1, -3], *[[math.nan if bad == 2 else -1, -1], [-1, -3]]]
    with pytest.raises(ArgumentError, match=f"NaN or infinite in {bad} of 2 rows, the first is 0"):
        align(*rows, **settings)


def test_skipped_rows_leave_the_gradient_finite():
    columns = [embed([1, 0], [1, 0]), embed([0.8, 0.6], [0.8, 0.6]), embed([0, 1], [0, 1])]
    loss = GRLLoss(EchoModel(), **ALIGN)
    with pytest.warns(FidelityWarning):
        loss([*columns, score([-1], [-2], [math.nan], [-1])])["kl"].backward()
    gradient = columns[0]["embedding"].grad
    assert gradient.isfinite().all()
    assert gradient[0].any()
    assert not gradient[1].any()


# --- generation ---


def generate(*rows: Any, **settings: Any) -> float:
    """One query, a positive and a negative."""
    features = [embed([1, 0]), embed([1, 0]), embed([1, 0]), score(*rows)]
    return call(features, **{**GENERATE, **settings})["generation"].item()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # sums -4 and -6; the reference has one less a token, so both gain 2 and L = 0
        ({"gen_loss": "sigmoid"}, math.log(2)),
        ({"gen_loss": "dpo"}, math.log(2)),
        ({"gen_loss": "hinge"}, 1),
        ({"gen_loss": "ipo"}, 25),  # (0 - 1 / 0.2)^2
        ({"gen_loss": "kto_pair"}, 0.5),  # both at the mean of the other
        # without reference L = 2, for ipo means of -2 and -3 give 1
        ({"gen_loss": "sigmoid", "reference": "none"}, math.log(1 + math.exp(-0.2))),
        ({"gen_loss": "sigmoid", "reference": "none", "beta": 1.0}, math.log(1 + math.exp(-2))),
        ({"gen_loss": "hinge", "reference": "none"}, 0.8),
        ({"gen_loss": "ipo", "reference": "none"}, 16),
        ({"gen_loss": "sft"}, 2),
        ({"gen_loss": "ecpo"}, math.log(1 + math.exp(-0.2)) + 2),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_generation_terms_of_a_toy(settings, expected):
    """Passages of two tokens, -1 -3 and -2 -4."""
    assert generate([-1, -3], [-2, -4], **settings) == pytest.approx(expected)


def test_ecpo_asks_no_reference_whatever_the_setting():
    settings = GRLSettings(gen_loss="ecpo", reference="adapters_off")
    assert not settings.uses_reference
    assert replace(settings, gen_loss="sigmoid").uses_reference


def test_label_smoothing_reaches_the_loss():
    """L = 2, beta 1: 0.9 log(1 + e^-2) + 0.1 log(1 + e^2)."""
    found = generate([-1, -3], [-2, -4], reference="none", beta=1.0, label_smoothing=0.1)
    assert found == pytest.approx(0.9 * math.log(1 + math.exp(-2)) + 0.1 * math.log(1 + math.exp(2)))


def test_preference_reads_the_first_positive_and_the_first_negative():
    columns = [embed([1, 0]) for _ in range(5)]
    scores = score([-1, -3], [-9, -9], [-2, -4], [-9, -9])
    found = call([*columns, scores], **GENERATE, n_positives=2, reference="none")["generation"]
    assert found.item() == pytest.approx(math.log(1 + math.exp(-0.2)))


def test_each_part_is_weighted_and_only_those_with_a_weight_come_out():
    columns = [embed([1, 0], [0, 1]), embed([0.8, 0.6], [0.6, 0.8]), embed([0, 1], [1, 0])]
    rows = score([-1], [-2], [-3], [-1])
    plain, double = (
        call([*columns, rows], contrastive_weight=weight, kl_weight=2 * weight, gen_weight=3 * weight)
        for weight in (1.0, 2.0)
    )
    assert list(plain) == ["contrastive", "kl", "generation"]
    assert [double[name].item() / plain[name].item() for name in plain] == pytest.approx([2, 2, 2])


@pytest.mark.parametrize("size", [None, 1])
def test_the_sum_of_the_parts_has_the_gradient_of_the_whole(size):
    """One part carries the gradient: scaled by 3, as a trainer with accumulation scales, so is all of it."""
    gradients = []
    for factor in (1.0, 3.0):
        columns = [embed([1, 0], [0, 1]), embed([0.8, 0.6], [0.6, 0.8]), embed([0, 1], [1, 0])]
        loss = GRLLoss(EchoModel(), mini_batch_size=size)
        parts = loss([*columns, score([-1], [-2], [-3], [-1])])
        (factor * torch.stack(list(parts.values())).sum()).backward()
        gradients.append(columns[0]["embedding"].grad)
    assert gradients[0].abs().sum() > 0
    assert torch.allclose(3 * gradients[0], gradients[1])


def test_evaluation_computes_the_same_value_without_gradients():
    columns = [embed([1, 0], [0, 1]), embed([0.8, 0.6], [0.6, 0.8]), embed([0, 1], [1, 0])]
    loss = GRLLoss(EchoModel(), mini_batch_size=1)
    parts = loss([*columns, score([-1], [-2], [-3], [-1])])
    with torch.no_grad():
        again = loss([*columns, score([-1], [-2], [-3], [-1])])
    assert {name: value.item() for name, value in again.items()} == pytest.approx(
        {name: value.item() for name, value in parts.items()}
    )


# --- what is refused ---

COLUMNS = [embed([1, 0], [0, 1]) for _ in range(3)]


@pytest.mark.parametrize(
    ("features", "settings", "message"),
    [
        ([], CONTRAST, "an anchor and its candidates; got 'no column of texts'"),
        (COLUMNS[:1], CONTRAST, "must be at least 1 a query, all positives; got 0"),
        (COLUMNS[:2], {}, "at least 2 a query, for the KL term to compare; got 1. Add a column of negatives"),
        (COLUMNS[:2], GENERATE, "at least 2 a query, with a negative .* to reject; got 1. Add a column"),
        (COLUMNS, {}, r"rows for the generator; got '0'. Hand the trainer data_collator"),
        ([*COLUMNS, score([-1])], {}, "2 x 2 rows for the generator; got 1"),
    ],
)
def test_batches_that_lack_something_are_refused(features, settings, message):
    with pytest.raises(ArgumentError, match=message):
        call(features, **settings)


def test_a_passage_without_tokens_is_refused():
    rows = score([-1], [-2], [-3], [-1])
    rows["labels"][3] = -100
    with pytest.raises(ArgumentError, match="none in row 1, passage 1"):
        call([*COLUMNS, rows])


@pytest.mark.parametrize("labels", [torch.tensor([0.5, 1.0]), torch.tensor([1]), torch.tensor([-1, 0])])
def test_labels_that_are_none_are_refused(labels):
    with pytest.raises(ArgumentError, match="`labels` must be one integer >= 0 a row"):
        call(COLUMNS[:2], labels, **CONTRAST)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gen_loss": "dop"}, "Did you mean 'dpo'"),
        ({"contrastive_loss": "supkon"}, "Did you mean 'supcon'"),
        ({"similarity": "l2"}, "`similarity` must be one of 'cosine', 'euclidean'"),
        ({"temperature": 0}, "`temperature` must be positive"),
        ({"kl_weight": -1.0}, "`kl_weight` must be zero or positive"),
        ({"beta": math.nan}, "`beta` must be positive"),
        ({"label_smoothing": 0.5}, "`label_smoothing` must be from 0 to below 0.5"),
        ({"miner_epsilon": -0.1}, "`miner_epsilon` must be zero or positive, or None"),
        ({"n_positives": 0}, "`n_positives` must be a positive integer"),
        ({"mini_batch_size": 0}, "`mini_batch_size` must be a positive integer or None"),
        ({"klweight": 1.0}, "Did you mean 'kl_weight'"),
        (
            {"contrastive_weight": 0.0, "kl_weight": 0.0, "gen_loss": None},
            "positive where no other term is on",
        ),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ArgumentError, match=message):
        GRLLoss(EchoModel(), **settings)


def test_a_model_without_a_generator_is_refused():
    with pytest.raises(ArgumentError, match="`model` must be an LLMEmbedder, to score passages"):
        GRLLoss(nn.Sequential(nn.Identity()))
    GRLLoss(nn.Sequential(nn.Identity()), **CONTRAST)


def test_the_card_gets_every_setting():
    loss = GRLLoss(EchoModel(), mini_batch_size=4, temperature=0.07)
    config = loss.get_config_dict()
    assert config.keys() == {field.name for field in fields(GRLSettings)} | {"mini_batch_size"}
    assert (config["temperature"], config["mini_batch_size"]) == (0.07, 4)
    assert "2408.03402" in loss.citation


def test_defaults_are_those_of_the_released_checkpoints():
    settings = GRLSettings()
    assert (settings.contrastive_loss, settings.similarity, settings.temperature) == ("supcon", "cosine", 0.1)
    assert (settings.contrastive_weight, settings.kl_weight, settings.gen_weight) == (1.0, 1.0, 0.5)
    assert (settings.miner_epsilon, settings.kl_temperature, settings.beta) == (0.2, 0.1, 0.1)
    assert (settings.gen_loss, settings.reference, settings.kl_direction) == (
        "sigmoid",
        "adapters_off",
        "gen_rep",
    )


# --- a language model ---


@pytest.fixture(scope="module")
def make_llm(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LLMEmbedder]:
    folder = save_tiny_llama(tmp_path_factory.mktemp("llama"))

    def make(*names: str) -> LLMEmbedder:
        model = LLMEmbedder(folder, device="cpu")
        for name in names:
            model.add_lora(r=4, dropout=0.0, name=name)
        return model.train()

    return make


def lay_out(model: LLMEmbedder) -> Features:
    texts = [("what is a bow", "a bow of wood", "wind"), ("feather", "goose feathers on the shaft", "true")]
    rows = [dict(zip(("anchor", "positive", "negative_1"), each, strict=True)) for each in texts]
    collator = ULLMECollator(model)
    features, _ = BaseTrainer.collect_features(None, collator(rows))  # type: ignore[arg-type]
    return features


def test_a_fresh_adapter_prefers_what_the_reference_prefers(make_llm):
    """A new LoRA adapter changes nothing: L = 0, -log s(0)."""
    model = make_llm("default")
    loss = GRLLoss(model, **GENERATE)(lay_out(model))["generation"]
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


def test_sft_is_the_cross_entropy_of_transformers_own_loss(make_llm):
    model = make_llm()
    features = lay_out(model)
    found = GRLLoss(model, **GENERATE, gen_loss="sft")(features)["generation"]
    positives = {name: features[-1][name][::2] for name in ("input_ids", "attention_mask", "labels")}
    assert found.item() == pytest.approx(model.network.model(**positives).loss.item(), abs=1e-5)


def test_a_reference_needs_an_adapter(make_llm):
    model = make_llm()
    with pytest.raises(ArgumentError, match="adapter"):
        GRLLoss(model)
    GRLLoss(model, reference="none")


def test_two_adapters_need_to_be_there(make_llm):
    with pytest.raises(ArgumentError, match="generation"):
        GRLLoss(make_llm("embedding"), two_adapters=True)


@pytest.mark.parametrize("size", [None, 1])
def test_each_of_two_adapters_learns_from_its_own_terms(make_llm, size):
    """P_gen is detached: contrastive and KL terms do not reach the adapter that generates."""
    model = make_llm("generation", "embedding")
    both = {"two_adapters": True, "mini_batch_size": size}
    for settings, adapter in (({"gen_weight": 0.0}, "embedding"), (GENERATE, "generation")):
        model.zero_grad()
        parts = GRLLoss(model, **settings, **both)(lay_out(model))
        torch.stack(list(parts.values())).sum().backward()
        reached = {
            name.split(".")[-2]
            for name, value in model.named_parameters()
            if value.grad is not None and value.grad.any()
        }
        assert reached == {adapter}


def test_gradient_checkpointing_changes_no_gradient(make_llm):
    model = make_llm("generation", "embedding").double()
    found = []
    for enabled in (False, True):
        if enabled:
            options = {"activation_checkpointing_kwargs": {"use_reentrant": False}}
            model.network.model.activation_checkpointing_enable(**options)
        model.zero_grad()
        parts = GRLLoss(model, two_adapters=True, mini_batch_size=1)(lay_out(model))
        torch.stack(list(parts.values())).sum().backward()
        found.append([value.grad for value in model.parameters() if value.grad is not None])
    assert len(found[0]) == len(found[1])
    assert all(torch.allclose(*pair, rtol=0, atol=1e-12) for pair in zip(*found, strict=True))


def test_two_adapters_with_checkpointing_need_mini_batches(make_llm):
    model = make_llm("generation", "embedding")
    model.network.model.activation_checkpointing_enable()
    with pytest.raises(ArgumentError, match="given for two adapters with gradient checkpointing"):
        GRLLoss(model, two_adapters=True)(lay_out(model))


@pytest.mark.parametrize("size", [None, 1])
def test_autocast_reaches_both_runs_of_a_mini_batch(make_llm, size):
    """The backward pass begins outside of the block; its second runs must be in bfloat16 all the same."""
    model = make_llm("default")
    seen = []
    projection = model.network.model.model.layers[0].mlp.down_proj
    projection.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = GRLLoss(model, mini_batch_size=size)(lay_out(model))
    torch.stack(list(parts.values())).sum().backward()
    assert set(seen) == {torch.bfloat16}
    assert all(value.dtype == torch.float32 for value in parts.values())


# --- devices ---

SCRIPT = """
import sys, torch
from fletching.methods.ullme.losses import GRLLoss
from torch import nn
torch.set_num_threads(1)
rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4, dtype=torch.float64)
    def forward(self, features):
        if "labels" in features:
            return {"token_scores": -self.layer(features["x"])[:, :3].square()}
        return {"sentence_embedding": self.layer(features["x"])}
    def __getitem__(self, index):
        return self
    def score_tokens(self):
        pass
torch.manual_seed(0)
model, data = Model(), torch.randn(3, 4, 3, dtype=torch.float64)
def run(rows, model, size):
    model.zero_grad()
    columns = [{"input_ids": torch.zeros(len(rows), 1), "x": column[rows]} for column in data]
    scores = torch.stack([column[rows] for column in data[1:]], dim=1).flatten(0, 1)
    ids = torch.zeros(len(scores), 3).long()
    generation = {"input_ids": ids, "labels": ids, "x": scores}
    loss = GRLLoss(model, miner_epsilon=None, reference="none", mini_batch_size=size)
    parts = loss([*columns, generation])
    torch.stack(list(parts.values())).sum().backward()
    return [parts[name].detach() for name in ("contrastive", "kl", "generation")]
wrapped = nn.parallel.DistributedDataParallel(model)
own = [[0, 1], [2, 3]][rank]
found = []
for size in (None, 1, 2):
    parts = run(own, wrapped, size)
    for part in parts[1:]:  # means over the rows of a device
        torch.distributed.all_reduce(part)
        part /= 2
    found.append((torch.stack(parts), model.layer.weight.grad.clone()))
torch.distributed.destroy_process_group()
whole = torch.stack(run([0, 1, 2, 3], model, None))
for parts, gradient in found:
    assert torch.allclose(parts, whole, rtol=0, atol=1e-12), (parts, whole)
    assert torch.allclose(gradient, model.layer.weight.grad, rtol=0, atol=1e-12)
"""


@pytest.mark.slow
def test_two_devices_have_the_loss_and_the_gradient_of_one(tmp_path):
    """With caching and without: rows have labels of their own, the mean gradient is that of all rows."""
    arguments = [[sys.executable, "-c", SCRIPT, str(rank), str(tmp_path / "store")] for rank in (0, 1)]
    children = [subprocess.Popen(each, stderr=subprocess.PIPE, text=True) for each in arguments]
    errors = [child.communicate(timeout=240)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], errors


# --- under MatryoshkaLoss ---


def test_matryoshka_around_the_contrastive_term_is_the_sum_over_sizes():
    """At both sizes an anchor sees its positive and two negatives alike: log 3, and half of it again."""
    model: Any = WideModel()
    inner = GRLLoss(model, mini_batch_size=1, **CONTRAST, miner_epsilon=None)
    loss = MatryoshkaLoss(model, inner, [2, 1], [1.0, 0.5])
    (value,) = loss([embed([1, 0], [1, 0]), embed([1, 0], [1, 0])], None).values()
    assert value.item() == pytest.approx(1.5 * math.log(3))


@pytest.mark.parametrize(
    ("mini_batch_size", "weights", "message"),
    [
        (1, {"gen_weight": 0.0}, "`kl_weight, gen_weight` must be 0 under MatryoshkaLoss"),
        (1, {"kl_weight": 0.0}, "`kl_weight, gen_weight` must be 0 under MatryoshkaLoss"),
        (None, CONTRAST, "`mini_batch_size` must be given under MatryoshkaLoss"),
        (None, {}, "`mini_batch_size` must be given under MatryoshkaLoss"),
    ],
)
def test_matryoshka_around_what_it_cannot_cut_is_refused(
    mini_batch_size: int | None, weights: dict[str, float], message: str
):
    model: Any = WideModel()
    settings = {"two_adapters": False, **weights}
    inner = GRLLoss(model, mini_batch_size=mini_batch_size, **settings)
    loss = MatryoshkaLoss(model, inner, [2, 1])
    columns = [embed([1, 0], [0, 1]), embed([1, 0], [0, 1]), embed([0, 1], [1, 0])]
    rows = score([-1, -2], [-1, -1], [-2, -2], [-1, -3])
    with pytest.raises(ArgumentError, match=message):
        loss([*columns, rows], None)
