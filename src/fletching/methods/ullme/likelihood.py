"""The module of the reranker: a query and a passage in, the passage's likelihood out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from fletching.methods.ullme.modules import IGNORED, LLMTransformer


class LikelihoodTransformer(LLMTransformer):
    """The same language model as a scorer: a query and a passage in, the passage's likelihood out.

    ``s_gen(q, p) = 1/|p| sum_t log P(p_t | q, p_<t)``, Man et al. 2024. An empty passage has no token; it
    counts as one that the model knows nothing about, ``-log V`` for a vocabulary of V tokens.

    Args:
        model_name_or_path: As for :class:`LLMTransformer`, like all that follow.
        **kwargs: See there.

    Raises:
        ArgumentError: As :class:`LLMTransformer`; or if the checkpoint came without a language-model head.
    """

    owner = "GenerativeReranker"

    def __init__(self, model_name_or_path: str, **kwargs: Any) -> None:
        super().__init__(model_name_or_path, **{"causal": True, **kwargs})
        self.refuse_headless()

    @classmethod
    def share(cls, network: LLMTransformer) -> LikelihoodTransformer:
        """Score with the language model of an embedder: the same weights, in memory once.

        Args:
            network: First module of the embedder.

        Returns:
            A scorer.

        Raises:
            ArgumentError: If the checkpoint came without a language-model head.
        """
        network.refuse_headless()
        shared = cls.__new__(cls)
        shared.__dict__.update(network.__dict__)
        return shared

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | Sequence[str] | None = None,
        processing_kwargs: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Write pairs into the template of generation and tokenize them.

        Args:
            inputs: Pairs of query and passage; a text alone is a passage after an empty query.
            prompt: The instruction, instead of the template's own; one for all pairs.
            processing_kwargs: As for :class:`LLMTransformer`.
            **kwargs: Likewise.

        Returns:
            ``input_ids``, ``attention_mask`` and ``passage_mask``, shape ``(B, T)``; the last is 1 on the
            passage's own tokens.
        """
        if not inputs:
            return {}
        window = self.find_window(processing_kwargs, kwargs)
        instruction: Any = prompt or None
        pairs = [("", each) if isinstance(each, str) else each for each in inputs]
        rows = self.tokenize_pairs(pairs, instruction=instruction, max_tokens=window)
        masks = [
            [int(max(row.start, 1) <= place < row.stop) for place in range(len(row.ids))] for row in rows
        ]
        return {**self.pad_rows(rows, passage_mask=masks), "modality": "text"}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Score passages.

        Args:
            features: Output of :meth:`preprocess`.
            **kwargs: Ignored.

        Returns:
            ``features`` with ``scores (B, 1)``, float32.
        """
        ids, mask = features["input_ids"], features["passage_mask"].bool()
        scores = self.score_tokens(ids, features["attention_mask"], ids.masked_fill(~mask, IGNORED))
        count = mask.sum(dim=1)
        head: Any = self.model.get_output_embeddings()
        guess = scores.new_tensor(-math.log(head.weight.shape[0]))
        features["scores"] = torch.where(count > 0, scores.sum(dim=1) / count.clamp(min=1), guess)[:, None]
        return features
