"""Texts to vectors: each text on its own, long ones whole or cut, those of documents kept on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from fletching.errors import FletchingError, bad_argument, bad_choice
from fletching.methods.dse.modules import PAIRS, DSEPairHead
from fletching.models.caching import find_cache
from fletching.models.inputs import check_count, check_text, check_texts
from fletching.models.micro_batched import NO_ROW_LIMIT
from fletching.models.reranker import CallState, Reranker
from fletching.models.sharing import fingerprint
from fletching.models.vector_cache import DTYPES, VectorCache

BLOCK = 4096
"""Documents whose vectors are in memory at once."""


@dataclass
class Call:
    """How the texts of one call are encoded.

    Args:
        device: Where.
        max_rows: Most texts of one micro-batch.
        show_progress_bar: Whether to draw progress bars.
        state: What the call shares with its caller.
        long: ``"truncate"`` or ``"chunk_max"``.
        options: Further keyword arguments of ``preprocess``.
        between: Whether the queries are encoded, and no document yet: queries and the first documents are one
            step.
    """

    device: torch.device
    max_rows: int
    show_progress_bar: bool | None
    state: CallState
    long: str
    options: dict[str, Any]
    between: bool = False

    def check(self) -> None:
        """Stop here if the call was cancelled."""
        if not self.between:
            self.state.check()

    def check_batch(self) -> None:
        """Stop before a micro-batch if the call was cancelled."""
        self.check()
        self.between = False


@dataclass
class Parts:
    """Vectors of texts: one for each, or one for each chunk of a long one.

    Args:
        vectors: Shape ``(N, D)``.
        owners: For each vector, the place of its text.
        lost: For each text, the tokens that were cut.
    """

    vectors: Tensor
    owners: list[int]
    lost: list[int]


class SentenceEncoder(Reranker):
    """A reranker that encodes each text apart from all others, and keeps the vectors of documents.

    Its last module is the head over pairs; what comes before it makes the vectors.

    Args:
        model_name_or_path: As for :class:`~fletching.methods.dse.DSEReranker`, like the two that follow.
        vector_cache: See there.
        cache_dtype: See there.
        **kwargs: Arguments of :class:`~fletching.models.reranker.Reranker`.

    Raises:
        ArgumentError: If an argument is outside its domain.
    """

    def __init__(
        self,
        model_name_or_path: str | None = None,
        *,
        vector_cache: str | Path | bool | None = None,
        cache_dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        if cache_dtype not in DTYPES:
            raise bad_choice(type(self).__name__, "cache_dtype", DTYPES, cache_dtype)
        super().__init__(model_name_or_path, **kwargs)
        self.cache_dtype = cache_dtype
        self.vector_cache = find_cache() / "dse" if vector_cache is True else vector_cache or None
        self._cache: tuple[tuple[Any, ...], VectorCache] | None = None

    @property
    def head(self) -> DSEPairHead:
        """The head over pairs, the last module."""
        head: Any = self[-1]
        return head

    def get_embedding_dimension(self) -> int:
        """Width of a sentence vector."""
        return self.head.embedding_dimension

    def train(self, mode: bool = True) -> SentenceEncoder:
        """Switch to training, after which vectors on disk may not be those of this model any more."""
        if mode:
            self._cache = None
        super().train(mode)
        return self

    def encode_features(self, features: dict[str, Any]) -> Tensor:
        """Encode what :meth:`preprocess` made of texts, or of the sentences of pairs; gradients flow.

        Args:
            features: Of B texts; for pairs all first sentences, then all second ones.

        Returns:
            Sentence vectors, shape ``(B, D)``; ``(2 B, D)`` for pairs.
        """
        features = {name: value for name, value in features.items() if name != PAIRS}
        for module in list(self)[:-1]:
            features = module(features)
        vectors: Tensor = features["sentence_embedding"]
        return vectors

    # --- sentence vectors ---

    def encode(
        self,
        inputs: str | Sequence[str],
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        *,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        device: str | None = None,
    ) -> Any:
        """Encode sentences, each on its own and on neither side of a pair.

        Args:
            inputs: One text or a list of texts.
            prompt: Text to put in front of each.
            batch_size: Most texts of one micro-batch; ``None`` lets the token budget alone decide.
            show_progress_bar: Whether to draw a progress bar.
            convert_to_tensor: Whether to return a tensor on the model's device.
            normalize_embeddings: Whether vectors get length one. The head reads vectors as they are: leave it
                off for :meth:`score_matrix`.
            device: Device to run on.

        Returns:
            A float32 NumPy array of shape ``(B, D)``, or ``(D,)`` for one text; or a tensor.

        Raises:
            ArgumentError: If an input is not text.
            FletchingError: If the model computes NaN.
        """
        owner = f"{type(self).__name__}.encode"
        single = isinstance(inputs, str)
        texts = [check_text(owner, "inputs", inputs)] if single else check_texts(owner, "inputs", inputs)
        prompt = None if prompt is None else check_text(owner, "prompt", prompt)
        call = self._start_call(owner, device, batch_size, show_progress_bar)
        vectors = self._encode_all(texts, prompt, call)
        _refuse_nan(owner, vectors)
        vectors = normalize(vectors, dim=1) if normalize_embeddings else vectors
        vectors = vectors[0] if single else vectors
        return vectors if convert_to_tensor else vectors.cpu().numpy()

    def encode_document(
        self,
        inputs: str | Sequence[str],
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
    ) -> Any:
        """Encode documents; with ``vector_cache`` those on disk are read and the others are kept there.

        Args:
            inputs: One text or a list of texts.
            batch_size: Most texts of one micro-batch.
            show_progress_bar: Whether to draw a progress bar.

        Returns:
            As :meth:`encode`.

        Raises:
            ArgumentError: If an input is not text.
            FletchingError: If the model computes NaN.
        """
        owner = f"{type(self).__name__}.encode_document"
        single = isinstance(inputs, str)
        texts = [check_text(owner, "inputs", inputs)] if single else check_texts(owner, "inputs", inputs)
        call = self._start_call(owner, None, batch_size, show_progress_bar)
        found = np.empty((len(texts), self.get_embedding_dimension()), np.float32)
        for start in range(0, len(texts), BLOCK):
            vectors = self._embed_documents(texts[start : start + BLOCK], call).vectors
            _refuse_nan(owner, vectors, start)
            found[start : start + BLOCK] = vectors.cpu().numpy()
        return found[0] if single else found

    # --- texts to vectors ---

    def _start_call(
        self, owner: str, device: str | None, batch_size: int | None, show_progress_bar: bool | None
    ) -> Call:
        max_rows = check_count(owner, "batch_size", batch_size) or NO_ROW_LIMIT
        target = self._resolve_inference_device(device)
        return Call(target, max_rows, show_progress_bar, CallState(), "truncate", {})

    def _encode_all(self, texts: list[str], prompt: str | None, call: Call) -> Tensor:
        """Vectors of texts, without cache and without a word about what was cut."""
        if not texts:
            return torch.empty(0, self.get_embedding_dimension(), device=call.device)
        return self._embed(texts, prompt, call, chunked=False, count=False).vectors

    @torch.inference_mode()
    def _embed(
        self, texts: list[str], prompt: str | None, call: Call, *, chunked: bool, count: bool = True
    ) -> Parts:
        """Compute the vectors of texts; ``chunked`` reads long ones whole, in overlapping chunks."""
        self.eval()
        tokenized = self._tokenize_rows(texts, prompt=prompt, before_chunk=call.check, **call.options)
        assert tokenized is not None, "a SiameseTransformer makes rows"
        lengths, lost = tokenized.lengths(), [0] * len(texts)
        limit = self.max_seq_length
        for index, length in enumerate(lengths if count else []):
            if limit is not None and length >= limit:
                call.check()
                lost[index] = max(0, self._count_tokens(f"{prompt or ''}{texts[index]}", call) - length)
        owners = list(range(len(texts)))
        if chunked and any(lost):
            pieces = [
                self._chunk_text(text, call) if cut else [text] for text, cut in zip(texts, lost, strict=True)
            ]
            owners = [index for index, chunks in enumerate(pieces) for _ in chunks]
            lost = [0] * len(texts)
            whole = [chunk for chunks in pieces for chunk in chunks]
            tokenized = self._tokenize_rows(whole, prompt=prompt, before_chunk=call.check, **call.options)
            assert tokenized is not None, "a SiameseTransformer makes rows"
        vectors = self._run_rows(
            tokenized,
            lambda features: self.encode_features(features).float(),
            device=call.device,
            max_rows=call.max_rows,
            show_progress_bar=call.show_progress_bar,
            desc="Encoding",
            before_batch=call.check_batch,
        )
        return Parts(vectors, owners, lost)

    def _count_tokens(self, text: str, call: Call) -> int:
        options = {**call.options, "processing_kwargs": {"text": {"truncation": False, "verbose": False}}}
        count: int = self.preprocess([text], **options)["attention_mask"].shape[1]
        return count

    def _chunk_text(self, text: str, call: Call) -> list[str]:
        """Cut a text into overlapping chunks at token borders, none of which loses a token."""
        limit = self.max_seq_length
        assert limit is not None, "without a limit nothing is too long"
        offsets = self._read_offsets(text)
        room = limit - self._count_tokens("", call)
        while True:
            room = max(room, 1)
            step = max(room - room // 8, 1)  # neighbours share one eighth: no sentence is only seen cut
            starts = range(0, max(len(offsets) - room // 8, 1), step)
            chunks = [
                text[offsets[start][0] : offsets[min(start + room, len(offsets)) - 1][1]] for start in starts
            ]
            call.check()
            longest = max(self._count_tokens(chunk, call) for chunk in chunks)  # borders tokenize anew
            if longest <= limit or room == 1:
                return chunks
            room -= longest - limit

    # --- vectors on disk ---

    def _embed_documents(self, texts: list[str], call: Call, *, chunked: bool = False) -> Parts:
        """Find the vectors of documents, or compute and keep them; distinct texts only in a cached call."""
        if not texts:
            return Parts(torch.empty(0, self.get_embedding_dimension(), device=call.device), [], [])
        if self.vector_cache is None or call.options:  # options of a call may change its vectors
            return self._embed(texts, None, call, chunked=chunked)
        cache = self.open_cache()
        vectors, lost, found = cache.read(texts)
        known = found & (lost == 0) if chunked else found
        chunks = _read_chunks(cache, texts, np.flatnonzero(~known)) if chunked else {}
        missing = [index for index in np.flatnonzero(~known).tolist() if index not in chunks]
        if missing:
            wanted = [texts[index] for index in missing]
            parts = self._embed(wanted, None, call, chunked=chunked)
            _store(cache, wanted, parts)
            vectors_again, lost_again, found_again = cache.read(wanted)
            rest = _read_chunks(cache, wanted, np.arange(len(wanted))) if chunked else {}
            for place, index in enumerate(missing):
                if place in rest:
                    chunks[index] = rest[place]
                elif found_again[place] and (not chunked or not lost_again[place]):
                    vectors[index], lost[index] = vectors_again[place], lost_again[place]
                else:  # not kept, such as NaN: what was computed
                    rows = [row for row, owner in enumerate(parts.owners) if owner == place]
                    chunks[index] = parts.vectors[rows].cpu().numpy()
                    lost[index] = parts.lost[place]
        parts = _assemble(vectors, lost, chunks, chunked=chunked)
        return Parts(parts.vectors.to(call.device), parts.owners, parts.lost)

    def open_cache(self) -> VectorCache:
        """Find the vectors of this very model on disk: of these weights, this tokenizer and these settings.

        Returns:
            The cache.

        Raises:
            ArgumentError: If the model was made without ``vector_cache``, or the folder cannot be made.
        """
        if self.vector_cache is None:
            domain = "a folder"
            raise bad_argument(
                type(self).__name__, "vector_cache", domain, None, "Pass it to the constructor"
            )
        stamp = self._stamp()
        cached = self._cache
        if cached is None or cached[0] != stamp:
            cache = VectorCache(
                self.vector_cache,
                model=f"{fingerprint(_Encoder(self))} {self._describe_adapters()}",
                dimensions=self.get_embedding_dimension(),
                dtype=self.cache_dtype,
            )
            self._cache = cached = stamp, cache
        return cached[1]

    def _stamp(self) -> tuple[Any, ...]:
        """Say cheaply whether the encoder is what it was when it got its fingerprint."""
        encoder = list(self)[:-1]
        weights = tuple(
            (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
            for module in encoder
            for tensor in (*module.parameters(), *module.buffers())
        )
        settings = str([getattr(module, "get_config_dict", module.__str__)() for module in encoder[1:]])
        where = str(self.vector_cache), self.cache_dtype, id(self.tokenizer), self.max_seq_length
        return weights, settings, where, self._describe_adapters()

    def _describe_adapters(self) -> str:
        """Say which adapters of peft are switched on: no weight and no setting tells."""
        found = [
            (name, getattr(part, "_disable_adapters", None), getattr(part, "_active_adapter", None))
            for name, part in self[0].named_modules()
            if hasattr(part, "_disable_adapters")
        ]
        return str(found)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is known of addresses in memory."""
        return {**self.__dict__, "_cache": None}


def _refuse_nan(owner: str, vectors: Tensor, start: int = 0) -> None:
    """Name the first text without a vector; ``start`` texts came before these."""
    broken = vectors.isnan().any(dim=1)
    if broken.any():
        raise FletchingError(
            f"{owner}: the model computed NaN for inputs[{start + int(broken.nonzero()[0])}]; "
            "load it in float32 or check its weights."
        )


class _Encoder(nn.Sequential):
    """Everything that decides on a sentence vector; the head does not."""

    def __init__(self, model: SentenceEncoder) -> None:
        super().__init__(*list(model)[:-1])
        self.tokenizer = model.tokenizer
        self.max_seq_length = model.max_seq_length


def _store(cache: VectorCache, texts: list[str], parts: Parts) -> None:
    """Keep the vectors of texts; those of the chunks of a text by their number."""
    rows_of: list[list[int]] = [[] for _ in texts]
    for row, owner in enumerate(parts.owners):
        rows_of[owner].append(row)
    vectors = parts.vectors.cpu().numpy()
    whole = [index for index, rows in enumerate(rows_of) if len(rows) == 1]
    cache.add(
        [texts[index] for index in whole],
        vectors[[rows_of[index][0] for index in whole]],
        notes=[parts.lost[index] for index in whole],
    )
    for number in range(max(map(len, rows_of))):
        cut = [index for index, rows in enumerate(rows_of) if len(rows) > max(number, 1)]
        cache.add(
            [texts[index] for index in cut],
            vectors[[rows_of[index][number] for index in cut]],
            notes=[len(rows_of[index]) for index in cut],
            scope=f"chunk {number}",
        )


def _read_chunks(
    cache: VectorCache, texts: list[str], places: Iterable[int]
) -> dict[int, NDArray[np.float32]]:
    """Find the chunks of texts, for those whose chunks are all there."""
    left = [int(place) for place in places]
    chunks: dict[int, list[NDArray[np.float32]]] = {}
    complete: dict[int, NDArray[np.float32]] = {}
    number = 0
    while left:
        vectors, counts, found = cache.read([texts[place] for place in left], scope=f"chunk {number}")
        going = []
        for row, place in enumerate(left):
            if not found[row]:
                continue
            chunks.setdefault(place, []).append(vectors[row])
            if number + 1 == counts[row]:
                complete[place] = np.stack(chunks[place])
            else:
                going.append(place)
        left, number = going, number + 1
    return complete


def _assemble(
    vectors: NDArray[np.float32],
    lost: NDArray[np.int32],
    chunks: dict[int, NDArray[np.float32]],
    *,
    chunked: bool,
) -> Parts:
    """Put the vectors of texts and those of the chunks of others into one order."""
    if not chunks:
        return Parts(torch.from_numpy(vectors), list(range(len(vectors))), lost.tolist())
    rows = [chunks.get(place, vectors[place : place + 1]) for place in range(len(vectors))]
    owners = [place for place, part in enumerate(rows) for _ in part]
    return Parts(
        torch.from_numpy(np.concatenate(rows)), owners, [0] * len(rows) if chunked else lost.tolist()
    )
