from __future__ import annotations

import gzip
import json
import logging
import re
from pathlib import Path

import pytest

from fletching.data import Document, open_beir
from fletching.errors import ArgumentError, DataError


@pytest.fixture(params=["", ".gz"], ids=["plain", "gzipped"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two passages, three queries, one of them blank; `test` also judges a passage that is not there."""
    (tmp_path / "qrels").mkdir()
    corpus = [{"_id": "d1", "title": "Bow", "text": "bends"}, {"_id": "d2", "title": "", "text": "flies"}]
    queries = [{"_id": "q1", "text": "what bends?"}, {"_id": "q2", "text": ""}, {"_id": "q3", "text": "x"}]
    header = "query-id\tcorpus-id\tscore"
    files = {
        "corpus.jsonl": [json.dumps(record) for record in corpus],
        "queries.jsonl": [json.dumps(record) for record in queries],
        "qrels/test.tsv": [header, "q1\td1\t1", "q1\td9\t1", "q2\td2\t1"],
        "qrels/dev.tsv": [header, "q3\td2\t1"],
    }
    for name, lines in files.items():
        content = "".join(f"{line}\n" for line in lines).encode()
        path = tmp_path / f"{name}{request.param}"
        path.write_bytes(gzip.compress(content) if request.param else content)
    return tmp_path


def test_splits_are_found(folder: Path) -> None:
    assert list(open_beir(folder).qrels_paths) == ["dev", "test"]


def test_corpus_is_read(folder: Path) -> None:
    assert list(open_beir(folder).read_corpus()) == [Document("d1", "bends", "Bow"), Document("d2", "flies")]


def test_split_has_its_judged_queries(folder: Path) -> None:
    split = open_beir(folder).read_split("dev")

    assert (split.queries, split.qrels) == ({"q3": "x"}, {"q3": {"d2": 1}})


def test_queries_without_judgement_are_skipped_and_counted(folder: Path) -> None:
    assert open_beir(folder).read_split("dev").n_unjudged_queries == 2


def test_judged_queries_without_text_are_skipped_and_counted(folder: Path) -> None:
    split = open_beir(folder).read_split("test")

    assert (list(split.queries), list(split.qrels), split.n_blank_queries) == (["q1"], ["q1"], 1)


def test_judged_queries_without_text_are_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fletching.data.beir"):
        open_beir(folder).read_split("test")
    assert "skipped 1 judged queries without text" in caplog.text


def test_judged_documents_outside_the_corpus_stay_and_are_counted(folder: Path) -> None:
    data = open_beir(folder)
    split = data.read_split("test")

    assert split.qrels == {"q1": {"d1": 1, "d9": 1}}
    assert data.count_unknown_documents(split) == 1


def test_unknown_split_is_refused(folder: Path) -> None:
    with pytest.raises(
        ArgumentError, match=re.escape("must be one of 'dev', 'test'; got 'tets'. Did you mean 'test'?")
    ):
        open_beir(folder).read_split("tets")


def test_judged_query_that_is_not_there_is_named(folder: Path) -> None:
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq7\td1\t1\n")

    with pytest.raises(
        DataError, match=re.escape("train.tsv:2: `query` must be one of the ids that were given; got 'q7'")
    ):
        open_beir(folder).read_split("train")


def test_split_that_is_there_twice_is_refused(folder: Path) -> None:
    for name in ("test.tsv", "test.tsv.gz"):
        (folder / "qrels" / name).touch()

    with pytest.raises(DataError, match="must be the only one of split 'test'"):
        open_beir(folder)


def test_folder_without_a_corpus_is_refused(tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").touch()

    with pytest.raises(DataError, match=r"must be a BEIR folder with corpus.jsonl or .*; got queries.jsonl."):
        open_beir(tmp_path)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be an existing folder; got none under this name"):
        open_beir(tmp_path / "nowhere")


def test_opening_reads_nothing(tmp_path: Path) -> None:
    for name in ("corpus.jsonl", "queries.jsonl"):
        (tmp_path / name).write_text("broken")

    assert open_beir(tmp_path).qrels_paths == {}
