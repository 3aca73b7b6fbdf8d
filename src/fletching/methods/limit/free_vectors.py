"""The free-embedding experiment: the best case of single-vector retrieval, without any text."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fletching.errors import DataError, bad_argument
from fletching.methods.limit.bounds import critical_n
from fletching.methods.limit.certificates import certify_subsets
from fletching.methods.limit.config import FreeEmbeddingConfig
from fletching.methods.limit.functional import compute_contrastive_loss, compute_margins
from fletching.models.inputs import check_positive
from fletching.progress import progress_bar

logger = logging.getLogger(__name__)

_ITERATIONS_PER_SAVE = 1000


@dataclass(frozen=True)
class FreeEmbeddings:
    """What the optimisation reached.

    Args:
        accuracy: Share of relevant documents in the top k of their query, k being the size of its set: the
            best that was seen. 1.0 proves that the dimension is enough; less proves nothing.
        iterations: Steps that were taken.
        query_embeddings: Unit vectors at the best accuracy, shape ``(B, D)``.
        document_embeddings: Unit vectors at the best accuracy, shape ``(N, D)``.
        margins: Half the gap between worst relevant and best other document, by query, shape ``(B,)``.
        certified: Whether SOME query returns the set on these documents, by linear programming, shape
            ``(B,)``; ``None`` when ``certify`` was off.
    """

    accuracy: float
    iterations: int
    query_embeddings: Tensor
    document_embeddings: Tensor
    margins: Tensor
    certified: Tensor | None = None


@dataclass(frozen=True)
class CriticalSearch:
    """Where the optimisation stops solving every combination.

    Args:
        n: Most documents with accuracy 1.0, the reference's "critical n": a property of this optimiser, not a
            maximum.
        accuracies: The best accuracy by number of documents, ascending, for every size that was tried.
    """

    n: int
    accuracies: dict[int, float]

    @property
    def unbroken(self) -> int:
        """Most documents before the first size that failed; less than ``n`` where a larger one was solved."""
        failed = [n for n, accuracy in self.accuracies.items() if accuracy < 1.0]
        return max(n for n in self.accuracies if n < min(failed, default=self.n + 1))


def free_embeddings(
    target: int | Sequence[Sequence[int]],
    dim: int,
    *,
    k: int = 2,
    n_documents: int | None = None,
    config: FreeEmbeddingConfig | None = None,
    certify: bool = False,
    device: str | torch.device = "cpu",
    checkpoint: str | Path | None = None,
    show_progress_bar: bool | None = None,
) -> FreeEmbeddings:
    """Optimise free query and document vectors until every query returns its relevant documents.

    After the reference code: a contrastive loss on cosines over temperature, all documents in
    the denominator, Adam, vectors put back to length one after each step. One seed on one machine gives one
    result; expect one document more or less between machines at small dimensions.

    Args:
        target: Number of documents: all C(n, k) sets are relevant to one query each. Or your own relevance:
            the indices of the relevant documents of every query.
        dim: Dimensions, >= 1.
        k: Size of the sets; not used with your own relevance.
        n_documents: With your own relevance, how many documents there are; ``None``: up to the largest index.
        config: Hyper-parameters; ``None`` takes those of the reference code.
        certify: Whether to ask a linear program about every query that failed: do the learned documents
            admit its set?
        device: Where to compute.
        checkpoint: File that keeps the state every 1000 steps; where it exists, the run goes on from it and
            ends as if it had never stopped. ``None`` keeps nothing.
        show_progress_bar: Whether to count the steps, which may end early; ``None`` does for a terminal at
            level INFO.

    Returns:
        The best vectors that were seen, on the CPU.

    Raises:
        ArgumentError: If an argument is outside its domain.
        DataError: If the checkpoint belongs to another run.

    Example:
        >>> free_embeddings(5, 4).accuracy
        1.0
    """
    check_positive("free_embeddings", "dim", dim)
    subsets, n = _read_target(target, k, n_documents)
    settings = config or FreeEmbeddingConfig()
    run = _Run(subsets, n, dim, settings, torch.device(device))
    run.resume(checkpoint)
    with progress_bar(settings.max_iterations - run.iteration, "Optimising", show_progress_bar) as advance:
        while not run.is_finished:
            run.step()
            advance(1)
            if checkpoint is not None and run.iteration % _ITERATIONS_PER_SAVE == 0:
                run.save(checkpoint)
    queries, documents = run.best_queries.cpu(), run.best_documents.cpu()
    margins = _measure_margins(queries, documents, run.relevance.cpu())
    certified = _certify(documents, subsets, margins) if certify else None
    return FreeEmbeddings(run.best_accuracy, run.iteration, queries, documents, margins, certified)


def find_critical_n(
    dim: int,
    *,
    k: int = 2,
    start: int | None = None,
    sweep: bool = True,
    config: FreeEmbeddingConfig | None = None,
    device: str | torch.device = "cpu",
) -> CriticalSearch:
    """Find the most documents of which free vectors of ``dim`` dimensions solve all k-subsets.

    As the reference: gallop from ``start`` with doubling steps, halve the bracket, then sweep from n - 4 to n
    + 5, because one size may fail where a larger one is solved.

    Args:
        dim: Dimensions, >= 1.
        k: Size of the subsets.
        start: First size to try; ``None`` takes :func:`critical_n` (which is for k = 2), or k + 1 if larger.
        sweep: Whether to sweep at the end; without, a run that fails by chance ends the search.
        config: Hyper-parameters; ``None`` takes those of the reference code.
        device: Where to compute.

    Returns:
        The number, and every accuracy on the way.

    Raises:
        ArgumentError: If an argument is outside its domain.
    """
    check_positive("find_critical_n", "dim", dim)
    check_positive("find_critical_n", "k", k)
    accuracies = {k: 1.0}  # one set, all documents

    def solves(n: int) -> bool:
        if n not in accuracies:
            accuracies[n] = free_embeddings(n, dim, k=k, config=config, device=device).accuracy
            logger.info("d = %d, n = %d: accuracy %.4f.", dim, n, accuracies[n])
        return accuracies[n] == 1.0

    low, high = _bracket(solves, max(start or critical_n(dim).n, k + 1), k)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if solves(middle) else (low, middle)
    if sweep:
        for n in range(max(k, low - 4), low + 6):
            solves(n)
    solved = [n for n, accuracy in accuracies.items() if accuracy == 1.0]
    return CriticalSearch(max(solved), dict(sorted(accuracies.items())))


def _bracket(solves: Callable[[int], bool], start: int, least: int) -> tuple[int, int]:
    """Gallop, with doubling steps, to a size that is solved and a larger one that is not."""
    step = 1
    if solves(start):
        low = start
        while solves(low + step):
            low, step = low + step, 2 * step
        return low, low + step
    high = start
    while high > least and not solves(max(least, high - step)):
        high, step = max(least, high - step), 2 * step
    return max(least, high - step), high


@dataclass
class _Run:
    """The state of one optimisation."""

    subsets: list[tuple[int, ...]]
    n: int
    dim: int
    settings: FreeEmbeddingConfig
    device: torch.device
    iteration: int = 0
    best_loss: float = float("inf")
    stale: int = 0
    best_accuracy: float = -1.0
    relevance: Tensor = field(init=False)
    best_queries: Tensor = field(init=False)
    best_documents: Tensor = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.settings.seed)
        vectors = [
            normalize(torch.randn(rows, self.dim, generator=generator), dim=1).to(self.device)
            for rows in (len(self.subsets), self.n)
        ]
        self.queries, self.documents = (vector.requires_grad_() for vector in vectors)
        self.best_queries, self.best_documents = (vector.detach().clone() for vector in vectors)
        self.optimizer = torch.optim.Adam(vectors, lr=self.settings.learning_rate)
        self.relevance = build_relevance(self.subsets, self.n).to(self.device)
        self.total = int(self.relevance.count_nonzero())

    @property
    def is_finished(self) -> bool:
        """Whether it is solved, stalled or out of steps."""
        settings = self.settings
        return (
            self.best_accuracy == 1.0
            or self.stale >= settings.patience
            or self.iteration >= settings.max_iterations
        )

    def step(self) -> None:
        """Take one step; look at loss and, now and then, at accuracy."""
        self.optimizer.zero_grad()
        loss = self._accumulate_gradients()
        self.optimizer.step()
        with torch.no_grad():
            for vectors in (self.queries, self.documents):
                vectors.copy_(normalize(vectors, dim=1))
        self.iteration += 1
        improved = loss < self.best_loss - self.settings.min_delta
        self.best_loss, self.stale = (loss, 0) if improved else (self.best_loss, self.stale + 1)
        last = self.stale >= self.settings.patience or self.iteration >= self.settings.max_iterations
        if last or self.iteration % self.settings.check_every == 0:
            self._check_accuracy()

    def _accumulate_gradients(self) -> float:
        loss = 0.0
        for rows, relevance in self._chunks():
            logits = self.queries[rows] @ self.documents.T / self.settings.temperature
            share = float(relevance.sum()) if self.settings.loss == "each" else len(relevance)
            whole = self.total if self.settings.loss == "each" else len(self.subsets)
            part = compute_contrastive_loss(logits, relevance, form=self.settings.loss) * (share / whole)
            part.backward()
            loss += float(part.detach())
        return loss

    def _chunks(self) -> Iterator[tuple[slice, Tensor]]:
        size = self.settings.queries_per_chunk
        for first in range(0, len(self.subsets), size):
            rows = slice(first, first + size)
            yield rows, self.relevance[rows]

    @torch.no_grad()
    def _check_accuracy(self) -> None:
        found = 0.0
        for rows, relevance in self._chunks():
            order = (self.queries[rows] @ self.documents.T).argsort(dim=1, descending=True, stable=True)
            ranked = relevance.gather(1, order)
            within = torch.arange(self.n, device=self.device) < relevance.sum(dim=1, keepdim=True)
            found += float((ranked * within).sum())
        accuracy = found / self.total
        if accuracy > self.best_accuracy:
            self.best_accuracy = accuracy
            self.best_queries = self.queries.detach().clone()
            self.best_documents = self.documents.detach().clone()

    def save(self, path: str | Path) -> None:
        """Keep the state; a stop while writing leaves the old file."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        names = ("iteration", "best_loss", "stale", "best_accuracy", "best_queries", "best_documents")
        state = {
            "run": self._describe(),
            "vectors": [self.queries.detach(), self.documents.detach()],
            "optimizer": self.optimizer.state_dict(),
            **{name: getattr(self, name) for name in names},
        }
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        torch.save(state, draft)
        draft.replace(path)

    def resume(self, path: str | Path | None) -> None:
        """Take the state over from a file, where there is one."""
        if path is None or not Path(path).exists():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            described = state.pop("run")
        except Exception as error:
            raise DataError(
                f"{path}: not a checkpoint of free_embeddings ({type(error).__name__})."
            ) from error
        if described != self._describe():
            raise DataError(
                f"{path}: belongs to a run with other documents, dimensions or settings. Remove the file "
                "or name another."
            )
        with torch.no_grad():
            for vectors, saved in zip((self.queries, self.documents), state.pop("vectors"), strict=True):
                vectors.copy_(saved)
        self.optimizer.load_state_dict(state.pop("optimizer"))
        for name, value in state.items():
            setattr(self, name, value)

    def _describe(self) -> dict[str, Any]:
        digest = sha256(repr(self.subsets).encode()).hexdigest()
        return {"n": self.n, "dim": self.dim, "subsets": digest, **asdict(self.settings)}


def build_relevance(subsets: Sequence[Sequence[int]], n: int) -> Tensor:
    """Turn index lists into a matrix.

    Args:
        subsets: Relevant documents of every query.
        n: Documents.

    Returns:
        1 at relevant documents, else 0, shape ``(B, n)``, float32.

    Example:
        >>> build_relevance([[0, 2], [1]], 3)
        tensor([[1., 0., 1.],
                [0., 1., 0.]])
    """
    relevance = torch.zeros(len(subsets), n)
    rows = torch.tensor([row for row, subset in enumerate(subsets) for _ in subset])
    relevance[rows, torch.tensor([index for subset in subsets for index in subset])] = 1
    return relevance


def _read_target(
    target: int | Sequence[Sequence[int]], k: int, n_documents: int | None
) -> tuple[list[tuple[int, ...]], int]:
    owner = "free_embeddings"
    if isinstance(target, int):
        if not (isinstance(k, int) and 1 <= k <= target):
            raise bad_argument(owner, "k", f"an integer from 1 to the number of documents ({target})", k)
        return list(combinations(range(target), k)), target
    subsets = [tuple(sorted(set(subset))) for subset in target]
    if not subsets or not all(subsets):
        domain = "a number of documents, or one or more relevant documents for every query"
        raise bad_argument(owner, "target", domain, target)
    n = max(subset[-1] for subset in subsets) + 1 if n_documents is None else n_documents
    if min(subset[0] for subset in subsets) < 0 or max(subset[-1] for subset in subsets) >= n:
        raise bad_argument(owner, "target", f"indices from 0 to {n - 1}", target)
    return subsets, n


def _measure_margins(queries: Tensor, documents: Tensor, relevance: Tensor) -> Tensor:
    parts = zip(queries.split(65_536), relevance.split(65_536), strict=True)
    return torch.cat([compute_margins(rows @ documents.T, hits) for rows, hits in parts])


def _certify(documents: Tensor, subsets: list[tuple[int, ...]], margins: Tensor) -> Tensor:
    certified = margins > 0
    failed = (~certified).nonzero().flatten().tolist()
    if failed:
        certified[failed] = certify_subsets(documents, [subsets[row] for row in failed])
    return certified
