from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, BertConfig, T5Config, T5Model

from fletching.errors import ArgumentError
from fletching.nn import (
    attention_mode,
    check_depth,
    copy_structure,
    count_layers,
    find_final_norm,
    layer_view,
    truncate_layers,
)
from fletching.testing import TINY_DECODERS, TINY_ENCODERS, build_tiny_decoder, build_tiny_encoder

IDS = torch.tensor([[5, 9, 13, 21, 34, 7], [8, 3, 40, 0, 0, 0]])
MASK = (IDS != 0).long()
DECODERS = ("llama", "qwen3", "gemma3", "gpt2", "opt", "smollm3", "bloom")


def build(family):
    return (build_tiny_encoder if family in TINY_ENCODERS else build_tiny_decoder)(family)


def run(model, **options):
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=MASK, **options)


@pytest.mark.parametrize("family", [*TINY_ENCODERS, *DECODERS])
def test_view_runs_the_first_layers(family):
    """A hook on each layer counts; ALBERT's one layer runs as often as asked."""
    model = build(family)
    ran = []
    view = layer_view(model, 2)
    for layer in {id(part): part for part in view.modules() if isinstance(part, nn.ModuleList)}.values():
        for child in layer:
            child.register_forward_hook(lambda *_: ran.append(1))
    check_depth(model)
    run(view)
    inner = sum(isinstance(part, nn.ModuleList) for part in view.modules()) > 1
    assert len(ran) >= 2 if inner else len(ran) == 2
    assert view.config.num_hidden_layers == 2
    assert model.config.num_hidden_layers == count_layers(model) > 2


@pytest.mark.parametrize("isolated", [True, False])
def test_view_of_all_layers_computes_what_the_model_does(isolated):
    model = build("bert")
    view = layer_view(model, 4, isolated=isolated)
    assert run(view).last_hidden_state.equal(run(model).last_hidden_state)


@pytest.mark.parametrize("family", ["bert", "albert", "llama"])
def test_both_kinds_of_view_compute_the_same(family):
    model = build(family)
    shared, isolated = (layer_view(model, 2, isolated=each) for each in (False, True))
    assert run(shared).last_hidden_state.equal(run(isolated).last_hidden_state)


def test_view_that_hands_out_its_states_leaves_no_hook_behind():
    """Transformers puts hooks on modules for that, which would double the states and cannot be pickled."""
    model = build("bert")
    for _ in range(2):
        states = run(layer_view(model, 3), output_hidden_states=True).hidden_states
        assert len(states) == 4
    assert not any(part._forward_hooks for part in model.modules())
    pickle.dumps(model)


def test_view_has_its_own_training_mode():
    model = build("bert")
    layer_view(model, 2).train()
    assert not any(part.training for part in model.modules())


def test_gradients_reach_the_model_through_a_view():
    model = build("bert")
    output = layer_view(model, 2)(input_ids=IDS, attention_mask=MASK).last_hidden_state
    output.sum().backward()
    touched = [layer.output.dense.weight.grad is not None for layer in model.encoder.layer]
    assert touched == [True, True, False, False]


def test_views_of_many_threads_do_not_meet():
    model = build("bert")
    expected = {depth: run(layer_view(model, depth)).last_hidden_state for depth in (1, 2, 3, 4)}
    depths = [1, 2, 3, 4] * 16
    with ThreadPoolExecutor(32) as threads:
        found = [*threads.map(lambda depth: run(layer_view(model, depth)).last_hidden_state, depths)]
    assert all(output.equal(expected[depth]) for depth, output in zip(depths, found, strict=True))


def test_view_keeps_the_attention_mode_it_was_made_in():
    model = build("qwen3")
    with attention_mode(model, causal=False):
        both_ways = run(layer_view(model, 2, isolated=False)).last_hidden_state
        expected = run(model, output_hidden_states=True).hidden_states[2]
    assert both_ways.equal(model.norm(expected))
    assert not both_ways.equal(run(layer_view(model, 2)).last_hidden_state)


def test_view_of_what_holds_a_network_is_of_its_kind():
    holder = nn.Sequential(nn.Identity(), build("bert"))
    view = layer_view(holder, 1)
    assert type(view) is nn.Sequential
    assert count_layers(view) == 1
    assert count_layers(holder) == 4


@pytest.mark.parametrize(("kept", "groups"), [(2, 1), (4, 2)])
def test_groups_of_shared_layers_are_cut_between_them(kept, groups):
    """ALBERT with four layers in two groups: layers 0 and 1 are the same one, 2 and 3 another."""
    model = build_tiny_encoder("albert", num_hidden_groups=2)
    view = layer_view(model, kept)
    states = run(copy_structure(model), output_hidden_states=True).hidden_states
    assert (view.config.num_hidden_groups, len(view.encoder.albert_layer_groups)) == (groups, groups)
    assert run(view).last_hidden_state.equal(states[kept])


def test_a_cut_within_a_group_of_shared_layers_is_refused():
    model = build_tiny_encoder("albert", num_hidden_groups=2)
    with pytest.raises(
        ArgumentError, match="must be a multiple of 2, the layers that share their weights; got 3"
    ):
        layer_view(model, 3)


@pytest.mark.parametrize("value", [0, -1, 5, "2", 2.0, True, None], ids=repr)
def test_number_of_layers_is_refused(value):
    with pytest.raises(ArgumentError) as caught:
        layer_view(build("bert"), value)
    domain = "an integer from 1 to 4, the layers of the model"
    assert str(caught.value) == f"layer_view: `num_layers` must be {domain}; got {value!r}."


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (nn.Linear(2, 2), "It holds no network of transformers."),
        (nn.Sequential(build("bert"), build("roberta")), "It holds 2 networks."),
        (
            T5Model(T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2)),
            "It is an encoder-decoder; cut its encoder alone.",
        ),
    ],
    ids=["none", "two", "encoder-decoder"],
)
def test_what_has_no_single_list_of_layers_is_refused(model, problem):
    with pytest.raises(ArgumentError) as caught:
        count_layers(model)
    assert str(caught.value).startswith("count_layers: `model` must be a transformer with one list of layers")
    assert str(caught.value).endswith(problem)


def test_a_patched_forward_is_refused():
    """It is bound to the module that it was made for, and would run all of its layers."""
    model = build("bert")
    model.encoder.forward = model.encoder.forward
    with pytest.raises(ArgumentError, match="not one that is offloaded or patched; got 'BertEncoder'"):
        layer_view(model, 2, isolated=False)


def test_a_network_that_is_more_than_its_layers_is_refused():
    model = build("bert")

    class Stubborn(type(model.encoder)):
        """What it does beside running its layers depends on how many there are."""

        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            if len(self.layer) < 4:
                output.last_hidden_state = output.last_hidden_state + 1
            return output

    object.__setattr__(model.encoder, "__class__", Stubborn)
    with pytest.raises(
        ArgumentError, match=r"^load: .* Cut to 1 layers, it computes something else than before"
    ):
        check_depth(model, owner="load")


@pytest.mark.parametrize("family", ["albert", "bert", "deberta-v2", "distilbert", "electra", "mpnet"])
def test_encoders_whose_layers_end_with_a_norm_have_no_final_one(family):
    assert find_final_norm(build(family)) is None


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("modernbert", "final_norm"),
        ("t5", "encoder.final_layer_norm"),
        ("llama", "norm"),
        ("gpt2", "ln_f"),
        ("opt", "decoder.final_layer_norm"),
    ],
)
def test_final_norm_is_the_model_s_own(family, name):
    model = build(family).train()
    assert find_final_norm(model) is model.get_submodule(name)
    assert all(part.training for part in model.modules())


def test_more_than_a_norm_at_the_end_is_refused():
    model = build_tiny_decoder("opt", word_embed_proj_dim=16)
    with pytest.raises(ArgumentError, match="More than a norm follows its last layer"):
        find_final_norm(model)


@pytest.mark.parametrize("family", ["bert", "modernbert", "albert", "gemma3", "t5"])
def test_truncated_model_has_weights_of_its_own(family, tmp_path):
    model = build(family)
    small = truncate_layers(model, 2)
    expected = run(layer_view(model, 2)).last_hidden_state
    shared = {parameter.data_ptr() for parameter in model.parameters()}
    assert not any(parameter.data_ptr() in shared for parameter in small.parameters())
    small.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert run(loaded).last_hidden_state.equal(expected)


def test_a_network_that_a_save_would_not_bring_back_is_refused():
    """MiniCPM3 divides what its layers add by the root of their number."""
    config = AutoConfig.for_model(
        "minicpm3",
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        initializer_range=0.2,
    )
    model = AutoModel.from_config(config).eval()
    check_depth(model)
    with pytest.raises(ArgumentError, match="with fewer layers, it computes otherwise"):
        truncate_layers(model, 2)
    assert count_layers(truncate_layers(model, 3)) == 3


def test_adapters_are_refused_where_a_model_is_to_be_saved():
    peft = pytest.importorskip("peft")
    model = AutoModel.from_config(
        BertConfig(
            num_hidden_layers=2, hidden_size=8, num_attention_heads=2, intermediate_size=8, vocab_size=64
        )
    )
    model.add_adapter(peft.LoraConfig(target_modules=["query"], r=2))
    assert count_layers(layer_view(model, 1)) == 1
    with pytest.raises(ArgumentError, match=r"must be a model without adapters; got 'BertModel'. Merge"):
        truncate_layers(model, 1)


@pytest.mark.slow
@pytest.mark.parametrize("family", TINY_DECODERS)
def test_every_decoder_can_be_cut(family, tmp_path):
    model = build(family)
    check_depth(model)
    truncate_layers(model, 2).save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert run(loaded).last_hidden_state.equal(run(layer_view(model, 2)).last_hidden_state)
