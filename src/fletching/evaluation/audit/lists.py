"""The lists that an audit works on."""

from __future__ import annotations

import hashlib
import heapq
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.resources import files
from itertools import islice

from fletching.data import CandidateList, Document, read_lists
from fletching.errors import bad_argument
from fletching.evaluation.data_set import EvaluationSet

__all__ = ["LONG_TEXT", "OWN_NAME", "build_lists", "digest_lists", "read_own_lists", "sample_lists"]

OWN_NAME = "fletching's own lists"
"""Name of the lists that `read_own_lists` reads."""

LONG_TEXT = " ".join(f"The {number}th arrow of the quiver flew over the wall." for number in range(40, 240))
"""A text of 2,000 words, which few models read to the end."""

_SPARE_DOCUMENTS = 200  # passages drawn from a corpus for all lists that have no candidates


def read_own_lists() -> list[CandidateList]:
    """Read the lists that come with fletching.

    Returns:
        Twelve queries in seven languages and six scripts, each with 7 to 11 passages of one word to 250,
        graded from 0 to 3.

    Example:
        >>> lists = read_own_lists()
        >>> len(lists), lists[0].query
        (12, 'Why do arrows have feathers?')
    """
    return [*read_lists(str(files("fletching.evaluation.audit") / "lists.jsonl"))]


def sample_lists(
    lists: Iterable[CandidateList], *, max_lists: int, max_documents: int, seed: int
) -> tuple[list[CandidateList], list[str]]:
    """Draw lists and shorten them.

    Args:
        lists: Any number of lists.
        max_lists: How many to keep.
        max_documents: Passages to keep in each, at least 2: those with the highest labels up to half of them,
            the others drawn; in the order of the list.
        seed: Same seed, same sample.

    Returns:
        ``(lists, remarks)``: the sample, in the order given, and what was left out.
    """
    generator = random.Random(seed)
    given = [*lists]
    usable = [one for one in given if len(set(one.documents)) > 1 and one.query.strip()]
    remarks = []
    if len(usable) < len(given):
        lost = len(given) - len(usable)
        remarks.append(f"Left out, for want of a query or of two different passages: {lost} of {len(given)}.")
    if len(usable) > max_lists:
        remarks.append(f"Drawn: {max_lists} of {len(usable)} lists.")
        usable = [usable[place] for place in sorted(generator.sample(range(len(usable)), max_lists))]
    if any(len(one.documents) > max_documents for one in usable):
        remarks.append(f"Lists were shortened to {max_documents} passages, labelled ones first.")
        usable = [_shorten(one, max_documents, generator) for one in usable]
    return usable, remarks


def _shorten(one: CandidateList, max_documents: int, generator: random.Random) -> CandidateList:
    places = range(len(one.documents))
    if len(places) <= max_documents:
        return one
    best = [place for place in places if one.labels and one.labels[place] > 0]
    best = sorted(best, key=lambda place: -one.labels[place])[: (max_documents + 1) // 2]
    others = [place for place in places if place not in best]
    kept = sorted([*best, *generator.sample(others, max_documents - len(best))])
    return replace(
        one,
        documents=tuple(one.documents[place] for place in kept),
        labels=tuple(one.labels[place] for place in kept) if one.labels else (),
        document_ids=tuple(one.document_ids[place] for place in kept) if one.document_ids else (),
    )


def build_lists(data: EvaluationSet, *, max_lists: int, max_documents: int, seed: int) -> list[CandidateList]:
    """Make lists of an evaluation set; its corpus is read once.

    A query's list is what the first stage found. Without a first stage it is the judged passages, filled up
    with passages drawn from the corpus.

    Args:
        data: The evaluation set.
        max_lists: Queries to draw.
        max_documents: Passages of a list where there are no candidates.
        seed: Same seed, same lists.

    Returns:
        One list for each query that was drawn.
    """
    generator = random.Random(seed)
    found = data.candidates if data.candidates is not None else data.qrels
    queries = [query for query in data.queries if found.get(query)]
    if len(queries) > max_lists:
        queries = [queries[place] for place in sorted(generator.sample(range(len(queries)), max_lists))]
    wanted = {document for query in queries for document in found[query]}
    texts: dict[str, str] = {}
    spare: list[tuple[float, str, str]] = []  # the passages with the highest random numbers
    for document in data.open_corpus():
        if document.id in wanted:
            texts[document.id] = _read_text(document)
        elif data.candidates is None:
            entry = (generator.random(), document.id, _read_text(document))
            if len(spare) < _SPARE_DOCUMENTS:
                heapq.heappush(spare, entry)
            else:
                heapq.heappushpop(spare, entry)
    drawn = {document: text for _, document, text in sorted(spare)}
    texts.update(drawn)
    lists = []
    for query in queries:
        ids = [document for document in found[query] if document in texts]
        free = max_documents - len(ids)
        if data.candidates is None and free > 0:
            ids += islice((document for document in _shuffle(drawn, generator) if document not in ids), free)
            ids = _shuffle(ids, generator)
        grades = data.qrels.get(query, {})
        lists.append(
            CandidateList(
                data.queries[query],
                tuple(texts[document] for document in ids),
                tuple(float(grades.get(document, 0)) for document in ids),
                query,
                tuple(ids),
            )
        )
    return lists


def digest_lists(lists: Sequence[CandidateList]) -> str:
    """Name the content of lists.

    Args:
        lists: The lists.

    Returns:
        16 hexadecimal digits.
    """
    content = json.dumps([[one.query, one.documents, one.labels] for one in lists])
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def check_sizes(max_lists: int, max_documents: int, seed: int) -> None:
    """Refuse sizes that leave nothing to try, and what is no seed.

    Args:
        max_lists: Lists to keep.
        max_documents: Passages to keep in each.
        seed: Decides what is drawn.

    Raises:
        ArgumentError: If one is no integer, or too small.
    """
    for name, value, least in (
        ("max_lists", max_lists, 1),
        ("max_documents", max_documents, 2),
        ("seed", seed, 0),
    ):
        if not isinstance(value, int) or value < least:
            raise bad_argument("audit", name, f"an integer, at least {least}", value)


def _shuffle(ids: Iterable[str], generator: random.Random) -> list[str]:
    shuffled = [*ids]
    generator.shuffle(shuffled)
    return shuffled


def _read_text(document: Document) -> str:
    return document.full_text
