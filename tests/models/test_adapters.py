"""Adapters open with all their weights, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

import fletching
from fletching.errors import CheckpointError
from fletching.models.adapters import load_adapter, read_magnitudes
from fletching.models.embedder import Embedder
from fletching.testing import save_tiny_bert

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # peft
IDS = torch.tensor([[5, 6, 7]])


@pytest.fixture
def save_adapter(tmp_path: Path) -> Any:
    """Save an adapter for a tiny BERT, as PEFT does; give the folder and the states it makes."""
    peft = pytest.importorskip("peft")

    def save(**options: Any) -> tuple[Path, torch.Tensor]:
        base, folder = save_tiny_bert(tmp_path / "base"), tmp_path / "adapter"
        targets = ["query", "value"]
        config = peft.LoraConfig(
            r=2, init_lora_weights=False, target_modules=targets, task_type="FEATURE_EXTRACTION", **options
        )
        adapted = peft.get_peft_model(AutoModel.from_pretrained(base), config).eval()
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "magnitude" in name:  # as training does; at first it is the norm of the base's weight
                    parameter.mul_(1.7)
            states = adapted(IDS).last_hidden_state
        adapted.save_pretrained(folder)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
        return folder, states

    return save


def edit_weights(folder: Path, change: Any) -> None:
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    change(weights, min(weights))
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("open_model", [Embedder, fletching.load], ids=["class", "load"])
def test_the_magnitudes_of_dora_are_read(save_adapter: Any, open_model: Any) -> None:
    folder, states = save_adapter(use_dora=True)
    network = open_model(folder, device="cpu")[0].model
    with torch.no_grad():
        torch.testing.assert_close(network(IDS).last_hidden_state, states)


def test_an_embedder_with_dora_is_the_same_after_save_and_load(save_adapter: Any, tmp_path: Path) -> None:
    folder, _ = save_adapter(use_dora=True)
    model = fletching.load(folder, device="cpu")
    model.save(str(tmp_path / "saved"))
    again = fletching.load(tmp_path / "saved", device="cpu")
    assert again.encode("wood").tolist() == model.encode("wood").tolist()


def test_load_adapter_reads_the_magnitudes_of_dora(save_adapter: Any, tmp_path: Path) -> None:
    folder, states = save_adapter(use_dora=True)
    network = AutoModel.from_pretrained(tmp_path / "base").eval()
    load_adapter(network, str(folder))
    with torch.no_grad():
        torch.testing.assert_close(network(IDS).last_hidden_state, states)


CHANGES = {
    "lacks weights": lambda weights, name: weights.pop(name),
    "has weights that": lambda weights, name: weights.update(
        {name.replace("layer.0", "layer.7"): torch.zeros(2, 32)}
    ),
}


@pytest.mark.parametrize("problem", CHANGES)
def test_an_adapter_that_does_not_fit_is_refused(save_adapter: Any, tmp_path: Path, problem: str) -> None:
    """transformers goes on with random matrices, or without those that have no place."""
    folder, _ = save_adapter()
    edit_weights(folder, CHANGES[problem])
    with pytest.raises(CheckpointError, match=f"it {problem}"):
        fletching.load(folder, device="cpu")
    with pytest.raises(CheckpointError, match=f"its adapter {problem}"):
        load_adapter(AutoModel.from_pretrained(tmp_path / "base"), str(folder))


def test_an_adapter_without_its_model_is_named(save_adapter: Any) -> None:
    folder, _ = save_adapter()
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "/no/such"}))
    with pytest.raises(CheckpointError, match="it is an adapter, and its model '/no/such' cannot be found"):
        fletching.load(folder, device="cpu")


def test_a_key_mapping_of_the_caller_stays() -> None:
    given = {"key_mapping": {"^old": "new"}, "dtype": "auto"}
    assert read_magnitudes(given)["key_mapping"]["^old"] == "new"
    assert given["key_mapping"] == {"^old": "new"}
