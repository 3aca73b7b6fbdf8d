"""KaLMEmbedder: what users call."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util.decorators import deprecated_kwargs
from transformers import PreTrainedModel

from fletching.errors import ArgumentError, FidelityWarning, bad_argument, bad_checkpoint
from fletching.methods.kalm.checkpoints import METHOD, find_published, resolve_causal
from fletching.methods.kalm.config import (
    INSTRUCTIONS,
    MATRYOSHKA_DIMS,
    MAX_TOKENS,
    TEMPLATE,
    build_prompts,
    check_template,
    fill_template,
)
from fletching.models.embedder import Embedder
from fletching.models.inputs import check_count
from fletching.models.marks import MARK, read_mark
from fletching.nn import check_attention_mode, find_decoder

_OWNER = "KaLMEmbedder"
_PROBE = "KaLM reads a text."


class KaLMEmbedder(Embedder):
    r"""KaLM-Embedding (Zhao et al., arXiv 2506.20923): a decoder without its causal mask, mean pooling.

    Opens the published checkpoints of all versions as the Qwen2 of transformers, without their own code, and
    builds a model to train from any other decoder. V1 and V1.5 read from left to right, V2 and V2.5 both
    ways; the weights do not show it, and the wrong mode gives wrong vectors in silence. What is decided is
    checked on a tiny input, and saved as ``is_causal`` in ``config.json``, so that a save reads the same way
    with sentence-transformers alone.

    Queries get the prompt ``"Instruct: {instruction} \n Query: "``, documents none; the prompt is pooled with
    the text. For tasks whose two sides are of one kind, V2 puts the same instruction before both:
    ``encode(texts, prompt_name="sts")``, see ``INSTRUCTIONS`` and ``SYMMETRIC``. A text without tokens gets
    the zero vector.

    Args:
        model_name_or_path: A published checkpoint, a save of this class, or folder or hub id of any causal
            language model of transformers.
        causal: Whether a token sees only those before it; ``None`` reads it off the checkpoint.
        instruction: For queries; ``""`` for none; ``None`` keeps the saved query prompt, else that of the
            published checkpoint, "Given a query, retrieve documents that answer the query".
        template: What stands before a query, with ``{instruction}``; ``None`` keeps the saved one, else the
            published one.
        max_seq_length: Longer texts are cut; ``None`` keeps that of a save of this class, else 512, what the
            authors train and evaluate with. The model card names 32k.
        **kwargs: Arguments of :class:`~fletching.models.Embedder`; ``truncate_dim`` for the Matryoshka
            dimensions 512, 256, 128 and 64.

    Raises:
        ArgumentError: If an argument is outside its domain, if nothing tells whether the checkpoint is
            causal, or if the model is no decoder.
        CheckpointError: If the checkpoint pools otherwise, has no tokenizer that reads text, or does not obey
            the mode.
    """

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        causal: bool | None = None,
        instruction: str | None = None,
        template: str | None = None,
        max_seq_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        if template is not None:
            check_template(template)
        if instruction is not None:
            fill_template(instruction)
        check_count(_OWNER, "max_seq_length", max_seq_length)
        _check_dim(kwargs.get("truncate_dim"))
        self._mark: dict[str, Any] = {}
        self._warned_dims: set[int] = set()
        location = None if model_name_or_path is None else str(model_name_or_path)
        super().__init__(location, **kwargs)
        name = location or "(modules)"
        network = self._check_modules(name)
        decoder = find_decoder(network, owner=_OWNER)
        _set_attention(decoder, name, causal)
        _check_tokenizer(self.tokenizer, name)
        self._choose_length(max_seq_length, decoder)
        own = {key for key, prompt in (kwargs.get("prompts") or {}).items() if prompt is not None}
        self._choose_prompts(name, instruction, template, own=own)
        self._check_truncation(self.truncate_dim)

    @property
    def causal(self) -> bool:
        """Whether a token sees only those before it."""
        return bool(find_decoder(self, owner=_OWNER).config.is_causal)

    @property
    def template(self) -> str:
        """What stands before a query, with ``{instruction}``."""
        return str(self._mark.get("template", TEMPLATE))

    @property
    def matryoshka_dims(self) -> tuple[int, ...]:
        """Dimensions that vectors were trained to be cut to; empty if none are known."""
        return tuple(self._mark.get("matryoshka_dims", ()))

    @matryoshka_dims.setter
    def matryoshka_dims(self, dims: tuple[int, ...]) -> None:
        self._mark["matryoshka_dims"] = list(dims)

    @deprecated_kwargs(sentences="inputs")
    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        *args: Any,
        instruction: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Encode texts; see ``SentenceTransformer.encode`` for the arguments not listed here.

        Args:
            inputs: One text or a list of texts.
            prompt_name: Name of a prompt to put in front, such as ``"query"`` or one of ``INSTRUCTIONS``.
            prompt: Text to put in front, as it is.
            batch_size: Most texts of one micro-batch; ``None`` lets the token budget alone decide.
            *args: Passed on.
            instruction: Put into the template, and in front; instead of ``prompt`` and ``prompt_name``.
            **kwargs: Passed on. ``truncate_dim`` may be any number up to the width; one that the model was
                not trained for warns once.

        Returns:
            As the base class: a float32 NumPy array of shape ``(B, D)``, or ``(D,)`` for one text.

        Raises:
            ArgumentError: If an input is not text, or two prompts are given.
            FletchingError: If the model computes NaN.
        """
        prompt = self._fill(instruction, prompt_name, prompt)
        self._check_truncation(kwargs.get("truncate_dim"))
        return super().encode(inputs, prompt_name, prompt, batch_size, *args, **kwargs)

    @deprecated_kwargs(sentences="inputs")
    def encode_query(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        *args: Any,
        instruction: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Encode queries, with the query prompt unless another is given; otherwise as :meth:`encode`."""
        prompt = self._fill(instruction, prompt_name, prompt)
        return super().encode_query(inputs, prompt_name, prompt, batch_size, *args, **kwargs)

    @deprecated_kwargs(sentences="inputs")
    def encode_document(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        *args: Any,
        instruction: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Encode documents, without a prompt unless one is given; otherwise as :meth:`encode`."""
        prompt = self._fill(instruction, prompt_name, prompt)
        return super().encode_document(inputs, prompt_name, prompt, batch_size, *args, **kwargs)

    def forward(self, input: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Run the modules; a batch of nothing but texts without tokens gets a padded position to run on.

        Args:
            input: Features of a batch.
            **kwargs: Passed to the modules.

        Returns:
            The features, with ``sentence_embedding``.
        """
        ids = input.get("input_ids")
        if ids is not None and ids.ndim == 2 and not ids.shape[1]:
            pad = self.tokenizer.pad_token_id or 0
            input = {**input, "input_ids": ids.new_full((len(ids), 1), pad)}
            input["attention_mask"] = torch.zeros_like(input["input_ids"])
        return super().forward(input, **kwargs)

    def _fill(self, instruction: str | None, prompt_name: str | None, prompt: str | None) -> str | None:
        if instruction is None:
            return prompt
        if prompt is not None or prompt_name is not None:
            domain = "given without `prompt` and `prompt_name`"
            raise bad_argument(f"{_OWNER}.encode", "instruction", domain, instruction)
        return fill_template(instruction, template=self.template)

    def _check_truncation(self, dim: int | None) -> None:
        """Say once where vectors are cut to a width that nobody trained."""
        if dim is None:
            return
        pooling: Any = self[1]
        width = pooling.embedding_dimension
        _check_dim(dim, width)
        trained = self.matryoshka_dims
        if trained and dim not in (*trained, width) and dim not in self._warned_dims:
            self._warned_dims.add(dim)
            known = ", ".join(map(str, trained))
            warnings.warn(
                f"KaLMEmbedder: truncate_dim={dim} was not trained, {known} were.",
                FidelityWarning,
                stacklevel=3,
            )

    def _check_modules(self, location: str) -> Transformer:
        """Make sure of Transformer, mean pooling and unit length; V1's files leave the last to the caller."""
        modules: list[Any] = list(self)
        kinds = (Transformer, Pooling, Normalize)
        fits = len(modules) in (2, 3) and all(map(isinstance, modules, kinds))
        if not fits:
            found = ", ".join(type(module).__name__ for module in modules) or "none"
            problem = f"KaLM-Embedding consists of Transformer, Pooling and Normalize, this of {found}"
            raise bad_checkpoint(location, problem, "Open it with fletching.Embedder")
        if modules[1].pooling_mode != "mean" or not modules[1].include_prompt:
            mode, prompt = (
                modules[1].pooling_mode,
                "" if modules[1].include_prompt else ", without the prompt",
            )
            problem = f"KaLM-Embedding pools the mean over all tokens, this model {mode!r}{prompt}"
            raise bad_checkpoint(location, problem, "Open it with fletching.Embedder")
        if len(modules) == 2:
            self.append(Normalize())
        network: Transformer = modules[0]
        return network

    def _choose_length(self, given: int | None, decoder: PreTrainedModel) -> None:
        longest = getattr(decoder.config, "max_position_embeddings", None)
        if given is not None and longest is not None and given > longest:
            domain = f"at most {longest}, the positions of the model"
            raise bad_argument(_OWNER, "max_seq_length", domain, given)
        if given is None and self._mark:
            return
        self.max_seq_length = given or min(MAX_TOKENS, longest or MAX_TOKENS)

    def _choose_prompts(
        self, location: str, instruction: str | None, template: str | None, *, own: set[str]
    ) -> None:
        """Complete what is saved by what is given, and others' checkpoints by what was published."""
        row = find_published(location)
        is_ours = bool(self._mark)
        if template is not None or "template" not in self._mark:
            self._mark["template"] = template or TEMPLATE
        if row is not None and "matryoshka_dims" not in self._mark and not row.causal:
            self.matryoshka_dims = MATRYOSHKA_DIMS
        self._mark["method"] = METHOD
        default = row.instruction if row is not None else INSTRUCTIONS["retrieval"]
        built = build_prompts(
            template=self.template, instruction=default if instruction is None else instruction
        )
        for name, prompt in built.items():
            replaces = template is not None and name != "document"
            if name == "query":
                replaces = replaces or instruction is not None or not (is_ours or self.prompts.get(name))
            if name not in own and (replaces or self.prompts.get(name) is None):
                self.prompts[name] = prompt

    def _parse_model_config(self, model_config: dict[str, Any]) -> None:
        super()._parse_model_config(model_config)
        self._mark = read_mark(model_config, METHOD)

    def _get_model_config(self) -> dict[str, Any]:
        return {**super()._get_model_config(), MARK: {**self._mark, "method": METHOD}}

    def _refuse_untold_attention(self, location: str) -> None:
        """Nothing is untold: the constructor decides."""

    def _load_default_modules(self, *args: Any, **kwargs: Any) -> Any:
        """Start from a causal language model, whose head is left behind."""
        modules, options = super()._load_default_modules(*args, **kwargs)
        network: Any = next(iter(modules))
        return [network, Pooling(network.get_embedding_dimension(), "mean"), Normalize()], options


def _set_attention(decoder: PreTrainedModel, location: str, causal: bool | None) -> None:
    """Decide on the mode, keep it where saves and kernels read it, and see whether the model obeys."""
    config: Any = decoder.config
    decided = resolve_causal(location, vars(config), causal=causal)
    config.is_causal = decided
    vars(config).pop("auto_map", None)  # the code it names is not run, and a save does not bring it
    for part in decoder.modules():
        if isinstance(vars(part).get("is_causal"), bool):
            vars(part)["is_causal"] = decided
    try:
        check_attention_mode(decoder, causal=decided, switch=False)
    except ArgumentError as error:
        way = "from left to right" if decided else "both ways"
        problem = f"its {type(decoder).__name__} does not read {way} when told to ({error})"
        raise bad_checkpoint(location, problem) from error


def _check_tokenizer(tokenizer: Any, location: str) -> None:
    """Refuse a tokenizer that finds nothing in a text, or that transformers has taken for another."""
    ids = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    kind = type(tokenizer).__name__
    if set(ids) <= set(tokenizer.all_special_ids):
        problem = f"its tokenizer, opened as {kind}, finds no tokens in a text"
    elif kind.startswith("Qwen2") and (read := tokenizer.decode(ids)) != _PROBE:
        problem = f"its tokenizer, opened as {kind}, reads {_PROBE!r} as {read!r}"
    else:
        return
    if kind.startswith("Qwen2"):
        problem += "; transformers takes the tokenizer of every Qwen2 for byte-level BPE, and this is none"
    raise bad_checkpoint(location, problem, "Save the model with the tokenizer that it was trained with")


def _check_dim(dim: Any, width: int | None = None) -> None:
    if dim is None:
        return
    if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1 or (width is not None and dim > width):
        domain = "a positive integer" if width is None else f"from 1 to {width}, the width of the model"
        raise bad_argument(_OWNER, "truncate_dim", domain, dim)
