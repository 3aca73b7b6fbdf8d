from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fletching.cli import build_app
from fletching.models import loading, minilm
from fletching.testing import save_tiny_cross_encoder, save_tiny_embedder

SECTIONS = [f"# Part {number}\n\nThe arrow number {number} is of wood.\n" for number in range(30)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "embedder": save_tiny_embedder(folder / "embedder"),
        "mvp-mini": save_tiny_cross_encoder(folder / "reranker"),
    }


@pytest.fixture(autouse=True)
def _tiny_models(models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    load = loading.load
    monkeypatch.setattr(minilm, "find_minilm", lambda: "embedder")
    monkeypatch.setattr(loading, "load", lambda name, **options: load(models[name], **options))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a README, documentation, and files that are neither."""
    files = {
        "README.md": "# Read me\n\nFirst.\n",
        "docs/guide/use.md": "".join(SECTIONS),
        "docs/.hidden/no.md": "Hidden.\n",
        "other.md": "Other.\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), ["demo", *arguments])


def run_json(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_demo_reranks_the_best_twenty(project: Path) -> None:
    (comparison,) = run_json("which arrow?")

    before, after = comparison["before"], comparison["after"]
    assert comparison["question"] == "which arrow?"
    assert [hit["rank"] for hit in before] == [hit["rank"] for hit in after] == [*range(1, 21)]
    assert sorted(hit["text"] for hit in before) == sorted(hit["text"] for hit in after)
    assert [hit["score"] for hit in after] == sorted((hit["score"] for hit in after), reverse=True)


def test_demo_tells_where_a_hit_was_before(project: Path) -> None:
    (comparison,) = run_json("which arrow?")

    for hit in comparison["after"]:
        was = comparison["before"][hit["retrieved_at"] - 1]
        assert (was["source"], was["heading"], was["text"]) == (hit["source"], hit["heading"], hit["text"])


def test_demo_reads_readme_and_docs_only(project: Path) -> None:
    result = run("which arrow?")

    assert "31 passages" in result.stdout


def test_demo_reads_a_folder(project: Path) -> None:
    assert "32 passages" in run("which arrow?", "--folder", ".").stdout


def test_demo_has_questions_of_its_own(project: Path) -> None:
    assert len(run_json()) == 3


def test_demo_shows_both_rankings_side_by_side(project: Path) -> None:
    result = run("which arrow?", "and why?")

    assert result.exit_code == 0
    assert result.stdout.index("which arrow?") < result.stdout.index("and why?")
    assert re.search(r"before: all-MiniLM-L6-v2 .* after: mvp-mini", result.stdout)
    assert "\x1b" not in result.stdout


def test_demo_marks_what_moved(project: Path) -> None:
    (comparison,) = run_json("which arrow?")
    moves = [hit["retrieved_at"] - hit["rank"] for hit in comparison["after"][:5]]

    marks = re.findall("([\u2191\u2193])([0-9]+)", run("which arrow?").stdout)

    assert [int(number) if arrow == "\u2191" else -int(number) for arrow, number in marks] == [
        move for move in moves if move
    ]


def test_demo_works_with_one_passage(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("Only this.")

    (comparison,) = run_json("what?", "--folder", str(tmp_path))

    assert [hit["text"] for hit in comparison["after"]] == ["Only this."]


def test_demo_needs_a_question_for_a_folder(tmp_path: Path) -> None:
    result = run("--folder", str(tmp_path))

    assert result.exit_code == 2
    assert "`QUESTION` must be given with --folder" in result.stderr


def test_demo_refuses_a_folder_without_markdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    result = run()

    assert result.exit_code == 2
    assert "must be a folder with Markdown files" in result.stderr
    assert "pass --folder" in result.stderr


def test_demo_refuses_a_blank_question(project: Path) -> None:
    assert run(" ").exit_code == 2


def test_demo_names_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "bad.md").write_bytes(b"\xff\xfe")

    result = run("what?", "--folder", str(tmp_path))

    assert result.exit_code == 2
    assert "bad.md: the file must be text in UTF-8" in result.stderr
