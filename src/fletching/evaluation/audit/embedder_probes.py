"""What is tried on an embedder, one function for each probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.base.modules import Router

from fletching.evaluation.audit.callers import EmbedCaller, FormError
from fletching.evaluation.audit.drift import Drift, judge, show_share
from fletching.evaluation.audit.lists import LONG_TEXT
from fletching.evaluation.audit.report import FAULT, NOTE, OK, SKIPPED, Probe

__all__ = ["EMBEDDER_PROBES", "EmbedTrial", "check_vectors", "find_prompt"]

Array = NDArray[np.float64]

THREADS = 8
"""How many threads use the model at once."""

LENGTH_TOLERANCE = 1e-3
"""How far from 1 the length of a unit vector may be; more in half precision."""

_BATCH_SIZES = (1, 3)
_PADDED_TEXTS = 8
_COPIES = 3
_WHAT = "vectors"
_PROMPT_NAMES = {"query": ("query",), "document": ("document", "passage", "corpus")}  # sentence-transformers'


@dataclass(frozen=True)
class EmbedTrial:
    """An embedder, the texts it is tried on, and their vectors in the plain way.

    Args:
        caller: The embedder.
        queries: Different queries.
        texts: Different passages, at least two.
        query_vectors: One row for each query.
        vectors: One row for each passage.
        noise: Share of the spread that is float noise.
        rounding: Share of the length of a vector that is float noise whatever the spread.
        seed: Decides the order.
    """

    caller: EmbedCaller
    queries: Sequence[str]
    texts: Sequence[str]
    query_vectors: Array
    vectors: Array
    noise: float
    rounding: float
    seed: int

    @cached_property
    def scale(self) -> float:
        """The median distance between two passages; more where rounding would count as drift."""
        sample = self.vectors[:200]
        squares = (sample**2).sum(axis=1)
        distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * sample @ sample.T, 0))
        median = float(np.median(distances[np.triu_indices(len(sample), 1)]))
        return max(median, self.rounding * float(np.sqrt(squares.max())) / self.noise) or 1.0

    def embed(self, texts: Sequence[str], **options: Any) -> Array:
        """Embed texts.

        Args:
            texts: The texts.
            **options: Those of `EmbedCaller.embed`.

        Returns:
            One row for each text.

        Raises:
            FormError: If the answer is no finite vector for each text.
        """
        vectors = self.caller.embed(texts, **options)
        if problem := _find_problem([self.vectors, vectors], [len(self.texts), len(texts)]):
            raise FormError(problem)
        return vectors

    def embed_all(self, **options: Any) -> Array:
        """Embed all passages and queries.

        Args:
            **options: Those of `EmbedCaller.embed`.

        Returns:
            One row for each passage, then one for each query.
        """
        return np.concatenate(
            [self.embed(self.texts, **options), self.embed(self.queries, role="query", **options)]
        )

    def compare(self, vectors: Array, base: Array | None = None) -> Drift:
        """Compare vectors with those of the plain call.

        Args:
            vectors: The vectors.
            base: What they should be; ``None`` for those of all passages and queries.

        Returns:
            How far they moved.
        """
        if base is None:
            base = np.concatenate([self.vectors, self.query_vectors])
        moves = np.linalg.norm(vectors - base, axis=1)
        return Drift(float(moves.max()) / self.scale, None, len(moves))


def check_vectors(vectors: Sequence[Array], n_texts: Sequence[int]) -> Probe:
    """Every text gets one finite vector of the same size.

    Args:
        vectors: Answers of the model.
        n_texts: How many texts each was given.

    Returns:
        The probe; after a fault nothing else can be tried.
    """
    if problem := _find_problem(vectors, n_texts):
        return Probe("form", FAULT, 1.0, 0.0, f"{problem[0].upper()}{problem[1:]}.")
    sentence = f"Every text gets one finite vector of {vectors[0].shape[1]} numbers."
    return Probe("form", OK, 0.0, 0.0, sentence)


def _find_problem(vectors: Sequence[Array], n_texts: Sequence[int]) -> str:
    if any(array.ndim != 2 or len(array) != n for array, n in zip(vectors, n_texts, strict=True)):
        return f"the shapes are {[array.shape for array in vectors]} for {list(n_texts)} texts"
    if len({array.shape[1] for array in vectors}) > 1:
        return "queries and passages get vectors of different sizes"
    if not all(np.isfinite(array).all() for array in vectors):
        return "a vector holds NaN or infinity"
    return ""


def try_inputs(trial: EmbedTrial) -> Probe:
    """Compare the texts with what they were before the call."""
    given = [*trial.texts]
    trial.caller.model.encode(given)
    if given != [*trial.texts]:
        sentence = "The model changed the list of texts that it was given."
        return Probe("inputs", FAULT, 1.0, 0.0, sentence)
    return Probe("inputs", OK, 0.0, 0.0, "The model leaves the list that it is given as it is.")


def try_repeats(trial: EmbedTrial) -> Probe:
    """Call again, twice."""
    runs = [trial.compare(trial.embed_all()) for _ in range(2)]
    worst = max(runs, key=lambda drift: drift.value)
    hint = "The model is not deterministic; is dropout on?"
    return judge(
        "repeated calls", worst, trial.noise, did="Called three times", exact=True, hint=hint, what=_WHAT
    )


def try_shuffles(trial: EmbedTrial) -> Probe:
    """Shuffle and reverse the texts."""
    n = len(trial.texts)
    orders = [np.random.default_rng(trial.seed).permutation(n), np.arange(n)[::-1]]
    runs = [
        trial.compare(trial.embed([trial.texts[place] for place in order]), trial.vectors[order])
        for order in orders
    ]
    worst = max(runs, key=lambda drift: drift.value)
    hint = "A vector should depend on its text only."
    return judge("order", worst, trial.noise, did="Shuffled and reversed", hint=hint, what=_WHAT)


def try_batch_sizes(trial: EmbedTrial) -> Probe:
    """Call with other batch sizes."""
    if not trial.caller.takes_batch_size:
        return Probe("batch size", SKIPPED, None, None, "The model's methods have no parameter `batch_size`.")
    runs = [trial.compare(trial.embed_all(batch_size=size)) for size in _BATCH_SIZES]
    worst = max(runs, key=lambda drift: drift.value)
    hint = "A vector should not depend on what shares its batch."
    return judge("batch size", worst, trial.noise, did="In batches of 1 and of 3", hint=hint, what=_WHAT)


def try_padding(trial: EmbedTrial) -> Probe:
    """Embed texts beside a very long one."""
    texts = trial.texts[:_PADDED_TEXTS]
    try:
        trial.embed([LONG_TEXT])
    except ValueError as error:
        return Probe("padding", SKIPPED, None, None, f"The model refuses a text of 2,000 words: {error}")
    vectors = np.concatenate([trial.embed([text, LONG_TEXT])[:1] for text in texts])
    hint = "A vector should not depend on the length of its neighbours; is padding masked?"
    drift = trial.compare(vectors, trial.vectors[: len(texts)])
    return judge("padding", drift, trial.noise, did="Beside a very long text", hint=hint, what=_WHAT)


def try_copies(trial: EmbedTrial) -> Probe:
    """Embed texts twice in one call."""
    vectors = trial.embed([*trial.texts, *trial.texts[:_COPIES]])
    n_copies = len(vectors) - len(trial.texts)
    drift = trial.compare(vectors[len(trial.texts) :], vectors[:n_copies])
    hint = "Copies of a text should get the same vector."
    did = "When a text is given twice"
    return judge("duplicates", drift, trial.noise, did=did, exact=True, hint=hint, what=_WHAT)


def try_threads(trial: EmbedTrial) -> Probe:
    """Embed queries and passages in several threads: a part each, twice."""
    parts = [(trial.texts[start::THREADS], "document") for start in range(min(THREADS, len(trial.texts)))]
    parts.append((trial.queries, "query"))
    alone = [trial.embed(texts, role=role) for texts, role in parts]  # the same batches, bit for bit
    with ThreadPoolExecutor(THREADS) as threads:
        found = [*threads.map(lambda part: trial.embed(part[0], role=part[1]), parts * 2)]
    drift = trial.compare(np.concatenate(found), np.concatenate(alone * 2))
    hint = "The model must not be shared by threads without a lock."
    did = f"In {THREADS} threads"
    return judge("threads", drift, trial.noise, did=did, exact=True, hint=hint, what=_WHAT)


def try_ties(trial: EmbedTrial) -> Probe:
    """Count passages that share their vector with a different passage."""
    _, counts = np.unique(trial.vectors, axis=0, return_counts=True)
    n_shared = int(counts[counts > 1].sum())
    share = n_shared / len(trial.vectors)
    if len(counts) == 1:
        return Probe("ties", FAULT, 1.0, 0.0, "All passages get the same vector.")
    if n_shared:
        sentence = f"{n_shared} of {len(trial.vectors)} different passages share their vector with another."
        return Probe("ties", NOTE, share, 0.0, sentence)
    return Probe("ties", OK, 0.0, 0.0, "Different passages get different vectors.")


def try_lengths(trial: EmbedTrial) -> Probe:
    """Measure the lengths of the vectors."""
    lengths = np.linalg.norm(np.concatenate([trial.vectors, trial.query_vectors]), axis=1)
    value, bound = float(np.abs(lengths - 1).max()), max(LENGTH_TOLERANCE, trial.noise)
    if value <= bound:
        return Probe("unit length", OK, value, bound, "All vectors have length one.")
    sentence = f"Vectors have lengths from {lengths.min():.3g} to {lengths.max():.3g}"
    similarity = getattr(trial.caller.model, "similarity_fn_name", None)
    if similarity in {"dot", "euclidean", "manhattan"}:
        sentence += f", and the model compares them by {similarity}: do the same in the index."
        return Probe("unit length", OK, value, bound, sentence)
    sentence += ": normalise them before an index that compares by dot product."
    return Probe("unit length", NOTE, value, bound, sentence)


def try_empty(trial: EmbedTrial) -> Probe:
    """Embed the empty text."""
    vector = trial.caller.embed(["", trial.texts[0]])[0]
    if vector.shape != trial.vectors[0].shape or not np.isfinite(vector).all():
        return Probe("empty text", FAULT, 1.0, 0.0, "The empty text gets no finite vector.")
    return Probe("empty text", OK, 0.0, 0.0, "The empty text gets a finite vector.")


def try_prompts(trial: EmbedTrial) -> Probe:
    """See whether the model's own prompts reach the vectors."""
    model = trial.caller.model
    prompts = {role: text for role in ("query", "document") if (text := find_prompt(model, role))}
    if not hasattr(model, "encode_query"):
        sentence = "The model has no `encode_query` and `encode_document`."
        return Probe("prompts", SKIPPED, None, None, sentence)
    if any(isinstance(module, Router) for module in getattr(model, "children", tuple)()):
        sentence = "Queries and passages take different routes through the model."
        return Probe("prompts", SKIPPED, None, None, sentence)
    if prompts and not trial.caller.takes_prompt:
        return Probe("prompts", SKIPPED, None, None, "`encode` has no parameter `prompt` to compare with.")
    if not prompts:
        return Probe("prompts", OK, 0.0, 0.0, "The model has no prompts for queries and passages.")
    texts = trial.texts[:_PADDED_TEXTS]
    silent = [
        role
        for role, prompt in prompts.items()
        if trial.compare(trial.embed(texts, role=role), trial.embed(texts, role="", prompt=prompt)).value
        > trial.noise
    ]
    shown = ", ".join(f"{role} {text!r}" for role, text in prompts.items())
    if silent:
        sentence = f"The prompt is not applied by encode_{' and encode_'.join(silent)}; prompts: {shown}."
        return Probe("prompts", FAULT, float(len(silent)), 0.0, sentence)
    sentence = f"`encode_query` and `encode_document` put the model's prompts in front: {shown}."
    return Probe("prompts", OK, 0.0, 0.0, sentence)


def find_prompt(model: object, role: str) -> str:
    """Look up what a model puts in front of its texts.

    Args:
        model: Any object.
        role: ``"query"`` or ``"document"``.

    Returns:
        The prompt; empty without one.
    """
    prompts = getattr(model, "prompts", None) or {}
    return next((prompts[name] for name in _PROMPT_NAMES[role] if prompts.get(name)), "")


def try_queries(trial: EmbedTrial) -> Probe:
    """See whether the nearest query differs from passage to passage."""
    if len(trial.queries) < 2:
        return Probe("query", SKIPPED, None, None, "There is only one query.")
    scores = np.stack([trial.caller.score(vector, trial.vectors) for vector in trial.query_vectors])
    value = float(np.ptp(scores, axis=0).mean()) / (float(np.ptp(scores)) or 1.0)
    if value <= trial.noise:
        return Probe("query", FAULT, value, None, "All queries find the same passages equally similar.")
    sentence = f"Another query moves similarities by {show_share(value)} of their range on average."
    return Probe("query", OK, value, None, sentence)


EMBEDDER_PROBES: dict[str, Callable[[EmbedTrial], Probe]] = {
    "inputs": try_inputs,
    "repeated calls": try_repeats,
    "order": try_shuffles,
    "batch size": try_batch_sizes,
    "padding": try_padding,
    "duplicates": try_copies,
    "threads": try_threads,
    "ties": try_ties,
    "query": try_queries,
    "unit length": try_lengths,
    "empty text": try_empty,
    "prompts": try_prompts,
}
"""Name -> what tries it; after `check_vectors`, in the order of the report."""
