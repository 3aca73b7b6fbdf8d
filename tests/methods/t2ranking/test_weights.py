"""The authors' pickled weights, opened as models; hostile pickles are not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

import fletching
from fletching.errors import CheckpointError
from fletching.methods.t2ranking import load_weights
from fletching.models.embedder import Embedder
from fletching.models.reranker import Reranker

TEXT = "\u4e25\u4e4a\u4e6f"


def build_bert(base: str, seed: int, model_class: Any = BertModel, **options: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model_class(BertConfig.from_pretrained(base, **options)).eval()


def save(path: Path, prefix: str = "", **networks: Any) -> Path:
    state = {
        f"{prefix}{owner}.{name}": value
        for owner, network in networks.items()
        for name, value in network.state_dict().items()
    }
    torch.save(state, path)
    return path


def tokenize(base: str, *texts: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)(*texts, return_tensors="pt")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_dual_encoder_opens_with_both_towers(prefix: str, base: str, tmp_path: Path) -> None:
    networks = {"lm_q": build_bert(base, 1), "lm_p": build_bert(base, 2)}
    path = save(tmp_path / "dual-encoder-trained-with-bm25-negatives.p", prefix, **networks)
    model = load_weights(path, base=base, device="cpu")
    assert type(model) is Embedder
    features = tokenize(base, TEXT)
    for encode, network in (
        (model.encode_query, networks["lm_q"]),
        (model.encode_document, networks["lm_p"]),
    ):
        with torch.no_grad():
            expected = network(**features).last_hidden_state[0, 0]
        assert torch.allclose(encode(TEXT, convert_to_tensor=True), expected, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_cross_encoder_opens_with_its_head(prefix: str, base: str, tmp_path: Path) -> None:
    network = build_bert(base, 3, BertForSequenceClassification, num_labels=1)
    model = load_weights(save(tmp_path / "cross-encoder.p", prefix, lm=network), base=base, device="cpu")
    assert type(model) is Reranker
    with torch.no_grad():
        expected = network(**tokenize(base, TEXT, "\u4e00")).logits.item()
    assert model.predict([(TEXT, "\u4e00")])[0] == pytest.approx(expected, abs=1e-5)


def test_what_was_opened_can_be_saved(base: str, tmp_path: Path) -> None:
    path = save(tmp_path / "weights.p", lm_q=build_bert(base, 1), lm_p=build_bert(base, 2))
    model = load_weights(path, base=base, device="cpu")
    model.save_pretrained(str(tmp_path / "model"))
    again = fletching.load(tmp_path / "model", device="cpu")
    assert (again.encode_query(TEXT) == model.encode_query(TEXT)).all()


def test_a_network_without_a_pooler_opens(base: str, tmp_path: Path) -> None:
    config = BertConfig.from_pretrained(base)
    networks = {name: BertModel(config, add_pooling_layer=False) for name in ("lm_q", "lm_p")}
    assert isinstance(load_weights(save(tmp_path / "w.p", **networks), base=base, device="cpu"), Embedder)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_hostile_pickle_is_refused_and_not_run(base: str, tmp_path: Path) -> None:
    torch.save({"lm.bert": Trap(tmp_path / "sprung")}, tmp_path / "cross-encoder.p")
    with pytest.raises(CheckpointError, match="its pickle holds more than tensors, or is broken") as caught:
        load_weights(tmp_path / "cross-encoder.p", base=base)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"encoder.weight": torch.ones(1)}, r"must be named lm_q\.\* and lm_p\.\*, or lm\.\*; got encoder"),
        ({"lm_q.x": torch.ones(1)}, "or lm.*; got lm_q"),
        ({}, "got nothing"),
        ([torch.ones(1)], "it must hold names and tensors"),
        ({"lm.x": 3}, "it must hold names and tensors"),
        ({"lm.x": torch.tensor([float("nan")])}, "the weight 'lm.x' holds NaN or infinity"),
        ({"lm.x": torch.ones(1)}, "it lacks the weight 'bert.embeddings.word_embeddings.weight' and"),
        ({"lm.classifier.weight": torch.ones(2, 32)}, "its weights do not fit the base"),
    ],
)
def test_other_weights_are_refused(state: Any, message: str, base: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "weights.p")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(tmp_path / "weights.p", base=base)
    assert "\n" not in str(caught.value)


def test_a_surplus_weight_is_named(base: str, tmp_path: Path) -> None:
    network = build_bert(base, 3, BertForSequenceClassification, num_labels=1)
    network.extra = torch.nn.Linear(1, 1, bias=False)
    with pytest.raises(CheckpointError, match=r"the base has no place for the weight 'extra\.weight'"):
        load_weights(save(tmp_path / "w.p", lm=network), base=base)


def test_a_broken_file_is_refused(base: str, tmp_path: Path) -> None:
    (tmp_path / "weights.p").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(CheckpointError, match=r"weights\.p': it"):
        load_weights(tmp_path / "weights.p", base=base)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_weights(tmp_path / "none.p")


def test_a_base_without_a_configuration_is_refused(base: str, tmp_path: Path) -> None:
    path = save(tmp_path / "w.p", lm_q=build_bert(base, 1), lm_p=build_bert(base, 2))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="it brings no tokenizer and configuration"):
        load_weights(path, base=str(tmp_path / "empty"))
