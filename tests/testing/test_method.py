"""`check_method`: everything a description names is there, or is listed as missing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fletching import Checkpoint, MethodSpec
from fletching.errors import PluginError
from fletching.testing import check_method

GOOD = MethodSpec(
    name="quiver",
    kind="reranker",
    title="Quiver",
    summary="Holds arrows.",
    paper="",
    fidelity="paper",
    entry="fletching.models.reranker:Reranker",
    module_classes=("sentence_transformers.base.modules.Dense",),
)


def test_a_true_description_passes():
    check_method(GOOD)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"entry": "no_such_package:Class"}, "entry 'no_such_package:Class' cannot be imported"),
        ({"entry": "fletching.models.reranker:NoSuchClass"}, "cannot be imported"),
        ({"entry": "fletching.models.embedder:Embedder"}, "must be a Reranker"),
        ({"kind": "embedder"}, "must be an Embedder"),
        ({"recipe": "fletching.models.reranker:Reranker"}, "must be a dataclass"),
        ({"recipe": "fletching.registry:MethodSpec"}, "has no method `run`"),
        (
            {"recognise": "fletching.errors:no_such_thing"},
            "recognise 'fletching.errors:no_such_thing' cannot be",
        ),
        (
            {"recognise": "fletching.registry:KINDS"},
            "recognise 'fletching.registry:KINDS' must be a function",
        ),
        ({"module_classes": ("modules.Head",)}, "must be a path with at least two dots"),
        ({"module_classes": ("no.such.Head",)}, "module class 'no.such:Head' cannot be imported"),
        ({"module_classes": ("fletching.errors.ArgumentError",)}, "must be a torch module"),
        ({"module_classes": ("torch.nn.Linear",)}, "has no method `save`"),
        (
            {"checkpoints": (Checkpoint("mini", "package:fletching/nowhere", "Gone."),)},
            "checkpoint 'mini' is not at 'package:fletching/nowhere'",
        ),
        (
            {"checkpoints": (Checkpoint("mini", "package:no_such_package/mini", "Gone."),)},
            "checkpoint 'mini' is not at",
        ),
    ],
)
def test_a_false_description_is_refused(change, problem):
    with pytest.raises(PluginError, match=r"^Method 'quiver': ") as caught:
        check_method(replace(GOOD, **change))
    assert problem in str(caught.value)


def test_all_problems_are_listed():
    with pytest.raises(PluginError) as caught:
        check_method(replace(GOOD, entry="no_such_package:Class", module_classes=("a.B", "torch.nn.Linear")))
    assert str(caught.value).count(";") == 3


def test_an_undocumented_class_is_a_problem(fake_distribution):
    source = "from fletching import Reranker\nclass Silent(Reranker):\n    pass\n"
    fake_distribution("acme-silent", {"acme_silent": source}, {})
    with pytest.raises(PluginError, match="has no docstring of its own"):
        check_method(replace(GOOD, entry="acme_silent:Silent"))
