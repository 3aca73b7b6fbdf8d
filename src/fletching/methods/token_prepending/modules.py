"""The module: sentences in, hidden states of the chosen layer out, with Token Prepending on the way."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Transformer
from sentence_transformers.util import load_file_path
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fletching.errors import bad_argument, bad_checkpoint
from fletching.methods.token_prepending.config import (
    PLACEHOLDER,
    ModelShape,
    TokenPrependingConfig,
    choose_settings,
)
from fletching.methods.token_prepending.functional import (
    copy_last_token,
    count_positions,
    draw_placeholder,
    find_first,
    find_last,
    gather_rows,
)
from fletching.methods.token_prepending.sentences import clean_sentence, escape_placeholder, fill_prompt
from fletching.nn import before_layers, check_layers, find_decoder, find_layers, run_to_layer

logger = logging.getLogger(__name__)

PLACEHOLDER_FILE = "placeholder.safetensors"
"""Where the placeholder's embedding is saved, beside the decoder's own files."""

_OWNER = "TokenPrependingEmbedder"
_NO_LIMIT = 10**9  # tokenizers without a limit say 10**30
_TEXT_ONLY: Any = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
_NEARLY = 8  # tokens: a sentence alone and in its prompt may be cut into a few tokens more or less
_CHARACTERS_PER_TOKEN = 16  # far more than any tokenizer packs into its average token
_ATTEMPTS = 8  # to break up what a tokenizer takes for the placeholder


class TokenPrependingTransformer(Transformer):
    """Any decoder with Token Prepending (Fu et al., ACL 2025, arXiv 2412.11556).

    The decoder's own files stay as they are: the placeholder has no row in its embedding table, its vector is
    a buffer of this module. With one prompt the module writes ``token_embeddings``, to be followed by
    last-token pooling; with several it writes ``sentence_embedding``, their mean.

    Args:
        model_name_or_path: Folder or hub id of a decoder, or a save of this module.
        prompt: As for :class:`~fletching.methods.token_prepending.TokenPrependingEmbedder`, like all that
            follow.
        start: See there.
        stop: See there.
        output_layer: See there.
        seed: See there.
        pst_init: See there.
        clean_text: See there.
        max_sentence_tokens: See there.
        **kwargs: Arguments of ``Transformer`` of sentence-transformers.

    Raises:
        ArgumentError: If an argument is outside its domain, or the model is no causal decoder.
    """

    placeholder: Tensor

    def __init__(
        self,
        model_name_or_path: str,
        *,
        prompt: str | Sequence[str] | None = None,
        start: int | None = None,
        stop: int | None = None,
        output_layer: int | None = None,
        seed: int | None = None,
        pst_init: str | None = None,
        clean_text: bool | None = None,
        max_sentence_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs = {"modality_config": _TEXT_ONLY, "module_output_name": "token_embeddings", **kwargs}
        super().__init__(model_name_or_path, **kwargs)
        self.unpad_inputs = False  # packed rows have no place for positions of their own
        self._check_model()
        self._takes_positions = "position_ids" in inspect.signature(self.model.forward).parameters
        self.register_buffer("placeholder", torch.empty(0))
        others = {
            "seed": seed,
            "pst_init": pst_init,
            "clean_text": clean_text,
            "max_sentence_tokens": max_sentence_tokens,
        }
        given = {name: value for name, value in others.items() if value is not None}
        self.configure(prompt=prompt, start=start, stop=stop, output_layer=output_layer, **given)

    def configure(
        self,
        *,
        prompt: str | Sequence[str] | None = None,
        start: int | None = None,
        stop: int | None = None,
        output_layer: int | None = None,
        **others: Any,
    ) -> None:
        """Set everything anew and make the placeholder's vector; what is ``None`` is chosen by the model.

        Args:
            prompt: As for the class.
            start: As for the class.
            stop: As for the class.
            output_layer: As for the class.
            **others: ``seed``, ``pst_init``, ``clean_text``, ``max_sentence_tokens``; left out, the default.

        Raises:
            ArgumentError: If a value is outside its domain; everything is then as before.
        """
        tokenizer: Any = self.tokenizer
        layers = len(find_layers(self.model))
        config = self.model.config.get_text_config(decoder=True)
        shape = ModelShape(config.model_type, layers, config.hidden_size, config.vocab_size)
        chosen: Any = choose_settings(shape, prompt=prompt, start=start, stop=stop, output_layer=output_layer)
        settings = TokenPrependingConfig(**chosen, **others)
        settings.check_layers(layers)
        if settings.has_placeholder:
            tokenizer.add_tokens([PLACEHOLDER])
        prefix = self._find_prefix()
        empty = self._tokenize([fill_prompt(each, "") for each in settings.prompt])
        lengths = [len(prefix) + len(ids) for ids in empty]
        self._check_window(max(lengths), self._find_window(None))
        table = self._find_table()
        drawn = (
            draw_placeholder(table.embedding_dim, settings.seed)
            if settings.pst_init == "normal"
            else table.weight.detach().float().mean(dim=0)
        )
        self.placeholder = drawn.to(table.weight)
        self.settings, self._layers, self._prefix, self._prompt_lengths = settings, layers, prefix, lengths
        self._placeholder_id: int | None = tokenizer.get_vocab().get(
            PLACEHOLDER
        )  # of a save, also for others
        logger.info(
            "Token Prepending on %s: start=%s, stop=%s, output_layer=%s (%s)",
            type(self.model).__name__,
            settings.start,
            settings.stop,
            settings.output_layer,
            settings.source,
        )

    def get_config_dict(self) -> dict[str, Any]:
        """Return what is saved: the settings of sentence-transformers and those of the method."""
        own = asdict(self.settings)
        del own["source"]
        return {**super().get_config_dict(), **own}

    def get_embedding_dimension(self) -> int:
        """Width of the embedding."""
        return self._final_dimension if self.settings.output_layer == -1 else self._hidden_dimension

    # --- sentences to tokens ---

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        processing_kwargs: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Clean sentences, put them into the prompts, and tokenize.

        Args:
            inputs: Sentences.
            prompt: Text in front of each sentence, inside the method's prompt.
            processing_kwargs: ``{"text": {"max_length": n}}`` narrows the window, as in
                sentence-transformers.
            **kwargs: ``max_length`` likewise; others are ignored.

        Returns:
            ``input_ids`` and ``attention_mask``, shape ``(B, T)``. With several prompts a row holds one after
            the other, and ``prompt_number`` says which token belongs to which: 1, 2, ..., 0 for padding.
        """
        if not inputs:
            return {}
        narrowed = (processing_kwargs or {}).get("text", {}).get("max_length", kwargs.get("max_length"))
        sentences = [f"{prompt or ''}{sentence}" for sentence in inputs]
        rows, lost = self.tokenize_sentences(sentences, max_length=narrowed)
        if any(lost):
            logger.warning(
                "%d of %d texts do not fit and were cut: %d tokens are not read.",
                sum(map(bool, lost)),
                len(lost),
                sum(lost),
            )
        tokenizer: Any = self.tokenizer
        joined = {
            "input_ids": [torch.tensor([id_ for ids in row for id_ in ids]) for row in rows],
            "attention_mask": [torch.ones(sum(map(len, row)), dtype=torch.long) for row in rows],
        }
        if len(self.settings.prompt) > 1:
            joined["prompt_number"] = [
                torch.tensor([number for number, ids in enumerate(row, start=1) for _ in ids]) for row in rows
            ]
        padding = {"input_ids": tokenizer.pad_token_id or 0}
        features: dict[str, Any] = {
            name: pad_sequence(
                values,
                batch_first=True,
                padding_value=padding.get(name, 0),
                padding_side=tokenizer.padding_side,
            )
            for name, values in joined.items()
        }
        return {**features, "modality": "text"}

    def tokenize_sentences(
        self, sentences: Sequence[str], *, max_length: int | None = None
    ) -> tuple[list[list[list[int]]], list[int]]:
        """Tokenize sentences in their prompts; of one that is too long the end is cut, never the prompt's.

        Args:
            sentences: The sentences.
            max_length: Tokens of a prompt with its sentence; ``None``, or more than the model reads, for
                that.

        Returns:
            Token ids by sentence and prompt, and the number of tokens that each sentence has lost.

        Raises:
            ArgumentError: If a prompt alone is longer than the window.
        """
        window = self._find_window(max_length)
        limit = self.settings.max_sentence_tokens
        if self._placeholder_id is not None:
            sentences = [escape_placeholder(sentence) for sentence in sentences]
        rows: list[Any] = [None] * len(sentences)
        lost = [0] * len(sentences)
        short = [i for i, text in enumerate(sentences) if len(text) <= limit * _CHARACTERS_PER_TOKEN]
        for index, row in zip(short, self._fill([sentences[index] for index in short]), strict=True):
            if all(
                len(ids) <= min(window, length + limit - _NEARLY) and self._holds_what_the_prompt_holds(ids)
                for ids, length in zip(row, self._prompt_lengths, strict=True)
            ):
                rows[index] = row
        for index, row in enumerate(rows):
            if row is None:
                rows[index], lost[index] = self._fit(sentences[index], window)
        return rows, lost

    def _fit(self, sentence: str, window: int) -> tuple[list[list[int]], int]:
        """Tokenize a sentence that may be too long, or hold what the tokenizer takes for the placeholder."""
        sentence, ids = self._break_placeholders(sentence)
        keep = min(len(ids), self.settings.max_sentence_tokens)
        while True:
            row = self._fill([self._cut(sentence, ids, keep)])[0]
            longest = max(map(len, row))
            if longest <= window:
                return row, len(ids) - keep
            if not keep:
                self._check_window(longest, window)
            keep = max(keep - (longest - window), 0)

    def _break_placeholders(self, sentence: str) -> tuple[str, list[int]]:
        """Put a space into what a tokenizer that normalises reads as the placeholder, such as ``<pst>``."""
        for _ in range(_ATTEMPTS):
            encoding = self._encode([sentence])
            ids: list[int] = encoding["input_ids"][0]
            if self._placeholder_id not in ids:
                return sentence, ids
            if not encoding.is_fast:
                sentence = sentence.replace("<", "< ")
                continue
            for id_, (start, end) in reversed([*zip(ids, encoding.encodings[0].offsets, strict=True)]):
                if id_ == self._placeholder_id:
                    middle = (start + end) // 2
                    sentence = f"{sentence[:middle]} {sentence[middle:]}"
        raise bad_argument(
            _OWNER, "inputs", f"text that the tokenizer does not read as {PLACEHOLDER}", sentence
        )

    def _cut(self, sentence: str, ids: list[int], keep: int) -> str:
        """Keep the first tokens of a sentence, as text."""
        if keep == len(ids):
            return sentence
        encoding = self._encode([sentence])
        if not encoding.is_fast:
            return str(self.tokenizer.decode(ids[:keep]))  # type: ignore[union-attr]
        return sentence[: encoding.encodings[0].offsets[keep - 1][1]] if keep else ""

    def _fill(self, sentences: list[str]) -> list[list[list[int]]]:
        """Token ids by sentence and prompt."""
        if self.settings.clean_text:
            sentences = [clean_sentence(sentence) for sentence in sentences]
        prompts = self.settings.prompt
        texts = [fill_prompt(prompt, sentence) for sentence in sentences for prompt in prompts]
        rows = [self._prefix + ids for ids in self._tokenize(texts)]
        return [rows[start : start + len(prompts)] for start in range(0, len(rows), len(prompts))]

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        return self._encode(texts)["input_ids"] if texts else []

    def _encode(self, texts: list[str], **options: Any) -> Any:
        """Tokenize without special tokens; those that a text spells out are text."""
        tokenizer: Any = self.tokenizer
        settings = {
            "add_special_tokens": False,
            "split_special_tokens": True,
            "padding": False,
            "truncation": False,
            "return_attention_mask": False,
            "return_token_type_ids": False,
            "verbose": False,
        }
        return tokenizer(texts, **{**settings, **options})

    def _find_prefix(self) -> list[int]:
        """Find the special tokens in front of every text; none must follow the prompt's end."""
        bare: list[int] = self._encode(["a"])["input_ids"][0]
        whole: list[int] = self._encode(["a"], add_special_tokens=True)["input_ids"][0]
        starts = range(len(whole) - len(bare) + 1)
        return whole[: next((start for start in starts if whole[start : start + len(bare)] == bare), 0)]

    def _holds_what_the_prompt_holds(self, ids: list[int]) -> bool:
        """Say whether no placeholder is the sentence's own."""
        found = 0 if self._placeholder_id is None else ids.count(self._placeholder_id)
        return found == self.settings.has_placeholder

    def _find_window(self, max_length: int | None) -> int:
        return min(max_length or _NO_LIMIT, self.max_seq_length or _NO_LIMIT, _NO_LIMIT)

    def _check_window(self, needed: int, window: int) -> None:
        if needed > window:
            domain = f"at least {needed}, the tokens of the longest prompt without its sentence"
            raise bad_argument(_OWNER, "max_seq_length", domain, window)

    # --- tokens to hidden states ---

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Run the decoder up to the output layer, with Token Prepending where the prompt has the placeholder.

        Args:
            features: Output of :meth:`preprocess`.
            **kwargs: Ignored.

        Returns:
            ``features`` with ``token_embeddings (B, T, D)``; with several prompts ``sentence_embedding (B,
            D)``.

        Raises:
            ArgumentError: If the decoder is switched to bidirectional attention, or a row has no placeholder.
        """
        if getattr(find_decoder(self.model).config, "is_causal", True) is False:
            remedy = "Token Prepending stands in for bidirectional attention; use one of the two"
            raise bad_argument(_OWNER, "attention_mode", "causal", "causal=False", remedy)
        ids, mask = features["input_ids"], features["attention_mask"]
        count = len(self.settings.prompt)
        if count == 1:
            features["token_embeddings"] = self._run(ids, mask)
            return features
        ids, mask = _split_prompts(ids, features["prompt_number"], count)
        vectors = gather_rows(self._run(ids, mask), find_last(mask))
        features["sentence_embedding"] = vectors.unflatten(0, (count, -1)).mean(dim=0)
        return features

    def _run(self, ids: Tensor, mask: Tensor) -> Tensor:
        settings = self.settings
        inputs: dict[str, Any] = {"attention_mask": mask, "use_cache": False}
        if self._takes_positions:
            inputs["position_ids"] = count_positions(mask)  # learned positions must not count the padding
        if not settings.has_placeholder:
            return run_to_layer(self.model, settings.output_layer, input_ids=ids, **inputs)
        places = (ids == self._placeholder_id) & mask.bool()
        if not places.any(dim=1).all():
            raise bad_argument(_OWNER, "features", f"rows that each hold {PLACEHOLDER}", "a row without it")
        first, last = find_first(places), find_last(mask)

        def copy(hidden: Tensor) -> Tensor:
            return copy_last_token(hidden, first, last)

        assert settings.start is not None, "prompts with the placeholder have both"
        assert settings.stop is not None, "prompts with the placeholder have both"
        changed = range(settings.start, min(settings.stop, self._layers))
        with before_layers(self.model, dict.fromkeys(changed, copy)):
            states = self._embed(ids, places)
            return run_to_layer(self.model, settings.output_layer, inputs_embeds=states, **inputs)

    def _embed(self, ids: Tensor, places: Tensor) -> Tensor:
        """Look tokens up, and put the placeholder's vector where it stands."""
        states: Tensor = self.model.get_input_embeddings()(ids.masked_fill(places, 0))
        return torch.where(places[..., None], self._scale(self.placeholder).to(states), states)

    def _scale(self, vectors: Tensor) -> Tensor:
        """Scale as the embedding table does with what it looks up (Gemma: by the root of the width)."""
        scale = getattr(self._find_table(), "embed_scale", None)
        return vectors if scale is None else vectors * torch.as_tensor(scale).to(vectors)

    def _find_table(self) -> nn.Embedding:
        parts = self.model.get_input_embeddings().modules()
        return next(part for part in parts if isinstance(part, nn.Embedding))

    @torch.no_grad()
    def _check_model(self) -> None:
        """Refuse what is no decoder, or does not obey, before it computes something else in silence."""
        find_decoder(self.model, owner=_OWNER)
        check_layers(self.model, owner=_OWNER)
        table = self._find_table()
        ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=table.weight.device)
        if not table(ids).equal(self._scale(table.weight[ids])):
            domain = "a decoder that looks its embeddings up, at most scaled by `embed_scale`"
            raise bad_argument(_OWNER, "model_name_or_path", domain, type(table).__name__)
        hidden = run_to_layer(self.model, len(find_layers(self.model)), input_ids=ids)
        final = run_to_layer(self.model, -1, input_ids=ids)
        self._hidden_dimension, self._final_dimension = hidden.shape[-1], final.shape[-1]
        seen, other = hidden[:, :-1].float()
        rounding = torch.finfo(hidden.dtype).eps ** 0.5 * seen.square().mean().sqrt()
        if (seen - other).abs().max() > rounding:
            domain = "a decoder whose tokens do not see those after them"
            raise bad_argument(_OWNER, "model_name_or_path", domain, type(self.model).__name__)
        if not self._reads_vectors(ids, hidden[:, 0], rounding):
            domain = "a decoder that reads vectors in place of tokens, and nothing of the tokens beside them"
            raise bad_argument(_OWNER, "model_name_or_path", domain, type(self.model).__name__)

    def _reads_vectors(self, ids: Tensor, expected: Tensor, rounding: Tensor) -> bool:
        """Try vectors that belong to no token, as the placeholder's, behind the first token."""
        states: Tensor = self.model.get_input_embeddings()(ids)
        states[:, 1:] = 1 - states[:, 1:]
        try:
            first = run_to_layer(self.model, len(find_layers(self.model)), inputs_embeds=states)[:, 0]
        except RuntimeError:  # Gemma 4 looks for the tokens behind them
            return False
        return not (first - expected).float().abs().max() > rounding

    # --- files ---

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the decoder as it is, the tokenizer, the settings and the placeholder's vector."""
        super().save(output_path, *args, safe_serialization=safe_serialization, **kwargs)
        vector = self.placeholder.detach().cpu().contiguous()
        save_file({"placeholder": vector}, Path(output_path) / PLACEHOLDER_FILE)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> TokenPrependingTransformer:
        """Read what :meth:`save` wrote; arguments as for every module of sentence-transformers."""
        hub: dict[str, Any] = {
            "subfolder": subfolder,
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        module = super().load(model_name_or_path, **hub, **kwargs)
        file = load_file_path(model_name_or_path, PLACEHOLDER_FILE, **hub)
        vector = load_file(file).get("placeholder") if file is not None else None
        if vector is None or vector.shape != module.placeholder.shape:
            problem = f"it lacks the placeholder's vector, of {len(module.placeholder)} numbers"
            raise bad_checkpoint(model_name_or_path, problem, f"It belongs into {PLACEHOLDER_FILE}")
        module.placeholder = vector.to(module.placeholder)
        return module


def _split_prompts(ids: Tensor, numbers: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Turn rows that hold several prompts into one row for each prompt, prompt-major, padded on the right."""
    rows = [
        row[own == number] for number in range(1, count + 1) for row, own in zip(ids, numbers, strict=True)
    ]
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return pad_sequence(rows, batch_first=True), mask
