"""AnglE's loss (arXiv 2309.12871): what the authors of 2DMSE and ESE train on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.util import pairwise_angle_sim, pairwise_cos_sim
from torch import Tensor, nn

from fletching.errors import bad_argument
from fletching.methods.two_d_matryoshka.functional import compute_contrast, compute_cosent

__all__ = ["CombinedAnglELoss"]

_OWNER = "CombinedAnglELoss"
_WEIGHTS = ("ibn_weight", "cln_weight", "angle_weight", "cosine_weight")


class CombinedAnglELoss(nn.Module):
    """In-batch negatives, a hard negative, and the order of angles and of cosines, in one sum.

    ``(ibn_weight * CE(q, p) + cln_weight * CE(q, [p; n])) / 2 + angle_weight * angle + cosine_weight *
    CoSENT`` of the reference code (SeanLee97/AnglE). Both orders want each pair ``(q, p)`` above each pair
    ``(q, n)``, or pairs in the order of their labels. The difference of angles takes the halves of a vector
    as real and imaginary parts. Differs from the reference code: labelled pairs have no in-batch negatives,
    which it finds by labels that are whole numbers.

    Args:
        model: The ``SentenceTransformer`` to train.
        ibn_weight: Of in-batch negatives without the hard ones, >= 0. Reference code: 1.
        cln_weight: Of in-batch negatives with the hard ones, >= 0. Reference code: 1.
        angle_weight: Of the order of angles, >= 0. Reference code: 0.02; its scripts: 1.
        cosine_weight: Of the order of cosines, >= 0. Reference code: 0.
        scale: Multiplies cosines, > 0. Reference code: 20.
        angle_scale: Multiplies differences of angles, > 0. Reference code: 20.

    Raises:
        ArgumentError: If a weight or scale is outside its domain, or all weights are 0.

    Inputs:
        Columns ``(query, positive, negative)`` without labels: everything. ``(query, positive)`` without
        labels: only ``CE(q, p)``, with weight 1, as in the reference code. ``(sentence1, sentence2)`` with
        scores as labels: only the orders of angles and of cosines.

    Relations:
        - ``MultipleNegativesRankingLoss`` is ``CE(q, [p; n])``.
        - For labelled pairs ``AnglELoss`` and ``CoSENTLoss`` of sentence-transformers are its two parts.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        ibn_weight: float = 1.0,
        cln_weight: float = 1.0,
        angle_weight: float = 0.02,
        cosine_weight: float = 0.0,
        scale: float = 20.0,
        angle_scale: float = 20.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.ibn_weight = ibn_weight
        self.cln_weight = cln_weight
        self.angle_weight = angle_weight
        self.cosine_weight = cosine_weight
        self.scale = scale
        self.angle_scale = angle_scale
        for name in _WEIGHTS:
            if not 0 <= getattr(self, name) < math.inf:
                raise bad_argument(_OWNER, name, "zero or positive", getattr(self, name))
        for name in ("scale", "angle_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise bad_argument(_OWNER, name, "positive and finite", getattr(self, name))
        if not any(getattr(self, name) for name in _WEIGHTS):
            raise bad_argument(_OWNER, "ibn_weight", "positive where the other weights are 0", ibn_weight)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """Compute the loss of a batch.

        Args:
            sentence_features: Two or three columns of tokenised texts.
            labels: Scores of labelled pairs, shape ``(B,)``; ``None`` for pairs and triplets.

        Returns:
            A scalar.

        Raises:
            ArgumentError: If the columns are not two or three, or labels have no use.
        """
        return self.compute_loss_from_embeddings(embed_columns(self.model, list(sentence_features)), labels)

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[Tensor], labels: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of columns that are embedded already.

        Args:
            embeddings: Two or three columns, shape ``(B, D)``.
            labels: Scores of labelled pairs, shape ``(B,)``; ``None`` for pairs and triplets.

        Returns:
            A scalar.

        Raises:
            ArgumentError: If the columns are not two or three, or labels have no use.
        """
        n_columns = len(embeddings)
        if n_columns not in (2, 3):
            domain = "query, positive and, if there is one, negative"
            raise bad_argument(_OWNER, "columns", domain, n_columns)
        queries, positives = embeddings[:2]
        if labels is not None:
            if n_columns == 3:
                shape = f"shape {tuple(labels.shape)}"
                raise bad_argument(_OWNER, "labels", "left out where there are negatives", shape)
            if not (self.angle_weight or self.cosine_weight):
                domain = "positive for labelled pairs, or `cosine_weight` is"
                raise bad_argument(_OWNER, "angle_weight", domain, self.angle_weight)
            return self._compute_orders(queries, positives, labels.view(-1))
        plain = compute_contrast(queries, [positives], scale=self.scale)
        if n_columns == 2:
            return plain
        negatives = embeddings[2]
        hard = compute_contrast(queries, [positives, negatives], scale=self.scale)
        wanted = torch.ones(2, len(queries), device=queries.device)
        wanted[1] = 0
        orders = self._compute_orders(
            torch.cat([queries, queries]), torch.cat([positives, negatives]), wanted.view(-1)
        )
        return (self.ibn_weight * plain + self.cln_weight * hard) / 2 + orders

    def _compute_orders(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        """Compute how far angles and cosines are from the order of the labels."""
        angles = compute_cosent(pairwise_angle_sim(first, second) * self.angle_scale, labels)
        cosines = compute_cosent(pairwise_cos_sim(first, second) * self.scale, labels)
        return self.angle_weight * angles + self.cosine_weight * cosines

    def get_config_dict(self) -> dict[str, Any]:
        """Return the parameters for the model card."""
        return {name: getattr(self, name) for name in (*_WEIGHTS, "scale", "angle_scale")}

    @property
    def citation(self) -> str:
        """BibTeX entry for the model card."""
        return (
            "@misc{li2023angle,\n"
            "    title={AnglE-optimized Text Embeddings},\n"
            "    author={Li, Xianming and Li, Jing},\n"
            "    year={2023},\n    eprint={2309.12871}\n}"
        )
