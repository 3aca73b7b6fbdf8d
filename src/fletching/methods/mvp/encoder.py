"""MVP on any encoder: ours, not the paper's. Learned view embeddings, and a small decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from fletching.errors import bad_argument
from fletching.methods.mvp.modules import MVPModule, check_encoder, is_causal
from fletching.methods.mvp.weights import (
    HubOptions,
    fill_own,
    for_transformers,
    save_backbone,
    save_own_weights,
)
from fletching.models.inputs import check_positive
from fletching.models.tokenization import count_positions

_HEAD_DIM = 64


class EncoderMVPModule(MVPModule):
    """MVP's views, anchors and scores on an encoder without decoder and without sentinels.

    Where T5 has sentinel tokens, learned view embeddings stand in front of the pair; where T5 has its
    decoder, a small one is trained: one learned start vector cross-attends to the relevance vectors of a
    view.

    Args:
        backbone: Any encoder that takes ``inputs_embeds``: BERT, MiniLM, RoBERTa, ModernBERT, ... No
            language model that reads from left to right: the views in front would see nothing.
        tokenizer: Its tokenizer.
        n_views: View embeddings.
        decoder_layers: Layers of the decoder.
        max_seq_length: Tokens of a row, views not counted.

    Raises:
        ArgumentError: If an argument is outside its domain.
    """

    config_keys = [*MVPModule.config_keys, "decoder_layers"]

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: Any,
        n_views: int = 4,
        decoder_layers: int = 1,
        max_seq_length: int | None = None,
    ) -> None:
        check_positive("EncoderMVPModule", "n_views", n_views)
        check_positive("EncoderMVPModule", "decoder_layers", decoder_layers)
        check_encoder("EncoderMVPModule", backbone)
        if is_causal(backbone):
            domain = "an encoder: in a decoder the views in front see nothing"
            raise bad_argument("EncoderMVPModule", "backbone", domain, type(backbone).__name__)
        positions = count_positions(backbone)
        super().__init__(
            n_views=n_views,
            max_seq_length=max_seq_length,
            shortest=tokenizer.num_special_tokens_to_add(pair=True) + 2,
            longest=None if positions is None else positions - n_views,
        )
        if tokenizer.padding_side != "right":
            domain = "a tokenizer that pads on the right: views stand on the left"
            raise bad_argument("EncoderMVPModule", "tokenizer", domain, tokenizer.padding_side)
        width = backbone.config.hidden_size
        self.model = backbone
        self.tokenizer = tokenizer
        self.decoder_layers = decoder_layers
        embeddings: Any = backbone.get_input_embeddings()  # narrower than the states in ALBERT and ELECTRA
        self.views = nn.Parameter(0.02 * torch.randn(n_views, embeddings.weight.shape[1]))
        self.start = nn.Parameter(0.02 * torch.randn(width))
        layer = nn.TransformerDecoderLayer(
            width,
            nhead=_count_heads(width),
            dim_feedforward=2 * width,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.decoder = nn.TransformerDecoder(layer, decoder_layers, norm=nn.LayerNorm(width))

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str,
        *,
        hub: HubOptions | None = None,
        model_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> EncoderMVPModule:
        """Start from an encoder's folder or hub id; ``options`` are those of the constructor."""
        found = for_transformers(hub or {})
        backbone = AutoModel.from_pretrained(model_name_or_path, **{**found, **(model_kwargs or {})})
        module = cls(backbone, AutoTokenizer.from_pretrained(model_name_or_path, **found), **options)
        return module.to(backbone.dtype)

    def preprocess(
        self,
        inputs: Sequence[tuple[str, str]],
        prompt: str | None = None,
        processing_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Tokenize (query, passage) pairs as pairs, the way the encoder was trained.

        Args:
            inputs: The pairs.
            prompt: Put in front of the query.
            processing_kwargs: ``{"text": {...}}`` overrides tokenizer arguments, as in sentence-transformers.
            **kwargs: Ignored.

        Returns:
            The tokenizer's tensors, shape ``(B, T)``.
        """
        queries = [f"{prompt or ''}{query}" for query, _ in inputs]
        passages = [passage for _, passage in inputs]
        options = {"padding": True, "truncation": "longest_first", "max_length": self.max_seq_length}
        options |= (processing_kwargs or {}).get("text", {})
        return dict(self.tokenizer(queries, passages, return_tensors="pt", **options))

    def encode(self, features: dict[str, Any]) -> Tensor:
        """Encode rows into the backbone's states at the view positions, shape ``(B, m, D)``."""
        tokens = self.model.get_input_embeddings()(features["input_ids"])
        views = self.views.to(tokens.dtype).expand(len(tokens), -1, -1)
        mask = features["attention_mask"]
        inputs = {
            "inputs_embeds": torch.cat([views, tokens], dim=1),
            "attention_mask": torch.cat([mask.new_ones(len(mask), self.n_views), mask], dim=1),
        }
        if (types := features.get("token_type_ids")) is not None:
            inputs["token_type_ids"] = torch.cat([types.new_zeros(len(types), self.n_views), types], dim=1)
        return self.model(**inputs).last_hidden_state[:, : self.n_views]

    def read_anchors(self, relevance_vectors: Tensor, document_mask: Tensor) -> Tensor:
        """Run the decoder once per list and view, over the N vectors of that view."""
        b, n, m, d = relevance_vectors.shape
        keys = relevance_vectors.transpose(1, 2).reshape(b * m, n, d)
        padding = ~document_mask.bool().repeat_interleave(m, dim=0)
        start = self.start.to(keys.dtype).expand(b * m, 1, d)
        return self.decoder(start, keys, memory_key_padding_mask=padding).view(b, m, d)

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the backbone as transformers does, and views and decoder beside it."""
        save_backbone(self.model, output_path)
        self.tokenizer.save_pretrained(output_path)
        self.save_config(output_path)
        save_own_weights(self, output_path)

    @classmethod
    def open(
        cls, path: str, hub: HubOptions, config: dict[str, Any], model_kwargs: dict[str, Any]
    ) -> EncoderMVPModule:
        """Read the backbone, then views and decoder, then adapters if there are any."""
        module = cls.from_pretrained(path, hub=hub, model_kwargs=model_kwargs, **config)
        fill_own(path, module, module.model, hub)
        return module.to(module.model.dtype)


def _count_heads(width: int) -> int:
    """Heads of the decoder: of 64 dimensions, or a few more where that does not divide the width."""
    return next(heads for heads in range(max(width // _HEAD_DIM, 1), 0, -1) if width % heads == 0)
