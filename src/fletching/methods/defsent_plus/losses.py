"""The training losses of DefSent+ and of DefSent."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from fletching.errors import FidelityWarning, bad_argument, bad_shape
from fletching.methods.defsent_plus.config import NO_ENTRY
from fletching.methods.defsent_plus.functional import score_entries
from fletching.methods.defsent_plus.heads import MaskedWordHead, ProjectionHead, build_head
from fletching.models.inputs import check_positive

__all__ = ["CLASSES_AT_ONCE", "DefinitionProjectionLoss", "SingleWordLoss"]

CLASSES_AT_ONCE = 65_536  # ours: 8 MB of logits for 32 definitions
"""Entries whose logits are in memory at once, by default."""

_DEFSENT_PLUS = (
    "@article{liu2024defsentplus,\n"
    "    title={DefSent+: Improving sentence embeddings of language models by projecting definition "
    "sentences into a quasi-isotropic or isotropic vector space of unlimited dictionary entries},\n"
    "    author={Xiaodong Liu},\n    journal={arXiv preprint arXiv:2405.16153},\n    year={2024}\n}"
)
_DEFSENT = (
    "@inproceedings{tsukagoshi2021defsent,\n"
    "    title={DefSent: Sentence Embeddings using Definition Sentences},\n"
    "    author={Hayato Tsukagoshi and Ryohei Sasano and Koichi Takeda},\n"
    "    booktitle={ACL-IJCNLP 2021},\n    year={2021},\n    eprint={2105.04339}\n}"
)


class DefinitionProjectionLoss(nn.Module):
    """Classify each definition into its entry, by a projection and the frozen vectors of all entries.

    Implements ``cross_entropy(activation(W h + b) @ E^T, entry)`` of DefSent+ (arXiv 2405.16153, after its
    reference code): ``h`` is the sentence vector, ``E (V, D)`` the entries' vectors, built from definitions
    by an earlier model. No bias, no temperature, no normalisation, no sampling of classes. Trained are the
    encoder, ``W`` and ``b``.

    Args:
        model: The ``SentenceTransformer`` to train, pooled as its sentence vectors are to be.
        entry_embeddings: ``E``, one row for each entry: a tensor, or ``EntryEmbeddings``. It stays as it is,
            moves with the loss from device to device, and is not in its ``state_dict()``. In half precision
            it takes half the memory; logits are computed in float32 all the same.
        head: What ``W`` and ``b`` start from, see `build_head`: ``"auto"`` finds weights that were
            pre-trained with the encoder.
        activation: ``"tanh"``, ``"gelu"``, or ``"auto"``: what belongs to the head.
        backbone: Folder or hub id of the model that the encoder was made of, for checkpoints without weights
            for the head.
        classes_at_once: Logits are computed for so many entries at a time, >= 1, and again on the way back if
            that is not all of them: memory holds ``(B, classes_at_once)`` of them, not ``(B, V)``.

    Raises:
        ArgumentError: If an argument is outside its domain.
        CheckpointError: If ``backbone`` cannot be opened.

    Inputs:
        One column of texts, the definitions, and a label column: the number of the entry, shape ``(B,)``; or
        the numbers of all entries that the definition belongs to, shape ``(B, K)``, filled up with -1: the
        target is then uniform over them.

    Relations:
        With ``E`` as the weights of a linear layer without bias it is the cross-entropy of that layer.
        ``SoftmaxLoss`` of sentence-transformers trains its class matrix and reads pairs;
        ``MultipleNegativesRankingLoss`` takes the batch for classes, this one all entries.

    Pitfalls:
        - Entries with the same definitions have the same row of ``E``: no model tells them apart, and the
          loss of their definitions stays above ln 2. Merge them.
        - ``E`` scales the logits, there being no temperature: do not normalise it, or the method is another.
        - A model that ends with ``Normalize`` trains vectors of length one, which is not the method either;
          the loss warns.
        - ``W`` and ``b`` are parameters of the loss, which trainers do not write into checkpoints:
          `ProgressiveSeparateTrainer` does.
    """

    entry_matrix: Tensor

    def __init__(
        self,
        model: nn.Module,
        entry_embeddings: Any,
        *,
        head: str | nn.Linear | ProjectionHead = "auto",
        activation: str = "auto",
        backbone: str | None = None,
        classes_at_once: int = CLASSES_AT_ONCE,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        matrix = _read_matrix(owner, entry_embeddings)
        self.classes_at_once = check_positive(owner, "classes_at_once", classes_at_once)
        self.head = (
            head
            if isinstance(head, ProjectionHead)
            else build_head(model, head=head, activation=activation, backbone=backbone)
        )
        width = self.head.dense.out_features
        if matrix.shape[1] != width:
            raise bad_shape(owner, "entry_embeddings", "V, D", (len(matrix), width), matrix.shape)
        if any(isinstance(module, Normalize) for module in model.children()):
            warnings.warn(
                f"{owner}: the model ends with Normalize; the method trains vectors as they are pooled.",
                FidelityWarning,
                stacklevel=2,
            )
        self.model = model
        self.register_buffer("entry_matrix", matrix.detach().clone(), persistent=False)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """Compute the loss of a batch.

        Args:
            sentence_features: One dict of tokenised definitions.
            labels: Numbers of entries, shape ``(B,)`` or ``(B, K)``.

        Returns:
            A scalar, float32.

        Raises:
            ArgumentError: If there is another number of columns, or labels that do not fit.
        """
        return self.compute_loss_from_embeddings(_embed(self, sentence_features), labels)

    def compute_loss_from_embeddings(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of sentence vectors.

        Args:
            embeddings: Shape ``(B, D)``.
            labels: As for the call.

        Returns:
            A scalar, float32: the mean over definitions.

        Raises:
            ArgumentError: If the labels do not fit.
        """
        labels = self._check_labels(labels, len(embeddings)).to(embeddings.device)
        with torch.autocast(embeddings.device.type, enabled=False):
            projected = self.head(embeddings).float()
            own = labels != NO_ENTRY
            rows = self.entry_matrix[labels.clamp(min=0)].float()  # (B, K, D)
            found = torch.einsum("bd,bkd->bk", projected, rows).masked_fill(~own, 0.0)
            losses = self._sum_classes(projected) - found.sum(dim=1) / own.sum(dim=1)
        return losses.mean()

    def score_entries(self, embeddings: Tensor) -> Tensor:
        """Compute the logits of all entries.

        Args:
            embeddings: Sentence vectors, shape ``(B, D)``.

        Returns:
            Shape ``(B, V)``, float32.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            return score_entries(self.head(embeddings), self.entry_matrix)

    def _sum_classes(self, projected: Tensor) -> Tensor:
        """Compute the log of the sum of exponentials over all entries, shape ``(B,)``."""
        pieces = self.entry_matrix.split(self.classes_at_once)
        if len(pieces) == 1:
            return _sum_piece(projected, pieces[0])
        sums = [checkpoint(_sum_piece, projected, piece, use_reentrant=False) for piece in pieces]
        return torch.stack(sums, dim=1).logsumexp(dim=1)

    def _check_labels(self, labels: Tensor, n_rows: int) -> Tensor:
        owner, n_entries = type(self).__name__, len(self.entry_matrix)
        labels = labels[:, None] if labels.ndim == 1 else labels
        if labels.ndim != 2 or len(labels) != n_rows or labels.is_floating_point():
            domain = f"integers of the shape ({n_rows},) or ({n_rows}, K)"
            raise bad_argument(owner, "labels", domain, f"{labels.dtype}, {tuple(labels.shape)}")
        if int(labels.max()) >= n_entries or int(labels.min()) < NO_ENTRY:
            domain = f"numbers of the {n_entries} entries, from 0, or -1 to fill up"
            raise bad_argument(owner, "labels", domain, [int(labels.min()), int(labels.max())])
        if bool((labels == NO_ENTRY).all(dim=1).any()):
            raise bad_argument(owner, "labels", "given for every definition: at least one entry", NO_ENTRY)
        return labels

    def get_config_dict(self) -> dict[str, Any]:
        """Parameters for the model card."""
        return {
            "entries": len(self.entry_matrix),
            "head": self.head.source,
            "activation": self.head.activation,
            "classes_at_once": self.classes_at_once,
        }

    @property
    def citation(self) -> str:
        """BibTeX entry for the model card."""
        return _DEFSENT_PLUS


class SingleWordLoss(nn.Module):
    """Classify each definition into its word, by the frozen head for masked words: DefSent's loss.

    Implements ``cross_entropy(head(h), token)`` of DefSent (ACL 2021, arXiv 2105.04339): the head is the
    whole pre-trained one, so that only words that are one token can be classes. DefSent freezes the encoder's
    embeddings as well, which the head is tied to; the recipe does so, this loss leaves it to you.

    Args:
        model: The ``SentenceTransformer`` to train, pooled as its sentence vectors are to be.
        head: The head; it gets no gradient.

    Inputs:
        One column of texts, the definitions, and a label column: ids of tokens, shape ``(B,)``.

    Relations:
        The cross-entropy of masked language modelling, with the sentence vector in the place of the masked
        token's state.

    Pitfalls:
        An encoder that was tuned for sentences has lost its head for masked words: take that of the model
        that it was made of, `MaskedWordHead.from_pretrained`.
    """

    def __init__(self, model: nn.Module, head: MaskedWordHead) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """Compute the loss of a batch.

        Args:
            sentence_features: One dict of tokenised definitions.
            labels: Ids of tokens, shape ``(B,)``.

        Returns:
            A scalar, float32.

        Raises:
            ArgumentError: If there is another number of columns.
        """
        embeddings = _embed(self, sentence_features)
        return cross_entropy(self.head(embeddings), labels.view(-1))

    def get_config_dict(self) -> dict[str, Any]:
        """Parameters for the model card."""
        return {"head": type(self.head.network).__name__}

    @property
    def citation(self) -> str:
        """BibTeX entry for the model card."""
        return _DEFSENT


def _embed(loss: nn.Module, sentence_features: Iterable[dict[str, Tensor]]) -> Tensor:
    """Embed the one column."""
    columns = list(sentence_features)
    if len(columns) != 1:
        domain = "one column, the definitions"
        raise bad_argument(type(loss).__name__, "sentence_features", domain, f"{len(columns)} columns")
    model: Any = loss.model
    embeddings: Tensor = model(columns[0])["sentence_embedding"]
    return embeddings


def _sum_piece(projected: Tensor, piece: Tensor) -> Tensor:
    return score_entries(projected, piece).logsumexp(dim=1)


def _read_matrix(owner: str, entries: Any) -> Tensor:
    matrix = entries if isinstance(entries, Tensor) else getattr(entries, "vectors", None)
    if matrix is not None and not isinstance(matrix, Tensor):
        matrix = torch.as_tensor(matrix)
    if (
        not isinstance(matrix, Tensor)
        or matrix.ndim != 2
        or not matrix.is_floating_point()
        or not len(matrix)
    ):
        domain = "a matrix of shape (V, D), or EntryEmbeddings"
        raise bad_argument(owner, "entry_embeddings", domain, type(entries).__name__)
    return matrix
