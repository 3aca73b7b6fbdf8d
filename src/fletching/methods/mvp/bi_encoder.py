"""MVP on a frozen bi-encoder: ours, not the paper's. It starts as what the bi-encoder already knows."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.util import load_file_path
from torch import Tensor, nn
from torch.nn.functional import normalize, pad
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from fletching.errors import bad_argument, bad_checkpoint
from fletching.methods.mvp.functional import score_views
from fletching.methods.mvp.modules import MVPModule, check_encoder
from fletching.methods.mvp.weights import (
    HubOptions,
    fill_own,
    for_transformers,
    save_adapters,
    save_own_weights,
)
from fletching.models.batching import plan_batches
from fletching.models.hardware import default_token_budget
from fletching.models.minilm import HUB_ID, find_minilm
from fletching.models.tokenization import count_positions


class BiEncoderMVPModule(MVPModule):
    """Views of a passage as a frozen bi-encoder sees it; anchors from attention over the list.

    Query and passage are encoded apart, each exactly as the bi-encoder does. View k owns the k-th part
    of the pooled vectors q and p and one comparison of tokens:

    - relevance vector ``e[k] = [part k of p | part k of q | MaxSim_k(q, p)]``, of width ``2 D / m + 1``;
    - first anchor ``a[k] = [m * part k of q | 0 | weight_k]``, so that a score starts as
      ``cos(q, p) + mean_k weight_k MaxSim_k``;
    - the decoder is one step of attention per view: the first anchor asks, the list's relevance vectors are
      the keys, their parts of p the values. What it reads is added: the anchor moves towards the passages
      that it prefers already (Rocchio's feedback).

    ``MaxSim_k`` is the late interaction of ColBERT (Khattab and Zaharia, SIGIR 2020) on token states that
    view k corrects by a low-rank map, with learned weights of the query's tokens. An untrained model is
    neutral in all that is learned, and ranks well already.

    Args:
        backbone: The bi-encoder's transformer; it is frozen. Its pooled vector is the mean of its token
            states.
        tokenizer: Its tokenizer.
        base: What the backbone was loaded from; saved instead of its weights.
        n_views: Views; must divide the hidden size.
        rank: Rank of the views' corrections.
        max_seq_length: Tokens of a row, query and passage together.

    Raises:
        ArgumentError: If an argument is outside its domain.
    """

    config_keys = [*MVPModule.config_keys, "base", "rank"]

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: Any,
        base: str,
        n_views: int = 4,
        rank: int = 32,
        max_seq_length: int | None = None,
    ) -> None:
        check_encoder("BiEncoderMVPModule", backbone)
        super().__init__(
            n_views=n_views,
            max_seq_length=max_seq_length,
            shortest=2 * (tokenizer.num_special_tokens_to_add() + 1),  # a query takes half of a row at most
            longest=count_positions(backbone),
        )
        width = backbone.config.hidden_size
        if width % n_views:
            domain = f"a divisor of the hidden size {width}"
            raise bad_argument("BiEncoderMVPModule", "n_views", domain, n_views)
        self.model = backbone.requires_grad_(False)
        self.tokenizer = tokenizer
        self.base = base
        self.rank = rank
        borders = (
            tokenizer.cls_token_id,
            tokenizer.sep_token_id,
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
        )
        self._borders = torch.tensor([token for token in borders if token is not None])
        self.down = nn.Parameter(torch.randn(n_views, rank, width) / math.sqrt(width))
        self.up = nn.Parameter(torch.zeros(n_views, width, rank))
        self.token_weight = nn.Parameter(torch.zeros(n_views, width))
        self.evidence_weight = nn.Parameter(torch.full((n_views,), 3.0))
        self.feedback = nn.Parameter(torch.full((n_views,), 0.3))
        self.sharpness = nn.Parameter(torch.full((n_views,), 10.0))

    def train(self, mode: bool = True) -> BiEncoderMVPModule:
        """Switch the trained part; the frozen backbone always computes without dropout."""
        super().train(mode)
        self.model.eval()
        return self

    def preprocess(
        self,
        inputs: Sequence[tuple[str, str]],
        prompt: str | None = None,
        processing_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Tokenize query and passage apart and lay them side by side in one row.

        Args:
            inputs: (query, passage) pairs.
            prompt: Put in front of the query.
            processing_kwargs: ``{"text": {...}}`` overrides tokenizer arguments, as in sentence-transformers.
            **kwargs: Ignored.

        Returns:
            ``input_ids``, ``attention_mask`` and ``token_type_ids`` (0 for the query, 1 for the passage),
            shape ``(B, T)``. A query may take half of a row; the passage gets what is left.
        """
        options = {"truncation": True, **(processing_kwargs or {}).get("text", {})}
        limit = options.pop("max_length", self.max_seq_length)
        for batched in ("padding", "return_tensors"):  # rows are put together below
            options.pop(batched, None)
        rows: list[Tensor] = [torch.empty(0)] * len(inputs)
        types: list[Tensor] = [torch.empty(0)] * len(inputs)
        by_query: dict[str, list[int]] = defaultdict(list)
        for index, (query, _) in enumerate(inputs):
            by_query[query].append(index)
        for query, places in by_query.items():
            first = self.tokenizer(f"{prompt or ''}{query}", max_length=limit // 2, **options).input_ids
            room = max(limit - len(first), 0)
            passages = self.tokenizer(
                [inputs[index][1] for index in places], max_length=room, **options
            ).input_ids
            for index, second in zip(places, passages, strict=True):
                rows[index] = torch.tensor(first + second)
                types[index] = torch.tensor([0] * len(first) + [1] * len(second))
        return {
            "input_ids": pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
            "token_type_ids": pad_sequence(types, batch_first=True),
        }

    def is_full(self, row: dict[str, Tensor]) -> bool:
        """Say whether a row may have lost tokens: it is full, or its query takes the half it may take."""
        query_tokens = int((row["token_type_ids"] == 0).sum())
        return super().is_full(row) or query_tokens >= self.max_seq_length // 2

    def encode(self, features: dict[str, Any]) -> Tensor:
        """Relevance vectors of the rows, shape ``(B, m, 2 D / m + 1)``; equal queries are encoded once."""
        queries, passages = _take_apart(features)
        numbers: dict[tuple[int, ...], int] = {}
        inverse = [numbers.setdefault(tuple(query.tolist()), len(numbers)) for query in queries]
        distinct = [queries[inverse.index(number)] for number in numbers.values()]
        query_states, query_mask, q = self._read_text(distinct)
        passage_states, passage_mask, p = self._read_text(passages)
        weights = self._weigh_tokens(query_states, query_mask)[inverse]
        similarities = torch.einsum(
            "bmqd,bmtd->bmqt", self._correct(query_states)[inverse], self._correct(passage_states)
        )
        similarities = similarities.masked_fill(~passage_mask[:, None, None], -1.0)
        evidence = (similarities.amax(dim=-1) * weights).sum(dim=-1)
        parts = (
            p.unflatten(1, (self.n_views, -1)),
            q[inverse].unflatten(1, (self.n_views, -1)),
            evidence[..., None],
        )
        return torch.cat(parts, dim=-1)

    def read_anchors(self, relevance_vectors: Tensor, document_mask: Tensor) -> Tensor:
        """Start from the query and add what attention over the list reads, view by view."""
        width = self.model.config.hidden_size // self.n_views
        p, q = relevance_vectors[..., :width], relevance_vectors[:, 0, :, width : 2 * width]
        weight = self.evidence_weight[:, None].expand(len(q), -1, 1)
        first = torch.cat([self.n_views * q, torch.zeros_like(q), weight.to(q.dtype)], dim=-1)
        logits = score_views(first, relevance_vectors) * self.sharpness.float()
        attention = logits.masked_fill(~document_mask.bool()[..., None], float("-inf")).softmax(dim=1)
        read = torch.einsum("bnm,bnmw->bmw", attention.to(p.dtype), p)
        return first + pad(self.n_views * self.feedback[:, None] * read, (0, width + 1))

    def _read_text(self, rows: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """States ``(B, T, D)``, mask without borders ``(B, T)`` and unit vectors ``(B, D)`` of texts."""
        ids = pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        states = torch.zeros(
            *ids.shape, self.model.config.hidden_size, dtype=self.model.dtype, device=ids.device
        )
        budget = default_token_budget(ids.device.type, self.model.dtype)
        trained = any(weight.requires_grad for weight in self.model.parameters())  # adapters may be on
        with nullcontext() if trained else torch.no_grad():
            for batch in plan_batches([len(row) for row in rows], max_tokens=budget):
                width = len(rows[batch[0]])
                outputs = self.model(input_ids=ids[batch, :width], attention_mask=mask[batch, :width])
                states[batch, :width] = outputs.last_hidden_state
        pooled = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        keep = mask.bool() & ~torch.isin(ids, self._borders.to(ids.device))
        return states, keep | ~keep.any(dim=1, keepdim=True) & mask.bool(), normalize(pooled, dim=-1)

    def _correct(self, states: Tensor) -> Tensor:
        """Correct token states for each view and give them length one, shape ``(B, m, T, D)``."""
        low = torch.einsum("btd,mrd->bmtr", states, self.down)
        return normalize(states[:, None] + torch.einsum("bmtr,mdr->bmtd", low, self.up), dim=-1)

    def _weigh_tokens(self, states: Tensor, mask: Tensor) -> Tensor:
        """Weights of the query's tokens for each view, summing to one, shape ``(B, m, T)``."""
        logits = torch.einsum("btd,md->bmt", states, self.token_weight)
        return logits.masked_fill(~mask[:, None], float("-inf")).softmax(dim=-1)

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write what was trained; the frozen backbone is named in the configuration, not copied."""
        self.save_config(output_path)
        save_own_weights(self, output_path)
        save_adapters(self.model, output_path)

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str,
        *,
        hub: HubOptions | None = None,
        model_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> BiEncoderMVPModule:
        """Start from a bi-encoder's folder or hub id; ``options`` are those of the constructor."""
        if Path(model_name_or_path).is_dir():  # the save must find it from anywhere
            model_name_or_path = str(Path(model_name_or_path).resolve())
        _check_bi_encoder(model_name_or_path, hub or {})
        backbone, tokenizer = _open_base(model_name_or_path, hub or {}, model_kwargs)
        return cls(backbone, tokenizer, base=model_name_or_path, **options).to(backbone.dtype)

    @classmethod
    def open(
        cls, path: str, hub: HubOptions, config: dict[str, Any], model_kwargs: dict[str, Any]
    ) -> BiEncoderMVPModule:
        """Read the backbone from where the configuration says, then what was trained."""
        base = config["base"]
        if Path(base).is_absolute() and not Path(base).is_dir():
            raise bad_checkpoint(path, f"it builds on {base!r}, which is not there")
        of_base: HubOptions = {**hub, "revision": None, "subfolder": ""}  # another repository
        backbone, tokenizer = _open_base(base, of_base, model_kwargs)
        module = cls(backbone, tokenizer, **config)
        fill_own(path, module, backbone, hub)
        return module.to(backbone.dtype)


def _check_bi_encoder(base: str, hub: HubOptions) -> None:
    """Refuse a bi-encoder whose vectors are not the mean of its token states, or that wants prompts."""
    if base == HUB_ID:  # known, and often without a network to ask
        return

    def read(name: str) -> Any:
        path = load_file_path(base, name, **hub)
        return {} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))

    kinds = []
    for module in read("modules.json"):
        kind = module["type"].rpartition(".")[2]
        if kind == "Pooling":
            settings = read(f"{module['path']}/config.json")
            modes = [name for name in settings if name.startswith("pooling_mode_") and settings[name]]
            kind = settings.get("pooling_mode", "mean" if modes == ["pooling_mode_mean_tokens"] else "other")
        kinds.append(kind)
    prompts = read("config_sentence_transformers.json").get("prompts") or {}
    if any(kind not in ("Transformer", "mean", "Normalize") for kind in kinds) or any(prompts.values()):
        domain = "a bi-encoder with mean pooling, no other layers and no prompts"
        raise bad_argument("MVPReranker.from_bi_encoder", "model_name_or_path", domain, base)


def _open_base(
    base: str, hub: HubOptions, model_kwargs: dict[str, Any] | None
) -> tuple[PreTrainedModel, Any]:
    path = find_minilm() if base == HUB_ID else base
    options = for_transformers(hub)
    backbone = AutoModel.from_pretrained(path, **{**options, **(model_kwargs or {})})
    return backbone, AutoTokenizer.from_pretrained(path, **options)


def _take_apart(features: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Split rows into their query and passage tokens, without padding."""
    queries, passages = [], []
    for ids, types, mask in zip(
        features["input_ids"], features["token_type_ids"], features["attention_mask"], strict=True
    ):
        queries.append(ids[(types == 0) & mask.bool()])  # padding may stand on either side
        passages.append(ids[(types == 1) & mask.bool()])
    return queries, passages
