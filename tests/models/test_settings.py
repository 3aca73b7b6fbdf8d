from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from fletching.errors import ArgumentError
from fletching.models.settings import (
    bad_field,
    check_flag,
    check_model_kwargs,
    check_model_name,
    check_pickled,
    freeze_settings,
    is_overridden,
    is_secret,
    refuse_model_kwargs,
    refuse_other_model,
    refuse_unknown,
    write_settings,
)

EMPTY: dict[str, Any] = {"__dict__": {}, "__pydantic_private__": None}


@pytest.mark.parametrize(
    "name",
    [
        *("token", "TOKEN", "use_auth_token", "tokens", "access_token", "api_key", "X-Api-Key", "APIKEY"),
        *("client_secret", "Password", "Authorization", "tokenizer_secret", "max_secret_tokens", "hf_tokens"),
        *("session_tokens", "admin_tokens", "login_hf_tokens", "videos_token", "launchpad_token"),
    ],
)
@pytest.mark.parametrize("value", ["x", b"x", 1234, 0.5, ["x"], {"first": "x"}])
def test_names_of_secrets_are_recognised(name: str, value: object) -> None:
    assert is_secret(name, value)


@pytest.mark.parametrize(
    "name",
    [
        *("tokenizer", "tokenizer_kwargs", "tokeniser_name", "max_tokens", "max_tokens_per_batch"),
        *(
            "max_new_tokens",
            "num_tokens",
            "n_tokens",
            "tokens_per_batch",
            "pad_token",
            "eos_token_id",
            "dtype",
        ),
    ],
)
def test_settings_of_tokenizers_are_no_secrets(name: str) -> None:
    assert not is_secret(name, "x")


@pytest.mark.parametrize("value", [True, False, None])
def test_a_flag_is_no_secret(value: object) -> None:
    """``token=True`` means: the one that is stored on this machine."""
    assert not is_secret("token", value)
    assert write_settings({"token": value}) == {"token": value}


def test_secrets_are_left_out_at_any_depth() -> None:
    given = {
        "dtype": "float16",
        "rest": [{"token": "x", "device": "cpu"}, ({"api_key": 1},)],
        "tokens": ["x"],
    }
    assert write_settings(given) == {"dtype": "float16", "rest": [{"device": "cpu"}, [{}]]}


def test_values_of_hidden_types_are_left_out_under_any_name() -> None:
    class Hidden:
        pass

    given = {"name": Hidden(), "list": [Hidden(), 1, (Hidden(), {"deep": Hidden()})]}
    assert write_settings(given, hidden=(Hidden,)) == {"list": [1, [{}]]}


def test_what_json_cannot_hold_is_written_as_text() -> None:
    given = {
        "dtype": torch.bfloat16,
        "device": torch.device("cuda:0"),
        "folder": Path("models"),
        "layers": (1, 2),
    }
    expected = {"dtype": "bfloat16", "device": "cuda:0", "folder": "models", "layers": [1, 2]}
    assert write_settings(given) == expected


def test_frozen_settings_notice_a_change_within() -> None:
    given: dict[str, Any] = {"a": {"b": [1]}}
    frozen = freeze_settings(given)
    assert frozen == given
    given["a"]["b"].append(2)
    assert frozen != given


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: check_model_name("A", "model", " "),
            "A: `model` must be a checkpoint name, a folder or",
        ),
        (lambda: check_model_name("A", "model", 3), "`model` must be a checkpoint name"),
        (lambda: check_model_kwargs("A", "k", [("token", "hf_x")]), "argument names .*; got 'list'"),
        (lambda: check_model_kwargs("A", "k", {3: "hf_x"}), "argument names .*; got 'dict'"),
        (lambda: check_model_kwargs("A", "k", {"kind": 1, "token": "hf_x"}), r"got \['kind', 'token'\]"),
        (lambda: check_flag("A", "flag", 1), "A: `flag` must be True or False; got 1"),
        (
            lambda: refuse_unknown("A", ["top_n"], ["topn"]),
            "'top_n'; got 'topn'. Did you mean 'top_n'",
        ),
        (lambda: refuse_model_kwargs("A", {"token": "hf_x"}), r"empty when `model` is loaded .*\['token'\]"),
        (
            lambda: check_pickled("A", {"__dict__": {}, "__pydantic_private__": None}, "_m"),
            "what can be pickled",
        ),
    ],
)
def test_what_is_wrong_is_refused_without_a_secret(call: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        call()
    assert "hf_x" not in str(caught.value)


def test_what_is_right_passes() -> None:
    options = {"device": "cpu"}
    assert check_model_name("A", "model", Path("folder")) == "folder"
    assert check_model_kwargs("A", "k", options) == options
    assert check_model_kwargs("A", "k", options) is not options
    assert check_model_kwargs("A", "k", None) == {}
    assert check_flag("A", "flag", False) is False
    refuse_unknown("A", ["top_n"], ["top_n", "model"])
    refuse_model_kwargs("A", {})
    check_pickled("A", {"__dict__": {"model_kwargs": {}}, "__pydantic_private__": {"_m": None}}, "_m")


def test_a_wrong_field_shows_the_type_only() -> None:
    problem = {"loc": ("boost",), "type": "float_parsing", "msg": "Input should be a number", "input": "hf_x"}
    shown = "A: `boost` must be as A declares it (Input should be a number); got 'str'."
    assert str(bad_field("A", problem)) == shown
    assert "got 'nothing'" in str(bad_field("A", {**problem, "type": "missing"}))


def test_another_name_for_a_loaded_model_is_refused() -> None:
    assert "left as it is" in str(refuse_other_model("A", "model", "b"))


def test_a_wrapped_method_is_not_overridden() -> None:
    class Ours:
        def call(self) -> int:
            return 1

    class Wrapped(Ours):
        call = functools.wraps(Ours.call)(lambda self: Ours.call(self))  # type: ignore[assignment]

    class Own(Ours):
        def call(self) -> int:
            return 2

    assert not is_overridden(Wrapped, Ours, "call")
    assert is_overridden(Own, Ours, "call")
