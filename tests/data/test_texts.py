from __future__ import annotations

import gzip
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from fletching.data import Document, read_corpus, read_queries
from fletching.errors import ArgumentError, DataError


def write(path: Path, *lines: str) -> Path:
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_beir_corpus_is_read(tmp_path: Path, name: str) -> None:
    path = write(
        tmp_path / name,
        '{"_id": "d1", "title": "Bow", "text": "A bow bends.", "url": "left out"}',
        '{"_id": 2, "text": ""}',
        '{"id": "d3", "title": null, "text": "x"}',
    )

    assert list(read_corpus(path)) == [
        Document("d1", "A bow bends.", "Bow"),
        Document("2", ""),
        Document("d3", "x"),
    ]


def test_full_text_joins_title_and_text() -> None:
    assert Document("d1", "A bow bends.", "Bow").full_text == "Bow A bow bends."


def test_full_text_without_a_title_is_the_text() -> None:
    assert Document("d1", "A bow bends.").full_text == "A bow bends."


@pytest.mark.parametrize("header", [[], ["pid\tpassage"], ["pid\ttext"], ["_id\tanything"]])
def test_collection_reads_alike_with_and_without_a_header(tmp_path: Path, header: list[str]) -> None:
    path = write(tmp_path / "collection.tsv", *header, '0\tsaid "one', "1\t箭")

    assert list(read_corpus(path)) == [Document("0", 'said "one'), Document("1", "箭")]


def test_tab_inside_a_passage_stays(tmp_path: Path) -> None:
    assert next(read_corpus(write(tmp_path / "corpus.tsv", "0\tone\ttwo"))).text == "one\ttwo"


def test_empty_passage_of_a_collection_is_read(tmp_path: Path) -> None:
    assert list(read_corpus(write(tmp_path / "corpus.tsv", "0\t", "1\tx"))) == [
        Document("0", ""),
        Document("1", "x"),
    ]


def test_header_says_what_the_columns_are(tmp_path: Path) -> None:
    path = write(tmp_path / "psgs.tsv", "id\ttext\ttitle", "1\tA bow bends.\tBow")

    assert list(read_corpus(path)) == [Document("1", "A bow bends.", "Bow")]


def test_header_without_a_text_column_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "docs.tsv", "docid\turl\tabstract", "1\tx\ty")

    with pytest.raises(
        DataError, match=re.escape("docs.tsv:1: the record must be a header with a column `text`")
    ):
        list(read_corpus(path))


def test_columns_may_be_named_by_the_caller(tmp_path: Path) -> None:
    path = write(tmp_path / "docs.tsv", "D1\thttp://x\tBow\tA bow bends.")

    assert list(read_corpus(path, columns=["id", "url", "title", "text"])) == [
        Document("D1", "A bow bends.", "Bow")
    ]


def test_columns_without_a_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match="read_corpus: `columns` must be names with 'id' and 'text' among them"
    ):
        next(read_corpus(tmp_path / "x.tsv", columns=["id", "title"]))


def test_first_line_is_a_record_if_the_caller_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "queries.tsv", "id\tidentity card", "qid\tis queue id")

    assert read_queries(path, header=False) == {"id": "identity card", "qid": "is queue id"}


def test_parts_of_a_collection_are_read_in_order(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"corpus_split_{part}.tsv", f"{part}\tx") for part in (1, 2, 3)]

    assert [document.id for document in read_corpus(*parts)] == ["1", "2", "3"]


def test_row_without_a_tab_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "corpus.tsv", "0\tone", "1 two")

    message = "corpus.tsv:2: the record must be a row of 2 columns separated by tabs; got 1: '1 two'."
    with pytest.raises(DataError, match=re.escape(message)):
        list(read_corpus(path))


def test_row_without_an_id_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape("corpus.tsv:1: `id` must be a non-empty string; got ''")):
        list(read_corpus(write(tmp_path / "corpus.tsv", "\tone")))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"text": "x"}', "`_id` must be a non-empty string; got None"),
        ('{"_id": " ", "text": "x"}', "`_id` must be a non-empty string; got ' '"),
        ('{"_id": true, "text": "x"}', "`_id` must be a non-empty string; got True"),
        ('{"_id": "d1"}', "`text` must be a string; got None"),
        ('{"_id": "d1", "text": ["x"]}', "`text` must be a string; got ['x']"),
        ('{"_id": "d1", "text": "x", "title": 3}', "`title` must be a string; got 3"),
    ],
)
def test_malformed_json_record_is_named(tmp_path: Path, record: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"corpus.jsonl:1: {message}.")):
        list(read_corpus(write(tmp_path / "corpus.jsonl", record)))


@pytest.mark.parametrize(
    ("ids", "line"),
    [
        (["0", "1", "2", "1"], 4),
        (["5", "6", "5"], 3),
        (["d1", "d2", "d1"], 3),
        (["9", "1", "2", "1"], 4),
        (["0", "7", "1", "2", "3", "4", "5", "6", "7"], 9),  # reached by counting
    ],
)
def test_repeated_id_is_named(tmp_path: Path, ids: list[str], line: int) -> None:
    path = write(tmp_path / "corpus.tsv", *(f"{key}\tx" for key in ids))

    with pytest.raises(DataError, match=f"corpus.tsv:{line}: `id` must be unique; got '{ids[-1]}'"):
        list(read_corpus(path))


@pytest.mark.parametrize(
    "ids", [["1", "01", "2", "02"], ["1", "\u00b9", "\uff11"], ["0", "00"], ["3", "2", "1", "4"]]
)
def test_different_ids_are_not_taken_for_repeated_ones(tmp_path: Path, ids: list[str]) -> None:
    path = write(tmp_path / "corpus.tsv", *(f"{key}\tx" for key in ids))

    assert [document.id for document in read_corpus(path)] == ids


def test_repeated_ids_may_be_allowed(tmp_path: Path) -> None:
    path = write(tmp_path / "corpus.tsv", "d1\tx", "d1\ty")

    assert len(list(read_corpus(path, unique=False))) == 2


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    message = "corpus.csv: the file must be one that ends in .jsonl, .tsv, .txt (or .gz); got 'corpus.csv'."
    with pytest.raises(DataError, match=re.escape(message)):
        next(read_corpus(write(tmp_path / "corpus.csv", "1,x")))


def test_no_file_is_refused() -> None:
    with pytest.raises(ArgumentError, match="read_queries: `paths` must be at least one file"):
        read_queries()


def test_file_with_only_a_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one record"):
        list(read_corpus(write(tmp_path / "corpus.tsv", "pid\tpassage")))


def test_queries_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.query.txt", "200000\t航天飞机", "200001\t箭")

    assert read_queries(path) == {"200000": "航天飞机", "200001": "箭"}


def test_repeated_query_id_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape("queries.tsv:2: `id` must be unique; got 'q1'")):
        read_queries(write(tmp_path / "queries.tsv", "q1\tx", "q1\ty"))


def test_blank_query_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=re.escape("queries.tsv:2: `text` must be a non-empty string; got ' '")
    ):
        read_queries(write(tmp_path / "queries.tsv", "q1\tx", "q2\t "))


def test_blank_query_may_be_allowed(tmp_path: Path) -> None:
    assert read_queries(write(tmp_path / "queries.tsv", "q1\t "), allow_blank=True) == {"q1": " "}


def test_corpus_is_read_no_further_than_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "corpus.tsv", "0\tone", "1\ttwo", "broken")

    assert len(list(islice(read_corpus(path), 2))) == 2


@pytest.mark.slow
def test_collection_streams_fast_in_flat_memory(tmp_path: Path) -> None:
    """A million lines: at least 200,000 per second of processor time, and at most 8 MiB on top."""
    path = tmp_path / "collection.tsv"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{number}\t{'a passage of words ' * 8}\n" for number in range(1_000_000))
    code = """if True:
        import sys
        from resource import RUSAGE_SELF, getrusage
        from time import process_time
        from fletching.data import read_corpus
        documents = read_corpus(sys.argv[1])
        next(documents)
        memory, start = getrusage(RUSAGE_SELF).ru_maxrss, process_time()
        count = sum(1 for _ in documents)
        print(count / (process_time() - start), (getrusage(RUSAGE_SELF).ru_maxrss - memory) / 1024)
    """
    child = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    speed, growth = map(float, child.stdout.split())
    assert speed >= 200_000
    assert growth <= 8
