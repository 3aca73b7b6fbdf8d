from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
from typer.testing import CliRunner, Result

from fletching.cli import build_app, rank
from fletching.models.loading import load
from fletching.models.reranker import LONG, SCORES
from fletching.testing import save_tiny_cross_encoder, save_tiny_embedder

DOCUMENTS = ["a feather on an arrow", "the bow and the string", "a goose"]
FLETCHING = (sys.executable, "-m", "fletching")


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_cross_encoder(tmp_path_factory.mktemp("reranker"))


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_embedder(tmp_path_factory.mktemp("embedder"))


def run(*arguments: str | Path, given: str | bytes = "") -> Result:
    return CliRunner().invoke(build_app(), ["rank", "why feathers", *map(str, arguments)], input=given)


def run_json(*arguments: str | Path, given: str = "") -> Any:
    result = run(*arguments, "--json", given=given)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_rank_prints_what_the_model_says(reranker: str) -> None:
    expected = load(reranker).rank("why feathers", DOCUMENTS)

    assert run_json("--model", reranker, given="\n".join(DOCUMENTS)) == [
        {
            "rank": place,
            "score": hit["score"],
            "position": hit["corpus_id"] + 1,
            "id": None,
            "text": DOCUMENTS[hit["corpus_id"]],
        }
        for place, hit in enumerate(expected, start=1)
    ]


def test_rank_uses_an_embedders_similarity(embedder: str) -> None:
    model = load(embedder)
    similarities = model.similarity(model.encode_query("why feathers"), model.encode_document(DOCUMENTS))[0]

    rows = run_json("--model", embedder, given="\n".join(DOCUMENTS))

    assert [row["score"] for row in rows] == sorted(similarities.tolist(), reverse=True)
    assert [DOCUMENTS[row["position"] - 1] for row in rows] == [row["text"] for row in rows]


def test_rank_reads_several_files_and_stdin_in_order(reranker: str, tmp_path: Path) -> None:
    first, last = tmp_path / "first.txt", tmp_path / "last.txt"
    first.write_text("one\n")
    last.write_text("three")

    rows = run_json(first, "-", last, "--model", reranker, given="two\r\n")

    assert {row["position"]: row["text"] for row in rows} == {1: "one", 2: "two", 3: "three"}


@pytest.mark.parametrize("name", ["candidates.jsonl", "candidates.txt"])
def test_rank_reads_json_lines(reranker: str, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(
        '{"id": "a", "title": "Bow", "text": "bends"}\n\n{"id": 7, "text": ""}\n', encoding="utf-8-sig"
    )

    rows = run_json(path, "--model", reranker)

    assert {(row["id"], row["text"]) for row in rows} == {("a", "bends"), (7, "")}


def test_rank_puts_the_title_in_front_of_the_text(reranker: str) -> None:
    record = json.dumps({"title": "The bow", "text": "and the string"})

    assert run_json("--model", reranker, given=record)[0]["score"] == pytest.approx(
        load(reranker).rank("why feathers", ["The bow and the string"])[0]["score"]
    )


def test_rank_keeps_a_line_that_only_looks_like_json(reranker: str) -> None:
    assert run_json("--model", reranker, given='["a"]\n12\n{broken')[0]["rank"] == 1


@pytest.mark.parametrize("given", ["", "\n", " \n\t\n"])
def test_rank_of_nothing_is_empty(reranker: str, embedder: str, given: str) -> None:
    assert run_json("--model", reranker, given=given) == []
    assert run_json("--model", embedder, given=given) == []
    assert "position" in run("--model", reranker, given=given).stdout


def test_rank_counts_blank_lines_on_stderr(reranker: str) -> None:
    result = run("--model", reranker, given="one\n\n  \ntwo\n")

    assert "Skipped 2 blank lines." in result.stderr
    assert "Skipped" not in result.stdout


def test_rank_prints_the_best_only(reranker: str) -> None:
    assert len(run_json("--model", reranker, "--top-k", "2", given="\n".join(DOCUMENTS))) == 2


def test_rank_passes_options_to_the_model(reranker: str) -> None:
    scores = ("--scores", "probability", "--long", "chunk_max", "--dtype", "float32", "--device", "cpu")
    rows = run_json("--model", reranker, *scores, given="\n".join(DOCUMENTS))

    assert all(0 < row["score"] < 1 for row in rows)


@pytest.mark.parametrize(("option", "table"), [("scores", SCORES), ("long", LONG)])
def test_rank_offers_what_the_model_offers(option: str, table: Any) -> None:
    choices = get_args(get_args(get_type_hints(rank.command)[option])[0])

    assert choices == tuple(table)


@pytest.mark.parametrize("option", [("--scores", "logit"), ("--long", "truncate")])
def test_rank_refuses_options_that_an_embedder_lacks(embedder: str, option: tuple[str, str]) -> None:
    result = run("--model", embedder, *option, given="text")

    assert result.exit_code == 2
    assert f"`{option[0]}` must be left out: the model is an embedder" in result.stderr


def test_rank_table_has_no_colour_and_no_control_characters(reranker: str) -> None:
    result = run("--model", reranker, given="a [bold]feather\x1b[31m\x07\nand a bow")

    assert result.exit_code == 0
    assert "[bold]feather" in result.stdout
    assert result.stdout.isprintable() or set(filter(lambda c: not c.isprintable(), result.stdout)) == {"\n"}


def test_rank_table_shortens_and_json_does_not(reranker: str) -> None:
    text = "feather " * 200

    assert "\N{HORIZONTAL ELLIPSIS}" in run("--model", reranker, given=text).stdout
    assert run_json("--model", reranker, given=text)[0]["text"] == text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": 1}', "a.jsonl:2: `text` must be a string; got 1."),
        ("a.jsonl", b'{"title": "x"}', "a.jsonl:1: `text` must be a string; got None."),
        ("a.jsonl", b'\n{"text": "x"', "a.jsonl:2: the record must be a JSON object"),
        ("a.json", b'["x"]', "a.json:1: the record must be a JSON object"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1: the record must be a JSON object"),
        ("a.jsonl", b'{"text": "x", "id": []}', "a.jsonl:1: `id` must be a string or an integer; got []."),
        ("a.jsonl", b'{"text": "x", "title": 3}', "a.jsonl:1: `title` must be a string; got 3."),
        ("a.txt", b"text\0", "a.txt: the file must be text; got 'a zero byte at offset 4'."),
        ("a.txt", b"a \xe9", "a.txt: the file must be text in UTF-8; got 'byte 0xe9 at offset 2'."),
    ],
)
def test_rank_names_what_is_wrong_with_a_file(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    result = run(path)

    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not result.stdout


def test_rank_names_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "the file must be readable; got 'No such file" in run(tmp_path / "missing.txt").stderr
    assert "the file must be readable; got 'Is a directory'" in run(tmp_path).stderr


def test_rank_names_standard_input() -> None:
    assert "<stdin>: the file must be text" in run("-", given=b"\0").stderr


def test_rank_names_a_closed_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank, "sys", SimpleNamespace(stdin=None))
    result = run()

    assert result.exit_code == 2
    assert result.stderr == "<stdin>: the file must be readable; got 'it is closed'.\n"


def test_rank_refuses_a_blank_query_before_it_reads() -> None:
    result = CliRunner().invoke(build_app(), ["rank", " ", "missing.txt"])

    assert result.exit_code == 2
    assert "`query` must be a query with at least one visible character" in result.stderr


def test_rank_refuses_an_unknown_model() -> None:
    result = run("--model", "no/such/model/at-all", given="text")

    assert result.exit_code == 2
    assert "there is no such folder" in result.stderr


def test_rank_in_a_pipe_prints_json_and_nothing_else(reranker: str) -> None:
    done = subprocess.run(
        [*FLETCHING, "rank", "why feathers", "--model", reranker, "--json"],
        input="\n".join(DOCUMENTS),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TERM": "xterm-256color"},
    )

    assert len(json.loads(done.stdout)) == 3
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a child alone")
def test_rank_stops_on_ctrl_c(slow_fletching: str, reranker: str, tmp_path: Path) -> None:
    path = tmp_path / "candidates.txt"
    path.write_text("\n".join(DOCUMENTS))
    child = subprocess.Popen(
        [sys.executable, "-c", slow_fletching, "rank", "why feathers", str(path), "--model", reranker],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ranking\n"

    child.send_signal(signal.SIGINT)
    output, errors = child.communicate(timeout=60)

    assert child.returncode == 130
    assert not output
    assert errors.endswith("Interrupted.\n")
    assert "Traceback" not in errors
