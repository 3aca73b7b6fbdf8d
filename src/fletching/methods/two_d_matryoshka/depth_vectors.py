"""Vectors of all depths from one pass over the texts, block by block, kept where there is a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.base.modules import Normalize
from torch import Tensor
from torch.nn.functional import normalize

from fletching.errors import FletchingError
from fletching.evaluation.cache import open_store
from fletching.evaluation.costs import Spent
from fletching.evaluation.interface import describe_model
from fletching.evaluation.vectors import Arrays
from fletching.progress import progress_bar

__all__ = ["DepthEncoder", "Depths", "cut_vectors", "has_unit_length"]

Depths = Mapping[int, NDArray[np.float32]]
"""Number of layers -> vectors of all texts, shape ``(B, D)``."""

_BLOCK = 256  # texts encoded at once: what an interrupted run loses at most


class DepthEncoder:
    """Encodes texts at several depths, each text once.

    Args:
        model: An `ElasticEmbedder`.
        cache: Folder where vectors are kept while they come in; ``None`` keeps nothing.
        show_progress_bar: ``None``: if the ``fletching`` logger is at INFO and stderr is a terminal.
    """

    def __init__(
        self, model: Any, *, cache: str | Path | None = None, show_progress_bar: bool | None = None
    ) -> None:
        self.model = model
        self._cache = cache
        self._show = show_progress_bar

    def encode(self, texts: Sequence[str], layers: Sequence[int], side: str = "text") -> Depths:
        """Encode texts.

        Args:
            texts: The texts; equal ones are computed once.
            layers: Numbers of layers.
            side: As for `ElasticEmbedder.encode_sizes`.

        Returns:
            The vectors by depth, in the order of the texts.

        Raises:
            FletchingError: If a vector is not finite.
        """
        distinct = sorted(set(texts), key=lambda text: (len(text), text))  # of like length: little padding
        rows = {text: row for row, text in enumerate(distinct)}
        places = [rows[text] for text in texts]
        items = ((text, text) for text in distinct)
        blocks = [found for _, found in self.encode_blocks(items, layers, side, total=len(distinct))]
        return {
            depth: np.concatenate([block[depth] for block in blocks])[places]
            if blocks
            else np.empty((0, 0), dtype=np.float32)
            for depth in layers
        }

    def encode_blocks(
        self, items: Iterable[tuple[str, str]], layers: Sequence[int], side: str, *, total: int | None = None
    ) -> Iterator[tuple[list[str], Depths]]:
        """Encode texts that come one by one, and forget each block when the next is asked for.

        Args:
            items: Pairs of id and text.
            layers: Numbers of layers.
            side: As for `ElasticEmbedder.encode_sizes`.
            total: Number of texts, where it is known.

        Yields:
            The ids of a block, and its vectors by depth.

        Raises:
            FletchingError: If a vector is not finite.
        """
        keep = self._open_store(layers, side)
        stream = iter(items)
        with progress_bar(total, f"Encoding, {side}", self._show) as advance:
            while block := list(islice(stream, _BLOCK)):
                ids, texts = [key for key, _ in block], [text for _, text in block]

                def compute(texts: list[str] = texts) -> tuple[Arrays, Spent]:
                    found = self.model.encode_sizes(texts, layers, side=side, truncate_dim=self.model.width)
                    self._refuse_nan(found, texts)
                    return {f"layers_{depth}": vectors for depth, vectors in found.items()}, Spent(0.0)

                arrays = keep(ids, texts, compute)
                yield ids, {depth: arrays[f"layers_{depth}"] for depth in layers}
                advance(len(block))

    def _open_store(
        self, layers: Sequence[int], side: str
    ) -> Callable[[list[str], list[str], Callable[[], tuple[Arrays, Spent]]], Arrays]:
        if self._cache is None:
            return lambda _ids, _texts, compute: compute()[0]
        fingerprint = describe_model(self.model, {"side": side, "layers": list(layers)})
        return open_store(self._cache, {}, fingerprint=fingerprint, data="depths").keep_block

    def _refuse_nan(self, found: Depths, texts: list[str]) -> None:
        for depth, vectors in found.items():
            broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
            if len(broken):
                raise FletchingError(
                    f"DepthEncoder: the vector of {texts[broken[0]][:60]!r} after {depth} layers must be "
                    "finite; got NaN or infinity. Load the model in float32 or check its weights."
                )


def has_unit_length(model: Any) -> bool:
    """Say whether a model's vectors have length one by its own modules.

    Args:
        model: A ``SentenceTransformer``.

    Returns:
        Whether there is a ``Normalize`` module.
    """
    return any(isinstance(module, Normalize) for module in model)


def cut_vectors(
    vectors: NDArray[np.float32], dim: int, *, unit_length: bool, precision: str = "float32"
) -> Tensor:
    """Cut vectors to their first numbers, then give them length one again, then round them as stored.

    Args:
        vectors: Shape ``(B, D)``.
        dim: Numbers to keep, at most D.
        unit_length: Whether the model's vectors have length one.
        precision: ``"float32"`` or ``"float16"``.

    Returns:
        Shape ``(B, dim)``, float32.

    Example:
        >>> cut_vectors(np.array([[3.0, 4.0, 12.0]], dtype=np.float32), 2, unit_length=True)
        tensor([[0.6000, 0.8000]])
    """
    cut = torch.from_numpy(np.array(vectors[:, :dim], dtype=np.float32))
    if unit_length:
        cut = normalize(cut, dim=1)
    return cut.half().float() if precision == "float16" else cut
