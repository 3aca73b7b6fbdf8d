"""`fletching search`: what it prints, what it says on stderr, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fletching.cli import build_app
from fletching.models import loading, minilm, sharing
from fletching.search import update
from fletching.testing import save_tiny_cross_encoder, save_tiny_embedder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "embedder": save_tiny_embedder(folder / "embedder"),
        "other": save_tiny_embedder(folder / "other", seed=1),
        "third": save_tiny_embedder(folder / "third", seed=2),
        "mvp-mini": save_tiny_cross_encoder(folder / "reranker"),
        "strong": save_tiny_cross_encoder(folder / "strong", seed=1),
    }


@pytest.fixture(autouse=True)
def _tiny_models(models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    load = loading.load
    names = {**models, minilm.HUB_ID: models["embedder"]}
    find_kind = loading.find_kind
    monkeypatch.setattr(sharing, "load", lambda name, **options: load(names.get(name, name), **options))
    monkeypatch.setattr(loading, "find_kind", lambda name: find_kind(names.get(name, name)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLETCHING_CACHE", str(tmp_path / "cache"))
    parts = [f"# Part {number}\n\nThe arrow number {number} is of wood.\n" for number in range(12)]
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "use.md").write_text("\n".join(parts))
    (docs / "more.txt").write_text("Feathers of a goose.\n")
    return docs


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(build_app(), ["search", *map(str, arguments)])


def run_json(*arguments: str | Path) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_search_prints_objects(folder: Path) -> None:
    hits = run_json(folder, "which arrow")

    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5]
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    for hit in hits:
        assert hit["text"] == (folder / hit["file"]).read_text()[hit["start"] : hit["end"]]
        assert {"file", "heading", "text", "score", "retrieval_rank", "page", "similarity"} <= hit.keys()
    assert sorted(hit["retrieval_rank"] for hit in hits) != [1, 2, 3, 4, 5]


def test_search_without_reranking_keeps_the_order_of_retrieval(folder: Path) -> None:
    hits = run_json(folder, "which arrow", "--rerank", "none", "--top-k", "3")

    assert [hit["retrieval_rank"] for hit in hits] == [1, 2, 3]


def test_search_shows_before_and_after(folder: Path) -> None:
    result = run(folder, "which arrow")

    assert result.exit_code == 0, result.stderr
    assert "before" in result.stdout
    assert "after mvp-mini" in result.stdout
    assert "use.md > Part" in result.stdout
    assert "2 files, 13 passages; 2 files new or changed, 0 gone; 13 passages embedded" in result.stderr


def test_second_search_has_nothing_to_say(folder: Path) -> None:
    run(folder, "which arrow")

    assert run(folder, "which arrow").stderr == ""


def test_search_compares_two_rerankers(folder: Path) -> None:
    hits = run_json(folder, "which arrow", "--compare", "mvp-mini,strong")

    assert [hit["system"] for hit in hits] == ["mvp-mini"] * 5 + ["strong"] * 5
    assert hits[:5] == [{"system": "mvp-mini", **hit} for hit in run_json(folder, "which arrow")]


def test_search_compares_two_embedders(folder: Path) -> None:
    hits = run_json(folder, "which arrow", "--compare", "none,other")

    assert [hit["retrieval_rank"] for hit in hits] == [1, 2, 3, 4, 5] * 2
    other = run_json(folder, "which arrow", "--embed", "other", "--rerank", "none")
    assert hits[5:] == [{"system": "other", **hit} for hit in other]


def test_search_opens_and_embeds_only_what_it_compares(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    load = sharing.load
    monkeypatch.setattr(sharing, "load", lambda name, **options: opened.append(name) or load(name, **options))
    monkeypatch.setattr(sharing, "_slots", {})
    run(folder, "which arrow", "--compare", "other,third")

    assert opened == ["other", "third"]
    assert len(list((tmp_path / "cache").glob("*/*"))) == 2


@pytest.mark.parametrize("name", ["mvp-mni", "other"])
def test_search_refuses_a_wrong_reranker_before_it_embeds(folder: Path, tmp_path: Path, name: str) -> None:
    assert run(folder, "which arrow", "--rerank", name).exit_code == 2
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("value", ["", "a", "a,b,c", ",b"])
def test_search_compares_exactly_two(folder: Path, value: str) -> None:
    result = run(folder, "which arrow", "--compare", value)

    assert result.exit_code == 2
    assert "`--compare` must be two models or none, as in none,mvp-mini; got" in result.stderr


def test_search_keeps_its_index_where_it_is_told(folder: Path, tmp_path: Path) -> None:
    run(folder, "which arrow", "--cache", tmp_path / "mine")

    assert list((tmp_path / "mine").glob("docs-*/*/state.json"))
    assert not (tmp_path / "cache").exists()


def test_search_says_what_it_skipped(folder: Path) -> None:
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 nothing else")

    result = run(folder, "which arrow")

    assert result.exit_code == 0
    assert "Skipped broken.pdf: " in result.stderr


def test_search_rebuilds_when_asked(folder: Path) -> None:
    run(folder, "which arrow")

    assert "13 passages embedded" in run(folder, "which arrow", "--rebuild").stderr


def test_interrupted_search_says_what_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(update.PassageTable, "index_words", interrupt)
    result = run(folder, "which arrow")

    assert result.exit_code == 130
    assert "What is embedded is kept; the next run goes on from there.\nInterrupted." in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "why"], "Index: `folder` must be an existing folder; got 'nowhere'"),
        (["docs", " "], "fletching search: `QUESTION` must be a query with at least one visible character"),
        (["docs", "why", "--embed", "strong"], "it opens as Reranker, which is no embedder"),
        (
            ["docs", "why", "--rerank", "mvp-mni"],
            "there is no such folder, and no method registers this name",
        ),
    ],
)
def test_search_refuses_in_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(folder.parent)

    result = run(*arguments)

    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
