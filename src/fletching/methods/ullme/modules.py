"""The modules: texts in, hidden states out with attention of either kind; the same weights as a generator."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)

from fletching.errors import bad_argument
from fletching.methods.ullme import adapters
from fletching.methods.ullme.config import MAX_TOKENS, OWNER
from fletching.methods.ullme.templates import Template, choose_template
from fletching.methods.ullme.tokenization import Row, TemplateTokenizer
from fletching.models.hub import spread_hub_options
from fletching.models.inputs import check_text, check_texts
from fletching.models.tokenization import TokenizerLock, find_lock
from fletching.nn import attention_mode, check_attention_mode, find_decoder

logger = logging.getLogger(__name__)

IGNORED = -100
"""The label of a token whose likelihood does not count."""

_TEXT_ONLY: Any = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
_NO_LIMIT = 10**9  # tokenizers without a limit say 10**30


class LLMTransformer(Transformer):
    """Any causal language model as an encoder, without giving up that it generates.

    Attention is switched for the length of a call; weights, configuration and head stay as they are, so that
    ``.model.generate(...)`` writes what it wrote before, and the saved folder is one of transformers.

    Args:
        model_name_or_path: Folder or hub id of a causal language model, with or without a head; or of a LoRA
            adapter for one.
        causal: Whether a token sees only those before it when a text is embedded.
        template: As for :class:`~fletching.methods.ullme.LLMEmbedder`.
        generation_template: As for it.
        max_seq_length: Longest row in tokens; ``None`` for 512, or less where the model reads less.
        **kwargs: Arguments of ``Transformer`` of sentence-transformers.

    Raises:
        ArgumentError: If an argument is outside its domain, or the model is no causal language model that
            obeys :func:`~fletching.nn.attention_mode`.
    """

    owner = OWNER
    """Who speaks in the errors."""

    def __init__(
        self,
        model_name_or_path: str,
        *,
        causal: bool = False,
        template: str | None = None,
        generation_template: str | None = None,
        max_seq_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        options = {
            "transformer_task": "text-generation",
            "modality_config": _TEXT_ONLY,
            "module_output_name": "token_embeddings",
            **kwargs,
        }
        super().__init__(model_name_or_path, **options)
        self.unpad_inputs = False  # packed rows have no place for a template's borders
        self._adapter_lock = TokenizerLock()
        self.causal = causal
        self._is_whole = (
            find_decoder(self.model, owner=self.owner) is self.model
        )  # no part of something larger
        parameters = inspect.signature(self.model.forward).parameters
        self._takes_positions, self._keeps_logits = (
            name in parameters for name in ("position_ids", "logits_to_keep")
        )
        tokenizer: Any = self.tokenizer
        if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
            tokenizer.pad_token = tokenizer.eos_token
        self._own_max_length: int | None = None
        if max_seq_length is not None:
            self.max_seq_length = max_seq_length
        self.use_templates(template, generation_template)
        self.check_attention()
        with torch.no_grad():
            token = torch.ones((1, 1), dtype=torch.long, device=self.model.device)
            self._dimension = self._read(token, token).shape[-1]

    # --- what decides ---

    @property
    def max_seq_length(self) -> int:
        """Longest row, in tokens; those that go over it are cut at the ends of their texts."""
        return self._own_max_length or min(MAX_TOKENS, self._window)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise bad_argument(self.owner, "max_seq_length", "a positive integer", value)
        positions = self._positions
        if value is not None and value > positions:
            raise bad_argument(
                self.owner, "max_seq_length", f"at most {positions}, the model's positions", value
            )
        self._own_max_length = value

    @property
    def template(self) -> Template:
        """What texts are written into."""
        return self._template

    def use_templates(self, template: str | None = None, generation_template: str | None = None) -> None:
        """Choose the templates anew.

        Args:
            template: As for :class:`~fletching.methods.ullme.LLMEmbedder`.
            generation_template: As for it.

        Raises:
            ArgumentError: If there is no such template, or it does not suit the tokenizer.
        """
        tokenizer: Any = self.tokenizer
        known = {token.content for token in tokenizer.added_tokens_decoder.values()}
        model_type = self.model.config.get_text_config(decoder=True).model_type
        self._template = choose_template(
            template, generation_template, model_type=model_type, known_tokens=known, owner=self.owner
        )
        self.template_name, self.generation_template = template, generation_template
        self._tokenizers: dict[str, TemplateTokenizer] = {}

    def check_attention(self) -> None:
        """Make sure by a tiny input that attention is what was asked for; see ``check_attention_mode``.

        Raises:
            ArgumentError: If the model does not obey.
        """
        check_attention_mode(self.model, causal=True if self.causal else None)

    @property
    def can_generate(self) -> bool:
        """Whether the checkpoint came with a language-model head."""
        return self.model.get_output_embeddings() is not None

    def get_embedding_dimension(self) -> int:
        """Width of the hidden states."""
        return self._dimension

    def get_config_dict(self) -> dict[str, Any]:
        """Return what is saved: the settings of sentence-transformers and those of the method."""
        return {
            **super().get_config_dict(),
            "causal": self.causal,
            "template": self.template_name,
            "generation_template": self.generation_template,
            "max_seq_length": self._own_max_length,
        }

    @classmethod
    def read_settings(cls, model_name_or_path: str, **hub: Any) -> dict[str, Any]:
        """Read how a save writes its texts, whichever class saved it.

        Args:
            model_name_or_path: Folder or hub id.
            **hub: ``token``, ``cache_folder``, ``revision``, ``local_files_only``.

        Returns:
            Arguments of this class; empty for what is no save of it.
        """
        saved = cls.load_config(model_name_or_path, **hub)
        names = ("template", "generation_template", "max_seq_length")
        return {name: saved[name] for name in names if saved.get(name) is not None}

    @classmethod
    def open_base(
        cls, model_name_or_path: str, options: dict[str, Any], *, backend: str, **hub: Any
    ) -> LLMTransformer:
        """Start from a causal language model, or from that in a save of another kind.

        Args:
            model_name_or_path: Folder or hub id.
            options: Arguments of this class, instead of those that a save was made with.
            backend: As for ``Transformer``.
            **hub: What ``SentenceTransformer`` hands to those who open a base model.

        Returns:
            The module.
        """
        names = ("token", "cache_folder", "revision", "local_files_only")
        saved = cls.read_settings(model_name_or_path, **{name: hub[name] for name in names if name in hub})
        return cls(model_name_or_path, backend=backend, **spread_hub_options(**hub), **{**saved, **options})

    # --- texts to tokens ---

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | Sequence[str] | None = None,
        processing_kwargs: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Write texts into the template and tokenize them.

        Args:
            inputs: Texts.
            prompt: The instruction, or one for each text.
            processing_kwargs: ``{"text": {"max_length": n}}`` narrows the window, ``{"text": {"truncation":
                False}}`` lifts it, as in sentence-transformers.
            **kwargs: ``max_length`` likewise; others are ignored.

        Returns:
            ``input_ids``, ``attention_mask`` and ``text_mask``, shape ``(B, T)``; the last is 1 from the
            first token of the text on, so that the template's tail is in it.
        """
        if not inputs:
            return {}
        rows = self.build_rows(inputs, prompt, max_tokens=self.find_window(processing_kwargs, kwargs))
        lost = [row.lost for row in rows if row.lost]
        if lost:
            logger.warning(
                "%d of %d texts do not fit and were cut: %d tokens are not read.",
                len(lost),
                len(rows),
                sum(lost),
            )
        text_masks = [[0] * row.start + [1] * (len(row.ids) - row.start) for row in rows]
        for mask in text_masks:
            if not any(mask):  # an empty text at the end of a template: all of it is read
                mask[:] = [1] * len(mask)
        return {**self.pad_rows(rows, text_mask=text_masks), "modality": "text"}

    def build_rows(
        self, texts: Sequence[str], instructions: str | Sequence[str] | None = None, *, max_tokens: int | None
    ) -> list[Row]:
        """Write texts into the template of embeddings and tokenize them.

        Args:
            texts: The texts.
            instructions: One for all, or one for each; ``None`` for none.
            max_tokens: Longest row; ``None`` cuts nothing.

        Returns:
            One row each.
        """
        given = self._spread(instructions, len(texts))
        values = [{"instruction": each, "text": text} for each, text in zip(given, texts, strict=True)]
        templates = [self._template.write_embed(each) for each in given]
        return self._tokenize(templates, values, max_tokens)

    def build_generation_rows(
        self, queries: Sequence[str], passages: Sequence[str], *, instruction: str | None = None
    ) -> dict[str, Tensor]:
        """Write queries and their passages into the template of generation and tokenize them.

        Args:
            queries: One for each passage.
            passages: What is to be scored, or learnt.
            instruction: Instead of the template's own.

        Returns:
            ``input_ids``, ``attention_mask`` and ``labels``, shape ``(B, T)``. A label is the passage's own
            token; everything of the template, of the query and of the padding is -100.

        Raises:
            ArgumentError: If an argument is not as it must be.
        """
        owner = f"{self.owner}.build_generation_rows"
        queries, passages = check_texts(owner, "queries", queries), check_texts(owner, "passages", passages)
        if len(queries) != len(passages):
            raise bad_argument(owner, "passages", f"one for each of {len(queries)} queries", len(passages))
        rows = self.tokenize_pairs([*zip(queries, passages, strict=True)], instruction=instruction)
        labels = [
            [IGNORED] * max(row.start, 1)  # nothing stands before a first token to make it likely
            + row.ids[max(row.start, 1) : row.stop]
            + [IGNORED] * (len(row.ids) - max(row.stop, 1))
            for row in rows
        ]
        return self.pad_rows(rows, fill={"labels": IGNORED}, labels=labels)

    def tokenize_pairs(
        self, pairs: Sequence[tuple[str, str]], *, instruction: str | None = None, max_tokens: int | None = -1
    ) -> list[Row]:
        """Write pairs of query and passage into the template of generation and tokenize them.

        Args:
            pairs: Queries with their passages.
            instruction: Instead of the template's own; ``None`` for that one.
            max_tokens: Longest row; ``None`` cuts nothing, -1 takes ``max_seq_length``.

        Returns:
            One row each, whose text is the passage.
        """
        if instruction is None:
            instruction = self._template.generation_instruction
        instruction = check_text(self.owner, "prompt", instruction)
        values = [{"instruction": instruction, "query": query, "passage": text} for query, text in pairs]
        window = self.max_seq_length if max_tokens == -1 else max_tokens
        return self._tokenize([self._template.write_generate(instruction)] * len(pairs), values, window)

    def _tokenize(
        self, templates: list[str], values: list[dict[str, str]], max_tokens: int | None
    ) -> list[Row]:
        """Tokenize rows that mostly, but not always, share their template."""
        rows: list[Any] = [None] * len(values)
        for template in dict.fromkeys(templates):
            places = [place for place, each in enumerate(templates) if each == template]
            with find_lock(self):
                if template not in self._tokenizers:
                    around = not self._template.brings_special_tokens
                    self._tokenizers[template] = TemplateTokenizer(
                        self.tokenizer, template, add_special_tokens=around, owner=self.owner
                    )
                built = self._tokenizers[template].build_rows(
                    [values[place] for place in places], max_tokens=max_tokens
                )
            for place, row in zip(places, built, strict=True):
                rows[place] = row
        return rows

    def pad_rows(
        self, rows: list[Row], *, fill: dict[str, int] | None = None, **others: list[list[int]]
    ) -> dict[str, Tensor]:
        """Put rows of their own lengths together, padded on the tokenizer's side.

        Args:
            rows: The rows.
            fill: What pads, by name; 0 where it is not listed, and the tokenizer's own for ``input_ids``.
            **others: Numbers beside the tokens, as many as the row has.

        Returns:
            ``input_ids``, ``attention_mask`` and the others, shape ``(B, T)``.
        """
        tokenizer: Any = self.tokenizer
        values = {
            "input_ids": [row.ids for row in rows],
            "attention_mask": [[1] * len(row.ids) for row in rows],
            **others,
        }
        filling = {"input_ids": tokenizer.pad_token_id or 0, **(fill or {})}
        return {
            name: nn.utils.rnn.pad_sequence(
                [torch.tensor(each) for each in lists],
                batch_first=True,
                padding_value=filling.get(name, 0),
                padding_side=tokenizer.padding_side,
            )
            for name, lists in values.items()
        }

    def find_window(self, processing_kwargs: Any, kwargs: dict[str, Any]) -> int | None:
        """Say how long rows of a call may be.

        Args:
            processing_kwargs: As for :meth:`preprocess`.
            kwargs: The other options of the call.

        Returns:
            Tokens; ``None`` for any number.
        """
        given = (processing_kwargs or {}).get("text", {})
        if given.get("truncation") is False:
            return None
        return min(given.get("max_length", kwargs.get("max_length")) or _NO_LIMIT, self.max_seq_length)

    def _spread(self, instructions: str | Sequence[str] | None, count: int) -> list[str]:
        if instructions is None or isinstance(instructions, str):
            return [check_text(self.owner, "prompt", instructions or "")] * count
        instructions = check_texts(self.owner, "prompt", instructions)
        if len(instructions) != count:
            domain = f"one for all, or one for each of {count} texts"
            raise bad_argument(self.owner, "prompt", domain, len(instructions))
        return instructions

    @property
    def _window(self) -> int:
        tokenizer: Any = self.tokenizer
        return min(tokenizer.model_max_length, self._positions)

    @property
    def _positions(self) -> int:
        config = self.model.config.get_text_config(decoder=True)
        return getattr(config, "max_position_embeddings", None) or _NO_LIMIT

    # --- tokens to states and likelihoods ---

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Run the language model, without its head, with attention of the kind that embeds.

        Args:
            features: Output of :meth:`preprocess`.
            **kwargs: Ignored.

        Returns:
            ``features`` with ``token_embeddings (B, T, D)``, the states after the final norm.
        """
        features["token_embeddings"] = self._read(features["input_ids"], features["attention_mask"])
        return features

    def score_tokens(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        """Compute how likely labelled tokens are after those before them.

        The head runs only on positions that some row of the batch has labelled; gradients flow.

        Args:
            input_ids: Shape ``(B, T)``.
            attention_mask: Shape ``(B, T)``.
            labels: Shape ``(B, T)``; -100 where nothing is asked.

        Returns:
            ``log P(label[b, t] | tokens before t)`` at labelled places, 0 elsewhere; shape ``(B, T)``,
            float32, or float64 where the model is. A first token, with nothing before it, counts as not
            labelled.

        Raises:
            ArgumentError: If the checkpoint came without a language-model head.
        """
        self.refuse_headless()
        wanted = (labels != IGNORED) & attention_mask.bool()
        wanted[:, 1:] &= attention_mask[:, :-1].bool()
        wanted[:, 0] = False
        precision = torch.promote_types(self.model.dtype, torch.float32)
        scores = torch.zeros(labels.shape, dtype=precision, device=input_ids.device)
        columns = wanted.any(dim=0).nonzero()[:, 0]
        if not len(columns):
            return scores
        options = {"logits_to_keep": columns - 1} if self._keeps_logits else {}
        with attention_mode(self.model, causal=True):
            logits: Tensor = self.model(**self._inputs(input_ids, attention_mask), **options).logits
        if not self._keeps_logits:
            logits = logits[:, columns - 1]
        rows = logits[wanted[:, columns]].to(precision)
        likelihoods = -cross_entropy(rows, labels[wanted], reduction="none")
        return scores.masked_scatter(wanted, likelihoods)

    def refuse_headless(self) -> None:
        """Raise unless the checkpoint came with a language-model head.

        Raises:
            ArgumentError: If it did not.
        """
        if not self.can_generate:
            remedy = "Open a causal language model that kept its head"
            domain = "a checkpoint with a language-model head"
            raise bad_argument(self.owner, "model_name_or_path", domain, type(self.model).__name__, remedy)

    @contextmanager
    def adapters_off(self) -> Iterator[None]:
        """Run the same weights without LoRA adapters for the length of a block.

        Meant for training: while the block is open, the model is changed for every thread. Blocks of several
        threads wait for each other. With gradient checkpointing, go backward inside the block: layers are
        computed again there.

        Yields:
            Nothing.

        Raises:
            ArgumentError: If the model has no adapter.
        """
        with self._adapter_lock, adapters.without_adapters(self.model):
            yield

    @contextmanager
    def use_adapter(self, name: str) -> Iterator[None]:
        """Run one of several adapters for the length of a block; see :meth:`adapters_off` for its limits.

        Args:
            name: Which, e.g. ``"generation"``.

        Yields:
            Nothing.

        Raises:
            ArgumentError: If the model has none of this name.
        """
        with self._adapter_lock, adapters.with_adapter(self.model, name):
            yield

    def _read(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        decoder: Any = self.model if self._is_whole else find_decoder(self.model)
        with attention_mode(decoder, causal=self.causal):
            states: Tensor = decoder.base_model(**self._inputs(input_ids, attention_mask))[0]
        return states

    def _inputs(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        inputs: dict[str, Any] = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "use_cache": False,
        }
        if self._takes_positions:  # learned positions must not count the padding
            inputs["position_ids"] = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        return inputs

    # --- files ---

    def _load_model(
        self,
        model_name_or_path: str,
        transformer_task: Any,
        config: PreTrainedConfig,
        backend: str,
        is_peft_model: bool,
        **model_kwargs: Any,
    ) -> PreTrainedModel:
        """Open with the head where there is one, after a look at what kind of model it is."""
        if backend != "torch":
            raise bad_argument(self.owner, "backend", "'torch', which alone can switch attention", backend)
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            domain, got = "a decoder-only language model of transformers", type(config).__name__
            raise bad_argument(self.owner, "model_name_or_path", domain, got)
        headless = MODEL_MAPPING.get(type(config), None)
        if [*(config.architectures or [])] == [getattr(headless, "__name__", None)]:
            transformer_task = "feature-extraction"
        return super()._load_model(
            model_name_or_path, transformer_task, config, backend, is_peft_model, **model_kwargs
        )

    @staticmethod
    def _configure_use_cache(config: Any, config_kwargs: Any, use_cache: bool = False) -> None:
        """Leave the configuration as it is: it is that of a model which generates."""
