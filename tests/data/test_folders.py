from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from fletching.data import Document
from fletching.data.beir import BEIRFolder
from fletching.data.folders import TSVFolder, choose_split, open_folder
from fletching.errors import ArgumentError, DataError

Files = dict[str, str]

MS_MARCO: Files = {
    "collection.tsv": "0\tbows bend\n1\tarrows fly\n",
    "queries.dev.tsv": "7\twhat bends?\n8\twhat flies?\n",
    "qrels.dev.tsv": "7\t0\t0\t1\n",
}
T2RANKING: Files = {
    "collection.tsv": "pid\tpassage\n0\tbows bend\n1\tarrows fly\n",
    "queries.dev.tsv": "qid\tquery\n7\twhat bends?\n8\twhat flies?\n",
    "qrels.dev.tsv": "qid\t-\tpid\trel\n7\t0\t0\t3\n7\t0\t1\t1\n",
    "qrels.retrieval.dev.tsv": "qid\tpid\n8\t1\n",
}
MULTI_CPR: Files = {
    "corpus_split_10.tsv": "3\tlast\n",
    "corpus_split_2.tsv": "2\tsecond\n",
    "corpus_split_1.tsv": "1\tfirst\n",
    "train.query.txt": "1\tof train\n",
    "dev.query.txt": "1\tof dev\n",
    "qrels.train.tsv": "1\t0\t1\t1\n",
    "qrels.dev.tsv": "1\t0\t3\t1\n",
}


@pytest.fixture(params=["", ".gz"], ids=["plain", "gzipped"])
def ending(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def write(folder: Path, files: Files, ending: str = "") -> Path:
    for name, text in files.items():
        content = text.encode()
        (folder / f"{name}{ending}").write_bytes(gzip.compress(content) if ending else content)
    return folder


def open_tsv(folder: Path) -> TSVFolder:
    opened = open_folder(folder)
    assert isinstance(opened, TSVFolder)
    return opened


def test_beir_folder_is_recognised(tmp_path: Path, ending: str) -> None:
    write(tmp_path, {"corpus.jsonl": "", "queries.jsonl": ""}, ending)

    assert isinstance(open_folder(tmp_path), BEIRFolder)


def test_ms_marco_is_read(tmp_path: Path, ending: str) -> None:
    folder = open_tsv(write(tmp_path, MS_MARCO, ending))
    split = folder.read_split("dev")

    assert list(folder.read_corpus()) == [Document("0", "bows bend"), Document("1", "arrows fly")]
    assert (split.queries, split.qrels) == ({"7": "what bends?"}, {"7": {"0": 1}})


def test_queries_without_a_judgement_are_counted(tmp_path: Path) -> None:
    assert open_tsv(write(tmp_path, MS_MARCO)).read_split("dev").n_unjudged_queries == 1


def test_header_lines_of_t2ranking_are_no_records(tmp_path: Path, ending: str) -> None:
    folder = open_tsv(write(tmp_path, T2RANKING, ending))

    assert [document.id for document in folder.read_corpus()] == ["0", "1"]
    assert folder.read_split("dev").qrels == {"7": {"0": 3, "1": 1}}


def test_judgements_for_retrieval_have_the_queries_of_their_split(tmp_path: Path) -> None:
    split = open_tsv(write(tmp_path, T2RANKING)).read_split("retrieval.dev")

    assert (split.queries, split.qrels) == ({"8": "what flies?"}, {"8": {"1": 1}})


def test_parts_of_a_corpus_are_read_in_the_order_of_their_numbers(tmp_path: Path, ending: str) -> None:
    """As text, 10 would come before 2."""
    folder = open_tsv(write(tmp_path, MULTI_CPR, ending))

    assert [document.text for document in folder.read_corpus()] == ["first", "second", "last"]


@pytest.mark.parametrize("split", ["train", "dev"])
def test_query_ids_count_within_their_split(tmp_path: Path, split: str) -> None:
    """Both splits have a query 1."""
    assert open_tsv(write(tmp_path, MULTI_CPR)).read_split(split).queries == {"1": f"of {split}"}


def test_one_corpus_file_of_multi_cpr_is_read(tmp_path: Path) -> None:
    files = {name: text for name, text in MULTI_CPR.items() if "split" not in name}
    folder = open_tsv(write(tmp_path, {**files, "corpus.tsv": "3\twhole\n"}))

    assert list(folder.read_corpus()) == [Document("3", "whole")]


def test_files_without_a_split_are_the_only_one(tmp_path: Path) -> None:
    files = {"corpus.tsv": "1\ta\n", "queries.tsv": "7\twhat?\n", "qrels.tsv": "7\t0\t1\t1\n"}
    folder = open_tsv(write(tmp_path, files))

    assert folder.read_split(choose_split("x", tmp_path, folder.qrels_paths, None)).queries == {"7": "what?"}


def test_queries_of_all_splits_may_share_a_file(tmp_path: Path) -> None:
    files = {"corpus.tsv": "1\ta\n", "queries.tsv": "7\twhat?\n8\twho?\n", "qrels.dev.tsv": "8\t0\t1\t1\n"}

    assert open_tsv(write(tmp_path, files)).read_split("dev").queries == {"8": "who?"}


def test_split_without_queries_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    del (files := dict(MULTI_CPR))["train.query.txt"]
    folder = open_tsv(write(tmp_path, files))

    assert folder.read_split("dev").queries == {"1": "of dev"}
    with pytest.raises(
        DataError, match=r"qrels.train.tsv: the file must be beside its queries: queries.train"
    ):
        folder.read_split("train")


def test_unknown_split_is_refused(tmp_path: Path) -> None:
    folder = open_tsv(write(tmp_path, T2RANKING))

    with pytest.raises(ArgumentError, match=re.escape("must be one of 'dev', 'retrieval.dev'; got 'devv'")):
        folder.read_split("devv")


def test_judged_query_that_is_not_there_is_named(tmp_path: Path) -> None:
    write(tmp_path, {**MS_MARCO, "qrels.dev.tsv": "7\t0\t0\t1\n9\t0\t0\t1\n"})

    with pytest.raises(DataError, match=r"qrels.dev.tsv:2: `query` must be one of the ids .*; got '9'"):
        open_tsv(tmp_path).read_split("dev")


def test_folder_of_no_known_layout_names_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "notes.md").touch()

    with pytest.raises(DataError, match=r"corpus.jsonl \(BEIR\), or with collection.tsv, .*; got notes.md."):
        open_folder(tmp_path)


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got an empty folder"):
        open_folder(tmp_path)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be an existing folder; got none under this name"):
        open_folder(tmp_path / "nowhere")


def test_file_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path, MS_MARCO)
    write(tmp_path, {"qrels.dev.tsv": "7\t0\t0\t1\n"}, ".gz")

    with pytest.raises(DataError, match="must be the only one of its name"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    ("splits", "asked", "chosen"),
    [(["dev"], None, "dev"), (["dev", "test"], None, "test"), (["dev", "test"], "dev", "dev")],
)
def test_split_is_chosen(splits: list[str], asked: str | None, chosen: str) -> None:
    assert choose_split("x", "folder", {name: Path(name) for name in splits}, asked) == chosen


@pytest.mark.parametrize("asked", [None, "tset"])
def test_split_that_cannot_be_chosen_lists_those_there_are(asked: str | None) -> None:
    with pytest.raises(ArgumentError, match="x: `split` must be one of 'dev', 'train'; got"):
        choose_split("x", "folder", {"train": Path("train"), "dev": Path("dev")}, asked)


def test_folder_without_judgements_is_refused() -> None:
    with pytest.raises(DataError, match=r"must be a folder with judgements \(qrels\); got none"):
        choose_split("x", "folder", {}, None)
