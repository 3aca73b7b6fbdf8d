from __future__ import annotations

from fletching.search import Hit


def test_content_is_the_passage_below_its_headings() -> None:
    hit = Hit("a.md", "Guide > Install", "Run pip.", 0.5, 1, 0.5)

    assert hit.content == "Guide > Install\nRun pip."
