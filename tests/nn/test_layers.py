from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BertConfig, BertModel, T5Config, T5EncoderModel, T5Model

from fletching.errors import ArgumentError
from fletching.nn import before_layers, check_layers, find_layers, run_to_layer
from fletching.testing import (
    EAGER_DECODERS,
    TINY_DECODERS,
    build_tiny_decoder,
    build_tiny_decoder_config,
)

THREADS = 8
IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])
INPUTS = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}


@pytest.fixture
def llama() -> Any:
    return build_tiny_decoder("llama")


@pytest.fixture(autouse=True)
def _no_gradients(request: pytest.FixtureRequest) -> Any:
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


def run(model: Any, **options: Any) -> Any:
    return model(**INPUTS, **options)


def count_hooks(model: nn.Module) -> int:
    return sum(len(part._forward_pre_hooks) + len(part._forward_hooks) for part in model.modules())


def add(amount: float) -> Callable[[Tensor], Tensor]:
    return lambda hidden: hidden + amount


# --- finding ---


@pytest.mark.parametrize("family", TINY_DECODERS)
def test_layers_of_every_family_are_found_and_obey(family):
    model = build_tiny_decoder(family)
    assert len(find_layers(model)) == 3
    check_layers(model)


def test_layers_are_found_below_a_language_model_head():
    model = AutoModelForCausalLM.from_config(build_tiny_decoder_config("qwen3"))
    assert find_layers(model) is model.model.layers


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
def test_layers_are_found_inside_peft(llama):
    peft = pytest.importorskip("peft")
    layers = llama.layers
    wrapped = peft.get_peft_model(llama, peft.LoraConfig(target_modules=["q_proj"]))
    assert find_layers(wrapped) is layers
    check_layers(wrapped)


def test_layers_of_a_module_of_ones_own_are_found():
    module = nn.Module()
    module.layers = nn.ModuleList([nn.Identity()])
    assert find_layers(module) is module.layers


SMALL = {"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
SMALL_T5 = {"vocab_size": 9, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_heads": 2}


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (BertModel(BertConfig(**SMALL)), "encoder"),
        (T5Model(T5Config(**SMALL_T5)), "encoder-decoder"),
        (T5EncoderModel(T5Config(**SMALL_T5)), "encoder-decoder"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_decoder_is_refused(model, kind):
    with pytest.raises(ArgumentError, match=rf"^find_layers: `model` must be .* an {kind}'\.$"):
        find_layers(model)


def test_a_module_without_layers_is_refused():
    with pytest.raises(ArgumentError, match="It has no list of layers"):
        find_layers(nn.Linear(2, 2))


def test_two_lists_of_layers_are_refused():
    module = nn.Module()
    for name in ("layers", "blocks"):
        setattr(module, name, nn.ModuleList([nn.Identity()]))
    with pytest.raises(ArgumentError, match="It has several lists of layers"):
        find_layers(module)


# --- reading ---


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", TINY_DECODERS)
def test_an_early_exit_yields_the_hidden_states_bit_for_bit(family, attention):
    if attention == "sdpa" and family in EAGER_DECODERS:
        pytest.skip("transformers runs it with eager attention only")
    model = build_tiny_decoder(family, attention=attention)
    before = run(model, output_hidden_states=True)
    for layer in (0, 1, 2):
        assert run_to_layer(model, layer, **INPUTS).equal(before.hidden_states[layer])
    assert run_to_layer(model, -1, **INPUTS).equal(before.last_hidden_state)
    after = run(model, output_hidden_states=True)
    assert all(map(torch.equal, after.hidden_states, before.hidden_states))


@pytest.mark.parametrize("family", ["llama", "gemma2", "olmo2"])
def test_the_last_layer_is_returned_without_the_final_norm(family):
    model = build_tiny_decoder(family)
    last = run_to_layer(model, 3, **INPUTS)
    assert model.norm(last).equal(run(model).last_hidden_state)
    assert not last.equal(run(model).last_hidden_state)


def test_layers_count_from_the_end_over_the_embedding(llama):
    for layer in (-2, -3, -4):
        assert run_to_layer(llama, layer, **INPUTS).equal(run_to_layer(llama, layer + 4, **INPUTS))


def test_the_head_is_not_computed():
    model = AutoModelForCausalLM.from_config(build_tiny_decoder_config("llama")).eval()
    called: list[int] = []
    model.lm_head.register_forward_hook(lambda *_: called.append(1))
    assert run_to_layer(model, -1, **INPUTS).equal(model.model(**INPUTS).last_hidden_state)
    assert called == []


@pytest.mark.parametrize(
    ("layer", "expected"), [(0, []), (1, [0]), (2, [0, 1]), (-2, [0, 1]), (3, [0, 1, 2])]
)
def test_later_layers_are_not_computed(llama, layer, expected):
    ran: list[int] = []
    for index, part in enumerate(llama.layers):
        part.mlp.register_forward_hook(lambda *_, index=index: ran.append(index))
    run_to_layer(llama, layer, **INPUTS)
    assert ran == expected


@pytest.mark.parametrize("layer", [4, -5, 1.0, True, None], ids=repr)
def test_a_layer_that_does_not_exist_is_refused(llama, layer):
    with pytest.raises(ArgumentError, match="`layer` must be an integer from -4 to 3"):
        run_to_layer(llama, layer, **INPUTS)


# --- changing ---


def test_a_function_changes_what_its_layer_reads_and_nothing_before(llama):
    plain = [run_to_layer(llama, layer, **INPUTS) for layer in range(4)]
    with before_layers(llama, {1: add(1.0)}):
        changed = [run_to_layer(llama, layer, **INPUTS) for layer in range(4)]
    assert [a.equal(b) for a, b in zip(plain, changed, strict=True)] == [True, True, False, False]


def test_a_replaced_input_is_what_a_layer_computes_from(llama):
    """Layer 1 is given the input that it has for other tokens; from there on, all is as for those."""
    other = run_to_layer(llama, 1, input_ids=IDS.flip(1), attention_mask=INPUTS["attention_mask"])
    with before_layers(llama, {1: lambda _: other}):
        got = run_to_layer(llama, 3, **INPUTS)
    assert got.equal(run_to_layer(llama, 3, input_ids=IDS.flip(1), attention_mask=INPUTS["attention_mask"]))


def test_a_function_that_returns_nothing_only_looks(llama):
    expected, seen = run(llama).last_hidden_state, []
    with before_layers(llama, {0: seen.append, 2: seen.append}):
        assert run(llama).last_hidden_state.equal(expected)
    assert [hidden.shape for hidden in seen] == [(2, 6, 32)] * 2


def test_the_outer_block_sees_first(llama):
    doubled = lambda hidden: hidden * 2  # noqa: E731
    seen: list[Tensor] = []
    with (
        before_layers(llama, {1: add(1.0)}),
        before_layers(llama, {1: doubled}),
        before_layers(llama, {1: seen.append}),
    ):
        run(llama)
    assert seen[0].equal((run_to_layer(llama, 1, **INPUTS) + 1) * 2)


def test_keyword_hidden_states_are_found():
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Doubling(), Doubling()])

        def forward(self, hidden: Tensor) -> Tensor:
            for layer in self.layers:
                hidden = layer(hidden_states=hidden)
            return hidden

    class Doubling(nn.Module):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return 2 * hidden_states

    module = Keyword()
    with before_layers(module, {1: add(1.0)}):
        assert module(torch.ones(1)).item() == 6.0  # (2 * 1 + 1) * 2
    assert run_to_layer(module, 1, hidden=torch.ones(1)).item() == 2.0


def test_a_layer_of_a_block_must_exist(llama):
    with (
        pytest.raises(ArgumentError, match="`functions` must be layers of this model, 0 to 2; got 3"),
        before_layers(llama, {3: add(1.0)}),
    ):
        pass


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = build_tiny_decoder("llama").train()
        if checkpointing:
            model.activation_checkpointing_enable()
        with before_layers(model, {1: lambda hidden: 2 * hidden}):
            states = run_to_layer(model, 2, **INPUTS)
        states.square().sum().backward()
        gradients.append(model.layers[0].self_attn.q_proj.weight.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().sum() > 0


# --- leaving everything as it was ---


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_no_hook(llama, error):
    expected, hooks = run(llama).last_hidden_state, count_hooks(llama)

    def fail(_: Tensor) -> None:
        raise error

    with pytest.raises(error), before_layers(llama, {0: add(1.0), 1: fail}):
        run_to_layer(llama, 2, **INPUTS)
    assert count_hooks(llama) == hooks
    assert run(llama).last_hidden_state.equal(expected)


def test_many_calls_leave_no_hook(llama):
    hooks = count_hooks(llama)
    for _ in range(50):
        with before_layers(llama, {1: add(1.0)}):
            run_to_layer(llama, 2, **INPUTS)
    assert count_hooks(llama) == hooks


def test_threads_do_not_see_each_other(llama):
    """Each thread changes other layers by other amounts and stops elsewhere, on one model."""

    def compute(thread: int) -> Tensor:
        with before_layers(llama, {thread % 3: add(float(thread)), 2: add(-0.5 * thread)}):
            return run_to_layer(llama, (3, 2, -1, 1)[thread % 4], **INPUTS)

    expected = [compute(thread) for thread in range(THREADS)]
    assert len({hidden.sum().item() for hidden in expected}) > THREADS // 2
    with ThreadPoolExecutor(THREADS) as threads:
        got = [*threads.map(compute, [*range(THREADS)] * 25)]
    assert all(a.equal(b) for a, b in zip(got, expected * 25, strict=True))
    assert count_hooks(llama) == 0


def test_a_call_of_another_thread_is_untouched(llama):
    expected = run(llama).last_hidden_state
    with before_layers(llama, {1: add(1.0)}), ThreadPoolExecutor(1) as threads:
        assert threads.submit(lambda: run_elsewhere(llama)).result().equal(expected)


def run_elsewhere(model: Any) -> Tensor:
    with torch.no_grad():
        return run(model).last_hidden_state


# --- the probe ---


class Stubborn(nn.Module):
    """A layer that answers with what it computed first, whatever it reads."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.first: Any = None

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Any:
        if self.first is None:
            self.first = self.layer(hidden_states, **kwargs)
        return self.first


def test_the_probe_finds_a_layer_that_ignores_its_input(llama):
    llama.layers[1] = Stubborn(llama.layers[1])
    with pytest.raises(ArgumentError, match="It ignores changed hidden states"):
        check_layers(llama)


def test_the_probe_finds_layers_that_run_twice(llama):
    once = llama.forward

    def twice(*args: Any, **kwargs: Any) -> Any:
        once(*args, **kwargs)
        return once(*args, **kwargs)

    llama.forward = twice
    with pytest.raises(ArgumentError, match=r"the order \[0, 1, 2, 0, 1, 2\]"):
        check_layers(llama, owner="load")


def test_the_probe_finds_a_layer_that_remembers(llama):
    class Counting(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer, self.calls = layer, 0

        def forward(self, hidden_states: Tensor, **kwargs: Any) -> Any:
            self.calls += 1
            return self.layer(hidden_states, **kwargs) + self.calls

    llama.layers[2] = Counting(llama.layers[2])
    with pytest.raises(ArgumentError, match="A call after others computes something else"):
        check_layers(llama)


def test_the_probe_keeps_the_mode_of_training(llama):
    llama.train()
    llama.layers[1].eval()
    check_layers(llama)
    assert [layer.training for layer in llama.layers] == [True, False, True]


def test_the_probe_finds_what_happens_between_layers(llama):
    class Scaling(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def __call__(self, hidden_states: Tensor, **kwargs: Any) -> Any:
            return super().__call__(2 * hidden_states, **kwargs)

        def forward(self, hidden_states: Tensor, **kwargs: Any) -> Any:
            return self.layer(hidden_states, **kwargs)

    llama.layers[1] = Scaling(llama.layers[1])
    with pytest.raises(ArgumentError, match="reads something else than the layer before it wrote"):
        check_layers(llama)


def test_the_probe_leaves_a_model_that_can_be_pickled(llama):
    check_layers(llama)
    assert count_hooks(llama) == 0
    pickle.dumps(llama)
