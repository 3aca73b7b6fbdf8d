"""How one stage is trained: the trainer, its arguments, the rows; for DefSent+ and for DefSent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from torch import Tensor, nn

from fletching.errors import bad_checkpoint, bad_choice, missing_extra
from fletching.methods.defsent_plus.config import check_number
from fletching.methods.defsent_plus.heads import HEADS, MaskedWordHead, find_network
from fletching.methods.defsent_plus.losses import CLASSES_AT_ONCE, SingleWordLoss
from fletching.methods.defsent_plus.model import DefSentPlusEmbedder
from fletching.models.inputs import check_count, check_positive
from fletching.training import TrainingFolder, choose_batch_sampler, run_trainer

__all__ = [
    "DefinitionTrainer",
    "TrainingOptions",
    "fit",
    "train_single_words",
]

_HEAD_FILE = "definition_loss.safetensors"  # in a checkpoint: the parameters of the loss


@dataclass(frozen=True)
class TrainingOptions:
    """What all stages have in common.

    Args:
        head: What the projection starts from: ``"auto"``, ``"pooler"``, ``"lm_head"`` or ``"identity"``, see
            `build_head`.
        activation: ``"tanh"``, ``"gelu"``, or ``"auto"``: what belongs to the head.
        backbone: Folder or hub id of the model that the base was made of, for the head.
        multi_positive: Whether a definition that belongs to several entries is one example whose target is
            uniform over them, instead of one example for each.
        classes_at_once: Entries whose logits are in memory at once.
        batch_size: Definitions of a step.
        group_by_length: Whether a step reads definitions of like length, which pads them less: see
            `LengthGroupedBatchSampler`.
        epochs: Passes over the definitions, of each stage.
        max_tokens: Of a definition; ``None`` for what the model reads. Batches are padded to their longest.
        save_steps: Optimiser steps between checkpoints.
        bf16: Whether to train in bfloat16 (autocast) where there is a GPU; logits are float32 all the same.
        seed: Of the order of the definitions and of dropout; each stage starts from it anew.

    Raises:
        ArgumentError: If an argument is outside its domain.
    """

    head: str = "auto"
    activation: str = "auto"
    backbone: str | None = None
    multi_positive: bool = False  # reference code
    classes_at_once: int = CLASSES_AT_ONCE  # ours
    batch_size: int = 32  # reference code, README
    group_by_length: bool = False  # reference code: in random order
    epochs: float = 1.0  # reference code
    max_tokens: int | None = None  # reference code: long enough for all definitions
    save_steps: int = 1000  # ours
    bf16: bool = False  # reference code
    seed: int = 42  # ours: the reference code sets none

    def __post_init__(self) -> None:
        """Check every value that nothing else checks before training begins."""
        owner = type(self).__name__
        if self.head not in HEADS:
            raise bad_choice(owner, "head", HEADS, self.head)
        for name in ("classes_at_once", "batch_size", "save_steps"):
            check_positive(owner, name, getattr(self, name))
        check_count(owner, "max_tokens", self.max_tokens)
        check_number(owner, "epochs", self.epochs)


class DefinitionTrainer(SentenceTransformerTrainer):
    """The trainer of sentence-transformers, for a loss with parameters of its own.

    They are written into checkpoints and read from them, and count in the norm that gradients are clipped to.
    """

    loss: Any

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        return super()._clip_grad_norm(self.loss)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        save_file(_own_state(self.loss), Path(output_dir or str(self.args.output_dir)) / _HEAD_FILE)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        super()._load_from_checkpoint(checkpoint_path)
        path = Path(checkpoint_path) / _HEAD_FILE
        state = load_file(path) if path.is_file() else None
        if state is None or state.keys() != _own_state(self.loss).keys():
            problem = f"{_HEAD_FILE} is not there, or that of another loss"
            raise bad_checkpoint(checkpoint_path, problem, "Begin anew, without resume")
        self.loss.load_state_dict(state, strict=False)


def _own_state(loss: nn.Module) -> dict[str, Tensor]:
    """Return the trained parameters of a loss that are not its model's."""
    return {
        name: weight.detach().contiguous()
        for name, weight in loss.named_parameters()
        if not name.startswith("model.") and weight.requires_grad
    }


def fit(
    model: DefSentPlusEmbedder,
    loss: nn.Module,
    rows: Any,
    folder: TrainingFolder,
    *,
    options: TrainingOptions,
    learning_rate: float,
    **arguments: Any,
) -> None:
    """Train a model with a loss on rows: one stage.

    Args:
        model: Trained in place.
        loss: What it is trained by.
        rows: A ``datasets.Dataset``.
        folder: Where checkpoints go, and where to go on from.
        options: Batches, epochs, seed.
        learning_rate: Highest.
        **arguments: Arguments of the trainer, instead of DefSent+'s.
    """
    for name, parameter in model.named_parameters():
        if ".pooler." in name:  # that of transformers, which no sentence vector is made with
            parameter.requires_grad_(False)
    on_gpu = torch.cuda.is_available()
    settings: dict[str, Any] = {
        "adam_epsilon": 1e-6,  # reference code: the AdamW of old transformers
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "max_grad_norm": 1.0,
        **folder.build_arguments(seed=options.seed, save_steps=options.save_steps),
        "use_cpu": str(model.device) == "cpu",
        **arguments,
    }
    trainer = DefinitionTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            batch_sampler=choose_batch_sampler(group_by_length=options.group_by_length),
            learning_rate=learning_rate,
            weight_decay=0.0,
            bf16=options.bf16 and on_gpu,
            eval_strategy="no",
            **settings,
        ),
        train_dataset=rows,
        loss=loss,
    )
    run_trainer(trainer, folder)


def train_single_words(
    model: DefSentPlusEmbedder,
    head: MaskedWordHead,
    pairs: Sequence[tuple[str, int]],
    folder: TrainingFolder,
    *,
    options: TrainingOptions,
    learning_rate: float,
) -> None:
    """Train as DefSent does: definitions to single words, by the frozen head for masked words.

    The embeddings of the encoder are frozen; its layers are trained. Adam with epsilon 1e-8, a tenth of the
    steps to warm up, then a constant rate, gradients as they are.

    Args:
        model: Trained in place.
        head: Classifies.
        pairs: Definitions, each with the id of its word's token.
        folder: Where checkpoints go, and where to go on from.
        options: Batches, epochs, seed.
        learning_rate: After the warm-up.

    Raises:
        MissingExtraError: If the ``train`` extra is not installed.
    """
    try:
        from datasets import Dataset
    except ImportError as error:
        raise missing_extra("train_single_words", "datasets", "train") from error
    network: Any = find_network(model)
    embeddings = getattr(network, "embeddings", None)
    frozen = embeddings if isinstance(embeddings, nn.Module) else network.get_input_embeddings()
    frozen.requires_grad_(False)
    definitions, tokens = zip(*pairs, strict=True)
    rows = Dataset.from_dict({"definition": list(definitions), "label": list(tokens)})
    fit(
        model,
        SingleWordLoss(model, head),
        rows,
        folder,
        options=options,
        learning_rate=learning_rate,
        adam_epsilon=1e-8,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=0.1,
        max_grad_norm=0.0,
    )
