"""The mixin behind :class:`~fletching.models.Embedder` and :class:`~fletching.models.Reranker`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.model import BaseModel
from sentence_transformers.base.modules import Transformer
from sentence_transformers.util import batch_to_device, get_device_name
from torch import Tensor

from fletching.errors import bad_argument
from fletching.models.adapters import read_magnitudes
from fletching.models.batching import TokenizedRows, can_split, pad_rows, run_batches, split_rows
from fletching.models.card import write_usage
from fletching.models.hardware import default_token_budget, resolve_dtype
from fletching.models.inputs import check_count
from fletching.models.load_reports import expect_heads
from fletching.models.tokenization import TokenizerLock, find_lock, keep_to_positions
from fletching.models.trust import TRUSTED_MODULES
from fletching.progress import progress_bar

NO_ROW_LIMIT = 2**31
"""Rows of a micro-batch when only the token budget limits it."""

STOCK_BATCH_SIZE = 32
"""Rows of a batch where sentence-transformers does the work, as in its own signature."""

_CHUNK = 256  # inputs tokenized at once: enough to amortise the call, few enough to react to Ctrl-C
_CHUNK_CHARACTERS = 2**20  # and padded characters: one very long text must not pad 255 short ones


def find_broken(outputs: Tensor) -> tuple[int, str] | None:
    """Find the first row that must not leave the model.

    Args:
        outputs: What a model computed, one row per input.

    Returns:
        Its position and what is in it, ``"NaN"`` or ``"infinity"``; ``None`` if all is well.
    """
    broken = ~outputs.isfinite().flatten(1).all(dim=1) if outputs.ndim > 1 else ~outputs.isfinite()
    if not broken.any():
        return None
    index = int(broken.nonzero()[0])
    return index, "NaN" if outputs[index].isnan().any() else "infinity"


class MicroBatched(BaseModel):
    """Thread-safe tokenization and token-budget micro-batches for a sentence-transformers model.

    Mixed in front of a model class. Everything sentence-transformers does with the model (training, saving,
    multi-process pools, evaluators) goes on as before.

    Args:
        model_name_or_path: Folder or hub id; ``None`` with ``modules=`` builds a new model.
        dtype: ``None``, ``"auto"``, a name of ``hardware.DTYPES`` or a ``torch.dtype``.
        max_tokens_per_batch: Padded tokens of one micro-batch; ``None`` chooses by device and precision.
        **kwargs: Arguments of the model class.
    """

    usage_example: str
    """Lines of the model card that use ``model``."""

    _module_classes = TRUSTED_MODULES

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str] | None = None,
        *,
        dtype: str | torch.dtype | None = None,
        max_tokens_per_batch: int | None = None,
        **kwargs: Any,
    ) -> None:
        owner = type(self).__name__
        if not model_name_or_path and not kwargs.get("modules"):
            domain = "a folder or a hub id, unless `modules` are given"
            raise bad_argument(owner, "model_name_or_path", domain, model_name_or_path)
        self.max_tokens_per_batch = check_count(owner, "max_tokens_per_batch", max_tokens_per_batch)
        device_type = torch.device(kwargs.get("device") or get_device_name()).type
        resolved = resolve_dtype(owner, dtype, device_type)
        if resolved is not None:
            kwargs["model_kwargs"] = {**(kwargs.get("model_kwargs") or {}), "dtype": resolved}
        location = os.fspath(model_name_or_path) if model_name_or_path else None
        if location and kwargs.get("backend", "torch") == "torch":
            kwargs["model_kwargs"] = read_magnitudes(kwargs.get("model_kwargs"))
        with expect_heads():
            super().__init__(location, **kwargs)
        if resolved is not None:
            self.to(dtype=resolved)
        keep_to_positions(self)

    @property
    def _tokenizer_lock(self) -> TokenizerLock:
        return find_lock(self[0])

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Tokenize as sentence-transformers does, one thread at a time.

        Args:
            inputs: Texts or pairs of texts.
            prompt: Put in front of each text; ``None`` adds nothing.
            **kwargs: Passed to the first module's ``preprocess``.

        Returns:
            Padded features of the batch.
        """
        with self._tokenizer_lock:
            return super().preprocess(inputs, prompt=prompt, **kwargs)

    def _tokenize_rows(
        self,
        inputs: Sequence[Any],
        *,
        prompt: str | None,
        before_chunk: Callable[[], None] = lambda: None,
        **kwargs: Any,
    ) -> TokenizedRows | None:
        """Rows of all inputs in their own order; ``None`` if the model's features cannot be split."""
        lengths = [self._input_length(item) for item in inputs]
        rows: list[Any] = [None] * len(inputs)
        constants: dict[str, Any] = {}
        for chunk in _cut(lengths):
            before_chunk()
            features = self.preprocess([inputs[index] for index in chunk], prompt=prompt, **kwargs)
            if not can_split(features):
                return None
            split = split_rows(features)
            constants = split.constants
            for index, row in zip(chunk, split.rows, strict=True):
                rows[index] = row
        return TokenizedRows(rows, constants)

    def _run_rows(
        self,
        tokenized: TokenizedRows,
        compute: Callable[[dict[str, Any]], Tensor],
        *,
        device: torch.device,
        max_rows: int,
        show_progress_bar: bool | None,
        desc: str,
        before_batch: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Compute every distinct row once, in micro-batches; one output per row, in the caller's order."""
        first, inverse = tokenized.distinct()
        rows = [tokenized.rows[index] for index in first]
        lengths = [row["attention_mask"].numel() for row in rows]
        budget = self.max_tokens_per_batch or default_token_budget(device.type, self.dtype)
        padding, side = self._padding()
        told = side == "left" and self._takes_positions()

        def run(batch: list[int]) -> Tensor:
            padded = pad_rows([rows[index] for index in batch], padding=padding, side=side)
            if told and not padded["attention_mask"].all():
                padded["position_ids"] = (padded["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
            return compute(batch_to_device({**tokenized.constants, **padded}, device))

        outputs: Tensor | None = None
        with progress_bar(len(rows), desc, show_progress_bar) as advance:
            for batch, output in run_batches(
                lengths, run, max_tokens=budget, max_rows=max_rows, before_batch=before_batch
            ):
                if outputs is None:
                    outputs = output.new_empty((len(rows), *output.shape[1:]))
                outputs[batch] = output
                advance(len(batch))
        assert outputs is not None, "callers pass at least one row"
        return outputs[inverse]

    def _padding(self) -> tuple[dict[str, int], str]:
        tokenizer = self.tokenizer
        padding = {
            "input_ids": getattr(tokenizer, "pad_token_id", None) or 0,
            "token_type_ids": getattr(tokenizer, "pad_token_type_id", None) or 0,
        }
        return padding, getattr(tokenizer, "padding_side", "right")

    def _takes_positions(self) -> bool:
        """Whether the network must be told where a row begins, lest padding in front moves its positions."""
        first: Any = self[0]
        return (
            type(first) is Transformer
            and first.modalities == ["text"]
            and "position_ids" in signature(first.model.forward).parameters
        )

    def _show_usage(self) -> str:
        return self.usage_example

    def _create_model_card(self, path: str, model_name: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Write the card, with the usage section of the class that was saved."""
        super()._create_model_card(path, model_name, *args, **kwargs)
        card: Any = self.model_card_data
        name = card.model_id or model_name or Path(path).resolve().name
        write_usage(path, type(self), name, self._show_usage())


def _cut(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Cut inputs into chunks to be tokenized and padded together, the shortest first."""
    chunk: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if len(chunk) == _CHUNK or (chunk and (len(chunk) + 1) * lengths[index] > _CHUNK_CHARACTERS):
            yield chunk
            chunk = []
        chunk.append(index)
    if chunk:
        yield chunk
