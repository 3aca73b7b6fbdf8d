"""The two trainings of the recipe, teacher and student, on the sentence-transformers trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.cross_encoder.losses import CrossEntropyLoss, MSELoss

from fletching.errors import bad_argument
from fletching.methods.dse.data import PairRow, build_dataset
from fletching.methods.dse.evaluation import DSEEvaluator
from fletching.methods.dse.losses import DSELoss
from fletching.models.minilm import HUB_ID, find_minilm
from fletching.models.reranker import Reranker
from fletching.training import TrainingFolder, choose_batch_sampler, run_trainer

if TYPE_CHECKING:
    from fletching.methods.dse.recipe import DSERecipe

__all__ = ["build_teacher", "train_student", "train_teacher"]


def build_teacher(recipe: DSERecipe, base: str) -> Reranker:
    """Build a cross-encoder to fine-tune: two labels for a binary task, one for a regression.

    Args:
        recipe: Settings.
        base: Folder or hub id of an encoder; the weights of its head are drawn from ``recipe.seed`` unless it
            is a cross-encoder with as many labels.

    Returns:
        The model; its scores are logits, its labels are called as those of the task.
    """
    n_labels = 2 if recipe.chosen_task == "binary" else recipe.num_labels
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = Reranker(
            find_minilm() if base == HUB_ID else base,
            num_labels=n_labels,
            max_length=recipe.teacher_max_seq_length,
            activation_fn=torch.nn.Identity(),
        )
    if len(recipe.labels) == n_labels:
        network: Any = model[0]
        network.model.config.id2label = dict(enumerate(recipe.labels))
        network.model.config.label2id = {name: place for place, name in enumerate(recipe.labels)}
    return model


def train_teacher(
    recipe: DSERecipe,
    model: Reranker,
    rows: Sequence[PairRow],
    folder: TrainingFolder,
    evaluator: DSEEvaluator | None,
) -> None:
    """Fine-tune a cross-encoder with the cross-entropy of its labels, or the squared error of a regression.

    Args:
        recipe: Settings.
        model: The teacher, trained in place.
        rows: The pairs; those without a label are left out.
        folder: Where checkpoints go, and where to go on from.
        evaluator: Chooses the best epoch; ``None`` keeps the last.

    Raises:
        ArgumentError: If no pair has a label.
    """
    from datasets import Dataset

    known = [row for row in rows if not math.isnan(row.label)]
    if not known:
        domain = "pairs with labels where the teacher is fine-tuned first"
        raise bad_argument("DSERecipe", "train_data", domain, "none", "Or name a trained one with `teacher`")
    is_regression = recipe.chosen_task == "regression"
    network: Any = model[0].model
    labels = [row.label if is_regression else int(row.label) for row in known]
    data = {"sentence1": [row.first for row in known], "sentence2": [row.second for row in known]}
    _train(
        recipe,
        model,
        Dataset.from_dict({**data, "label": labels}),
        MSELoss(model) if is_regression else CrossEntropyLoss(model),
        folder,
        evaluator,
        learning_rate=recipe.teacher_learning_rate,
        epochs=recipe.teacher_epochs,
        new_weights=rf"^model\.0\.model\.(?!{network.base_model_prefix}\.)",
    )


def train_student(
    recipe: DSERecipe,
    model: Any,
    rows: Sequence[PairRow],
    folder: TrainingFolder,
    evaluator: DSEEvaluator | None,
) -> None:
    """Distil: train a student on labels and on the logits that the pairs carry.

    Args:
        recipe: Settings.
        model: The student, a `DSEReranker`, trained in place.
        rows: The pairs.
        folder: Where checkpoints go, and where to go on from.
        evaluator: Chooses the best epoch; ``None`` keeps the last.
    """
    loss = DSELoss(
        model,
        task=recipe.chosen_task,
        num_labels=recipe.num_labels,
        alpha=recipe.alpha,
        reduction=recipe.reduction,
    )
    _train(
        recipe,
        model,
        build_dataset(rows),
        loss,
        folder,
        evaluator,
        learning_rate=recipe.learning_rate,
        epochs=recipe.epochs,
        new_weights=r"^model\.[1-9]",  # of every module but the encoder
    )


def _train(
    recipe: DSERecipe,
    model: Any,
    data: Any,
    loss: torch.nn.Module,
    folder: TrainingFolder,
    evaluator: DSEEvaluator | None,
    *,
    learning_rate: float,
    epochs: float,
    new_weights: str,
) -> None:
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments

    class LegacyTrainer(CrossEncoderTrainer):
        """Counts mini-batches where the scheduler expects optimiser steps, as the reference code does."""

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            n_mini_batches = num_training_steps * self.args.gradient_accumulation_steps
            return super().create_scheduler(n_mini_batches, optimizer)

    strategy = "epoch" if recipe.eval_steps is None else "steps"
    settings: dict[str, Any] = {
        **folder.build_arguments(seed=recipe.seed, save_steps=recipe.eval_steps or 500),
        "save_strategy": strategy,
        # a cross-encoder uses all its weights, and torch finds no outputs in what it returns
        "ddp_find_unused_parameters": isinstance(loss, DSELoss),
    }
    arguments = CrossEncoderTrainingArguments(
        **settings,
        num_train_epochs=epochs,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        batch_sampler=choose_batch_sampler(group_by_length=recipe.group_by_length),
        learning_rate=learning_rate,
        learning_rate_mapping={new_weights: recipe.head_learning_rate} if recipe.head_learning_rate else {},
        lr_scheduler_type="linear",
        warmup_steps=recipe.warmup_ratio,
        optim=recipe.optimizer,
        adam_epsilon=recipe.adam_epsilon,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.bf16,
        eval_strategy=strategy if evaluator else "no",
        eval_steps=recipe.eval_steps,
        load_best_model_at_end=evaluator is not None,
        metric_for_best_model=f"eval_{evaluator.primary_metric}" if evaluator else None,
        greater_is_better=True,
    )
    trainer_class = LegacyTrainer if recipe.legacy_schedule else CrossEncoderTrainer
    trainer = trainer_class(model=model, args=arguments, train_dataset=data, loss=loss, evaluator=evaluator)
    run_trainer(trainer, folder)
