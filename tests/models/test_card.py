"""The usage section of a saved model's README."""

from __future__ import annotations

from fletching.models.card import write_usage

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
