"""Quality and scores by script and by length."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fletching.data import CandidateList
from fletching.errors import MissingExtraError
from fletching.evaluation.audit.report import NOTE, OK, SKIPPED, Probe, Slice
from fletching.metrics import evaluate_run
from fletching.text.scripts import find_script

__all__ = ["Scored", "build_slices", "check_truncation"]

Array = NDArray[np.float64]

_MEASURE = "ndcg_at_10"
_MAX_GRADE = 1000
_MIN_FOR_THIRDS = 3


@dataclass(frozen=True)
class Scored:
    """A list and what a model made of it.

    Args:
        content: The list.
        scores: One for each passage.
        lost_tokens: Tokens of each passage that were not read; ``None`` if that is not known.
    """

    content: CandidateList
    scores: Array
    lost_tokens: Sequence[int] | None


def build_slices(lists: Sequence[Scored]) -> tuple[list[Slice], list[str]]:
    """Split lists and passages by script and length.

    Args:
        lists: The lists.

    Returns:
        ``(slices, remarks)``: the slices, and why there is no nDCG where there is none.
    """
    ndcg, remarks = _measure_ndcg(lists)
    slices = [_slice_lists("all", "all lists", lists, [*range(len(lists))], ndcg)]
    queries = [one.content.query for one in lists]
    for by, names in (
        ("script of the query", [find_script(query) for query in queries]),
        ("length of the query", _name_thirds([len(query) for query in queries])),
        ("length of the relevant passages", _name_thirds([_mean_relevant_length(one) for one in lists])),
    ):
        groups = _group(names)
        if len(groups) > 1:
            slices += [_slice_lists(by, name, lists, places, ndcg) for name, places in groups.items()]
    return slices + _slice_documents(lists), remarks


def check_truncation(lists: Sequence[Scored]) -> Probe:
    """Count the passages that the model does not read to their end.

    Args:
        lists: The lists.

    Returns:
        The probe.
    """
    name = "truncation"
    if any(one.lost_tokens is None for one in lists):
        return Probe(name, SKIPPED, None, None, "The model does not say what it cuts off.")
    lost = [count for one in lists for count in one.lost_tokens or ()]
    cut = [count for count in lost if count]
    if not cut:
        return Probe(name, OK, 0.0, 0.0, "Every passage was read to its end.")
    sentence = f"{len(cut)} of {len(lost)} passages were cut; tokens not read: {sum(cut)}."
    return Probe(name, NOTE, len(cut) / len(lost), 0.0, sentence)


def _measure_ndcg(lists: Sequence[Scored]) -> tuple[dict[int, float], list[str]]:
    """Compute nDCG@10 of the lists that have a relevant passage, by the list's place."""
    graded = [place for place, one in enumerate(lists) if any(label > 0 for label in one.content.labels)]
    if not graded:
        return {}, ["No list has a relevant passage: there is no nDCG."]
    labels = [label for place in graded for label in lists[place].content.labels]
    if any(not float(label).is_integer() or abs(label) > _MAX_GRADE for label in labels):
        return {}, ["The labels are no grades (whole numbers): there is no nDCG."]
    run: dict[str, dict[str, float]] = {}
    qrels: dict[str, dict[str, int]] = {}
    for place in graded:
        one = lists[place]
        ids = [_draw_id(index, text) for index, text in enumerate(one.content.documents)]
        run[f"{place:06}"] = dict(zip(ids, one.scores.tolist(), strict=True))
        qrels[f"{place:06}"] = dict(zip(ids, map(int, one.content.labels), strict=True))
    try:
        values = evaluate_run(run, qrels, [_MEASURE])[_MEASURE]
    except MissingExtraError as error:
        return {}, [f"There is no nDCG: {error}"]
    return dict(zip(graded, values.tolist(), strict=True)), []


def _draw_id(index: int, text: str) -> str:
    """Make an id that does not follow the order of the list, in which relevant passages may come first."""
    return hashlib.blake2b(f"{text} {index}".encode("utf-8", "replace"), digest_size=8).hexdigest()


def _slice_lists(
    by: str, name: str, lists: Sequence[Scored], places: Sequence[int], ndcg: dict[int, float]
) -> Slice:
    values = [ndcg[place] for place in places if place in ndcg]
    chosen = [lists[place] for place in places]
    lost = [count for one in chosen for count in one.lost_tokens or ()]
    known = all(one.lost_tokens is not None for one in chosen)
    return Slice(
        by,
        name,
        len(places),
        sum(len(one.scores) for one in chosen),
        ndcg_at_10=float(np.mean(values)) if values else None,
        lost_tokens=sum(lost) if known else None,
    )


def _slice_documents(lists: Sequence[Scored]) -> list[Slice]:
    texts = [text for one in lists for text in one.content.documents]
    owners = [place for place, one in enumerate(lists) for _ in one.content.documents]
    scores = np.concatenate([_standardise(one.scores) for one in lists])
    labelled = all(one.content.labels for one in lists)
    grades = (
        np.concatenate([_standardise(np.array(one.content.labels)) for one in lists]) if labelled else None
    )
    known = all(one.lost_tokens is not None for one in lists)
    lost = [count for one in lists for count in one.lost_tokens or ()]
    slices = []
    for by, names in (
        ("script of the passage", [find_script(text) for text in texts]),
        ("length of the passage", _name_thirds([len(text) for text in texts])),
    ):
        groups = _group(names)
        n_mixed = len({*zip(owners, names, strict=True)}) - len(lists)
        for name, places in groups.items() if n_mixed else ():  # within a list, or the means are all 0
            slices.append(
                Slice(
                    by,
                    name,
                    len({owners[place] for place in places}),
                    len(places),
                    mean_score=float(scores[places].mean()),
                    mean_grade=None if grades is None else float(grades[places].mean()),
                    lost_tokens=sum(lost[place] for place in places) if known else None,
                )
            )
    return slices


def _standardise(values: Array) -> Array:
    deviation = float(values.std())
    standardised: Array = (values - values.mean()) / (deviation or 1.0)
    return standardised


def _mean_relevant_length(one: Scored) -> float | None:
    lengths = [
        len(text) for text, label in zip(one.content.documents, one.content.labels, strict=False) if label > 0
    ]
    return sum(lengths) / len(lengths) if lengths else None


def _name_thirds(lengths: Sequence[float | None]) -> list[str | None]:
    """Call each length short, medium or long, a third each; ``None`` stays ``None``."""
    known = [length for length in lengths if length is not None]
    if len(known) < _MIN_FOR_THIRDS or min(known) == max(known):
        return [None] * len(lengths)
    low, high = np.quantile(known, [1 / 3, 2 / 3])

    def choose(length: float) -> str:
        if length <= low:
            return f"short (to {low:.0f} characters)"
        return f"medium (to {high:.0f})" if length <= high else f"long (over {high:.0f})"

    return [None if length is None else choose(length) for length in lengths]


def _group(names: Sequence[str | None]) -> dict[str, list[int]]:
    """Collect the places of each name: short before long, else the most frequent first."""
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        if name is not None:
            groups.setdefault(name, []).append(place)
    order = {"short": 0, "medium": 1, "long": 2}
    ranked = sorted(groups, key=lambda name: (order.get(name.split(" ")[0], 3), -len(groups[name]), name))
    return {name: groups[name] for name in ranked}
