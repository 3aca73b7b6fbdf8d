from __future__ import annotations

import copy
import json
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, WeightedLayerPooling

import fletching
from fletching.errors import ArgumentError, CheckpointError, FidelityWarning, FletchingError
from fletching.methods.two_d_matryoshka import ElasticEmbedder, ElasticTransformer, truncate_model
from fletching.testing import build_tiny_tokenizer, save_tiny_bert, save_tiny_embedder

TEXTS = ["wood", "Feathers keep the arrow true.", "", "What is a nock? " * 20, "the archer draws the bow"]
FAMILIES = ["bert", "distilbert", "modernbert", "albert", "qwen2", "qwen3", "llama", "t5", "xlm-roberta"]


@pytest.fixture(scope="module")
def opened(embedder_of):
    return ElasticEmbedder(embedder_of("bert"), device="cpu")


@pytest.fixture
def model(opened):
    return copy.deepcopy(opened)


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_the_saved_smaller_model(family, embedder_of, tmp_path):
    elastic = ElasticEmbedder(embedder_of(family), device="cpu")
    for depth in (1, elastic.num_layers - 1):
        truncate_model(elastic, depth, 8, output_path=tmp_path / str(depth))
        stock = SentenceTransformer(str(tmp_path / str(depth)), device="cpu")
        cut = elastic.encode(TEXTS, num_layers=depth, truncate_dim=8)
        np.testing.assert_allclose(cut, stock.encode(TEXTS), atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_pass_gives_the_vectors_of_every_depth(family, embedder_of):
    elastic = ElasticEmbedder(embedder_of(family), device="cpu")
    depths = [elastic.num_layers, 1, 2]
    found = elastic.encode_sizes(TEXTS, depths)
    assert [*found] == depths
    for depth, vectors in found.items():
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, elastic.encode(TEXTS, num_layers=depth), atol=1e-6)


def test_layers_that_are_not_asked_for_do_not_run(model):
    ran = []
    for place, layer in enumerate(model[0].model.encoder.layer):
        layer.attention.register_forward_hook(lambda *_, place=place: ran.append(place))
    model.encode("wood", num_layers=2)
    assert ran == [0, 1]


def test_one_pass_reads_each_text_once(model):
    rows = []
    model[0].model.embeddings.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    model.encode_sizes(TEXTS, [1, 2, 3, 4])
    assert sum(rows) == len(TEXTS)


@pytest.mark.parametrize("side", ["query", "document"])
def test_both_ways_put_the_same_prompt_in_front(side, tmp_path):
    prompts = {"query": "what is: ", "passage": "the "}
    folder = save_tiny_embedder(tmp_path, prompts=prompts)
    elastic = ElasticEmbedder(folder, device="cpu")
    expected = getattr(elastic, f"encode_{side}")(TEXTS, num_layers=1, truncate_dim=8)
    found = elastic.encode_sizes(TEXTS, [1], side=side, truncate_dim=8)[1]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    named = {"query": "query", "document": "document"}[side]
    prompted = [elastic.prompts[named] + text for text in TEXTS]
    np.testing.assert_allclose(expected, elastic.encode(prompted, num_layers=1, truncate_dim=8), atol=1e-6)


def test_no_text_gives_no_vector_at_any_depth(model):
    assert model.encode_sizes([], [1, 2])[2].shape == (0, 32)


def test_32_threads_with_different_sizes_compute_what_one_does(model):
    calls = [{"num_layers": depth, "truncate_dim": dim} for depth in (1, 2, 3, None) for dim in (4, 8, None)]
    expected = [model.encode(TEXTS, **call) for call in calls]
    with ThreadPoolExecutor(32) as threads:
        found = [*threads.map(lambda call: model.encode(TEXTS, **call), calls * 6)]
    for vectors, known in zip(found, expected * 6, strict=True):
        assert (vectors == known).all()


@pytest.mark.slow
def test_a_pool_of_processes_skips_layers_too(model):
    pooled = model.encode(TEXTS, num_layers=2, truncate_dim=8, device=["cpu", "cpu"], chunk_size=2)
    np.testing.assert_allclose(pooled, model.encode(TEXTS, num_layers=2, truncate_dim=8), atol=1e-6)


def test_a_call_leaves_the_model_as_it_was(model):
    before = model.encode(TEXTS)
    model.encode(TEXTS, num_layers=1)
    model.encode_sizes(TEXTS, [1, 3])
    assert (model.encode(TEXTS) == before).all()
    assert model[0].model.config.num_hidden_layers == 4
    pickle.dumps(model)  # hooks left behind could not be


def test_states_handed_out_by_configuration_are_those_of_the_view(embedder_of):
    """Such a network hooks its modules at the first call, for good; a view must not do that to the model."""
    options = {"output_hidden_states": True}
    elastic = ElasticEmbedder(embedder_of("bert"), device="cpu", config_kwargs=options)
    features = elastic.preprocess(["wood"])
    for _ in range(2):
        states = elastic(dict(features), num_layers=2)["all_layer_embeddings"]
        assert len(states) == 3


def test_a_single_text_gives_one_vector(model):
    assert model.encode("wood", num_layers=1, truncate_dim=8).shape == (8,)


def test_plain_transformers_checkpoint_opens(tmp_path):
    elastic = ElasticEmbedder(save_tiny_bert(tmp_path), device="cpu")
    assert elastic.encode("wood", num_layers=1).shape == (32,)


# --- files ---


def test_saved_folder_is_stock_and_comes_back_elastic(model, tmp_path):
    model.trained_layers, model.trained_dims = [2, 1], (8, 16)
    model.save(str(tmp_path))
    modules = json.loads((tmp_path / "modules.json").read_text(encoding="utf-8"))
    assert all(module["type"].startswith("sentence_transformers.") for module in modules)
    assert (SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS) == model.encode(TEXTS)).all()
    loaded = fletching.load(tmp_path, device="cpu")
    assert type(loaded) is ElasticEmbedder
    assert (loaded.trained_layers, loaded.trained_dims) == ((1, 2), (8, 16))
    assert type(model[0]) is ElasticTransformer


def test_what_was_trained_is_unknown_of_others(model):
    assert model.trained_layers is model.trained_dims is None
    model.trained_dims = (8,)
    model.trained_dims = None
    assert model.trained_dims is None


@pytest.mark.parametrize(
    ("name", "sizes"), [("trained_layers", [5]), ("trained_dims", [0]), ("trained_dims", ["8"])]
)
def test_trained_sizes_are_checked(model, name, sizes):
    most = {"trained_layers": 4, "trained_dims": 32}[name]
    with pytest.raises(ArgumentError, match=f"`{name}` must be integers from 1 to {most}; got"):
        setattr(model, name, sizes)


def test_model_given_in_parts_stays_stock(embedder_of):
    stock = SentenceTransformer(embedder_of("bert"), device="cpu")
    elastic = ElasticEmbedder.from_model(stock)
    assert type(stock[0]) is Transformer
    assert elastic[0].model is stock[0].model
    assert (
        elastic.encode(TEXTS) == fletching.Embedder(embedder_of("bert"), device="cpu").encode(TEXTS)
    ).all()


def test_routes_are_cut_each_in_its_own_network(embedder_of, save_embedder, tmp_path):
    save_embedder(tmp_path, "distilbert", n_layers=3)
    towers = [Transformer(folder) for folder in (embedder_of("bert"), str(tmp_path))]
    routes = [[tower, Pooling(32, "mean")] for tower in towers]
    elastic = ElasticEmbedder(modules=[Router.for_query_document(*routes)], device="cpu")
    assert elastic.num_layers == 3
    for side in ("query", "document"):
        encode = getattr(elastic, f"encode_{side}")
        one, two = encode(TEXTS, num_layers=1), encode(TEXTS, num_layers=2)
        assert np.abs(one - two).max() > 0.01
        np.testing.assert_allclose(elastic.encode_sizes(TEXTS, [1, 2], side=side)[2], two, atol=1e-5)
    elastic.save(str(tmp_path / "saved"))
    assert type(fletching.load(tmp_path / "saved", device="cpu")) is ElasticEmbedder
    assert type(towers[0]) is Transformer


# --- sizes that are wrong, or were not trained ---


@pytest.mark.parametrize("value", [0, -2, 5, "2", 2.0, True], ids=repr)
@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_number_of_layers_is_refused(model, method, value):
    with pytest.raises(ArgumentError) as caught:
        getattr(model, method)(TEXTS, num_layers=value)
    domain = "an integer from 1 to 4, the layers of the model"
    assert str(caught.value) == f"ElasticEmbedder.encode: `num_layers` must be {domain}; got {value!r}."


@pytest.mark.parametrize("value", [0, -8, 33, "8", 8.0, False], ids=repr)
def test_number_of_dimensions_is_refused(model, value):
    for encode in (model.encode, lambda texts, **options: model.encode_sizes(texts, [1], **options)):
        with pytest.raises(
            ArgumentError, match="`truncate_dim` must be from 1 to 32, the width of the model"
        ):
            encode(TEXTS, truncate_dim=value)


@pytest.mark.parametrize("layers", [[], None, 2, [1, 5], [0]], ids=repr)
def test_depths_are_refused(model, layers):
    with pytest.raises(ArgumentError, match=r"^ElasticEmbedder.encode_sizes: `(layers|num_layers)` must be"):
        model.encode_sizes(TEXTS, layers)


def test_side_is_refused(model):
    with pytest.raises(
        ArgumentError, match="`side` must be one of 'text', 'query', 'document'; got 'queries'"
    ):
        model.encode_sizes(TEXTS, [1], side="queries")


def test_untrained_sizes_warn_once(model):
    model.trained_layers, model.trained_dims = (1, 2), (8, 16)
    with pytest.warns(FidelityWarning) as caught:
        [model.encode("wood", num_layers=3, truncate_dim=12) for _ in range(2)]
    assert [str(warning.message) for warning in caught] == [
        "ElasticEmbedder.encode: num_layers=3 was not trained; 1, 2 were.",
        "ElasticEmbedder.encode: truncate_dim=12 was not trained; 8, 16 were.",
    ]


@pytest.mark.parametrize("name", ["encode", "encode_query", "encode_document"])
def test_warnings_about_a_call_point_at_its_line(model, name):
    model.trained_layers = (1, 2)
    with pytest.warns(FidelityWarning) as caught:
        getattr(model, name)("wood", num_layers=3)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("open_model", [ElasticEmbedder, fletching.load])
def test_warnings_about_opening_point_at_its_line(model, tmp_path, open_model):
    model.trained_dims = (8, 16)
    model.save(str(tmp_path))
    with pytest.warns(FidelityWarning) as caught:
        open_model(str(tmp_path), truncate_dim=12, device="cpu")
    assert [warning.filename for warning in caught] == [__file__]


def test_trained_and_full_sizes_say_nothing(model):
    model.trained_layers, model.trained_dims = (1, 2), (8, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for depth, dim in ((1, 8), (4, 32), (None, None), (2, 16)):
            model.encode("wood", num_layers=depth, truncate_dim=dim)


def test_untrained_sizes_are_refused_or_allowed_on_demand(model, tmp_path):
    model.trained_layers = (1, 2)
    model.save(str(tmp_path))
    strict = fletching.load(tmp_path, untrained="refuse", device="cpu")
    with pytest.raises(ArgumentError) as caught:
        strict.encode("wood", num_layers=3)
    assert str(caught.value) == (
        "ElasticEmbedder.encode: `num_layers` must be a size of this checkpoint; got 3. It was not trained; "
        '1, 2 were. Open the model with untrained="allow" to use it all the same.'
    )
    assert fletching.load(tmp_path, untrained="allow", device="cpu").encode("wood", num_layers=3).any()


def test_choice_about_untrained_sizes_is_refused(embedder_of):
    message = "`untrained` must be one of 'warn', 'refuse', 'allow'; got 'refus'. Did you mean 'refuse'?"
    with pytest.raises(ArgumentError, match=message.replace("?", r"\?")):
        ElasticEmbedder(embedder_of("bert"), untrained="refus")


def test_width_of_all_calls_is_checked_at_once(embedder_of):
    with pytest.raises(ArgumentError, match=r"^ElasticEmbedder: `truncate_dim` must be from 1 to 32"):
        ElasticEmbedder(embedder_of("bert"), truncate_dim=64, device="cpu")
    with pytest.raises(ArgumentError, match=r"^ElasticEmbedder: `truncate_dim` must be a positive integer"):
        ElasticEmbedder("no/such/model", truncate_dim=0)


def test_what_has_no_layers_is_refused():
    static = StaticEmbedding(build_tiny_tokenizer().backend_tokenizer, embedding_dim=8)
    with pytest.raises(CheckpointError, match="it begins with StaticEmbedding, and only a stock Transformer"):
        ElasticEmbedder(modules=[static], device="cpu")


def test_pooling_over_all_layers_is_refused(embedder_of):
    transformer = Transformer(embedder_of("bert"), config_kwargs={"output_hidden_states": True})
    modules = [transformer, WeightedLayerPooling(32, num_hidden_layers=4, layer_start=2), Pooling(32, "mean")]
    with pytest.raises(CheckpointError, match="its WeightedLayerPooling reads the states of all layers"):
        ElasticEmbedder(modules=modules, device="cpu")


def test_a_model_in_memory_must_be_an_embedder():
    with pytest.raises(
        ArgumentError, match="`model` must be an embedder of sentence-transformers; got 'Linear'"
    ):
        ElasticEmbedder.from_model(torch.nn.Linear(2, 2))


def test_nan_at_one_depth_is_raised(model):
    with torch.no_grad():
        model[0].model.encoder.layer[2].output.dense.bias.fill_(float("nan"))
    assert model.encode("wood", num_layers=2).any()
    with pytest.raises(FletchingError, match=r"computed NaN for inputs\[0\]"):
        model.encode_sizes(["wood"], [2, 3])
