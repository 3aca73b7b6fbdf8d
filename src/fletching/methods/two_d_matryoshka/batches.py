"""A batch that is embedded once, and shown to a base loss as any layer and size would have embedded it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.merged_forward import column_merging_disabled
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, WeightedLayerPooling
from torch import Tensor, nn
from torch.nn.functional import normalize

from fletching.errors import bad_argument
from fletching.methods.two_d_matryoshka.functional import compute_token_kl
from fletching.methods.two_d_matryoshka.modules import read_state, view_with_states
from fletching.nn import count_layers

__all__ = ["EmbeddedBatch", "take_transformer", "unwrap_model"]

_OWNER = "TwoDMatryoshkaLoss"
_WRAPPED_AS = ("_orig_mod", "module")  # by torch.compile, by DistributedDataParallel

Features = dict[str, Any]


class EmbeddedBatch:
    """Columns of texts that have run through a model once.

    Vectors are those before a ``Normalize`` at the end of the model: what a base loss is shown gets length
    one after it is cut, as in use.

    Args:
        model: A ``SentenceTransformer``, or a wrapper of one that training has made.
        columns: One dict of tokenised texts for each column; left as they are.
        norm: What a backbone applies behind its last layer; ``None`` for nothing.
    """

    def __init__(self, model: nn.Module, columns: Sequence[Features], *, norm: nn.Module | None) -> None:
        self.network = unwrap_model(model)
        self._wrappers = list(_walk_wrappers(model))
        self.columns = list(columns)
        self._norm = norm
        tail = list(self.network)[1:]
        self._has_unit_length = bool(tail) and isinstance(tail[-1], Normalize)
        while tail and isinstance(tail[-1], Normalize):
            tail.pop()
        self._tail = tail
        with _states_handed_out(take_transformer(self.network)):
            self._outputs = [model(dict(column)) for column in self.columns]
        if any("all_layer_embeddings" not in output for output in self._outputs):
            backbone = type(take_transformer(self.network).model).__name__
            raise bad_argument(_OWNER, "model", "one whose backbone gives the states of all layers", backbone)
        self._vectors: dict[int, list[Tensor]] = {}

    def embed(self, layer: int) -> list[Tensor]:
        """Read the vectors behind a layer.

        Args:
            layer: How many layers have run; 0 for the output of the embeddings.

        Returns:
            One tensor for each column, shape ``(B, D)``, not normalised.
        """
        if layer not in self._vectors:
            self._vectors[layer] = [self._pool(output, layer) for output in self._outputs]
        return self._vectors[layer]

    def stack(self, layer: int) -> Tensor:
        """Read the vectors of all columns, one after the other.

        Args:
            layer: As for `embed`.

        Returns:
            Shape ``(B, D)`` for all B texts, float32 (float64 for a float64 model).
        """
        vectors = torch.cat(self.embed(layer))
        return vectors.to(torch.promote_types(vectors.dtype, torch.float32))

    def compute_loss(self, base_loss: nn.Module, labels: Any, *, layer: int, size: int) -> Tensor:
        """Compute a base loss as if the model had so many layers and so wide vectors.

        Args:
            base_loss: A loss on the model of this batch.
            labels: Its labels; those as wide as the vectors are cut, too.
            layer: As for `embed`.
            size: Coordinates to keep.

        Returns:
            A scalar, float32 (float64 for a float64 model).

        Raises:
            ArgumentError: If the loss embeds anything but its columns.
        """
        vectors = self.embed(layer)
        width = vectors[0].shape[-1]
        if isinstance(labels, Tensor) and labels.ndim in (2, 3) and labels.shape[-1] == width:
            labels = labels[..., :size]
        vectors = [column[:, :size] for column in vectors]
        if self._has_unit_length:
            vectors = [normalize(column, dim=-1) for column in vectors]
        with self._shown_as(vectors, type(base_loss).__name__), column_merging_disabled():
            found = base_loss([dict(column) for column in self.columns], labels)
        loss: Tensor = torch.stack(list(found.values())).sum() if isinstance(found, dict) else found
        return loss.to(torch.promote_types(loss.dtype, torch.float32))

    def ask_teacher(self, teacher: SentenceTransformer) -> tuple[Tensor, Tensor]:
        """Let a frozen model read the batch.

        Args:
            teacher: A model of the same tokens.

        Returns:
            Its vectors as `stack` gives them, and how far the states of the last layer are from its own.
        """
        with torch.no_grad():
            teacher.eval().to(self._outputs[0]["token_embeddings"].device)
            read = EmbeddedBatch(teacher, self.columns, norm=None)
        last = _count_states(read)
        n_rows = sum(len(column) for column in read.embed(last))
        divergences = [
            compute_token_kl(
                mine["token_embeddings"].float(), theirs["token_embeddings"].float(), mine["attention_mask"]
            )
            * len(mine["attention_mask"])
            for mine, theirs in zip(self._outputs, read._outputs, strict=True)
        ]
        return read.stack(last), torch.stack(divergences).sum() / n_rows

    def _pool(self, output: Features, layer: int) -> Tensor:
        features = {**output, "token_embeddings": read_state(output, layer, self._norm)}
        for module in self._tail:
            features = module(features)
        vectors: Tensor = features["sentence_embedding"]
        return vectors

    @contextmanager
    def _shown_as(self, vectors: Sequence[Tensor], loss_name: str) -> Iterator[None]:
        """Let the model answer with these vectors when it is asked for a column of the batch."""
        known = {_identify(column): place for place, column in enumerate(self.columns)}

        def answer(features: Features, **_: Any) -> Features:
            place = known.get(_identify(features))
            if place is None:
                domain = "a loss that embeds its columns as they are"
                raise bad_argument(_OWNER, "base_loss", domain, loss_name)
            return {**features, "sentence_embedding": vectors[place]}

        # Wrappers answer, too: what one counts as a forward pass is not to be counted again.
        before = [vars(module).get("forward") for module in self._wrappers]
        for module in self._wrappers:
            vars(module)["forward"] = answer
        try:
            yield
        finally:
            for module, forward in zip(self._wrappers, before, strict=True):
                if forward is None:
                    del vars(module)["forward"]
                else:
                    vars(module)["forward"] = forward


def unwrap_model(model: Any) -> SentenceTransformer:
    """Find the model inside what training has wrapped it into.

    Args:
        model: A ``SentenceTransformer``, or one inside ``DistributedDataParallel`` or ``torch.compile``.

    Returns:
        The model.

    Raises:
        ArgumentError: If there is none inside.
    """
    *_, found = _walk_wrappers(model)
    if not isinstance(found, SentenceTransformer):
        raise bad_argument(_OWNER, "model", "a SentenceTransformer", model)
    return found


def take_transformer(model: SentenceTransformer) -> Transformer:
    """Find the module whose layers are left out.

    Args:
        model: The model.

    Returns:
        Its first module.

    Raises:
        ArgumentError: If that is no ``Transformer``, or another module reads several of its layers.
    """
    first = model[0] if len(model) else None
    if not isinstance(first, Transformer):
        domain = "a SentenceTransformer that begins with a Transformer module"
        raise bad_argument(_OWNER, "model", domain, type(first).__name__)
    if any(isinstance(module, WeightedLayerPooling) for module in model):
        raise bad_argument(_OWNER, "model", "one whose pooling reads one layer", "WeightedLayerPooling")
    return first


def _walk_wrappers(model: Any) -> Iterator[Any]:
    """Yield a model, what it wraps, and so on."""
    yield model
    if not isinstance(model, SentenceTransformer):
        name = next((name for name in _WRAPPED_AS if hasattr(model, name)), None)
        if name is not None:
            yield from _walk_wrappers(getattr(model, name))


@contextmanager
def _states_handed_out(transformer: Transformer) -> Iterator[None]:
    """Let a view take the place of the network, and return the states of all layers."""
    network = transformer.model
    transformer.model = view_with_states(network, count_layers(network))
    try:
        yield
    finally:
        transformer.model = network


def _identify(features: Features) -> int:
    """Find what stays the same when a wrapper copies a column: where its first tensor lies."""
    tensors = (value for value in features.values() if isinstance(value, Tensor))
    return features["input_ids"].data_ptr() if "input_ids" in features else next(tensors).data_ptr()


def _count_states(batch: EmbeddedBatch) -> int:
    return len(batch._outputs[0]["all_layer_embeddings"]) - 1
