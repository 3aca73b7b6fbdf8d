"""DefSent+ and DefSent as a recipe: from dictionaries to a model, resumable, evaluated, documented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import torch

from fletching.data.lines import write_lines
from fletching.errors import bad_argument, bad_choice, missing_extra
from fletching.methods.defsent_plus.config import BARE_POOLINGS, POOLINGS, ICAConfig, check_number
from fletching.methods.defsent_plus.data import DefinitionSet
from fletching.methods.defsent_plus.evaluation import (
    DefSentPlusEvaluator,
    IsotropyEvaluator,
    measure_definition_ranks,
    read_sts_sets,
)
from fletching.methods.defsent_plus.heads import MaskedWordHead, find_single_words
from fletching.methods.defsent_plus.losses import CLASSES_AT_ONCE
from fletching.methods.defsent_plus.model import DefSentPlusEmbedder
from fletching.methods.defsent_plus.presets import DEFSENT_RATES, MODES, PRESETS
from fletching.methods.defsent_plus.sources import read_definitions, sample_definitions
from fletching.methods.defsent_plus.stages import (
    Evaluate,
    ProgressiveSeparateTrainer,
    Stage,
    check_processes,
    hash_definitions,
)
from fletching.methods.defsent_plus.synthetic import (
    build_synthetic_definitions,
    build_synthetic_pairs,
    save_smoke_encoder,
)
from fletching.methods.defsent_plus.training import TrainingOptions, train_single_words
from fletching.models.inputs import check_count, check_positive
from fletching.training import TrainingFolder, describe_run

__all__ = ["DefSentPlusRecipe"]

_FILLED = ("mode", "base", "backbone", "entry", "pooling", "learning_rates", "ica_stages", "batch_size")
_SPLIT = (0.8, 0.1)  # DefSent: words for training and development; the rest is for the test
_ISOTROPY_TEXTS = 1000


@dataclass(frozen=True)
class DefSentPlusRecipe:
    """Train DefSent+ (Liu 2024, arXiv 2405.16153) or DefSent (Tsukagoshi et al. 2021, arXiv 2105.04339).

    Fields that are ``None`` have the value of the preset. Each stage of DefSent+ writes a model of its own,
    the last one into ``output_dir``, and is not repeated by a run that goes on.

    Args:
        train_data: Dictionaries: a file of tab-separated entries and definitions, or of the authors' form; a
            folder with WordNet's ``data.noun`` and so on; ``.jsonl`` synsets of the Open English WordNet;
            ``"wn"``, ``"wn:LEXICON"`` or ``"nltk"`` for what these packages have. Several are put together.
        preset: A name of ``PRESETS``.
        mode: ``"defsent_plus"``, or ``"defsent"``: words of one token only, by the head for masked words.
        base: What every stage starts from: any embedder or encoder, folder or hub id.
        backbone: What the base was made of: has weights for the projection, or the head for masked words.
        entry: How entries' vectors are built: ``"ac"`` or ``"amp"``.
        pooling: How definitions and sentences are pooled: ``"cls"`` or ``"mean"``; for DefSent also
            ``"max"``.
        learning_rates: One for each stage of DefSent+; one for DefSent, where ``()`` takes the paper's for
            this pooling.
        ica_stages: Stages, from 1, whose entries' vectors are made independent components.
        batch_size: Definitions of a step.
        dev_data: Files of sentence pairs to evaluate on before, after, and after each stage.
        inference_pooling: How the saved model pools, such as ``"prompt"``; ``None`` for as it was trained.
        ica_variance: ``"arbitrary"`` or ``"unit"``, see ``ICAConfig``.
        ica_scale: Multiplies the independent components.
        ica_max_iterations: Most iterations of the analysis, each of which passes over all entries.
        head: What the projection starts from, see ``TrainingOptions``; likewise the next seven.
        activation: What follows the projection.
        multi_positive: Whether a definition's target is uniform over all its entries.
        classes_at_once: Entries whose logits are in memory at once.
        group_by_length: Whether a step reads definitions of like length.
        epochs: Passes over the definitions, of each stage.
        max_tokens: Of a definition.
        save_steps: Optimiser steps between checkpoints.
        bf16: Whether to train in bfloat16 where there is a GPU.
        max_entries: Entries to train on, drawn at random; ``None`` takes all.
        merge_identical: Whether entries with the same definitions are one class.
        encoding: Of tab-separated files; the authors' are ``"utf-16"``.
        clean: Whether to clean tokenized text, see ``clean_definition``.
        words: A table that divides the words of the Open English WordNet.
        split: Which of its parts to train on.
        synthetic: Whether to make up a dictionary, sentence pairs and a small random model in the output
            folder, instead of reading ``train_data`` and ``base``.
        seed: Of the order of the definitions, of dropout, and of what is drawn.
    """

    train_data: tuple[str, ...] = ()
    preset: str = "bert-base"
    mode: str | None = None
    base: str | None = None
    backbone: str | None = None
    entry: str | None = None
    pooling: str | None = None
    learning_rates: tuple[float, ...] | None = None
    ica_stages: tuple[int, ...] | None = None
    batch_size: int | None = None
    dev_data: tuple[str, ...] = ()
    inference_pooling: str | None = None
    ica_variance: str = ICAConfig.variance
    ica_scale: float = ICAConfig.scale
    ica_max_iterations: int = ICAConfig.max_iterations
    head: str = "auto"
    activation: str = "auto"
    multi_positive: bool = False  # reference code
    classes_at_once: int = CLASSES_AT_ONCE  # ours
    group_by_length: bool = False  # reference code: in random order
    epochs: float = 1.0  # reference code, both
    max_tokens: int | None = None
    save_steps: int = 1000  # ours
    bf16: bool = False  # reference code
    max_entries: int | None = None
    merge_identical: bool = True  # ours: the reference code keeps labels that contradict each other
    encoding: str = "utf-8"
    clean: bool = False
    words: str | None = None
    split: str | None = None
    synthetic: bool = False
    seed: int = 42  # ours: the reference code sets none

    def __post_init__(self) -> None:
        """Check every value that can be checked before anything is read."""
        owner = type(self).__name__
        if self.preset not in PRESETS:
            raise bad_choice(owner, "preset", PRESETS, self.preset)
        if self.fill() is not self:  # which was checked when it was made
            return
        if self.mode not in MODES:
            raise bad_choice(owner, "mode", MODES, self.mode)
        if self.inference_pooling is not None and self.inference_pooling not in POOLINGS:
            raise bad_choice(owner, "inference_pooling", POOLINGS, self.inference_pooling)
        check_positive(owner, "batch_size", self.batch_size)
        check_count(owner, "max_entries", self.max_entries)
        self._check_stages(owner)
        self._build_options()

    def fill(self) -> DefSentPlusRecipe:
        """Give every field that is ``None`` the value of the preset, but for those that may be ``None``.

        Returns:
            A recipe in which nothing of the preset is open; the same one if nothing is.
        """
        preset = dict(PRESETS[self.preset])
        family = "roberta" if "roberta" in self.preset else "bert"
        size = "large" if "large" in self.preset else "base"
        if self.mode == "defsent":  # of the same encoder
            kept = {name: preset[name] for name in ("base", "backbone")}
            preset |= PRESETS[f"defsent-{family}-{size}"] | kept
        given = {name: getattr(self, name) for name in _FILLED if getattr(self, name) is not None}
        if self.base is not None and self.base != preset["base"]:
            preset["backbone"] = None  # that of another model
        values = {**preset, **given}
        if values["mode"] == "defsent" and not values["learning_rates"]:
            rate = DEFSENT_RATES[f"{family}-{size}"].get(values["pooling"])
            values["learning_rates"] = () if rate is None else (rate * 1e-6,)
        is_full = all(getattr(self, name) == value for name, value in values.items())
        return self if is_full else replace(self, **values)

    @classmethod
    def smoke(cls) -> DefSentPlusRecipe:
        """A recipe that finishes in under a minute on a CPU: a made-up dictionary, a small random model."""
        return cls(
            synthetic=True,
            entry="amp",
            pooling="mean",
            learning_rates=(2e-3, 2e-3),
            ica_stages=(),
            batch_size=16,
            epochs=12,
            save_steps=40,
        )

    def build_stages(self) -> tuple[Stage, ...]:
        """Build the stages of DefSent+.

        Returns:
            One for each learning rate.

        Raises:
            ArgumentError: If one is outside its domain.
        """
        full = self.fill()
        config = ICAConfig(
            variance=self.ica_variance, scale=self.ica_scale, max_iterations=self.ica_max_iterations
        )
        return tuple(
            Stage(
                entry=str(full.entry),
                pooling=str(full.pooling),
                learning_rate=rate,
                ica=config if number in (full.ica_stages or ()) else False,
            )
            for number, rate in enumerate(full.learning_rates or (), start=1)
        )

    def run(self, output_dir: str | Path, *, resume: bool = False) -> dict[str, Any]:
        """Train, evaluate and save.

        Args:
            output_dir: Where the model goes; checkpoints of its stage go to ``checkpoints`` in it, other
                stages to ``stage_1`` and so on.
            resume: Go on from what is there; ends with the weights of a run that was never stopped.

        Returns:
            ``{"before": {...}, "after": {...}}``: correlations on ``dev_data``, isotropy of vectors of
            definitions; for DefSent also how well definitions find words that were kept back.

        Raises:
            ArgumentError: If there is nothing to train on, or the run to go on with was begun otherwise.
            CheckpointError: If the base cannot be opened, or for DefSent has no head for masked words.
            DataError: If a file is missing or malformed.
            FletchingError: If it is run in several processes.
            MissingExtraError: If the ``train`` extra is not installed.
        """
        owner = type(self).__name__
        for package in ("accelerate", "datasets"):
            if find_spec(package) is None:
                raise missing_extra(owner, package, "train")
        check_processes(owner)
        output = Path(output_dir)
        if self.synthetic:
            return self._run_synthetic(output, resume=resume)
        if not self.train_data:
            raise bad_argument(owner, "train_data", "at least one dictionary", self.train_data)
        full = self.fill()
        definitions = read_definitions(
            self.train_data,
            encoding=self.encoding,
            clean=self.clean,
            words=self.words,
            split=self.split,
            merge_identical=self.merge_identical,
        )
        definitions = sample_definitions(definitions, self.max_entries, seed=self.seed)
        train = full._run_defsent if full.mode == "defsent" else full._run_stages
        return train(output, definitions, self._build_evaluate(definitions), resume)

    def _run_stages(
        self, output: Path, definitions: DefinitionSet, evaluate: Evaluate, resume: bool
    ) -> dict[str, Any]:
        trainer = ProgressiveSeparateTrainer(
            str(self.base),
            definitions,
            self.build_stages(),
            options=self._build_options(),
            evaluate=evaluate,
        )
        model = trainer.train(output, resume=resume)
        after = trainer.records[-1]["metrics"]
        if self.inference_pooling not in (None, self.pooling):
            model.pooling = str(self.inference_pooling)
            model.save_pretrained(str(output))
            after = evaluate(model)
        results = {"before": trainer.before, "after": after}
        return self._finish(output, results, stages=trainer.records, definitions=definitions)

    def _run_defsent(
        self, output: Path, definitions: DefinitionSet, evaluate: Evaluate, resume: bool
    ) -> dict[str, Any]:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)  # of a pooler that the checkpoint lacks, which nothing reads
            model = DefSentPlusEmbedder(str(self.base), pooling=self.pooling)
        if self.max_tokens is not None:
            model.max_seq_length = self.max_tokens
        head = MaskedWordHead.from_pretrained(self.backbone or str(self.base)).to(model.device)
        names = [name for names in definitions.members for name in names]
        tokens = find_single_words(names, model.tokenizer)
        if not tokens:
            remedy = "DefSent+ (mode='defsent_plus') takes all entries"
            domain = "a dictionary with words that are one token of this model"
            raise bad_argument(type(self).__name__, "train_data", domain, self.train_data, remedy)
        train, _, test = _split_words(list(tokens), seed=self.seed)
        examples = _build_word_examples(definitions, tokens)
        held_out = [pair for word in test for pair in examples[word]]

        def measure() -> dict[str, float]:
            ranks = _rank_words(model, head, held_out) if held_out else {}
            return {**evaluate(model), **{f"words_{name}": value for name, value in ranks.items()}}

        folder = TrainingFolder(output, resume=resume)
        free = ("dev_data", "inference_pooling", "save_steps", "train_data")
        plan = {**describe_run(self, free=free), "train_data": hash_definitions(definitions)}
        folder.keep_plan(type(self).__name__, plan)
        before = folder.keep_before(measure)
        rows = [pair for word in train for pair in examples[word]]
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            (rate,) = self.learning_rates or ()
            options = self._build_options()
            train_single_words(model, head, rows, folder, options=options, learning_rate=rate)
        model.eval()
        if self.inference_pooling is not None:
            model.pooling = self.inference_pooling
        results = {"before": before, "after": measure()}
        folder.save(model)
        counts = {"words": len(tokens), "training_words": len(train), "examples": len(rows)}
        return self._finish(output, results, definitions=definitions, **counts)

    def _run_synthetic(self, output: Path, *, resume: bool) -> dict[str, Any]:
        base, dictionary, dev = output / "base", output / "definitions.tsv", output / "dev.tsv"
        if not (resume and dev.is_file()):
            save_smoke_encoder(base, seed=self.seed)
            definitions = build_synthetic_definitions()
            write_lines(dictionary, (f"{entry}\t{definition}" for entry, definition in definitions))
            pairs = build_synthetic_pairs(seed=self.seed)
            write_lines(dev, (f"{pair.score}\t{pair.sentence1}\t{pair.sentence2}" for pair in pairs))
        recipe = replace(
            self,
            synthetic=False,
            base=str(base),
            train_data=(str(dictionary),),
            dev_data=(str(dev),),
        )
        return recipe.run(output, resume=resume)

    def _finish(
        self, output: Path, results: dict[str, Any], *, definitions: DefinitionSet, **facts: Any
    ) -> dict[str, Any]:
        """Write the record."""
        files = [path for path in (*self.train_data, *self.dev_data) if Path(path).is_file()]
        facts["definitions"] = vars(definitions.statistics)
        TrainingFolder(output, resume=True).write_record(self, files=files, results=results, **facts)
        return results

    def _build_evaluate(self, definitions: DefinitionSet) -> Evaluate:
        """Build what measures the model before and after each stage."""
        sts = DefSentPlusEvaluator(read_sts_sets(self.dev_data)) if self.dev_data else None
        texts = list(dict.fromkeys(definition for definition, _ in definitions.examples()))
        drawn = Random(self.seed).sample(texts, min(len(texts), _ISOTROPY_TEXTS))
        isotropy = IsotropyEvaluator(drawn) if len(drawn) > 1 else None

        def evaluate(model: DefSentPlusEmbedder) -> dict[str, float]:
            return {**(sts(model) if sts else {}), **(isotropy(model) if isotropy else {})}

        return evaluate

    def _build_options(self) -> TrainingOptions:
        """Hand on the fields that all stages share, which have the same names there."""
        return TrainingOptions(**{field.name: getattr(self, field.name) for field in fields(TrainingOptions)})

    def _check_stages(self, owner: str) -> None:
        rates = self.learning_rates or ()
        for rate in rates:
            check_number(owner, "learning_rates", rate)
        if self.mode == "defsent":
            if self.pooling not in BARE_POOLINGS:
                raise bad_choice(owner, "pooling", BARE_POOLINGS, self.pooling)
            if len(rates) != 1:
                raise bad_argument(owner, "learning_rates", "one, since DefSent has one stage", rates)
            return
        if not rates:
            raise bad_argument(owner, "learning_rates", "one for each stage, at least one", rates)
        for number in self.ica_stages or ():
            if number not in range(1, len(rates) + 1):
                domain = f"numbers of stages, from 1 to {len(rates)}"
                remedy = "Those of the preset hold until you set others, such as ()"
                raise bad_argument(owner, "ica_stages", domain, self.ica_stages, remedy)
        self.build_stages()


def _split_words(words: list[str], *, seed: int) -> tuple[list[str], list[str], list[str]]:
    """Divide words 8 : 1 : 1 at random, as DefSent does."""
    shuffled = Random(seed).sample(words, len(words))
    first, second = (round(len(words) * sum(_SPLIT[:place])) for place in (1, 2))
    return shuffled[:first], shuffled[first:second], shuffled[second:]


def _build_word_examples(
    definitions: DefinitionSet, tokens: dict[str, int]
) -> dict[str, list[tuple[str, int]]]:
    """List each single word's definitions with its token."""
    return {
        name: [(definition, tokens[name]) for definition in known]
        for names, known in zip(definitions.members, definitions.definitions, strict=True)
        for name in names
        if name in tokens
    }


def _rank_words(
    model: DefSentPlusEmbedder, head: MaskedWordHead, pairs: Sequence[tuple[str, int]]
) -> dict[str, float]:
    """Measure how well definitions find their words among all tokens."""
    vectors = torch.as_tensor(model.encode([text for text, _ in pairs], convert_to_numpy=True))

    def score(places: Sequence[int]) -> torch.Tensor:
        with torch.inference_mode():
            return head(vectors[list(places)].to(model.device)).cpu()

    return measure_definition_ranks(score, [token for _, token in pairs])
