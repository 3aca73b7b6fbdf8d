"""What is tried on a reranker, one function for each probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fletching.evaluation.audit.callers import FormError, Ranked, RerankCaller
from fletching.evaluation.audit.drift import Drift, find_scale, judge, measure_drift, show_share
from fletching.evaluation.audit.lists import LONG_TEXT
from fletching.evaluation.audit.position import (
    Shuffle,
    compute_tau,
    draw_orders,
    measure_position_effect,
)
from fletching.evaluation.audit.report import FAULT, NOTE, OK, SKIPPED, Probe
from fletching.metrics import spearman

__all__ = ["RERANKER_PROBES", "RerankTrial", "check_form"]

Array = NDArray[np.float64]

THREADS = 8
"""How many threads use the model at once."""

MAX_TAU = 0.1
"""Mean Kendall's tau between input and output that is ok: 0 for a model that does not look at the order."""

MAX_TIED_TAU = 0.5
"""Where only passages with equal scores keep their order; beyond, the input decides on most pairs."""

MAX_TIES = 0.05
"""Share of pairs of different passages with equal scores that is ok."""

MAX_LENGTH_CORRELATION = 0.5
"""Rank correlation of score and length that is ok."""

_N_PAIRS = 3  # of orders: five more calls for each list
_BATCH_SIZES = (1, 3)
_PADDED_LISTS = 4  # read beside a long text: costly, and one would do
_COPIES = 3  # of passages that are put into the list a second time
_P_VALUE = 0.01
_ALL_TIED = 0.999


@dataclass(frozen=True)
class RerankTrial:
    """A reranker, the lists it is tried on, and what it said of them in the plain way.

    Args:
        caller: The reranker.
        queries: One for each list.
        lists: The passages.
        labels: Their labels; empty for lists without any.
        base: What the model answered.
        noise: Share of the spread that is float noise.
        rounding: Share of the highest score that is float noise whatever the spread.
        seed: Decides the orders.
    """

    caller: RerankCaller
    queries: Sequence[str]
    lists: Sequence[Sequence[str]]
    labels: Sequence[Sequence[float]]
    base: Sequence[Ranked]
    noise: float
    rounding: float
    seed: int

    @cached_property
    def scores(self) -> list[Array]:
        """The scores of each list."""
        return [ranked.scores for ranked in self.base]

    @cached_property
    def scale(self) -> float:
        """The spread of scores."""
        return find_scale(self.scores, self.noise, self.rounding)

    @cached_property
    def shuffles(self) -> list[list[Shuffle]]:
        """Each list in several orders; the second is the reverse."""
        generator = np.random.default_rng(self.seed)
        return [
            [
                Shuffle(order, ranked.order, ranked.scores)
                if turn == 0  # the list's own order
                else self._shuffle(query, texts, order)
                for turn, order in enumerate(draw_orders(len(texts), n_pairs=_N_PAIRS, generator=generator))
            ]
            for query, texts, ranked in zip(self.queries, self.lists, self.base, strict=True)
        ]

    def _shuffle(self, query: str, texts: Sequence[str], order: NDArray[np.int64]) -> Shuffle:
        ranked = self.rank(query, [texts[place] for place in np.argsort(order)])
        return Shuffle(order, ranked.order, ranked.scores[order])

    def compare(self, scores: Sequence[Array], base: Sequence[Array] | None = None) -> Drift:
        """Compare scores with those of the plain calls.

        Args:
            scores: The scores of each list.
            base: What they should be; ``None`` for those of all lists.

        Returns:
            How far they moved.
        """
        return measure_drift(base or self.scores, scores, scale=self.scale, noise=self.noise)

    def rank(self, query: str, texts: Sequence[str], **options: object) -> Ranked:
        """Rank one list.

        Args:
            query: The query.
            texts: Its passages.
            **options: Keyword arguments of the model's ``rank``.

        Returns:
            The answer.

        Raises:
            FormError: If the answer is no ranking of the passages.
        """
        return _check_form(self.caller.rank(query, texts, **options))

    def rank_many(self, queries: Sequence[str], lists: Sequence[Sequence[str]]) -> list[Ranked]:
        """Rank several lists in one call.

        Args:
            queries: The queries.
            lists: Their passages.

        Returns:
            One answer for each query.

        Raises:
            FormError: If an answer is no ranking of its passages.
        """
        return [_check_form(ranked) for ranked in self.caller.rank_many(queries, lists)]

    def rank_all(self, **options: object) -> list[Array]:
        """Rank every list.

        Args:
            **options: Keyword arguments of the model's ``rank``.

        Returns:
            The scores of each list.
        """
        return [
            self.rank(query, texts, **options).scores
            for query, texts in zip(self.queries, self.lists, strict=True)
        ]


def check_form(base: Sequence[Ranked]) -> Probe:
    """Every passage comes back once, best first, with a finite score.

    Args:
        base: What the model answered.

    Returns:
        The probe; after a fault nothing else can be tried.
    """
    problems = [problem for ranked in base if (problem := _find_problem(ranked))]
    if problems:
        sentence = f"In {len(problems)} of {len(base)} lists {problems[0]}."
        return Probe("form", FAULT, float(len(problems)), 0.0, sentence)
    sentence = "Every passage comes back once, best first, with a finite score."
    return Probe("form", OK, 0.0, 0.0, sentence)


def _check_form(ranked: Ranked) -> Ranked:
    if problem := _find_problem(ranked):
        raise FormError(problem)
    return ranked


def _find_problem(ranked: Ranked) -> str:
    n = len(ranked.scores)
    if sorted(ranked.order) != list(range(n)):
        return f"the answer is no order of the passages: {len(set(ranked.order))} of {n} came back"
    if not np.isfinite(ranked.scores).all():
        return "a score is NaN or infinite"
    if (np.diff(ranked.scores[list(ranked.order)]) > 0).any():
        return "the answer is not sorted by its scores"
    return ""


def try_inputs(trial: RerankTrial) -> Probe:
    """Compare the lists with what they were before the call."""
    n_changed = sum(ranked.changed_input for ranked in trial.base)
    if n_changed:
        sentence = f"The model changed the list that it was given in {n_changed} of {len(trial.base)} calls."
        return Probe("inputs", FAULT, float(n_changed), 0.0, sentence)
    return Probe("inputs", OK, 0.0, 0.0, "The model leaves the lists that it is given as they are.")


def try_repeats(trial: RerankTrial) -> Probe:
    """Call again, twice."""
    runs = [trial.compare(trial.rank_all()) for _ in range(2)]
    worst = max(runs, key=lambda drift: drift.value)
    hint = "The model is not deterministic; is dropout on, or does it sample?"
    return judge("repeated calls", worst, trial.noise, did="Called three times", exact=True, hint=hint)


def try_shuffles(trial: RerankTrial) -> Probe:
    """Shuffle the lists."""
    runs = [
        trial.compare([group[turn].scores for group in trial.shuffles]) for turn in range(2, 2 * _N_PAIRS)
    ]
    worst = max(runs, key=lambda drift: drift.value)
    hint = "A ranking should not depend on the order of the candidates."
    return judge("shuffled order", worst, trial.noise, did="With the passages shuffled", hint=hint)


def try_reverse(trial: RerankTrial) -> Probe:
    """Reverse the lists."""
    drift = trial.compare([group[1].scores for group in trial.shuffles])
    hint = "A ranking should not depend on the order of the candidates."
    return judge("reversed order", drift, trial.noise, did="With the passages reversed", hint=hint)


def try_input_order(trial: RerankTrial) -> Probe:
    """Correlate the orders that went in with those that came out."""
    tau, among_unequal, n_orders = _correlate_orders(trial)
    about = (
        f"Over {n_orders} orders, input and output correlate with {tau:.2f} (Kendall's tau; 0: not at all)"
    )
    if abs(tau) <= MAX_TAU:
        return Probe("input order", OK, abs(tau), MAX_TAU, f"{about}.")
    if abs(tau) <= MAX_TIED_TAU and abs(among_unequal) <= MAX_TAU:
        way = "the order" if tau > 0 else "the reverse order"
        sentence = f"{about}: passages with equal scores come out in {way} of the input, others do not."
        return Probe("input order", NOTE, abs(tau), MAX_TAU, sentence)
    habit = "keeps the order of its input" if tau > 0 else "turns the order of its input round"
    degree = "The model" if abs(tau) > 0.999 else "To a degree the model"
    return Probe("input order", FAULT, abs(tau), MAX_TAU, f"{about}. {degree} {habit}.")


def _correlate_orders(trial: RerankTrial) -> tuple[float, float, int]:
    """Return the mean tau of different passages, that of those with unequal scores, and how many orders."""
    taus, among_unequal = [], []
    for texts, group in zip(trial.lists, trial.shuffles, strict=True):
        _, names = np.unique(np.array(texts, dtype=object), return_inverse=True)
        for one in group:
            places = np.argsort(one.order)[list(one.output)]  # in the list, best first
            taus.append(compute_tau(one.output, names[places]))
            among_unequal.append(compute_tau(one.output, one.scores[places]))
    return float(np.mean(taus)), float(np.mean(among_unequal)), len(taus)


def try_positions(trial: RerankTrial) -> Probe:
    """Average the scores over the places in the input."""
    effect = measure_position_effect(trial.shuffles, seed=trial.seed)
    size = effect.size / trial.scale
    if size <= trial.noise:
        sentence = "The place of a passage in the input does not change its score."
        return Probe("position bias", OK, size, trial.noise, sentence)
    slope = effect.slope / trial.scale
    sentence = (
        f"A place in the input changes scores by up to {show_share(size)} of their spread "
        f"({'+' if slope >= 0 else '-'}{show_share(abs(slope))} for each place further down, "
        f"permutation test p = {effect.p_value:.3f})."
    )
    if effect.p_value > _P_VALUE:
        sentence += " It may be chance: see the repeated calls."
        return Probe("position bias", NOTE, size, trial.noise, sentence)
    return Probe("position bias", FAULT, size, trial.noise, sentence)


def try_copies(trial: RerankTrial) -> Probe:
    """Put passages into the list a second time."""
    first, second = [], []
    for query, texts in zip(trial.queries, trial.lists, strict=True):
        n_copies = min(_COPIES, len(texts))
        scores = trial.rank(query, [*texts, *texts[:n_copies]]).scores
        first.append(scores[:n_copies])
        second.append(scores[len(texts) :])
    value = max(float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True)) / trial.scale
    drift = Drift(value, None, len(first))
    hint = "Copies of a passage should score the same."
    did = "When a passage stands in the list twice"
    return judge("duplicates", drift, trial.noise, did=did, exact=True, hint=hint)


def try_ties(trial: RerankTrial) -> Probe:
    """Count equal scores of different passages."""
    tied = pairs = 0
    for texts, scores in zip(trial.lists, trial.scores, strict=True):
        for a, b in combinations(range(len(texts)), 2):
            if texts[a] != texts[b]:
                pairs += 1
                tied += bool(scores[a] == scores[b])
    share = tied / pairs
    if share > _ALL_TIED:
        sentence = "All passages get the same score: the model ranks nothing."
        return Probe("ties", FAULT, share, MAX_TIES, sentence)
    sentence = f"{show_share(share)} of the pairs of different passages have equal scores"
    if share > MAX_TIES:
        return Probe("ties", NOTE, share, MAX_TIES, f"{sentence}; the order of the input decides among them.")
    return Probe("ties", OK, share, MAX_TIES, f"{sentence}.")


def try_other_query(trial: RerankTrial) -> Probe:
    """Ask the same passages another query."""
    moves = [
        np.abs(trial.rank(other, texts).scores - scores)
        for query, other, texts, scores in zip(
            trial.queries,
            [*trial.queries[1:], trial.queries[0]],
            trial.lists,
            trial.scores,
            strict=True,
        )
        if query != other
    ]
    if not moves:
        return Probe("query", SKIPPED, None, None, "There is only one query.")
    value = float(np.concatenate(moves).mean()) / trial.scale
    if max(float(move.max()) for move in moves) <= trial.noise * trial.scale:
        return Probe("query", FAULT, value, None, "Another query leaves all scores as they are.")
    sentence = f"Another query moves scores by {show_share(value)} of their spread on average."
    return Probe("query", OK, value, None, sentence)


def try_batch_sizes(trial: RerankTrial) -> Probe:
    """Call with other batch sizes."""
    if not trial.caller.takes_batch_size:
        return Probe("batch size", SKIPPED, None, None, "`rank` has no parameter `batch_size`.")
    runs = [trial.compare(trial.rank_all(batch_size=size)) for size in _BATCH_SIZES]
    worst = max(runs, key=lambda drift: drift.value)
    hint = "A score should not depend on what shares its batch."
    return judge("batch size", worst, trial.noise, did="In batches of 1 and of 3", hint=hint)


def try_other_lists(trial: RerankTrial) -> Probe:
    """Rank all lists in one call."""
    if not trial.caller.takes_many:
        return Probe("other lists", SKIPPED, None, None, "No call of the model takes several lists.")
    drift = trial.compare([ranked.scores for ranked in trial.rank_many(trial.queries, trial.lists)])
    hint = "Lists of one call should not see each other."
    return judge("other lists", drift, trial.noise, did="With all lists in one call", hint=hint)


def try_padding(trial: RerankTrial) -> Probe:
    """Read a list beside a very long text: in the list where scores stand alone, else in the next list."""
    if trial.caller.listwise and not trial.caller.takes_many:
        sentence = "The model is listwise, and no call of it takes several lists."
        return Probe("padding", SKIPPED, None, None, sentence)
    try:
        trial.rank(trial.queries[0], [trial.lists[0][0], LONG_TEXT])
    except ValueError as error:
        return Probe("padding", SKIPPED, None, None, f"The model refuses a text of 2,000 words: {error}")
    scores = []
    for query, texts in list(zip(trial.queries, trial.lists, strict=True))[:_PADDED_LISTS]:
        if trial.caller.listwise:
            scores.append(trial.rank_many([query, query + "?"], [texts, [texts[0], LONG_TEXT]])[0].scores)
        else:
            scores.append(trial.rank(query, [*texts, LONG_TEXT]).scores[: len(texts)])
    drift = trial.compare(scores, trial.scores[: len(scores)])
    hint = "A score should not depend on the length of its neighbours; is padding masked?"
    return judge("padding", drift, trial.noise, did="Beside a very long text", hint=hint)


def try_threads(trial: RerankTrial) -> Probe:
    """Rank in several threads, each list at least once and two lists at least for each thread."""
    n_lists = len(trial.lists)
    places = [place % n_lists for place in range(max(n_lists, 2 * THREADS))]
    with ThreadPoolExecutor(THREADS) as threads:
        ranked = threads.map(lambda place: trial.rank(trial.queries[place], trial.lists[place]), places)
        scores = [one.scores for one in ranked]
    hint = "The model must not be shared by threads without a lock."
    drift = trial.compare(scores, [trial.scores[place] for place in places])
    return judge("threads", drift, trial.noise, did=f"In {THREADS} threads", exact=True, hint=hint)


def try_half_lists(trial: RerankTrial) -> Probe:
    """Leave out the second half of each list."""
    halves = [texts[: (len(texts) + 1) // 2] for texts in trial.lists]
    scores = [trial.rank(query, half).scores for query, half in zip(trial.queries, halves, strict=True)]
    base = [whole[: len(half)] for whole, half in zip(trial.scores, halves, strict=True)]
    drift = trial.compare(scores, base)
    did = "Without the second half of the list"
    if not trial.caller.listwise:
        hint = "The model reads its list as a whole, but does not say that it is listwise."
        return judge("half the list", drift, trial.noise, did=did, hint=hint)
    sentence = (
        f"{did}, scores move by up to {show_share(drift.value)} of their spread: the model is listwise, and "
        "its scores compare passages of one list only."
    )
    return Probe("half the list", NOTE, drift.value, None, sentence)


def try_lengths(trial: RerankTrial) -> Probe:
    """Correlate scores with the length of passages, list by list."""
    found = [
        (correlation, _correlate(labels, texts))
        for texts, scores, labels in zip(trial.lists, trial.scores, trial.labels, strict=True)
        if (correlation := _correlate(scores, texts)) is not None
    ]
    if not found:
        return Probe("length", SKIPPED, None, None, "In each list all passages are equally long, or tied.")
    value = float(np.mean([of_scores for of_scores, _ in found]))
    of_labels = [of_label for _, of_label in found if of_label is not None]
    sentence = f"Within a list, scores and lengths of passages correlate with {value:+.2f} (Spearman)"
    if of_labels:
        sentence += f", labels and lengths with {np.mean(of_labels):+.2f}"
    verdict = NOTE if abs(value) > MAX_LENGTH_CORRELATION else OK
    return Probe("length", verdict, abs(value), MAX_LENGTH_CORRELATION, f"{sentence}.")


def _correlate(values: Sequence[float] | Array, texts: Sequence[str]) -> float | None:
    lengths = [float(len(text)) for text in texts]
    if len(values) != len(texts) or np.ptp(values) == 0 or np.ptp(lengths) == 0:
        return None
    return spearman(values, lengths)


def try_edges(trial: RerankTrial) -> Probe:
    """Rank no passage, one passage, and an empty passage."""
    query, texts = trial.queries[0], trial.lists[0]
    problems = []
    for what, documents in (
        ("an empty list", []),
        ("a list of one passage", [texts[0]]),
        ("an empty passage", [texts[0], ""]),
    ):
        try:
            problem = _find_problem(trial.caller.rank(query, documents))
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:
            problem = type(error).__name__
        if problem:
            problems.append(f"{what} ({problem})")
    if problems:
        sentence = f"The model does not take {', '.join(problems)}."
        return Probe("edge cases", NOTE, float(len(problems)), 0.0, sentence)
    sentence = "An empty list, a list of one passage and an empty passage are taken."
    return Probe("edge cases", OK, 0.0, 0.0, sentence)


RERANKER_PROBES: dict[str, Callable[[RerankTrial], Probe]] = {
    "inputs": try_inputs,
    "repeated calls": try_repeats,
    "shuffled order": try_shuffles,
    "reversed order": try_reverse,
    "input order": try_input_order,
    "position bias": try_positions,
    "duplicates": try_copies,
    "ties": try_ties,
    "query": try_other_query,
    "batch size": try_batch_sizes,
    "other lists": try_other_lists,
    "padding": try_padding,
    "threads": try_threads,
    "half the list": try_half_lists,
    "length": try_lengths,
    "edge cases": try_edges,
}
"""Name -> what tries it; after `check_form`, in the order of the report."""
