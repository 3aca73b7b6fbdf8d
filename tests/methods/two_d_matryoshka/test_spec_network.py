"""What the specification says must hold of networks that are cut."""

from __future__ import annotations

import json

import pytest
import torch
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from torch import nn
from transformers import AutoModel

from fletching.methods.two_d_matryoshka import ElasticEmbedder, truncate_model
from fletching.nn import copy_structure, find_final_norm, layer_view
from fletching.testing import TINY_ENCODERS, build_tiny_decoder, build_tiny_encoder

IDS = torch.tensor([[5, 9, 13, 21, 34, 7], [8, 3, 40, 0, 0, 0]])
MASK = (IDS != 0).long()
POST_LN = ("bert", "roberta", "xlm-roberta", "mpnet", "distilbert", "electra", "deberta-v2")
PRE_LN = ("modernbert", "t5", "qwen2", "qwen3", "llama", "mistral", "gemma3")


def build(family):
    return (build_tiny_encoder if family in TINY_ENCODERS else build_tiny_decoder)(family)


def run(model, **options):
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=MASK, **options)


@pytest.mark.parametrize("family", [*POST_LN, "albert"])
def test_item_1_truncation_is_exact_for_post_ln(family):
    model = build(family)
    states = run(copy_structure(model), output_hidden_states=True).hidden_states
    for depth in range(1, len(states)):
        difference = run(layer_view(model, depth)).last_hidden_state - states[depth]
        assert (difference * MASK[..., None]).abs().max() == 0.0
    assert find_final_norm(model) is None


@pytest.mark.parametrize("family", PRE_LN)
def test_item_2_truncation_of_pre_ln_ends_with_the_final_norm(family):
    """The norm makes a difference of the order of one; the last state has it already."""
    model = build(family)
    norm = find_final_norm(model)
    states = run(copy_structure(model), output_hidden_states=True).hidden_states
    for depth in range(1, len(states) - 1):
        found = run(layer_view(model, depth)).last_hidden_state
        with torch.no_grad():
            assert ((found - norm(states[depth])) * MASK[..., None]).abs().max() == 0.0
        assert ((found - states[depth]) * MASK[..., None]).abs().max() > 0.1
    assert run(layer_view(model, depth + 1)).last_hidden_state.equal(states[-1])


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "qwen3", "gemma3"])
def test_item_3_view_shares_storage_and_survives_saving(family, tmp_path):
    model = build(family)
    before = run(model).last_hidden_state
    view = layer_view(model, 2)
    own = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    assert all(own[name] == parameter.data_ptr() for name, parameter in view.named_parameters())
    output = run(view).last_hidden_state
    view.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert (run(loaded).last_hidden_state - output).abs().max() == 0.0
    assert loaded.config.num_hidden_layers == view.config.num_hidden_layers == 2
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert len(config.get("layer_types") or [0, 0]) == 2
    assert run(model).last_hidden_state.equal(before)


def test_item_7_slice_comes_before_the_norm(embedder_of):
    """[3, 4, 12] cut to two is [0.6, 0.8]; the other order would give [0.2308, 0.3077] of length 0.3846."""

    class Fixed(nn.Module):
        def forward(self, features):
            vectors = torch.tensor([[3.0, 4.0, 12.0]])
            return {**features, "sentence_embedding": vectors.expand(len(features["input_ids"]), 3)}

    elastic = ElasticEmbedder(embedder_of("bert"), device="cpu")
    elastic[1] = Fixed()
    del elastic[2]
    cut = elastic.encode("wood", num_layers=2, truncate_dim=2, normalize_embeddings=True)
    assert cut.tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("family", ["bert", "modernbert", "qwen2"])
def test_item_10_quality_from_one_pass_is_that_of_the_truncated_model(family, embedder_of):
    """The first half of the item, latency, is measured by a script: see the benchmarks."""
    elastic = ElasticEmbedder(embedder_of(family), device="cpu")
    left = ["the archer draws the bow", "wood", "feathers", "what is a nock", "arrows in the wind"]
    right = ["an archer", "a shaft of wood", "goose feathers", "a target", "why is the flight true"]
    gold = [0.9, 0.4, 0.7, 0.1, 0.3]
    depths = range(1, elastic.num_layers + 1)
    sides = [elastic.encode_sizes(texts, [*depths]) for texts in (left, right)]
    for depth in depths:
        for dim in (8, 32):
            small = truncate_model(elastic, depth, dim)
            score = EmbeddingSimilarityEvaluator(left, right, gold)(small)["pearson_cosine"]
            first, second = (torch.from_numpy(side[depth][:, :dim]) for side in sides)
            cosines = torch.cosine_similarity(first.double(), second.double())
            pair = torch.stack([cosines, torch.tensor(gold, dtype=torch.float64)])
            assert float(torch.corrcoef(pair)[0, 1]) == pytest.approx(score, abs=1e-5)


def test_a_reloaded_folder_has_no_layer_of_the_others(embedder_of, tmp_path):
    """Cutting the list alone would come back with random layers in place of those that are missing."""
    truncate_model(embedder_of("bert"), 2, output_path=tmp_path, device="cpu")
    network, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert len(network.encoder.layer) == 2
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
