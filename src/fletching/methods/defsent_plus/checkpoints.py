"""Which checkpoints are DefSent's or DefSent+'s, and how each pools and tokenizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from fletching.models.marks import read_mark

__all__ = ["METHOD", "PublishedCheckpoint", "find_published", "is_defsent_plus"]

METHOD = "defsent_plus"
"""What a save of ours says that it is."""

_PLUS = re.compile(r"defsentplus-(?:.+-)?(?P<backbone>bert|roberta)-(?P<size>base|large)(?:-uncased)?", re.I)
_DEFSENT = re.compile(
    r"defsent-(?:(?P<bert>bert)-(?P<bert_size>base|large)-uncased|roberta-(?P<size>base|large))"
    r"-(?P<pooling>cls|mean|max)",
    re.I,
)

_POOLINGS = {  # what the names of DefSent+'s do not tell
    "defsentplus-bert-base-uncased": "prompt",  # reference code, the script that measures it
    "defsentplus-syncse-partial-roberta-base": "mean",  # reference code, README: as in training
    "defsentplus-syncse-partial-roberta-large": "cls",  # the same
}


@dataclass(frozen=True)
class PublishedCheckpoint:
    """What the name of one of the authors' checkpoints tells.

    Args:
        backbone: Hub id of the model that it started from, whose tokenizer it needs.
        pooling: How it pools; ``None`` where neither the name nor the authors tell.
    """

    backbone: str
    pooling: str | None


def find_published(location: str) -> PublishedCheckpoint | None:
    """Read a checkpoint of the authors off its hub id, or off a folder that carries its name.

    ``RyuKT/DefSentPlus-...`` come without a tokenizer, and only of some is it known how they pool;
    ``cl-nagoya/defsent-...`` end with their pooling.

    Args:
        location: Hub id or folder. Folders count by their last part, and those of the hub's cache.

    Returns:
        What the name tells; ``None`` if it is no such name.

    Example:
        >>> find_published("cl-nagoya/defsent-roberta-base-max")
        PublishedCheckpoint(backbone='FacebookAI/roberta-base', pooling='max')
        >>> find_published("RyuKT/DefSentPlus-simcse-bert-base-uncased").backbone
        'google-bert/bert-base-uncased'
    """
    parts = PurePath(location).parts
    names = [parts[-1]] if parts else []
    names += [part.rpartition("--")[2] for part in parts if part.startswith("models--")]
    for name in names:
        if found := _PLUS.fullmatch(name):
            pooling = _POOLINGS.get(name.lower())
            return PublishedCheckpoint(_name_backbone(found["backbone"], found["size"]), pooling)
        if found := _DEFSENT.fullmatch(name):
            family = "bert" if found["bert"] else "roberta"
            size = found["bert_size"] or found["size"]
            return PublishedCheckpoint(_name_backbone(family, size), found["pooling"].lower())
    return None


def is_defsent_plus(location: str, contents: Mapping[str, Any]) -> bool:
    """Say whether a checkpoint is DefSent's or DefSent+'s, so that ``fletching.load`` opens it as such.

    It is if a save of ours says so, or if it is a plain BERT or RoBERTa and goes by the name.

    Args:
        location: Hub id or folder.
        contents: ``modules.json``, ``config.json`` and ``config_sentence_transformers.json``.

    Returns:
        Whether it is.
    """
    if read_mark(contents["config_sentence_transformers.json"], METHOD):
        return True
    return (
        not contents["modules.json"]
        and contents["config.json"].get("model_type") in ("bert", "roberta")
        and find_published(location) is not None
    )


def _name_backbone(family: str, size: str) -> str:
    if family.lower() == "bert":
        return f"google-bert/bert-{size.lower()}-uncased"
    return f"FacebookAI/roberta-{size.lower()}"
