from __future__ import annotations

import gzip
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fletching.data.lines import parse_number, read_json_lines, read_lines, write_lines
from fletching.errors import DataError


def save(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"one\ntwo\n",
        b"one\ntwo",
        b"one\r\ntwo\r\n",
        b"\xef\xbb\xbfone\ntwo\n",
        gzip.compress(b"one\ntwo\n", mtime=0),
        gzip.compress(b"\xef\xbb\xbfone\r\ntwo", mtime=0),
        gzip.compress(b"one\n", mtime=0) + gzip.compress(b"two\n", mtime=0),  # what `cat a.gz b.gz` makes
    ],
)
def test_lines_are_read_alike_however_they_are_stored(tmp_path: Path, content: bytes) -> None:
    assert list(read_lines(save(tmp_path / "file", content))) == [(1, "one"), (2, "two")]


def test_blank_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    assert list(read_lines(save(tmp_path / "file", b"one\n\n \t\ntwo\n"))) == [(1, "one"), (4, "two")]


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    text = "one\u2028two\x0cthree\x85four\rfive"

    assert list(read_lines(save(tmp_path / "file", f"{text}\n".encode()))) == [(1, text)]


def test_bytes_of_another_encoding_are_named_with_their_line(tmp_path: Path) -> None:
    path = save(tmp_path / "mixed.tsv", "q1\tKöcher\n".encode() + "q2\tKöcher\n".encode("latin-1"))

    message = "mixed.tsv:2: the record must be UTF-8 text; got the byte 0xf6 as number 5 of the line. Convert"
    with pytest.raises(DataError, match=re.escape(message)):
        list(read_lines(path))


@pytest.mark.parametrize("content", ["one".encode("utf-16"), b"\0\1\2"])
def test_zero_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match="must be UTF-8 text; got"):
        list(read_lines(save(tmp_path / "file", content)))


def test_gzip_that_ends_early_says_how_far_it_goes(tmp_path: Path) -> None:
    packed = gzip.compress("".join(f"{number * 7919}\n" for number in range(50_000)).encode(), 1)
    path = save(tmp_path / "run.tsv.gz", packed[: len(packed) // 2])

    with pytest.raises(
        DataError, match="must be a whole gzip file; got a broken one, readable at least up to line"
    ) as caught:
        list(read_lines(path))
    assert 10_000 < int(str(caught.value).split("line ")[1].split(".")[0]) < 49_999


def test_gzip_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b"one\n"))
    packed[-8] ^= 1

    with pytest.raises(DataError, match="must be a whole gzip file"):
        list(read_lines(save(tmp_path / "run.tsv.gz", bytes(packed))))


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
def test_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    message = "empty: the file must be a file with at least one record; got none."
    with pytest.raises(DataError, match=re.escape(message)):
        list(read_lines(save(tmp_path / "empty", content)))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="nowhere: the file must be an existing file; got nothing under this name"
    ):
        list(read_lines(tmp_path / "nowhere"))


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be an existing file; got a folder"):
        list(read_lines(tmp_path))


def test_pointer_of_git_lfs_says_what_to_run(tmp_path: Path) -> None:
    path = save(tmp_path / "corpus.tsv", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")

    with pytest.raises(DataError, match=re.escape("got a pointer of Git LFS. Run: git lfs pull")):
        list(read_lines(path))


@pytest.mark.parametrize("line", ["{", "[1]", "3", '{"a": 1} {"b": 2}', "[" * 100_000])
def test_line_that_is_no_json_object_is_named(tmp_path: Path, line: str) -> None:
    path = save(tmp_path / "file.jsonl", f'{{"a": 1}}\n{line}\n'.encode())

    with pytest.raises(DataError, match=re.escape("file.jsonl:2: the record must be a JSON object; got")):
        list(read_json_lines(path))


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "file.jsonl", b'{"text": "\\ud83d\\ude00"}\n{"text": "\\ud83d"}\n')

    with pytest.raises(
        DataError, match=re.escape("file.jsonl:2: the record must be Unicode text; got half of a surrogate")
    ):
        list(read_json_lines(path))


@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity", "1e999", "high", "", None, True, [1], 10**400])
def test_number_must_be_finite(value: object) -> None:
    with pytest.raises(DataError, match="run:3: `score` must be a finite number; got"):
        parse_number("run", 3, "score", value)


def test_written_lines_come_back(tmp_path: Path) -> None:
    write_lines(tmp_path / "file.gz", ["Köcher", "箭"])

    assert [line for _, line in read_lines(tmp_path / "file.gz")] == ["Köcher", "箭"]


def test_equal_lines_give_equal_gzip_files(tmp_path: Path) -> None:
    write_lines(tmp_path / "first.gz", ["a"])
    write_lines(tmp_path / "second.gz", ["a"])

    assert (tmp_path / "first.gz").read_bytes() == (tmp_path / "second.gz").read_bytes()


def test_file_stays_as_it_was_when_writing_fails(tmp_path: Path) -> None:
    path = save(tmp_path / "run", b"old\n")

    with pytest.raises(ZeroDivisionError):
        write_lines(path, (str(1 / number) for number in (1, 0)))
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    assert path.read_bytes() == b"old\n"


def test_two_may_write_a_file_at_once(tmp_path: Path) -> None:
    """Whoever ends last is read; neither finds lines of the other among its own."""
    path = tmp_path / "run"

    def write_another() -> Iterator[str]:
        yield "first"
        write_lines(path, ["another"])
        yield "last"

    write_lines(path, write_another())
    assert path.read_bytes() == b"first\nlast\n"
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_reading_needs_no_numpy_and_no_torch(tmp_path: Path) -> None:
    code = """if True:
        import sys
        import fletching.data as data
        [getattr(data, name) for name in data.__all__]
        next(data.read_corpus(sys.argv[1]))
        print(sorted({"numpy", "torch", "pandas"} & set(sys.modules)))
    """
    command = [sys.executable, "-c", code, save(tmp_path / "corpus.tsv", b"1\tx\n")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
