from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import fletching
from fletching.cli import audit, build_app
from fletching.evaluation.audit.reranker_probes import RERANKER_PROBES
from fletching.testing import save_tiny_cross_encoder

LISTS = [
    {"query": "what is a bow", "documents": ["a bow of wood", "an arrow", "goose"], "labels": [1, 0, 0]},
    {"query": "what is an arrow", "documents": ["the wind", "a shaft on a string"], "labels": [0, 1]},
]


class InputOrder:
    def rank(self, query: str, documents: list[str]) -> list[dict[str, Any]]:
        return [{"corpus_id": place, "score": -float(place)} for place in range(len(documents))]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "lists.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in LISTS), encoding="utf-8")
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = Path(save_tiny_cross_encoder(tmp_path / "model"))
    (folder / "README.md").write_text("---\nlanguage: en\n---\n# Mine\n", encoding="utf-8")
    return folder


@pytest.fixture
def _faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "open_model", lambda *args, **kwargs: InputOrder())


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(build_app(), ["audit", *map(str, arguments)])


def test_audit_prints_probes_and_slices_and_writes_the_card(model: Path, data: Path) -> None:
    result = run(model, "--data", data)

    assert result.exit_code == 0, result.stderr
    for words in (
        "repeated calls",
        "position bias",
        "threads",
        "nDCG@10",
        "lists with 5 passages",
        "No fault",
    ):
        assert words in result.stdout
    assert "The report is in" in result.stderr
    card = (model / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlanguage: en\n---\n# Mine\n\n<!-- fletching audit: begin -->\n## Audit\n")


def test_audit_prints_json_that_names_the_model(model: Path, data: Path) -> None:
    result = run(model, "--data", data, "--json", "--no-card", "--dtype", "float32", "--device", "cpu")

    report = json.loads(result.stdout)
    assert (report["model"], report["data_name"]) == (str(model), "lists")
    assert {probe["name"] for probe in report["probes"]} == {"form", "truncation", *RERANKER_PROBES}
    assert {probe["verdict"] for probe in report["probes"]} <= {"ok", "note"}


def test_audit_writes_no_card_when_told_so(model: Path, data: Path) -> None:
    before = (model / "README.md").read_bytes()

    assert run(model, "--data", data, "--no-card").exit_code == 0
    assert (model / "README.md").read_bytes() == before


@pytest.mark.usefixtures("_faulty")
def test_audit_exits_with_1_for_a_fault_and_writes_it_down(tmp_path: Path) -> None:
    result = run("some/model", "--card", tmp_path)

    assert result.exit_code == 1
    assert "keeps the order of its input" in " ".join(result.stdout.split())
    assert "| fault | input order |" in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("_faulty")
def test_audit_never_writes_into_the_package(data: Path) -> None:
    folder = Path(fletching.__file__).parent / "methods" / "mvp" / "checkpoints" / "mvp-mini"
    before = (folder / "README.md").read_bytes()

    assert run(folder, "--data", data).exit_code == 1
    refused = run("mvp-mini", "--data", data, "--card", folder)
    assert refused.exit_code == 2
    assert "`--card` must be a folder outside of the installed package" in refused.stderr
    assert (folder / "README.md").read_bytes() == before


@pytest.mark.usefixtures("_faulty")
def test_audit_of_a_name_writes_no_card(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("mvp-mini", "--data", data)

    assert "The report is in" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["lists.jsonl"]


@pytest.mark.usefixtures("_faulty")
def test_audit_draws_with_the_seed(data: Path) -> None:
    def draw(seed: int) -> Any:
        return json.loads(run("m", "--data", data, "--json", "--max-lists", "1", "--seed", str(seed)).stdout)

    digests = {draw(seed)["data_digest"] for seed in range(6)}
    assert len(digests) == 2  # each of the two lists was drawn
    assert draw(3) == draw(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--split", "test"), "`--split` must be left out without --data; got 'test'."),
        (("--candidates", "run.tsv"), "`--candidates` must be left out without --data"),
        (("--card", ".", "--no-card"), "`--card` must be left out together with --no-card"),
        (("--card", "no/such/folder"), "`--card` must be a folder outside"),
    ],
    ids=["split", "candidates", "both", "missing"],
)
def test_audit_refuses_options_that_do_not_go_together(options: tuple[str, ...], message: str) -> None:
    result = run("mvp-mini", *options)

    assert result.exit_code == 2
    assert message in result.stderr


def test_audit_refuses_sentence_pairs(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text(
        "sentence1\tsentence2\tscore\na bow\tan arrow\t1.5\na goose\ta feather\t3\n", encoding="utf-8"
    )
    result = run("mvp-mini", "--data", path)

    assert result.exit_code == 2
    assert "`--data` must be queries with passages, not sentence pairs" in result.stderr
