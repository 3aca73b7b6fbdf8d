"""A reverse dictionary: the projection and the entries of a training, kept to name entries by definitions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fletching.data.lines import StrPath
from fletching.errors import bad_checkpoint, bad_choice, bad_shape
from fletching.methods.defsent_plus.config import ACTIVATIONS, TRAINING_POOLINGS
from fletching.methods.defsent_plus.entries import EntryEmbeddings
from fletching.methods.defsent_plus.functional import project_definitions, score_entries

__all__ = ["DICTIONARY_FOLDER", "EntryHit", "ReverseDictionary"]

DICTIONARY_FOLDER = "dictionary"
"""Where in a saved model the projection and the entries are; nobody else reads it."""

HEAD_FILE, ENTRIES_FILE = "head.safetensors", "entries.safetensors"

_FORMAT = "fletching.defsent_plus.head/1"
_OWNER = "ReverseDictionary"
_ROWS = 32  # logits of so many texts at once: 19 MB for 150,000 entries


@dataclass(frozen=True)
class EntryHit:
    """An entry that a text may define.

    Args:
        entry: The entry, the first of its class.
        members: All entries of the class: synonyms whose definitions are the same.
        score: The logit; higher is better, and only scores of one text compare.
    """

    entry: str
    members: tuple[str, ...]
    score: float


class ReverseDictionary:
    """Names entries by definitions: ``act(W h + b) E^T``, as in training.

    Args:
        weight: W, shape ``(D, D)``.
        bias: b, shape ``(D,)``.
        activation: ``"tanh"`` or ``"gelu"``.
        pooling: How definitions were pooled in training, ``"cls"`` or ``"mean"``.
        entries: E, with the entries' names.

    Raises:
        ArgumentError: If ``activation`` or ``pooling`` is no such name.
        ShapeError: If the shapes do not fit.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, *, activation: str, pooling: str, entries: EntryEmbeddings
    ) -> None:
        if activation not in ACTIVATIONS:
            raise bad_choice(_OWNER, "activation", ACTIVATIONS, activation)
        if pooling not in TRAINING_POOLINGS:
            raise bad_choice(_OWNER, "pooling", TRAINING_POOLINGS, pooling)
        width = entries.vectors.shape[1]
        if weight.ndim != 2 or len(weight) != width:
            raise bad_shape(_OWNER, "weight", "D, D", (width, width), weight.shape)
        if tuple(bias.shape) != (width,):
            raise bad_shape(_OWNER, "bias", "D", (width,), bias.shape)
        self.weight = weight.detach().float().cpu().clone()
        self.bias = bias.detach().float().cpu().clone()
        self.activation = activation
        self.pooling = pooling
        self.entries = entries

    def find(self, sentence_embeddings: Tensor, *, top_k: int) -> list[list[EntryHit]]:
        """Find the entries that score highest.

        Args:
            sentence_embeddings: h of bare texts, pooled as in training, shape ``(B, D)``.
            top_k: Entries for each; fewer if there are fewer.

        Returns:
            For each text its entries, the best first; of equal ones, the first.

        Raises:
            ShapeError: If the vectors have another width.
        """
        width = self.weight.shape[1]
        if sentence_embeddings.ndim != 2 or sentence_embeddings.shape[1] != width:
            expected = (len(sentence_embeddings), width)
            raise bad_shape(_OWNER, "sentence_embeddings", "B, D", expected, sentence_embeddings.shape)
        members = self.entries.members
        hits: list[list[EntryHit]] = []
        for rows in sentence_embeddings.float().cpu().split(_ROWS):
            projected = project_definitions(rows, self.weight, self.bias, activation=self.activation)
            logits = score_entries(projected, self.entries.vectors)
            order = logits.argsort(dim=1, descending=True, stable=True)[:, :top_k]
            hits += [
                [EntryHit(members[label][0], members[label], float(scores[label])) for label in labels]
                for labels, scores in zip(order.tolist(), logits, strict=True)
            ]
        return hits

    def save(self, folder: StrPath) -> None:
        """Write the projection and the entries.

        Args:
            folder: Where to; made when missing.
        """
        folder = Path(folder)
        self.entries.save(folder / ENTRIES_FILE)
        metadata = {"format": _FORMAT, "activation": self.activation, "pooling": self.pooling}
        save_file({"weight": self.weight, "bias": self.bias}, folder / HEAD_FILE, metadata=metadata)

    @classmethod
    def load(cls, head: StrPath, entries: StrPath) -> ReverseDictionary:
        """Read what :meth:`save` wrote.

        Args:
            head: The file of the projection.
            entries: The file of the entries.

        Returns:
            The reverse dictionary.

        Raises:
            CheckpointError: If the projection's file is something else.
            DataError: If the entries' file is.
        """
        try:
            with safe_open(head, framework="pt") as file:
                metadata: Any = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise bad_checkpoint(head, "it holds no projection of definitions")
                weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
                activation, pooling = metadata["activation"], metadata["pooling"]
        except (SafetensorError, OSError, KeyError) as error:
            raise bad_checkpoint(head, "the projection of definitions in it is broken") from error
        return cls(
            weight, bias, activation=activation, pooling=pooling, entries=EntryEmbeddings.load(entries)
        )
