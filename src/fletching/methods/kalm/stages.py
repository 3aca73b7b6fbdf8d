"""One stage of the recipe on the sentence-transformers trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fletching.methods.kalm.batching import TaskBatching
from fletching.methods.kalm.config import KaLMLossOptions
from fletching.methods.kalm.data import KaLMRow, RowSampler
from fletching.methods.kalm.losses import KaLMLoss
from fletching.methods.kalm.model import KaLMEmbedder
from fletching.nn import find_decoder
from fletching.training import EpochCallback, TrainingFolder, count_processes, run_trainer

if TYPE_CHECKING:
    from fletching.methods.kalm.recipe import KaLMRecipe

__all__ = ["build_loss", "choose_dims", "train_stage"]


def train_stage(
    recipe: KaLMRecipe,
    model: KaLMEmbedder,
    rows: Sequence[KaLMRow],
    folder: TrainingFolder,
    *,
    stage: str,
    seed: int,
) -> None:
    """Train a model on rows.

    Args:
        recipe: Settings.
        model: The network, trained in place.
        rows: What it is trained on.
        folder: Where checkpoints go, and where to go on from.
        stage: ``"pretrain"``, ``"finetune"`` or ``"distill"``.
        seed: Of data order, sampling and mixing.
    """
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    n_negatives = 0 if stage == "pretrain" else recipe.negatives
    sampler = RowSampler(rows, n_negatives=n_negatives, scores=stage == "distill", seed=seed)
    batching = TaskBatching(sampler.tasks, homogeneous_ratio=recipe.homogeneous_ratio)
    on_gpu = torch.cuda.is_available()
    arguments = SentenceTransformerTrainingArguments(
        **folder.build_arguments(seed=seed, save_steps=recipe.save_steps),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=_choose_rate(recipe, stage),
        lr_scheduler_type="linear",
        warmup_steps=recipe.warmup_ratio,
        weight_decay=recipe.weight_decay,
        bf16=recipe.bf16 and on_gpu,
        batch_sampler=batching,
        eval_strategy="no",
    )
    if recipe.gradient_checkpointing:
        find_decoder(model).activation_checkpointing_enable()
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=sampler.to_dataset(),
        loss=build_loss(recipe, model, stage=stage),
        callbacks=[EpochCallback(sampler, batching)],
    )
    run_trainer(trainer, folder)


def build_loss(recipe: KaLMRecipe, model: KaLMEmbedder, *, stage: str) -> KaLMLoss:
    """Build the loss of a stage: plain InfoNCE on pairs first, everything else later.

    Args:
        recipe: Settings.
        model: What is trained.
        stage: As for `train_stage`.

    Returns:
        The loss.
    """
    gather = recipe.gather_across_devices and count_processes() > 1
    if stage == "pretrain":
        return KaLMLoss(
            model,
            temperature=recipe.temperature,
            gamma=0.0,
            mixing=(),
            mini_batch_size=recipe.mini_batch_size,
            options=KaLMLossOptions(gather_across_devices=gather),
        )
    return KaLMLoss(
        model,
        temperature=recipe.temperature,
        gamma=recipe.gamma,
        mixing=tuple(recipe.mixing),
        beta=recipe.beta,
        matryoshka=choose_dims(recipe, model),
        mini_batch_size=recipe.mini_batch_size,
        options=KaLMLossOptions(
            distillation_weight=recipe.distillation_weight if stage == "distill" else 0.0,
            teacher_temperature=recipe.teacher_temperature if stage == "distill" else None,
            gather_across_devices=gather,
        ),
    )


def choose_dims(recipe: KaLMRecipe, model: KaLMEmbedder) -> dict[int, float] | None:
    """Fit the Matryoshka dimensions to a model: the first stands for its whole width.

    Args:
        recipe: Settings.
        model: What is trained.

    Returns:
        Dimension -> weight of its loss; ``None`` to train whole vectors only.
    """
    if not recipe.matryoshka_dims:
        return None
    width = model.get_embedding_dimension()
    assert width is not None, "a pooling knows its width"
    pairs = list(zip(recipe.matryoshka_dims, recipe.matryoshka_weights, strict=True))
    return {width: pairs[0][1], **{dim: weight for dim, weight in pairs[1:] if dim < width}}


def _choose_rate(recipe: KaLMRecipe, stage: str) -> float:
    if stage == "pretrain" and recipe.pretrain_learning_rate is not None:
        return recipe.pretrain_learning_rate
    return recipe.learning_rate
