from __future__ import annotations

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

import fletching
from fletching.errors import ArgumentError
from fletching.methods.two_d_matryoshka import ElasticEmbedder, ElasticTransformer
from fletching.methods.two_d_matryoshka.modules import make_elastic, make_stock


@pytest.fixture
def transformer(embedder_of):
    return ElasticTransformer(embedder_of("bert"))


def test_stock_model_takes_the_number_of_layers(transformer, embedder_of):
    model = SentenceTransformer(modules=[transformer, Pooling(32, "mean")], device="cpu")
    cut = model.encode(["wood", "a bow"], num_layers=2, truncate_dim=8)
    assert cut.shape == (2, 8)
    whole = SentenceTransformer(embedder_of("bert"), device="cpu")
    with pytest.raises(ValueError, match="num_layers"):
        whole.encode("wood", num_layers=2)


def test_stock_model_with_the_module_comes_back_elastic(transformer, tmp_path):
    SentenceTransformer(modules=[transformer, Pooling(32, "mean")], device="cpu").save(str(tmp_path))
    assert type(fletching.load(tmp_path, device="cpu")) is ElasticEmbedder


def test_several_depths_stand_one_after_the_other(transformer):
    features = transformer.preprocess(["wood", "the archer"])
    rows, tokens = features["input_ids"].shape
    with torch.no_grad():
        found = transformer.eval()(dict(features), num_layers=(2, 4, 1))
        assert found["token_embeddings"].shape == (3 * rows, tokens, 32)
        assert found["attention_mask"].equal(features["attention_mask"].repeat(3, 1))
        for place, depth in enumerate((2, 4, 1)):
            one = transformer(dict(features), num_layers=depth)["token_embeddings"]
            part = found["token_embeddings"][place * rows : (place + 1) * rows]
            torch.testing.assert_close(part, one)
    assert "all_layer_embeddings" not in found


def test_too_many_layers_are_refused(transformer):
    features = transformer.preprocess(["wood"])
    for depth in (5, (1, 5)):
        with pytest.raises(
            ArgumentError, match=r"^ElasticTransformer: `num_layers` must be an integer from 1 to 4"
        ):
            transformer(dict(features), num_layers=depth)


def test_another_backend_is_refused(transformer):
    transformer.backend = "onnx"
    with pytest.raises(
        ArgumentError, match=r"^me: `backend` must be 'torch', .* got 'onnx'. Cut the model with"
    ):
        transformer.check("me")


def test_gradients_reach_the_layers_that_ran(transformer):
    features = transformer.preprocess(["wood"])
    transformer(features, num_layers=1)["token_embeddings"].sum().backward()
    grads = [layer.output.dense.weight.grad is not None for layer in transformer.model.encoder.layer]
    assert grads == [True, False, False, False]


def test_modules_without_a_network_stay_what_they_are():
    pooling = Pooling(32, "mean")
    assert make_elastic(pooling) is pooling
    assert make_stock(pooling) is pooling


def test_classes_change_and_weights_are_shared(transformer):
    stock = make_stock(transformer)
    assert type(stock).__name__ == "Transformer"
    assert type(make_elastic(stock)) is ElasticTransformer
    assert stock.model is transformer.model
    assert type(transformer) is ElasticTransformer
