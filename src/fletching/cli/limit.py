"""``fletching limit``: is the dimension enough, and what does a model make of LIMIT?"""

from __future__ import annotations

from fletching.cli._limit_dimension import dimension
from fletching.cli._limit_run import run

__all__ = ["commands", "summary"]

summary = "Ask how much one vector for each text can hold."
"""The help of the group."""

commands = {"dimension": dimension, "run": run}
"""Name -> function."""
