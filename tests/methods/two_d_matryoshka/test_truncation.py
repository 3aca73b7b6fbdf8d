from __future__ import annotations

import json

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import fletching
from fletching.errors import ArgumentError
from fletching.methods.two_d_matryoshka import ElasticEmbedder, truncate_model
from fletching.models.embedder import Embedder

TEXTS = ["wood", "Feathers keep the arrow true.", "", "the archer draws the bow"]


def test_result_is_an_embedder_of_stock_modules(embedder_of, tmp_path):
    small = truncate_model(embedder_of("bert"), 2, 8, output_path=tmp_path, device="cpu")
    assert type(small) is type(fletching.load(tmp_path, device="cpu")) is Embedder
    modules = json.loads((tmp_path / "modules.json").read_text(encoding="utf-8"))
    assert [module["type"].rpartition(".")[2] for module in modules] == [
        "Transformer",
        "Pooling",
        "Dense",
        "Normalize",
    ]
    assert all(module["type"].startswith("sentence_transformers.") for module in modules)
    assert small.get_embedding_dimension() == 8
    assert "fletching" not in json.loads((tmp_path / "config_sentence_transformers.json").read_text())


def test_without_unit_length_the_files_say_the_width(save_embedder, tmp_path):
    elastic = ElasticEmbedder(save_embedder(tmp_path / "all", "bert", normalize=False), device="cpu")
    truncate_model(elastic, 3, 8, output_path=tmp_path / "cut")
    stock = SentenceTransformer(str(tmp_path / "cut"), device="cpu")
    assert len(stock) == 2
    expected = elastic.encode(TEXTS, num_layers=3, truncate_dim=8)
    np.testing.assert_allclose(stock.encode(TEXTS), expected, atol=1e-6)


def test_cut_again_it_is_the_smaller_of_both(embedder_of):
    small = truncate_model(embedder_of("bert"), 3, 16, device="cpu")
    again = truncate_model(small, 2, 8)
    elastic = ElasticEmbedder(embedder_of("bert"), device="cpu")
    expected = elastic.encode(TEXTS, num_layers=2, truncate_dim=8)
    np.testing.assert_allclose(again.encode(TEXTS), expected, atol=1e-6)


def test_the_model_keeps_its_weights_to_itself(embedder_of):
    elastic = ElasticEmbedder(embedder_of("bert"), device="cpu")
    before = elastic.encode(TEXTS)
    small = truncate_model(elastic, 2)
    own = {parameter.data_ptr() for parameter in elastic.parameters()}
    assert not any(parameter.data_ptr() in own for parameter in small.parameters())
    assert (elastic.encode(TEXTS) == before).all()
    assert elastic.num_layers == 4


def test_a_stock_embedder_is_cut_too(embedder_of):
    stock = SentenceTransformer(embedder_of("distilbert"), device="cpu", prompts={"query": "why "})
    small = truncate_model(stock, 1)
    assert small.prompts["query"] == "why "
    expected = ElasticEmbedder.from_model(stock).encode_query(TEXTS, num_layers=1)
    np.testing.assert_allclose(small.encode_query(TEXTS), expected, atol=1e-6)


def test_width_of_the_model_is_kept_where_none_is_given(embedder_of):
    elastic = ElasticEmbedder(embedder_of("bert"), truncate_dim=8, device="cpu")
    np.testing.assert_allclose(truncate_model(elastic).encode(TEXTS), elastic.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_layers": 0}, "`num_layers` must be an integer from 1 to 4, the layers of the model; got 0."),
        ({"num_layers": 5}, "`num_layers` must be an integer from 1 to 4, the layers of the model; got 5."),
        ({"truncate_dim": 64}, "`truncate_dim` must be from 1 to 32, the width of the model; got 64."),
    ],
)
def test_size_is_refused(embedder_of, sizes, message, tmp_path):
    elastic = ElasticEmbedder(embedder_of("bert"), device="cpu")
    with pytest.raises(ArgumentError) as caught:
        truncate_model(elastic, **sizes, output_path=tmp_path / "nothing")
    assert str(caught.value) == f"truncate_model: {message}"
    assert not (tmp_path / "nothing").exists()


def test_options_for_a_loaded_model_are_refused(embedder_of):
    elastic = ElasticEmbedder(embedder_of("bert"), device="cpu")
    with pytest.raises(ArgumentError, match="`kwargs` must be empty when `model` is loaded already"):
        truncate_model(elastic, 2, device="cpu")
