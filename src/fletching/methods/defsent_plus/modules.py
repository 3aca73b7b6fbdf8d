"""The modules of prompt pooling: a sentence in a template, and the hidden state at the template's mask."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.base.modules import Module, Transformer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fletching.errors import bad_argument
from fletching.methods.defsent_plus.config import MASK, TEMPLATE, split_template
from fletching.nn import view_module

logger = logging.getLogger(__name__)

_OWNER = "DefSentPlusEmbedder"
_NO_LIMIT = 10**9  # tokenizers without a limit say 10**30
_OWN = ("template", "_before", "_middle", "_tail", "_first", "_last")
_TEXT_ONLY: Any = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


class PromptTransformer(Transformer):
    """A transformer that reads each sentence in a template with a mask token: prompt pooling's first half.

    What the sentence spells is text: a ``[MASK]`` in it is read letter by letter, and only the template's own
    mask is one. Of a sentence that does not fit, the end is cut; the template never is.

    Args:
        model_name_or_path: Folder or hub id of an encoder, or a save of this module.
        template: Text with ``{sentence}`` and, after it, ``{mask}``, for which the tokenizer's own mask token
            stands.
        **kwargs: Arguments of ``Transformer`` of sentence-transformers.

    Raises:
        ArgumentError: If the template is no such text or longer than the window, or the tokenizer has no mask
            token.
    """

    def __init__(self, model_name_or_path: str, *, template: str = TEMPLATE, **kwargs: Any) -> None:
        split_template(template)
        kwargs = {"modality_config": _TEXT_ONLY, "module_output_name": "token_embeddings", **kwargs}
        super().__init__(model_name_or_path, **kwargs)
        self._prepare(template)

    @classmethod
    def wrap(cls, network: Transformer, *, template: str = TEMPLATE) -> PromptTransformer:
        """Put a template around a transformer that is loaded already; network and tokenizer are shared.

        Args:
            network: The transformer.
            template: As for the class.

        Returns:
            The module.

        Raises:
            ArgumentError: If the template is no such text or longer than the window, or the tokenizer has no
                mask token.
        """
        module: PromptTransformer = view_module(network, cls)
        module._prepare(template)
        return module

    def unwrap(self) -> Transformer:
        """Take the template away; network and tokenizer are shared.

        Returns:
            A stock transformer.
        """
        module: Transformer = view_module(self, Transformer)
        for name in _OWN:
            delattr(module, name)
        module.unpad_inputs = None
        return module

    def _prepare(self, template: str) -> None:
        """Take the template apart and tokenize what never changes."""
        before, middle, after = split_template(template)
        self.unpad_inputs = False  # the mask's place is looked for row by row
        self.template = template
        tokenizer: Any = self.tokenizer
        if tokenizer.mask_token_id is None:
            domain = "one that needs no mask token: the model's tokenizer has none"
            raise bad_argument(_OWNER, "pooling", domain, "prompt")
        token = tokenizer.added_tokens_decoder.get(tokenizer.mask_token_id)
        # white space that the mask token takes along, as RoBERTa's does on its left
        self._before = before
        self._middle = middle.rstrip() if getattr(token, "lstrip", False) else middle
        self._tail = self._encode([after.lstrip() if getattr(token, "rstrip", False) else after])[0]
        self._first, self._last = self._find_borders()
        self._check_window(self._find_window(None))

    def get_config_dict(self) -> dict[str, Any]:
        """Return what is saved: the settings of sentence-transformers and the template."""
        return {**super().get_config_dict(), "template": self.template}

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        processing_kwargs: Any = None,
        *,
        templated: bool = True,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Put sentences into the template and tokenize.

        Args:
            inputs: Sentences.
            prompt: Text in front of each sentence, inside the template.
            processing_kwargs: ``{"text": {"max_length": n}}`` narrows the window, as in
                sentence-transformers.
            templated: ``False`` reads the sentences bare, as a stock ``Transformer`` does.
            **kwargs: ``max_length`` likewise; with ``templated=False``, passed on.

        Returns:
            ``input_ids`` and ``attention_mask``, shape ``(B, T)``.
        """
        if not templated:
            return super().preprocess(inputs, prompt=prompt, processing_kwargs=processing_kwargs, **kwargs)
        if not inputs:
            return {}
        narrowed = (processing_kwargs or {}).get("text", {}).get("max_length", kwargs.get("max_length"))
        rows, lost = self.tokenize_sentences(
            [f"{prompt or ''}{text}" for text in inputs], max_length=narrowed
        )
        if any(lost):
            logger.warning(
                "%d of %d texts do not fit and were cut: %d tokens are not read.",
                sum(map(bool, lost)),
                len(lost),
                sum(lost),
            )
        tokenizer: Any = self.tokenizer
        side = tokenizer.padding_side
        ids = [torch.tensor(row) for row in rows]
        return {
            "input_ids": pad_sequence(
                ids, batch_first=True, padding_value=tokenizer.pad_token_id or 0, padding_side=side
            ),
            "attention_mask": pad_sequence(
                [torch.ones_like(row) for row in ids], batch_first=True, padding_side=side
            ),
            "modality": "text",
        }

    def tokenize_sentences(
        self, sentences: Sequence[str], *, max_length: int | None = None
    ) -> tuple[list[list[int]], list[int]]:
        """Tokenize sentences in the template; of one that is too long the end is cut.

        Args:
            sentences: The sentences.
            max_length: Tokens of a row; ``None``, or more than the model reads, for that.

        Returns:
            Token ids of each sentence in its template, and the number of tokens that it has lost.

        Raises:
            ArgumentError: If the template alone is longer than the window.
        """
        window = self._find_window(max_length)
        self._check_window(window)
        tokenizer: Any = self.tokenizer
        room = window - len(self._first) - 1 - len(self._tail) - len(self._last)
        fronts = self._encode([f"{self._before}{sentence}{self._middle}" for sentence in sentences])
        rows, lost = [], []
        for sentence, front in zip(sentences, fronts, strict=True):
            surplus = max(len(front) - room, 0)
            kept = self._cut(sentence, surplus) if surplus else front
            rows.append([*self._first, *kept, tokenizer.mask_token_id, *self._tail, *self._last])
            lost.append(surplus)
        return rows, lost

    def _cut(self, sentence: str, surplus: int) -> list[int]:
        """Drop the last tokens of a sentence, which stand before the end of the template's first part."""
        before, middle = self._encode([self._before, self._middle])
        text = f"{self._before}{sentence}{self._middle}"
        (ids,) = self._encode([text])
        tokenizer: Any = self.tokenizer
        if not tokenizer.is_fast:
            (own,) = self._encode([sentence])
            return [*before, *own[: len(ids) - surplus - len(before) - len(middle)], *middle]
        start, end = len(self._before), len(self._before) + len(sentence)
        offsets = self._call([text]).encodings[0].offsets
        inside = [index for index, (left, right) in enumerate(offsets) if start <= left <= right <= end]
        drop = set(inside[-surplus:])
        return [id_ for index, id_ in enumerate(ids) if index not in drop]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Tokenize without special tokens; those that a text spells out are text."""
        ids: list[list[int]] = self._call(texts)["input_ids"]
        return ids

    def _call(self, texts: list[str]) -> Any:
        tokenizer: Any = self.tokenizer
        return tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )

    def _find_borders(self) -> tuple[list[int], list[int]]:
        """Find the special tokens in front of every text and behind it."""
        tokenizer: Any = self.tokenizer
        bare: list[int] = self._encode(["a"])[0]
        whole: list[int] = tokenizer("a", truncation=False, padding=False)["input_ids"]
        starts = range(len(whole) - len(bare) + 1)
        start = next((start for start in starts if whole[start : start + len(bare)] == bare), 0)
        return whole[:start], whole[start + len(bare) :]

    def _find_window(self, max_length: int | None) -> int:
        return min(max_length or _NO_LIMIT, self.max_seq_length or _NO_LIMIT, _NO_LIMIT)

    def _check_window(self, window: int) -> None:
        front = self._encode([f"{self._before}{self._middle}"])[0]
        needed = len(self._first) + len(front) + 1 + len(self._tail) + len(self._last) + 1
        if needed > window:
            domain = f"at least {needed}, the tokens of the template and one of a sentence"
            raise bad_argument(_OWNER, "max_seq_length", domain, window)


class MaskPooling(Module):
    """Pool by the hidden state at the mask token: prompt pooling's second half.

    Of several masks in a row the last one counts; after :class:`PromptTransformer` there is one.

    Args:
        embedding_dimension: Width of the hidden states.
        mask_token_id: The tokenizer's mask token.
    """

    config_keys: list[str] = ["embedding_dimension", "mask_token_id"]

    def __init__(self, embedding_dimension: int, mask_token_id: int) -> None:
        super().__init__()
        self.embedding_dimension = embedding_dimension
        self.mask_token_id = mask_token_id

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Read the hidden states at the masks.

        Args:
            features: With ``input_ids`` and ``token_embeddings (B, T, D)``.
            **kwargs: Ignored.

        Returns:
            ``features`` with ``sentence_embedding (B, D)``.

        Raises:
            ArgumentError: If a row has no mask.
        """
        states: Tensor = features["token_embeddings"]
        found = (features["input_ids"] == self.mask_token_id) & features["attention_mask"].bool()
        if not bool(found.any(dim=1).all()):
            remedy = f"Read texts with PromptTransformer, which puts {MASK} into each"
            raise bad_argument("MaskPooling", "features", "rows with a mask token", "a row without", remedy)
        last = found.shape[1] - 1 - found.int().flip(1).argmax(dim=1)
        features["sentence_embedding"] = states[torch.arange(len(states), device=states.device), last]
        return features

    def get_embedding_dimension(self) -> int:
        """Width of the embedding."""
        return self.embedding_dimension

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the settings; there are no weights."""
        self.save_config(output_path)
