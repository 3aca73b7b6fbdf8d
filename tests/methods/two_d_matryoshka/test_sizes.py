from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer

from fletching.errors import ArgumentError
from fletching.methods.two_d_matryoshka import ElasticEmbedder
from fletching.methods.two_d_matryoshka.sizes import open_elastic, plan_sizes
from fletching.testing import save_tiny_cross_encoder, save_tiny_embedder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_embedder(tmp_path_factory.mktemp("embedder"))


@pytest.fixture
def model(folder: str) -> ElasticEmbedder:
    return open_elastic("here", folder, device="cpu")


class Shape:
    """An embedder as far as a grid goes."""

    def __init__(self, num_layers: int, width: int) -> None:
        self.num_layers, self.width = num_layers, width
        self.trained_layers: tuple[int, ...] | None = None
        self.trained_dims: tuple[int, ...] | None = None


def plan(shape: Shape, **options: Any) -> list[tuple[int, int]]:
    return plan_sizes("here", shape, **options)  # type: ignore[arg-type]


def test_plan_takes_all_layers_and_five_widths() -> None:
    sizes = plan(Shape(6, 384))
    assert sizes[0] == (6, 384)
    assert sorted({n for n, _ in sizes}) == [1, 2, 3, 4, 5, 6]
    assert sorted({d for _, d in sizes}) == [32, 64, 128, 256, 384]
    assert len(sizes) == 30


def test_plan_takes_twelve_of_many_layers() -> None:
    assert sorted({n for n, _ in plan(Shape(24, 64))}) == [2 * n for n in range(1, 13)]
    assert sorted({d for _, d in plan(Shape(24, 64))}) == [4, 8, 16, 32, 64]


def test_plan_prefers_what_was_trained() -> None:
    shape = Shape(12, 64)
    shape.trained_layers, shape.trained_dims = (3, 6), (8,)
    assert plan(shape) == [(12, 64), (12, 8), (6, 64), (6, 8), (3, 64), (3, 8)]


def test_plan_adds_the_full_size() -> None:
    assert plan(Shape(6, 384), layers=[2], dims=[32, 32]) == [(6, 384), (6, 32), (2, 384), (2, 32)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [0]}, "from 1 to 6"),
        ({"layers": [7]}, "from 1 to 6"),
        ({"layers": [-1]}, "from 1 to 6"),
        ({"layers": [True]}, "from 1 to 6"),
        ({"layers": "12"}, "`layers` must be a list of whole numbers"),
        ({"layers": []}, "`layers` must be at least one number"),
        ({"dims": [0]}, "positive integer"),
        ({"dims": [385]}, "from 1 to 384, the model's width"),
        ({"dims": 64}, "`dims` must be a list of whole numbers"),
    ],
)
def test_plan_refuses_sizes_that_are_not_there(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        plan(Shape(6, 384), **options)


def test_open_shares_the_weights_of_an_open_model(folder: str) -> None:
    stock = SentenceTransformer(folder, device="cpu")
    opened = open_elastic("here", stock)
    pairs = zip(stock.parameters(), opened.parameters(), strict=True)
    assert all(one.data_ptr() == other.data_ptr() for one, other in pairs)
    assert type(stock[0]).__name__ == "Transformer"
    assert (stock.encode("a bow") == opened.encode("a bow")).all()


def test_open_keeps_prompts_similarity_and_what_was_trained(tmp_path: Path) -> None:
    prompts = {"query": "query: ", "document": "passage: "}
    folder = save_tiny_embedder(tmp_path / "model", prompts=prompts, normalize=False, similarity="dot")
    given = ElasticEmbedder(folder, device="cpu")
    given.trained_layers, given.trained_dims = [1], [8, 16]
    opened = open_elastic("here", given)
    assert (opened.prompts, opened.similarity_fn_name) == (prompts, "dot")
    assert (opened.trained_layers, opened.trained_dims) == ((1,), (8, 16))
    assert opened.encode(["a bow"], num_layers=1, truncate_dim=5).shape == (1, 5)  # without a warning


def test_open_refuses_other_models(tmp_path: Path) -> None:
    reranker = save_tiny_cross_encoder(tmp_path / "reranker")
    with pytest.raises(ArgumentError, match="`model` must be a dense embedder; got 'Reranker'"):
        open_elastic("here", reranker, device="cpu")


def test_open_refuses_options_for_an_open_model(model: ElasticEmbedder) -> None:
    with pytest.raises(ArgumentError, match="the model is open already; got 'device'"):
        open_elastic("here", model, device="cpu")
