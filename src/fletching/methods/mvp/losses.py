"""The training loss of MVP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fletching.errors import ShapeError, bad_argument, bad_choice
from fletching.methods.mvp.functional import build_target, compute_orthogonality_loss, compute_rank_loss
from fletching.methods.mvp.model import MVPReranker

TARGETS = ("reciprocal_rank", "raw")
"""What ``target=`` may be."""


class MVPLoss(nn.Module):
    """Rank loss on the scores of a list plus orthogonality of its anchors.

    Implements ``L = L_rank + orthogonality_weight * L_orth`` of the reference code.

    Args:
        model: The model to train.
        temperature: Divides scores and reciprocal ranks; > 0. Reference code: 0.8.
        orthogonality_weight: Weight of the anchor term; >= 0. Reference code: 1.0.
        double_softmax: As the reference code, which applies softmax twice; ``False`` is plain ListNet.
        target: ``"reciprocal_rank"`` turns labels into ranks (reference code); ``"raw"`` takes the softmax of
            the labels themselves, e.g. a teacher's logits.

    Raises:
        ArgumentError: If an argument is outside its domain.

    Inputs:
        Texts ``(query, [document, ...])``, labels ``[float, ...]`` per list, higher is better; lists may
        differ in length.

    Relations:
        With ``orthogonality_weight=0``, ``double_softmax=False``, ``target="raw"`` and ``temperature=1`` the
        value is that of ``sentence_transformers.cross_encoder.losses.ListNetLoss``, which cannot be used
        itself: it cuts lists into mini-batches.

    Pitfalls:
        The reference code trains on lists of exactly five passages; longer lists flatten the reciprocal-rank
        target.
    """

    def __init__(
        self,
        model: MVPReranker,
        *,
        temperature: float = 0.8,
        orthogonality_weight: float = 1.0,
        double_softmax: bool = True,
        target: str = "reciprocal_rank",
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise bad_argument("MVPLoss", "temperature", "positive", temperature)
        if not orthogonality_weight >= 0:
            raise bad_argument("MVPLoss", "orthogonality_weight", "zero or positive", orthogonality_weight)
        if target not in TARGETS:
            raise bad_choice("MVPLoss", "target", TARGETS, target)
        self.model = model
        self.temperature = temperature
        self.orthogonality_weight = orthogonality_weight
        self.double_softmax = double_softmax
        self.target = target

    def forward(
        self,
        inputs: Sequence[Any],
        labels: Sequence[Tensor],
        prompt: str | None = None,
        task: str | None = None,
    ) -> dict[str, Tensor]:
        """Compute both parts of the loss for a batch of lists.

        Args:
            inputs: ``[queries, document_lists]``.
            labels: One tensor per list, shape ``(N,)``.
            prompt: Passed to the model's ``preprocess``.
            task: Passed to the model's ``preprocess``.

        Returns:
            ``{"rank": ..., "orthogonality": ...}``, float32 scalars; the trainer logs each and trains on
            their sum.

        Raises:
            ArgumentError: If a list is empty, or the model is no MVP.
            ShapeError: If labels do not match the lists.
        """
        if len(inputs) != 2:
            raise bad_argument("MVPLoss", "inputs", "two columns, query and documents", len(inputs))
        queries, document_lists = inputs
        sizes = [len(documents) for documents in document_lists]
        if 0 in sizes:
            raise bad_argument("MVPLoss", "inputs", "lists of at least one document", sizes)
        if [len(row) for row in labels] != sizes:
            got = [len(row) for row in labels]
            raise ShapeError(
                f"MVPLoss: `labels` must hold one number per document, {sizes} per list; got {got}."
            )
        pairs = [
            (query, text) for query, texts in zip(queries, document_lists, strict=True) for text in texts
        ]
        features = self.model.preprocess(pairs, prompt=prompt, task=task)
        features["list_sizes"] = sizes  # said outright: equal neighbouring queries must not merge
        outputs = self.model(batch_to_device(features, self.model.device))
        if "anchors" not in outputs:
            raise bad_argument("MVPLoss", "model", "an MVPReranker", type(self.model).__name__)
        scores = pad_sequence(list(outputs["scores"].view(-1).split(sizes)), batch_first=True)
        targets = [self._build_target(row.to(scores.device)) for row in labels]
        target = pad_sequence(targets, batch_first=True)
        mask = pad_sequence([torch.ones(size, device=scores.device) for size in sizes], batch_first=True)
        rank = compute_rank_loss(
            scores, target, mask, temperature=self.temperature, double_softmax=self.double_softmax
        )
        orthogonality = self.orthogonality_weight * compute_orthogonality_loss(outputs["anchors"])
        return {"rank": rank, "orthogonality": orthogonality}

    def _build_target(self, labels: Tensor) -> Tensor:
        if self.target == "raw":
            return labels.float().softmax(dim=-1)
        return build_target(labels, temperature=self.temperature)

    def get_config_dict(self) -> dict[str, Any]:
        """Parameters for the model card."""
        names = ("temperature", "orthogonality_weight", "double_softmax", "target")
        return {name: getattr(self, name) for name in names}

    @property
    def citation(self) -> str:
        """BibTeX entry for the model card."""
        return (
            "@inproceedings{na2025mvp,\n"
            "    title={Multi-view-guided Passage Reranking with Large Language Models},\n"
            "    author={Na and Kwon and Choi and Lee},\n"
            "    booktitle={EMNLP},\n    year={2025},\n    eprint={2509.07485}\n}"
        )
