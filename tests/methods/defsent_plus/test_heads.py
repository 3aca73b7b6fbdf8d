"""What the projection starts from, and the head for masked words."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertModel,
    AutoModelForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from fletching.errors import ArgumentError, CheckpointError, FidelityWarning
from fletching.methods.defsent_plus.heads import (
    MaskedWordHead,
    build_head,
    find_single_words,
    predict_words,
)
from fletching.testing import build_tiny_tokenizer, save_tiny_bert

SIZES: dict[str, Any] = {
    "vocab_size": len(build_tiny_tokenizer()),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 98,
    "pad_token_id": 0,
}


def save(folder: Path, network: PreTrainedModel) -> str:
    network.eval().save_pretrained(folder)
    build_tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def save_roberta(folder: Path, *, with_head: bool) -> str:
    torch.manual_seed(0)
    network = RobertaForMaskedLM(RobertaConfig(**SIZES))
    nn.init.normal_(network.lm_head.dense.bias)
    return save(folder, network if with_head else network.roberta)


def open_encoder(folder: str) -> SentenceTransformer:
    return SentenceTransformer(modules=[Transformer(folder), Pooling(32, "mean")], device="cpu")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def masked_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT saved with its head for masked words, and so without a pooler."""
    return save_tiny_bert(tmp_path_factory.mktemp("masked"), head="masked-lm", seed=1)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_roberta(tmp_path_factory.mktemp("roberta"), with_head=True)


@pytest.fixture(scope="module")
def bare_roberta(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As SynCSE's checkpoints: no head; transformers adds a random pooler."""
    folder = tmp_path_factory.mktemp("bare")
    network = RobertaForMaskedLM(RobertaConfig(**SIZES)).roberta  # built without a pooler
    return save(folder, network)


def test_bert_starts_from_its_own_pooler(bert: str) -> None:
    model = open_encoder(bert)
    head = build_head(model)
    pooler: Any = model[0].model.pooler.dense
    assert torch.equal(head.dense.weight, pooler.weight)
    assert torch.equal(head.dense.bias, pooler.bias)
    assert head.dense.weight is not pooler.weight
    assert (head.activation, head.source) == ("tanh", f"the pooler of {bert}")


def test_a_random_pooler_is_not_taken_for_a_trained_one(masked_bert: str, bert: str) -> None:
    """Transformers gives the network a pooler, but its files have none: the identity, or the backbone's."""
    model = open_encoder(masked_bert)
    assert model[0].model.pooler is not None
    with pytest.warns(FidelityWarning, match="starts from the identity"):
        head = build_head(model)
    assert torch.equal(head.dense.weight, torch.eye(32))
    assert torch.equal(head.dense.bias, torch.zeros(32))
    named = build_head(model, backbone=bert)
    assert torch.equal(named.dense.weight, build_head(open_encoder(bert)).dense.weight)


def test_roberta_starts_from_the_dense_layer_of_the_backbones_head(roberta: str, bare_roberta: str) -> None:
    expected = RobertaForMaskedLM.from_pretrained(roberta).lm_head.dense
    for location, backbone in ((bare_roberta, roberta), (roberta, None)):
        head = build_head(open_encoder(location), backbone=backbone)
        assert torch.equal(head.dense.weight, expected.weight)
        assert torch.equal(head.dense.bias, expected.bias)
        assert (head.activation, head.source) == ("gelu", f"lm_head.dense of {roberta}")
    with pytest.warns(FidelityWarning, match="starts from the identity"):
        build_head(open_encoder(bare_roberta))


def test_albert_has_its_pooler_in_another_place(tmp_path: Path) -> None:
    folder = save(tmp_path, AlbertModel(AlbertConfig(**SIZES, embedding_size=16)))
    model = open_encoder(folder)
    assert torch.equal(build_head(model).dense.weight, model[0].model.pooler.weight)


def test_identity_by_name_is_not_warned_about(bert: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head = build_head(open_encoder(bert), head="identity", activation="gelu")
    assert torch.equal(head.dense.weight, torch.eye(32))
    assert head.activation == "gelu"


def test_a_layer_of_ones_own_is_copied(bert: str) -> None:
    mine = nn.Linear(32, 32)
    head = build_head(open_encoder(bert), head=mine)
    assert torch.equal(head.dense.weight, mine.weight)
    assert head.dense is not mine
    for wrong in (nn.Linear(16, 32), nn.Linear(32, 32, bias=False)):
        with pytest.raises(ArgumentError, match="a layer with a bias that reads 32 numbers"):
            build_head(open_encoder(bert), head=wrong)


def test_a_pooler_trained_in_memory_is_taken_as_it_is_now(bert: str) -> None:
    model = open_encoder(bert)
    with torch.no_grad():
        model[0].model.pooler.dense.weight.mul_(2)
    stored = build_head(open_encoder(bert)).dense.weight
    assert torch.equal(build_head(model).dense.weight, 2 * stored)


def test_wrong_names_and_missing_weights_are_refused(bert: str, masked_bert: str, tmp_path: Path) -> None:
    model = open_encoder(masked_bert)
    with pytest.raises(ArgumentError, match="`head` must be one of 'auto', 'pooler'"):
        build_head(model, head="poolr")
    with pytest.raises(ArgumentError, match="`activation` must be one of 'auto', 'tanh', 'gelu'"):
        build_head(model, activation="relu")
    with pytest.raises(ArgumentError, match="of weights that are in the model's checkpoint"):
        build_head(model, head="pooler")
    with pytest.raises(CheckpointError, match="cannot be opened as the backbone"):
        build_head(model, backbone=str(tmp_path / "nowhere"))
    with pytest.raises(ArgumentError, match="whose first module is a Transformer"):
        build_head(nn.Sequential(nn.Linear(2, 2)))


MASKED = {
    "distilbert": lambda: DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=SIZES["vocab_size"], dim=32, hidden_dim=64, n_layers=1, n_heads=4)
    ),
    "modernbert": lambda: ModernBertForMaskedLM(
        ModernBertConfig(
            **{**SIZES, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
        )
    ),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**SIZES)),
}


@pytest.mark.parametrize("family", MASKED)
def test_word_head_is_what_the_masked_model_computes(family: str, tmp_path: Path) -> None:
    """Any architecture: the head on the last states equals the logits of the whole model."""
    torch.manual_seed(0)
    folder = save(tmp_path, MASKED[family]())
    whole = AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokens = build_tiny_tokenizer()(["the archer"], return_tensors="pt")
    inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        states = whole.base_model(**inputs)[0][0]
        logits = whole(**inputs).logits[0]
        torch.testing.assert_close(MaskedWordHead.from_pretrained(folder)(states), logits)


def test_a_checkpoint_without_word_head_is_refused(bert: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no head for masked words: 'cls\.predictions"):
        MaskedWordHead.from_pretrained(bert)
    with pytest.raises(CheckpointError, match="no head for masked words"):
        MaskedWordHead.from_pretrained(str(tmp_path / "nowhere"))


def test_single_words_are_one_known_token() -> None:
    tokenizer = build_tiny_tokenizer()
    entries = ["arrow", "arrow wood", "Bow", "arrowhead", "弓", "goose"]
    found = find_single_words(entries, tokenizer)
    assert found == {
        word: tokenizer.convert_tokens_to_ids(word.lower()) for word in ("arrow", "Bow", "goose")
    }


def test_predicted_words_are_the_best_of_the_head(masked_bert: str) -> None:
    model = open_encoder(masked_bert)
    head = MaskedWordHead.from_pretrained(masked_bert)
    texts = ["a bow of wood", "the feathers"]
    found = predict_words(model, head, texts, top_k=3)
    logits = head(model.encode(texts, convert_to_tensor=True))
    for row, scores in zip(found, logits, strict=True):
        assert [score for _, score in row] == pytest.approx(scores.sort(descending=True).values[:3].tolist())
        assert model.tokenizer.convert_tokens_to_ids(row[0][0]) == int(scores.argmax())
    with pytest.raises(ArgumentError, match="`top_k` must be a positive integer"):
        predict_words(model, head, texts, top_k=0)
