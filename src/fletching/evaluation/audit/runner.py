"""From a model to a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from fletching import __version__
from fletching.data import CandidateList
from fletching.errors import bad_argument
from fletching.evaluation.audit.callers import (
    EmbedCaller,
    FormError,
    Ranked,
    RerankCaller,
    build_caller,
)
from fletching.evaluation.audit.drift import find_dtype, find_noise, find_rounding
from fletching.evaluation.audit.embedder_probes import EMBEDDER_PROBES, EmbedTrial, check_vectors, find_prompt
from fletching.evaluation.audit.lists import (
    OWN_NAME,
    build_lists,
    check_sizes,
    digest_lists,
    read_own_lists,
    sample_lists,
)
from fletching.evaluation.audit.report import FAULT, AuditReport, Probe
from fletching.evaluation.audit.reranker_probes import RERANKER_PROBES, RerankTrial, check_form
from fletching.evaluation.audit.slices import Scored, build_slices, check_truncation
from fletching.evaluation.data_set import EvaluationSet
from fletching.models.sharing import fingerprint, load_shared
from fletching.models.tokenization import count_lost_tokens
from fletching.progress import track

__all__ = ["audit"]

T = TypeVar("T")


def audit(
    model: Any,
    lists: Iterable[CandidateList] | EvaluationSet | None = None,
    *,
    data_name: str = "",
    seed: int = 0,
    max_lists: int = 20,
    max_documents: int = 20,
    listwise: bool | None = None,
    show_progress_bar: bool | None = None,
) -> AuditReport:
    """Try what a model should not mind, and report what moves.

    A reranker is given the same lists again, shuffled, reversed, halved, with copies, in other batches,
    beside long texts, in one call with other lists, and in threads; an embedder likewise. Slices by script
    and length show on what it does well.

    Args:
        model: A checkpoint's name, folder or hub id, or a model: ours, one of sentence-transformers, or any
            object with ``rank(query, documents)`` or ``encode(texts)``.
        lists: What to try it on; ``None`` takes `read_own_lists`. Labels are needed for nDCG only.
        data_name: What the report calls the lists; empty takes the name of the evaluation set.
        seed: Decides which lists and passages are drawn, and the orders they are put in; >= 0.
        max_lists: Lists to draw.
        max_documents: Passages to draw for each list.
        listwise: Whether a score may depend on the other passages of its list; ``None`` asks the model, and
            one that does not say is taken to be pointwise.
        show_progress_bar: Whether to draw a progress bar; ``None`` draws one for a terminal at log level
            INFO.

    Returns:
        The report.

    Raises:
        ArgumentError: If the model can neither rank nor encode, or no list can be used.
        CheckpointError: If the checkpoint cannot be opened.
    """
    check_sizes(max_lists, max_documents, seed)
    name = model if isinstance(model, (str, Path)) else type(model).__name__
    opened = load_shared(model) if isinstance(model, (str, Path)) else model
    caller = build_caller(opened, listwise=listwise)
    data_name = data_name or (lists.name if isinstance(lists, EvaluationSet) else "lists given")
    if lists is None:
        lists, data_name = read_own_lists(), OWN_NAME
    elif isinstance(lists, EvaluationSet):
        lists = build_lists(lists, max_lists=max_lists, max_documents=max_documents, seed=seed)
    chosen, remarks = sample_lists(lists, max_lists=max_lists, max_documents=max_documents, seed=seed)
    if not chosen:
        raise bad_argument("audit", "lists", "at least one query with two different passages", len(chosen))
    dtype = find_dtype(opened)
    if isinstance(caller, EmbedCaller):
        probes, scored = _audit_embedder(caller, chosen, dtype, seed, show_progress_bar)
    else:
        probes, scored = _audit_reranker(caller, chosen, dtype, seed, show_progress_bar)
    slices, reasons = build_slices(scored) if scored else ([], [])
    return AuditReport(
        model=str(name),
        kind=caller.kind,
        listwise=caller.listwise,
        dtype=dtype,
        fingerprint=fingerprint(opened) if isinstance(opened, torch.nn.Module) else "",
        data_name=data_name,
        data_digest=digest_lists(chosen),
        n_lists=len(chosen),
        n_documents=sum(len(one.documents) for one in chosen),
        seed=seed,
        version=__version__,
        probes=tuple(probes),
        slices=tuple(slices),
        remarks=tuple(remarks + reasons),
    )


def _audit_reranker(
    caller: RerankCaller, lists: Sequence[CandidateList], dtype: str, seed: int, show: bool | None
) -> tuple[list[Probe], list[Scored]]:
    base = [caller.rank(one.query, one.documents) for one in lists]
    form = check_form(base)
    if form.verdict == FAULT:
        return [form], []
    trial = RerankTrial(
        caller,
        [one.query for one in lists],
        [one.documents for one in lists],
        [one.labels for one in lists],
        base,
        find_noise(dtype),
        find_rounding(dtype),
        seed,
    )
    scored = [
        Scored(one, ranked.scores, _find_lost(caller, one, ranked))
        for one, ranked in zip(lists, base, strict=True)
    ]
    return [form, *_try_all(RERANKER_PROBES, trial, show), check_truncation(scored)], scored


def _audit_embedder(
    caller: EmbedCaller, lists: Sequence[CandidateList], dtype: str, seed: int, show: bool | None
) -> tuple[list[Probe], list[Scored]]:
    queries = [*dict.fromkeys(one.query for one in lists)]
    texts = [*dict.fromkeys(text for one in lists for text in one.documents)]
    query_vectors, vectors = caller.embed(queries, role="query"), caller.embed(texts)
    form = check_vectors([query_vectors, vectors], [len(queries), len(texts)])
    if form.verdict == FAULT:
        return [form], []
    trial = EmbedTrial(
        caller, queries, texts, query_vectors, vectors, find_noise(dtype), find_rounding(dtype), seed
    )
    prompt = find_prompt(caller.model, "document")
    rows = {text: row for row, text in enumerate(texts)}
    scored = [
        Scored(
            one,
            caller.score(
                query_vectors[queries.index(one.query)], vectors[[rows[text] for text in one.documents]]
            ),
            count_lost_tokens(caller.model, [prompt + text for text in one.documents]),
        )
        for one in lists
    ]
    return [form, *_try_all(EMBEDDER_PROBES, trial, show), check_truncation(scored)], scored


def _try_all(probes: Mapping[str, Callable[[T], Probe]], trial: T, show: bool | None) -> list[Probe]:
    """Run every probe; one that cannot be run through, because the model fails, has found a fault."""
    found = []
    for name, probe in track(probes.items(), desc="Auditing", total=len(probes), show=show):
        try:
            found.append(probe(trial))
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except FormError as error:
            found.append(Probe(name, FAULT, None, None, f"While this was tried: {error}."))
        except Exception as error:
            sentence = f"The model failed with {type(error).__name__}: {error}"
            found.append(Probe(name, FAULT, None, None, " ".join(sentence.split())))
    return found


def _find_lost(caller: RerankCaller, one: CandidateList, ranked: Ranked) -> list[int] | None:
    """Read off a ranking what was cut, or count it."""
    if ranked.lost_tokens is not None:
        return [ranked.lost_tokens.get(place, 0) for place in range(len(one.documents))]
    if caller.kind != "reranker":  # queries and passages are read apart
        return count_lost_tokens(caller.model.model, one.documents)
    return count_lost_tokens(caller.model, one.documents, [one.query] * len(one.documents))
