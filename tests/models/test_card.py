"""The sections of a saved model's README."""

from __future__ import annotations

import pytest

from fletching.errors import DataError
from fletching.models.card import write_section, write_usage

CARD = """# Model

## Usage

### Direct Usage (Sentence Transformers)
from sentence_transformers import SentenceTransformer

<!--
### Direct Usage (Transformers)
-->

## Training
"""


class Quiver:
    """Stands for a model class."""


def test_only_the_usage_section_is_replaced(tmp_path):
    folder = tmp_path / "model-1"
    folder.mkdir()
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    write_usage(str(folder), Quiver, "model-1", 'model.shoot("a \\1")')
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# Model\n\n## Usage\n\n")
    assert "`Quiver` of fletching" in card
    assert "model = fletching.load('model-1')\nmodel.shoot(\"a \\1\")\n" in card
    assert "SentenceTransformer" not in card
    assert card.endswith("<!--\n### Direct Usage (Transformers)\n-->\n\n## Training\n")


def test_a_card_without_the_section_stays_as_it_is(tmp_path):
    (tmp_path / "README.md").write_text("# Mine\n", encoding="utf-8")
    write_usage(str(tmp_path), Quiver, "mine", "")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "# Mine\n"


def test_a_folder_without_a_card_gets_none(tmp_path):
    write_usage(str(tmp_path), Quiver, "mine", "")
    assert not [*tmp_path.iterdir()]


BEFORE = "---\nlanguage: en\n---\n\n# Mine\n"


def test_a_section_is_added_at_the_end(tmp_path):
    (tmp_path / "README.md").write_bytes(BEFORE.encode())
    path = write_section(tmp_path, "audit", "## Audit\n\nNo fault.\n")
    assert path.read_text(encoding="utf-8") == (
        f"{BEFORE}\n<!-- fletching audit: begin -->\n## Audit\n\nNo fault.\n<!-- fletching audit: end -->\n"
    )


def test_a_section_replaces_its_predecessor_and_nothing_else(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_bytes(BEFORE.encode() + b"\xff no UTF-8, no line feed at the end")
    write_section(tmp_path, "audit", "## Audit\n\nOne\\1.")
    with readme.open("ab") as file:
        file.write(b"\n\n## After \xfe")
    once = readme.read_bytes()
    write_section(tmp_path, "other", "## Other")
    write_section(tmp_path, "audit", "## Audit\n\nTwo.\n\nThree.")
    expected = once.replace(b"One\\1.", b"Two.\n\nThree.")
    assert readme.read_bytes() == (
        expected + b"\n\n<!-- fletching other: begin -->\n## Other\n<!-- fletching other: end -->\n"
    )


def test_writing_a_section_twice_changes_nothing(tmp_path):
    write_section(tmp_path, "audit", "## Audit")
    once = (tmp_path / "README.md").read_bytes()
    write_section(tmp_path, "audit", "## Audit")
    assert (tmp_path / "README.md").read_bytes() == once


def test_a_missing_card_is_made(tmp_path):
    assert write_section(tmp_path, "audit", "## Audit").read_bytes() == (
        b"<!-- fletching audit: begin -->\n## Audit\n<!-- fletching audit: end -->\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_section_keeps_windows_line_ends(tmp_path):
    (tmp_path / "README.md").write_bytes(b"# Mine\r\n")
    for text in ("## Audit\n\nOne.", "## Audit\n\nTwo."):
        card = write_section(tmp_path, "audit", text).read_bytes()
    assert card == (
        b"# Mine\r\n\r\n<!-- fletching audit: begin -->\r\n## Audit\r\n\r\nTwo.\r\n"
        b"<!-- fletching audit: end -->\r\n"
    )


@pytest.mark.parametrize(
    "marks",
    [
        ["begin"],
        ["end"],
        ["end", "begin"],
        ["begin", "end", "begin", "end"],
    ],
    ids=", ".join,
)
def test_a_broken_section_is_left_alone(tmp_path, marks):
    card = "".join(f"<!-- fletching audit: {mark} -->\ntext\n" for mark in marks)
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    with pytest.raises(DataError, match=r"README\.md: the file must be one section between .* or none"):
        write_section(tmp_path, "audit", "## Audit")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == card


def test_a_link_becomes_a_file_and_its_target_stays(tmp_path):
    """As the hub's cache keeps its files."""
    blob = tmp_path / "blob"
    blob.write_text("# Mine\n", encoding="utf-8")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "README.md").symlink_to(blob)
    write_section(folder, "audit", "## Audit")
    assert blob.read_text(encoding="utf-8") == "# Mine\n"
    assert "## Audit" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.README\.md: the file must be writable; got 'No such file"):
        write_section(tmp_path / "nowhere", "audit", "## Audit")
