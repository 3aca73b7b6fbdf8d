"""What the last model says about the rows of the next training: which to drop, what to add to them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from fletching.errors import FletchingError, bad_argument
from fletching.evaluation.streaming import search_vectors
from fletching.methods.kalm.config import TEMPLATE, check_range, fill_template, split_query
from fletching.methods.kalm.data import KaLMRow, drop_scores
from fletching.models.inputs import check_count, check_positive
from fletching.models.sharing import fingerprint
from fletching.training import TeacherScores

__all__ = ["AsIs", "compare_by_product", "mine_rows", "score_rows"]

logger = logging.getLogger(__name__)


class AsIs:
    """An embedder that adds no prompt: queries of rows carry theirs already.

    Args:
        model: The embedder.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def encode_query(self, inputs: list[str], **options: Any) -> Any:
        """Encode texts as they are.

        Args:
            inputs: The texts.
            **options: Passed on.

        Returns:
            Their vectors.
        """
        return self.model.encode(inputs, prompt="", **options)

    encode_document = encode_query


def compare_by_product(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """Compare by inner product, which is the cosine for vectors of length one.

    Args:
        queries: Shape ``(B, D)``.
        documents: Shape ``(N, D)``.

    Returns:
        Shape ``(B, N)``.
    """
    return queries @ documents.T


def mine_rows(
    model: Any,
    rows: Sequence[KaLMRow],
    *,
    corpus: Iterable[str] = (),
    filter_top_k: int | None = 50,
    mining_range: Sequence[int] | None = (50, 100),
    n_negatives: int = 7,
    template: str = TEMPLATE,
    seed: int = 0,
) -> list[KaLMRow]:
    """Drop the rows whose positives the model does not find, and fill up the negatives of the others.

    The reference code's two uses of one search: each query is compared with all positives and negatives of
    all rows. *Ranking-consistency filter*: a row whose best positive scores below the 51st hit (place
    ``filter_top_k``, counted from 0) is dropped, its pair is probably wrong. *Mining*: from the hits at
    ``mining_range``, without texts equal to the query or positive for it, in this row or another, negatives
    are drawn until there are ``n_negatives``; those the row has stay and come first, and random texts fill up
    the rest.

    ``mine_hard_negatives`` of sentence-transformers samples from the same ranks, but has no such filter, one
    positive a row, and no negatives of the row's own.

    Args:
        model: An embedder; queries are read as they are, with the instruction they carry.
        rows: The rows.
        corpus: More texts to search.
        filter_top_k: See above; ``None`` drops no row. With no more texts than that, none is dropped.
        mining_range: First rank and the one after the last, from 0; ``None`` leaves negatives as they are.
        n_negatives: Negatives of a row, at least.
        template: What the queries' prompts were made with, to tell the text behind it.
        seed: Same seed, same negatives.

    Returns:
        The rows that are left, in their order. Scores of a teacher are dropped where negatives were added.

    Raises:
        ArgumentError: If a number is outside its domain, or there is no row.
        FletchingError: If a vector holds NaN or infinity.
    """
    check_count("mine_rows", "filter_top_k", filter_top_k)
    check_range("mine_rows", mining_range)
    check_positive("mine_rows", "n_negatives", n_negatives)
    if not rows:
        raise bad_argument("mine_rows", "rows", "at least one row", rows)
    own = (text for row in rows for text in (*row.positives, *row.negatives))
    texts = list(dict.fromkeys([*own, *corpus]))
    places = {text: str(place) for place, text in enumerate(texts)}
    depth = max((filter_top_k or 0) + 2, mining_range[1] if mining_range is not None else 0)
    queries: dict[str, set[str]] = {}
    for row in rows:
        queries.setdefault(row.query, set()).update(row.positives)
    hits = search_vectors(
        AsIs(model),
        {query: query for query in queries},
        passages=[(place, text) for text, place in places.items()],
        compare=compare_by_product,
        depth=depth,
    )
    found = dict(hits)
    kept = []
    for number, row in enumerate(rows):
        ranking = found[row.query]
        if filter_top_k is not None and not _finds_positive(row, ranking, places, filter_top_k):
            continue
        if mining_range is not None:
            window = [texts[int(place)] for place in list(ranking)[mining_range[0] : mining_range[1]]]
            refused = {*queries[row.query], row.query, split_query(row.query, template=template)[1]}
            row = _fill_up(row, window, texts, n_negatives, refused, Random(f"{seed}/{number}"))
        kept.append(row)
    if len(kept) < len(rows):
        logger.info("Dropped %d of %d rows, whose positives are not found.", len(rows) - len(kept), len(rows))
    return kept


def score_rows(
    teacher: Any,
    rows: Sequence[KaLMRow],
    *,
    template: str = TEMPLATE,
    teacher_template: str | None = None,
    path: str | Path | None = None,
    show_progress_bar: bool | None = None,
) -> list[KaLMRow]:
    """Let a teacher compare each query with its positives and negatives, once.

    Args:
        teacher: An embedder. The paper's is Qwen3-Embedding-8B.
        rows: The rows.
        template: What the queries' prompts were made with.
        teacher_template: Of the prompts that the teacher knows; ``None`` leaves queries as they are.
        path: File in which cosines are kept while they come in, by the texts and the teacher's weights, so
            that an interrupted call goes on; ``None`` keeps nothing.
        show_progress_bar: ``None``: if the ``fletching`` logger is at INFO and stderr is a terminal.

    Returns:
        The rows with the teacher's cosines.

    Raises:
        ArgumentError: If a template has no ``{instruction}``.
        FletchingError: If the teacher computes NaN.
    """
    options: dict[str, Any] = {
        "prompt": "",
        "convert_to_tensor": True,
        "normalize_embeddings": True,
        "show_progress_bar": False,
    }

    def compute(chunk: list[tuple[str, ...]]) -> list[list[float]]:
        texts = list(dict.fromkeys(text for _, *own in chunk for text in own))
        places = {text: place for place, text in enumerate(texts)}
        query_vectors = teacher.encode([query for query, *_ in chunk], **options).float()
        vectors = teacher.encode(texts, **options).float()
        found = []
        for (query, *own), vector in zip(chunk, query_vectors, strict=True):
            scores = (vectors[[places[text] for text in own]] @ vector).tolist()
            if not all(abs(score) <= 2 for score in scores):  # a cosine; NaN compares as false
                raise FletchingError(f"score_rows: the teacher computed NaN for {query[:40]!r}.")
            found.append(scores)
        return found

    store = TeacherScores(path, teacher="in memory" if path is None else fingerprint(teacher))
    queries = [_translate(row.query, template, teacher_template) for row in rows]
    groups = [(query, *row.positives, *row.negatives) for query, row in zip(queries, rows, strict=True)]
    scored = store.score(groups, compute, show_progress_bar=show_progress_bar)
    return [
        replace(
            row, positive_scores=scores[: len(row.positives)], negative_scores=scores[len(row.positives) :]
        )
        for row, scores in zip(rows, scored, strict=True)
    ]


def _finds_positive(row: KaLMRow, ranking: dict[str, float], places: dict[str, str], top_k: int) -> bool:
    scores = list(ranking.values())
    if len(scores) <= top_k:
        return True
    # what is not in the ranking is no better than its end, and may be as good
    best = max(ranking.get(places[text], scores[-1]) for text in row.positives)
    return best >= scores[top_k]


def _fill_up(
    row: KaLMRow,
    window: Sequence[str],
    texts: Sequence[str],
    n_negatives: int,
    refused: set[str],
    generator: Random,
) -> KaLMRow:
    """Add hits of the window, then any texts, until there are enough negatives."""
    missing = n_negatives - len(row.negatives)
    if missing <= 0:
        return row
    refused |= {*row.negatives}
    candidates = [text for text in window if text not in refused]
    drawn = generator.sample(candidates, min(missing, len(candidates)))
    refused |= {*drawn}
    for place in generator.sample(range(len(texts)), min(len(texts), missing - len(drawn) + len(refused))):
        if len(drawn) == missing:
            break
        if texts[place] not in refused:
            drawn.append(texts[place])
    return replace(drop_scores(row), negatives=(*row.negatives, *drawn)) if drawn else row


def _translate(query: str, template: str, teacher_template: str | None) -> str:
    if teacher_template is None:
        return query
    instruction, text = split_query(query, template=template)
    return fill_template(instruction, template=teacher_template) + text
