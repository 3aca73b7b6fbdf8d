"""What GIVEN document vectors can return: exact answers by linear programming (ours, not in the paper)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog, nnls
from torch import Tensor

from fletching.errors import bad_argument
from fletching.methods.limit.bounds import log_combinations
from fletching.models.inputs import check_positive
from fletching.progress import track

_FEASIBLE = 1e-9  # gap above which a query counts; the solver works to 1e-10
_TOLERANCES = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


@dataclass(frozen=True)
class Capacity:
    """Which k-subsets of some documents a single query vector can return.

    Args:
        fraction: Share of the tested subsets that some query returns exactly.
        tested: Subsets that were tested.
        exhaustive: Whether these were all there are.
        margins: One per tested subset: the largest margin that was found, 0 where there is no query.
    """

    fraction: float
    tested: int
    exhaustive: bool
    margins: Tensor

    def margin_quantiles(self, *levels: float) -> tuple[float, ...]:
        """Return quantiles of the margins, subsets without a query included as 0.

        Args:
            *levels: From 0 to 1; none asks for the minimum, the median and the maximum.

        Returns:
            One number per level.
        """
        points = torch.tensor(levels or (0.0, 0.5, 1.0), dtype=torch.float64)
        return tuple(torch.quantile(self.margins, points).tolist())


def find_query(document_embeddings: Any, subset: Sequence[int]) -> tuple[Tensor, float] | None:
    """Find the query that returns exactly ``subset``, with the largest margin, or prove that there is none.

    One linear program decides: maximise t such that ``<u, v_i> >= c + t`` for i in the subset, ``<u, v_j> <=
    c`` for the others, ``|u|_inf <= 1``. Where t is positive, the margin of the hard-margin linear SVM is
    found as a least-distance program (Lawson and Hanson, chapter 23), by non-negative least squares.

    Args:
        document_embeddings: Shape ``(N, D)``: a tensor, an array, or nested lists.
        subset: Distinct indices of documents; not empty, not all.

    Returns:
        A unit query of shape ``(D,)``, float64, and its margin: half the gap between the worst document of
        the subset and the best other, after dividing by the largest norm of a document. The gap is measured
        on the query that is returned, so that it is never too large. ``None``: no query returns the subset.

    Raises:
        ArgumentError: If an argument is outside its domain.

    Example:
        >>> square = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]
        >>> query, margin = find_query(square, [0, 1])
        >>> round(margin, 4)
        0.7071
        >>> find_query(square, [0, 2]) is None
        True
    """
    documents = _read_embeddings("find_query", document_embeddings)
    chosen = sorted(set(subset))
    if len(chosen) != len(subset) or not 0 < len(chosen) < len(documents):
        raise bad_argument("find_query", "subset", "some, but not all, of the documents, each once", subset)
    if chosen[0] < 0 or chosen[-1] >= len(documents):
        raise bad_argument("find_query", "subset", f"indices from 0 to {len(documents) - 1}", subset)
    return _solve_subset(documents, chosen)


def capacity(
    document_embeddings: Any,
    k: int = 2,
    *,
    n_samples: int = 1000,
    seed: int = 0,
    show_progress_bar: bool | None = None,
) -> Capacity:
    """Measure which k-subsets of these documents some query vector returns, whatever the query encoder.

    With frozen documents this bounds every query encoder. All subsets are tested where there are at most
    ``n_samples``, else a random sample without repetition.

    Args:
        document_embeddings: Shape ``(N, D)``: a tensor, an array, or nested lists. Norms count: a query
            returns documents by dot product.
        k: Size of the subsets, from 1 to N - 1.
        n_samples: Most subsets to test; >= 1. Each takes milliseconds for a hundred documents, about a second
            for a thousand.
        seed: Of the sample.
        show_progress_bar: Whether to draw a progress bar; ``None`` draws one for a terminal at level INFO.

    Returns:
        The share that can be returned, and the margins.

    Raises:
        ArgumentError: If an argument is outside its domain.

    Example:
        >>> square = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]
        >>> found = capacity(square, k=2)
        >>> found.tested, found.exhaustive, round(found.fraction, 3)
        (6, True, 0.667)
    """
    documents = _read_embeddings("capacity", document_embeddings)
    n = len(documents)
    if not (isinstance(k, int) and 1 <= k < n):
        raise bad_argument("capacity", "k", f"an integer from 1 to {n - 1}, one less than the documents", k)
    check_positive("capacity", "n_samples", n_samples)
    exhaustive = log_combinations(n, k) <= math.log(n_samples) + 1e-9
    subsets = list(combinations(range(n), k)) if exhaustive else _sample_subsets(n, k, n_samples, seed)
    margins = [
        0.0 if (found := _solve_subset(documents, list(subset))) is None else found[1]
        for subset in track(subsets, desc="Solving", show=show_progress_bar)
    ]
    values = torch.tensor(margins, dtype=torch.float64)
    return Capacity(float((values > 0).double().mean()), len(subsets), exhaustive, values)


def certify_subsets(document_embeddings: Any, subsets: Iterable[Sequence[int]]) -> Tensor:
    """Say of each subset whether some query returns exactly it.

    Args:
        document_embeddings: Shape ``(N, D)``: a tensor, an array, or nested lists.
        subsets: Distinct indices of documents each; the set of all documents is always returned.

    Returns:
        Boolean, one per subset.

    Raises:
        ArgumentError: If an argument is outside its domain.

    Example:
        >>> certify_subsets([[-1.0], [0.0], [1.0]], [[0, 1], [0, 2]])
        tensor([ True, False])
    """
    documents = _read_embeddings("certify_subsets", document_embeddings)
    return torch.tensor(
        [
            len(subset) == len(documents) or find_query(documents, subset) is not None
            for subset in map(list, subsets)
        ]
    )


def _solve_subset(documents: np.ndarray, subset: list[int]) -> tuple[Tensor, float] | None:
    query = _solve_program(documents, subset)
    if query is None:
        return None
    wide = _widen_margin(documents, subset)
    candidates = [
        candidate / np.linalg.norm(candidate) for candidate in (query, wide) if candidate is not None
    ]
    gaps = [_measure_gap(documents, subset, candidate) for candidate in candidates]
    best = int(np.argmax(gaps))
    return torch.from_numpy(candidates[best]), gaps[best] / 2


def _solve_program(documents: np.ndarray, subset: list[int]) -> np.ndarray | None:
    """Solve the linear program of :func:`find_query`; unknowns are u, c and t."""
    n, d = documents.shape
    signs = np.ones(n)
    signs[subset] = -1
    rows = np.column_stack([signs[:, None] * documents, -signs, (signs < 0).astype(float)])
    bounds = [(-1.0, 1.0)] * d + [(None, None)] * 2
    goal = np.zeros(d + 2)
    goal[-1] = -1
    solution = linprog(goal, A_ub=rows, b_ub=np.zeros(n), bounds=bounds, method="highs", options=_TOLERANCES)
    query = solution.x[:d] if solution.x is not None else np.zeros(d)
    return query if _measure_gap(documents, subset, query) > _FEASIBLE else None


def _widen_margin(documents: np.ndarray, subset: list[int]) -> np.ndarray | None:
    """Solve ``min |w| such that <w, v_i - v_j> >= 1`` for i in the subset, j outside."""
    others = np.delete(documents, subset, axis=0)
    differences = (documents[subset][:, None] - others[None]).reshape(-1, documents.shape[1])
    system = np.vstack([differences.T, np.ones(len(differences))])
    goal = np.zeros(len(system))
    goal[-1] = 1
    try:
        weights, _ = nnls(system, goal)
    except RuntimeError:  # too many iterations: the query of the linear program stands
        return None
    residual = goal - system @ weights
    norm = np.linalg.norm(residual[:-1])
    return -residual[:-1] if norm > 0 else None


def _measure_gap(documents: np.ndarray, subset: list[int], query: np.ndarray) -> float:
    scores = documents @ query
    return float(scores[subset].min() - np.delete(scores, subset).max())


def _sample_subsets(n: int, k: int, n_samples: int, seed: int) -> list[tuple[int, ...]]:
    generator = Random(seed)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < n_samples:
        found[tuple(sorted(generator.sample(range(n), k)))] = None
    return list(found)


def _read_embeddings(owner: str, embeddings: Any) -> np.ndarray:
    """Turn into float64, the largest norm being 1."""
    if isinstance(embeddings, Tensor):
        embeddings = embeddings.detach().double().cpu().numpy()
    array = np.asarray(embeddings, dtype=np.float64)
    if array.ndim != 2 or len(array) < 2:
        raise bad_argument(owner, "document_embeddings", "a matrix of two or more documents", array.shape)
    if not np.isfinite(array).all():
        raise bad_argument(owner, "document_embeddings", "finite numbers", "NaN or infinity")
    largest = np.linalg.norm(array, axis=1).max()
    return array / largest if largest > 0 else array
