"""The rules of T2Ranking: which level is relevant, which negatives come when, what is measured."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from fletching.errors import bad_argument, bad_choice

T = TypeVar("T")

STYLES = ("t2", "standard")
"""What ``style`` may be, see `Tally`."""

RELEVANT_LEVEL = 2
"""Lowest level that counts as relevant: verified on every judgement of the published sample."""

MAX_LEVEL = 3
"""Highest level that is given."""

MAX_RANK = 1000
"""Ranks of a run that the reference reads."""

MRR_AT = 10
RECALL_AT = (1, 50, 1000)


def map_to_binary(levels: Iterable[int], *, threshold: int = RELEVANT_LEVEL) -> list[int]:
    """Turn levels of relevance into labels.

    Args:
        levels: From 0 to 3.
        threshold: Lowest level that counts as relevant. T2Ranking: 2.

    Returns:
        1 for relevant, 0 for not, one for each level.

    Example:
        >>> map_to_binary([0, 1, 2, 3])
        [0, 0, 1, 1]
    """
    return [int(level >= threshold) for level in levels]


def sample_strided(ranked: Sequence[T], n: int, *, epoch: int = 0) -> list[T]:
    """Take every so-manyth of a ranked list, beginning one place further each epoch.

    The rule of the reference code: ``interval = len // n``, ``offset = epoch % interval``, then
    ``ranked[offset::interval][:n]``. With one negative that is simply the negative of rank ``epoch``. Nothing
    is random: the same epoch gives the same negatives.

    Args:
        ranked: Best first, at least ``n``.
        n: How many to take, >= 1.
        epoch: From 0.

    Returns:
        ``n`` of them, in their order.

    Raises:
        ArgumentError: If ``n`` is not positive, or the list is shorter.

    Example:
        >>> sample_strided(["a", "b", "c", "d", "e"], 2, epoch=1)
        ['b', 'd']
    """
    if n < 1:
        raise bad_argument("sample_strided", "n", "a positive integer", n)
    if len(ranked) < n:
        raise bad_argument("sample_strided", "ranked", f"a list of at least {n}", len(ranked))
    interval = len(ranked) // n
    return list(ranked[epoch % interval :: interval][:n])


class Tally:
    """Adds up MRR and recall, query by query, so that a run of any size fits.

    ``style="t2"`` computes what the reference evaluator does, and what its tables show:

    - MRR is divided by the number of **all** queries of the run, also of those without a relevant passage: on
      the dev set 0.9187 of the usual value.
    - Recall is a **micro** average: relevant passages found, divided by relevant passages, over the queries
      that are both in the run and judged.

    ``style="standard"`` computes what other evaluators do: both are averaged over the queries that have a
    relevant passage, and one that the run lacks counts as 0.

    Args:
        positives: Query id -> relevant passages.
        style: ``"t2"`` or ``"standard"``.
        mrr_at: Last rank that counts for MRR.
        recall_at: Cuts of recall.

    Raises:
        ArgumentError: If the style is unknown or a cut is not positive.
    """

    def __init__(
        self,
        positives: Mapping[str, Collection[str]],
        *,
        style: str = "t2",
        mrr_at: int = MRR_AT,
        recall_at: Sequence[int] = RECALL_AT,
    ) -> None:
        if style not in STYLES:
            raise bad_choice("T2Ranking", "style", STYLES, style)
        for cut in (mrr_at, *recall_at):
            if not (isinstance(cut, int) and cut >= 1):
                raise bad_argument("T2Ranking", "mrr_at and recall_at", "positive integers", cut)
        self.positives = positives
        self.style = style
        self.mrr_at = mrr_at
        self.recall_at = tuple(recall_at)
        self.n_queries = 0
        self.n_positives = 0
        self._reciprocal = 0.0
        self._hits = dict.fromkeys(self.recall_at, 0)
        self._shares = dict.fromkeys(self.recall_at, 0.0)

    def add(self, query_id: str, ranking: Sequence[str | None]) -> None:
        """Take in one query of the run.

        Args:
            query_id: The query, each one once.
            ranking: Passage ids, best first; ``None`` for a rank that the run leaves out. The reference puts
                passage 0 there, which would count wherever passage 0 is relevant.
        """
        self.n_queries += 1
        relevant = frozenset(self.positives.get(query_id, ()))
        if not relevant:
            return
        self.n_positives += len(relevant)
        ranks = [rank for rank, passage in enumerate(ranking, start=1) if passage in relevant]
        if ranks and ranks[0] <= self.mrr_at:
            self._reciprocal += 1 / ranks[0]
        for cut in self.recall_at:
            hits = sum(rank <= cut for rank in ranks)
            self._hits[cut] += hits
            self._shares[cut] += hits / len(relevant)

    @property
    def names(self) -> list[str]:
        """Names of the metrics: MRR first, then recall in the order of its cuts."""
        mrr, recall = ("t2_mrr", "micro_recall") if self.style == "t2" else ("mrr", "recall")
        return [f"{mrr}_at_{self.mrr_at}", *(f"{recall}_at_{cut}" for cut in self.recall_at)]

    def compute(self) -> dict[str, float]:
        """Average what was added.

        Returns:
            ``t2_mrr_at_10``, ``micro_recall_at_1``, ... for style ``"t2"``, ``mrr_at_10``, ``recall_at_1``,
            ... for ``"standard"``, and ``queries_ranked``, the number of queries in the run.

        Raises:
            ArgumentError: If no query of the run has a relevant passage.
        """
        if not self.n_positives:
            domain = "a run with a query that has a relevant passage"
            raise bad_argument("T2Ranking", "run", domain, f"{self.n_queries} queries without any")
        if self.style == "t2":
            values = [self._reciprocal / self.n_queries]
            values += [self._hits[cut] / self.n_positives for cut in self.recall_at]
        else:
            n_judged = sum(bool(relevant) for relevant in self.positives.values())
            values = [self._reciprocal / n_judged]
            values += [self._shares[cut] / n_judged for cut in self.recall_at]
        return {**dict(zip(self.names, values, strict=True)), "queries_ranked": float(self.n_queries)}


def measure_rankings(
    rankings: Mapping[str, Sequence[str | None]] | Iterable[tuple[str, Sequence[str | None]]],
    positives: Mapping[str, Collection[str]],
    *,
    style: str = "t2",
    mrr_at: int = MRR_AT,
    recall_at: Sequence[int] = RECALL_AT,
) -> dict[str, float]:
    """Measure a run, by the rules of `Tally`.

    Args:
        rankings: Query id -> passage ids, best first, as a mapping or as pairs that come one at a time.
        positives: Query id -> relevant passages.
        style: ``"t2"``, what the authors report, or ``"standard"``.
        mrr_at: Last rank that counts for MRR.
        recall_at: Cuts of recall.

    Returns:
        As `Tally.compute`.

    Raises:
        ArgumentError: If an argument is outside its domain, or nothing can be measured.

    Example:
        >>> rankings = {"q1": ["a", "x"], "q2": ["x", "d"], "q3": ["x", "y"]}
        >>> measure_rankings(rankings, {"q1": ["a", "b", "c"], "q2": ["d"]}, recall_at=[50])
        {'t2_mrr_at_10': 0.5, 'micro_recall_at_50': 0.5, 'queries_ranked': 3.0}
    """
    tally = Tally(positives, style=style, mrr_at=mrr_at, recall_at=recall_at)
    for query_id, ranking in rankings.items() if isinstance(rankings, Mapping) else rankings:
        tally.add(query_id, ranking)
    return tally.compute()
