"""Fine-tune any causal language model into an embedder: resumable, evaluated, documented."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from fletching.data.lines import write_lines
from fletching.errors import bad_argument, bad_choice, missing_extra
from fletching.evaluation import read_evaluation_set
from fletching.methods.ullme.config import (
    EMBEDDING_ADAPTER,
    GENERATION_ADAPTER,
    EncoderConfig,
    LoRAConfig,
)
from fletching.methods.ullme.data import (
    TrainingRow,
    ULLMECollator,
    build_columns,
    build_sentence_columns,
    hold_out,
    read_rows,
    read_sentences,
)
from fletching.methods.ullme.evaluation import build_retrieval_set, measure_model
from fletching.methods.ullme.losses import GRLLoss
from fletching.methods.ullme.model import LLMEmbedder
from fletching.methods.ullme.presets import OBJECTIVES, PRECISIONS, PRESETS
from fletching.methods.ullme.settings import GRLSettings
from fletching.methods.ullme.synthetic import save_word_llama, write_rows
from fletching.training import TrainingFolder, describe_run, main_process_first, run_trainer

__all__ = ["ULLMERecipe"]


@dataclass(frozen=True)
class ULLMERecipe(GRLSettings):
    """Fine-tune a causal language model as ULLME and GenC do (arXiv 2408.03402); defaults are GenC's.

    Beside the fields here, every field of `GRLSettings` is one of the recipe's.

    Args:
        base: What training starts from: folder or hub id of a causal language model, or an `LLMEmbedder`.
        objective: ``"grl"``; ``"contrastive"``; ``"simcse"``, on sentences; ``"sft"`` or ``"preference"``,
            which train the generator alone.
        train_data: Files of rows, see ``fletching.methods.ullme.data.read_rows``; for ``"simcse"`` files of
            sentences. Each file is a data set: the rows of a batch are of one, and of one cluster.
        own_negatives_only: Names of those files, without ending, whose rows have no negatives but their own
            (classification, clustering).
        dev_data: What to evaluate on before and after: files of rows, where a query has its own candidates;
            folders as BEIR's; tab-separated sentence pairs.
        held_out: Rows taken out of the training data to evaluate on: each query looks for its positives
            among the texts of all of them.
        n_negatives: Negatives a row, of which there must be that many.
        min_words: Queries and passages of fewer words are dropped; 0 drops none.
        max_rows: Rows of a file to train on; ``None`` uses all.
        query_prompt: Instruction in front of queries; saved with the model.
        document_prompt: Instruction in front of passages, and of sentences; likewise.
        template: As for `LLMEmbedder`; ``None`` takes what suits the model.
        pooling: As for `LLMEmbedder`.
        causal: As for `LLMEmbedder`.
        exclude_prompt: As for `LLMEmbedder`.
        projection: As for `LLMEmbedder`.
        max_seq_length: Longest row in tokens.
        two_adapters: Whether ``"grl"`` trains an adapter that embeds and one that generates, instead of one
            for both; the other objectives have one.
        lora_rank: 0 trains all weights, without adapters.
        lora_alpha: Scale of the adapters.
        lora_dropout: On their input.
        batch_size: Rows of a step, on each device.
        mini_batch_size: Texts in memory at once, by gradient caching; ``None`` holds the whole batch.
        accumulation_steps: Batches whose gradients are added before a step.
        epochs: Passes over the data, unless ``max_steps`` is reached before.
        max_steps: Steps to train; ``None``: as ``epochs`` says.
        learning_rate: At its highest.
        scheduler: A name of transformers.
        min_learning_rate: For the scheduler ``"cosine_with_min_lr"``.
        warmup_ratio: Share of the steps.
        weight_decay: Of AdamW.
        max_grad_norm: 0 clips nothing.
        precision: ``"bf16"``, ``"bf16-mixed"`` or ``"fp32"``.
        gradient_checkpointing: Whether layers are computed again in the backward pass, for less memory.
        save_steps: Steps between checkpoints.
        keep_adapters: Whether to save the adapters, too, in ``adapters``; the model has that of the
            embedding merged in.
        seed: Of everything.
        synthetic: Whether to make up rows and a tiny random model in the output folder, instead of reading
            ``train_data`` and ``base``.

    Raises:
        ArgumentError: If a value is outside its domain.
    """

    base: str = "mistralai/Mistral-7B-Instruct-v0.2"  # GenC; also Meta-Llama-3-8B-Instruct, phi-1_5
    objective: str = "grl"
    train_data: tuple[str, ...] = ()
    own_negatives_only: tuple[str, ...] = ()
    dev_data: tuple[str, ...] = ()
    held_out: int = 0
    n_negatives: int = 1  # GenC
    min_words: int = 0  # ours: counts spaces; reference data: 5
    max_rows: int | None = None
    query_prompt: str = ""  # GenC samples paraphrases from lists that are not public
    document_prompt: str = ""
    template: str | None = None
    pooling: str = "mean"  # GenC
    causal: bool = False  # GenC
    exclude_prompt: bool = True  # GenC
    projection: bool = False  # GenC
    max_seq_length: int = 512  # GenC
    two_adapters: bool = True  # GenC
    lora_rank: int = 16  # GenC
    lora_alpha: int = 32  # GenC
    lora_dropout: float = 0.1  # GenC
    batch_size: int = 512  # GenC, over all devices
    mini_batch_size: int | None = 2  # GenC; for Phi 8
    accumulation_steps: int = 1
    epochs: float = 1.0  # GenC
    max_steps: int | None = 500  # GenC
    learning_rate: float = 2e-4  # GenC; for Phi 1e-4
    scheduler: str = "cosine"  # GenC
    min_learning_rate: float = 0.0
    warmup_ratio: float = 0.1  # GenC
    weight_decay: float = 0.0  # GenC
    max_grad_norm: float = 0.0  # GenC: off
    precision: str = "bf16"  # GenC: bf16-true
    gradient_checkpointing: bool = False
    save_steps: int = 100  # ours
    keep_adapters: bool = False
    seed: int = 2708  # GenC
    synthetic: bool = False

    def __post_init__(self) -> None:
        """Check every value."""
        owner = type(self).__name__
        for name, options in (("objective", OBJECTIVES), ("precision", PRECISIONS)):
            if getattr(self, name) not in options:
                raise bad_choice(owner, name, options, getattr(self, name))
        super().__post_init__()
        for name in ("batch_size", "accumulation_steps", "save_steps", "max_seq_length"):
            self._check_count(name, 1)
        for name in ("lora_rank", "held_out", "min_words", "n_negatives"):
            self._check_count(name, 0)
        for name in ("mini_batch_size", "max_steps", "max_rows"):
            if getattr(self, name) is not None:
                self._check_count(name, 1)
        for name in ("epochs", "learning_rate"):
            if not getattr(self, name) > 0:
                raise bad_argument(owner, name, "positive", getattr(self, name))
        for name in ("min_learning_rate", "weight_decay", "max_grad_norm"):
            if not getattr(self, name) >= 0:
                raise bad_argument(owner, name, "zero or positive", getattr(self, name))
        if not 0 <= self.warmup_ratio < 1:
            raise bad_argument(owner, "warmup_ratio", "from 0 to below 1", self.warmup_ratio)
        EncoderConfig(self.causal, self.pooling, self.exclude_prompt, self.projection)
        if self.lora_rank:
            LoRAConfig(self.lora_rank, self.lora_alpha, self.lora_dropout)
        self._check_objective()

    def _check_objective(self) -> None:
        """Make sure that the objective has what it needs."""
        owner = type(self).__name__
        if self.objective == "preference" and self.preference is None:
            domain = "a preference loss for objective='preference'"
            raise bad_argument(owner, "gen_loss", domain, self.gen_loss)
        settings = self.build_settings()
        if not self.lora_rank and (settings.two_adapters or settings.uses_reference):
            domain = "positive for two adapters, and for the model without its adapters as reference"
            remedy = "Or set two_adapters=False and reference='none'"
            raise bad_argument(owner, "lora_rank", domain, self.lora_rank, remedy)
        if self.objective != "simcse":
            settings.check_candidates(owner, settings.n_positives + self.n_negatives)
        elif self.held_out:
            raise bad_argument(owner, "held_out", "0 for sentences, which have no positives", self.held_out)

    @classmethod
    def from_preset(cls, name: str, **changes: Any) -> ULLMERecipe:
        """A recipe with published settings.

        Args:
            name: ``"genc"``, the released checkpoints, whose settings are the defaults; ``"genc_phi"``, the
                smallest of them; ``"ullme"``, the present code of that name.
            **changes: Fields, instead of those of the preset.

        Returns:
            The recipe.

        Raises:
            ArgumentError: If there is no such preset, or a value is outside its domain.

        Example:
            >>> ULLMERecipe.from_preset("ullme", batch_size=8).temperature
            0.05
        """
        if name not in PRESETS:
            raise bad_choice(f"{cls.__name__}.from_preset", "name", PRESETS, name)
        return cls(**{**PRESETS[name], **changes})

    @classmethod
    def smoke(cls) -> ULLMERecipe:
        """A recipe that finishes in under a minute on a CPU, on made-up rows and a tiny random model."""
        return cls(
            synthetic=True,
            held_out=24,
            batch_size=16,
            mini_batch_size=16,
            max_steps=None,
            epochs=6.0,
            learning_rate=5e-3,
            lora_rank=8,
            max_seq_length=48,
            precision="fp32",
            save_steps=12,
        )

    def build_settings(self) -> GRLSettings:
        """Collect the settings of the loss, as the objective has them."""
        values = {field.name: getattr(self, field.name) for field in fields(GRLSettings)}
        return GRLSettings(**{**values, **OBJECTIVES[self.objective]})

    def run(self, output_dir: str | Path, *, resume: bool = False) -> dict[str, Any]:
        """Train, evaluate and save.

        Args:
            output_dir: Where the model goes; checkpoints go to ``checkpoints`` in it, adapters to
                ``adapters``, made-up data beside them.
            resume: Go on from the last checkpoint there; ends with the weights of a run that was never
                stopped.

        Returns:
            ``{"before": {...}, "after": {...}}``, metrics on ``dev_data`` and the rows held out.

        Raises:
            ArgumentError: If there is nothing to train on, or the run to go on with was begun otherwise.
            DataError: If a file is missing or malformed.
            MissingExtraError: If the ``train`` extra is not installed.
        """
        output = Path(output_dir)
        if self.synthetic:
            return self._run_synthetic(output, resume=resume)
        if not self.train_data:
            raise bad_argument(type(self).__name__, "train_data", "at least one file", self.train_data)
        try:
            from datasets import Dataset, DatasetDict
        except ImportError as error:
            raise missing_extra(type(self).__name__, "datasets and accelerate", "train") from error
        settings = self.build_settings()
        tables, held_out = self._build_tables()
        data = [read_evaluation_set(path) for path in self.dev_data]
        data += [build_retrieval_set(held_out)] if held_out else []
        model = self._open_model(settings)
        folder = TrainingFolder(output, resume=resume)
        free = ("dev_data", "keep_adapters", "save_steps")
        plan = describe_run(self, free=free, train_data=self.train_data)
        folder.keep_plan(type(self).__name__, plan)
        before = folder.keep_before(lambda: measure_model(model, data))

        datasets = {name: Dataset.from_list(rows) for name, rows in tables.items()}
        losses = {
            name: GRLLoss(
                model,
                settings,
                mini_batch_size=self.mini_batch_size,
                cross_row_negatives=self.cross_row_negatives and name not in self.own_negatives_only,
            )
            for name in tables
        }
        is_single = len(tables) == 1
        self._train(
            model,
            folder,
            next(iter(datasets.values())) if is_single else DatasetDict(datasets),
            next(iter(losses.values())) if is_single else losses,
        )
        self._merge(model, folder)
        results = {"before": before, "after": measure_model(model, data)}
        folder.save(model)
        files = [path for path in (*self.train_data, *self.dev_data) if Path(path).is_file()]
        counts = {name: len(rows) for name, rows in tables.items()}
        folder.write_record(self, files=files, results=results, rows=counts, loss=asdict(settings))
        return results

    def _run_synthetic(self, output: Path, *, resume: bool) -> dict[str, Any]:
        rows, base = output / "data" / "rows.jsonl", output / "base"
        source = rows if self.objective != "simcse" else rows.with_suffix(".txt")
        with main_process_first() as is_main:
            if is_main:
                write_rows(rows, seed=self.seed)
                save_word_llama(base, seed=self.seed)
                if source != rows:
                    texts = (text for row in read_rows(rows) for text in (row.query, *row.positives))
                    write_lines(source, dict.fromkeys(texts))
        recipe = replace(self, synthetic=False, train_data=(str(source),), base=str(base))
        return recipe.run(output, resume=resume)

    def _build_tables(self) -> tuple[dict[str, list[dict[str, Any]]], list[TrainingRow]]:
        """Read the files: file name -> columns, and the rows held out of all of them."""
        names = [Path(path).name.split(".")[0] for path in self.train_data]
        if len(set(names)) < len(names):
            raise bad_argument(type(self).__name__, "train_data", "files of different names", names)
        for name in self.own_negatives_only:
            if name not in names:
                raise bad_choice(type(self).__name__, "own_negatives_only", names, name)
        if self.objective == "simcse":
            return {
                name: build_sentence_columns(read_sentences(path), seed=self.seed, limit=self.max_rows)
                for name, path in zip(names, self.train_data, strict=True)
            }, []
        files = {name: list(read_rows(path)) for name, path in zip(names, self.train_data, strict=True)}
        everything = [row for rows in files.values() for row in rows]
        _, held_out = hold_out(everything, self.held_out, seed=self.seed)
        away = {id(row) for row in held_out}
        tables = {
            name: build_columns(
                [row for row in rows if id(row) not in away],
                n_positives=self.n_positives,
                n_negatives=self.n_negatives,
                min_words=self.min_words,
                seed=self.seed,
                limit=self.max_rows,
            )
            for name, rows in files.items()
        }
        return tables, held_out

    def _open_model(self, settings: GRLSettings) -> LLMEmbedder:
        """Open the base and put adapters on it."""
        prompts = {"query": self.query_prompt, "document": self.document_prompt}
        options: dict[str, Any] = {"template": self.template} if self.template else {}
        if self.precision == "bf16":
            options["model_kwargs"] = {"dtype": torch.bfloat16}
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = LLMEmbedder(
                self.base,
                causal=self.causal,
                pooling=self.pooling,
                exclude_prompt=self.exclude_prompt,
                projection=self.projection,
                max_seq_length=self.max_seq_length,
                prompts=prompts,
                **options,
            )
            names = (GENERATION_ADAPTER, EMBEDDING_ADAPTER) if settings.two_adapters else (EMBEDDING_ADAPTER,)
            for name in names if self.lora_rank else ():
                model.add_lora(self.lora_rank, self.lora_alpha, dropout=self.lora_dropout, name=name)
        if self.gradient_checkpointing:  # the trainer's own switch asks for a method of other models
            model.network.model.activation_checkpointing_enable({"use_reentrant": False})
        return model

    def _train(self, model: LLMEmbedder, folder: TrainingFolder, data: Any, loss: Any) -> None:
        from sentence_transformers import SentenceTransformerTrainingArguments

        from fletching.methods.ullme.training import AdapterTrainer, choose_sampler, has_full_batch

        tables = list(data.values()) if isinstance(data, dict) else [data]
        has_min = self.scheduler == "cosine_with_min_lr"
        arguments = SentenceTransformerTrainingArguments(
            **folder.build_arguments(seed=self.seed, save_steps=self.save_steps),
            num_train_epochs=self.epochs,
            max_steps=self.max_steps or -1,
            per_device_train_batch_size=self.batch_size,
            gradient_accumulation_steps=self.accumulation_steps,
            learning_rate=self.learning_rate,
            lr_scheduler_type=self.scheduler,
            lr_scheduler_kwargs={"min_lr": self.min_learning_rate} if has_min else {},
            warmup_steps=self.warmup_ratio,
            optim="adamw_torch",
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
            bf16=self.precision == "bf16-mixed",
            dataloader_drop_last=all(has_full_batch(table, self.batch_size) for table in tables),
            batch_sampler=choose_sampler,
        )
        is_simcse = self.objective == "simcse"
        prompts = dict.fromkeys(("anchor", "positive"), self.document_prompt) if is_simcse else None
        generation = self.build_settings().reads_likelihoods
        collator: Any = ULLMECollator(model, generation=generation, prompts=prompts)
        trainer = AdapterTrainer(
            model=model, args=arguments, train_dataset=data, loss=loss, data_collator=collator
        )
        run_trainer(trainer, folder)

    def _merge(self, model: LLMEmbedder, folder: TrainingFolder) -> None:
        """Turn the trained model into one of its own."""
        if not self.lora_rank:
            return
        network: Any = model.network
        with main_process_first() as is_main:
            for name in list(network.model.peft_config) if is_main and self.keep_adapters else ():
                place = str(folder.output / "adapters" / name)
                with network.use_adapter(name):
                    network.model.save_pretrained(place)
                network.tokenizer.save_pretrained(place)
        model.merge_lora(EMBEDDING_ADAPTER)

    def _check_count(self, name: str, lowest: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
            raise bad_argument(type(self).__name__, name, f"an integer >= {lowest}", value)
