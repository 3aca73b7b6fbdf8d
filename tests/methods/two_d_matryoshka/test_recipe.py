"""The recipe trains on every kind of rows, resumes, and says what it did."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

import fletching
from fletching.errors import ArgumentError
from fletching.evaluation import evaluate_sts, read_evaluation_set
from fletching.methods.two_d_matryoshka import ElasticEmbedder, TwoDMatryoshkaRecipe
from fletching.methods.two_d_matryoshka.presets import PRESETS
from fletching.methods.two_d_matryoshka.synthetic import build_synthetic_pairs, save_smoke_bert, write_pairs
from fletching.training.recipe import RESULTS_FILE


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> TwoDMatryoshkaRecipe:
    """Ten steps of eight rows on a BERT with dropout."""
    folder = tmp_path_factory.mktemp("data")
    write_pairs(folder / "train.tsv", build_synthetic_pairs(40, seed=1))
    write_pairs(folder / "dev.tsv", build_synthetic_pairs(24, seed=2))
    return TwoDMatryoshkaRecipe(
        base=save_smoke_bert(folder / "base"),
        train_data=(str(folder / "train.tsv"),),
        dev_data=(str(folder / "dev.tsv"),),
        base_loss="cosent",
        batch_size=8,
        accumulation_steps=1,
        epochs=2,
        learning_rate=1e-3,
        warmup_steps=2,
        max_seq_length=16,
        eval_layers=(2, 4),
        eval_dims=(8, 32),
        save_steps=4,
    )


@pytest.fixture(scope="module")
def trained(
    recipe: TwoDMatryoshkaRecipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("trained")
    return folder, recipe.run(folder)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = fletching.load(folder, device="cpu").state_dict()
    return weights


def test_a_trained_model_is_stock_and_says_what_was_trained(
    trained: tuple[Path, Any], recipe: TwoDMatryoshkaRecipe
) -> None:
    folder, _ = trained
    model = fletching.load(folder, device="cpu")
    assert type(model) is ElasticEmbedder
    assert (model.trained_layers, model.trained_dims) == ((1, 2, 3, 4), (8, 16, 32))
    assert model.max_seq_length == 16
    stock = SentenceTransformer(str(folder), device="cpu")
    assert isinstance(stock[1], Pooling)
    assert stock[1].pooling_mode == "cls"
    texts = ["a bow of oak", "wind"]
    np.testing.assert_allclose(stock.encode(texts), model.encode(texts), atol=1e-6)
    record = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    assert (record["rows"], record["kind"]) == (40, "scored")
    assert record["data"].keys() == {"train.tsv", "dev.tsv"}
    assert record["recipe"]["objective"] == recipe.objective


def test_results_are_those_of_the_cut_models(trained: tuple[Path, Any], recipe: TwoDMatryoshkaRecipe) -> None:
    folder, results = trained
    names = {f"dev_spearman_{n}_layers_{d}_dims" for n in (2, 4) for d in (8, 32)}
    assert results["before"].keys() == results["after"].keys() == names
    dev = read_evaluation_set(recipe.dev_data[0])
    model = fletching.load(folder, device="cpu")

    class Cut:
        """The model at one size, as LangChain has embedders."""

        def embed_documents(self, texts: list[str]) -> Any:
            return model.encode(texts, num_layers=2, truncate_dim=8)

        def embed_query(self, text: str) -> Any:
            return self.embed_documents([text])[0]

    (found,) = evaluate_sts({"cut": Cut()}, dev, n_resamples=1).results  # type: ignore[arg-type]
    expected = found.intervals["spearman"].mean
    assert results["after"]["dev_spearman_2_layers_8_dims"] == pytest.approx(expected, abs=1e-6)


def test_a_run_killed_and_resumed_ends_with_the_same_weights(
    recipe: TwoDMatryoshkaRecipe,
    trained: tuple[Path, Any],
    tmp_path: Path,
    kill_at_checkpoint: Any,
) -> None:
    """Ten steps, checkpoints at 4, 8 and 10: killed at 4, in the first epoch."""
    with kill_at_checkpoint(1):
        recipe.run(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")] == ["checkpoint-4"]
    torch.randn(7)  # what happens between the two runs does not matter
    assert recipe.run(tmp_path, resume=True) == trained[1]
    whole, killed = read_weights(trained[0]), read_weights(tmp_path)
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_nli_trains_on_triplets_with_angles(recipe: TwoDMatryoshkaRecipe, tmp_path: Path) -> None:
    rows = [
        f"{label}\tbow {n} oak\t{label} wind {n}" for n in "abcd" for label in ("entailment", "contradiction")
    ]
    path = tmp_path / "nli.tsv"
    path.write_text("\n".join(["label\tpremise\thypothesis", *rows]), encoding="utf-8")
    chosen = replace(
        recipe, train_data=(str(path),), base_loss="angle", cln_weight=1.0, dev_data=(), max_steps=1
    )
    assert chosen.run(tmp_path / "run") == {"before": {}, "after": {}}
    assert fletching.load(tmp_path / "run").trained_dims == (8, 16, 32)


def test_titles_train_ese_from_an_embedder(
    recipe: TwoDMatryoshkaRecipe, trained: tuple[Path, Any], tmp_path: Path
) -> None:
    """Started from the trained model, whose pooling stays, and with the layers of the reference code."""
    path = tmp_path / "papers.jsonl"
    papers = [{"title": f"bow {n}", "abstract": f"oak wind {n}"} for n in "abcdefgh"]
    path.write_text("\n".join(map(json.dumps, papers)), encoding="utf-8")
    chosen = replace(
        recipe,
        base=str(trained[0]),
        train_data=(str(path),),
        dev_data=(),
        objective="ese",
        off_by_one=True,
        dims=(8,),
        base_loss="mnrl",
        pooling="max",
        max_steps=1,
    )
    chosen.run(tmp_path / "run")
    model = fletching.load(tmp_path / "run", device="cpu")
    assert model[1].pooling_mode == "cls"
    assert (model.trained_layers, model.trained_dims) == ((1, 2, 4), (8, 32))


def test_a_fixed_teacher_is_opened_by_its_folder(
    recipe: TwoDMatryoshkaRecipe, trained: tuple[Path, Any], tmp_path: Path
) -> None:
    chosen = replace(recipe, fixed_teacher=str(trained[0]), max_steps=1, dev_data=())
    chosen.run(tmp_path / "run")
    assert (tmp_path / "run" / "modules.json").is_file()


def test_presets_are_recipes() -> None:
    for name in PRESETS:
        recipe = TwoDMatryoshkaRecipe.from_preset(name, seed=7)
        assert recipe.seed == 7
    ese = TwoDMatryoshkaRecipe.from_preset("ese")
    assert (ese.objective, ese.dims, ese.ibn_weight, ese.learning_rate) == ("ese", (128,), 10.0, 1e-6)
    assert TwoDMatryoshkaRecipe.from_preset("2dmse") == TwoDMatryoshkaRecipe()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"objective": "2d"}, "`objective` must be one of"),
        ({"base_loss": "mnr"}, "`base_loss` must be one of 'angle', 'cosent', 'mnrl'; got 'mnr'"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"learning_rate": 0}, "`learning_rate` must be positive"),
        ({"dims": (0,)}, "`dims` must be a positive integer"),
        ({"weighting": "linear"}, "`weighting` must be one of"),
        ({"warmup_steps": -1}, "`warmup_steps` must be zero or positive"),
    ],
)
def test_a_field_outside_its_domain_is_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        TwoDMatryoshkaRecipe(**changes)


def test_what_a_run_lacks_is_named(recipe: TwoDMatryoshkaRecipe, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="`train_data` must be at least one file of rows"):
        replace(recipe, train_data=()).run(tmp_path)
    with pytest.raises(ArgumentError, match="`base_loss` must be 'angle' or 'cosent' for scored; got 'mnrl'"):
        replace(recipe, base_loss="mnrl").run(tmp_path)
    with pytest.raises(ArgumentError, match="`name` must be one of"):
        TwoDMatryoshkaRecipe.from_preset("uae")


@pytest.mark.slow
def test_the_smoke_run_learns(tmp_path: Path) -> None:
    results = TwoDMatryoshkaRecipe.smoke().run(tmp_path)
    assert all(results["after"][name] > value + 0.1 for name, value in results["before"].items())
