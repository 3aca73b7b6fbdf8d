"""The paper's network: T5 as Fusion-in-Decoder over view tokens."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.util import load_file_path
from torch import Tensor, nn
from transformers import AutoTokenizer, T5Config, T5Model
from transformers.models.t5.modeling_t5 import T5LayerSelfAttention

from fletching.errors import FidelityWarning, bad_argument
from fletching.methods.mvp.functional import rename_fid_keys
from fletching.methods.mvp.modules import MVPModule
from fletching.methods.mvp.weights import (
    HubOptions,
    fill,
    for_transformers,
    load_adapters,
    read_weights,
    save_backbone,
)
from fletching.models.hardware import resolve_dtype
from fletching.models.inputs import check_positive

TEMPLATE = "{views} | Query: {query} | Context: {passage}"
"""Input of one row (reference code); ``{views}`` becomes ``<extra_id_0><extra_id_1>...``."""

_T5_VOCABULARY = "google-t5/t5-base"  # for folders without a tokenizer: all T5 v1 share one vocabulary
_TIED = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_FIELD = re.compile("{(views|query|passage)}")


class T5MVPModule(MVPModule):
    """MVP on T5 (arXiv 2509.07485): views are sentinel tokens, anchors come from one decoder step each.

    The last encoder block computes the view positions only: nothing reads the others.

    Args:
        t5: A T5 without a language-model head.
        tokenizer: Its tokenizer, with sentinels ``<extra_id_0>``, ``<extra_id_1>``, ... and ``</s>``
            appended.
        n_views: View tokens in front of each row; the released checkpoints were trained with 4.
        max_seq_length: Tokens of a row. Reference code: 256 for MS MARCO-like passages, 512 for most of BEIR,
            1024 for long news.
        template: Text of a row with ``{views}``, ``{query}`` and ``{passage}``, in this order.

    Raises:
        ArgumentError: If an argument is outside its domain.
    """

    config_keys = [*MVPModule.config_keys, "template"]

    def __init__(
        self,
        t5: T5Model,
        tokenizer: Any,
        n_views: int = 4,
        max_seq_length: int | None = None,
        template: str = TEMPLATE,
    ) -> None:
        check_positive(type(self).__name__, "n_views", n_views)
        # the views, one token of query and passage each, </s>
        super().__init__(n_views=n_views, max_seq_length=max_seq_length, shortest=n_views + 3)
        if not template.startswith("{views}") or _FIELD.findall(template) != ["views", "query", "passage"]:
            domain = "text that starts with {views} and holds {query} and {passage} once each, in this order"
            raise bad_argument(type(self).__name__, "template", domain, template)
        sentinels = [f"<extra_id_{view}>" for view in range(n_views)]
        if None in (ids := tokenizer.convert_tokens_to_ids(sentinels)) or tokenizer.unk_token_id in ids:
            domain = f"a T5 tokenizer with {n_views} sentinels <extra_id_0>, ..."
            raise bad_argument(type(self).__name__, "tokenizer", domain, type(tokenizer).__name__)
        self.model = t5
        self.tokenizer = tokenizer
        self.template = template
        self._views = "".join(sentinels)
        blocks: Any = t5.encoder.block
        last = blocks[-1].layer[0]
        last.__class__ = _ViewSelfAttention
        last.n_views = n_views

    def preprocess(
        self,
        inputs: Sequence[tuple[str, str]],
        prompt: str | None = None,
        processing_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Tokenize (query, passage) pairs.

        Args:
            inputs: The pairs; for a titled passage the reference code passes ``f"{title} {text}".strip()``.
            prompt: Put in front of the query.
            processing_kwargs: ``{"text": {...}}`` overrides tokenizer arguments, as in sentence-transformers.
            **kwargs: Ignored.

        Returns:
            ``input_ids`` and ``attention_mask``, shape ``(B, T)``: views first, ``</s>`` last even when
            truncated.
        """
        before, after = self.template.replace("{views}", self._views).split("{query}", 1)
        texts = [
            f"{before}{prompt or ''}{query}{after.replace('{passage}', passage, 1)}"
            for query, passage in inputs
        ]
        options = {"padding": True, "truncation": True, "max_length": self.max_seq_length}
        options |= (processing_kwargs or {}).get("text", {})
        return dict(self.tokenizer(texts, return_tensors="pt", **options))

    def encode(self, features: dict[str, Any]) -> Tensor:
        """Encode rows into the encoder's states at the view positions, shape ``(B, m, D)``."""
        return self.model.encoder(
            input_ids=features["input_ids"], attention_mask=features["attention_mask"]
        ).last_hidden_state

    def read_anchors(self, relevance_vectors: Tensor, document_mask: Tensor) -> Tensor:
        """One decoder step per list and view; its cross-attention reads the N vectors of that view only."""
        b, n, m, d = relevance_vectors.shape
        keys = relevance_vectors.transpose(1, 2).reshape(b * m, n, d)
        start = self.model.shared.weight[self.model.config.pad_token_id or 0].expand(b * m, 1, d)
        states = self.model.decoder(
            inputs_embeds=start,
            encoder_hidden_states=keys,
            encoder_attention_mask=document_mask.repeat_interleave(m, dim=0).long(),
            use_cache=False,
        ).last_hidden_state
        return states.view(b, m, d)

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write plain T5 files, which stock T5 tools open, and the module's own configuration."""
        save_backbone(self.model, output_path)
        self.tokenizer.save_pretrained(output_path)
        self.save_config(output_path)

    @classmethod
    def open(
        cls, path: str, hub: HubOptions, config: dict[str, Any], model_kwargs: dict[str, Any]
    ) -> T5MVPModule:
        """Read our own save, or the authors' layout; of ``model_kwargs`` dtype and attention."""
        dtype = model_kwargs.get("dtype")
        dtype = (
            None if dtype == "auto" else resolve_dtype(cls.__name__, dtype, "cpu")
        )  # auto: as transformers
        t5 = _load_t5(path, hub, dtype, model_kwargs.get("attn_implementation"))
        return cls(t5, _load_tokenizer(path, hub), **config)


class _ViewSelfAttention(T5LayerSelfAttention):
    """Self-attention of the last encoder block, for the views only; all positions stay keys."""

    n_views: int

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, None]:
        length, views = hidden_states.shape[1], slice(self.n_views)
        if position_bias is None:
            position_bias = self.SelfAttention.compute_bias(length, length)
        if attention_mask is not None and attention_mask.shape[-2] == length:
            attention_mask = attention_mask[..., views, :]
        normed = self.layer_norm(hidden_states)
        output, _, _ = self.SelfAttention(
            normed[:, views],
            mask=attention_mask,
            key_value_states=normed,
            position_bias=position_bias[:, :, views],
            **kwargs,
        )
        return hidden_states[:, views] + self.dropout(output), position_bias, None


def _load_t5(path: str, hub: HubOptions, dtype: torch.dtype | None, attention: str | None) -> T5Model:
    """Build the network and fill it; the language-model head, which MVP does not use, is left out."""
    config = T5Config.from_pretrained(path, attn_implementation=attention, **for_transformers(hub))
    state = rename_fid_keys(read_weights(path, "model", hub))
    state.pop("lm_head.weight", None)
    kept = next((name for name in _TIED if name in state), None)  # a converter keeps any one of them
    state |= {} if kept is None else dict.fromkeys(_TIED, state[kept])
    with torch.device("meta"):
        t5 = T5Model(config)
    fill(path, t5, state)
    t5.tie_weights()
    dtype = dtype or t5.shared.weight.dtype
    if dtype == torch.float16:
        message = f"Checkpoint {path!r}: T5 overflows in float16; use bfloat16 or float32."
        warnings.warn(message, FidelityWarning, stacklevel=2)
    nn.Module.to(t5, dtype)
    load_adapters(t5, path, hub)
    return t5.eval()


def _load_tokenizer(path: str, hub: HubOptions) -> Any:
    files = ("tokenizer.json", "spiece.model", "tokenizer_config.json")
    if any(load_file_path(path, name, **hub) for name in files):
        return AutoTokenizer.from_pretrained(path, **for_transformers(hub))
    options = {
        key: value for key, value in for_transformers(hub).items() if key not in ("subfolder", "revision")
    }
    return AutoTokenizer.from_pretrained(_T5_VOCABULARY, **options)
