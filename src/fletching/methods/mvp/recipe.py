"""Train MVP with the sentence-transformers trainer: resumable, evaluated, documented."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.util import load_file_path

from fletching.errors import bad_argument, bad_choice, missing_extra
from fletching.methods.mvp.config import MVPConfig
from fletching.methods.mvp.data import build_rows, read_lists
from fletching.methods.mvp.evaluation import MVPListEvaluator
from fletching.methods.mvp.losses import MVPLoss
from fletching.methods.mvp.model import MVPReranker
from fletching.methods.mvp.modules import MVPModule
from fletching.models.loading import load
from fletching.plugins import registry
from fletching.training import TrainingFolder, describe_run, run_trainer

logger = logging.getLogger(__name__)

NETWORKS = ("t5", "encoder", "bi_encoder")
"""What ``network`` may be."""

_MVP_FILE = MVPModule.config_file_name


@dataclass(frozen=True)
class MVPRecipe(MVPConfig):
    """Fine-tune an MVP on lists (Na et al., EMNLP 2025, arXiv 2509.07485); every default is the paper's.

    Args:
        base: What training starts from: an MVP (name, folder or hub id), a T5, or any encoder.
        network: ``"t5"``, ``"encoder"`` or ``"bi_encoder"``: what to build on ``base``; ``None`` takes T5 for
            what is one, ``"encoder"`` for the rest. An MVP stays what it is.
        train_data: Files of lists, see ``fletching.methods.mvp.data.read_lists``.
        dev_data: Files of lists to evaluate on before, during and after; empty evaluates nothing.
        decoder_layers: For an encoder: cross-attention layers of the decoder.
        max_lists: Lists to train on; ``None`` uses all.
        lists_per_step: Lists in memory at once; gradients accumulate up to ``lists_per_batch``.
        eval_steps: Optimiser steps between evaluations and checkpoints; the best checkpoint is kept.
            Reference code: every 2,000 batches.
        learning_rate_mapping: Other learning rates for parameters whose name matches a regular expression.
        inference_seq_length: Tokens of a row in the saved model; ``None`` keeps ``max_seq_length``. Reference
            code: 256 to 1024, by data set.
        bf16: Whether to train in bfloat16 (autocast). Reference code: yes, for the base model.
    """

    base: str = "google-t5/t5-base"
    network: str | None = None
    train_data: tuple[str, ...] = ()
    dev_data: tuple[str, ...] = ()
    decoder_layers: int = 1  # ours; T5 brings its own decoder
    max_lists: int | None = None
    lists_per_step: int = 16  # reference script
    eval_steps: int = 1000  # reference code: every 2000 batches of 2 accumulation steps
    learning_rate_mapping: dict[str, float] | None = None
    inference_seq_length: int | None = None
    bf16: bool = False

    @classmethod
    def smoke(cls) -> MVPRecipe:
        """A recipe that finishes in under a minute on a CPU, with data and base that ship with fletching."""
        lists = str(files("fletching.methods.mvp") / "smoke.jsonl")
        return cls(
            base="mvp-mini",
            train_data=(lists,),
            dev_data=(lists,),
            learning_rate=1e-3,
            lists_per_batch=4,
            lists_per_step=4,
            eval_steps=3,
            epochs=3,
            optimizer="adamw_torch",
        )

    def run(self, output_dir: str | Path, *, resume: bool = False) -> dict[str, Any]:
        """Train, evaluate and save.

        Args:
            output_dir: Where the model goes; checkpoints go to ``checkpoints`` in it.
            resume: Go on from the last checkpoint there; ends with the weights of a run that was never
                stopped.

        Returns:
            ``{"before": {...}, "after": {...}}``, metrics on ``dev_data``.

        Raises:
            ArgumentError: If there is nothing to train on, or the run to go on with was begun otherwise.
            DataError: If a file is malformed.
            MissingExtraError: If the ``train`` extra is not installed.
        """
        if self.network is not None and self.network not in NETWORKS:
            raise bad_choice("MVPRecipe", "network", NETWORKS, self.network)
        if self.lists_per_batch % min(self.lists_per_step, self.lists_per_batch):
            domain = f"a divisor of lists_per_batch ({self.lists_per_batch})"
            raise bad_argument("MVPRecipe", "lists_per_step", domain, self.lists_per_step)
        if not self.train_data:
            raise bad_argument("MVPRecipe", "train_data", "at least one file of lists", self.train_data)
        try:
            from datasets import Dataset
            from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
        except ImportError as error:
            raise missing_extra("MVPRecipe", "datasets and accelerate", "train") from error

        rows = build_rows(
            self.train_data, passages_per_list=self.passages_per_list, seed=self.seed, limit=self.max_lists
        )
        dev = [ranked for path in self.dev_data for ranked in read_lists(path)]
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = self._open_base()
        evaluator = MVPListEvaluator(dev) if dev else None
        folder = TrainingFolder(output_dir, resume=resume)
        free = ("inference_seq_length",)
        files = {"train_data": self.train_data, "dev_data": self.dev_data}
        folder.keep_plan("MVPRecipe", describe_run(self, free=free, **files))
        before = folder.keep_before(lambda: self._evaluate(evaluator, model))

        arguments = CrossEncoderTrainingArguments(
            **folder.build_arguments(seed=self.seed, save_steps=self.eval_steps),
            num_train_epochs=self.epochs,
            per_device_train_batch_size=min(self.lists_per_step, self.lists_per_batch),
            gradient_accumulation_steps=max(self.lists_per_batch // self.lists_per_step, 1),
            learning_rate=self.learning_rate,
            learning_rate_mapping=self.learning_rate_mapping,
            lr_scheduler_type="linear",
            warmup_steps=self.warmup_ratio,
            optim=self.optimizer,
            weight_decay=0.0,
            bf16=self.bf16,
            eval_strategy="steps" if evaluator else "no",
            eval_steps=self.eval_steps,
            load_best_model_at_end=evaluator is not None,
            metric_for_best_model=f"eval_{evaluator.primary_metric}" if evaluator else None,
            greater_is_better=True,
        )
        trainer = CrossEncoderTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            loss=MVPLoss(
                model,
                temperature=self.temperature,
                orthogonality_weight=self.orthogonality_weight,
                double_softmax=self.double_softmax,
                target=self.target,
            ),
            evaluator=evaluator,
        )
        run_trainer(trainer, folder)
        results = {"before": before, "after": self._evaluate(evaluator, model)}
        model.max_seq_length = self.inference_seq_length or self.max_seq_length
        folder.save(model)
        data = (*self.train_data, *self.dev_data)
        folder.write_record(self, files=data, results=results, lists=len(rows))
        return results

    def _open_base(self) -> MVPReranker:
        """Open an MVP as it is, T5 as the paper does, anything else as an encoder."""
        from transformers import AutoConfig

        options = {"n_views": self.n_views, "max_seq_length": self.max_seq_length}
        if registry().find_checkpoint(self.base) or load_file_path(self.base, _MVP_FILE) is not None:
            model: MVPReranker = load(self.base, max_seq_length=self.max_seq_length)
            return model
        network = self.network
        if network is None:
            network = "t5" if AutoConfig.from_pretrained(self.base).model_type == "t5" else "encoder"
        if network == "t5":
            return MVPReranker(self.base, **options)
        if network == "bi_encoder":
            return MVPReranker.from_bi_encoder(self.base, **options)
        return MVPReranker.from_encoder(self.base, decoder_layers=self.decoder_layers, **options)

    @staticmethod
    def _evaluate(evaluator: MVPListEvaluator | None, model: MVPReranker) -> dict[str, float]:
        return evaluator(model) if evaluator else {}
