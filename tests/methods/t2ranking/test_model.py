"""The networks of the baselines, and their losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch import Tensor, nn

import fletching
from fletching.errors import ArgumentError
from fletching.losses import GroupedCrossEntropyLoss
from fletching.methods.t2ranking import build_cross_encoder, build_dual_encoder
from fletching.methods.t2ranking.stages import build_dual_loss
from fletching.models.embedder import Embedder
from fletching.models.reranker import Reranker

QUERIES = ((1.0, 0.0), (0.0, 1.0))
POSITIVES = ((1.0, 0.0), (0.0, 2.0))
NEGATIVES = ((0.5, 0.5), (1.0, 1.0))


class EchoEmbedder(nn.Module):
    """Vectors come in as features."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": features["input_ids"]}


class EchoReranker(nn.Module):
    """Logits are in the texts."""

    num_labels = 1
    device = torch.device("cpu")

    def preprocess(self, pairs: list[tuple[str, str]], **kwargs: Any) -> dict[str, Tensor]:
        return {"values": torch.tensor([float(text) for _, text in pairs])}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"scores": features["values"]}


def compute_dual_loss(scale: float = 1.0) -> Any:
    loss = build_dual_loss(nn.Sequential(EchoEmbedder()), texts_per_step=1)  # type: ignore[arg-type]
    columns: list[Any] = [
        {"input_ids": scale * torch.tensor(rows, requires_grad=True)}
        for rows in (QUERIES, POSITIVES, NEGATIVES)
    ]
    return loss(columns, torch.zeros(2)).item()


def test_5_dual_loss_is_the_worked_value() -> None:
    """Logits 1, .5, 0, 1 of query 1: log(e + e^.5 + 1 + e) - 1 = 1.090046; 0, .5, 2, 1 of query 2:
    log(1 + e^.5 + e^2 + e) - 2 = .546006; the mean is .818026.
    """
    assert compute_dual_loss() == pytest.approx(0.818026, abs=1e-6)


def test_5_dual_loss_does_not_normalise() -> None:
    assert compute_dual_loss(2.0) != pytest.approx(compute_dual_loss(), abs=0.1)


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_6_group_loss_is_the_worked_value_whatever_is_added(shift: float) -> None:
    rows = ((2.0 + shift, 1.0 + shift, 0.0 + shift, -1.0 + shift), (0.5, 0.5, 0.0, 0.0))
    columns = [["q", "q"], *([str(value) for value in column] for column in zip(*rows, strict=True))]
    loss = GroupedCrossEntropyLoss(EchoReranker())(columns)  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(0.803707, abs=1e-6)


def test_towers_share_no_weight(base: str) -> None:
    model = build_dual_encoder(base, device="cpu")
    with torch.no_grad():
        for parameter in model[0].sub_modules["query"].parameters():
            parameter.zero_()
    assert model.encode_document("\u4e00").any()


def test_a_vector_is_that_of_the_first_token(base: str) -> None:
    """No pooler, no normalisation."""
    model = build_dual_encoder(base, device="cpu")
    text = "\u4e25\u4e4a"
    transformer = model[0].sub_modules["document"][0]
    with torch.no_grad():
        tokens = transformer(transformer.preprocess([text]))["token_embeddings"]
    vector = model.encode_document(text, convert_to_tensor=True)
    assert torch.allclose(vector, tokens[0, 0], atol=1e-5)
    assert model.similarity_fn_name == "dot"


def test_lengths_are_those_of_the_reference(base: str) -> None:
    router = build_dual_encoder(base, device="cpu")[0]
    lengths = [router.sub_modules[route][0].max_seq_length for route in ("query", "document")]
    assert lengths == [32, 300]
    assert build_cross_encoder(base, device="cpu").max_seq_length == 332


def test_a_cross_encoder_scores_with_raw_logits(base: str) -> None:
    model = build_cross_encoder(base, device="cpu")
    hits = model.rank("\u4e00", ["\u4e25", "\u4e4a\u4e6f"])
    logits = model.rank("\u4e00", ["\u4e25", "\u4e4a\u4e6f"], scores="logit")
    assert [hit["score"] for hit in hits] == [hit["score"] for hit in logits]


def test_the_seed_decides_the_new_head(base: str) -> None:
    heads = [
        build_cross_encoder(base, seed=seed, device="cpu")[0].model.classifier.weight for seed in (1, 1, 2)
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize(
    ("build", "ours", "stock"),
    [(build_dual_encoder, Embedder, SentenceTransformer), (build_cross_encoder, Reranker, CrossEncoder)],
)
def test_saved_models_open_everywhere(build: Any, ours: Any, stock: Any, base: str, tmp_path: Path) -> None:
    model = build(base, device="cpu")
    model.save_pretrained(str(tmp_path))
    again = fletching.load(tmp_path, device="cpu")
    assert type(again) is ours
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert isinstance(stock(str(tmp_path), device="cpu"), stock)


@pytest.mark.parametrize(
    "call",
    [
        lambda base: build_dual_encoder(base, query_tokens=2),
        lambda base: build_cross_encoder(base, pair_tokens=3),
    ],
)
def test_too_few_tokens_are_refused(call: Any, base: str) -> None:
    with pytest.raises(ArgumentError, match="must be at least 4"):
        call(base)
