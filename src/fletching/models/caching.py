"""Where things that can be made again are kept."""

from __future__ import annotations

import os
from pathlib import Path

from fletching.errors import missing_extra

__all__ = ["find_cache"]


def find_cache() -> Path:
    """Say where indexes and evaluations are kept by default.

    Returns:
        The environment variable ``FLETCHING_CACHE``, else ``fletching`` in the user's cache folder.

    Raises:
        MissingExtraError: If the variable is not set and platformdirs is not installed.
    """
    if given := os.environ.get("FLETCHING_CACHE"):
        return Path(given).expanduser()
    try:
        from platformdirs import user_cache_path
    except ModuleNotFoundError as error:
        raise missing_extra("find_cache", "platformdirs", "") from error
    return user_cache_path("fletching")
