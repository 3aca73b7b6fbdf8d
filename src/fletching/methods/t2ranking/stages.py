"""The trained baselines, one stage each, on the sentence-transformers trainers."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from sentence_transformers.util import dot_score

from fletching.data.lines import write_lines
from fletching.evaluation.bm25 import BM25
from fletching.losses import GroupedCrossEntropyLoss
from fletching.methods.t2ranking.data import T2RankingDataset
from fletching.methods.t2ranking.evaluation import T2RankingEvaluator, rank_queries
from fletching.methods.t2ranking.model import ROUTES
from fletching.methods.t2ranking.negatives import StridedNegativeSampler
from fletching.models.embedder import Embedder
from fletching.models.reranker import Reranker
from fletching.training import EpochCallback, TrainingFolder, count_processes, run_trainer

if TYPE_CHECKING:
    from fletching.methods.t2ranking.recipe import T2RankingRecipe

__all__ = [
    "build_dual_loss",
    "build_sampler",
    "train_cross_encoder",
    "train_dual_encoder",
    "write_bm25",
    "write_run",
]

logger = logging.getLogger(__name__)


def train_dual_encoder(
    recipe: T2RankingRecipe,
    model: Embedder,
    sampler: StridedNegativeSampler,
    folder: TrainingFolder,
    evaluator: T2RankingEvaluator | None,
) -> None:
    """Train two towers to pick the positive among the passages of the whole batch.

    Args:
        recipe: Settings.
        model: The network, trained in place.
        sampler: Rows.
        folder: Where checkpoints go, and where to go on from.
        evaluator: Called every ``eval_epochs`` epochs; ``None`` evaluates nothing.
    """
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    routes = dict.fromkeys(sampler.columns, ROUTES[1]) | {sampler.columns[0]: ROUTES[0]}
    arguments = SentenceTransformerTrainingArguments(
        **_build_arguments(recipe, folder, len(sampler), evaluator), router_mapping=routes
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=sampler.to_dataset(),
        loss=build_dual_loss(model, texts_per_step=recipe.texts_per_step),
        evaluator=evaluator,
        callbacks=[EpochCallback(sampler)],
    )
    run_trainer(trainer, folder)


def build_dual_loss(model: SentenceTransformer, *, texts_per_step: int) -> CachedMultipleNegativesRankingLoss:
    """Build the cross-entropy over raw dot products with all passages of the batch.

    No temperature, no normalisation; passages of all devices. Gradients are cached, so that a batch of any
    size fits. In the reference each device computes the same loss with a gradient through its own texts only,
    so that the mean over devices is 1 / devices of this one: the same step for LAMB and Adam.

    Args:
        model: The model to train.
        texts_per_step: Texts in memory at once.

    Returns:
        The loss.
    """
    return CachedMultipleNegativesRankingLoss(
        model,
        scale=1.0,
        similarity_fct=dot_score,
        mini_batch_size=texts_per_step,
        gather_across_devices=count_processes() > 1,
    )


def train_cross_encoder(
    recipe: T2RankingRecipe,
    model: Reranker,
    sampler: StridedNegativeSampler,
    folder: TrainingFolder,
    evaluator: T2RankingEvaluator | None,
) -> None:
    """Train a cross-encoder to pick the positive of each group.

    Args:
        recipe: Settings.
        model: The network, trained in place.
        sampler: Rows.
        folder: Where checkpoints go, and where to go on from.
        evaluator: Called every ``eval_epochs`` epochs; ``None`` evaluates nothing.
    """
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments

    arguments = CrossEncoderTrainingArguments(**_build_arguments(recipe, folder, len(sampler), evaluator))
    trainer = CrossEncoderTrainer(
        model=model,
        args=arguments,
        train_dataset=sampler.to_dataset(),
        loss=GroupedCrossEntropyLoss(model, mini_batch_size=recipe.texts_per_step),
        evaluator=evaluator,
        callbacks=[EpochCallback(sampler)],
    )
    run_trainer(trainer, folder)


def build_sampler(
    recipe: T2RankingRecipe, data: T2RankingDataset, *, source: str, folder: Path | None = None
) -> StridedNegativeSampler:
    """Read the lists of the training queries and build the rows on them.

    Args:
        recipe: Settings.
        data: The training split.
        source: ``"bm25"`` or ``"mined"``.
        folder: Where the lists are; ``None``: with the collection.

    Returns:
        The rows.
    """
    return StridedNegativeSampler(
        data.negatives(source, recipe.resolve("window"), folder=folder),
        data.queries,
        data.corpus,
        data.positives,
        n_negatives=recipe.resolve("group_size") - 1,
        max_queries=recipe.max_queries,
        seed=recipe.seed,
    )


def write_run(path: Path, run: Iterator[tuple[str, Mapping[str, float]]]) -> None:
    """Write lists as T2Ranking's files have them, query by query: query, passage, rank, score.

    Args:
        path: The file; it appears when it is complete.
        run: Query id, and passage id -> score, best first.
    """

    def lines() -> Iterator[str]:
        yield "qid\tpid\tindex\tscore"
        for query, scores in run:
            for rank, (passage, score) in enumerate(scores.items(), start=1):
                yield f"{query}\t{passage}\t{rank}\t{score!r}"

    write_lines(path, lines())


def write_bm25(data: T2RankingDataset, path: Path, *, depth: int = 1000) -> None:
    """Search the passages by their words, cut as a dictionary of Chinese cuts them, and write the lists.

    Args:
        data: A split: its queries are searched for.
        path: The file, such as ``train.bm25.tsv``.
        depth: Passages for each query.
    """
    write_run(path, rank_queries(BM25("chinese"), data.queries, data.corpus, depth=depth))


def _build_arguments(
    recipe: T2RankingRecipe, folder: TrainingFolder, n_rows: int, evaluator: T2RankingEvaluator | None
) -> dict[str, Any]:
    """Collect what the trainers' arguments have in common."""
    steps = max(1, math.ceil(n_rows / recipe.resolve("batch_size"))) * recipe.resolve("eval_epochs")
    return {
        **folder.build_arguments(seed=recipe.seed, save_steps=steps),
        "num_train_epochs": recipe.resolve("epochs"),
        "per_device_train_batch_size": _divide(recipe.resolve("batch_size"), count_processes()),
        "learning_rate": recipe.resolve("learning_rate"),
        "lr_scheduler_type": "constant",
        "optim": recipe.optimizer,
        "weight_decay": recipe.weight_decay,
        "fp16": recipe.fp16 and torch.cuda.is_available(),
        "eval_strategy": "steps" if evaluator else "no",
        "eval_steps": steps,
    }


def _divide(batch_size: int, processes: int) -> int:
    if batch_size % processes:
        logger.warning("Batches of %d queries do not divide among %d processes.", batch_size, processes)
    return max(batch_size // processes, 1)
