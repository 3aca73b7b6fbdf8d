"""MVPReranker: what users call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.util import load_file_path
from torch import Tensor, nn

from fletching.errors import bad_argument, bad_checkpoint
from fletching.methods.mvp.bi_encoder import BiEncoderMVPModule
from fletching.methods.mvp.encoder import EncoderMVPModule
from fletching.methods.mvp.modules import MVPModule
from fletching.methods.mvp.t5 import T5MVPModule
from fletching.methods.mvp.weights import HubOptions
from fletching.models.inputs import check_query, check_texts
from fletching.models.micro_batched import NO_ROW_LIMIT
from fletching.models.minilm import HUB_ID
from fletching.models.reranker import Reranker


class MVPReranker(Reranker):
    """MVP (Na et al., EMNLP 2025, arXiv 2509.07485): ranks a whole candidate list in one pass.

    A score says how a passage compares with the other candidates of its list: scores of different lists, or
    of a list and a part of it, are not comparable. Candidates that have nothing to do with the query pull the
    anchors away, so pass what a first stage retrieved, not a padded list.

    Args:
        model_name_or_path: A save of this class, or an authors' folder or hub id (``"Jun421/MVP-base"``); for
            another encoder use :meth:`from_encoder`.
        n_views: Relevance vectors per passage. The authors' files do not say it: theirs were trained with 4,
            the default for them; a wrong number gives wrong scores. ``None`` takes what the checkpoint says.
        max_seq_length: Tokens of a (query, passage) row; ``None`` takes the checkpoint's, else 256. Reference
            code: 512 for most of BEIR, 1024 for long news.
        **kwargs: Arguments of :class:`~fletching.models.Reranker`.

    Raises:
        ArgumentError: If an argument is outside its domain or contradicts the checkpoint.
        CheckpointError: If the folder holds no MVP.
    """

    listwise = True

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        n_views: int | None = None,
        max_seq_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        self._module_options = {"n_views": n_views, "max_seq_length": max_seq_length}
        super().__init__(None if model_name_or_path is None else str(model_name_or_path), **kwargs)
        if n_views is not None and n_views != self.network.n_views:
            domain = f"{self.network.n_views}, as this model was trained"
            raise bad_argument(type(self).__name__, "n_views", domain, n_views, "Leave it out")
        if max_seq_length is not None:
            self.max_seq_length = max_seq_length

    @classmethod
    def from_encoder(
        cls,
        model_name_or_path: str | Path,
        n_views: int = 4,
        decoder_layers: int = 1,
        *,
        max_seq_length: int | None = None,
        **kwargs: Any,
    ) -> MVPReranker:
        """Start an MVP on any encoder; this part is ours, not the paper's.

        Args:
            model_name_or_path: Folder or hub id of a BERT, MiniLM, ModernBERT or similar encoder.
            n_views: Relevance vectors per passage.
            decoder_layers: Cross-attention layers between a view's start vector and its anchor.
            max_seq_length: Tokens of a row; ``None`` takes 256, or what the encoder has positions for.
            **kwargs: Arguments of :class:`~fletching.models.Reranker`.

        Returns:
            A model to train.

        Raises:
            ArgumentError: If an argument is outside its domain.
        """
        network = EncoderMVPModule.from_pretrained(
            str(model_name_or_path),
            hub=_take_hub_options(kwargs),
            model_kwargs=kwargs.pop("model_kwargs", None),
            n_views=n_views,
            decoder_layers=decoder_layers,
            max_seq_length=max_seq_length,
        )
        return cls(modules=[network], **kwargs)

    @classmethod
    def from_bi_encoder(
        cls,
        model_name_or_path: str | Path = HUB_ID,
        n_views: int = 4,
        *,
        rank: int = 32,
        max_seq_length: int | None = None,
        **kwargs: Any,
    ) -> MVPReranker:
        """Start an MVP as its bi-encoder's late interaction, to learn from there; ours, not the paper's.

        Args:
            model_name_or_path: Folder or hub id of a bi-encoder with mean pooling, no other layers and no
                prompts; any other is refused. The save refers to it and does not copy it.
            n_views: Relevance vectors per passage; must divide the hidden size.
            rank: Rank of the views' corrections of token states.
            max_seq_length: Tokens of a row, query and passage together; ``None`` as for :meth:`from_encoder`.
            **kwargs: Arguments of :class:`~fletching.models.Reranker`.

        Returns:
            A model that already ranks; training makes it better.

        Raises:
            ArgumentError: If an argument is outside its domain.
        """
        network = BiEncoderMVPModule.from_pretrained(
            str(model_name_or_path),
            hub=_take_hub_options(kwargs),
            model_kwargs=kwargs.pop("model_kwargs", None),
            n_views=n_views,
            rank=rank,
            max_seq_length=max_seq_length,
        )
        return cls(modules=[network], **kwargs)

    @property
    def network(self) -> MVPModule:
        """The one module."""
        network: Any = self[0]
        return network

    def get_default_activation_fn(self) -> nn.Module:
        """MVP's scores are the raw dot products."""
        return nn.Identity()

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Tokenize pairs; runs of equal queries are lists, which any list-wise loss then trains on.

        Args:
            inputs: (query, passage) pairs; single texts, which the trainer measures for the model card, count
                as queries.
            prompt: Put in front of each query.
            **kwargs: Passed to the module.

        Returns:
            The module's features and ``list_sizes``.
        """
        pairs = [(item, "") if isinstance(item, str) else item for item in inputs]
        features = super().preprocess(pairs, prompt=prompt, **kwargs)
        features["list_sizes"] = [len(list(group)) for _, group in groupby(pairs, key=lambda pair: pair[0])]
        return features

    def is_full(self, row: dict[str, Tensor]) -> bool:
        """Say whether a tokenized row may have lost tokens; the network knows how it cuts."""
        return self.network.is_full(row)

    def encode_rows(self, features: dict[str, Any], **kwargs: Any) -> Tensor:
        """Relevance vectors of a micro-batch, shape ``(B, m, D)``."""
        return self.network.encode(features)

    def score_lists(self, encoded: Tensor, list_sizes: Sequence[int]) -> Tensor:
        """Scores, shape ``(N, 1)``; list by list, so that none can touch another by a rounding error."""
        return torch.cat(
            [self.network.score(rows, [len(rows)])["scores"] for rows in encoded.split(list(list_sizes))]
        )

    @torch.inference_mode()
    def explain(self, query: str, documents: Sequence[str]) -> dict[str, Tensor]:
        """Look inside a ranking: what each view thinks.

        Args:
            query: The query.
            documents: N candidates, at least one.

        Returns:
            ``scores (N,)``, ``view_scores (N, m)`` whose mean they are, and ``anchors (m, D)``, on the CPU,
            float32.

        Raises:
            ArgumentError: If there is no candidate.
        """
        owner = f"{type(self).__name__}.explain"
        pairs = [
            (check_query(owner, "query", query), text) for text in check_texts(owner, "documents", documents)
        ]
        if not pairs:
            raise bad_argument(owner, "documents", "at least one text", documents)
        self.eval()
        tokenized = self._tokenize_rows(pairs, prompt=self._resolve_prompt(None, None))
        assert tokenized is not None, "an MVP module makes rows"
        encoded = self._run_rows(
            tokenized,
            self.encode_rows,
            device=self._resolve_inference_device(None),
            max_rows=NO_ROW_LIMIT,
            show_progress_bar=False,
            desc="Encoding",
        )
        outputs = {
            name: value.float().cpu() for name, value in self.network.score(encoded, [len(pairs)]).items()
        }
        return {**outputs, "scores": outputs["scores"].view(-1), "anchors": outputs["anchors"][0]}

    def _load_default_modules(
        self, model_name_or_path: str, **kwargs: Any
    ) -> tuple[list[nn.Module], dict[str, Any]]:
        """Open a folder that no sentence-transformers save made: the authors' layout."""
        hub = _take_hub_options(dict(kwargs))
        path = load_file_path(model_name_or_path, "config.json", **hub)
        kind = json.loads(Path(path).read_text(encoding="utf-8")).get("model_type") if path else None
        if kind != "t5":
            remedy = "Start a new one with MVPReranker.from_encoder"
            raise bad_checkpoint(model_name_or_path, f"it is no MVP but a model of type {kind!r}", remedy)
        return [T5MVPModule.load(model_name_or_path, **{**kwargs, **self._module_options})], {}


def _take_hub_options(kwargs: dict[str, Any]) -> HubOptions:
    """Take the arguments that say where files come from out of ``kwargs``."""
    return {
        "token": kwargs.pop("token", None),
        "cache_folder": kwargs.pop("cache_folder", None),
        "revision": kwargs.pop("revision", None),
        "local_files_only": kwargs.pop("local_files_only", False),
    }
