"""Any sentence-transformers embedder, made safe under threads and fast on a CPU."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Router, Transformer
from sentence_transformers.util import truncate_embeddings
from sentence_transformers.util.decorators import deprecated_kwargs
from torch import Tensor
from torch.nn.functional import normalize

from fletching.errors import ArgumentError, FletchingError, bad_checkpoint
from fletching.models.inputs import check_count, check_text, check_texts
from fletching.models.micro_batched import (
    NO_ROW_LIMIT,
    STOCK_BATCH_SIZE,
    MicroBatched,
    find_broken,
)
from fletching.models.tokenization import count_lost_tokens
from fletching.nn import find_decoder

logger = logging.getLogger(__name__)

_PROMPT_NAMES = {
    "query": {"query", "queries", "question", "questions"},
    "document": {"document", "documents", "doc", "docs", "passage", "passages", "corpus"},
}
_PURPOSES = {"search", "retrieval"}  # what checkpoints of several tasks put beside: retrieval.query
_REMOTE_CODE = "transformers_modules"  # where code of a checkpoint runs, for those who trusted it


class Embedder(MicroBatched, SentenceTransformer):
    """A ``SentenceTransformer`` that keeps its promises under threads, odd batches and odd input.

    Everything of the base class works as documented there; the checkpoint's own prompts are applied by
    ``encode_query`` and ``encode_document``. What differs: tokenization is locked, inputs run in
    length-sorted micro-batches of a token budget, equal texts are computed once, a truncated unit vector has
    length one again, prompts for queries and documents are applied under the other names that checkpoints
    give them (``search_query``, ``passage``, ...), and NaN or infinity raises instead of entering an index.

    Args:
        model_name_or_path: Folder or hub id; ``None`` with ``modules=`` builds a new model.
        dtype: ``None`` keeps the checkpoint's precision; ``"auto"`` picks bf16 where the hardware multiplies
            it faster; or ``"float32"``, ``"bfloat16"``, ``"float16"``, or a ``torch.dtype``.
        max_tokens_per_batch: Padded tokens of one micro-batch; ``None`` chooses by device and precision.
        **kwargs: Arguments of ``SentenceTransformer``.

    Raises:
        ArgumentError: If ``dtype``, ``max_tokens_per_batch`` or ``truncate_dim`` is outside its domain.
        CheckpointError: If the checkpoint is a decoder with modelling code of its own, which is not run, and
            does not say whether it reads from left to right: the wrong guess gives wrong vectors in silence.
    """

    usage_example = (
        'print(model.encode_query("What is fletching?") @ model.encode_document("Feathers on an arrow."))'
    )

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str] | None = None,
        *,
        dtype: str | torch.dtype | None = None,
        max_tokens_per_batch: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_count(type(self).__name__, "truncate_dim", kwargs.get("truncate_dim"))
        super().__init__(model_name_or_path, dtype=dtype, max_tokens_per_batch=max_tokens_per_batch, **kwargs)
        self._name_prompts(kwargs.get("prompts") or {})
        self._refuse_untold_attention(str(model_name_or_path or "(modules)"))

    @deprecated_kwargs(sentences="inputs")
    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Encode texts; see ``SentenceTransformer.encode`` for the arguments not listed here.

        Args:
            inputs: One text or a list, or other iterable, of texts.
            prompt_name: Name of a saved prompt to put in front.
            prompt: Text to put in front.
            batch_size: Most texts of one micro-batch; ``None`` lets the token budget alone decide.
            *args: Passed on.
            **kwargs: Passed on.

        Returns:
            As the base class: a float32 NumPy array of shape ``(B, D)``, or ``(D,)`` for one text.

        Raises:
            ArgumentError: If an input or the prompt is not text, or ``batch_size`` or ``truncate_dim`` is
                outside its domain.
            FletchingError: If the model computes NaN or infinity.
        """
        owner = f"{type(self).__name__}.encode"
        if prompt is not None:
            prompt = check_text(owner, "prompt", prompt)
        if self._text_only:
            single = isinstance(inputs, str) or not isinstance(inputs, Iterable)
            inputs = check_text(owner, "inputs", inputs) if single else check_texts(owner, "inputs", inputs)
        return super().encode(inputs, prompt_name, prompt, self._row_limit(batch_size), *args, **kwargs)

    @deprecated_kwargs(sentences="inputs")
    def encode_query(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Encode queries with the checkpoint's own query prompt; arguments and result as :meth:`encode`."""
        return super().encode_query(inputs, prompt_name, prompt, self._row_limit(batch_size), *args, **kwargs)

    @deprecated_kwargs(sentences="inputs")
    def encode_document(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Encode documents with the checkpoint's own document prompt; otherwise as :meth:`encode`."""
        return super().encode_document(
            inputs, prompt_name, prompt, self._row_limit(batch_size), *args, **kwargs
        )

    def count_lost_tokens(
        self, inputs: Sequence[str], prompt_name: str | None = None, prompt: str | None = None
    ) -> list[int]:
        """Say how much of each text is not read because it is too long.

        Args:
            inputs: B texts.
            prompt_name: As for :meth:`encode`.
            prompt: As for :meth:`encode`.

        Returns:
            Tokens lost, B numbers; 0 for all if the model has no limit.

        Raises:
            ArgumentError: If an input is not text.
        """
        texts = check_texts(f"{type(self).__name__}.count_lost_tokens", "inputs", inputs)
        if not texts:
            return []
        front = self._resolve_prompt(prompt, prompt_name) or ""
        with self._tokenizer_lock:
            return self._count_lost(texts, front)

    def _count_lost(self, texts: list[str], prompt: str) -> list[int]:
        """Count the tokens that are cut off of each text, under the tokenizer's lock."""
        return count_lost_tokens(self, [prompt + text for text in texts]) or [0] * len(texts)

    @classmethod
    def _row_limit(cls, batch_size: int | None) -> int:
        return check_count(f"{cls.__name__}.encode", "batch_size", batch_size) or NO_ROW_LIMIT

    def _name_prompts(self, given: Mapping[str, str]) -> None:
        """Call a checkpoint's prompts for queries and documents by the names that are looked up first.

        sentence-transformers adds empty prompts of these names to every model, and then finds those.
        """
        named = {name: text for name, text in self.prompts.items() if text}
        for role, synonyms in _PROMPT_NAMES.items():
            if self.prompts.get(role) or role in given:
                continue
            own = next((name for name in named if _strip_purpose(name) in synonyms), None)
            if own is not None:
                self.prompts[role] = named[own]
                logger.info("%s: the prompt %r is put in front of each %s.", type(self).__name__, own, role)
        roles = given.keys() | {role for role in _PROMPT_NAMES if self.prompts.get(role)}
        if named and self.default_prompt_name is None and not roles & _PROMPT_NAMES.keys():
            logger.warning(
                "%s: encode_query and encode_document put nothing in front, since none of the checkpoint's "
                "prompts (%s) is known to be for queries or documents; choose one with prompt_name=.",
                type(self).__name__,
                ", ".join(map(repr, named)),
            )

    def _refuse_untold_attention(self, location: str) -> None:
        """Refuse transformers' causal class where the checkpoint brings another, of which nothing is said."""
        network: Any = self[0].model if len(self) and type(self[0]) is Transformer else None
        config = vars(getattr(network, "config", object))
        code = config.get("auto_map")
        code = code.get("AutoModel") if isinstance(code, dict) else None
        if code is None or "is_causal" in config or type(network).__module__.startswith(_REMOTE_CODE):
            return
        try:
            find_decoder(network)
        except ArgumentError:  # an encoder reads both ways
            return
        problem = (
            f"it has modelling code of its own ({str(code)!r}), which is not run, and does not say whether "
            f"it reads both ways; {type(network).__name__} of transformers would read from left to right"
        )
        remedy = (
            'Write "is_causal": false (or true) into its config.json; '
            "KaLM-Embedding opens with fletching.methods.kalm.KaLMEmbedder"
        )
        raise bad_checkpoint(location, problem, remedy)

    @property
    def _text_only(self) -> bool:
        return set(self.modalities) <= {"text"}

    @torch.inference_mode()
    def _inference(
        self,
        inputs: list[Any],
        *,
        prompt: str | None,
        batch_size: int,
        show_progress_bar: bool | None,
        output_value: str | None,
        save_to_cpu: bool,
        normalize_embeddings: bool,
        truncate_dim: int | None,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> Any:
        owner = f"{type(self).__name__}.encode"
        truncate_dim = check_count(owner, "truncate_dim", truncate_dim)
        tokenized = None
        if inputs and output_value == "sentence_embedding" and self._text_only:
            tokenized = self._tokenize_rows(inputs, prompt=prompt, **kwargs)
        unit_length = normalize_embeddings or _has_unit_length(self[-1])

        def finish(embeddings: Tensor) -> Tensor:
            embeddings = embeddings.float()
            if truncate_dim is not None:
                embeddings = truncate_embeddings(embeddings, truncate_dim)
            if unit_length:
                embeddings = normalize(embeddings, p=2, dim=-1)
            return embeddings.cpu() if save_to_cpu else embeddings

        if tokenized is None:
            whole = output_value == "sentence_embedding"
            outputs: Any = super()._inference(
                inputs,
                prompt=prompt,
                batch_size=STOCK_BATCH_SIZE if batch_size == NO_ROW_LIMIT else batch_size,
                show_progress_bar=bool(show_progress_bar),
                output_value=output_value,
                save_to_cpu=save_to_cpu,
                normalize_embeddings=normalize_embeddings and not whole,
                truncate_dim=None if whole else truncate_dim,
                device=device,
                **kwargs,
            )
            if not whole or not len(outputs):
                return outputs
            embeddings = finish(outputs)
        else:
            self.eval()
            embeddings = self._run_rows(
                tokenized,
                lambda features: finish(self(features, **kwargs)["sentence_embedding"]),
                device=self._resolve_inference_device(device),
                max_rows=batch_size,
                show_progress_bar=bool(show_progress_bar),
                desc="Encoding",
            )
        broken = find_broken(embeddings)
        if broken is not None:
            index, found = broken
            raise FletchingError(
                f"{owner}: the model computed {found} for inputs[{index}]; "
                "load it in float32 or check its weights."
            )
        return embeddings


def _has_unit_length(module: Any) -> bool:
    """Say whether vectors leave the last module of a model with length one."""
    if isinstance(module, Router):
        routes: Any = module.sub_modules.values()
        return all(_has_unit_length(route[-1]) for route in routes)
    return isinstance(module, Normalize) and module.module_output_name == "sentence_embedding"


def _strip_purpose(name: str) -> str:
    """Leave of a prompt's name what says whom it is for: of "retrieval.query" the "query"."""
    return " ".join(word for word in re.findall("[a-z0-9]+", name.lower()) if word not in _PURPOSES)
