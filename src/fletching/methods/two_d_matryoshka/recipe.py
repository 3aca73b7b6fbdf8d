"""Train an embedder that can be cut in depth and in width: resumable, evaluated, documented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer import losses as stock_losses
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import load_file_path
from torch import nn

from fletching.errors import bad_argument, bad_choice, missing_extra
from fletching.evaluation import EvaluationSet, STSSet, read_evaluation_set
from fletching.methods.two_d_matryoshka.angle import CombinedAnglELoss
from fletching.methods.two_d_matryoshka.data import TrainingRows, read_rows
from fletching.methods.two_d_matryoshka.losses import (
    OBJECTIVES,
    TwoDMatryoshkaLoss,
    TwoDMatryoshkaLossOptions,
)
from fletching.methods.two_d_matryoshka.measuring import frontier
from fletching.methods.two_d_matryoshka.model import ElasticEmbedder
from fletching.methods.two_d_matryoshka.presets import BASE_LOSSES, PRECISIONS, PRESETS
from fletching.methods.two_d_matryoshka.sizes import open_elastic
from fletching.methods.two_d_matryoshka.synthetic import build_synthetic_pairs, save_smoke_bert, write_pairs
from fletching.models.inputs import check_count, check_positive
from fletching.models.loading import load
from fletching.models.minilm import HUB_ID
from fletching.plugins import registry
from fletching.training import TrainingFolder, describe_run, main_process_first, run_trainer

__all__ = ["TwoDMatryoshkaRecipe"]

_LOSSES_OF_KIND = {"scored": ("angle", "cosent"), "pairs": ("angle", "mnrl"), "triplets": ("angle", "mnrl")}


@dataclass(frozen=True)
class TwoDMatryoshkaRecipe:
    """Train 2DMSE or ESE (arXiv 2402.14776) from any embedder or encoder; defaults are 2DMSE's command.

    The saved folder has stock modules only, and says to which layers and sizes it was trained.

    Args:
        base: What training starts from: name, folder or hub id of an embedder, or of a plain transformer.
        train_data: Files of one kind: scored pairs, natural language inference, pairs such as titles with
            abstracts, or triplets; see ``fletching.methods.two_d_matryoshka.data.read_rows``.
        dev_data: What to evaluate on before and after, at several sizes: files of scored pairs, folders as
            BEIR's, or files of lists.
        objective: ``"2dmse"`` or ``"ese"``; see `TwoDMatryoshkaLoss`, also for the next six.
        dims: The sizes to draw from, or one for ``"ese"``; empty takes the default of the objective.
        kl_temperature: Divides the coordinates in the alignment.
        kl_weight: Of the alignment.
        teacher_weight: Of the losses of the last layer.
        student_weight: Of the losses of earlier layers.
        detach_teacher: Whether the last layer learns nothing from the alignment.
        weighting: As for `TwoDMatryoshkaLossOptions`, also the next four.
        fixed_teacher: Name, folder or hub id of a frozen embedder to align with; ``None`` aligns with the
            last layer.
        off_by_one: Whether ESE's earlier layers are those of the reference code.
        exact: Whether ESE compresses by an exact decomposition.
        final_norm: ``"auto"`` or ``"none"``.
        base_loss: ``"angle"``, which suits any rows; ``"cosent"`` for scored pairs; ``"mnrl"`` for pairs and
            triplets.
        ibn_weight: Of ``"angle"``; as for `CombinedAnglELoss`, also the next four.
        cln_weight: Of in-batch negatives with the hard ones.
        angle_weight: Of the order of angles.
        cosine_weight: Of the order of cosines.
        scale: Multiplies cosines, in all base losses.
        hard_negatives: Whether the negatives of triplets are used; without them they are pairs.
        pooling: Of a plain transformer; an embedder keeps its own.
        max_seq_length: Longest text in tokens, in training and in the saved model.
        batch_size: Rows of a batch, on each device.
        accumulation_steps: Batches whose gradients are added before a step; each draws its own sizes.
        epochs: Passes over the rows, unless ``max_steps`` is reached before.
        max_steps: Steps to train; ``None``: as ``epochs`` says.
        learning_rate: At its highest; decays linearly.
        warmup_steps: Steps that it rises.
        weight_decay: Of AdamW.
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``; on a CPU always the first.
        max_rows: Rows to train on, drawn at random; ``None`` uses all.
        eval_layers: Numbers of layers to evaluate; empty takes a quarter, a half, three quarters and all.
        eval_dims: Sizes to evaluate; empty takes the middle and the largest that are trained, and all.
        save_steps: Steps between checkpoints.
        seed: Of data order, dropout and sampling.
        synthetic: Whether to make up rows and a tiny random model in the output folder, instead of reading
            ``train_data`` and ``base``.

    Raises:
        ArgumentError: If a value is outside its domain.
    """

    base: str = "WhereIsAI/UAE-Large-V1"  # AnglE, README of 2DMSE
    train_data: tuple[str, ...] = ()
    dev_data: tuple[str, ...] = ()
    objective: str = "2dmse"
    dims: tuple[int, ...] = ()  # reference code: 8, 16, 32 and so on
    kl_temperature: float = 1.0  # reference code
    kl_weight: float = 1.0  # reference code
    teacher_weight: float = 1.0  # reference code
    student_weight: float = 1.0  # reference code
    detach_teacher: bool = True  # ours; reference code: False
    weighting: str = "uniform"  # reference code, first version
    fixed_teacher: str | None = None
    off_by_one: bool = False  # paper v2; reference code: True
    exact: bool = True  # ours; reference code: False
    final_norm: str = "auto"  # ours
    base_loss: str = "angle"  # paper
    ibn_weight: float = 20.0  # README of 2DMSE: w2
    cln_weight: float = 0.0  # ours: the code of that time had none
    angle_weight: float = 1.0  # README of 2DMSE: w3
    cosine_weight: float = 1.0  # README of 2DMSE: w1
    scale: float = 20.0  # reference code, for angles too
    hard_negatives: bool = True
    pooling: str = "cls"  # paper
    max_seq_length: int = 128  # README of 2DMSE
    batch_size: int = 16  # README of 2DMSE
    accumulation_steps: int = 6  # README of 2DMSE
    epochs: float = 1.0  # README of 2DMSE
    max_steps: int | None = None
    learning_rate: float = 1e-5  # README of 2DMSE
    warmup_steps: int = 100  # README of 2DMSE
    weight_decay: float = 0.0  # reference code: as transformers has it
    precision: str = "fp16"  # README of 2DMSE
    max_rows: int | None = None
    eval_layers: tuple[int, ...] = ()
    eval_dims: tuple[int, ...] = ()
    save_steps: int = 1000  # README of 2DMSE
    seed: int = 42  # AnglE, examples/NLI
    synthetic: bool = False

    def __post_init__(self) -> None:
        """Check every value that the loss and the model do not check."""
        owner = type(self).__name__
        for name, options in (
            ("objective", OBJECTIVES),
            ("base_loss", BASE_LOSSES),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in options:
                raise bad_choice(owner, name, options, getattr(self, name))
        for name in ("max_seq_length", "batch_size", "accumulation_steps", "save_steps"):
            check_positive(owner, name, getattr(self, name))
        for name in ("max_steps", "max_rows"):
            check_count(owner, name, getattr(self, name))
        for name in ("dims", "eval_layers", "eval_dims"):
            for size in getattr(self, name):
                check_positive(owner, name, size)
        for name in ("epochs", "learning_rate", "scale"):
            if not getattr(self, name) > 0:
                raise bad_argument(owner, name, "positive", getattr(self, name))
        for name in ("warmup_steps", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise bad_argument(owner, name, "zero or positive", getattr(self, name))
        TwoDMatryoshkaLossOptions(
            weighting=self.weighting,
            off_by_one=self.off_by_one,
            exact=self.exact,
            final_norm=self.final_norm,
        )

    @classmethod
    def from_preset(cls, name: str, **changes: Any) -> TwoDMatryoshkaRecipe:
        """A recipe with published settings.

        Args:
            name: ``"2dmse"``, the defaults; ``"ese"``, its revision; ``"angle_nli"``, AnglE's own on NLI; or
                ``"ielab_2dmse"`` and ``"ielab_ese"``, an independent reproduction of both.
            **changes: Fields, instead of those of the preset.

        Returns:
            The recipe.

        Raises:
            ArgumentError: If there is no such preset, or a value is outside its domain.

        Example:
            >>> TwoDMatryoshkaRecipe.from_preset("ese", batch_size=8).learning_rate
            1e-06
        """
        if name not in PRESETS:
            raise bad_choice(f"{cls.__name__}.from_preset", "name", PRESETS, name)
        return cls(**{**PRESETS[name], **changes})

    @classmethod
    def smoke(cls) -> TwoDMatryoshkaRecipe:
        """A recipe that finishes in under a minute on a CPU, on made-up pairs and a tiny random model."""
        return cls(
            synthetic=True,
            base_loss="cosent",
            pooling="mean",
            batch_size=32,
            accumulation_steps=1,
            epochs=6,
            learning_rate=2e-3,
            warmup_steps=10,
            precision="fp32",
            save_steps=50,
        )

    def run(self, output_dir: str | Path, *, resume: bool = False) -> dict[str, Any]:
        """Train, evaluate and save.

        Args:
            output_dir: Where the model goes; checkpoints go to ``checkpoints`` in it.
            resume: Go on from the last checkpoint there; ends with the weights of a run that was never
                stopped.

        Returns:
            ``{"before": {...}, "after": {...}}``, metrics on ``dev_data``, named as
            ``stsb_spearman_3_layers_64_dims``.

        Raises:
            ArgumentError: If there is nothing to train on, the base loss does not suit the rows, or the run
                to go on with was begun otherwise.
            CheckpointError: If the base or the teacher cannot be opened.
            DataError: If a file is missing or malformed.
            MissingExtraError: If the ``train`` extra, or with folders in ``dev_data`` the ``evaluate`` extra,
                is not installed.
        """
        owner = type(self).__name__
        output = Path(output_dir)
        for package in ("accelerate", "datasets"):
            if find_spec(package) is None:
                raise missing_extra(owner, package, "train")
        if self.synthetic:
            return self._run_synthetic(output, resume=resume)
        if not self.train_data:
            raise bad_argument(owner, "train_data", "at least one file of rows", self.train_data)
        rows = read_rows(*self.train_data).take(self.max_rows, seed=self.seed)
        rows = rows if self.hard_negatives else rows.without_negatives()
        if self.base_loss not in _LOSSES_OF_KIND[rows.kind]:
            options = " or ".join(map(repr, _LOSSES_OF_KIND[rows.kind]))
            raise bad_argument(owner, "base_loss", f"{options} for {rows.kind}", self.base_loss)
        dev = [read_evaluation_set(path, show_progress_bar=False) for path in self.dev_data]
        folder = TrainingFolder(output, resume=resume)
        free = ("dev_data", "eval_layers", "eval_dims", "save_steps")
        files = [path for path in self.train_data if Path(path).is_file()]
        folder.keep_plan(owner, describe_run(self, free=free, train_data=files))
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = self._open_base()
            loss = self._build_loss(model, rows.kind)
            before = folder.keep_before(lambda: self._evaluate(model, dev, loss))
            self._train(model, loss, rows, folder)
        results = {"before": before, "after": self._evaluate(model, dev, loss)}
        model.trained_layers = loss.trained_layers
        model.trained_dims = (*loss.dims, loss.width)
        folder.save(model)
        files = [path for path in (*self.train_data, *self.dev_data) if Path(path).is_file()]
        folder.write_record(self, files=files, results=results, rows=len(rows.rows), kind=rows.kind)
        return results

    def _run_synthetic(self, output: Path, *, resume: bool) -> dict[str, Any]:
        base = output / "base"
        files = {name: output / f"{name}.tsv" for name in ("train", "dev")}
        with main_process_first() as is_main:
            if is_main and not (resume and all(path.is_file() for path in files.values())):
                output.mkdir(parents=True, exist_ok=True)
                save_smoke_bert(base, seed=self.seed)
                write_pairs(files["train"], build_synthetic_pairs(400, seed=self.seed))
                write_pairs(files["dev"], build_synthetic_pairs(100, seed=self.seed + 1))
        recipe = replace(
            self,
            synthetic=False,
            base=str(base),
            train_data=(str(files["train"]),),
            dev_data=(str(files["dev"]),),
        )
        return recipe.run(output, resume=resume)

    def _open_base(self) -> ElasticEmbedder:
        """Open an embedder as it is, and put a pooling behind anything else."""
        is_named = self.base == HUB_ID or registry().find_checkpoint(self.base) is not None
        if is_named or load_file_path(self.base, "modules.json") is not None:
            model = open_elastic(type(self).__name__, self.base)
        else:
            transformer = Transformer(self.base)
            pooling = Pooling(transformer.get_embedding_dimension(), self.pooling)
            model = ElasticEmbedder(modules=[transformer, pooling], untrained="allow")
        model.max_seq_length = self.max_seq_length
        return model

    def _build_loss(self, model: SentenceTransformer, kind: str) -> TwoDMatryoshkaLoss:
        teacher = None if self.fixed_teacher is None else load(self.fixed_teacher, kind="embedder")
        return TwoDMatryoshkaLoss(
            model,
            self._build_base_loss(model, kind),
            objective=self.objective,
            dims=self.dims or None,
            kl_temperature=self.kl_temperature,
            kl_weight=self.kl_weight,
            teacher_weight=self.teacher_weight,
            student_weight=self.student_weight,
            detach_teacher=self.detach_teacher,
            options=TwoDMatryoshkaLossOptions(
                weighting=self.weighting,
                fixed_teacher=teacher,
                off_by_one=self.off_by_one,
                exact=self.exact,
                final_norm=self.final_norm,
            ),
        )

    def _build_base_loss(self, model: SentenceTransformer, kind: str) -> nn.Module:
        if self.base_loss == "cosent":
            return stock_losses.CoSENTLoss(model, scale=self.scale)
        if self.base_loss == "mnrl":
            return stock_losses.MultipleNegativesRankingLoss(model, scale=self.scale)
        return CombinedAnglELoss(
            model,
            ibn_weight=self.ibn_weight,
            cln_weight=self.cln_weight,
            angle_weight=self.angle_weight,
            cosine_weight=self.cosine_weight,
            scale=self.scale,
            angle_scale=self.scale,
        )

    def _train(
        self, model: SentenceTransformer, loss: TwoDMatryoshkaLoss, rows: TrainingRows, folder: TrainingFolder
    ) -> None:
        from datasets import Dataset
        from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
        from sentence_transformers.sentence_transformer.training_args import BatchSamplers

        on_gpu = torch.cuda.is_available()
        in_batch = rows.kind != "scored"  # where a text that is there twice would be its own negative
        arguments = SentenceTransformerTrainingArguments(
            **folder.build_arguments(seed=self.seed, save_steps=self.save_steps),
            num_train_epochs=self.epochs,
            max_steps=self.max_steps or -1,
            per_device_train_batch_size=self.batch_size,
            gradient_accumulation_steps=self.accumulation_steps,
            learning_rate=self.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=self.warmup_steps,
            weight_decay=self.weight_decay,
            fp16=self.precision == "fp16" and on_gpu,
            bf16=self.precision == "bf16" and on_gpu,
            batch_sampler=BatchSamplers.NO_DUPLICATES if in_batch else BatchSamplers.BATCH_SAMPLER,
            eval_strategy="no",
        )
        trainer = SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=Dataset.from_dict(rows.to_columns()), loss=loss
        )
        run_trainer(trainer, folder)

    def _evaluate(
        self,
        model: ElasticEmbedder,
        dev: Sequence[EvaluationSet | STSSet],
        loss: TwoDMatryoshkaLoss,
    ) -> dict[str, float]:
        """Measure all sizes on all sets, each in one pass over its texts."""
        quarters = {max(loss.n_layers * quarter // 4, 1) for quarter in range(1, 5)}
        layers = self.eval_layers or tuple(sorted(quarters))
        dims = self.eval_dims or tuple(sorted({loss.dims[len(loss.dims) // 2], loss.dims[-1], loss.width}))
        found = {}
        for data in dev:
            measured = frontier(
                model,
                data,
                layers=layers,
                dims=dims,
                measure_latency=False,
                n_resamples=1,
                show_progress_bar=False,
            )
            for point in measured.points:
                size = f"{point.num_layers}_layers_{point.truncate_dim}_dims"
                found[f"{data.name}_{measured.measure}_{size}"] = point.score
        return found
