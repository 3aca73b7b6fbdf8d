"""What follows the language model: pooling that knows where the text begins, the projection of the losses."""

from __future__ import annotations

from typing import Any

from sentence_transformers.base.modules import Module
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn
from torch.nn.functional import normalize


class TextPooling(Pooling):
    """``Pooling`` of sentence-transformers that can leave out what stands in front of the text.

    With ``include_prompt=False`` a row is pooled from the first token of its text on, whichever side is
    padded and whatever the instruction; positions of ``"weightedmean"`` count from there.
    """

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Pool token embeddings.

        Args:
            features: With ``token_embeddings``, ``attention_mask`` and ``text_mask``.
            **kwargs: Ignored.

        Returns:
            ``features`` with ``sentence_embedding (B, D)``.
        """
        mask = features["attention_mask"]
        if not self.include_prompt and "text_mask" in features:
            mask = mask * features["text_mask"]
        pooled = super().forward({"token_embeddings": features["token_embeddings"], "attention_mask": mask})
        features["sentence_embedding"] = pooled["sentence_embedding"]
        return features


class ProjectionHead(Module):
    """The head through which ULLME's losses see an embedding; encoding never does.

    ``W2 relu(W1 e + b1) + b2``, of length one, in ``features["projected_embedding"]`` while training.

    Args:
        embedding_dimension: D.
    """

    config_keys = ["embedding_dimension"]

    def __init__(self, embedding_dimension: int) -> None:
        super().__init__()
        self.embedding_dimension = embedding_dimension
        self.first = nn.Linear(embedding_dimension, embedding_dimension)
        self.second = nn.Linear(embedding_dimension, embedding_dimension)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Project while training.

        Args:
            features: With ``sentence_embedding``.
            **kwargs: Ignored.

        Returns:
            ``features``, while training with ``projected_embedding (B, D)``.
        """
        if self.training:
            projected = self.second(self.first(features["sentence_embedding"]).relu())
            features["projected_embedding"] = normalize(projected, dim=-1)
        return features

    def get_embedding_dimension(self) -> int:
        """D."""
        return self.embedding_dimension

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the configuration and the weights."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> ProjectionHead:
        """Read what :meth:`save` wrote; arguments as for every module of sentence-transformers."""
        hub: dict[str, Any] = {
            "subfolder": subfolder,
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        head = cls(**cls.load_config(model_name_or_path, **hub))
        return cls.load_torch_weights(model_name_or_path, model=head, **hub)
