from __future__ import annotations

import pytest
import torch
from torch import nn

from fletching.nn import view_module


class Loud(nn.Sequential):
    def forward(self, inputs):
        return 10 * super().forward(inputs)


@pytest.fixture
def pair():
    """Two layers that add 1 and 2: ``x + 3`` one after the other."""
    layers = [nn.Linear(1, 1), nn.Linear(1, 1)]
    with torch.no_grad():
        for number, layer in enumerate(layers, start=1):
            layer.weight.fill_(1.0)
            layer.bias.fill_(float(number))
    return nn.Sequential(*layers)


def test_view_is_of_the_other_class_and_shares_the_weights(pair):
    """``10 (x + 3)`` for x = 1; a weight that changes, changes in both."""
    view = view_module(pair, Loud)
    assert view(torch.ones(1)).item() == 40
    with torch.no_grad():
        pair[0].bias.fill_(0.0)
    assert view(torch.ones(1)).item() == 30


def test_view_has_other_children_and_the_module_its_own(pair):
    """Without the first layer 2 is added; the module goes on adding 3."""
    view = view_module(pair, nn.Sequential, **{"0": nn.Identity()})
    assert view(torch.ones(1)).item() == 3
    assert pair(torch.ones(1)).item() == 4


def test_what_is_set_on_a_view_is_not_set_on_the_module(pair):
    view = view_module(pair, nn.Sequential)
    view.note = "only here"
    view.add_module("2", nn.Identity())
    assert not hasattr(pair, "note")
    assert len(pair) == 2
