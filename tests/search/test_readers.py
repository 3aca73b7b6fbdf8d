from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pytest
from pypdf import PdfWriter
from pypdf.generic import DictionaryObject, NameObject, StreamObject

from fletching.errors import ArgumentError, DataError, MissingExtraError
from fletching.search.readers import SUFFIXES, Document, find_files, read_document, split_document
from fletching.text.passages import Heading

FONT = DictionaryObject(
    {
        NameObject("/Type"): NameObject("/Font"),
        NameObject("/Subtype"): NameObject("/Type1"),
        NameObject("/BaseFont"): NameObject("/Helvetica"),
    }
)


def write_pdf(
    pages: Sequence[str],
    *,
    title: str = "",
    bookmarks: Sequence[tuple[str, int, str]] = (),
    password: str = "",
) -> bytes:
    """Write a PDF of one font; a bookmark has a title, a page from 0, and the title of the one above it."""
    writer = PdfWriter()
    for text in pages:
        page = writer.add_blank_page(600, 800)
        fonts = DictionaryObject({NameObject("/F"): FONT})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = StreamObject()
        lines = " ".join(f"({line}) Tj T*" for line in text.split("\n"))
        stream.set_data(f"BT /F 10 Tf 12 TL 20 780 Td {lines} ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
    written: dict[str, object] = {"": None}
    for name, number, above in bookmarks:
        written[name] = writer.add_outline_item(title=name, page_number=number, parent=written[above])
    if title:
        writer.add_metadata({"/Title": title})
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    file = BytesIO()
    writer.write(file)
    return file.getvalue()


class TestFindFiles:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        names = ["b.md", "a/z.TXT", "a/b.pdf", "a.html", "b/c/d.rst", "Z.markdown"]
        for name in [
            *names,
            "c.py",
            ".hidden.md",
            ".git/x.md",
            "node_modules/y/x.md",
            "__pycache__/x.md",
            "md",
        ]:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    def test_files_are_sorted_by_their_path(self, folder: Path) -> None:
        names = [path.relative_to(folder).as_posix() for path in find_files(folder)]

        assert names == ["Z.markdown", "a.html", "a/b.pdf", "a/z.TXT", "b.md", "b/c/d.rst"]

    def test_hidden_folder_may_be_named(self, folder: Path) -> None:
        assert find_files(folder / ".git") == [folder / ".git" / "x.md"]

    def test_links_do_not_lead_in_circles(self, folder: Path) -> None:
        expected = find_files(folder)
        (folder / "b" / "loop").symlink_to(folder, target_is_directory=True)

        assert find_files(folder) == expected

    def test_linked_file_is_read(self, folder: Path) -> None:
        (folder / "link.md").symlink_to(folder / "b.md")

        assert folder / "link.md" in find_files(folder)

    @pytest.mark.skipif(sys.platform == "win32", reason="has no such files")
    def test_what_only_looks_like_a_file_is_left_out(self, folder: Path) -> None:
        expected = find_files(folder)
        (folder / "gone.md").symlink_to(folder / "nowhere")
        (folder / "folder.md").mkdir()
        os.mkfifo(folder / "pipe.md")

        assert find_files(folder) == expected

    @pytest.mark.parametrize("name", ["a\nb.md", "火箭.md", "a'\"\\;b.md", "\udcff.md"])
    def test_any_name_is_found(self, tmp_path: Path, name: str) -> None:
        try:
            (tmp_path / name).touch()
        except (OSError, UnicodeError):
            pytest.skip("this file system refuses the name")

        assert find_files(tmp_path) == [tmp_path / name]

    def test_missing_folder_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ArgumentError, match=r"find_files: `folder` must be a folder; got '.*nowhere'"):
            find_files(tmp_path / "nowhere")


class TestEveryFormat:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_file_becomes_passages(self, suffix: str) -> None:
        content = write_pdf(["A bow bends."]) if suffix == ".pdf" else b"A bow bends.\n"

        passages = split_document(read_document(content, suffix), source="bow")

        assert [(passage.text, passage.source) for passage in passages] == [("A bow bends.", "bow")]

    @pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix != ".pdf"])
    def test_empty_file_has_no_passages(self, suffix: str) -> None:
        assert split_document(read_document(b"", suffix)) == []

    @pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix != ".pdf"])
    def test_binary_file_is_refused(self, suffix: str) -> None:
        with pytest.raises(DataError, match=r"a: the file must be text; got 'binary content'\."):
            read_document(b"a\0b", suffix, source="a")

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("seed", range(10))
    def test_random_bytes_raise_nothing_else(self, suffix: str, seed: int) -> None:
        source = random.Random(seed)
        content = bytes(source.choices(range(256 - seed), k=source.randint(1, 2000)))

        try:
            document = read_document(content, suffix)
        except DataError:
            return
        document.text.encode()

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_offsets_point_at_the_text(self, suffix: str) -> None:
        page = "Bow\n===\r\n\r\n# Limb\n<h1>Arrow</h1>\nA bow <b>bends</b>. " + "Wörter und mehr. " * 99
        content = write_pdf([page, page[:300]]) if suffix == ".pdf" else page.encode()
        document = read_document(content, suffix)

        passages = split_document(document, max_words=20)

        assert len(passages) > 5
        assert all(document.text[passage.start : passage.end] == passage.text for passage in passages)

    def test_unknown_suffix_is_refused(self) -> None:
        with pytest.raises(ArgumentError, match=r"`suffix` must be one of '\.md', .*; got '\.doc'"):
            read_document(b"", ".doc")

    def test_case_of_a_suffix_does_not_matter(self) -> None:
        assert read_document(b"x", ".MD").markup == "markdown"

    @pytest.mark.parametrize(
        ("suffix", "package"), [(".pdf", "pypdf"), (".html", "lxml"), (".txt", "charset_normalizer")]
    )
    def test_missing_package_is_named(
        self, suffix: str, package: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, package, None)

        with pytest.raises(MissingExtraError, match=r"is not installed\. Run: pip install"):
            read_document(b"x", suffix)


class TestTitles:
    @pytest.mark.parametrize(
        "content",
        [
            b"---\ntitle: Bow\n---\ntext",
            b"---\nlayout: post\ntitle:   'Bow'\ntags: [a]\n---\n\ntext",
        ],
    )
    def test_front_matter_names_markdown(self, content: bytes) -> None:
        assert split_document(read_document(content, ".md"))[0].heading == "Bow"

    @pytest.mark.parametrize(
        "content", [b"text\n\ntitle: Bow\n", b"---\na: b\n---\ntitle: Bow\n", b"title: Bow\n"]
    )
    def test_other_lines_name_nothing(self, content: bytes) -> None:
        assert read_document(content, ".md").title == ""

    def test_title_gives_way_to_the_top_heading(self) -> None:
        passages = split_document(read_document(b"<title>Site</title>a<h1>Bow</h1>b", ".html"))

        assert [passage.heading for passage in passages] == ["Site", "Bow"]

    @pytest.mark.parametrize(
        "title", ["untitled", "Untitled document", "Microsoft Word - x.doc", "x.tex", "...", "a " * 200, ">"]
    )
    def test_what_programs_write_is_no_title(self, title: str) -> None:
        assert read_document(f"<title>{title}</title>x".encode(), ".html").title == ""


class TestPdf:
    def test_passage_knows_its_page(self) -> None:
        document = read_document(write_pdf(["one two three", "", "four five six"]), ".pdf")

        passages = split_document(document, max_words=3)

        assert [(passage.text, passage.page) for passage in passages] == [
            ("one two three", 1),
            ("four five six", 3),
        ]

    def test_passage_may_go_on_to_the_next_page(self) -> None:
        passages = split_document(read_document(write_pdf(["one", "two"]), ".pdf"))

        assert [(passage.text, passage.page) for passage in passages] == [("one\n\ntwo", 1)]

    @pytest.mark.parametrize(
        ("text", "joined"),
        [
            ("An exam-\nple of examples, an example.", "An example of examples, an example."),
            ("A well-\nknown bow.", "A well-\nknown bow."),
            ("Lines 3-\n4 of 34.", "Lines 3-\n4 of 34."),
        ],
    )
    def test_hyphen_is_undone_where_that_is_safe(self, text: str, joined: str) -> None:
        assert read_document(write_pdf([text]), ".pdf").text == joined

    def test_bookmarks_are_headings(self) -> None:
        bookmarks = [("Bow", 0, ""), ("Limb", 0, "Bow"), ("Nock", 0, "Bow"), ("Arrow", 1, "")]
        content = write_pdf(
            ["Preface\n1. BOW\nIt bends.\n1.1 Limb\nTwo.", "It flies."], title="Book", bookmarks=bookmarks
        )

        passages = split_document(read_document(content, ".pdf"))

        assert [(passage.heading, passage.text) for passage in passages] == [
            ("Book", "Preface"),
            ("Book > Bow", "1. BOW\nIt bends."),
            ("Book > Bow > Nock", "1.1 Limb\nTwo."),
            ("Book > Arrow", "It flies."),
        ]

    def test_heading_alone_is_no_passage(self) -> None:
        content = write_pdf(["1 Bow\n1.1 Limb\nTwo."], bookmarks=[("Bow", 0, ""), ("1.1 Limb", 0, "Bow")])

        passages = split_document(read_document(content, ".pdf"))

        assert [(passage.heading, passage.text) for passage in passages] == [
            ("Bow > 1.1 Limb", "1.1 Limb\nTwo.")
        ]

    def test_headings_are_in_order(self) -> None:
        bookmarks = [("b", 1, ""), ("a", 0, ""), ("c", 1, "")]
        document = read_document(write_pdf(["a", "b\nc"], bookmarks=bookmarks), ".pdf")

        assert document.headings == (Heading(0, 2, "a"), Heading(3, 2, "b"), Heading(5, 2, "c"))

    def test_scanned_file_has_no_text(self) -> None:
        assert split_document(read_document(write_pdf(["", ""]), ".pdf")) == []

    def test_locked_file_is_refused(self) -> None:
        message = r"a\.pdf: the file must be a PDF that opens without a password; got 'an encrypted one'"
        with pytest.raises(DataError, match=message):
            read_document(write_pdf(["x"], password="secret"), ".pdf", source="a.pdf")

    @pytest.mark.parametrize("content", [b"", b"%PDF-1.7", b"text", b"%PDF-1.7\n%%EOF\n"])
    def test_broken_file_is_refused(self, content: bytes) -> None:
        with pytest.raises(DataError, match=r"a\.pdf: the file must be a readable PDF; got '"):
            read_document(content, ".pdf", source="a.pdf")

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
    def test_truncated_file_raises_nothing_else(self, share: float) -> None:
        content = write_pdf(["one", "two"], title="Book", bookmarks=[("Bow", 0, "")])

        try:
            document = read_document(content[: int(share * len(content))], ".pdf")
        except DataError:
            return
        assert set(document.text.split()) <= {"one", "two"}

    @pytest.mark.parametrize("seed", range(40))
    def test_damaged_file_raises_nothing_else(self, seed: int) -> None:
        source = random.Random(seed)
        content = bytearray(write_pdf(["one", "two"], title="Book", bookmarks=[("Bow", 0, "")]))
        for _ in range(source.choice([1, 5, 50])):
            content[source.randrange(len(content))] = source.randrange(256)

        try:
            document = read_document(bytes(content), ".pdf")
        except DataError:
            return
        split_document(document)

    def test_broken_outline_does_not_cost_the_text(self) -> None:
        content = write_pdf(["one"], bookmarks=[("Bow", 0, "")]).replace(b"/First", b"/Fxrst")

        assert read_document(content, ".pdf").text == "one"


def test_ten_thousand_short_passages_are_read_in_two_seconds() -> None:
    content = "".join(f"## Part {part}\n\nA bow bends.\n\n" for part in range(10_000)).encode()

    began = time.process_time()
    passages = split_document(read_document(content, ".md"))

    assert time.process_time() - began < 2
    assert len(passages) == 10_000


@pytest.mark.timeout(30)
@pytest.mark.parametrize("suffix", [".md", ".txt", ".rst", ".html"])
@pytest.mark.parametrize("unit", ["a", "#", "-", "`", "<", " ", "a-\n"])
def test_long_file_costs_linear_time(suffix: str, unit: str) -> None:
    content = (unit * (400_000 // len(unit))).encode()

    passages = split_document(read_document(content, suffix))

    assert all(left.end <= right.start for left, right in pairwise(passages))


def test_page_of_any_depth_is_read() -> None:
    document = read_document(b"<div>" * 200_000 + b"<p>deep", ".html")

    assert document == Document("deep", "lines")


def test_reading_loads_no_model_library() -> None:
    code = (
        "import sys; from fletching.search.readers import *; "
        "split_document(read_document(b'<p>x', '.html')); print({'torch', 'numpy'} & {*sys.modules})"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout == "set()\n"
