"""Texts by id out of files on disk."""

from __future__ import annotations

import gzip
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fletching.data import Document, MappedTexts
from fletching.errors import ArgumentError, DataError


def write(folder: Path, content: str | bytes, name: str = "collection.tsv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_texts_are_found_by_id(tmp_path: Path) -> None:
    texts = MappedTexts(write(tmp_path, "0\tfirst\n1\tsecond\n2\tthird\n"))
    assert dict(texts) == {"0": "first", "1": "second", "2": "third"}
    assert len(texts) == 3


def test_an_id_that_is_not_there_is_a_key_error(tmp_path: Path) -> None:
    texts = MappedTexts(write(tmp_path, "0\tfirst\n1\tsecond\n"))
    for key in ("2", "-1", "00", "x", "", "1.0", "9" * 30):
        assert key not in texts
        with pytest.raises(KeyError):
            texts[key]
    assert texts.get("7", "none") == "none"


@pytest.mark.parametrize(
    "ids",
    [
        ["0", "1", "2", "3"],
        ["5", "6", "7", "8"],
        ["2", "9", "30", "30000001"],
        ["9", "2", "30000001", "7"],
        ["d9", "a", "007", "7", "商品-1"],
        ["0", "1", "x", "3", "2"],
    ],
)
def test_ids_of_every_kind_are_found(ids: list[str], tmp_path: Path) -> None:
    texts = MappedTexts(write(tmp_path, "".join(f"{key}\ttext {key}\n" for key in ids)))
    assert list(texts) == ids
    assert {key: texts[key] for key in ids} == {key: f"text {key}" for key in ids}
    assert "4" not in texts
    assert "b" not in texts


def test_ids_that_count_up_take_no_memory_of_their_own(tmp_path: Path) -> None:
    """Eight bytes a line: the offset. The same ids in another order need two numbers more."""
    lines = [f"{number}\tx\n" for number in range(20_000)]

    def count_bytes(texts: MappedTexts) -> int:
        return sum(sys.getsizeof(value) for value in vars(texts).values())

    straight = MappedTexts(write(tmp_path, "".join(lines)))
    turned = MappedTexts(write(tmp_path, "".join(lines[::-1]), "turned.tsv"))
    assert count_bytes(straight) < 10 * 20_000
    assert count_bytes(turned) < 30 * 20_000
    assert turned["7"] == "x"


def test_several_files_are_one_collection(tmp_path: Path) -> None:
    parts = [
        write(tmp_path, "1\ta\n2\tb", "corpus_split_1.tsv"),
        write(tmp_path, "3\tc\n", "corpus_split_2.tsv"),
        write(tmp_path, "9\td\n4\te\n", "corpus_split_3.tsv"),
    ]
    texts = MappedTexts(parts)
    assert list(texts.items()) == [("1", "a"), ("2", "b"), ("3", "c"), ("9", "d"), ("4", "e")]
    assert [document.id for document in texts.documents()] == ["1", "2", "3", "9", "4"]


@pytest.mark.parametrize("header", ["pid\tpassage", "PID\tpassage", "corpus-id\ttext", "编号\t段落"])
def test_a_header_line_is_no_record(header: str, tmp_path: Path) -> None:
    texts = MappedTexts(write(tmp_path, f"{header}\n0\tfirst\n1\tsecond\n"))
    assert dict(texts) == {"0": "first", "1": "second"}


def test_a_first_line_with_a_text_id_is_a_record(tmp_path: Path) -> None:
    assert dict(MappedTexts(write(tmp_path, "a1\tx\nb2\ty\n"))) == {"a1": "x", "b2": "y"}


@pytest.mark.parametrize(("header", "ids"), [(True, ["1"]), (False, ["0", "1"])])
def test_header_can_be_said_outright(header: bool, ids: list[str], tmp_path: Path) -> None:
    assert list(MappedTexts(write(tmp_path, "0\tfirst\n1\tsecond\n"), header=header)) == ids


def test_quotes_tabs_and_spaces_stay_in_the_text(tmp_path: Path) -> None:
    content = '0\t"open\n1\ta\tb "" c\n2\t  two  \n3\t\u2028\x0b\n'
    assert list(MappedTexts(write(tmp_path, content)).values()) == [
        '"open',
        'a\tb "" c',
        "  two  ",
        "\u2028\x0b",
    ]


def test_an_empty_text_is_kept(tmp_path: Path) -> None:
    assert dict(MappedTexts(write(tmp_path, "0\t\n1\tx\n"))) == {"0": "", "1": "x"}


def test_windows_line_ends_blank_lines_and_a_byte_order_mark_are_no_text(tmp_path: Path) -> None:
    texts = MappedTexts(write(tmp_path, b"\xef\xbb\xbf0\tfirst\r\n\r\n   \r\n1\tsecond\r\n\n2\tlast\r"))
    assert dict(texts) == {"0": "first", "1": "second", "2": "last"}
    assert [document.text for document in texts.documents()] == ["first", "second", "last"]


def test_documents_come_in_the_files_order(tmp_path: Path) -> None:
    texts = MappedTexts(write(tmp_path, "id\ttext\n7\tseven\n2\ttwo\n"))
    assert list(texts.documents()) == [Document("7", "seven"), Document("2", "two")]
    assert texts.at(1) == Document("2", "two")


@pytest.mark.parametrize("position", [-1, 2])
def test_a_place_that_is_not_there_is_refused(position: int, tmp_path: Path) -> None:
    texts = MappedTexts(write(tmp_path, "0\ta\n1\tb\n"))
    with pytest.raises(ArgumentError, match="`position` must be from 0 to 1"):
        texts.at(position)


def test_a_pickled_collection_reads_on(tmp_path: Path) -> None:
    texts = MappedTexts(write(tmp_path, "0\ta\n1\tb\n"))
    assert texts["1"] == "b"
    assert pickle.loads(pickle.dumps(texts))["1"] == "b"


def test_a_closed_collection_opens_again(tmp_path: Path) -> None:
    with MappedTexts(write(tmp_path, "0\ta\n1\tb\n")) as texts:
        assert texts["0"] == "a"
    assert texts["1"] == "b"


def test_threads_read_at_once(tmp_path: Path) -> None:
    texts = MappedTexts(write(tmp_path, "".join(f"{number}\ttext {number}\n" for number in range(500))))
    keys = [str(number % 500) for number in range(4000)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(texts.__getitem__, keys)) == [f"text {key}" for key in keys]


@pytest.mark.parametrize("ids", [["1", "2", "1"], ["5", "5", "6"], ["a", "b", "a"], ["9", "3", "9"]])
def test_a_repeated_id_is_refused_with_its_line(ids: list[str], tmp_path: Path) -> None:
    """The line named is that of the second one; a header counts as a line."""
    path = write(tmp_path, "pid\tpassage\n" + "".join(f"{key}\tx\n" for key in ids))
    line = 2 + max(place for place, key in enumerate(ids) if key in ids[:place])
    with pytest.raises(DataError, match=rf"collection\.tsv:{line}: `id` must be unique"):
        MappedTexts(path)


def test_an_id_repeated_in_another_file_is_refused(tmp_path: Path) -> None:
    paths = [write(tmp_path, "1\ta\n2\tb\n", "a.tsv"), write(tmp_path, "3\tc\n2\td\n", "b.tsv")]
    with pytest.raises(DataError, match=r"b\.tsv:2: `id` must be unique; got '2'"):
        MappedTexts(paths)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0\ta\nno tab\n", r":2: the record must be an id, a tab and a text; got 'no tab'"),
        ("0\ta\n\ttext\n", r":2: `id` must be a non-empty string; got ''"),
        ("0\ta\n \ttext\n", r":2: `id` must be a non-empty string; got ' '"),
        ("", "must be a file with at least one record; got none"),
        ("pid\tpassage\n", "must be a file with at least one record; got none"),
        (b"\xff\xfe0\x00\t\x00", "must be UTF-8 text; got zero bytes"),
        ("version https://git-lfs.github.com/spec/v1\n", "Run: git lfs pull"),
    ],
)
def test_a_bad_file_is_refused(content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        MappedTexts(write(tmp_path, content))


def test_bytes_that_are_no_text_are_found_when_read(tmp_path: Path) -> None:
    texts = MappedTexts(write(tmp_path, b"0\tfine\n1\t\xb2\xe2\xca\xd4\n"))
    assert texts["0"] == "fine"
    with pytest.raises(DataError, match=r":2: the record must be UTF-8 text; got the byte 0xb2 as number 3"):
        texts["1"]
    with pytest.raises(DataError, match=r":2: the record must be UTF-8 text"):
        list(texts.documents())


def test_a_gzipped_file_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress(b"0\ta\n"), "collection.tsv.gz")
    with pytest.raises(DataError, match=r"must be unpacked.*Run: gunzip collection\.tsv\.gz"):
        MappedTexts(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be an existing file"):
        MappedTexts(tmp_path / "none.tsv")


def test_no_file_at_all_is_refused() -> None:
    with pytest.raises(ArgumentError, match="`paths` must be at least one file"):
        MappedTexts([])


def test_a_file_that_changed_since_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "0\ta\n1\tb\n")
    texts = MappedTexts(path)
    write(tmp_path, "0\ta\n1\tb\n2\tc\n")
    with pytest.raises(DataError, match="must be as it was when it was opened, 8 bytes; got 12 bytes"):
        texts["1"]
