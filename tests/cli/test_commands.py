from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner, Result

from fletching import __version__, plugins
from fletching.cli import build_app, limit
from fletching.cli._output import print_json

if TYPE_CHECKING:
    from tests.conftest import FakeDistribution

ACME = """
from fletching import Checkpoint, MethodSpec, hookimpl

@hookimpl
def fletching_methods():
    mini = Checkpoint("acme-mini", "acme/mini", "Small.", (("n_views", 2),))
    return [
        MethodSpec(
            "acme", "reranker", "Acme", "Ranks by charm.", "2400.00000", "paper", "math:sqrt",
            checkpoints=(mini,), requires=("pluggy",),
        )
    ]
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), arguments, prog_name="fletching")


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


@pytest.fixture
def acme(fake_distribution: FakeDistribution) -> FakeDistribution:
    fake_distribution("acme-rank", {"acme_rank": ACME}, {"rank": "acme_rank"})
    return fake_distribution


def test_list_shows_a_third_party_method(acme: FakeDistribution) -> None:
    result = run("list")
    assert result.exit_code == 0
    assert "Ranks by charm." in result.stdout


def test_list_prints_json(acme: FakeDistribution) -> None:
    assert {
        "name": "acme",
        "kind": "reranker",
        "fidelity": "paper",
        "owner": "acme-rank",
        "summary": "Ranks by charm.",
    } in run_json("list")


def test_list_mentions_broken_plugins_beside_the_result(fake_distribution: FakeDistribution) -> None:
    fake_distribution("acme-rank", {"acme_rank": "1 / 0"}, {"rank": "acme_rank"})
    result = run("list", "--json")
    assert result.exit_code == 0
    assert "Broken plug-ins: acme-rank:rank. Run `fletching doctor`" in result.stderr
    json.loads(result.stdout)


def test_what_a_plugin_prints_is_not_in_the_result(fake_distribution: FakeDistribution) -> None:
    source = "print('hello')\n" + ACME
    fake_distribution("acme-rank", {"acme_rank": source}, {"rank": "acme_rank"})
    plugins._build_registry.cache_clear()
    sys.modules.pop("acme_rank")
    result = run("list", "--json")
    assert "hello" in result.stderr
    assert "acme" in [row["name"] for row in json.loads(result.stdout)]


def test_list_works_without_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fletching.plugins._find_built_ins", lambda: iter(()))
    plugins._build_registry.cache_clear()
    assert run("list").stdout == "No methods are installed.\n"
    plugins._build_registry.cache_clear()


@pytest.mark.parametrize("name", ["acme", "acme-rank/acme", "acme-mini"])
def test_info_finds_methods_and_checkpoints(name: str, acme: FakeDistribution) -> None:
    result = run("info", name)
    assert result.exit_code == 0
    assert "owner           acme-rank" in result.stdout
    assert "acme-mini (acme/mini): Small." in result.stdout


def test_info_prints_json(acme: FakeDistribution) -> None:
    facts = run_json("info", "acme")
    assert facts["owner"] == "acme-rank"
    assert facts["missing"] == []
    assert facts["checkpoints"][0]["options"] == [["n_views", 2]]


def test_info_suggests_a_name(acme: FakeDistribution) -> None:
    result = run("info", "acme-mni")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "No method is called 'acme-mni'. Did you mean 'acme-mini'?\n"


def test_doctor_reports_what_works(acme: FakeDistribution, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLETCHING_PLUGINS_OFF", ",".join(built_in_folders()))
    plugins.reload()
    result = run("doctor")
    assert result.exit_code == 0
    assert f"fletching {__version__}" in result.stdout
    assert "acme works" in result.stdout
    assert "FLETCHING_PLUGINS='acme-rank' is set" in result.stdout
    assert "extra train: " in result.stdout


def built_in_folders() -> list[str]:
    return [found.aliases[0] for found in plugins._find_built_ins()]


def test_doctor_prints_json(acme: FakeDistribution, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLETCHING_PLUGINS_OFF", ",".join(built_in_folders()))
    plugins.reload()
    report = run_json("doctor")
    assert report["working"] == ["acme"]
    assert report["broken"] == {}
    assert report["versions"]["fletching"] == __version__


@pytest.mark.parametrize("as_json", [[], ["--json"]])
@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import no_such_package", "No module named 'no_such_package'"),
        (ACME.replace("math:sqrt", "math:nothing"), "module 'math' has no attribute 'nothing'"),
    ],
)
def test_doctor_fails_with_the_traceback(
    source: str,
    cause: str,
    as_json: list[str],
    fake_distribution: FakeDistribution,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLETCHING_PLUGINS_OFF", ",".join(built_in_folders()))
    fake_distribution("acme-rank", {"acme_rank": source}, {"rank": "acme_rank"})
    result = run("doctor", *as_json)
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stdout
    assert cause in result.stdout


def test_doctor_names_missing_packages(
    fake_distribution: FakeDistribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLETCHING_PLUGINS_OFF", ",".join(built_in_folders()))
    source = ACME.replace('("pluggy",)', '("no-such-package",)')
    fake_distribution("acme-rank", {"acme_rank": source}, {"rank": "acme_rank"})
    result = run("doctor")
    assert result.exit_code == 0
    assert "acme needs no-such-package" in result.stdout


def test_doctor_reports_clashes(acme: FakeDistribution, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLETCHING_PLUGINS_OFF", ",".join(built_in_folders()))
    acme("acme-two", {"acme_two": ACME}, {"rank": "acme_two"})
    result = run("doctor")
    assert result.exit_code == 0
    assert "'acme' is offered by acme-rank and by acme-two" in result.stdout


def test_doctor_names_what_a_variable_does_not_reach(
    acme: FakeDistribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLETCHING_PLUGINS_OFF", ",".join([*built_in_folders(), "mvpp"]))
    plugins.reload()
    assert "FLETCHING_PLUGINS_OFF names what is not installed: mvpp" in run("doctor").stdout


def test_doctor_finds_every_built_in_working() -> None:
    report = run_json("doctor")
    assert report["broken"] == {}
    assert sorted([*report["working"], *report["incomplete"]]) == sorted(
        plugins.registry().name_of(spec) for spec in plugins.registry()
    )


def test_interrupt_exits_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fletching.cli.list.registry", interrupt)
    result = run("list")
    assert result.exit_code == 130
    assert (result.stdout, result.stderr) == ("", "Interrupted.\n")


def test_a_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise OSError(28, "No space left on device", "results.json")

    monkeypatch.setattr("fletching.cli.list.print_json", fail)
    result = run("list", "--json")
    assert result.exit_code == 2
    assert result.stderr == "fletching list: [Errno 28] No space left on device: 'results.json'.\n"


def test_json_knows_no_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"scores": [1.5, float("nan")], "bound": (float("inf"),), "path": Path("a")})
    assert json.loads(capsys.readouterr().out) == {"scores": [1.5, None], "bound": [None], "path": "a"}


def test_version_is_shown() -> None:
    assert run("--version").stdout == f"fletching {__version__}\n"


def test_unknown_command_is_a_usage_error() -> None:
    result = run("lst")
    assert result.exit_code == 2
    assert "No such command 'lst'" in result.stderr


def find_commands() -> list[str]:
    """Names of all commands, those of a group behind its name."""
    app = build_app()
    grouped = [
        f"{group.typer_instance.info.name} {info.name}"
        for group in app.registered_groups
        if group.typer_instance
        for info in group.typer_instance.registered_commands
    ]
    return sorted([*(str(info.name) for info in app.registered_commands), *grouped])


@pytest.mark.parametrize("path", find_commands())
def test_every_command_and_option_has_help(path: str) -> None:
    import typer.main

    command: Any = typer.main.get_command(build_app())
    for name in path.split():
        command = command.commands[name]
        assert command.help
    assert [parameter.name for parameter in command.params if not parameter.help] == []


def test_a_module_with_several_commands_is_a_group() -> None:
    shown = run("limit", "--help")
    assert shown.exit_code == 0
    assert "fletching limit [OPTIONS] COMMAND [ARGS]..." in shown.stdout
    for name, function in limit.commands.items():
        assert name in shown.stdout
        assert (function.__doc__ or "").split(".")[0] in shown.stdout
    assert limit.summary in run("--help").stdout


def test_an_unknown_command_of_a_group_is_a_usage_error() -> None:
    result = run("limit", "dimensions")
    assert result.exit_code == 2
    assert "No such command 'dimensions'" in result.stderr
