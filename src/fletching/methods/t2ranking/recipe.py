"""The baselines of T2Ranking as a recipe: resumable, evaluated as the authors evaluate, documented."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from fletching.data import stream_run
from fletching.data.lines import write_lines
from fletching.errors import bad_argument, bad_choice, missing_extra
from fletching.evaluation.bm25 import BM25
from fletching.methods.t2ranking.config import T2RankingConfig
from fletching.methods.t2ranking.data import T2RankingDataset
from fletching.methods.t2ranking.evaluation import T2RankingEvaluator, rank_queries
from fletching.methods.t2ranking.functional import STYLES
from fletching.methods.t2ranking.model import build_cross_encoder, build_dual_encoder
from fletching.methods.t2ranking.negatives import StridedNegativeSampler
from fletching.methods.t2ranking.stages import (
    build_sampler,
    train_cross_encoder,
    train_dual_encoder,
    write_run,
)
from fletching.methods.t2ranking.synthetic import CHARACTERS, write_synthetic
from fletching.models.embedder import Embedder
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

__all__ = ["T2RankingRecipe"]

logger = logging.getLogger(__name__)

_BM25 = "dev.bm25.tsv"
_MINED = "train.mined.tsv"
_LISTS = "lists.train.jsonl"
_STAGES = "*_negatives"  # folders of the stages before the last one


@dataclass(frozen=True)
class T2RankingRecipe(T2RankingConfig):
    """Train and evaluate a baseline of T2Ranking (arXiv 2304.03679); every default is the reference's.

    - ``"bm25"``: word overlap with a dictionary of Chinese; nothing is trained, the dev lists are written.
    - ``"dual_encoder"``: two BERTs; with BM25 negatives, then anew with those that this model mines.
    - ``"cross_encoder"``: a BERT on groups of 64; reranks the dev lists of ``candidates``.
    - ``"mvp"``: the method of that name on lists of the graded levels; reranks likewise.

    Args:
        train_data: The folder of the collection, one.
        candidates: Dev lists that rerankers order: ``"bm25"`` or ``"dpr"``, by the files' names.
        max_queries: Training queries to use, the first of the lists; ``None`` uses all.
        dev_queries: Dev queries to evaluate on, drawn at random; ``None`` uses all, 0 evaluates nothing.
        style: How dev queries are measured, see `T2RankingEvaluator`.
        texts_per_step: Texts or pairs in memory at once.
        synthetic: Whether to make up a small collection and a tiny random model in the output folder, instead
            of reading ``train_data`` and ``base``.
    """

    train_data: tuple[str, ...] = ()
    candidates: str = "bm25"  # README: the first of two
    max_queries: int | None = None
    dev_queries: int | None = None
    style: str = "t2"  # README
    texts_per_step: int = 64  # ours: the reference holds a whole batch
    synthetic: bool = False

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        owner = type(self).__name__
        if self.style not in STYLES:
            raise bad_choice(owner, "style", STYLES, self.style)
        for name, lowest in (("max_queries", 1), ("dev_queries", 0), ("texts_per_step", 1)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= lowest):
                raise bad_argument(owner, name, f"an integer >= {lowest}", value)

    @classmethod
    def smoke(cls) -> T2RankingRecipe:
        """A recipe that finishes in under a minute on a CPU, on made-up passages and a tiny random model."""
        return cls(
            synthetic=True,
            negatives=("bm25",),
            group_size=4,
            batch_size=12,
            learning_rate=1e-3,
            epochs=20,
            eval_epochs=10,
            passage_tokens=64,
            pair_tokens=64,
        )

    def run(self, output_dir: str | Path, *, resume: bool = False) -> dict[str, Any]:
        """Train, evaluate and save.

        Args:
            output_dir: Where the model goes; checkpoints go to ``checkpoints`` in it, the models of earlier
                stages, mined lists and made-up data beside them.
            resume: Go on from the last checkpoint there; ends with the weights of a run that was never
                stopped.

        Returns:
            ``{"before": {...}, "after": {...}}``, metrics on the dev queries.

        Raises:
            ArgumentError: If there is nothing to train on, or for BM25 nothing to evaluate on; or the run to
                go on with was begun otherwise.
            DataError: If a file is missing or malformed.
            MissingExtraError: If the ``train`` extra, or for BM25 the ``evaluate`` extra, is not installed.
        """
        output = Path(output_dir)
        if self.synthetic:
            return self._run_synthetic(output, resume=resume)
        if len(self.train_data) != 1:
            raise bad_argument(
                type(self).__name__, "train_data", "the folder of one collection", self.train_data
            )
        train = T2RankingDataset(self.train_data[0], "train")
        dev = train.open_split("dev")
        runners = {
            "bm25": self._run_bm25,
            "dual_encoder": self._run_dual_encoder,
            "cross_encoder": self._run_cross_encoder,
            "mvp": self._run_mvp,
        }
        if self.baseline != "bm25":
            _check_training_packages()
        if not resume:
            stages = (f"{_STAGES}/checkpoints", f"{_STAGES}/{RESULTS_FILE}")
            forget_run(output, *stages, _MINED, _LISTS, _BM25)
        plan = describe_run(self, free=("candidates", "dev_queries", "style"), train_data=_list_files(train))
        TrainingFolder(output, resume=resume).keep_plan(type(self).__name__, plan)
        return runners[self.baseline](output, train, dev, resume)

    def _run_synthetic(self, output: Path, *, resume: bool) -> dict[str, Any]:
        collection, base = output / "collection", output / "base"
        with main_process_first() as is_main:
            if is_main:
                write_synthetic(collection, seed=self.seed)
                save_character_bert(base, CHARACTERS, seed=self.seed)
        recipe = replace(self, synthetic=False, train_data=(str(collection),), base=str(base))
        return recipe.run(output, resume=resume)

    def _run_bm25(
        self, output: Path, train: T2RankingDataset, dev: T2RankingDataset, resume: bool
    ) -> dict[str, Any]:
        evaluator = self._build_evaluator(dev)
        if evaluator is None:
            raise bad_argument(type(self).__name__, "dev_queries", "positive for 'bm25'", self.dev_queries)
        folder = TrainingFolder(output, resume=resume)
        path = output / _BM25
        with main_process_first() as is_main:
            if is_main and not path.is_file():
                found = rank_queries(BM25("chinese"), evaluator.queries, train.corpus, depth=self.depth)
                write_run(path, found)
        run = _fill_up(stream_run(path), evaluator.queries)
        results = {"before": {}, "after": evaluator.measure(run)}
        self._write_record(folder, train, results)
        return results

    def _run_dual_encoder(
        self, output: Path, train: T2RankingDataset, dev: T2RankingDataset, resume: bool
    ) -> dict[str, Any]:
        stages = self.resolve("negatives")
        evaluator = self._build_evaluator(dev)
        results: dict[str, Any] = {}
        previous: Path | None = None
        for number, stage in enumerate(stages):
            place = output if number == len(stages) - 1 else output / f"{stage}_negatives"
            if place != output and resume and (place / RESULTS_FILE).is_file():
                logger.info("Stage %r is done.", stage)
                previous = place
                continue
            if stage == "self_mined":
                assert previous is not None  # the configuration saw to it
                self._mine(previous, output / _MINED, train)
                sampler = build_sampler(self, train, source="mined", folder=output)
            else:
                sampler = build_sampler(self, train, source=stage)
            folder = TrainingFolder(place, resume=resume)
            model = build_dual_encoder(
                self.base,
                query_tokens=self.query_tokens,
                passage_tokens=self.passage_tokens,
                seed=self.seed,
            )
            results = self._train(model, train_dual_encoder, folder, evaluator, train, sampler)
            previous = place
        return results

    def _run_cross_encoder(
        self, output: Path, train: T2RankingDataset, dev: T2RankingDataset, resume: bool
    ) -> dict[str, Any]:
        folder = TrainingFolder(output, resume=resume)
        evaluator = self._build_evaluator(dev, candidates=self._read_candidates(dev))
        model = build_cross_encoder(self.base, pair_tokens=self.pair_tokens, seed=self.seed)
        (source,) = self.resolve("negatives")
        sampler = build_sampler(self, train, source=source)
        return self._train(model, train_cross_encoder, folder, evaluator, train, sampler)

    def _run_mvp(
        self, output: Path, train: T2RankingDataset, dev: T2RankingDataset, resume: bool
    ) -> dict[str, Any]:
        spec = registry().get("mvp")
        assert spec.recipe is not None
        recipe_class: Any = registry().resolve(spec.recipe)
        folder = TrainingFolder(output, resume=resume)
        (source,) = self.resolve("negatives")
        lists = output / _LISTS
        with main_process_first() as is_main:
            if is_main and not lists.is_file():
                _write_graded_lists(build_sampler(self, train, source=source), train, lists)
        batch_size = self.resolve("batch_size")
        recipe = recipe_class(
            base=self.base,
            train_data=(str(lists),),
            passages_per_list=self.resolve("group_size"),
            lists_per_batch=batch_size,
            lists_per_step=_find_divisor(batch_size, self.texts_per_step // self.resolve("group_size")),
            learning_rate=self.resolve("learning_rate"),
            epochs=self.resolve("epochs"),
            seed=self.seed,
        )
        recipe.run(output, resume=resume)
        model = load(output)
        evaluator = self._build_evaluator(dev, candidates=self._read_candidates(dev))
        results = {"before": {}, "after": evaluator(model) if evaluator else {}}
        self._write_record(folder, train, results, lists=str(lists.name))
        return results

    def _train(
        self,
        model: Any,
        train_model: Any,
        folder: TrainingFolder,
        evaluator: T2RankingEvaluator | None,
        train: T2RankingDataset,
        sampler: StridedNegativeSampler,
    ) -> dict[str, Any]:
        """Run one stage: evaluate, train, evaluate, save."""
        before = folder.keep_before(lambda: evaluator(model) if evaluator else {})
        train_model(self, model, sampler, folder, evaluator)
        results = {"before": before, "after": evaluator(model) if evaluator else {}}
        folder.save(model)
        self._write_record(folder, train, results, rows=len(sampler))
        return results

    def _mine(self, model_folder: Path, path: Path, train: T2RankingDataset) -> None:
        """Search the passages with the model of the stage before, for every training query, once."""
        ids = islice((query for query in train.queries if query in train.positives), self.max_queries)
        queries = {query: train.queries[query] for query in ids}
        n_positives = max(len(train.positives[query]) for query in queries)
        depth = self.resolve("window") + n_positives  # positives are dropped before the window is cut
        with main_process_first() as is_main:
            if is_main and not path.is_file():
                model = Embedder(str(model_folder))
                write_run(path, rank_queries(model, queries, train.corpus, depth=depth))

    def _choose_dev_queries(self, dev: T2RankingDataset) -> dict[str, str]:
        keys = sorted(dev.queries)
        if self.dev_queries is not None and self.dev_queries < len(keys):
            keys = sorted(Random(self.seed).sample(keys, self.dev_queries))
        return {key: dev.queries[key] for key in keys}

    def _read_candidates(self, dev: T2RankingDataset) -> dict[str, list[str]]:
        if self.dev_queries == 0:
            return {}
        chosen = self._choose_dev_queries(dev)
        lists = dev.stream_run(self.candidates)
        return {query: ranking[: self.depth] for query, ranking in lists if query in chosen}

    def _build_evaluator(
        self, dev: T2RankingDataset, *, candidates: dict[str, list[str]] | None = None
    ) -> T2RankingEvaluator | None:
        if self.dev_queries == 0:
            return None
        return T2RankingEvaluator(
            self._choose_dev_queries(dev),
            dev.corpus,
            dev.positives,
            style=self.style,
            candidates=candidates,
            levels=dev.qrels_graded,
            name="dev",
        )

    def _write_record(
        self, folder: TrainingFolder, train: T2RankingDataset, results: dict[str, Any], **facts: Any
    ) -> None:
        folder.write_record(self, files=_list_files(train), results=results, **facts)


def _list_files(train: T2RankingDataset) -> list[Path]:
    names = ("queries.*.tsv*", "qrels.*.tsv*", "collection.tsv")
    return sorted(path for name in names for path in train.path.glob(name))


def _check_training_packages() -> None:
    for package in ("accelerate", "datasets"):
        if find_spec(package) is None:
            raise missing_extra("T2RankingRecipe", package, "train")


def _fill_up(
    run: Iterable[tuple[str, Mapping[str, float]]], queries: Iterable[str]
) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Add the queries for which nothing was found: a file of lists has no row for them."""
    missing = dict.fromkeys(queries)
    for query, scores in run:
        missing.pop(query, None)
        yield query, scores
    for query in missing:
        yield query, {}


def _write_graded_lists(sampler: StridedNegativeSampler, train: T2RankingDataset, path: Path) -> None:
    """Write a list for each training query: a positive and negatives, labelled with their levels."""

    def lines() -> Iterator[str]:
        for query in sampler.query_ids:
            positive, negatives = sampler.sample_ids(query)
            ids = [positive, *negatives]
            levels = train.qrels_graded.get(query, {})
            record = {
                "query": train.queries[query],
                "documents": [train.corpus[passage] for passage in ids],
                "labels": [float(levels.get(passage, 0)) for passage in ids],
                "source": "t2ranking",
            }
            yield json.dumps(record, ensure_ascii=False)

    write_lines(path, lines())


def _find_divisor(number: int, most: int) -> int:
    """Return the largest divisor that is at most ``most``, at least 1."""
    return max(
        divisor for divisor in range(1, number + 1) if number % divisor == 0 and divisor <= max(most, 1)
    )
