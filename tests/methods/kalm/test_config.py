"""Prompts to the letter, and the sources' numbers."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from fletching.cli._fields import parse_assignment
from fletching.errors import ArgumentError
from fletching.methods.kalm import (
    INSTRUCTIONS,
    SYMMETRIC,
    KaLMConfig,
    KaLMLossOptions,
    MixingOptions,
    fill_template,
)
from fletching.methods.kalm.config import build_prompts, split_query


def test_the_template_keeps_its_spaces():
    assert fill_template("Do it") == "Instruct: Do it \n Query: "


def test_no_instruction_gives_no_prompt():
    assert fill_template("") == ""


def test_an_instruction_may_hold_braces():
    assert fill_template("Find {x}") == "Instruct: Find {x} \n Query: "


@pytest.mark.parametrize("query", ["where?", "a \n Query: b"])
def test_a_query_is_taken_apart_as_it_was_put_together(query):
    assert split_query(fill_template("Find it") + query) == ("Find it", query)


@pytest.mark.parametrize("query", ["where?", "Instruct: where?"])
def test_a_query_without_a_prompt_is_whole(query):
    assert split_query(query) == ("", query)


def test_prompts_are_named_after_tasks():
    prompts = build_prompts()
    assert prompts["query"] == prompts["retrieval"] == fill_template(INSTRUCTIONS["retrieval"])
    assert prompts["document"] == ""
    assert prompts["sts"] == "Instruct: Retrieve semantically similar text \n Query: "
    assert set(SYMMETRIC) < prompts.keys()


@pytest.mark.parametrize("template", ["Query: ", "{instruction} {instruction}", 3])
def test_a_template_without_one_place_is_refused(template):
    with pytest.raises(ArgumentError, match=r"`template` must be text with one {instruction}"):
        fill_template("x", template=template)


def test_defaults_are_the_sources():
    """Section 3 of the specification: the script of V1, and what is known of V2."""
    config = KaLMConfig()
    assert (config.temperature, config.learning_rate, config.warmup_ratio, config.epochs) == (
        0.01,
        1e-5,
        0.1,
        1,
    )
    assert (config.batch_size, config.negatives, config.max_tokens) == (48, 7, 512)
    assert tuple(config.matryoshka_dims) == (896, 512, 256, 128, 64)
    assert tuple(config.matryoshka_weights) == (1.0, 0.3, 0.2, 0.1, 0.1)
    assert (config.filter_top_k, tuple(config.mining_range)) == (50, (50, 100))
    assert (config.gamma, tuple(config.mixing), config.beta, config.homogeneous_ratio) == (
        0.5,
        ("pair", "list"),
        2.0,
        1.0,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": ()}, "`stages` must be some of pretrain, finetune, soup, distill, in this order"),
        ({"stages": ("finetune", "pretrain")}, "in this order"),
        ({"stages": ("finetune", "soup", "distill")}, "one end, not both"),
        ({"stages": ("pretrain", "soup")}, "with 'finetune' before 'soup'"),
        ({"stages": ("finetuned",)}, "Did you mean 'finetune'"),
        ({"stages": "finetune"}, r"`stages` must be a tuple of names; got 'finetune'"),
        ({"mixing": ("pairs",)}, "`mixing` must be one of 'pair', 'list'; got 'pairs'"),
        ({"matryoshka_dims": (0,) * 5}, "`matryoshka_dims` must be a positive integer; got 0"),
        ({"matryoshka_weights": (0,) * 5}, "`matryoshka_weights` must be positive and finite; got 0"),
        ({"negatives": 1}, "`negatives` must be at least 2 where negatives are mixed; got 1"),
        ({"soup_seeds": 1}, "`soup_seeds` must be at least 2; got 1"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer; got 0"),
        ({"homogeneous_ratio": 1.5}, "`homogeneous_ratio` must be from 0 to 1; got 1.5"),
        ({"temperature": 0}, "`temperature` must be positive and finite; got 0"),
        ({"temperature": "0.01"}, "`temperature` must be positive and finite; got '0.01'"),
        ({"stages": ("distill",), "negatives": 1}, "`negatives` must be at least 2"),
        ({"gamma": -1}, "`gamma` must be zero or positive; got -1"),
        ({"matryoshka_weights": (1.0,)}, "one for each of the 5 dimensions"),
        ({"mining_range": (50, 50)}, "`mining_range` must be two ranks"),
        ({"filter_top_k": 0}, "`filter_top_k` must be a positive integer or None; got 0"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        KaLMConfig(**options)


def test_one_negative_is_enough_where_nothing_is_mixed():
    assert KaLMConfig(negatives=1, mixing=()).negatives == 1


@pytest.mark.parametrize("options", [MixingOptions(), KaLMLossOptions()])
def test_options_are_frozen_and_equal_by_value(options: Any) -> None:
    assert options == type(options)()
    with pytest.raises(FrozenInstanceError):
        options.seed = 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_pairs": 0}, "MixingOptions: `n_pairs` must be a positive integer; got 0"),
        ({"n_lists": 1.5}, "`n_lists` must be a positive integer; got 1.5"),
        ({"visibility": "mine"}, "`visibility` must be one of 'all', 'own'; got 'mine'"),
        ({"list_temperature": 0.0}, "`list_temperature` must be positive and finite; got 0.0"),
    ],
)
def test_bad_mixing_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        MixingOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "max"}, "KaLMLossOptions: `reduction` must be one of 'mean', 'sum'; got 'max'"),
        ({"directions": ("query_to_query",)}, "`directions` must be a list with 'query_to_doc' in it"),
        (
            {"directions": ("query_to_doc", "doc_to_query")},
            "`directions` must be one of .* got 'doc_to_query'",
        ),
        ({"distillation_weight": -1.0}, "`distillation_weight` must be zero or positive; got -1.0"),
        ({"teacher_temperature": -1.0}, "`teacher_temperature` must be positive and finite; got -1.0"),
        ({"student_temperature": 0.0}, "`student_temperature` must be positive and finite; got 0.0"),
        ({"seed": -1}, "`seed` must be None or an integer, zero or positive; got -1"),
        ({"seed": 0.5}, "`seed` must be None or an integer, zero or positive; got 0.5"),
    ],
)
def test_bad_loss_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        KaLMLossOptions(**options)


@pytest.mark.parametrize(
    ("typed", "name", "expected"),
    [
        ("stages=[finetune, soup]", "stages", ("finetune", "soup")),
        ("mining_range=[5, 80]", "mining_range", (5, 80)),
        ("mining_range=null", "mining_range", None),
        ("matryoshka_dims=[64, 32]", "matryoshka_dims", (64, 32)),
        ("matryoshka_weights=[1, 0.3]", "matryoshka_weights", (1.0, 0.3)),
        ("mixing=[]", "mixing", ()),
    ],
)
def test_every_list_can_be_set_on_the_command_line(typed, name, expected):
    assert parse_assignment("train", KaLMConfig, typed) == (name, expected)
