"""What 2D Matryoshka is trained with by default, and what happens at sizes that were not trained."""

from __future__ import annotations

UNTRAINED = ("warn", "refuse", "allow")
"""What may happen when a model is cut to a size that it was not trained for."""

QUERY_PROMPT = "Represent this sentence for searching relevant passages: "  # card of mxbai-embed-2d-large-v1
"""What the published 2DMSE checkpoint reads before a query."""
