"""LLMEmbedder: what users call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentence_transformers.base.modules import Normalize
from torch import nn

from fletching.errors import bad_checkpoint
from fletching.methods.ullme.adapters import add_adapter, merge_adapter
from fletching.methods.ullme.config import EncoderConfig, LoRAConfig
from fletching.methods.ullme.heads import ProjectionHead, TextPooling
from fletching.methods.ullme.modules import LLMTransformer
from fletching.models.embedder import Embedder

_NETWORK = ("causal", "template", "generation_template", "max_seq_length")
_HEADS = ("pooling", "exclude_prompt", "projection")


class LLMEmbedder(Embedder):
    r"""ULLME (Man et al., EMNLP 2024, arXiv 2408.03402): any causal language model as an embedder.

    Attention is bidirectional while a text is embedded, and only then: the same model generates as before.
    The embedding is the mean of the last hidden states over the text, without the instruction in front of it,
    scaled to length one. Instructions are the prompts of sentence-transformers: ``prompts={"query": "..."}``,
    applied by ``encode_query``, or ``encode(texts, prompt="...")``.

    What is left out is read off the save; of a model that is none, it is the default.

    Args:
        model_name_or_path: A save of this class, or folder or hub id of any causal language model of
            transformers, of a released GenC checkpoint, or of a LoRA adapter for one.
        causal: Whether a token sees only those before it; default False.
        pooling: ``"mean"`` (default), ``"weightedmean"``, ``"lasttoken"``, ``"cls"``, ``"max"`` or
            ``"mean_sqrt_len_tokens"``.
        template: What a text is written into: a name of ``TEMPLATES``; ``"genc"`` for GenC's of this type of
            model; text of your own with ``{text}`` and mostly ``{instruction}``. Default: GenC's where the
            tokenizer knows its special tokens, else ``"plain"``, ``{instruction}\n{text}``.
        generation_template: Likewise for generation, with ``{query}`` and ``{passage}``; default: the one
            that belongs to ``template``.
        exclude_prompt: Whether the embedding leaves out everything in front of the text; default True.
        projection: Whether a head is there for the losses, which encoding never uses; default False.
        max_seq_length: Longest row in tokens; default 512. The end of a longer text is cut, never the
            template.
        **kwargs: Arguments of :class:`~fletching.models.Embedder`.

    Raises:
        ArgumentError: If an argument is outside its domain, or the model is no decoder-only language model
            whose attention can be switched.
        CheckpointError: If the folder holds a model of sentence-transformers of another kind.
    """

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        causal: bool | None = None,
        pooling: str | None = None,
        template: str | None = None,
        generation_template: str | None = None,
        exclude_prompt: bool | None = None,
        projection: bool | None = None,
        max_seq_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        options = {
            "causal": causal,
            "pooling": pooling,
            "template": template,
            "generation_template": generation_template,
            "exclude_prompt": exclude_prompt,
            "projection": projection,
            "max_seq_length": max_seq_length,
        }
        self._options: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        EncoderConfig(**_select(self._options, ("causal", *_HEADS)))
        super().__init__(None if model_name_or_path is None else str(model_name_or_path), **kwargs)
        if not len(self) or not isinstance(self[0], LLMTransformer):
            problem = "it is a finished model of sentence-transformers"
            remedy = "Pass the language model that it was made of"
            raise bad_checkpoint(str(model_name_or_path), problem, remedy)
        if self._options:  # a save, opened with other settings
            self._change(self._options)
            self._options = {}

    @property
    def network(self) -> LLMTransformer:
        """The module that holds the language model, as ``.model``."""
        network: Any = self[0]
        return network

    @property
    def settings(self) -> EncoderConfig:
        """How the model embeds."""
        pooling = next(part for part in self if isinstance(part, TextPooling))
        return EncoderConfig(
            causal=self.network.causal,
            pooling=str(pooling.pooling_mode),
            exclude_prompt=not pooling.include_prompt,
            projection=any(isinstance(part, ProjectionHead) for part in self),
        )

    def _count_lost(self, texts: list[str], prompt: str) -> list[int]:
        network = self.network
        return [row.lost for row in network.build_rows(texts, prompt, max_tokens=network.max_seq_length)]

    def forward(self, input: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Embed rows; or score those of ``build_generation_rows``, which have ``labels``.

        Scoring goes through here, since a trainer wraps this method for mixed precision and several devices.

        Args:
            input: Tensors of some rows.
            **kwargs: For the modules.

        Returns:
            ``sentence_embedding (B, D)`` among others; for rows with labels ``token_scores (B, T)``.
        """
        if "labels" not in input:
            return super().forward(input, **kwargs)
        rows = (input[name] for name in ("input_ids", "attention_mask", "labels"))
        return {"token_scores": self.network.score_tokens(*rows)}

    # --- LoRA ---

    def add_lora(
        self,
        r: int = 16,
        alpha: int = 32,
        *,
        dropout: float = 0.1,
        target_modules: str | Sequence[str] = "all-linear",
        name: str = "default",
    ) -> None:
        """Put a LoRA adapter on the language model; what is trained from here on is adapters alone.

        Called twice with names, the model has two, as in GenC: ``"embedding"`` and ``"generation"``. The last
        one added is active; ``model.network.use_adapter(name)`` runs another for a block.

        Args:
            r: Rank.
            alpha: Scale; the update is multiplied by ``alpha / r``.
            dropout: On the adapter's input, while training.
            target_modules: Names of linear layers, or all but the head.
            name: What the adapter is called.

        Raises:
            ArgumentError: If an argument is outside its domain, or there is one of this name.
            MissingExtraError: If peft is not installed.
        """
        targets = target_modules if isinstance(target_modules, str) else tuple(target_modules)
        config = LoRAConfig(r=r, alpha=alpha, dropout=dropout, target_modules=targets)
        add_adapter(self.network.model, config, name=name)

    def merge_lora(self, name: str | None = None) -> None:
        """Add an adapter to the weights and drop all of them, so that the save is a model of its own.

        Args:
            name: Which, of several; ``None`` for the active one.

        Raises:
            ArgumentError: If there is none of this name.
        """
        merge_adapter(self.network.model, name)

    # --- building ---

    def _change(self, options: dict[str, Any]) -> None:
        network = self.network
        settings = {**vars(self.settings), **_select(options, ("causal", *_HEADS))}
        config = EncoderConfig(**settings)
        if options.keys() & {"template", "generation_template"}:
            template = options.get("template", network.template_name)
            network.use_templates(template, options.get("generation_template", network.generation_template))
        if "max_seq_length" in options:
            network.max_seq_length = options["max_seq_length"]
        network.causal = config.causal
        network.check_attention()
        head = next((part for part in self if isinstance(part, ProjectionHead)), None)
        while len(self) > 1:
            del self[len(self) - 1]
        for module in _build_heads(network.get_embedding_dimension(), config, head):
            self.append(module)

    def _load_default_modules(
        self, model_name_or_path: str, **kwargs: Any
    ) -> tuple[list[nn.Module], dict[str, Any]]:
        """Start from a causal language model, or from that in a save of another kind."""
        network = LLMTransformer.open_base(
            model_name_or_path, _select(self._options, _NETWORK), backend=self.backend, **kwargs
        )
        config = EncoderConfig(**_select(self._options, ("causal", *_HEADS)))
        self._options = {}
        return [network, *_build_heads(network.get_embedding_dimension(), config)], {}


def _select(options: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in names}


def _build_heads(
    dimension: int, config: EncoderConfig, head: ProjectionHead | None = None
) -> list[nn.Module]:
    """Build what follows the language model."""
    pooling: Any = config.pooling
    parts: list[nn.Module] = [TextPooling(dimension, pooling, include_prompt=not config.exclude_prompt)]
    if config.projection:
        parts.append(head or ProjectionHead(dimension))
    return [*parts, Normalize()]
