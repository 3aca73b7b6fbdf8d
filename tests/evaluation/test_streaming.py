"""Exact search: in pieces as in one go, equal scores in the order of the passages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sentence_transformers.util import cos_sim, euclidean_sim

from fletching.errors import FletchingError
from fletching.evaluation import streaming
from fletching.evaluation.streaming import search_vectors


class Table:
    """An embedder whose texts are their vectors."""

    def encode_query(self, texts: list[str], **options: object) -> torch.Tensor:
        return torch.tensor([[float(number) for number in text.split()] for text in texts])

    encode_document = encode_query


def write(vectors: torch.Tensor) -> list[str]:
    return [" ".join(map(repr, row)) for row in vectors.tolist()]


@pytest.mark.parametrize("compare", [cos_sim, euclidean_sim, torch.inner])
def test_search_in_pieces_equals_a_sort_of_everything(
    compare: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_PASSAGES_AT_ONCE", 7)
    monkeypatch.setattr(streaming, "_QUERIES_AT_ONCE", 2)
    generator = torch.Generator().manual_seed(1)
    queries, passages = torch.randn(5, 4, generator=generator), torch.randn(30, 4, generator=generator)
    texts = write(passages)
    found = dict(
        search_vectors(
            Table(),
            dict(enumerate(write(queries))),
            passages=[(f"p{place}", text) for place, text in enumerate(texts)],
            depth=9,
            compare=compare,
        )
    )
    scores = compare(queries, passages)
    for query, hits in found.items():
        values, order = scores[query].sort(descending=True)
        assert list(hits) == [f"p{place}" for place in order[:9].tolist()]
        torch.testing.assert_close(torch.tensor(list(hits.values())), values[:9], atol=1e-5, rtol=1e-5)


def test_equal_scores_keep_the_order_of_the_passages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_PASSAGES_AT_ONCE", 3)
    names = ["z", "a", "m", "best", "b", "y", "c"]
    passages = [(name, "2.0" if name == "best" else "1.0") for name in names]
    ((_, hits),) = search_vectors(Table(), {"q": "1.0"}, passages=passages, depth=4, compare=torch.inner)
    assert list(hits) == ["best", "z", "a", "m"]


@pytest.mark.parametrize("depth", [1, 5, 40])
def test_search_in_pieces_is_stable(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors on a small grid: most scores are equal, and those of later pieces must not come first."""
    monkeypatch.setattr(streaming, "_PASSAGES_AT_ONCE", 13)
    monkeypatch.setattr(streaming, "_QUERIES_AT_ONCE", 4)
    generator = torch.Generator().manual_seed(3)
    queries, passages = (torch.randint(-2, 3, (n, 3), generator=generator).float() for n in (7, 100))
    texts = [(str(place), text) for place, text in enumerate(write(passages))]
    found = search_vectors(
        Table(), dict(enumerate(write(queries))), passages=texts, depth=depth, compare=torch.inner
    )
    expected = (queries @ passages.T).sort(dim=1, descending=True, stable=True).indices[:, :depth]
    assert [list(map(int, hits)) for _, hits in found] == expected.tolist()


def test_fewer_passages_than_the_depth_are_all_returned() -> None:
    ((_, hits),) = search_vectors(
        Table(), {"q": "1.0"}, passages=[("a", "1.0")], depth=1000, compare=torch.inner
    )
    assert hits == {"a": 1.0}


@pytest.mark.parametrize(
    ("query", "passage", "message"),
    [("nan", "1.0", "the vector of query 'q' must be finite"), ("1.0", "inf", "of passage 'b' must be")],
)
def test_a_vector_that_is_not_finite_is_refused(query: str, passage: str, message: str) -> None:
    """NaN sorts in front of every number, and would be the best hit of each query."""
    passages = [("a", "1.0"), ("b", passage)]
    with pytest.raises(FletchingError, match=message):
        list(search_vectors(Table(), {"q": query}, passages=passages, compare=torch.inner))
