from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    MSEEvaluator,
    TripletEvaluator,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from fletching.errors import ArgumentError
from fletching.methods.two_d_matryoshka import ElasticEmbedder, ElasticEvaluator
from fletching.testing import save_tiny_embedder

FIRST = ["a bow of wood", "a goose in the wind", "feather", "an archer on target", "string"]
SECOND = ["the wooden bow", "the arrow", "a feather of the goose", "the archer", "wind and wood"]
SCORES = [5.0, 0.0, 3.5, 4.0, 1.0]
SIZES = [(2, 32), (2, 8), (1, 32), (1, 8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_embedder(
        tmp_path_factory.mktemp("embedder"), prompts={"query": "query: ", "document": "passage: "}
    )


@pytest.fixture
def model(folder: str) -> ElasticEmbedder:
    return ElasticEmbedder(folder, device="cpu")


def pairs(**options: Any) -> EmbeddingSimilarityEvaluator:
    return EmbeddingSimilarityEvaluator(FIRST, SECOND, SCORES, name="toy", **options)


class Cut(ElasticEmbedder):
    """A model of one size, by its own ``encode``: what the scores are compared with."""

    size = (2, 32)

    def encode(self, *args: Any, **options: Any) -> Any:
        options["truncate_dim"] = self.size[1]
        return super().encode(*args, num_layers=self.size[0], **options)


@pytest.fixture
def cut(folder: str) -> Cut:
    return Cut(folder, device="cpu")


EVALUATORS = {
    "similarity": pairs,
    "normalised": lambda: pairs(precision="float32"),
    "int8": lambda: pairs(precision="int8"),
    "retrieval": lambda: InformationRetrievalEvaluator(
        {"q1": "bow", "q2": "goose"},
        dict(enumerate(SECOND)),
        {"q1": {0}, "q2": {2}},  # type: ignore[dict-item]
        name="ir",
    ),
    "triplets": lambda: TripletEvaluator(FIRST, SECOND, SECOND[::-1], name="triplets"),
}


@pytest.mark.parametrize("name", EVALUATORS)
def test_evaluator_gives_what_each_size_gets_by_itself(name: str, model: ElasticEmbedder, cut: Cut) -> None:
    evaluator = ElasticEvaluator(EVALUATORS[name](), layers=[1, 2], dims=[8])
    scores = evaluator.measure(model)
    assert list(scores) == SIZES
    for size, score in scores.items():
        cut.size = size
        alone = EVALUATORS[name]()
        expected = alone(cut)
        assert score == pytest.approx(expected[str(alone.primary_metric)], abs=1e-5)


def test_evaluator_names_sizes_and_their_mean(model: ElasticEmbedder) -> None:
    evaluator = ElasticEvaluator(pairs(), layers=[1], dims=[8])
    metrics = evaluator(model)
    name = "toy_spearman_cosine"
    assert list(metrics) == [*(f"{name}_{n}_layers_{d}_dims" for n, d in SIZES), f"{name}_mean"]
    assert evaluator.primary_metric == f"{name}_mean"
    assert metrics[f"{name}_mean"] == pytest.approx(sum(list(metrics.values())[:4]) / 4)


def test_evaluator_encodes_each_text_once(model: ElasticEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = ElasticEmbedder.encode_sizes

    def encode(self: ElasticEmbedder, texts: Any, layers: Any, **options: Any) -> Any:
        seen.extend(texts)
        return real(self, texts, layers, **options)

    monkeypatch.setattr(ElasticEmbedder, "encode_sizes", encode)
    ElasticEvaluator(pairs(), layers=[1, 2], dims=[4, 8, 16])(model)
    assert sorted(seen) == sorted([*FIRST, *SECOND])


def test_evaluator_leaves_the_model_as_it_was(folder: str) -> None:
    stock = SentenceTransformer(folder, device="cpu")
    before = stock.encode(FIRST)
    stock.train()
    ElasticEvaluator(pairs(), layers=[1], dims=[8])(stock)
    assert type(stock[0]).__name__ == "Transformer"
    np.testing.assert_array_equal(stock.encode(FIRST), before)


def test_evaluator_tells_the_model_card_of_the_whole_alone(model: ElasticEmbedder) -> None:
    evaluator = ElasticEvaluator(pairs(), layers=[1], dims=[8])
    evaluator(model)
    assert list(model.model_card_data.eval_results_dict) == [evaluator]


def test_evaluator_writes_a_row_for_each_size(model: ElasticEmbedder, tmp_path: Path) -> None:
    evaluator = ElasticEvaluator(pairs(), layers=[1], dims=[8])
    for step in (5, 10):
        evaluator(model, str(tmp_path / "eval"), epoch=1, steps=step)
    with (tmp_path / "eval" / "elastic_evaluation_toy_results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["steps"], int(row["layers"]), int(row["dims"])) for row in rows] == [
        (step, *size) for step in ("5", "10") for size in SIZES
    ]
    assert not list(tmp_path.glob("**/similarity_evaluation*"))


def test_evaluator_takes_one_that_returns_a_number(model: ElasticEmbedder) -> None:
    class First(BaseEvaluator):
        def __call__(self, model: Any, *args: Any, **options: Any) -> float:
            vector = model.encode("a bow")
            assert isinstance(vector, np.ndarray)
            assert torch.equal(model.encode(["a bow"], convert_to_tensor=True)[0], torch.from_numpy(vector))
            assert isinstance(model.encode(["a bow"], convert_to_numpy=False), list)
            return float(len(vector))

    assert ElasticEvaluator(First(), layers=[1], dims=[8]).measure(model) == {
        (2, 32): 32.0,
        (2, 8): 8.0,
        (1, 32): 32.0,
        (1, 8): 8.0,
    }


def test_evaluator_knows_which_way_is_up(model: ElasticEmbedder) -> None:
    smaller_is_better = MSEEvaluator(FIRST, FIRST, teacher_model=model)
    assert ElasticEvaluator(smaller_is_better).greater_is_better == smaller_is_better.greater_is_better


def test_evaluator_refuses_what_is_none() -> None:
    with pytest.raises(ArgumentError, match="`evaluator` must be an evaluator of sentence-transformers"):
        ElasticEvaluator("stsb")  # type: ignore[arg-type]


def test_evaluator_refuses_sizes_that_are_not_there(model: ElasticEmbedder) -> None:
    with pytest.raises(ArgumentError, match="from 1 to 2"):
        ElasticEvaluator(pairs(), layers=[3])(model)


def test_evaluator_goes_where_a_trainer_wants_one(model: ElasticEmbedder, tmp_path: Path) -> None:
    evaluator = ElasticEvaluator(pairs(), layers=[1], dims=[8])
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=5,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"anchor": FIRST, "positive": SECOND}),
        loss=MultipleNegativesRankingLoss(model),
        evaluator=evaluator,
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert "eval_toy_spearman_cosine_mean" in metrics
