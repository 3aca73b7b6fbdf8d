"""What the specification says must hold of entries, poolings and isotropy; one test for each item."""

from __future__ import annotations

import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling

from fletching.methods.defsent_plus import (
    DefinitionSet,
    DefSentPlusEmbedder,
    EntryEmbeddings,
    ICAConfig,
    ica_transform,
    mean_cosine,
)
from fletching.methods.defsent_plus.config import ENTRY_POOLINGS
from fletching.methods.defsent_plus.entries import embed_bare

X1, X2 = "1,1 2,0 4,2", "3,1 0,4"


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("ac", [2.0, 1.0]),  # ([1, 1] + [3, 1]) / 2
        ("amp", [1.916667, 1.75]),  # ([7/3, 1] + [3/2, 5/2]) / 2; all tokens together would give [2, 1.6]
    ],
)
def test_item_2_entries_average_definitions_not_tokens(echo, how, expected):
    definitions = DefinitionSet.from_pairs([("bow", X1), ("bow", X2)])
    entries = EntryEmbeddings.build(echo, definitions, how=how)
    assert entries.vectors[0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("how", ["ac", "amp"])
def test_item_3_a_single_definition_is_its_entry_s_vector(bert, definitions, how):
    model = DefSentPlusEmbedder(bert, pooling=ENTRY_POOLINGS[how], device="cpu")
    entries = EntryEmbeddings.build(model, definitions, how=how)
    single = definitions.find_label("goose")
    assert definitions.definitions[single] == ("what feathers are from",)
    expected = model.encode("what feathers are from")
    assert torch.allclose(entries.vectors[single], torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize("how", ["ac", "amp"])
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_item_3_entries_do_not_depend_on_order_batch_and_padding(bert, definitions, how, batch_size):
    model = DefSentPlusEmbedder(bert, device="cpu")
    expected = EntryEmbeddings.build(model, definitions, how=how)
    pairs = [
        (name, text)
        for names, texts in zip(definitions.members, definitions.definitions, strict=True)
        for name in names
        for text in texts
    ]
    turned = DefinitionSet.from_pairs(reversed(pairs))
    got = EntryEmbeddings.build(model, turned, how=how, batch_size=batch_size)
    order = [got.entries.index(name) for name in expected.entries]
    assert torch.allclose(got.vectors[order], expected.vectors, atol=1e-6)


def test_item_8_the_embedding_does_not_depend_on_the_pooler(bert):
    model = DefSentPlusEmbedder(bert, pooling="cls", device="cpu")
    before = model.encode("a goose feather")
    with torch.no_grad():
        for weight in model[0].model.pooler.parameters():
            weight.normal_()
    assert (model.encode("a goose feather") == before).all()


def test_item_8_masked_mean_leaves_out_padding():
    """([1, 1] + [3, 5] + [2, 0]) / 3 = [2, 2]."""
    states = torch.tensor([[[1.0, 1.0], [3.0, 5.0], [2.0, 0.0], [7.0, 7.0]]])
    features = {"token_embeddings": states, "attention_mask": torch.tensor([[1, 1, 1, 0]])}
    assert Pooling(2, "mean")(features)["sentence_embedding"].tolist() == [[2.0, 2.0]]


@pytest.fixture(scope="module")
def mixed():
    """4000 rows of 16 independent columns, none of them normal, mixed and moved away from zero."""
    generator = torch.Generator().manual_seed(0)
    sources = torch.rand(4000, 16, generator=generator, dtype=torch.float64) - 0.5
    mixing = torch.randn(16, 16, generator=generator, dtype=torch.float64)
    return (sources @ mixing + 3).float()


@pytest.mark.parametrize(
    ("variance", "deviation"),
    [("unit", 1.0), ("arbitrary", 0.0158)],  # 1 / sqrt(4000) = 0.0158
)
def test_item_9_components_are_uncorrelated_and_of_one_variance(mixed, variance, deviation):
    components = ica_transform(mixed, config=ICAConfig(variance=variance, scale=1.0)).double()
    covariance = components.T.cov(correction=0)
    diagonal = covariance.diagonal()
    assert (covariance - diagonal.diag()).abs().max() / diagonal.min() < 1e-3
    assert diagonal.sqrt().tolist() == pytest.approx([deviation] * 16, rel=0.01)
    assert mean_cosine(mixed) > 0.5
    assert abs(mean_cosine(components)) < 0.02


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 0], [0, 1], [-1, 0], [0, -1]], -1 / 3),
        ([[1, 0], [1, 0.2], [1, -0.2], [0.9, 0.1]], 0.9712),
    ],
)
def test_item_10_mean_cosine(rows, expected):
    assert mean_cosine(torch.tensor(rows)) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("backbone", ["bert", "roberta"])
def test_item_11_prompt_pooling_gives_one_vector_for_each_sentence(request, backbone):
    """Also where the sentence is longer than the limit, or spells the mask token."""
    model = DefSentPlusEmbedder(request.getfixturevalue(backbone), pooling="prompt", device="cpu")
    mask = model.tokenizer.mask_token
    texts = ["wood", "the archer draws the bow " * 100, f"a {mask} b", mask * 3, f"{mask} " * 200, ""]
    features = model.preprocess(texts)
    assert (features["input_ids"] == model.tokenizer.mask_token_id).sum(dim=1).tolist() == [1] * len(texts)
    assert features["attention_mask"].sum(dim=1).max() == model.max_seq_length
    assert model.encode(texts).shape == (len(texts), 32)
    ends = [
        row[mask.bool()][-4:].tolist()
        for row, mask in zip(*map(features.get, ("input_ids", "attention_mask")), strict=True)
    ]
    assert ends == [ends[0]] * len(texts)  # the template stays whole


def test_item_11_bare_definitions_are_read_without_the_template(bert):
    prompted = DefSentPlusEmbedder(bert, pooling="prompt", device="cpu")
    plain = DefSentPlusEmbedder(bert, pooling="mean", device="cpu")
    assert torch.equal(
        embed_bare(prompted, ["wood"], pooling="mean"), embed_bare(plain, ["wood"], pooling="mean")
    )
