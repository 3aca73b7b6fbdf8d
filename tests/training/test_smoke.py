"""The models that smoke runs start from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from fletching.training import save_character_bert, save_word_bert


def test_every_character_of_the_texts_is_a_token(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(save_character_bert(tmp_path, ["长安 往事", "a1"]))
    assert tokenizer.tokenize("往事a1") == ["往", "事", "a", "##1"]
    assert tokenizer.tokenize("春") == ["[UNK]"]


def test_every_word_of_the_texts_is_a_token(tmp_path: Path) -> None:
    folder = save_word_bert(tmp_path, ["a bow of oak", "silk, for a bow"], num_layers=3)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("Oak, silk yew") == ["oak", ",", "silk", "[UNK]"]
    assert len(AutoModel.from_pretrained(folder).encoder.layer) == 3


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForMaskedLM])
def test_no_weight_is_missing(auto: type, tmp_path: Path) -> None:
    """Neither the pooler nor the head for masked words would be made up anew."""
    _, report = auto.from_pretrained(save_character_bert(tmp_path, ["长安"]), output_loading_info=True)  # type: ignore[attr-defined]
    assert not report["missing_keys"]


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    one, same, other = (
        AutoModel.from_pretrained(save_character_bert(tmp_path / str(place), ["长安"], seed=seed))
        for place, seed in enumerate((1, 1, 2))
    )
    weights = [model.embeddings.word_embeddings.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
