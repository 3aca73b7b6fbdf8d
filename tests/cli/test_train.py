from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner, Result

from fletching.cli import build_app

if TYPE_CHECKING:
    from tests.conftest import FakeDistribution

PLUGIN = """
from fletching import MethodSpec, hookimpl

@hookimpl
def fletching_methods():
    return [
        MethodSpec("acme", "tool", "Acme", "Learns", "", "paper", "math:pi", recipe="acme_recipe:AcmeRecipe"),
        MethodSpec("plain", "tool", "Plain", "Cannot learn.", "", "paper", "math:sqrt"),
    ]
"""
RECIPE = """
from __future__ import annotations
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

@dataclass(frozen=True)
class AcmeRecipe:
    base: str
    learning_rate: float = 1e-4
    epochs: int = 1
    bf16: bool = False
    limit: int | None = 9
    cache: Path | None = None
    schedule: Literal["linear", "cosine"] = "linear"
    train_data: tuple[str, ...] = ()
    rates: dict[str, float] | None = None

    @classmethod
    def smoke(cls):
        return cls(base="tiny", epochs=2)

    def run(self, output_dir, *, resume=False):
        output = Path(output_dir)
        output.mkdir(exist_ok=True)
        record = {"recipe": asdict(self), "resume": resume}
        (output / "record.json").write_text(json.dumps(record, default=str))
        if self.base != "lists only":
            (output / "config.json").write_text("{}")
        return {"before": {"ndcg": 0.25}, "after": {"ndcg": 0.75, "new": 1.0} if self.epochs else {}}
"""


@pytest.fixture(autouse=True)
def _acme(fake_distribution: FakeDistribution) -> Iterator[None]:
    level = logging.getLogger("fletching").level
    fake_distribution("acme-rank", {"acme_rank": PLUGIN, "acme_recipe": RECIPE}, {"rank": "acme_rank"})
    yield
    logging.getLogger("fletching").setLevel(level)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


def run(output: Path, *arguments: str, name: str = "acme") -> Result:
    return CliRunner().invoke(build_app(), ["train", name, "--output", str(output), *arguments])


def read_field(output: Path, field: str) -> object:
    return json.loads((output / "record.json").read_text())["recipe"][field]


def test_train_prints_results_before_and_after(output: Path) -> None:
    result = run(output, "--set", "base=b")

    assert result.exit_code == 0, result.stderr
    assert result.stdout.split()[:8] == [
        *("metric", "before", "after", "change"),
        "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * len(result.stdout.split()[4]),
        *("ndcg", "0.2500", "0.7500"),
    ]
    assert "+0.5000" in result.stdout
    assert f"fletching.load({str(output)!r})" in result.stderr


def test_train_does_not_offer_to_open_what_is_no_model(output: Path) -> None:
    result = run(output, "--set", "base=lists only")

    assert result.exit_code == 0, result.stderr
    assert f"Saved to {output}." in result.stderr
    assert "fletching.load" not in result.stderr


def test_train_says_when_nothing_was_evaluated(output: Path) -> None:
    result = run(output, "--set", "base=b", "--set", "epochs=0")

    assert not result.stdout
    assert "Nothing was evaluated" in result.stderr


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("learning_rate=1e-5", 1e-5),
        ("learning_rate=1", 1.0),
        ("epochs=3", 3),
        ("bf16=true", True),
        ("limit=null", None),
        ("limit=4", 4),
        ("base=2024", "2024"),
        ("base=on", "on"),
        ("base=a=b", "a=b"),
        ("base=", ""),
        ("base={not: [yaml", "{not: [yaml"),
        ("cache=/tmp/x", str(Path("/tmp/x"))),
        ("schedule=cosine", "cosine"),
        ("train_data=[a.jsonl, b.jsonl]", ["a.jsonl", "b.jsonl"]),
        ("rates={head: 1e-3}", {"head": 1e-3}),
    ],
)
def test_train_sets_one_field(output: Path, setting: str, value: object) -> None:
    result = run(output, "--set", "base=b", "--set", setting)

    assert result.exit_code == 0, result.stderr
    assert read_field(output, setting.partition("=")[0]) == value


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epoch=1", "AcmeRecipe has no field 'epoch'. Did you mean 'epochs'?"),
        ("zzz=1", "AcmeRecipe has no field 'zzz'. Its fields are base, learning_rate,"),
        ("epochs", "`--set` must be NAME=VALUE; got 'epochs'."),
        ("epochs=1.5", "`epochs` must be of type int; got 1.5."),
        ("epochs=true", "`epochs` must be of type int; got True."),
        ("learning_rate=fast", "`learning_rate` must be of type float; got 'fast'."),
        ("limit=x", "`limit` must be of type int | None; got 'x'."),
        ("schedule=step", "`schedule` must be of type Literal['linear', 'cosine']; got 'step'."),
        ("train_data=a.jsonl", "`train_data` must be of type tuple[str, ...]; got 'a.jsonl'."),
        ("rates={head: x}", "`rates` must be of type dict[str, float] | None; got {'head': 'x'}."),
    ],
)
def test_train_refuses_a_bad_setting(output: Path, setting: str, message: str) -> None:
    result = run(output, "--set", "base=b", "--set", setting)

    assert result.exit_code == 2
    assert f"fletching train acme: {message}" in result.stderr
    assert not output.exists()


def test_train_reads_a_file_that_settings_and_data_override(output: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("base: b\nlearning_rate: 1e-3\nepochs: 5\ntrain_data: [x]\n")

    run(output, "--config", str(config), "--set", "epochs=6", "--data", "y", "--data", "z")

    fields = ("base", "learning_rate", "epochs", "train_data")
    assert [read_field(output, field) for field in fields] == ["b", 1e-3, 6, ["y", "z"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epochs: [1\nbase: b", "config.yaml:2: the record must be valid YAML"),
        (b"- a", "config.yaml: the file must be a mapping of fields to values; got ['a']."),
        (b"epoch: 1", "config.yaml: AcmeRecipe has no field 'epoch'. Did you mean 'epochs'?"),
        (b"epochs: many", "config.yaml: `epochs` must be of type int; got 'many'."),
        (b"\xff", "config.yaml: the file must be text in UTF-8"),
    ],
)
def test_train_refuses_a_bad_file(output: Path, tmp_path: Path, content: bytes, message: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_bytes(content)

    result = run(output, "--config", str(config))

    assert result.exit_code == 2
    assert message in result.stderr


def test_train_takes_an_empty_file(output: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("# nothing yet\n")

    assert run(output, "--config", str(config), "--set", "base=b").exit_code == 0


def test_train_names_a_missing_file_and_a_missing_field(output: Path, tmp_path: Path) -> None:
    assert "the file must be readable" in run(output, "--config", str(tmp_path / "no.yaml")).stderr
    assert "`base` must be given; got None. Use --set base=..., or --config." in run(output).stderr


def test_train_smoke_starts_from_the_recipes_own_values(output: Path) -> None:
    run(output, "--smoke", "--set", "limit=3")

    assert [read_field(output, field) for field in ("base", "epochs", "limit")] == ["tiny", 2, 3]


def test_train_does_not_touch_a_folder_in_use_unless_it_resumes(output: Path) -> None:
    output.mkdir()
    (output / "checkpoint").touch()

    refused = run(output, "--smoke")

    assert refused.exit_code == 2
    assert "`--output` must be a new or an empty folder" in refused.stderr
    assert run(output, "--smoke", "--resume").exit_code == 0
    assert json.loads((output / "record.json").read_text())["resume"] is True


def test_train_refuses_methods_without_a_recipe_and_unknown_ones(output: Path) -> None:
    assert "must be a method with a recipe; got 'plain'" in run(output, name="plain").stderr
    assert "No method is called 'acmee'. Did you mean 'acme'?" in run(output, name="acmee").stderr


def test_of_several_processes_one_reports_and_minds_the_folder(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one may come when the first has begun to write."""
    output.mkdir()
    (output / "base").touch()
    monkeypatch.setenv("RANK", "1")
    result = run(output, "--smoke")
    assert result.exit_code == 0
    assert read_field(output, "base") == "tiny"
    assert result.output == ""
