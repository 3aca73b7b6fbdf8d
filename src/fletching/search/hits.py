"""What a search finds."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Hit", "join_content"]


@dataclass(frozen=True)
class Hit:
    """A passage that was found.

    Args:
        file: Its file, relative to the folder, with ``/``.
        heading: The headings above it, as ``"Guide > Install"``.
        text: The passage.
        score: What it is ordered by: the reranker's score, else ``retrieval_score``.
        retrieval_rank: Its rank before reranking, from 1.
        retrieval_score: Its score before reranking: reciprocal rank fusion of the two scores below.
        similarity: The embedder's similarity of query and passage; ``None`` when only its words led to it.
        bm25: Its BM25 score; ``None`` when only its meaning led to it.
        page: Page where it begins, from 1; ``None`` for files without pages.
        start: Offset of its first character in the text of the file.
        end: Offset after its last character.
    """

    file: str
    heading: str
    text: str
    score: float
    retrieval_rank: int
    retrieval_score: float
    similarity: float | None = None
    bm25: float | None = None
    page: int | None = None
    start: int = 0
    end: int = 0

    @property
    def content(self) -> str:
        """What models read: the passage below its headings."""
        return join_content(self.heading, self.text)


def join_content(heading: str, text: str) -> str:
    """Put a passage below its headings.

    Args:
        heading: The headings; may be empty.
        text: The passage.

    Returns:
        What the embedder, BM25 and the reranker read.

    Example:
        >>> print(join_content("Guide > Install", "Run pip."))
        Guide > Install
        Run pip.
    """
    return f"{heading}\n{text}" if heading else text
