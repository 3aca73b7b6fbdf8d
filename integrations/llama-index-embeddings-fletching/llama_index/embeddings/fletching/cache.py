"""Keys and entries of the embedding cache: a key holds what decides on the vector, no entry is trusted."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from typing import Any

COLLECTIONS = {"query": "fletching_query_embeddings", "document": "fletching_document_embeddings"}
"""Collection of the store for each task."""

_FIELD = "embedding"


def build_keys(settings: Any, texts: Iterable[str]) -> list[str]:
    """Name the vector of each text under some settings.

    Args:
        settings: Everything but the text that decides on the vector: model, prompt, task, truncation; JSON.
        texts: The texts.

    Returns:
        One key per text, 64 hexadecimal digits: equal settings and texts, equal keys.

    Example:
        >>> build_keys(["model", "query"], ["bow"]) == build_keys(["model", "document"], ["bow"])
        False
    """
    prefix = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()
    return [hashlib.sha256(prefix + text.encode("utf-8", "surrogatepass")).hexdigest() for text in texts]


def write_entry(embedding: list[float]) -> dict[str, Any]:
    """Make the entry that a store keeps.

    Args:
        embedding: The vector; copied, since stores in memory keep what they are given.

    Returns:
        A JSON object.
    """
    return {_FIELD: list(embedding)}


def read_entry(entry: object, dimension: int | None) -> list[float] | None:
    """Read the vector of an entry, if it is one.

    Args:
        entry: Whatever the store returned.
        dimension: Length the vector must have; ``None`` when it is unknown.

    Returns:
        A new list; ``None`` for a missing or corrupt entry: wrong length, NaN, infinity, no numbers.

    Example:
        >>> read_entry({"embedding": [0.6, 0.8]}, 2)
        [0.6, 0.8]
        >>> read_entry({"embedding": [0.6, float("nan")]}, 2) is None
        True
    """
    values = entry.get(_FIELD) if isinstance(entry, dict) else None
    if not isinstance(values, list) or not values or len(values) != (dimension or len(values)):
        return None
    kinds = set(map(type, values))
    if not kinds <= {float, int}:
        return None
    try:
        vector = list(values) if kinds == {float} else list(map(float, values))
    except OverflowError:  # an integer beyond every float
        return None
    if math.isfinite(sum(vector)):  # a fifth of the time of looking at each; a sum can overflow, however
        return vector
    return vector if all(map(math.isfinite, vector)) else None
