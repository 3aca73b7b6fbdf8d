from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fletching.errors import FletchingError
from fletching.methods.two_d_matryoshka import ElasticEmbedder
from fletching.methods.two_d_matryoshka.depth_vectors import DepthEncoder, cut_vectors, has_unit_length
from fletching.testing import save_tiny_embedder

TEXTS = ["the bow and the string", "wood", "an archer on target", "wood", "a goose"]
PROMPTS = {"query": "query: ", "document": "passage: "}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ElasticEmbedder:
    return ElasticEmbedder(
        save_tiny_embedder(tmp_path_factory.mktemp("embedder"), prompts=PROMPTS), device="cpu"
    )


def test_encoder_gives_rows_in_the_order_of_the_texts(model: ElasticEmbedder) -> None:
    found = DepthEncoder(model).encode(TEXTS, [1, 2])
    for depth in (1, 2):
        expected = model.encode(TEXTS, num_layers=depth)
        np.testing.assert_allclose(found[depth], expected, atol=1e-6)


def test_encoder_takes_no_text_at_all(model: ElasticEmbedder) -> None:
    assert len(DepthEncoder(model).encode([], [1])[1]) == 0


@pytest.mark.parametrize("side", ["text", "query", "document"])
def test_sides_have_their_prompts(model: ElasticEmbedder, side: str) -> None:
    found = DepthEncoder(model).encode(TEXTS, [1], side)[1]
    encode = {"text": model.encode, "query": model.encode_query, "document": model.encode_document}[side]
    np.testing.assert_allclose(found, encode(TEXTS, num_layers=1), atol=1e-6)


def test_vectors_are_whole_where_the_model_cuts_its_own(model: ElasticEmbedder) -> None:
    cut = ElasticEmbedder.from_model(model, truncate_dim=8)
    assert DepthEncoder(cut).encode(TEXTS, [1])[1].shape == (5, 32)


def test_blocks_are_forgotten_one_by_one(model: ElasticEmbedder) -> None:
    items = [(f"d{number}", f"wood {number}") for number in range(262)]
    blocks = list(DepthEncoder(model).encode_blocks(items, [1], "document"))
    assert [len(ids) for ids, _ in blocks] == [256, 6]
    assert blocks[1][0] == [f"d{number}" for number in range(256, 262)]
    assert blocks[1][1][1].shape == (6, 32)


def test_encoder_keeps_vectors_of_the_same_model_only(tmp_path: Path) -> None:
    first = ElasticEmbedder(save_tiny_embedder(tmp_path / "first"), device="cpu")
    second = ElasticEmbedder(save_tiny_embedder(tmp_path / "second", seed=1), device="cpu")
    cache = tmp_path / "cache"
    kept = DepthEncoder(first, cache=cache).encode(TEXTS, [1])[1]
    other = DepthEncoder(second, cache=cache).encode(TEXTS, [1])[1]
    assert np.abs(kept - other).max() > 0.01
    np.testing.assert_array_equal(DepthEncoder(first, cache=cache).encode(TEXTS, [1])[1], kept)


def test_encoder_refuses_infinity(model: ElasticEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {1: np.array([[np.inf, 0.0]], dtype=np.float32)}
    monkeypatch.setattr(model, "encode_sizes", lambda *args, **options: broken)
    with pytest.raises(FletchingError, match="the vector of 'wood' after 1 layers must be finite"):
        DepthEncoder(model).encode(["wood"], [1])


def test_cut_comes_before_length_one() -> None:
    """What must hold, 7: (3, 4) / 5, not (3, 4) / 13."""
    vectors = np.array([[3.0, 4.0, 12.0]], dtype=np.float32)
    found = cut_vectors(vectors, 2, unit_length=True)
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8]]))
    torch.testing.assert_close(cut_vectors(vectors, 2, unit_length=False), torch.tensor([[3.0, 4.0]]))
    assert vectors[0].tolist() == [3.0, 4.0, 12.0]


def test_cut_rounds_as_stored() -> None:
    """The next float16 above 1 is 1 + 2^-10."""
    vectors = np.array([[1.0 + 2**-12]], dtype=np.float32)
    assert cut_vectors(vectors, 1, unit_length=False, precision="float16").item() == 1.0
    assert cut_vectors(vectors, 1, unit_length=False).item() == 1.0 + 2**-12


def test_unit_length_is_that_of_the_modules(model: ElasticEmbedder, tmp_path: Path) -> None:
    plain = ElasticEmbedder(save_tiny_embedder(tmp_path / "plain", normalize=False), device="cpu")
    assert has_unit_length(model)
    assert not has_unit_length(plain)
