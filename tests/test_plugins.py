from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from fletching import plugins
from fletching.errors import PluginError

if TYPE_CHECKING:
    from tests.conftest import FakeDistribution

GOOD = """
from fletching import MethodSpec, hookimpl

@hookimpl
def fletching_methods():
    return [MethodSpec("{name}", "tool", "Acme", "An example.", "", "paper", "math:sqrt")]
"""


def names() -> list[str]:
    return [plugins.registry().name_of(spec) for spec in plugins.registry()]


def test_built_ins_come_through_the_same_hook() -> None:
    registry = plugins.registry()
    assert {registry.owner_of(spec) for spec in registry} <= {"fletching"}
    assert [plugin.traceback for plugin in registry.broken] == []


def test_registry_is_made_once() -> None:
    assert plugins.registry() is plugins.registry()


def test_third_party_methods_are_found(fake_distribution: FakeDistribution) -> None:
    fake_distribution("acme-rank", {"acme_rank": GOOD.format(name="acme")}, {"rank": "acme_rank"})
    assert "acme" in names()
    assert plugins.registry().owner_of(plugins.registry().get("acme-rank/acme")) == "acme-rank"


def test_name_clash_keeps_the_first_owner(fake_distribution: FakeDistribution) -> None:
    fake_distribution("acme-one", {"acme_one": GOOD.format(name="acme")}, {"x": "acme_one"})
    fake_distribution("acme-two", {"acme_two": GOOD.format(name="acme")}, {"x": "acme_two"})
    assert {"acme", "acme-two/acme"} <= set(names())
    assert [(clash.keeper, clash.loser) for clash in plugins.registry().clashes] == [("acme-one", "acme-two")]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("import no_such_package", "No module named 'no_such_package'"),
        ("raise SystemExit(1)", "SystemExit"),
        ("x = 1", "no `@hookimpl def fletching_methods()`"),
        (GOOD.format(name="acme").replace("fletching_methods", "fletching_method"), "unknown hook"),
        (GOOD.format(name="acme").replace("methods()", "methods(register)"), "not be found in the hookspec"),
        (GOOD.format(name="acme").replace("return [", "return 3, ["), "must return a list of MethodSpec"),
        (GOOD.format(name="Bad Name"), "`name` must be"),
        (GOOD.format(name="acme").replace("]", "] * 2"), "acme-rank offers two methods called 'acme'"),
    ],
)
def test_broken_plugin_is_kept_and_stops_nobody(
    source: str, reason: str, fake_distribution: FakeDistribution
) -> None:
    before = names()
    fake_distribution("acme-good", {"acme_good": GOOD.format(name="acme_good")}, {"good": "acme_good"})
    fake_distribution("acme-rank", {"acme_rank": source}, {"rank": "acme_rank"})
    (broken,) = plugins.registry().broken
    assert broken.name == "acme-rank:rank"
    assert reason in broken.traceback
    assert sorted([*before, "acme_good"]) == sorted(names())


def test_broken_plugin_is_raised_when_asked_for(fake_distribution: FakeDistribution) -> None:
    fake_distribution("acme-rank", {"acme_rank": "1 / 0"}, {"rank": "acme_rank"})
    with pytest.raises(PluginError, match="'acme-rank:rank' is broken: ZeroDivisionError") as caught:
        plugins.registry().get("acme-rank")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("variable", "value", "found"),
    [
        ("FLETCHING_PLUGINS", "", False),
        ("FLETCHING_PLUGINS", "other", False),
        ("FLETCHING_PLUGINS", "other, acme_rank", True),
        ("FLETCHING_PLUGINS", "rank", True),
        ("FLETCHING_PLUGINS", "acme-rank:rank", True),
        ("FLETCHING_PLUGINS_OFF", "Acme.Rank", False),
        ("FLETCHING_PLUGINS_OFF", "rank", False),
        ("FLETCHING_PLUGINS_OFF", "other", True),
    ],
)
def test_environment_chooses_plugins(
    variable: str,
    value: str,
    found: bool,
    fake_distribution: FakeDistribution,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_distribution("acme-rank", {"acme_rank": GOOD.format(name="acme")}, {"rank": "acme_rank"})
    monkeypatch.setenv(variable, value)
    plugins.reload()
    assert ("acme" in names()) is found


def test_every_plugin_is_found_without_restriction(
    fake_distribution: FakeDistribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_distribution("acme-rank", {"acme_rank": GOOD.format(name="acme")}, {"rank": "acme_rank"})
    monkeypatch.delenv("FLETCHING_PLUGINS")
    plugins.reload()
    assert "acme" in names()


@pytest.mark.parametrize(
    ("file", "content", "broken"),
    [
        ("entry_points.txt", b"[console_scripts]\nno assignment\n", ["acme-rank"]),
        ("entry_points.txt", b"\xff\xfe[fletching]\n", ["acme-rank"]),
        ("METADATA", b"Metadata-Version: 2.1\n", []),
    ],
    ids=["no assignment", "no text", "no name"],
)
def test_broken_metadata_of_one_distribution_stops_nobody(
    file: str,
    content: bytes,
    broken: list[str],
    fake_distribution: FakeDistribution,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_distribution("acme-good", {"acme_good": GOOD.format(name="acme_good")}, {"good": "acme_good"})
    site = fake_distribution("acme-rank", {"acme_rank": GOOD.format(name="acme")}, {"rank": "acme_rank"})
    (site / "acme_rank-1.0.dist-info" / file).write_bytes(content)
    monkeypatch.delenv("FLETCHING_PLUGINS")
    registry = plugins.reload()
    assert "acme_good" in names()
    assert [plugin.name for plugin in registry.broken] == broken


def test_threads_share_one_registry() -> None:
    plugins._build_registry.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: plugins.registry(), range(4)))
    assert len({id(registry) for registry in found}) == 1


def test_names_that_nobody_goes_by_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLETCHING_PLUGINS_OFF", "mvp, Two-D-Matryoshka , mvpp,")
    assert plugins.find_unknown_names("FLETCHING_PLUGINS_OFF") == ["mvpp"]
    monkeypatch.setenv("FLETCHING_PLUGINS", "mvp")  # only third parties are chosen so
    assert plugins.find_unknown_names("FLETCHING_PLUGINS") == ["mvp"]


def test_built_ins_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLETCHING_PLUGINS_OFF", ",".join(sorted(names())))
    try:
        assert len(plugins.reload()) == 0
    finally:
        plugins._build_registry.cache_clear()
