"""Sentence pairs with a score: how well a model's similarities agree with people's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.util import pairwise_cos_sim

from fletching.errors import FletchingError, bad_argument, bad_choice
from fletching.evaluation.cache import Answer, make_folder, open_store
from fletching.evaluation.costs import Meter, sum_costs
from fletching.evaluation.data_set import STSSet
from fletching.evaluation.planning import check_seed, failure_named
from fletching.evaluation.results import Comparison, Cost, Difference, SystemResult
from fletching.evaluation.systems import (
    EncoderSystem,
    RerankerSystem,
    System,
    find_system_kind,
    name_system,
    open_system,
)
from fletching.evaluation.vectors import AdapterEncoder, MultiVectorEncoder
from fletching.metrics import Interval, RunEvaluation, pearson, spearman
from fletching.models.inputs import check_positive
from fletching.progress import track

__all__ = ["MEASURES", "evaluate_sts"]

MEASURES = ("spearman", "pearson")
"""What sentence pairs are measured by."""

_OWNER = "evaluate_sts"
_KINDS = ("embedder", "sparse", "multi_vector", "reranker")
_BLOCK = 512  # pairs scored at once: what an interrupted run loses at most
_LEVEL = 0.95
_DRAWS_AT_ONCE = 1 << 18  # 8 bytes each, a few times over: fits into the cache

_CONSTANT = 1e-9  # variance, of numbers whose own is 1, that is none but for rounding

Floats = NDArray[np.float64]


def evaluate_sts(
    systems: Sequence[Any] | Mapping[str, Any],
    data: STSSet,
    *,
    baseline: str | None = None,
    n_resamples: int = 10_000,
    seed: int = 0,
    cache: str | Path | None = None,
    show_progress_bar: bool | None = None,
    **model_options: Any,
) -> Comparison:
    """Compare models on sentence pairs.

    An embedder gives the cosine of the two sentences, encoded alike, without the prompts for queries and
    passages; a multi-vector model its own similarity, the first sentence as the query; a reranker its score,
    likewise. Intervals draw pairs with replacement. The p-value of a difference comes from swapping the two
    systems on random pairs, after ranking (Spearman) or standardising (Pearson) what each of them says.

    Args:
        systems: Names or objects, as for `open_system`, or a mapping from the names to be shown to them. Run
            files and BM25 score no pairs.
        data: The pairs.
        baseline: The system that the others are compared with; ``None`` takes the first.
        n_resamples: Draws of each interval and test.
        seed: Of the draws.
        cache: Folder where scores are kept while they come in; ``None`` keeps nothing.
        show_progress_bar: ``None``: if the ``fletching`` logger is at INFO and stderr is a terminal.
        **model_options: Arguments of `open_system`, for all systems.

    Returns:
        One result for each system, with ``"spearman"`` and ``"pearson"``. The rows of its table are pairs,
        called by their places from 1, with the ``"score"`` of people and the system's ``"similarity"``. What
        it took stands in ``prepare_seconds``: pairs are scored all at once.

    Raises:
        ArgumentError: If a system scores no pairs, two have one name, ``baseline`` is none of them, or
            nothing can be kept in ``cache``; nothing has been computed then.
        CheckpointError: If a name belongs to no checkpoint, or it cannot be opened.
        FletchingError: If a system fails, scores all pairs alike, or one with NaN; the text names it.
    """
    if isinstance(systems, (str, Path)):
        raise bad_argument(_OWNER, "systems", "a list of systems", systems, "Pass a list, even for one")
    given = (
        systems.items() if isinstance(systems, Mapping) else [(name_system(item), item) for item in systems]
    )
    named = {str(name): system for name, system in given}
    if len(named) < len(given):
        raise bad_argument(_OWNER, "systems", "of different names", [name for name, _ in given])
    if not named:
        raise bad_argument(_OWNER, "systems", "at least one system", systems)
    check_positive(_OWNER, "n_resamples", n_resamples)
    check_seed(_OWNER, seed)
    baseline = next(iter(named)) if baseline is None else baseline
    if baseline not in named:
        raise bad_choice(_OWNER, "baseline", named, baseline)
    for name, system in named.items():
        if find_system_kind(system, **model_options) not in _KINDS:
            domain = "embedders and rerankers, since the data are sentence pairs"
            raise bad_argument(_OWNER, "systems", domain, name)

    if cache is not None:
        make_folder(_OWNER, cache, data=data.digest)

    gold = np.array([pair.score for pair in data.pairs])
    scored = []
    for name, system in named.items():
        with failure_named(name):
            scored.append(_score(name, system, data, cache, show_progress_bar, model_options))
    reference = next(found.similarities for found in scored if found.name == baseline)
    draws = {found.name: _resample(gold, found.similarities, n_resamples, seed) for found in scored}
    results = []
    for found in scored:
        differences = {}
        for measure in MEASURES if found.name != baseline else ():
            pair = found.similarities, reference
            means = [_CORRELATIONS[measure](gold, values) for values in pair]
            drawn = draws[found.name][measure] - draws[baseline][measure]
            differences[measure] = Difference(
                _build_interval(means[0] - means[1], drawn),
                _test_by_swapping(measure, gold, *pair, n_resamples=n_resamples, seed=seed),
            )
        results.append(_build_result(found, gold, draws[found.name], differences))
    return Comparison(data.name, data.digest, MEASURES, baseline, tuple(results), {})


@dataclass(frozen=True)
class _Scored:
    """What one system says of all pairs."""

    name: str
    kind: str
    fingerprint: str
    similarities: Floats
    cost: Cost
    from_cache: bool


def _score(
    name: str,
    system: Any,
    data: STSSet,
    cache: str | Path | None,
    show_progress_bar: bool | None,
    model_options: Mapping[str, Any],
) -> _Scored:
    """Open one system and let it score the pairs that an earlier run did not."""
    meter = Meter()
    opened = open_system(system, name=name, **model_options)
    fingerprint = opened.fingerprint()
    store = open_store(cache, {"pairs": _BLOCK}, fingerprint=fingerprint, data=data.digest)
    starts = range(0, len(data.pairs), _BLOCK)
    missing = [start for start in starts if str(start) not in store.answers]
    with meter.watch(opened.modules):
        for start in track(missing, desc=f"{name}: pairs, by {_BLOCK}", show=show_progress_bar):
            pairs = data.pairs[start : start + _BLOCK]
            first, second = [pair.sentence1 for pair in pairs], [pair.sentence2 for pair in pairs]
            found, spent = meter.measure(partial(_compare, opened, first, second), lambda: None)
            scores = {str(start + place + 1): float(value) for place, value in enumerate(found)}
            if not np.isfinite(found).all():
                broken = next(place for place, value in scores.items() if not np.isfinite(value))
                raise FletchingError(f"System {name!r}: the score of pair {broken} must be finite.")
            store.add(str(start), Answer(scores, spent))
    answers = [store.answers[str(start)] for start in starts]
    similarities = np.array([value for answer in answers for value in answer.scores.values()])
    if np.ptp(similarities) == 0:
        raise FletchingError(
            f"System {name!r}: it scores all {len(similarities)} pairs alike, {similarities[0]:g}, "
            "which correlates with nothing."
        )
    cost = sum_costs([answer.spent for answer in answers], {}, bytes_per_vector=None)
    return _Scored(name, opened.kind, fingerprint, similarities, cost, from_cache=not missing)


def _compare(system: System, first: list[str], second: list[str]) -> Floats:
    """Score pairs."""
    if isinstance(system, RerankerSystem):
        if not callable(getattr(system.model, "predict", None)):
            raise FletchingError(f"System {system.name!r}: it has no `predict`, which scores pairs.")
        pairs = list(zip(first, second, strict=True))
        return np.asarray(system.model.predict(pairs, **system.options), dtype=np.float64)
    assert isinstance(system, EncoderSystem), "checked before anything was opened"
    encoder = system.encoder
    if isinstance(encoder, AdapterEncoder):
        vectors = encoder.encode_documents(first)["vectors"], encoder.encode_documents(second)["vectors"]
        return np.sum(vectors[0] * vectors[1], axis=1, dtype=np.float64)
    if isinstance(encoder, MultiVectorEncoder):
        queries = encoder.model.encode_query(first, **encoder.options)
        documents = encoder.model.encode_document(second, **encoder.options)
        return _to_array(encoder.model.similarity_pairwise(queries, documents))
    texts = [
        encoder.model.encode(side, convert_to_tensor=True, **encoder.options) for side in (first, second)
    ]
    return _to_array(pairwise_cos_sim(*(side.to_dense().float() for side in texts)))


def _to_array(values: torch.Tensor) -> Floats:
    return values.detach().double().cpu().numpy()


def _build_result(
    found: _Scored, gold: Floats, draws: Mapping[str, Floats], differences: Mapping[str, Difference]
) -> SystemResult:
    intervals = {
        measure: _build_interval(_CORRELATIONS[measure](gold, found.similarities), draws[measure])
        for measure in MEASURES
    }
    places = tuple(str(place + 1) for place in range(len(gold)))
    values = {"score": gold, "similarity": found.similarities}
    return SystemResult(
        name=found.name,
        kind=found.kind,
        fingerprint=found.fingerprint,
        run={},
        evaluation=RunEvaluation(places, values, n_missing=0, n_unjudged=0, n_without_relevant=0),
        intervals=intervals,
        differences=differences,
        cost=found.cost,
        from_cache=found.from_cache,
    )


# --- how sure a correlation is ---


def _build_interval(mean: float, draws: Floats) -> Interval:
    """Take the percentiles of the draws in which nothing was constant."""
    low, high = np.nanquantile(draws, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(mean, float(low), float(high), _LEVEL)


def _resample(gold: Floats, values: Floats, n_resamples: int, seed: int) -> dict[str, Floats]:
    """Correlate pairs that are drawn with replacement: equal seeds draw equal pairs.

    A draw is how often each pair occurs in it. Ranks follow from sums of these counts, without sorting.

    Returns:
        Measure -> one correlation for each draw; NaN where all that was drawn is constant.
    """
    generator = np.random.default_rng(seed)
    n = len(gold)
    sides = _Ties(gold), _Ties(values)
    draws: dict[str, list[Floats]] = {measure: [] for measure in MEASURES}
    rows = max(1, _DRAWS_AT_ONCE // n)
    for start in range(0, n_resamples, rows):
        drawn = generator.integers(0, n, (min(rows, n_resamples - start), n))
        offsets = n * np.arange(len(drawn))[:, None]
        counts = (
            np.bincount((drawn + offsets).ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)
        )
        draws["spearman"].append(_correlate(counts, *(side.rank(counts) for side in sides)))
        draws["pearson"].append(_correlate(counts, gold[None], values[None]))
    return {measure: np.concatenate(parts) for measure, parts in draws.items()}


class _Ties:
    """Numbers, of which equal ones share the mean of their ranks."""

    def __init__(self, values: Floats) -> None:
        _, self._groups = np.unique(values, return_inverse=True)
        self._order = np.argsort(self._groups, kind="stable")
        _, self._starts = np.unique(self._groups[self._order], return_index=True)

    def rank(self, counts: Floats) -> Floats:
        """Rank the numbers where each occurs so many times, shape ``(R, N)`` as ``counts``."""
        sizes = np.add.reduceat(counts[:, self._order], self._starts, axis=1)
        ranks: Floats = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
        return ranks[:, self._groups]


def _correlate(counts: Floats, first: Floats, second: Floats) -> Floats:
    """Pearson's correlation of pairs that occur so many times, shape ``(R,)``; NaN where one is constant."""
    total = counts.sum(axis=1, keepdims=True)
    first = first - (counts * first).sum(axis=1, keepdims=True) / total
    second = second - (counts * second).sum(axis=1, keepdims=True) / total
    weighted = counts * first
    norms = (weighted * first).sum(axis=1) * (counts * second * second).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = (weighted * second).sum(axis=1) / np.sqrt(norms)
    return found


def _test_by_swapping(
    measure: str, gold: Floats, first: Floats, second: Floats, *, n_resamples: int, seed: int
) -> float:
    """Ask how often two systems that change places on random pairs differ as much.

    With m = (a + b) / 2 and d = (a - b) / 2 the two sides of a swap by signs s are m + s d and m - s d, so
    that all sums are products with the matrix of signs.

    Returns:
        The p-value; the systems as they are count as one more draw. Swaps that make a side constant, which
        correlates with nothing, are left out.
    """
    a, b, g = (_standardise(measure, values) for values in (first, second, gold))
    m, d = (a + b) / 2, (a - b) / 2
    sides = np.stack([d * g, d, 2 * m * d], axis=1)  # (N, 3)
    fixed, square = float(m @ g), float(m @ m + d @ d)

    def subtract(signs: Floats) -> Floats:
        product, total, cross = (signs @ sides).T
        spread = total**2 / len(g)
        norms = np.stack([square + cross - spread, square - cross - spread])
        norms[:, norms.min(axis=0) <= _CONSTANT * len(g)] = np.nan
        first_norms, second_norms = np.sqrt(norms)
        difference: Floats = (fixed + product) / first_norms - (fixed - product) / second_norms
        return difference / np.sqrt(len(g))

    observed = abs(float(subtract(np.ones((1, len(g))))[0]))
    generator = np.random.default_rng(seed)
    rows = max(1, _DRAWS_AT_ONCE // len(g))
    hits = n_draws = 0
    for start in range(0, n_resamples, rows):
        shape = (min(rows, n_resamples - start), len(g))
        signs = (2 * generator.integers(0, 2, shape) - 1).astype(np.float64)
        differences = np.abs(subtract(signs))
        hits += int(np.count_nonzero(differences >= observed - 1e-12))
        n_draws += int(np.count_nonzero(~np.isnan(differences)))
    return (1 + hits) / (1 + n_draws)


def _standardise(measure: str, values: Floats) -> Floats:
    """Give numbers, or their ranks, the mean 0 and the variance 1."""
    if measure == "spearman":
        values = _Ties(values).rank(np.ones((1, len(values))))[0]
    centred: Floats = values - values.mean()
    return centred / centred.std()


_CORRELATIONS = {"spearman": spearman, "pearson": pearson}
