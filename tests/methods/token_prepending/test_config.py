from __future__ import annotations

import pytest

from fletching.errors import ArgumentError
from fletching.methods.token_prepending.config import (
    PROMPTS,
    PUBLISHED,
    ModelShape,
    TokenPrependingConfig,
    choose_settings,
    read_prompt,
)

UNKNOWN = ModelShape("qwen3", 28, 1024, 151936)
TEMPLATE = 'Say : <PST> "*sent 0*" briefly:"'


def test_prompts_are_the_reference_s():
    assert PROMPTS["prompteol"] == ('This sentence : <PST> "*sent 0*" means in one word:"',)
    assert PROMPTS["cot"] == (
        'After thinking step by step , this sentence : <PST> "*sent 0*" means in one word:"',
    )
    assert PROMPTS["ke"][0].endswith(
        'With this in mind , this sentence : <PST> "*sent 0*" means in one word:"'
    )
    assert [prompt.rpartition('*sent 0*" ')[2] for prompt in PROMPTS["metaeol"]] == [
        'should be classified under one general category in one word:"',
        'discriminates between opinion and fact in one word:"',
        'reflects the sentiment in one word:"',
        'conveys the emotion in one word:"',
        'means in one word:"',
        'means in one word:"',
        'encapsulates the key fact in one word:"',
        'highlights the primary entity or relation in one word:"',
    ]


@pytest.mark.parametrize("name", ["prompteol", "cot", "ke", "metaeol"])
def test_a_plain_prompt_only_lacks_the_placeholder(name):
    assert [prompt.replace(': "', ': <PST> "') for prompt in PROMPTS[f"plain_{name}"]] == [*PROMPTS[name]]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("meta-llama/Llama-2-7b-hf", ("prompteol", 1, 7, 27)),
        ("meta-llama/Llama-2-13b-hf", ("cot", 1, 7, -2)),
        ("meta-llama/Meta-Llama-3-8B", ("cot", 1, 3, -2)),
        ("Qwen/Qwen2-7B", ("cot", 1, 6, -2)),
        ("google/gemma-2-9b", ("cot", 1, 6, -2)),
    ],
)
def test_the_paper_s_models_get_the_published_settings(model, expected):
    row = next(row for row in PUBLISHED if row.model == model)
    prompt, start, stop, output_layer = expected
    assert choose_settings(row.shape) == {
        "prompt": PROMPTS[prompt],
        "start": start,
        "stop": stop,
        "output_layer": output_layer,
        "source": f"reference code for {model}",
    }


@pytest.mark.parametrize(("layers", "stop"), [(32, 7), (28, 6), (16, 4), (4, 2), (2, 2)])
def test_other_models_get_our_rule_of_thumb(layers, stop):
    """stop = max(2, round(7 L / 32)): 7 * 28 / 32 = 6.125, 7 * 16 / 32 = 3.5 (to even), 7 * 4 / 32 < 1."""
    chosen = choose_settings(ModelShape("qwen3", layers, 1024, 151936))
    assert (chosen["start"], chosen["stop"], chosen["output_layer"]) == (1, stop, -2)
    assert chosen["prompt"] == PROMPTS["prompteol"]
    assert chosen["source"] == "our rule of thumb"


def test_another_prompt_than_the_published_one_gets_our_rule_of_thumb():
    chosen = choose_settings(PUBLISHED[2].shape, prompt="prompteol")
    assert (chosen["stop"], chosen["source"]) == (7, "our rule of thumb")


def test_a_plain_prompt_gets_the_settings_of_the_baseline():
    chosen = choose_settings(PUBLISHED[0].shape, prompt="plain_prompteol")
    assert (chosen["start"], chosen["stop"], chosen["output_layer"]) == (None, None, -1)
    assert chosen["source"] == "baseline of the paper"


def test_what_is_given_is_kept():
    chosen = choose_settings(UNKNOWN, prompt=TEMPLATE, start=2, stop=9, output_layer=5)
    assert chosen == {"prompt": (TEMPLATE,), "start": 2, "stop": 9, "output_layer": 5, "source": "given"}


def test_a_late_start_moves_the_stop_we_choose():
    assert choose_settings(UNKNOWN, start=10)["stop"] == 11


@pytest.mark.parametrize("name", ["start", "stop"])
def test_copies_need_the_placeholder(name):
    with pytest.raises(ArgumentError, match=f"`{name}` must be left out for a prompt without <PST>; got 2"):
        choose_settings(UNKNOWN, prompt="plain_cot", **{name: 2})


@pytest.mark.parametrize(
    "prompt",
    [
        "promptoel",
        "",
        "no sentence",
        '"*sent 0*" twice "*sent 0*" here',
        '"*sent 0*" after <PST>',
        "<PST> <PST> *sent 0* end",
        "ends with *sent 0*",
        [],
        3,
        [TEMPLATE, 3],
    ],
    ids=repr,
)
def test_what_is_no_prompt_is_refused(prompt):
    with pytest.raises(ArgumentError, match=r"`prompt` must be one of 'prompteol', .*; got"):
        read_prompt(prompt)


def test_prompts_with_and_without_the_placeholder_do_not_mix():
    with pytest.raises(ArgumentError, match="prompts that all have <PST>, or none"):
        read_prompt([TEMPLATE, TEMPLATE.replace("<PST> ", "")])


def test_several_prompts_of_one_s_own_are_taken():
    assert read_prompt([TEMPLATE, f"Now {TEMPLATE}"]) == (TEMPLATE, f"Now {TEMPLATE}")


@pytest.mark.parametrize(
    ("name", "value", "domain"),
    [
        ("start", 0, "an integer from 1 up"),
        ("start", True, "an integer from 1 up"),
        ("stop", 0, r"an integer from `start` \(1\) up"),
        ("stop", 2.0, r"an integer from `start` \(1\) up"),
        ("seed", -1, "an integer from 0 up"),
        ("pst_init", "zeros", "one of 'normal', 'mean'"),
        ("clean_text", 1, "True or False"),
        ("max_sentence_tokens", 0, "a positive integer"),
    ],
)
def test_a_value_outside_its_domain_is_refused(name, value, domain):
    fields = {"prompt": (TEMPLATE,), "start": 1, "stop": 2, "output_layer": -1}
    with pytest.raises(ArgumentError, match=f"TokenPrependingEmbedder: `{name}` must be {domain}"):
        TokenPrependingConfig(**{**fields, name: value})


@pytest.mark.parametrize("output_layer", [0, 4, -4, -5, 1.5, None])
def test_an_output_layer_that_the_model_lacks_is_refused(output_layer):
    settings = TokenPrependingConfig((TEMPLATE,), 1, 2, output_layer)
    with pytest.raises(ArgumentError, match=r"`output_layer` must be 1 to 3, or -1 to -3, .* 3 layers"):
        settings.check_layers(3)


def test_a_start_that_the_model_lacks_is_refused():
    with pytest.raises(ArgumentError, match="`start` must be less than 3, the number of layers; got 3"):
        TokenPrependingConfig((TEMPLATE,), 3, 4, -1).check_layers(3)


def test_the_reference_s_stop_past_the_last_layer_is_taken():
    TokenPrependingConfig((TEMPLATE,), 1, 99, -1).check_layers(3)
