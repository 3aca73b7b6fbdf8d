"""Whose checkpoint it is: what a save of ours says of itself, and whether a folder goes by a hub id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

__all__ = ["MARK", "goes_by", "read_mark"]

MARK = "fletching"
"""Key of ``config_sentence_transformers.json`` under which a save of ours says what it is."""


def read_mark(model_config: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Return what a save of ours says of itself.

    Args:
        model_config: Content of ``config_sentence_transformers.json``.
        method: The method that asks.

    Returns:
        Its settings; empty for a checkpoint of somebody else, or of another method.

    Example:
        >>> read_mark({"fletching": {"method": "kalm"}}, "kalm")
        {'method': 'kalm'}
        >>> read_mark({}, "kalm")
        {}
    """
    mark = model_config.get(MARK)
    return dict(mark) if isinstance(mark, dict) and mark.get("method") == method else {}


def goes_by(location: str, model_id: str) -> bool:
    """Say whether a hub id, or a folder, carries the name of a released checkpoint.

    Args:
        location: Hub id or folder. Folders count by their last part, and those of the hub's cache.
        model_id: ``owner/name``; case does not count.

    Returns:
        True if it does.

    Example:
        >>> goes_by("models/all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")
        True
    """
    parts = [part.lower() for part in PurePath(location).parts]
    owner, name = model_id.lower().split("/")
    return bool(parts) and (parts[-1] == name or f"models--{owner}--{name}" in parts)
