"""Pooling and head, apart from a model."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from fletching.errors import ArgumentError, ShapeError
from fletching.methods.dse import DSEConfig, DSEPairHead, DSEReranker, TopLayersPooling
from fletching.methods.dse.modules import SiameseTransformer
from fletching.nn import find_final_norm
from fletching.testing import save_tiny_bert, save_tiny_llama


def make_features(layers, tokens=3, width=2):
    states = tuple(torch.full((1, tokens, width), float(number)) for number in range(layers + 1))
    return {"all_layer_embeddings": states, "attention_mask": torch.ones(1, tokens)}


# --- the transformer ---


def test_pairs_are_read_as_two_texts_each(deep_encoder):
    network = SiameseTransformer(deep_encoder)
    pairs = network.preprocess([("bow", "arrow"), ("wood", "goose")], prompt="what ")
    texts = network.preprocess(["what bow", "what wood", "arrow", "goose"])
    assert pairs["pair_count"] == 2
    assert torch.equal(pairs["input_ids"], texts["input_ids"])


def test_a_transformer_that_has_run_can_be_pickled(deep_encoder):
    """transformers would leave hooks on the layers whose states it handed out."""
    network = SiameseTransformer(deep_encoder).eval()
    features = network.preprocess(["a bow of wood"])
    expected = network(dict(features))["all_layer_embeddings"]
    for again in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network), network):
        got = again.eval()(dict(features))["all_layer_embeddings"]
        assert len(got) == len(expected) == 6
        assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


# --- the pooling ---


def test_the_top_layers_are_read_and_not_the_embedding_layer():
    """Layer n holds n everywhere; of five layers the top two are 4 and 5."""
    pooled = TopLayersPooling(2, num_layers=2).eval()(make_features(layers=5))["sentence_embedding"]
    assert pooled.tolist() == [[4, 4, 5, 5]]


def test_missing_hidden_states_are_refused():
    with pytest.raises(ArgumentError, match="'output_hidden_states': True"):
        TopLayersPooling(2)({"attention_mask": torch.ones(1, 3)})


def test_too_few_layers_are_refused():
    """Four states are an embedding layer and three layers."""
    with pytest.raises(
        ArgumentError, match="`num_layers` must be at most 3, the layers of this encoder; got 4"
    ):
        TopLayersPooling(2, num_layers=4)(make_features(layers=3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "`num_layers` must be a positive integer"),
        ({"combine": "sum"}, "`combine` must be one of 'concat', 'mean'"),
        ({"token_pooling": "median"}, "`token_pooling` must be one of"),
        ({"dropout": 1.0}, "`dropout` must be from 0 to below 1"),
    ],
    ids=str,
)
def test_an_option_of_the_pooling_outside_its_domain_is_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        TopLayersPooling(2, **options)


def test_cls_pooling_starts_as_the_pooler_of_bert(deep_encoder):
    model = DSEReranker.from_encoder(deep_encoder, DSEConfig(pooling="cls"), device="cpu").eval()
    network, features = model[0].model, model.preprocess(["a bow of wood", "goose"])
    expected = network(**{name: features[name] for name in ("input_ids", "attention_mask")}).pooler_output
    torch.testing.assert_close(model.encode_features(features), expected)


def test_the_final_norm_reaches_the_lower_layers_and_the_last_one_only_once(tmp_path):
    config = DSEConfig(
        num_layers=2, apply_final_norm=True, pooling="concat_top_mean_with_cls", max_seq_length=48
    )
    model = DSEReranker.from_encoder(save_tiny_llama(tmp_path), config, device="cpu").eval()
    features = model.preprocess(["a bow of wood"])
    states = model[0](dict(features))["all_layer_embeddings"]
    norm = find_final_norm(model[0].model)
    expected = torch.cat([norm(states[-2]).mean(dim=1), states[-1].mean(dim=1)], dim=-1)
    torch.testing.assert_close(model.encode_features(features), expected)
    assert len({*model.state_dict()}) == len({*model[0].state_dict()}) + 4  # the norm is not saved twice


def test_an_encoder_without_a_final_norm_stays_as_it_is(tmp_path):
    folder = save_tiny_bert(tmp_path)
    plain, normed = (
        DSEReranker.from_encoder(folder, DSEConfig(num_layers=2, apply_final_norm=flag), device="cpu")
        for flag in (False, True)
    )
    assert (plain.encode("a bow") == normed.encode("a bow")).all()


def test_a_norm_that_nobody_looked_up_is_refused():
    with pytest.raises(ArgumentError, match="on_model_ready"):
        TopLayersPooling(2, num_layers=2, apply_final_norm=True)(make_features(layers=3))


# --- the head ---


def test_a_head_computes_two_layers_with_a_relu_between():
    """u = [1], v = [3]: f = [1, 3, 3, 2], W1 f + b1 = [9, -9] + [1, 1], relu [10, 0], W2 and b2: 20 + 5."""
    head = DSEPairHead(1, (2, 1))
    head.load_state_dict(
        {
            "layers.0.weight": torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1]]),
            "layers.0.bias": torch.tensor([1.0, 1.0]),
            "layers.1.weight": torch.tensor([[2.0, 7.0]]),
            "layers.1.bias": torch.tensor([5.0]),
        }
    )
    assert head.score(torch.tensor([[1.0]]), torch.tensor([[3.0]])).item() == 25
    assert head.score_all(torch.tensor([[1.0]]), torch.tensor([[3.0]])).item() == 25


def test_a_dot_head_without_layers_is_the_dot_product():
    head = DSEPairHead(2, (), kind="dot")
    assert head.score(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])).item() == 11
    assert head.num_labels == 1


def test_a_plain_head_tells_the_order_of_a_pair_and_a_symmetric_one_does_not():
    u, v = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    plain, symmetric = DSEPairHead(2, (4, 1)), DSEPairHead(2, (4, 1), symmetric=True)
    assert plain.score(u, v) != plain.score(v, u)
    assert symmetric.score(u, v) == symmetric.score(v, u)
    torch.testing.assert_close(symmetric.score(u, v), (plain.score(u, v) + plain.score(v, u)) / 2)


def test_gradients_reach_both_vectors_and_every_weight():
    head = DSEPairHead(3, (4, 2))
    u, v = (torch.randn(5, 3, generator=torch.Generator().manual_seed(s)).requires_grad_() for s in (0, 1))
    head.score(u, v).square().sum().backward()
    assert all(
        tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in (u, v, *head.parameters())
    )


def test_scores_are_float32_whatever_the_weights_are():
    head = DSEPairHead(3, (4, 1)).to(torch.bfloat16)
    vectors = torch.ones(2, 3, dtype=torch.bfloat16)
    assert head.score(vectors, vectors).dtype == torch.float32
    assert head.score_all(vectors, vectors).dtype == torch.float32


def test_equal_seeds_give_equal_heads():
    """Weights are drawn from -b to b with b = 1 / sqrt(4 x 2), as nn.Linear does."""
    one, other, third = DSEPairHead(2, seed=1), DSEPairHead(2, seed=1), DSEPairHead(2, seed=2)
    assert torch.equal(one.layers[0].weight, other.layers[0].weight)
    assert not torch.equal(one.layers[0].weight, third.layers[0].weight)
    assert 0.9 * 8**-0.5 < one.layers[0].weight.abs().max() <= 8**-0.5


@pytest.mark.parametrize("name", ["u", "v"])
def test_vectors_of_another_width_are_refused(name):
    vectors = {"u": torch.ones(2, 3), "v": torch.ones(2, 3), name: torch.ones(2, 4)}
    with pytest.raises(ShapeError, match=rf"`?{name}`?.* \(2, 3\), got \(2, 4\)"):
        DSEPairHead(3).score(**vectors)


@pytest.mark.parametrize("label", [-1, 3, True, "entailment"])
def test_a_label_that_is_no_class_is_refused(label):
    with pytest.raises(ArgumentError, match="`label` must be from 0 to 2"):
        DSEPairHead(3, (4, 3), label=label)


def test_a_head_with_one_label_has_no_class():
    with pytest.raises(ArgumentError, match="`label` must be None for one label"):
        DSEPairHead(3, (4, 1), label=0)


def test_no_queries_and_no_documents_give_no_scores():
    head = DSEPairHead(3, (4, 2))
    assert head.score_all(torch.ones(0, 3), torch.ones(5, 3)).shape == (0, 5, 2)
    assert head.score_all(torch.ones(2, 3), torch.ones(0, 3)).shape == (2, 0, 2)


@pytest.mark.parametrize("chunk_size", [0, -1, 2.5])
def test_a_chunk_size_that_is_none_is_refused(chunk_size):
    with pytest.raises(ArgumentError, match="`chunk_size` must be a positive integer"):
        DSEPairHead(3).score_all(torch.ones(1, 3), torch.ones(1, 3), chunk_size)
