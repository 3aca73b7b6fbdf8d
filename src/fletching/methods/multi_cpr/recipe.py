"""Train a baseline of Multi-CPR, and measure it: resumable, documented, never tuned on the test set."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from fletching.data.lines import read_json_lines, write_lines
from fletching.data.runs import write_run
from fletching.errors import bad_argument
from fletching.evaluation.bm25 import BM25
from fletching.methods.multi_cpr.config import BASE, BASELINES, DOMAINS, SCORES, MultiCPRConfig, check_choice
from fletching.methods.multi_cpr.data import MultiCPRDataset, QueryKey
from fletching.methods.multi_cpr.evaluation import MultiCPREvaluator, measure_rankings, read_rankings
from fletching.methods.multi_cpr.negatives import format_candidates, format_lists, sample_pool
from fletching.methods.multi_cpr.synthetic import write_synthetic
from fletching.methods.multi_cpr.training import (
    build_cross_encoder,
    build_dual_encoder,
    fill_defaults,
    train_cross_encoder,
    train_dual_encoder,
)
from fletching.models.loading import load
from fletching.plugins import registry
from fletching.training import (
    TrainingFolder,
    describe_run,
    forget_run,
    main_process_first,
    save_character_bert,
)
from fletching.training.recipe import RESULTS_FILE

logger = logging.getLogger(__name__)

_SPLIT_SEED = 2021  # the same development set for every baseline, whatever its seed
_WORDS = "bm25"
_RUNS = "runs"  # what a first stage found
_MVP_MEASURES = {"dev_ndcg_at_10"}

Candidates = dict[QueryKey, list[str]]


class _Splits(NamedTuple):
    """What a run trains and measures on."""

    train: MultiCPRDataset
    development: MultiCPRDataset
    test: MultiCPRDataset


@dataclass(frozen=True)
class MultiCPRRecipe(MultiCPRConfig):
    """Train a baseline on a domain (Long et al., SIGIR 2022, arXiv 2203.03367); defaults are the reference's.

    Development queries are cut off the training queries, and searched among a sample of the passages. The
    test set, the files' ``dev`` split, is measured once, after training.

    Args:
        train_data: The folder that holds the domains, see ``MultiCPRDataset``; one.
        domain: ``"ecom"``, ``"medical"`` or ``"video"``.
        baseline: ``"dual_encoder"``; ``"cross_encoder"`` or ``"mvp"``, which rerank what ``first_stage``
            found; or ``"bm25"``, which is only measured.
        base: What training starts from: a BERT, or a model of the kind that is trained, as a folder or hub
            id. A folder of ``pretrain_on_passages`` makes BERT-CT.
        first_stage: Where the negatives and candidates of rerankers come from: ``"bm25"`` or a dense
            embedder. Reference: the dual encoder of the same domain.
        score: How vectors are compared in a search: ``"cosine"``, ``"l2"`` or ``"dot"``. Training compares by
            the cosine whatever this says.
        lower_case: Whether a new dual encoder lower-cases texts.
        development_queries: Training queries that become the development set, not trained on.
        development_random: Passages of the development set beside those that answer its queries.
        development_depth: Candidates of a development query that rerankers order.
        evaluate_test: Whether to measure the test set at the end.
        n_random: Passages beside those that answer a query, in the test set and where negatives are searched:
            quicker, and not comparable with anything published. ``None`` takes all passages.
        max_queries: Queries to train on; ``None`` takes all.
        texts_per_step: Pairs of a cross-encoder in memory at once.
        save_steps: Optimiser steps between checkpoints.
        synthetic: Whether to make up small domains and a tiny random model in the output folder, instead of
            reading ``train_data`` and ``base``.

    Raises:
        ArgumentError: If a value is outside its domain.
    """

    train_data: tuple[str, ...] = ()
    domain: str = "ecom"
    baseline: str = "dual_encoder"
    base: str = BASE
    first_stage: str = _WORDS  # ours: it needs no training
    score: str = "cosine"  # the training's; reference search: "l2"
    lower_case: bool = True  # reference code
    development_queries: int = 1000  # ours
    development_random: int = 10_000  # ours
    development_depth: int = 100  # reference script: in training
    evaluate_test: bool = True
    n_random: int | None = None
    max_queries: int | None = None
    texts_per_step: int = 64  # a batch of the reference script
    save_steps: int = 1000  # ours
    synthetic: bool = False

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        owner = type(self).__name__
        check_choice(owner, "domain", DOMAINS, self.domain)
        check_choice(owner, "baseline", BASELINES, self.baseline)
        check_choice(owner, "score", SCORES, self.score)
        for name, lowest in (
            ("development_queries", 1),
            ("development_random", 0),
            ("development_depth", 10),
            ("n_random", 0),
            ("max_queries", 1),
            ("texts_per_step", 1),
            ("save_steps", 1),
        ):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= lowest):
                raise bad_argument(owner, name, f"an integer >= {lowest}", value)

    @classmethod
    def smoke(cls) -> MultiCPRRecipe:
        """A recipe that finishes in under a minute on a CPU, with made-up texts and a tiny random model."""
        return cls(
            synthetic=True,
            learning_rate=3e-3,
            epochs=4.0,
            batch_size=8,
            accumulation_steps=1,
            max_tokens=64,
            depth=30,
            pool_size=20,
            development_queries=40,
            development_random=200,
            development_depth=20,
            save_steps=20,
        )

    def run(self, output_dir: str | Path, *, resume: bool = False) -> dict[str, Any]:
        """Train, measure and save.

        Args:
            output_dir: Where the model goes; checkpoints go to ``checkpoints`` in it, what a first stage
                found to ``runs``.
            resume: Go on from the last checkpoint there; ends with the weights of a run that was never
                stopped.

        Returns:
            ``{"before": {...}, "after": {...}}``: ``development_mrr_at_10`` and so on; ``test_...`` only
            after. For rerankers, ``test_first_stage_...`` says what the candidates were before.

        Raises:
            ArgumentError: If there is no data, there are too few queries, or the run to go on with was begun
                otherwise.
            DataError: If a file is missing or malformed.
            MissingExtraError: If an extra is not installed.
        """
        self._find_root(Path(output_dir))  # nothing is written without data
        if not resume:
            forget_run(output_dir, _RUNS)
        folder = TrainingFolder(output_dir, resume=resume)
        splits = self._open_splits(folder.output)
        files = [*splits.train.paths, *splits.test.paths]
        free = ("save_steps", "evaluate_test")
        folder.keep_plan(type(self).__name__, describe_run(self, free=free, train_data=files))
        runs: dict[str, Callable[..., dict[str, Any]]] = {
            "bm25": self._run_bm25,
            "dual_encoder": self._run_dual_encoder,
            "cross_encoder": self._run_cross_encoder,
            "mvp": partial(self._run_mvp, resume=resume),
        }
        results = runs[self.baseline](folder, splits)
        sizes = {name: len(split.qrels) for name, split in splits._asdict().items()}
        names = {name: split.name for name, split in splits._asdict().items()}
        folder.write_record(self, files=files, results=results, queries=sizes, data_sets=names)
        return results

    def is_done(self, output_dir: str | Path) -> bool:
        """Say whether a run has come to its end.

        Args:
            output_dir: As of the run.

        Returns:
            True if its results are there.
        """
        return (Path(output_dir) / RESULTS_FILE).is_file()

    def open_test(self, output_dir: str | Path) -> MultiCPRDataset:
        """Open the test set that a run measures, with the passages that are left of it.

        Args:
            output_dir: As of the run; a made-up collection is in it.

        Returns:
            The files' ``dev`` split.

        Raises:
            DataError: If a file is missing or malformed.
        """
        dataset = MultiCPRDataset(self._find_root(Path(output_dir)), self.domain, "dev")
        return _shrink(dataset, self.n_random)

    # --- the baselines ---

    def _run_bm25(self, folder: TrainingFolder, splits: _Splits) -> dict[str, Any]:
        after: dict[str, float] = {}
        for name, found in self._find_all_candidates(folder, splits, BM25("chinese")).items():
            after |= _measure(name, getattr(splits, name), found, self.depth)
        return {"before": {}, "after": after}

    def _run_dual_encoder(self, folder: TrainingFolder, splits: _Splits) -> dict[str, Any]:
        config = fill_defaults(self, self.baseline)
        model = build_dual_encoder(
            self._find_base(folder.output, splits.train),
            max_tokens=self.max_tokens,
            lower_case=self.lower_case,
            score=self.score,
            seed=config.seed or 0,
        )
        options: dict[str, Any] = {"score": self.score, "depth": self.depth}
        development = MultiCPREvaluator(splits.development, name="development", **options)
        before = folder.keep_before(lambda: development(model))
        train_dual_encoder(model, splits.train, config=config, folder=folder, save_steps=self.save_steps)
        after = development(model)
        if self.evaluate_test:
            after |= MultiCPREvaluator(splits.test, name="test", **options)(model)
        folder.save(model)
        return {"before": before, "after": after}

    def _run_cross_encoder(self, folder: TrainingFolder, splits: _Splits) -> dict[str, Any]:
        config = fill_defaults(self, self.baseline)
        assert config.seed is not None  # filled in
        retriever = self._open_first_stage()
        pools = self._find_pools(folder, splits.train, model=retriever, seed=config.seed)
        candidates = self._find_all_candidates(folder, splits, retriever)
        model = build_cross_encoder(
            self._find_base(folder.output, splits.train), max_tokens=self.max_tokens, seed=config.seed
        )
        before = folder.keep_before(lambda: self._measure_development(model, splits, candidates))
        train_cross_encoder(
            model,
            splits.train,
            pools,
            config=config,
            folder=folder,
            save_steps=self.save_steps,
            texts_per_step=self.texts_per_step,
        )
        after = self._measure_reranker(model, splits, candidates)
        folder.save(model)
        return {"before": before, "after": after}

    def _run_mvp(self, folder: TrainingFolder, splits: _Splits, *, resume: bool) -> dict[str, Any]:
        """Hand lists of the first stage to the recipe of MVP, whose loss reads their order."""
        seed = 0 if self.seed is None else self.seed  # MVP's own
        retriever = self._open_first_stage()
        pools = self._find_pools(folder, splits.train, model=retriever, seed=seed)
        candidates = self._find_all_candidates(folder, splits, retriever)
        lists, dev_lists = (folder.output / _RUNS / f"{name}.jsonl" for name in ("lists", "dev_lists"))
        with main_process_first() as is_main:
            if is_main:
                write_lines(lists, format_lists(splits.train, pools, size=self.group_size, seed=seed))
                shown = {key: ids[: self.development_depth] for key, ids in candidates["development"].items()}
                write_lines(dev_lists, format_candidates(splits.development, shown))
        methods = registry()
        recipe_name = methods.get("mvp").recipe
        assert recipe_name is not None  # it ships with fletching
        recipe_class: Any = methods.resolve(recipe_name)
        chosen = {"learning_rate": self.learning_rate, "epochs": self.epochs, "seed": self.seed}
        if self.batch_size is not None:
            chosen["lists_per_step"] = self.batch_size
            chosen["lists_per_batch"] = self.batch_size * (self.accumulation_steps or 1)
        recipe = recipe_class(
            base=self._find_base(folder.output, splits.train),
            train_data=(str(lists),),
            dev_data=(str(dev_lists),) if dev_lists.stat().st_size else (),
            max_seq_length=self.max_tokens,
            eval_steps=self.save_steps,
            **{name: value for name, value in chosen.items() if value is not None},
        )
        results = recipe.run(folder.output, resume=resume)
        before, after = (
            {
                f"development_{name.removeprefix('dev_')}": results[time][name]
                for name in _MVP_MEASURES & results[time].keys()
            }
            for time in ("before", "after")
        )
        return {
            "before": before,
            "after": after | self._measure_reranker(load(folder.output), splits, candidates),
        }

    # --- what they share ---

    def _open_splits(self, output: Path) -> _Splits:
        everything = MultiCPRDataset(self._find_root(output), self.domain, "train")
        train, held = everything.hold_out(self.development_queries, seed=_SPLIT_SEED)
        if self.max_queries is not None:
            train = train.take(self.max_queries, seed=_SPLIT_SEED)
        return _Splits(train, _shrink(held, self.development_random), self.open_test(output))

    def _find_root(self, output: Path) -> Path:
        if self.synthetic:
            root = output / "collection"
            is_whole = (root / "video" / "qrels.train.tsv").is_file()  # the last one that is written
            with main_process_first() as is_main:
                if is_main and not is_whole:
                    write_synthetic(root)
            return root
        if len(self.train_data) != 1:
            domain = "the folder that holds the domains, one"
            raise bad_argument(type(self).__name__, "train_data", domain, self.train_data)
        return Path(self.train_data[0])

    def _find_base(self, output: Path, dataset: MultiCPRDataset) -> str:
        if not self.synthetic:
            return self.base
        base = output / "base"
        with main_process_first() as is_main:
            if is_main:
                texts = [*dataset.queries.values(), *(text for _, text in dataset.stream_passages())]
                save_character_bert(base, texts)
        return str(base)

    def _open_first_stage(self) -> Any:
        return BM25("chinese") if self.first_stage == _WORDS else load(self.first_stage, kind="embedder")

    def _find_candidates(
        self, folder: TrainingFolder, name: str, dataset: MultiCPRDataset, *, model: Any
    ) -> Candidates:
        """Search the passages of a data set, or read what an earlier run found; both as the file has it."""
        path = folder.output / _RUNS / f"{name}.tsv"
        with main_process_first() as is_main:
            if is_main and not path.is_file():
                path.parent.mkdir(exist_ok=True)
                evaluator = MultiCPREvaluator(dataset, score=self.score, depth=self.depth)
                write_run(path, {key.id: found for key, found in evaluator.search(model)})
        rankings = read_rankings(path, split=dataset.split)
        return {key: rankings.get(key, []) for key in dataset.qrels}

    def _find_pools(
        self, folder: TrainingFolder, train: MultiCPRDataset, *, model: Any, seed: int
    ) -> dict[QueryKey, list[str]]:
        """Search negatives for every training query, or read those of an earlier run."""
        path = folder.output / _RUNS / "pools.jsonl"
        with main_process_first() as is_main:
            if is_main and not path.is_file():
                path.parent.mkdir(exist_ok=True)
                dataset = _shrink(train, self.n_random)
                hits = MultiCPREvaluator(dataset, score=self.score, depth=self.depth).search(model)
                positives = dataset.positives
                pools = (
                    (key, sample_pool(list(found), positives[key], size=self.pool_size, generator=generator))
                    for key, found in hits
                    for generator in (Random(f"{seed} {key.id}"),)
                )
                write_lines(path, (json.dumps({"query": key.id, "pool": pool}) for key, pool in pools))
        read = {QueryKey(train.split, row["query"]): row["pool"] for _, row in read_json_lines(path)}
        if n_empty := sum(not read.get(key) for key in train.qrels):
            logger.warning("No negatives were found for %d of %d queries.", n_empty, len(train.qrels))
        return read

    def _find_all_candidates(
        self, folder: TrainingFolder, splits: _Splits, model: Any
    ) -> dict[str, Candidates]:
        names = ("development", "test") if self.evaluate_test else ("development",)
        return {
            name: self._find_candidates(folder, name, getattr(splits, name), model=model) for name in names
        }

    def _measure_development(
        self, model: Any, splits: _Splits, candidates: Mapping[str, Candidates]
    ) -> dict[str, float]:
        found = candidates["development"]
        evaluator = MultiCPREvaluator(
            splits.development, depth=self.development_depth, candidates=found, name="development"
        )
        return evaluator(model)

    def _measure_reranker(
        self, model: Any, splits: _Splits, candidates: Mapping[str, Candidates]
    ) -> dict[str, float]:
        """Measure a trained reranker on both sets, with what its first stage reached beside it."""
        metrics = self._measure_development(model, splits, candidates)
        if self.evaluate_test:
            found = candidates["test"]
            metrics |= _measure("test_first_stage", splits.test, found, self.depth)
            metrics |= MultiCPREvaluator(splits.test, depth=self.depth, candidates=found, name="test")(model)
        return metrics


def _shrink(dataset: MultiCPRDataset, n_random: int | None) -> MultiCPRDataset:
    """Sample the passages of a data set; where there are no more than that, keep all."""
    if n_random is None or len(dataset.corpus) - len(set(dataset.positives.values())) <= n_random:
        return dataset
    return dataset.sample_corpus(n_random, seed=_SPLIT_SEED)


def _measure(
    prefix: str, dataset: MultiCPRDataset, rankings: Mapping[QueryKey, Sequence[str]], depth: int
) -> dict[str, float]:
    measured = measure_rankings(rankings, dataset.positives, depth=depth)
    return {f"{prefix}_{name}": value for name, value in measured.items() if name != "queries"}
