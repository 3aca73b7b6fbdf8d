"""What must hold, item by item; the numbers of the toy are derived by hand in `test_1`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fletching.methods.token_prepending.config import PROMPTS
from fletching.methods.token_prepending.functional import copy_last_token, count_positions, find_last
from fletching.nn import before_layers, find_layers, run_to_layer
from fletching.testing import EAGER_DECODERS, TINY_DECODERS, build_tiny_decoder

TEXTS = ["wood", "The archer draws the bow.", "What is a nock? A notch for the string!"]
CASES = [
    (family, attention)
    for family in TINY_DECODERS
    for attention in ("eager", "sdpa")
    if attention == "eager" or family not in EAGER_DECODERS
]


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


class RunningMean(nn.Module):
    """A causal layer of width 1: each token becomes the mean of itself and all before it."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states.cumsum(dim=1) / torch.arange(1, hidden_states.shape[1] + 1)[:, None]


class Toy(nn.Module):
    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(RunningMean() for _ in range(layers))

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


def prepend(first: Tensor, last: Tensor, layers: range) -> dict[int, Any]:
    return dict.fromkeys(layers, lambda hidden: copy_last_token(hidden, first, last))


@pytest.mark.parametrize(
    ("start", "stop", "layer", "expected"),
    [
        (1, 1, 3, [1.5833333]),
        (1, 3, 3, [1.7916667]),
        (1, 2, 3, [1.8541667]),
        (0, 3, 3, [2.5555556]),
        (1, 3, 2, [2.0, 2.0, 1.6666667, 1.75]),
    ],
)
def test_1_the_toy_decoder_computes_what_a_hand_computes(start, stop, layer, expected):
    """h^0 = [2, 0, 1, 5], the placeholder second, the last token fourth.

    h^1 = [2, 1, 1, 2]. Plain: h^2 = [2, 1.5, 4/3, 1.5], h^3[3] = 19/12 = 1.5833333.
    Copied before layer 1: [2, 2, 1, 2] -> h^2 = [2, 2, 5/3, 1.75]; (1, 2): h^3[3] = 89/48 = 1.8541667.
    Copied before layer 2, too: [2, 1.75, 5/3, 1.75] -> h^3[3] = 43/24 = 1.7916667.
    Copied before layer 0, too: [2, 5, 1, 5] -> [2, 3.5, 8/3, 3.25] -> [2, 3.25, 8/3, 3.25]
    -> [2, 2.625, 95/36, 67/24] -> [2, 67/24, 95/36, 67/24] -> h^3[3] = 92/36 = 2.5555556.
    """
    place, last = torch.tensor([1]), torch.tensor([3])
    hidden = torch.tensor([2.0, 0.0, 1.0, 5.0]).view(1, 4, 1)
    with before_layers(toy := Toy(), prepend(place, last, range(start, stop))):
        states = run_to_layer(toy, layer, hidden=hidden).flatten()
    torch.testing.assert_close(states[-len(expected) :], torch.tensor(expected))


@pytest.mark.parametrize(("family", "attention"), CASES)
def test_2_hooks_equal_the_definition_bit_for_bit(family, attention):
    """The definition: each layer's own forward, patched to overwrite the placeholder's row first."""
    model = build_tiny_decoder(family, attention=attention)
    ids = torch.arange(5, 14).repeat(2, 1) + torch.tensor([[0], [20]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    place, last = torch.tensor([2, 3]), torch.tensor([8, 8])
    with before_layers(model, prepend(place, last, range(1, 3))):
        hooked = [run_to_layer(model, layer, **inputs) for layer in (0, 1, 2, 3, -1)]

    def patch(layer: Any) -> None:
        forward = layer.forward

        def overwrite_first(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            hidden_states = hidden_states.clone()
            for row in range(2):
                hidden_states[row, place[row]] = hidden_states[row, last[row]]
            return forward(hidden_states, *args, **kwargs)

        layer.forward = overwrite_first

    for layer in find_layers(model)[1:3]:
        patch(layer)
    patched = [run_to_layer(model, layer, **inputs) for layer in (0, 1, 2, 3, -1)]
    plain = run_to_layer(build_tiny_decoder(family, attention=attention), 3, **inputs)
    assert all(a[:, -1].equal(b[:, -1]) for a, b in zip(hooked, patched, strict=True))
    assert not hooked[3][:, -1].equal(plain[:, -1])


@pytest.mark.parametrize("family", TINY_DECODERS)
def test_3_the_sentence_sees_the_last_token_only_by_token_prepending(family):
    model = build_tiny_decoder(family)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 9, 11]])  # the placeholder is the third
    place, last = torch.tensor([2]), torch.tensor([5])

    def compare(layers: range) -> Tensor:
        with before_layers(model, prepend(place, last, layers)):
            states = [
                run_to_layer(model, 3, input_ids=row[None], attention_mask=torch.ones(1, 6)) for row in ids
            ]
        return (states[0] - states[1]).abs().amax(dim=(0, 2))

    without, with_copies = compare(range(0)), compare(range(1, 3))
    assert without[:5].tolist() == [0.0] * 5
    assert with_copies[:2].tolist() == [0.0] * 2  # before the placeholder
    assert with_copies[3:5].min() > 1e-4


@pytest.mark.parametrize("prompt", ["prompteol", "metaeol"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "opt", "bloom", "falcon", "gemma3"])
def test_4_padding_on_either_side_or_none_changes_nothing(make_embedder, family, prompt):
    options: dict[str, Any] = {"prompt": prompt, "start": 1, "stop": 3, "output_layer": 3}
    left = make_embedder(family, **options)
    right = make_embedder(family, tokenizer={"padding_side": "right"}, **options)
    expected = torch.cat([left.encode([text], convert_to_tensor=True) for text in TEXTS])
    for model in (left, right):
        features = model.preprocess(TEXTS)
        assert (features["attention_mask"][:, 0 if model is left else -1] == 0).any()
        got = model(features)["sentence_embedding"]
        torch.testing.assert_close(got, expected, atol=2e-6 * expected.abs().max().item(), rtol=0)


def test_4_gpt2_needs_positions_that_skip_the_padding():
    model = build_tiny_decoder("gpt2")
    ids, mask = torch.tensor([[0, 0, 5, 6, 7]]), torch.tensor([[0, 0, 1, 1, 1]])
    expected = model(input_ids=ids[:, 2:]).last_hidden_state
    counted = model(input_ids=ids, attention_mask=mask, position_ids=count_positions(mask)).last_hidden_state
    left_alone = model(
        input_ids=ids, attention_mask=mask, position_ids=torch.arange(5)[None]
    ).last_hidden_state
    torch.testing.assert_close(counted[:, 2:], expected)
    assert (left_alone[:, 2:] - expected).abs().max() > 1e-2


@pytest.mark.parametrize("family", TINY_DECODERS)
def test_5_stopping_early_changes_no_number_and_leaves_nothing_behind(family):
    model = build_tiny_decoder(family)
    ids = torch.arange(5, 15)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    before = model(**inputs, output_hidden_states=True)
    for layer in range(3):
        with before_layers(model, prepend(torch.tensor([2]), torch.tensor([9]), range(1, 3))):
            run_to_layer(model, layer, **inputs)
        assert run_to_layer(model, layer, **inputs).equal(before.hidden_states[layer])
    after = model(**inputs, output_hidden_states=True)
    assert all(map(torch.equal, before.hidden_states, after.hidden_states))


def test_6_start_equal_to_stop_leaves_the_placeholder_without_copies(make_embedder):
    model = make_embedder(start=1, stop=1, output_layer=3)
    vanilla = make_embedder(prompt="plain_prompteol", output_layer=3)
    text = PROMPTS["prompteol"][0].replace("*sent 0*", "wood.")
    ids = torch.tensor([model.tokenizer(text)["input_ids"][:-1]])  # without [SEP]
    decoder = model.network.model
    embeddings = decoder.get_input_embeddings().weight
    table = torch.cat([embeddings, model.network.placeholder[None]])
    assert model.tokenizer.convert_tokens_to_ids("<PST>") == len(embeddings)
    states = run_to_layer(decoder, 3, inputs_embeds=table[ids], attention_mask=torch.ones_like(ids))
    got = model.encode("wood", convert_to_tensor=True)
    torch.testing.assert_close(got, states[0, -1])
    assert (got - vanilla.encode("wood", convert_to_tensor=True)).abs().max() > 1e-2


def test_7_output_layers_are_those_of_the_hidden_states(make_embedder):
    last, second, normed = (
        make_embedder(start=1, stop=3, output_layer=layer).encode(TEXTS, convert_to_tensor=True)
        for layer in (3, -2, -1)
    )
    model = make_embedder(start=1, stop=3, output_layer=2)
    assert second.equal(model.encode(TEXTS, convert_to_tensor=True))
    torch.testing.assert_close(model.network.model.norm(last), normed)


def test_8_metaeol_is_the_mean_over_its_prompts_whatever_the_batch(make_embedder):
    whole = make_embedder(prompt="metaeol", start=1, stop=3, output_layer=3)
    single = [
        make_embedder(prompt=prompt, start=1, stop=3, output_layer=3).encode(TEXTS, convert_to_tensor=True)
        for prompt in PROMPTS["metaeol"]
    ]
    assert len(single) == 8
    expected = torch.stack(single).mean(dim=0)
    for order in ([0, 1, 2], [2, 0, 1]):
        for size in (None, 1, 2):
            got = whole.encode([TEXTS[place] for place in order], convert_to_tensor=True, batch_size=size)
            torch.testing.assert_close(got, expected[order], atol=1e-5, rtol=1e-5)


def test_9_the_seed_decides_and_is_saved(make_embedder, tmp_path):
    import fletching

    first, same, other = (
        make_embedder(seed=seed, start=1, stop=3).encode(TEXTS).tolist() for seed in (3407, None, 5)
    )
    assert first == same != other
    make_embedder(seed=5, start=1, stop=3).save(str(tmp_path))
    assert fletching.load(tmp_path, device="cpu").encode(TEXTS).tolist() == other


def test_the_last_token_is_found_from_the_mask():
    assert find_last(torch.tensor([[0, 1, 1], [1, 1, 0], [1, 1, 1]])).tolist() == [2, 1, 2]
