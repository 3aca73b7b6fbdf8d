"""Training of the two baselines with the trainers of sentence-transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import torch
from sentence_transformers.base.modules import Transformer
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import load_file_path

from fletching.errors import bad_argument, missing_extra
from fletching.losses import GroupedCrossEntropyLoss
from fletching.methods.multi_cpr.config import TRAINING, MultiCPRConfig
from fletching.methods.multi_cpr.data import MultiCPRDataset, QueryKey
from fletching.methods.multi_cpr.negatives import sample_group
from fletching.models.embedder import Embedder
from fletching.models.loading import load
from fletching.models.reranker import Reranker
from fletching.training import EpochCallback, TrainingFolder, run_trainer

__all__ = [
    "GroupSampler",
    "build_cross_encoder",
    "build_dual_encoder",
    "fill_defaults",
    "train_cross_encoder",
    "train_dual_encoder",
]

_OWNER = "MultiCPRRecipe"
_SIMILARITIES = {"cosine": "cosine", "l2": "euclidean", "dot": "dot"}


def fill_defaults(config: MultiCPRConfig, baseline: str) -> MultiCPRConfig:
    """Give every field of a configuration that is ``None`` the value of the baseline.

    Args:
        config: What the user chose.
        baseline: A key of :data:`TRAINING`.

    Returns:
        A configuration without ``None``.
    """
    missing: dict[str, Any] = {
        name: value for name, value in TRAINING[baseline].items() if getattr(config, name) is None
    }
    return replace(config, **missing)


def build_dual_encoder(
    base: str, *, max_tokens: int, lower_case: bool = True, score: str = "cosine", seed: int = 0
) -> Embedder:
    """Build one encoder for queries and passages: the last layer's state of the first token.

    Args:
        base: A BERT, folder or hub id; an embedder of sentence-transformers is taken as it is.
        max_tokens: Of a text.
        lower_case: Whether the tokenizer of the new model lower-cases, whatever that of ``base`` does.
        score: What the saved model compares vectors with.
        seed: Of weights that the base lacks; none of them is read.

    Returns:
        The model, without normalisation of its vectors.
    """
    if load_file_path(base, "modules.json") is not None:
        model: Embedder = load(base, kind="embedder")
        model.max_seq_length = max_tokens
        return model
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = Transformer(base, max_seq_length=max_tokens, do_lower_case=lower_case)
    for name, parameter in backbone.named_parameters():
        if ".pooler." in name:  # behind the states that are read: it would wait for gradients in vain
            parameter.requires_grad_(False)
    pooling = Pooling(backbone.get_embedding_dimension(), "cls")
    similarity: Any = _SIMILARITIES[score]
    return Embedder(modules=[backbone, pooling], similarity_fn_name=similarity)


def build_cross_encoder(base: str, *, max_tokens: int, seed: int) -> Reranker:
    """Build a cross-encoder with one logit.

    Args:
        base: A BERT, folder or hub id; a cross-encoder is taken as it is.
        max_tokens: Of a query and a passage together. The longer of the two is cut: the passage, as in the
            reference, unless a query fills half of them.
        seed: Of a new head.

    Returns:
        The model.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Reranker(base, num_labels=1, max_length=max_tokens)


def train_dual_encoder(
    model: Embedder,
    dataset: MultiCPRDataset,
    *,
    config: MultiCPRConfig,
    folder: TrainingFolder,
    save_steps: int,
) -> None:
    """Train on pairs; the positives of a batch are the negatives of its other queries.

    No passage stands twice in a batch: 6.6 % of the video domain's pairs repeat a passage, which would be a
    negative of its own query.

    Args:
        model: Changed in place.
        dataset: The training queries.
        config: Without ``None``, see :func:`fill_defaults`.
        folder: Where checkpoints go, and come from.
        save_steps: Optimiser steps between checkpoints.

    Raises:
        DataError: If a judged passage is missing.
        MissingExtraError: If the ``train`` extra is not installed.
    """
    try:
        from datasets import Dataset
        from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    except ImportError as error:
        raise missing_extra(_OWNER, "datasets and accelerate", "train") from error
    arguments = SentenceTransformerTrainingArguments(
        batch_sampler=BatchSamplers.NO_DUPLICATES, **_build_arguments(config, folder, save_steps)
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(dataset.build_pairs()),
        loss=MultipleNegativesRankingLoss(model, scale=config.scale),
    )
    run_trainer(trainer, folder)


def train_cross_encoder(
    model: Reranker,
    dataset: MultiCPRDataset,
    pools: Mapping[QueryKey, Sequence[str]],
    *,
    config: MultiCPRConfig,
    folder: TrainingFolder,
    save_steps: int,
    texts_per_step: int | None = None,
) -> None:
    """Train on groups of a positive and negatives, drawn anew in each epoch.

    Args:
        model: Changed in place.
        dataset: The training queries.
        pools: Query -> ids that its negatives are drawn from; a query without any is left out.
        config: Without ``None``, see :func:`fill_defaults`.
        folder: Where checkpoints go, and come from.
        save_steps: Optimiser steps between checkpoints.
        texts_per_step: Pairs in memory at once; ``None`` computes a batch whole.

    Raises:
        ArgumentError: If no query has negatives.
        DataError: If a judged passage is missing.
        MissingExtraError: If the ``train`` extra is not installed.
    """
    try:
        from datasets import Dataset
        from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    except ImportError as error:
        raise missing_extra(_OWNER, "datasets and accelerate", "train") from error
    assert config.seed is not None  # filled in
    keys = [key for key in dataset.qrels if pools.get(key)]
    if not keys:
        domain = "rankings with a passage other than the positive for at least one query"
        raise bad_argument(_OWNER, "first_stage", domain, Random(0).choice([*pools.values(), []]))
    sampler = GroupSampler(dataset.corpus, size=config.group_size, seed=config.seed)
    rows = Dataset.from_dict(
        {
            "query": [dataset.queries[key] for key in keys],
            "positive": [dataset.positives[key] for key in keys],
            "pool": [list(pools[key]) for key in keys],
        }
    )
    rows.set_transform(sampler)
    trainer = CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(**_build_arguments(config, folder, save_steps)),
        train_dataset=rows,
        loss=GroupedCrossEntropyLoss(model, mini_batch_size=texts_per_step),
        callbacks=[EpochCallback(sampler)],
    )
    run_trainer(trainer, folder)


class GroupSampler:
    """Turns rows of ids into rows of texts: a group for each query, another one in each epoch.

    A group depends on the seed, the epoch and the row alone, so that a run that goes on draws the groups that
    it would have drawn.

    Args:
        corpus: Passage id -> text.
        size: Passages of a group.
        seed: Of the groups.
    """

    def __init__(self, corpus: Mapping[str, str], *, size: int, seed: int) -> None:
        self.corpus = corpus
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins.

        Args:
            epoch: From 0.
        """
        self.epoch = epoch

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, list[str]]:
        """Draw the groups of some rows.

        Args:
            rows: Columns ``query``, ``positive`` and ``pool``.

        Returns:
            Columns ``query``, ``positive``, ``negative_1`` and so on.
        """
        groups = []
        for query, positive, pool in zip(rows["query"], rows["positive"], rows["pool"], strict=True):
            generator = Random(f"{self.seed} {self.epoch} {positive} {query}")
            groups.append(sample_group(positive, pool, size=self.size, generator=generator))
        names = ["positive", *(f"negative_{number}" for number in range(1, self.size))]
        columns = zip(*groups, strict=True)
        texts = {
            name: [self.corpus[key] for key in column] for name, column in zip(names, columns, strict=True)
        }
        return {"query": rows["query"], **texts}


def _build_arguments(config: MultiCPRConfig, folder: TrainingFolder, save_steps: int) -> dict[str, Any]:
    """Word a configuration as arguments of a trainer."""
    return {
        **folder.build_arguments(seed=config.seed or 0, save_steps=save_steps),
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.accumulation_steps,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": config.warmup_ratio,
        "weight_decay": config.weight_decay,
        "fp16": config.fp16 and torch.cuda.is_available(),
        "eval_strategy": "no",
    }
