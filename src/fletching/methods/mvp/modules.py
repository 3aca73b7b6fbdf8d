"""What every MVP network shares: lists in, scores, view scores and anchors out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.base.modules import InputModule
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as _CAUSAL_TYPES
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as _MASKED_TYPES

from fletching.errors import bad_argument
from fletching.methods.mvp.functional import score_views
from fletching.methods.mvp.weights import HubOptions
from fletching.models.inputs import check_positive

DEFAULT_LENGTH = 256
"""Tokens of a row (reference script)."""


def check_encoder(owner: str, backbone: PreTrainedModel) -> None:
    """Refuse what has a decoder beside its encoder, such as T5."""
    if backbone.config.is_encoder_decoder:
        remedy = "MVPReranker(path) opens a T5"
        raise bad_argument(owner, "backbone", "an encoder without a decoder", type(backbone).__name__, remedy)


def is_causal(backbone: PreTrainedModel) -> bool:
    """Say whether a backbone is a language model that reads from left to right."""
    config: Any = backbone.config
    both_ways = getattr(config, "use_bidirectional_attention", None) or not getattr(config, "is_causal", True)
    kind = config.model_type
    return not both_ways and kind in _CAUSAL_TYPES and kind not in _MASKED_TYPES


class MVPModule(InputModule):
    """A network that encodes rows into relevance vectors and reads lists of those into anchors.

    A row is one (query, passage) pair.

    Args:
        n_views: Relevance vectors per passage.
        max_seq_length: Tokens of a row; longer rows lose the end of the passage. ``None`` takes 256, or what
            the network has positions for.
        shortest: Tokens of a row that holds one token of query and passage each.
        longest: Tokens of a row that the network has positions for; ``None`` sets no limit.

    Raises:
        ArgumentError: If ``n_views`` or ``max_seq_length`` is no positive integer, or outside these limits.
    """

    tokenizer: Any
    config_file_name = "mvp_config.json"
    config_keys = ["n_views", "max_seq_length"]

    def __init__(
        self,
        n_views: int = 4,
        max_seq_length: int | None = None,
        *,
        shortest: int = 1,
        longest: int | None = None,
    ) -> None:
        super().__init__()
        check_positive(type(self).__name__, "n_views", n_views)
        if longest is not None and longest < shortest:
            domain = "small enough to leave positions for query and passage"
            raise bad_argument(type(self).__name__, "n_views", domain, n_views)
        self.n_views = n_views
        self._shortest = shortest
        self._longest = longest
        if max_seq_length is None:
            max_seq_length = min(DEFAULT_LENGTH, longest or DEFAULT_LENGTH)
        self.max_seq_length = max_seq_length

    @property
    def max_seq_length(self) -> int:
        """Tokens of a row."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        check_positive(type(self).__name__, "max_seq_length", value)
        if value < self._shortest:
            domain = f"at least {self._shortest}: a row must hold some of query and passage"
            raise bad_argument(type(self).__name__, "max_seq_length", domain, value)
        if self._longest is not None and value > self._longest:
            domain = f"at most {self._longest}: the encoder has no more positions"
            raise bad_argument(type(self).__name__, "max_seq_length", domain, value)
        self._max_seq_length = value

    def is_full(self, row: dict[str, Tensor]) -> bool:
        """Say whether a tokenized row, without padding, may have lost tokens."""
        return row["input_ids"].numel() >= self.max_seq_length

    @abstractmethod
    def encode(self, features: dict[str, Any]) -> Tensor:
        """Encode rows, each on its own.

        Args:
            features: ``input_ids`` and ``attention_mask``, shape ``(B, T)``, and what else ``preprocess``
                made.

        Returns:
            Relevance vectors, shape ``(B, m, D)``.
        """

    @abstractmethod
    def read_anchors(self, relevance_vectors: Tensor, document_mask: Tensor) -> Tensor:
        """Read the lists' relevance vectors, a set per view, into one anchor per view.

        Args:
            relevance_vectors: Shape ``(B, N, m, D)``.
            document_mask: 1 for passages, 0 for padding, shape ``(B, N)``.

        Returns:
            Anchors, shape ``(B, m, D)``.
        """

    def score(self, relevance_vectors: Tensor, list_sizes: Sequence[int]) -> dict[str, Tensor]:
        """Score lists of encoded rows.

        Args:
            relevance_vectors: Rows of all lists, one after the other, shape ``(N, m, D)``, N the sum of
                ``list_sizes``.
            list_sizes: Rows of each of B lists.

        Returns:
            ``scores (N, 1)``, ``view_scores (N, m)``, both float32, and ``anchors (B, m, D)``.
        """
        padded = pad_sequence(list(relevance_vectors.split(list(list_sizes))), batch_first=True)
        sizes = torch.tensor(list_sizes, device=padded.device)
        document_mask = torch.arange(padded.shape[1], device=padded.device)[None] < sizes[:, None]
        anchors = self.read_anchors(padded, document_mask)
        view_scores = score_views(anchors, padded)[document_mask]
        return {
            "scores": view_scores.mean(dim=-1, keepdim=True),
            "view_scores": view_scores,
            "anchors": anchors,
        }

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Encode and score the lists of one batch.

        Args:
            features: Rows, and ``list_sizes`` saying how many belong to each list.
            **kwargs: Ignored.

        Returns:
            The features with what :meth:`score` returns.

        Raises:
            ArgumentError: Without ``list_sizes``: a caller that cuts lists into batches would get wrong
                scores.
        """
        if "list_sizes" not in features:
            remedy = "Open the model with fletching.load, not with a stock CrossEncoder, which splits lists"
            raise bad_argument(
                type(self).__name__, "list_sizes", "given: the model reads whole lists", None, remedy
            )
        list_sizes = torch.as_tensor(features["list_sizes"]).tolist()
        return {**features, **self.score(self.encode(features), list_sizes)}

    def get_embedding_dimension(self) -> None:
        """Rerankers have none."""
        return

    @classmethod
    @abstractmethod
    def open(
        cls, path: str, hub: HubOptions, config: dict[str, Any], model_kwargs: dict[str, Any]
    ) -> MVPModule:
        """Build the network of a saved folder.

        Args:
            path: Folder or hub id.
            hub: Where its files come from.
            config: Arguments of the constructor, beside the networks.
            model_kwargs: Arguments of transformers' ``from_pretrained``.

        Returns:
            The module.
        """

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> MVPModule:
        """Read a saved module.

        Args:
            model_name_or_path: Folder or hub id.
            subfolder: Where in it the files are.
            token: For private repositories.
            cache_folder: Where downloads go.
            revision: Branch, tag or commit.
            local_files_only: Whether to stay off the network.
            model_kwargs: Arguments of transformers' ``from_pretrained``.
            **kwargs: Those of ``config_keys`` fill what the saved configuration lacks; others are ignored.

        Returns:
            The module.

        Raises:
            CheckpointError: If weights are missing, surplus or of the wrong shape.
        """
        hub: HubOptions = {
            "subfolder": subfolder,
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        config = cls.load_config(model_name_or_path, **hub)
        given = {key: kwargs[key] for key in cls.config_keys if kwargs.get(key) is not None}
        return cls.open(model_name_or_path, hub, {**given, **config}, model_kwargs or {})
