"""`frontier`: quality, latency and bytes of an embedder at every depth and width, from one pass."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.base.evaluation import BaseEvaluator

from fletching.errors import bad_argument, bad_choice, missing_extra
from fletching.evaluation.cache import make_folder
from fletching.evaluation.data_set import EvaluationSet, STSSet, read_evaluation_set
from fletching.evaluation.planning import check_seed
from fletching.evaluation.results import Difference
from fletching.evaluation.sts import MEASURES, evaluate_sts
from fletching.methods.two_d_matryoshka.depth_vectors import DepthEncoder, cut_vectors, has_unit_length
from fletching.methods.two_d_matryoshka.evaluation import ElasticEvaluator
from fletching.methods.two_d_matryoshka.frontiers import Frontier, FrontierPoint, mark_best
from fletching.methods.two_d_matryoshka.retrieval import rank_at_sizes
from fletching.methods.two_d_matryoshka.sizes import Size, open_elastic, plan_sizes
from fletching.methods.two_d_matryoshka.timing import BATCH_SIZE, N_TOKENS, describe_device, time_depths
from fletching.metrics import Interval, bootstrap_interval, evaluate_run, paired_bootstrap, permutation_test
from fletching.metrics.measures import parse_measure
from fletching.models.inputs import check_positive
from fletching.nn import check_num_layers

__all__ = ["PRECISIONS", "frontier"]

PRECISIONS = {"float32": 4, "float16": 2}
"""What vectors may be stored in, and the bytes of a number."""

_OWNER = "frontier"
_LEVEL = 0.95
_DEPTH = 1000  # passages that a search returns, as in `evaluate`
_BEYOND = 100  # passages kept beyond the cut of a measure: those that tie with its last
_CUT = re.compile(r"_at_(\d+)$")
_SENTENCES = ("sentence1", "sentence2")
_SAME = 1e-6  # similarities that differ by rounding only


@dataclass(frozen=True)
class _Quality:
    """What one size reached."""

    score: float
    interval: Interval | None = None
    difference: Difference | None = None


@dataclass(frozen=True)
class _Settings:
    """What holds for all sizes of a call."""

    measure: str | None
    document_layers: int | None
    precision: str
    n_resamples: int
    seed: int


def frontier(
    model: Any,
    data: str | Path | EvaluationSet | STSSet | BaseEvaluator,
    *,
    layers: Sequence[int] | None = None,
    dims: Sequence[int] | None = None,
    measure: str | None = None,
    document_layers: int | None = None,
    precision: str = "float32",
    measure_latency: bool = True,
    batch_size: int = BATCH_SIZE,
    n_tokens: int = N_TOKENS,
    n_resamples: int = 2000,
    seed: int = 0,
    cache: str | Path | None = None,
    show_progress_bar: bool | None = None,
    **model_options: Any,
) -> Frontier:
    """Measure quality, latency and bytes of an embedder at every depth and width.

    Each text is encoded once for all sizes: the states after each layer go through what follows the network,
    and are cut to each width. That gives the vectors of the cut models themselves. Any embedder of
    sentence-transformers will do; one that was not trained for it loses much where it is cut.

    The full size is always measured, since the others are compared with it.

    Args:
        model: A checkpoint name, a folder or a hub id; or a ``SentenceTransformer``.
        data: A folder or file that `read_evaluation_set` reads, or what it returns: sentence pairs, which are
            compared by cosine, or judged queries with passages. Or an evaluator of sentence-transformers,
            whose primary metric is then the score, without intervals.
        layers: Numbers of layers; ``None`` takes those that the model was trained for, else all; of more than
            twelve, twelve that are evenly spread.
        dims: Widths; ``None`` takes those that the model was trained for, else the full one and the four
            highest powers of two below.
        measure: ``"spearman"`` (``None``) or ``"pearson"`` for pairs; ``"ndcg_at_10"`` (``None``), or another
            name of `evaluate_run`, for queries. ``None`` for an evaluator.
        document_layers: Layers that run for passages at every size, while queries are cut: passages are
            encoded ahead, and only queries are in a hurry. The depths of the two sides were not made for one
            another, so that this is something to measure. ``None`` cuts both sides alike.
        precision: What vectors are stored in, ``"float32"`` or ``"float16"``; scores are those of vectors
            that were rounded so.
        measure_latency: Whether to time the depths.
        batch_size: Texts of the batch that is timed.
        n_tokens: Tokens of each of them.
        n_resamples: Draws of each interval and test.
        seed: Of the draws.
        cache: Folder where vectors are kept while they come in: a call that was interrupted goes on where it
            was. ``None`` keeps nothing.
        show_progress_bar: ``None``: if the ``fletching`` logger is at INFO and stderr is a terminal.
        **model_options: Arguments of `fletching.load`, where it opens the model.

    Returns:
        The sizes; ``select()`` chooses one.

    Raises:
        ArgumentError: If an argument is outside its domain, or the model is no embedder with layers.
        CheckpointError: If the name belongs to no checkpoint.
        DataError: If the data cannot be read, or a candidate has no text.
        FletchingError: If the model computes NaN.
        MissingExtraError: If a package is not installed.
    """
    if precision not in PRECISIONS:
        raise bad_choice(_OWNER, "precision", PRECISIONS, precision)
    for name, value in (("batch_size", batch_size), ("n_tokens", n_tokens), ("n_resamples", n_resamples)):
        check_positive(_OWNER, name, value)
    check_seed(_OWNER, seed)
    if isinstance(data, (str, Path)):
        data = read_evaluation_set(data, show_progress_bar=show_progress_bar)
    measure = _choose_measure(data, measure)
    if document_layers is not None and not isinstance(data, EvaluationSet):
        raise bad_argument(_OWNER, "document_layers", "left out: the data are no queries", document_layers)
    if isinstance(data, BaseEvaluator) and (cache is not None or precision != "float32"):
        raise bad_argument(_OWNER, "data", "no evaluator where `cache` or `precision` is given", data)
    if cache is not None:
        make_folder(_OWNER, cache, data="depths")
    name = str(model) if isinstance(model, (str, Path)) else _name_model(model)
    model = open_elastic(_OWNER, model, **model_options)
    sizes = plan_sizes(_OWNER, model, layers, dims)
    if document_layers is not None:
        check_num_layers(f"{_OWNER}, document_layers", document_layers, model.num_layers)
    settings = _Settings(measure, document_layers, precision, n_resamples, seed)
    if isinstance(data, BaseEvaluator):
        evaluator = ElasticEvaluator(data, layers=layers, dims=dims)
        qualities = {size: _Quality(score) for size, score in evaluator.measure(model).items()}
        data_name, n_items = getattr(data, "name", "") or type(data).__name__, None
        measure = evaluator.metric
    else:
        encoder = DepthEncoder(model, cache=cache, show_progress_bar=show_progress_bar)
        if isinstance(data, STSSet):
            qualities, n_items = _score_pairs(encoder, data, sizes, settings)
        else:
            qualities, n_items = _score_queries(encoder, data, sizes, settings)
        data_name = data.name
    latencies: Mapping[int, float] = {}
    if measure_latency:
        depths = sorted({size[0] for size in sizes})
        latencies, n_tokens = time_depths(
            model, depths, batch_size=batch_size, n_tokens=n_tokens, show_progress_bar=show_progress_bar
        )
    return Frontier(
        model_name=name,
        data_name=data_name,
        measure=str(measure),
        n_items=n_items,
        points=_build_points(sizes, qualities, latencies, precision),
        device=describe_device(model),
        batch_size=batch_size,
        n_tokens=n_tokens,
        precision=precision,
        document_layers=document_layers,
        notes=tuple(getattr(data, "notes", ())),
    )


def _choose_measure(data: Any, measure: str | None) -> str | None:
    if isinstance(data, STSSet):
        if measure is not None and measure not in MEASURES:
            raise bad_choice(_OWNER, "measure", MEASURES, measure)
        return measure or MEASURES[0]
    if isinstance(data, EvaluationSet):
        if not any(data.qrels.get(query) for query in data.queries):
            raise bad_argument(_OWNER, "data", "a set with at least one judged query", data.name)
        if find_spec("pytrec_eval") is None:
            raise missing_extra(_OWNER, "pytrec-eval-terrier", "evaluate")
        return parse_measure(_OWNER, measure or "ndcg_at_10").name
    if not isinstance(data, BaseEvaluator):
        domain = "a path, an EvaluationSet, an STSSet or an evaluator of sentence-transformers"
        raise bad_argument(_OWNER, "data", domain, data)
    if measure is not None:
        raise bad_argument(_OWNER, "measure", "left out: an evaluator has its own", measure)
    if not data.greater_is_better:
        raise bad_argument(_OWNER, "data", "an evaluator whose higher score is better", data)
    return None


def _name_model(model: Any) -> str:
    card = getattr(model, "model_card_data", None)
    return str(getattr(card, "model_id", None) or getattr(card, "base_model", None) or type(model).__name__)


# --- quality ---


class _StoredVectors:
    """The vectors of one size, as an embedding object of LangChain: what `evaluate_sts` takes."""

    def __init__(self, vectors: NDArray[np.float32], rows: Mapping[str, int]) -> None:
        self._vectors = vectors
        self._rows = rows

    def embed_documents(self, texts: list[str]) -> NDArray[np.float32]:
        return self._vectors[[self._rows[text] for text in texts]]

    def embed_query(self, text: str) -> NDArray[np.float32]:
        return self.embed_documents([text])[0]


def _score_pairs(
    encoder: DepthEncoder, data: STSSet, sizes: Sequence[Size], settings: _Settings
) -> tuple[dict[Size, _Quality], int]:
    texts = list(dict.fromkeys(text for pair in data.pairs for text in (pair.sentence1, pair.sentence2)))
    rows = {text: row for row, text in enumerate(texts)}
    vectors = encoder.encode(texts, sorted({size[0] for size in sizes}))
    cut = partial(cut_vectors, unit_length=has_unit_length(encoder.model), precision=settings.precision)
    systems = {}
    for size in sizes:
        stored = _StoredVectors(cut(vectors[size[0]], size[1]).numpy(), rows)
        if _tells_pairs_apart(stored, data):
            systems[_name_size(size)] = stored
    constant = Interval(0.0, 0.0, 0.0, _LEVEL)  # says the same of all pairs: correlates with nothing
    found = {size: _Quality(0.0, constant) for size in sizes}
    if systems:
        comparison = evaluate_sts(
            systems, data, n_resamples=settings.n_resamples, seed=settings.seed, show_progress_bar=False
        )
        results = {result.name: result for result in comparison.results}
        measure = str(settings.measure)
        for size in sizes:
            result = results.get(_name_size(size))
            if result is not None:
                interval, difference = result.intervals[measure], result.differences.get(measure)
                is_compared = comparison.baseline == _name_size(sizes[0])
                found[size] = _Quality(interval.mean, interval, difference if is_compared else None)
    return found, len(data.pairs)


def _tells_pairs_apart(stored: _StoredVectors, data: STSSet) -> bool:
    sides = [stored.embed_documents([getattr(pair, name) for pair in data.pairs]) for name in _SENTENCES]
    norms = np.prod([np.maximum(np.linalg.norm(side, axis=1), 1e-12) for side in sides], axis=0)
    return bool(np.ptp(np.sum(sides[0] * sides[1], axis=1) / norms) > _SAME)


def _name_size(size: Size) -> str:
    return f"{size[0]} layers, {size[1]} dimensions"


def _score_queries(
    encoder: DepthEncoder, data: EvaluationSet, sizes: Sequence[Size], settings: _Settings
) -> tuple[dict[Size, _Quality], int]:
    measure = str(settings.measure)
    cut = _CUT.search(measure)
    runs = rank_at_sizes(
        encoder,
        data,
        sizes,
        depth=int(cut[1]) + _BEYOND if cut else _DEPTH,
        document_layers=settings.document_layers,
        precision=settings.precision,
    )
    qrels = {query: data.qrels[query] for query in data.queries if data.qrels.get(query)}
    values = {
        size: evaluate_run(run, qrels, [measure], relevance_level=data.relevance_level)[measure]
        for size, run in runs
    }
    options = {"n_resamples": settings.n_resamples, "seed": settings.seed}
    full = values[sizes[0]]
    found = {}
    for size, ours in values.items():
        if len(ours) < 2:  # a single query says nothing about others
            found[size] = _Quality(float(ours[0]), Interval(float(ours[0]), 0.0, 1.0, _LEVEL))
            continue
        difference = None
        if size != sizes[0]:
            interval = paired_bootstrap(ours, full, level=_LEVEL, **options)
            difference = Difference(interval, permutation_test(ours, full, **options))
        found[size] = _Quality(
            float(ours.mean()), bootstrap_interval(ours, level=_LEVEL, **options), difference
        )
    return found, len(full)


def _build_points(
    sizes: Sequence[Size],
    qualities: Mapping[Size, _Quality],
    latencies: Mapping[int, float],
    precision: str,
) -> tuple[FrontierPoint, ...]:
    full = qualities[sizes[0]].score
    points = []
    for size in sizes:
        quality = qualities[size]
        points.append(
            FrontierPoint(
                num_layers=size[0],
                truncate_dim=size[1],
                score=quality.score,
                interval=quality.interval,
                difference=quality.difference,
                relative_quality=quality.score / full if full > 0 else None,
                latency_ms=latencies.get(size[0]),
                bytes_per_vector=size[1] * PRECISIONS[precision],
            )
        )
    best = mark_best(points)
    return tuple(replace(point, is_best=found) for point, found in zip(points, best, strict=True))
