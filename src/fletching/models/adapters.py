"""Adapters of PEFT that a folder brings: opened whole, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping

from fletching.errors import bad_checkpoint

__all__ = ["MAGNITUDES", "load_adapter", "read_magnitudes"]

MAGNITUDES = {r"lora_magnitude_vector\.([^.]+)$": r"lora_magnitude_vector.\1.weight"}
"""A ``key_mapping`` of ``from_pretrained``: DoRA's vectors, which PEFT saves under a shorter name.

Without it transformers leaves them as the base model has them, which is another model.
"""


def read_magnitudes(model_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Add to the arguments of ``from_pretrained`` what an adapter trained with DoRA needs.

    Args:
        model_kwargs: The arguments; a ``key_mapping`` among them stays.

    Returns:
        New ones.

    Example:
        >>> sorted(read_magnitudes({"dtype": "float32"}))
        ['dtype', 'key_mapping']
    """
    given = dict(model_kwargs or {})
    return {**given, "key_mapping": {**MAGNITUDES, **(given.get("key_mapping") or {})}}


def load_adapter(model: PreTrainedModel, folder: str) -> None:
    """Put an adapter on a model, with nothing missing and nothing left over.

    Args:
        model: A model of transformers.
        folder: The adapter's, as PEFT saves it.

    Raises:
        CheckpointError: If weights are missing or have no place.
    """
    mapping = get_model_conversion_mapping(model, MAGNITUDES)
    report = model.load_adapter(folder, weight_mapping=mapping)
    for what, keys in (
        ("lacks weights", sorted(report.missing_keys)),
        ("has weights that the model has no place for", sorted(report.unexpected_keys)),
    ):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise bad_checkpoint(folder, f"its adapter {what}: {keys[0]!r}{more}")
