"""One model for all who ask, and a name for what it computes."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

import fletching
from fletching import fingerprint, load_shared
from fletching.errors import ArgumentError, CheckpointError
from fletching.models import sharing
from fletching.models.embedder import Embedder
from fletching.testing import save_tiny_bert, save_tiny_cross_encoder, save_tiny_embedder


@pytest.fixture(autouse=True)
def _nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_slots", {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_embedder(tmp_path_factory.mktemp("embedder"))


@pytest.fixture
def model(folder: str) -> Any:
    return fletching.load(folder)


def test_shared_model_is_loaded_once(folder: str) -> None:
    assert load_shared(folder) is load_shared(Path(folder))


def test_other_arguments_give_another_model(folder: str) -> None:
    assert load_shared(folder) is not load_shared(folder, dtype="bfloat16")


def test_threads_wait_for_the_first(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []
    load = sharing.load
    monkeypatch.setattr(sharing, "load", lambda *a, **k: loaded.append(load(*a, **k)) or loaded[-1])
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(load_shared(folder))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(loaded) == 1
    assert all(model is loaded[0] for model in found)


def test_folder_that_changed_is_opened_again(tmp_path: Path) -> None:
    first = load_shared(save_tiny_embedder(tmp_path))
    second = load_shared(save_tiny_embedder(tmp_path, seed=1))

    assert fingerprint(first) != fingerprint(second)


def test_failure_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        load_shared(tmp_path)

    assert load_shared(save_tiny_embedder(tmp_path)) is not None


@pytest.mark.parametrize("value", ["", None, 3])
def test_path_must_be_one(value: Any) -> None:
    with pytest.raises(
        ArgumentError, match="load: `path_or_id` must be a checkpoint name, a folder or a hub id"
    ):
        load_shared(value)


def test_fingerprint_survives_loading_again_copying_and_use(folder: str, model: Any) -> None:
    expected = fingerprint(model)
    model.encode(["an arrow", "a longer text about arrows"])

    assert (
        fingerprint(model)
        == fingerprint(fletching.load(folder))
        == fingerprint(copy.deepcopy(model))
        == expected
    )


def test_fingerprint_survives_saving(model: Any, tmp_path: Path) -> None:
    model.save(str(tmp_path))

    assert fingerprint(fletching.load(tmp_path)) == fingerprint(model)


def change_weight(model: Any) -> None:
    with torch.no_grad():
        next(model.parameters())[3, 5] += 1e-6


def swap_weights(model: Any) -> None:
    """The plain sum stays; two rows change places."""
    with torch.no_grad():
        weights = next(model.parameters())
        weights[:2] = weights[:2].flip(0)


def change_word(model: Any) -> None:
    model.tokenizer.add_tokens(["longbow"])


@pytest.mark.parametrize(
    "change",
    [
        change_weight,
        swap_weights,
        change_word,
        lambda model: model.to(torch.bfloat16),
        lambda model: setattr(model[0].model.config, "hidden_act", "relu"),
        lambda model: model.prompts.update(query="query: "),
        lambda model: setattr(model, "truncate_dim", 8),
        lambda model: setattr(model, "max_seq_length", 16),
        lambda model: setattr(model, "similarity_fn_name", "dot"),
        lambda model: setattr(model[1], "pooling_mode", "cls"),
        lambda model: setattr(model.tokenizer, "truncation_side", "left"),
    ],
    ids=[
        "weight",
        "swap",
        "word",
        "dtype",
        "config",
        "prompt",
        "dimension",
        "length",
        "similarity",
        "pooling",
        "side",
    ],
)
def test_fingerprint_changes_with_what_is_computed(model: Any, change: Any) -> None:
    before = fingerprint(model)
    change(model)

    assert fingerprint(model) != before


def test_fingerprint_sees_any_two_values_of_a_large_tensor_change_places() -> None:
    layer = torch.nn.Embedding(3000, 1000)
    before = fingerprint(layer)
    with torch.no_grad():
        layer.weight[[1, 2000]] = layer.weight[[2000, 1]]

    assert fingerprint(layer) != before


def test_fingerprint_of_a_sparse_model_survives_use(tmp_path: Path) -> None:
    """SpladePooling writes down its width at the first call."""
    model = SparseEncoder(save_tiny_bert(tmp_path, head="masked-lm"), device="cpu")
    before = fingerprint(model)
    model.encode(["an arrow"])

    assert fingerprint(model) == before


def test_fingerprint_sees_into_routes(tmp_path: Path) -> None:
    route = [Transformer(save_tiny_bert(tmp_path)), Pooling(32, "mean")]
    model = Embedder(modules=[Router.for_query_document(route, [*route])], device="cpu")
    before = fingerprint(model)
    route[1].pooling_mode = "cls"

    assert fingerprint(model) != before


@pytest.mark.parametrize("changes", [{"lora_alpha": 16}, {"use_rslora": True}], ids=str)
def test_fingerprint_sees_how_an_adapter_is_scaled(folder: str, changes: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")

    def adapt(**options: Any) -> Any:
        model = fletching.load(folder)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            settings = {"target_modules": ["query", "value"], "init_lora_weights": False, "r": 2, **options}
            model.add_adapter(peft.LoraConfig(**settings))
        return model

    assert fingerprint(adapt()) == fingerprint(adapt())
    assert fingerprint(adapt()) != fingerprint(adapt(**changes))


def test_fingerprint_of_an_adapter_survives_saving(model: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model.add_adapter(peft.LoraConfig(target_modules=["query", "value"], init_lora_weights=False, r=2))
    model.save(str(tmp_path))

    assert fingerprint(fletching.load(tmp_path)) == fingerprint(model)


def test_sets_are_spelt_alike_in_every_process() -> None:
    """Their own order depends on the seed of the process."""
    assert sharing._encode({"layers": {"value", "query", "key"}}) == b'{"layers": ["key", "query", "value"]}'


@pytest.mark.parametrize("activation", [torch.nn.Identity(), torch.tanh], ids=["module", "function"])
def test_fingerprint_sees_the_activation_of_scores(tmp_path: Path, activation: Any) -> None:
    model = fletching.load(save_tiny_cross_encoder(tmp_path))
    before = fingerprint(model)
    model.activation_fn = activation

    assert fingerprint(model) != before


def test_fingerprint_of_a_reranker(tmp_path: Path) -> None:
    first = fletching.load(save_tiny_cross_encoder(tmp_path / "a"))
    second = fletching.load(save_tiny_cross_encoder(tmp_path / "b", seed=1))

    assert fingerprint(first) != fingerprint(second)
    assert len(fingerprint(first)) == 32
