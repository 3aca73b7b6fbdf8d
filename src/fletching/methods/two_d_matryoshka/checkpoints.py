"""Which checkpoints are elastic, and at which sizes they were trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fletching.methods.two_d_matryoshka.config import QUERY_PROMPT
from fletching.models import marks

__all__ = ["PUBLISHED", "PublishedCheckpoint", "find_published", "is_elastic", "read_mark"]

METHOD = "two_d_matryoshka"
"""What a save of ours says that it is."""


@dataclass(frozen=True)
class PublishedCheckpoint:
    """A released checkpoint that may be cut.

    Args:
        model: Hub id.
        layers: Layers that its authors recommend, the fewest and the most; ``None`` if they do not say.
        dims: Dimensions it was trained to be cut to, beside all; ``None`` if that is not known.
        query_prompt: What its card puts before a query.
    """

    model: str
    layers: tuple[int, int] | None = None
    dims: tuple[int, ...] | None = None
    query_prompt: str = ""


PUBLISHED = (
    PublishedCheckpoint("mixedbread-ai/mxbai-embed-2d-large-v1", layers=(20, 24), query_prompt=QUERY_PROMPT),
    # AdaptiveLayerLoss of sentence-transformers: any layer, always all dimensions
    PublishedCheckpoint("tomaarsen/mpnet-base-nli-adaptive-layer", dims=()),
    PublishedCheckpoint("tomaarsen/distilbert-base-uncased-sts-adaptive-layer", dims=()),
)
"""Released checkpoints; any other model of sentence-transformers opens as well."""


def find_published(location: str) -> PublishedCheckpoint | None:
    """Find the released checkpoint that a hub id, or a folder that carries its name, is.

    Args:
        location: Hub id or folder. Folders count by their last part, and those of the hub's cache.

    Returns:
        The checkpoint; ``None`` if the name says nothing.

    Example:
        >>> find_published("models/mxbai-embed-2d-large-v1").layers
        (20, 24)
        >>> find_published("sentence-transformers/all-MiniLM-L6-v2")
    """
    return next((row for row in PUBLISHED if marks.goes_by(location, row.model)), None)


def is_elastic(location: str, contents: Mapping[str, Any]) -> bool:
    """Say whether a checkpoint is to be opened as elastic, as ``fletching.load`` asks.

    It is if a save of ours says so, or if it is a released model of sentence-transformers and goes by its
    name.

    Args:
        location: Hub id or folder.
        contents: ``modules.json`` and ``config_sentence_transformers.json``.

    Returns:
        Whether it is.
    """
    config = contents["config_sentence_transformers.json"]
    if read_mark(config):
        return True
    saved_as = config.get("model_type", "SentenceTransformer")
    is_embedder = bool(contents["modules.json"]) and saved_as == "SentenceTransformer"
    return is_embedder and find_published(location) is not None


def read_mark(model_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a save of ours says of itself.

    Args:
        model_config: Content of ``config_sentence_transformers.json``.

    Returns:
        Its settings, with ``trained_layers`` and ``trained_dims`` as tuples of integers where they are
        known; empty for a checkpoint of somebody else.

    Example:
        >>> read_mark({"fletching": {"method": "two_d_matryoshka", "trained_dims": [64, 128]}})
        {'method': 'two_d_matryoshka', 'trained_dims': (64, 128)}
    """
    mark = marks.read_mark(model_config, METHOD)
    sizes = {name: _read_sizes(mark.get(name)) for name in ("trained_layers", "trained_dims")}
    known = {name: value for name, value in sizes.items() if value is not None}
    rest = {name: value for name, value in mark.items() if name not in sizes}
    return {**rest, **known}


def _read_sizes(values: object) -> tuple[int, ...] | None:
    """Read sizes from a file, which may hold anything."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        return None
    return tuple(value for value in values if isinstance(value, int) and not isinstance(value, bool))
