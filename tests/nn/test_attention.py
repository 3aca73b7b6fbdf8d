"""Attention modes: they hold in every family, and nothing of them stays behind."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    GPTNeoConfig,
    GPTNeoModel,
    Lfm2Config,
    Lfm2Model,
    LlamaForCausalLM,
    LlamaModel,
    MptConfig,
    MptModel,
    StableLmModel,
    T5Config,
    T5EncoderModel,
    T5Model,
)

from fletching.errors import ArgumentError
from fletching.nn import attention, attention_mode, check_attention_mode, find_decoder
from fletching.testing import (
    EAGER_DECODERS,
    SLIDING_DECODERS,
    TINY_DECODERS,
    build_tiny_decoder,
    build_tiny_decoder_config,
    save_tiny_llama,
)
from fletching.testing.decoders import SLIDING_WINDOW

CASES = [
    (family, kernel)
    for family in TINY_DECODERS
    for kernel in ("eager", "sdpa")
    if kernel == "eager" or family not in EAGER_DECODERS
]
NAMES = ["-".join(case) for case in CASES]
PADDINGS = ("none", "right", "left")
NO_EXPLICIT_MASK = {"bloom", "falcon-alibi", "opt"}  # they count positions in a mask of two dimensions

each_case = pytest.mark.parametrize(("family", "kernel"), CASES, ids=NAMES)
each_padding = pytest.mark.parametrize("padding", PADDINGS)


def make_inputs(padding: str = "none", *, last: int = 20, length: int = 8) -> dict[str, torch.Tensor]:
    """Two texts: one of ``length`` tokens, one two tokens shorter and padded where ``padding`` says."""
    long = [3 + 5 * index % 50 for index in range(length - 1)] + [last]
    if padding == "none":
        return {"input_ids": torch.tensor([long])}
    short, mask = long[2:], [1] * (length - 2)
    right = padding == "right"
    row = [*short, 0, 0] if right else [0, 0, *short]
    attention_mask = torch.tensor([[1] * length, [*mask, 0, 0] if right else [0, 0, *mask]])
    positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    return {
        "input_ids": torch.tensor([long, row]),
        "attention_mask": attention_mask,
        "position_ids": positions,
    }


def run(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Run a decoder; positions are passed to GPT-2 alone, the others know them or find them in the mask."""
    if getattr(model.config, "model_type", "") != "gpt2":
        inputs = {name: value for name, value in inputs.items() if name != "position_ids"}
    with torch.no_grad():
        return model(**inputs, use_cache=False)[0]


def run_in_mode(model: nn.Module, inputs: dict[str, torch.Tensor], causal: bool | None) -> torch.Tensor:
    with nullcontext() if causal is None else attention_mode(model, causal=causal):
        return run(model, inputs)


def describe_state(model: nn.Module) -> list[object]:
    """Everything a mode could leave behind: classes, names of attributes, flags, hooks, the configuration."""
    return [
        (type(part), sorted(vars(part)), getattr(part, "is_causal", None), len(part._forward_pre_hooks))
        for part in model.modules()
    ] + [type(model.config), dict(vars(model.config)), hasattr(model.config, "is_causal")]


# What a mode does


@each_case
@each_padding
def test_bidirectional_mode_lets_the_first_token_see_the_last(tiny_decoder, family, kernel, padding):
    """Eight tokens and three layers: a window of five on either side reaches across in two of them."""
    model = tiny_decoder(family, kernel)
    text, other_end = (run_in_mode(model, make_inputs(padding, last=last), False) for last in (20, 40))
    assert (text[0, 0] - other_end[0, 0]).abs().max() > 1e-3


@each_case
@each_padding
def test_causal_mode_is_the_untouched_model(tiny_decoder, family, kernel, padding):
    model = tiny_decoder(family, kernel)
    inputs = make_inputs(padding)
    assert torch.equal(run_in_mode(model, inputs, True), run(model, inputs))


@each_case
@pytest.mark.parametrize("padding", ["right", "left"])
def test_bidirectional_states_do_not_depend_on_the_padding(tiny_decoder, family, kernel, padding):
    """The short text of a padded batch against the same text alone; states are of size 1, float32."""
    model = tiny_decoder(family, kernel)
    inputs = make_inputs(padding)
    short = inputs["attention_mask"][1].bool()
    padded = run_in_mode(model, inputs, False)[1, short]
    alone = run_in_mode(model, {"input_ids": inputs["input_ids"][1:, short]}, False)[0]
    torch.testing.assert_close(padded, alone, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("family", "kernel"),
    [case for case in CASES if case[0] not in {*NO_EXPLICIT_MASK, *SLIDING_DECODERS}],
)
@each_padding
def test_bidirectional_mode_equals_a_mask_written_by_hand(tiny_decoder, family, kernel, padding):
    """The definition: nothing is masked but padded keys, for every query."""
    model = tiny_decoder(family, kernel)
    inputs = make_inputs(padding)
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
    hidden = (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
    by_hand = run(model, {**inputs, "attention_mask": hidden.expand(-1, 1, mask.shape[1], -1)})
    states = run_in_mode(model, inputs, False)
    torch.testing.assert_close(states[mask.bool()], by_hand[mask.bool()], atol=2e-5, rtol=0)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_a_sliding_window_becomes_symmetric(tiny_decoder, kernel):
    """Twelve tokens, window 5, written by hand: token i sees token j when |i - j| <= 5."""
    model = tiny_decoder("mistral-sliding", kernel)
    inputs = make_inputs(length=12)
    index = torch.arange(12)
    near = (index[:, None] - index[None, :]).abs() <= SLIDING_WINDOW
    by_hand = run(model, {**inputs, "attention_mask": torch.where(near, 0.0, torch.finfo().min)[None, None]})
    torch.testing.assert_close(run_in_mode(model, inputs, False), by_hand, atol=2e-5, rtol=0)


def test_a_per_call_flag_wins_inside_a_block_and_only_for_its_call(tiny_decoder):
    model, inputs = tiny_decoder("llama", "sdpa"), make_inputs()
    bidirectional = run_in_mode(model, inputs, False)
    with attention_mode(model, causal=False), torch.no_grad():
        assert torch.equal(model(**inputs, is_causal=True)[0], run_in_mode(model, inputs, True))
        assert torch.equal(run(model, inputs), bidirectional)


def test_causal_mode_overrides_a_saved_bidirectional_flag():
    model, inputs = build_tiny_decoder("qwen2"), make_inputs()
    causal = run(model, inputs)
    model.config.is_causal = False
    assert not torch.equal(run(model, inputs), causal)
    assert torch.equal(run_in_mode(model, inputs, True), causal)
    assert model.config.is_causal is False


# What stays behind


@each_case
def test_leaving_restores_everything(tiny_decoder, family, kernel):
    model = tiny_decoder(family, kernel)
    inputs, before = make_inputs("left"), describe_state(model)
    states = run(model, inputs)
    run_in_mode(model, inputs, False)
    assert describe_state(model) == before
    assert torch.equal(run(model, inputs), states)


def test_an_exception_restores_everything(tiny_decoder):
    model = tiny_decoder("stablelm", "sdpa")
    before = describe_state(model)
    with pytest.raises(KeyError), attention_mode(model, causal=False), attention_mode(model, causal=True):
        raise KeyError("inside")
    assert describe_state(model) == before
    assert not attention._open
    assert not attention._switch_of


@pytest.mark.parametrize("family", ["llama", "stablelm", "bloom", "gemma2", "falcon"])
@pytest.mark.parametrize("outer", [True, False])
def test_blocks_nest_in_either_order(tiny_decoder, family, outer):
    model, inputs = tiny_decoder(family), make_inputs("right")
    expected = {causal: run_in_mode(model, inputs, causal) for causal in (True, False)}
    assert not torch.equal(expected[True], expected[False])
    with attention_mode(model, causal=outer):
        assert torch.equal(run_in_mode(model, inputs, not outer), expected[not outer])
        assert torch.equal(run(model, inputs), expected[outer])
        assert torch.equal(run_in_mode(model, inputs, outer), expected[outer])
        assert torch.equal(run(model, inputs), expected[outer])


def sees_the_last(model: nn.Module) -> bool:
    with torch.no_grad():
        first, other = (run(model, make_inputs(last=last))[0, 0] for last in (20, 21))
    return not torch.equal(first, other)


def suspend(model: nn.Module, *, causal: bool) -> Iterator[bool]:
    with attention_mode(model, causal=causal):
        while True:
            yield sees_the_last(model)


def test_generators_may_leave_their_blocks_in_any_order(tiny_decoder):
    model, other = tiny_decoder("llama"), tiny_decoder("qwen2")
    first, second = suspend(model, causal=False), suspend(other, causal=False)
    next(first), next(second)
    first.close()
    assert (next(second), sees_the_last(other), sees_the_last(model)) == (True, True, False)
    second.close()
    assert (sees_the_last(model), sees_the_last(other)) == (False, False)


def test_a_block_that_was_left_out_of_turn_has_no_say_in_a_later_one(tiny_decoder):
    model, other = tiny_decoder("llama"), tiny_decoder("qwen2")
    first, second = suspend(model, causal=False), suspend(other, causal=False)
    next(first), next(second)
    first.close(), second.close()
    with ThreadPoolExecutor(1) as pool:
        later = suspend(model, causal=False)
        assert pool.submit(next, later).result() is True
        assert sees_the_last(model) is False  # this thread is in no block
        pool.submit(later.close).result()


def test_a_block_may_be_left_in_another_thread(tiny_decoder):
    model = tiny_decoder("stablelm", "sdpa")
    before = describe_state(model)
    suspended = suspend(model, causal=False)
    next(suspended)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(suspended.close).result()
    assert describe_state(model) == before
    assert sees_the_last(model) is False
    assert not attention._open


def test_an_asynchronous_generator_that_nobody_ends_leaves_nothing_behind(tiny_decoder):
    """The event loop closes it in a task of its own, which has another context."""
    model = tiny_decoder("llama")
    before = describe_state(model)

    async def embed() -> AsyncIterator[bool]:
        with attention_mode(model, causal=False):
            yield sees_the_last(model)
            yield sees_the_last(model)

    async def take_one() -> bool:
        async for found in embed():
            return found
        return False

    assert asyncio.run(take_one()) is True
    assert describe_state(model) == before
    assert not attention._open


def test_ten_thousand_blocks_leave_nothing_behind():
    model = build_tiny_decoder("stablelm", num_hidden_layers=1)
    before = describe_state(model)
    with attention_mode(model, causal=False):
        pass
    classes = attention._switched.cache_info().currsize
    for index in range(10_000):
        with attention_mode(model, causal=bool(index % 2)):
            pass
    assert describe_state(model) == before
    assert (len(attention._open), len(attention._switch_of), len(attention._modes.get())) == (0, 0, 0)
    assert attention._switched.cache_info().currsize == classes


@pytest.mark.slow
def test_a_mode_costs_no_time():
    """The best of many calls, taken in turn: less than 5 % over the plain call of a six-layer model."""
    model = build_tiny_decoder(
        "llama", num_hidden_layers=6, hidden_size=256, intermediate_size=512, num_attention_heads=4
    )
    inputs = {"input_ids": torch.arange(256).reshape(4, 64) % 64}
    best = {None: float("inf"), True: float("inf"), False: float("inf")}
    for _ in range(100):
        for causal in best:
            start = time.perf_counter()
            run_in_mode(model, inputs, causal)
            best[causal] = min(best[causal], time.perf_counter() - start)
    assert max(best[True], best[False]) < 1.05 * best[None]


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_made_inside_a_block_is_an_ordinary_model(make_copy):
    model, inputs = build_tiny_decoder("stablelm"), make_inputs()
    with attention_mode(model, causal=False):
        twin = make_copy(model)
    assert describe_state(twin)[:-2] == describe_state(model)[:-2]
    assert type(twin.config) is type(model.config)
    assert torch.equal(run(twin, inputs), run(model, inputs))


def test_a_model_saved_inside_a_block_does_not_carry_the_mode(tmp_path):
    model = build_tiny_decoder("qwen3")
    with attention_mode(model, causal=False):
        model.save_pretrained(tmp_path)
    assert "is_causal" not in (tmp_path / "config.json").read_text()
    assert torch.equal(run(type(model).from_pretrained(tmp_path), make_inputs()), run(model, make_inputs()))


def test_models_that_share_a_configuration_share_its_mode():
    """Both models are switched by the block on the second, though the first opened the outer block."""
    config = build_tiny_decoder_config("stablelm", attn_implementation="sdpa")
    first, second = StableLmModel(config).eval(), StableLmModel(config).eval()
    alone = run_in_mode(second, make_inputs(), False)
    with attention_mode(first, causal=True):
        assert torch.equal(run_in_mode(second, make_inputs(), False), alone)
    assert not attention._switch_of


# Threads and tasks


@pytest.mark.parametrize(("family", "kernel"), [("llama", "sdpa"), ("stablelm", "sdpa"), ("bloom", "eager")])
def test_threads_run_one_model_in_their_own_modes(tiny_decoder, family, kernel):
    """Two threads a mode and two without one; every block opens and closes while others run."""
    model, inputs = tiny_decoder(family, kernel), make_inputs("left")
    modes = [True, False, None] * 2
    expected = {causal: run_in_mode(model, inputs, causal) for causal in modes}
    start = threading.Barrier(len(modes))

    def work(causal: bool | None) -> bool:
        start.wait()
        return all(torch.equal(run_in_mode(model, inputs, causal), expected[causal]) for _ in range(10))

    with ThreadPoolExecutor(len(modes)) as pool:
        assert all(pool.map(work, modes))
    assert not attention._open


def test_a_thread_started_inside_a_block_has_no_mode(tiny_decoder):
    model, inputs = tiny_decoder("llama"), make_inputs()
    plain = run(model, inputs)
    with attention_mode(model, causal=False), ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(run, model, inputs).result(), plain)


def test_tasks_run_one_model_in_their_own_modes(tiny_decoder):
    model, inputs = tiny_decoder("llama"), make_inputs()
    expected = {causal: run_in_mode(model, inputs, causal) for causal in (True, False)}

    async def work(causal: bool) -> bool:
        with attention_mode(model, causal=causal):
            await asyncio.sleep(0)
            return torch.equal(run(model, inputs), expected[causal])

    async def both() -> list[bool]:
        return await asyncio.gather(work(True), work(False))

    assert asyncio.run(both()) == [True, True]


# Training and generation


@each_case
def test_gradient_checkpointing_computes_the_same_gradients_outside_the_block(family, kernel):
    """The layers run again in the backward pass, after the block is closed, and must run bidirectional."""
    inputs = make_inputs()
    gradients = []
    for checkpointing in (False, True):
        model = build_tiny_decoder(family, attention=kernel).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        if checkpointing and (family, kernel) == ("stablelm", "sdpa"):
            with pytest.raises(ArgumentError, match=r"StableLmModel.*attn_implementation"):
                run_with_gradient(model, inputs)
            return
        run_with_gradient(model, inputs)[0, 0].square().sum().backward()
        gradients.append(
            torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])
        )
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


def run_with_gradient(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]), attention_mode(model, causal=False):
        torch.manual_seed(0)  # decides the dropout
        return model(**inputs, use_cache=False)[0]


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_generation_is_unchanged_inside_causal_and_after_bidirectional(kernel):
    torch.manual_seed(0)
    model = LlamaForCausalLM(build_tiny_decoder_config("llama", attn_implementation=kernel)).eval()
    inputs = {name: value for name, value in make_inputs("left").items() if name != "position_ids"}
    generate = partial(model.generate, **inputs, max_new_tokens=6, do_sample=False, pad_token_id=0)
    plain = generate()
    run_in_mode(model, inputs, False)
    assert torch.equal(generate(), plain)
    with attention_mode(model, causal=True):
        assert torch.equal(generate(), plain)


# What it takes


def test_a_language_model_head_is_no_obstacle():
    model = LlamaForCausalLM(build_tiny_decoder_config("llama")).eval()
    check_attention_mode(model)
    text, other_end = (run_in_mode(model, make_inputs(last=last), False) for last in (20, 40))
    assert not torch.equal(text[0, 0], other_end[0, 0])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # asked by peft
def test_a_peft_model_is_switched():
    peft = pytest.importorskip("peft")
    model = build_tiny_decoder("llama")
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], r=2)).eval()
    check_attention_mode(adapted)
    text, other_end = (run_in_mode(adapted, make_inputs(last=last), False) for last in (20, 40))
    assert not torch.equal(text[0, 0], other_end[0, 0])


def test_a_sentence_transformer_is_switched(tmp_path):
    model = SentenceTransformer(save_tiny_llama(tmp_path), device="cpu")
    check_attention_mode(model)
    plain = model.encode("the archer and the wind")
    with attention_mode(model[0], causal=False):
        bidirectional = model.encode("the archer and the wind")
    assert abs(bidirectional - plain).max() > 1e-6
    assert (model.encode("the archer and the wind") == plain).all()


def test_the_decoder_is_found_inside_what_holds_it(tmp_path):
    model = SentenceTransformer(save_tiny_llama(tmp_path), device="cpu")
    assert find_decoder(model) is model[0].auto_model


BERT = BertConfig(
    hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=64
)
T5 = T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=64)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BertModel(BERT), "decoder-only language model; got 'BertModel, an encoder'"),
        (lambda: T5Model(T5), "decoder-only language model; got 'T5Model, an encoder-decoder'"),
        (lambda: T5EncoderModel(T5), "decoder-only language model; got 'T5EncoderModel, an encoder-decoder'"),
        (lambda: nn.Linear(2, 2), "decoder-only model of transformers; got 'Linear'"),
        (
            lambda: build_tiny_decoder("gemma3", use_bidirectional_attention=True),
            "leaves `use_bidirectional_attention` off; got 'Gemma3TextModel'",
        ),
    ],
    ids=["encoder", "encoder-decoder", "half-of-one", "no-model", "bidirectional-by-itself"],
)
@pytest.mark.parametrize("causal", [True, False])
def test_other_models_are_refused(build, message, causal):
    model = build()
    with (
        pytest.raises(ArgumentError, match=f"^attention_mode: `model` must be .*{message}"),
        attention_mode(model, causal=causal),
    ):
        pass


def test_a_mode_is_true_or_false(tiny_decoder):
    with (
        pytest.raises(ArgumentError, match="`causal` must be True or False; got 'bidirectional'"),
        attention_mode(tiny_decoder("llama"), causal="bidirectional"),
    ):
        pass


def test_layers_without_attention_cannot_be_made_bidirectional():
    config = Lfm2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"],
    )
    model = Lfm2Model(config).eval()
    with pytest.raises(ArgumentError, match="Lfm2Model with layers of type conv"):
        check_attention_mode(model)
    with attention_mode(model, causal=True):
        pass


# The probe


class Stubborn(LlamaModel):
    """A backbone that builds a causal mask of its own, whatever it is told."""

    def forward(self, input_ids, attention_mask=None, **options):
        length = input_ids.shape[1]
        seen = (
            torch.ones(length, length).tril().bool()
            & (torch.ones_like(input_ids) if attention_mask is None else attention_mask).bool()[
                :, None, None, :
            ]
        )
        own = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
        return super().forward(input_ids, attention_mask=own, **options)


class Leaking(LlamaModel):
    """A backbone that loses the mask of the padding."""

    def forward(self, input_ids, attention_mask=None, **options):
        return super().forward(input_ids, **options)


class Open(LlamaModel):
    """A backbone that attends to everything, whatever it is told."""

    def forward(self, input_ids, attention_mask=None, **options):
        with attention_mode(self, causal=False):
            return super().forward(input_ids, attention_mask=attention_mask, **options)


@each_case
def test_the_probe_passes_every_family(tiny_decoder, family, kernel):
    check_attention_mode(tiny_decoder(family, kernel))


@pytest.mark.parametrize(
    ("kind", "causal", "message"),
    [
        (
            Stubborn,
            False,
            "obeys attention_mode\\(causal=False\\); got 'Stubborn \\(model type llama\\)'.*unpadded",
        ),
        (Stubborn, None, "first token does not see its last one"),
        (Leaking, False, "input padded on the right the padding leaks"),
        (Open, True, "obeys attention_mode\\(causal=True\\).*a token sees those after it"),
    ],
)
def test_the_probe_names_a_backbone_that_does_not_obey(kind, causal, message):
    torch.manual_seed(0)
    model = kind(build_tiny_decoder_config("llama", initializer_range=0.2)).eval()
    with pytest.raises(ArgumentError, match=f"^check_attention_mode: .*{message}"):
        check_attention_mode(model, causal=causal)


@pytest.mark.parametrize("is_causal", [True, False])
def test_the_probe_can_leave_the_switch_alone(is_causal):
    """The flag of the configuration decides; a mode that is switched on would hide a wrong one."""
    model = build_tiny_decoder("qwen2")
    model.config.is_causal = is_causal
    check_attention_mode(model, causal=is_causal, switch=False)
    with pytest.raises(ArgumentError, match="check_attention_mode: `model` must be a decoder that obeys"):
        check_attention_mode(model, causal=not is_causal, switch=False)
    check_attention_mode(model, causal=not is_causal)


def test_the_probe_must_know_the_mode_where_nothing_is_switched():
    with pytest.raises(ArgumentError, match="`causal` must be given where nothing is switched; got None"):
        check_attention_mode(build_tiny_decoder("qwen2"), switch=False)


def test_the_probe_finds_a_family_that_ignores_the_switch():
    """GPT-Neo keeps a triangle of its own in every layer."""
    config = GPTNeoConfig(
        vocab_size=64, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global"], 2]]
    )
    model = GPTNeoModel(config).eval()
    check_attention_mode(model, causal=True)
    with pytest.raises(
        ArgumentError, match=r"'GPTNeoModel \(model type gpt_neo\)'.*does not see its last one"
    ):
        check_attention_mode(model)


def test_the_probe_names_a_family_that_fails_in_the_mode():
    """MPT reads a mask that transformers leaves out where nothing is hidden."""
    model = MptModel(MptConfig(vocab_size=64, d_model=32, n_layers=1, n_heads=4)).eval()
    with pytest.raises(ArgumentError, match=r"'MptModel \(model type mpt\)'. On an unpadded input it fails"):
        check_attention_mode(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "mixtral", "gemma3"])
def test_the_probe_passes_in_low_precision(family, dtype):
    check_attention_mode(build_tiny_decoder(family, attention="eager").to(dtype))


def test_the_probe_leaves_training_and_the_gradients_as_they_were():
    model = build_tiny_decoder("gpt2").train()
    model.h[0].eval()
    training = [part.training for part in model.modules()]
    check_attention_mode(model)
    assert [part.training for part in model.modules()] == training
    assert all(parameter.grad is None for parameter in model.parameters())
