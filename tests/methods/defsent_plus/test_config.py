"""Settings are refused before anything is computed."""

from __future__ import annotations

import pytest

from fletching.errors import ArgumentError
from fletching.methods.defsent_plus import TEMPLATE, ICAConfig
from fletching.methods.defsent_plus.config import split_template


def test_template_keeps_its_space_at_the_end():
    assert TEMPLATE == 'This sentence : "{sentence}" means {mask} . '


@pytest.mark.parametrize(
    "template",
    [
        "{sentence}",
        "{mask}",
        "{mask} {sentence}",
        "{sentence} {mask} {mask}",
        "{sentence} {sentence} {mask}",
        3,
    ],
)
def test_split_template_refuses_what_has_no_place_for_both(template):
    with pytest.raises(
        ArgumentError, match=r"`template` must be text with one {sentence} and, after it, one"
    ):
        split_template(template)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variance": "units"}, "`variance` must be one of 'arbitrary', 'unit'; got 'units'. Did you mean"),
        ({"scale": 0}, "`scale` must be positive and finite; got 0"),
        ({"scale": True}, "`scale` must be positive and finite; got True"),
        ({"tolerance": float("nan")}, "`tolerance` must be positive and finite; got nan"),
        ({"max_iterations": 0}, "`max_iterations` must be a positive integer; got 0"),
        ({"seed": -1}, "`seed` must be an integer from 0"),
    ],
)
def test_ica_config_refuses_what_is_outside(options, message):
    with pytest.raises(ArgumentError, match=f"ICAConfig: {message}"):
        ICAConfig(**options)
