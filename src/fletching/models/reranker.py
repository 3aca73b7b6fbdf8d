"""Any cross-encoder as a reranker whose unit of work is a list: one query and its candidates."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from bisect import bisect
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.util.decorators import (
    cross_encoder_predict_rank_args_decorator,
    deprecated_kwargs,
)
from torch import Tensor, nn

from fletching.errors import FletchingError, bad_argument, bad_choice
from fletching.models.batching import Row, TokenizedRows
from fletching.models.inputs import (
    check_count,
    check_pairs,
    check_query,
    check_text,
    check_texts,
    is_listing,
)
from fletching.models.micro_batched import (
    NO_ROW_LIMIT,
    STOCK_BATCH_SIZE,
    MicroBatched,
    find_broken,
)
from fletching.models.ranking import Ranking
from fletching.models.tokenization import find_window

logger = logging.getLogger(__name__)

SCORES: dict[str, Callable[[], nn.Module]] = {"logit": nn.Identity, "probability": nn.Sigmoid}
"""What ``scores=`` may be, and the activation it stands for."""

LONG = ("truncate", "chunk_max")
"""What ``long=`` may be."""

_MAX_BYTES = 4  # of a character: no tokenizer makes more tokens of it
_MIN_CHUNK = 16  # tokens of a document that must fit beside the query for chunks to make sense
_OVERLAP = 8  # chunks share one eighth of their tokens, so that no sentence is only seen cut

_PREDICT_EXAMPLE = 'print(model.predict([("What is fletching?", "Feathers on an arrow.")]))'

Pair = tuple[str, str]


class CandidateList(list[Pair]):
    """The pairs of one list, kept together wherever they travel (micro-batches, worker processes)."""


@dataclass
class CallState:
    """What one call shares between its caller and the worker that computes it.

    Args:
        cancelled: Set to stop the work at the next micro-batch.
        lost_tokens: Filled with the tokens lost by pair.
        counts_lost: Whether they can be counted.
    """

    cancelled: threading.Event = field(default_factory=threading.Event)
    lost_tokens: dict[int, int] = field(default_factory=dict)
    counts_lost: bool = True

    def check(self) -> None:
        """Stop here if the call was cancelled."""
        if self.cancelled.is_set():
            raise _CancelledError


class _CancelledError(Exception):
    """Unwinds the worker thread of a cancelled call; never reaches a caller."""


class Reranker(MicroBatched, CrossEncoder):
    """A ``CrossEncoder`` that ranks whole lists, in any thread, in any batch, with the same scores.

    Opens every ``CrossEncoder`` checkpoint. Pairs of all lists of a call run in length-sorted micro-batches
    of a token budget; a list is never split where the method reads it as a whole; duplicates score equal;
    ties keep the input order; what truncation cost is on the result.

    Listwise methods subclass it: set :attr:`listwise` and override :meth:`encode_rows` and
    :meth:`score_lists`.

    Args:
        model_name_or_path: Folder or hub id; ``None`` with ``modules=`` builds a new model.
        dtype: ``None`` keeps the checkpoint's precision; ``"auto"`` picks bf16 where the hardware multiplies
            it faster; or ``"float32"``, ``"bfloat16"``, ``"float16"``, or a ``torch.dtype``.
        max_tokens_per_batch: Padded tokens of one micro-batch; ``None`` chooses by device and precision.
        long: What happens to a document that does not fit: ``"truncate"`` cuts it, ``"chunk_max"`` scores
            overlapping chunks and takes the best.
        **kwargs: Arguments of ``CrossEncoder``.

    Raises:
        ArgumentError: If an argument is outside its domain.
    """

    listwise = False
    """Whether a document's score depends on the other candidates of its list."""

    usage_example = 'print(model.rank("What is fletching?", ["Feathers on an arrow.", "A dance."]))'

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str] | None = None,
        *,
        dtype: str | torch.dtype | None = None,
        max_tokens_per_batch: int | None = None,
        long: str = "truncate",
        **kwargs: Any,
    ) -> None:
        self.long = self._check_long(long)
        super().__init__(model_name_or_path, dtype=dtype, max_tokens_per_batch=max_tokens_per_batch, **kwargs)

    # --- what a listwise method overrides ---

    def encode_rows(self, features: dict[str, Any], **kwargs: Any) -> Tensor:
        """Compute what each (query, document) row contributes on its own.

        Args:
            features: Padded micro-batch of B rows.
            **kwargs: Keyword arguments of the call that the modules know.

        Returns:
            Shape ``(B, ...)``; for a pointwise model the logits, ``(B, labels)``.
        """
        return self(features, **kwargs)["scores"]

    def score_lists(self, encoded: Tensor, list_sizes: Sequence[int]) -> Tensor:
        """Turn rows into scores, list by list.

        Args:
            encoded: :meth:`encode_rows` of all rows, list after list, shape ``(sum(list_sizes), ...)``.
            list_sizes: Rows of each list, all positive.

        Returns:
            Scores before the activation, shape ``(sum(list_sizes), labels)`` or ``(sum(list_sizes),)``.
        """
        return encoded

    def is_full(self, row: Row) -> bool:
        """Say whether a tokenized row may have lost tokens.

        Args:
            row: One row without padding.

        Returns:
            True if it is as long as rows can be.
        """
        window = find_window(self)
        return window is not None and row["input_ids"].numel() >= window

    # --- what users call ---

    @cross_encoder_predict_rank_args_decorator
    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[Tensor], Tensor] | None = None,
        device: str | list[str] | None = None,
        pool: dict[str, Any] | None = None,
        chunk_size: int | None = None,
        *,
        scores: str | None = None,
        long: str | None = None,
    ) -> Ranking:
        """Order the candidates of one query.

        Args:
            query: The query; not blank.
            documents: Its candidates; an empty list gives an empty ranking, an empty text is scored like any
                other.
            top_k: Hits to return; ``None`` returns all.
            return_documents: Whether hits carry the ``"text"``.
            prompt_name: Name of a saved prompt to put in front of the query.
            prompt: Text to put in front of the query.
            batch_size: Most pairs of one micro-batch; ``None`` lets the token budget alone decide.
            show_progress_bar: Whether to draw a progress bar; ``None`` draws one for a terminal at log level
                INFO.
            activation_fn: Applied to the logits; ``None`` takes the checkpoint's, or that of ``scores``.
            device: Device to run on, or a list of devices for one process each.
            pool: Processes of ``start_multi_process_pool``.
            chunk_size: Lists (listwise) or pairs sent to a process at once.
            scores: ``"logit"`` for raw scores, ``"probability"`` for their sigmoid; ``None`` leaves it to
                ``activation_fn``.
            long: As in the constructor, for this call.

        Returns:
            Hits, best first; scores are Python floats. Scores that the activation makes equal, as it does of
            large logits, are ordered by the logits; equal logits keep the order of ``documents``.

        Raises:
            ArgumentError: If an argument is outside its domain; nothing has been computed then.
            FletchingError: If the model computes NaN or infinity.
        """
        owner = f"{type(self).__name__}.rank"
        return self._rank_lists(
            [check_query(owner, "query", query)],
            [check_texts(owner, "documents", documents)],
            owner=owner,
            top_k=top_k,
            return_documents=return_documents,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            activation_fn=activation_fn,
            device=device,
            pool=pool,
            chunk_size=chunk_size,
            scores=scores,
            long=long,
        )[0]

    def rank_batch(
        self,
        queries: Sequence[str],
        document_lists: Sequence[Sequence[str]],
        top_k: int | None = None,
        **kwargs: Any,
    ) -> list[Ranking]:
        """Order many lists in one go; passages of all lists share micro-batches, scores do not mix.

        Args:
            queries: One query per list; equal queries stay separate lists.
            document_lists: Candidates of each query.
            top_k: Hits to return per list; ``None`` returns all.
            **kwargs: Keyword arguments of :meth:`rank`.

        Returns:
            One ranking per query, in order.

        Raises:
            ArgumentError: If an argument is outside its domain, or the two sequences differ in length.
            FletchingError: If the model computes NaN or infinity.
        """
        owner = f"{type(self).__name__}.rank_batch"
        for name, value, what in (
            ("queries", queries, "queries"),
            ("document_lists", document_lists, "lists of documents"),
        ):
            if not is_listing(value):
                raise bad_argument(owner, name, f"a list of {what}", value, "Use `rank` for one query")
        checked = [check_query(owner, f"queries[{i}]", query) for i, query in enumerate(queries)]
        lists = [check_texts(owner, f"document_lists[{i}]", texts) for i, texts in enumerate(document_lists)]
        if len(checked) != len(lists):
            domain = f"one list per query ({len(checked)})"
            raise bad_argument(
                owner, "document_lists", domain, len(lists), "Pass [] for a query without candidates"
            )
        return self._rank_lists(checked, lists, owner=owner, top_k=top_k, **kwargs)

    async def arank(
        self, query: str, documents: Sequence[str], top_k: int | None = None, **kwargs: Any
    ) -> Ranking:
        """:meth:`rank` for event loops: they stay responsive, and cancelling stops at the next micro-batch.

        Args:
            query: The query.
            documents: Its candidates.
            top_k: Hits to return; ``None`` returns all.
            **kwargs: Keyword arguments of :meth:`rank`.

        Returns:
            Exactly what :meth:`rank` returns.

        Raises:
            ArgumentError: As :meth:`rank`.
            FletchingError: As :meth:`rank`.
        """
        owner = f"{type(self).__name__}.arank"
        queries, lists = [check_query(owner, "query", query)], [check_texts(owner, "documents", documents)]
        state = CallState()
        work = asyncio.to_thread(
            self._rank_lists, queries, lists, owner=owner, top_k=top_k, state=state, **kwargs
        )
        try:
            return (await work)[0]
        except asyncio.CancelledError:
            state.cancelled.set()
            raise

    @deprecated_kwargs(sentences="inputs", activation_fct="activation_fn")
    def predict(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[Tensor], Tensor] | None = None,
        *args: Any,
        scores: str | None = None,
        long: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Score (query, document) pairs; see ``CrossEncoder.predict`` for the arguments not listed here.

        A listwise model takes neighbouring pairs with the same query as one list; :meth:`rank_batch` says
        outright where lists begin.

        Args:
            inputs: One pair or a list of pairs.
            prompt_name: Name of a saved prompt.
            prompt: Text to put in front of the queries.
            batch_size: Most pairs of one micro-batch; ``None`` lets the token budget alone decide.
            show_progress_bar: Whether to draw a progress bar.
            activation_fn: Applied to the logits; ``None`` takes the checkpoint's, or that of ``scores``.
            *args: Passed on.
            scores: ``"logit"`` or ``"probability"``; ``None`` leaves it to ``activation_fn``.
            long: As in the constructor, for this call.
            **kwargs: Passed on.

        Returns:
            As the base class: a float32 NumPy array of shape ``(N,)``, in the order of ``inputs``.

        Raises:
            ArgumentError: If an argument is outside its domain.
            FletchingError: If the model computes NaN or infinity.
        """
        owner = f"{type(self).__name__}.predict"
        if prompt is not None:
            prompt = check_text(owner, "prompt", prompt)
        if self.listwise and not self.is_singular_input(inputs):
            inputs = inputs.tolist() if isinstance(inputs, np.ndarray) else list(inputs)
            inputs = self._group(inputs)  # lists stay whole when processes share the work
        return super().predict(
            inputs,
            prompt_name,
            prompt,
            check_count(owner, "batch_size", batch_size) or NO_ROW_LIMIT,
            show_progress_bar,
            self._resolve_scores(owner, scores, activation_fn),
            *args,
            long=self._check_long(self.long if long is None else long),
            **kwargs,
        )

    # --- the one path they all take ---

    def _choose_label(self, owner: str) -> dict[str, Any]:
        """Refuse to rank by several labels; a method that knows how returns an option of its `_inference`."""
        if self.num_labels != 1:
            remedy = "Use `predict`, which returns every label"
            raise bad_argument(owner, "self.num_labels", "1 to rank", self.num_labels, remedy)
        return {}

    @torch.inference_mode()
    def _rank_lists(
        self,
        queries: list[str],
        document_lists: list[list[str]],
        *,
        owner: str,
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[Tensor], Tensor] | None = None,
        device: str | list[str] | None = None,
        pool: dict[str, Any] | None = None,
        chunk_size: int | None = None,
        scores: str | None = None,
        long: str | None = None,
        state: CallState | None = None,
    ) -> list[Ranking]:
        choice = self._choose_label(owner)
        top_k = check_count(owner, "top_k", top_k)
        if prompt is not None:
            prompt = check_text(owner, "prompt", prompt)
        activation = self._resolve_scores(owner, scores, activation_fn) or self.activation_fn or nn.Identity()
        options: dict[str, Any] = {
            "prompt": self._resolve_prompt(prompt, prompt_name),
            "batch_size": check_count(owner, "batch_size", batch_size) or NO_ROW_LIMIT,
            "show_progress_bar": show_progress_bar,
            "activation_fn": nn.Identity(),
            "apply_softmax": False,
            "long": self._check_long(self.long if long is None else long),
            **choice,
        }
        lists = [
            CandidateList((query, document) for document in documents)
            for query, documents in zip(queries, document_lists, strict=True)
        ]
        lists = [pairs for pairs in lists if pairs]
        state = state or CallState()
        if pool is not None or isinstance(device, list):
            flat = self._multi_process(lists, pool=pool, device=device, chunk_size=chunk_size, **options)
            lost = None  # the workers logged what they cut
        else:
            flat = self._inference(lists, device=device, state=state, **options)
            lost = state.lost_tokens if state.counts_lost else None
        logits = torch.as_tensor(flat).unsqueeze(-1)  # the shape that activations are made for
        values = [*zip(activation(logits).flatten().tolist(), logits.flatten().tolist(), strict=True)]
        borders = [0, *accumulate(len(documents) for documents in document_lists)]
        return [
            _build_ranking(values[start:stop], documents, start, lost, top_k, return_documents)
            for documents, start, stop in zip(document_lists, borders, borders[1:], strict=False)
        ]

    @torch.inference_mode()
    def _inference(
        self,
        inputs: list[Any],
        *,
        prompt: str | None,
        batch_size: int,
        show_progress_bar: bool | None,
        activation_fn: Callable[[Tensor], Tensor] | None,
        apply_softmax: bool | None,
        device: str | torch.device | None = None,
        long: str | None = None,
        state: CallState | None = None,
        **kwargs: Any,
    ) -> Tensor:
        target = self._resolve_inference_device(device)
        lists = self._group(inputs)
        pairs = [pair for pairs in lists for pair in pairs]
        if not pairs:
            return torch.tensor([], device=target)
        state = state or CallState()
        pairs, unread = self._clip_queries(pairs)
        tokenized = self._tokenize_rows(pairs, prompt=prompt, before_chunk=state.check, **kwargs)
        if tokenized is None:
            # flash attention flattens its batches: sentence-transformers knows how
            long = long or self.long
            if long != "truncate":
                domain = "'truncate' for a model whose batches cannot be taken apart"
                raise bad_argument(type(self).__name__, "long", domain, long)
            state.counts_lost = False
            values = super()._inference(
                pairs,
                prompt=prompt,
                batch_size=STOCK_BATCH_SIZE if batch_size == NO_ROW_LIMIT else batch_size,
                show_progress_bar=bool(show_progress_bar),
                activation_fn=activation_fn,
                apply_softmax=apply_softmax,
                device=device,
                **kwargs,
            )
            self._refuse_nan(values, list(range(len(pairs))), [len(group) for group in lists])
            return values
        self.eval()
        logits = self._score_rows(
            pairs,
            [len(group) for group in lists],
            tokenized,
            unread,
            prompt=prompt,
            device=target,
            max_rows=batch_size,
            show_progress_bar=show_progress_bar,
            long=long or self.long,
            state=state,
            **kwargs,
        )
        if logits.is_floating_point() and torch.finfo(logits.dtype).bits < 32:
            logits = logits.float()
        values = activation_fn(logits) if activation_fn is not None else logits
        if self.num_labels == 1 and values.ndim > 1:
            values = values.squeeze(-1)
        return values.softmax(dim=1) if apply_softmax and values.ndim > 1 else values

    def _score_rows(
        self,
        pairs: list[Pair],
        list_sizes: list[int],
        tokenized: TokenizedRows,
        unread: list[int],
        *,
        prompt: str | None,
        device: torch.device,
        max_rows: int,
        show_progress_bar: bool | None,
        long: str,
        state: CallState,
        **kwargs: Any,
    ) -> Tensor:
        """Look at what is too long, encode every row, score every list; logits in the order of ``pairs``."""
        too_long = [index for index, row in enumerate(tokenized.rows) if self.is_full(row)]
        cut = self._count_lost(pairs, too_long, tokenized, unread, state, prompt=prompt, **kwargs)
        owners = list(range(len(pairs)))
        if cut and long == "chunk_max":
            pairs, owners = self._split_documents(pairs, cut, prompt=prompt, **kwargs)
            chunks = self._tokenize_rows(pairs, prompt=prompt, before_chunk=state.check, **kwargs)
            assert chunks is not None, "the whole documents could be split into rows"
            tokenized = chunks
            still_full = [index for index, row in enumerate(tokenized.rows) if self.is_full(row)]
            unread = [unread[owner] for owner in owners]
            left = self._count_lost(pairs, still_full, tokenized, unread, state, prompt=prompt, **kwargs)
            for index, count in left.items():  # of a long query, which no chunk of its document can hold
                state.lost_tokens[owners[index]] = max(count, state.lost_tokens.get(owners[index], 0))
        elif cut:
            state.lost_tokens.update(cut)
            logger.warning(
                '%s: cut %d of %d documents to %d tokens, %d tokens lost; long="chunk_max" reads them whole.',
                type(self).__name__,
                len(cut),
                len(pairs),
                find_window(self),
                sum(cut.values()),
            )
        encoded = self._run_rows(
            tokenized,
            lambda features: self.encode_rows(features, **kwargs),
            device=device,
            max_rows=max_rows,
            show_progress_bar=show_progress_bar,
            desc="Ranking",
            before_batch=state.check,
        )
        self._refuse_nan(encoded, owners, list_sizes)
        scores = self.score_lists(encoded, _count_rows(owners, list_sizes))
        self._refuse_nan(scores, owners, list_sizes)
        if len(owners) == sum(list_sizes):
            return scores
        best = scores.new_full((sum(list_sizes), *scores.shape[1:]), float("-inf"))
        places = (
            torch.tensor(owners, device=scores.device).view(-1, *[1] * (scores.ndim - 1)).expand_as(scores)
        )
        return best.scatter_reduce(0, places, scores, reduce="amax")

    def _refuse_nan(self, rows: Tensor, owners: list[int], list_sizes: list[int]) -> None:
        """Refuse NaN and infinity, which would tie or scatter what they meet."""
        broken = find_broken(rows)
        if broken is None:
            return
        index, found = owners[broken[0]], broken[1]
        borders = [0, *accumulate(list_sizes)]
        number = bisect(borders, index) - 1
        raise FletchingError(
            f"{type(self).__name__}: the model computed {found} for document {index - borders[number]} of "
            f"list {number}; load it in float32 or check its weights."
        )

    # --- long queries and documents ---

    def _clip_queries(self, pairs: list[Pair]) -> tuple[list[Pair], list[int]]:
        """Cut queries behind the last token that can fit, so that no document has to wait for the rest.

        Returns:
            ``(pairs, unread)``: the pairs, and the tokens that each query lost here.
        """
        longest: dict[str, int] = {}
        for query, document in pairs:
            longest[query] = max(longest.get(query, 0), len(document))
        clipped = {query: self._clip(query, _MAX_BYTES * count) for query, count in longest.items()}
        return [(clipped[query][0], document) for query, document in pairs], [
            clipped[query][1] for query, _ in pairs
        ]

    def _clip(self, query: str, longest: int) -> tuple[str, int]:
        """Keep more tokens than fit and than a document has: which of the two is longer decides the cut."""
        limit = find_window(self)
        if limit is None or len(query) <= max(limit, longest) or not self._tells_offsets():
            return query, 0
        offsets, kept = self._read_offsets(query), max(limit, longest) + 1
        return (query[: offsets[kept - 1][1]], len(offsets) - kept) if len(offsets) > kept else (query, 0)

    def _tells_offsets(self) -> bool:
        return bool(getattr(self.tokenizer, "is_fast", False))

    def _read_offsets(self, text: str) -> list[tuple[int, int]]:
        """Say where each token begins and ends in a text."""
        with self._tokenizer_lock:
            offsets: list[tuple[int, int]] = self.tokenizer(
                text,
                add_special_tokens=False,
                truncation=False,
                return_offsets_mapping=True,
                verbose=False,
            )["offset_mapping"]
        return offsets

    def _untruncated_length(self, pair: Pair, **kwargs: Any) -> int:
        options = {**kwargs, "processing_kwargs": {"text": {"truncation": False, "verbose": False}}}
        return self.preprocess([pair], **options)["attention_mask"].shape[1]

    def _count_lost(
        self,
        pairs: list[Pair],
        too_long: list[int],
        tokenized: TokenizedRows,
        unread: list[int],
        state: CallState,
        **kwargs: Any,
    ) -> dict[int, int]:
        """Count the tokens that truncation cost, for the pairs that lost any."""
        lengths, lost = tokenized.lengths(), {}
        for index in too_long:
            state.check()
            lost[index] = self._untruncated_length(pairs[index], **kwargs) - lengths[index] + unread[index]
        return {index: count for index, count in lost.items() if count > 0}

    def _split_documents(
        self, pairs: list[Pair], cut: Container[int], **kwargs: Any
    ) -> tuple[list[Pair], list[int]]:
        """Replace each pair that does not fit by pairs with chunks of its document.

        Returns:
            ``(pairs, owners)``: the new pairs in order, and for each the position of the pair it came from.
        """
        rows: list[Pair] = []
        owners: list[int] = []
        for index, (query, document) in enumerate(pairs):
            chunks = self._chunk(query, document, **kwargs) if index in cut else [document]
            rows += [(query, chunk) for chunk in chunks]
            owners += [index] * len(chunks)
        return rows, owners

    def _chunk(self, query: str, document: str, **kwargs: Any) -> list[str]:
        """Cut a document into overlapping chunks that fit beside the query, at token borders."""
        limit = find_window(self)
        assert limit is not None, "without a limit nothing is too long"
        if not self._tells_offsets():
            domain = "'truncate' with a tokenizer that does not tell where in a text its tokens are"
            raise bad_argument(type(self).__name__, "long", domain, "chunk_max")
        beside = self.preprocess([(query, "")], **kwargs)["attention_mask"].shape[1]
        room = limit - beside - 2  # cut borders may tokenize differently
        if room < _MIN_CHUNK:
            domain = f"short enough to leave {_MIN_CHUNK} of {limit} tokens for a document"
            raise bad_argument(
                type(self).__name__, "query", domain, query, "Shorten it or raise max_seq_length"
            )
        offsets = self._read_offsets(document)
        if not offsets:  # it is the query that does not fit
            return [document]
        step = room - room // _OVERLAP
        starts = range(0, max(len(offsets) - room // _OVERLAP, 1), step)
        return [
            document[offsets[start][0] : offsets[min(start + room, len(offsets)) - 1][1]] for start in starts
        ]

    # --- lists and options ---

    def _show_usage(self) -> str:
        """Show what a model of several labels can do, too."""
        ranks = self.num_labels == 1 or self.usage_example != Reranker.usage_example
        return self.usage_example if ranks else _PREDICT_EXAMPLE

    def _group(self, inputs: list[Any]) -> list[CandidateList]:
        """Given lists as they are; else one per run of equal queries, or one in all for a pointwise model."""
        if inputs and isinstance(inputs[0], CandidateList):
            return inputs
        pairs = check_pairs(type(self).__name__, inputs)
        if not self.listwise:
            return [CandidateList(pairs)]
        return [CandidateList(group) for _, group in groupby(pairs, key=lambda pair: pair[0])]

    def _multi_process(self, inputs: Sequence[Any], **kwargs: Any) -> Any:
        """Send whole lists to the workers, so that a chunk border never cuts one."""
        lists = self._group(list(inputs))
        units = lists if self.listwise else [pair for pairs in lists for pair in pairs]
        return super()._multi_process(units, **kwargs)

    @staticmethod
    def _resolve_scores(
        owner: str, scores: str | None, activation_fn: Callable[[Tensor], Tensor] | None
    ) -> Callable[[Tensor], Tensor] | None:
        if scores is None:
            return activation_fn
        if activation_fn is not None:
            raise bad_argument(
                owner, "scores", "None when `activation_fn` is given", scores, "Pass only one of them"
            )
        if scores not in SCORES:
            raise bad_choice(owner, "scores", SCORES, scores)
        return SCORES[scores]()

    @classmethod
    def _check_long(cls, long: str) -> str:
        if long not in LONG:
            raise bad_choice(cls.__name__, "long", LONG, long)
        return long


def _build_ranking(
    scores: list[tuple[float, float]],
    documents: list[str],
    start: int,
    lost: dict[int, int] | None,
    top_k: int | None,
    return_documents: bool,
) -> Ranking:
    """Sort one list by scores, each with its logit for where the activation made two of them equal.

    Returns:
        The ranking; ``lost`` counts pairs from the call's first, this list's first is at ``start``.
    """
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)  # stable even in reverse
    hits: list[dict[str, Any]] = [{"corpus_id": place, "score": scores[place][0]} for place in order[:top_k]]
    if return_documents:
        hits = [{**hit, "text": documents[hit["corpus_id"]]} for hit in hits]
    if lost is not None:
        lost = {place: lost[start + place] for place in range(len(scores)) if start + place in lost}
    return Ranking(hits, lost_tokens=lost)


def _count_rows(owners: list[int], list_sizes: list[int]) -> list[int]:
    """Count the rows of each list after some of its documents became several rows."""
    list_of = [place for place, size in enumerate(list_sizes) for _ in range(size)]
    counts = [0] * len(list_sizes)
    for owner in owners:
        counts[list_of[owner]] += 1
    return counts
