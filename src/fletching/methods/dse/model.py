"""DSEReranker: what users call. A reranker that is also an encoder of sentences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.util.decorators import deprecated_kwargs
from torch import Tensor, nn

from fletching.errors import FletchingError, bad_argument, bad_checkpoint, bad_shape
from fletching.methods.dse.config import DSEConfig
from fletching.methods.dse.encoding import BLOCK, Call, Parts, SentenceEncoder
from fletching.methods.dse.functional import compute_log_odds
from fletching.methods.dse.modules import DSEPairHead, SiameseTransformer
from fletching.methods.dse.students import build_modules, find_network
from fletching.models.embedder import Embedder
from fletching.models.hub import spread_hub_options
from fletching.models.inputs import check_texts
from fletching.models.minilm import HUB_ID
from fletching.models.reranker import CallState, logger

_FEW = 8  # pairs of one query, up to which the plain head is faster than the decomposed one
_OF_HUB = ("token", "cache_folder", "revision", "local_files_only")
_OF_ENCODER = (*_OF_HUB, "model_kwargs", "processor_kwargs", "config_kwargs")


class DSEReranker(SentenceEncoder):
    """DSE (Barkan et al., AAAI 2020, arXiv 1908.05161): sentence vectors, and a head over pairs of them.

    Trained to score as a cross-encoder does, it encodes each text once, apart from all others. So it ranks as
    any reranker does, and :meth:`encode` gives the vectors. With ``vector_cache`` the vectors of documents
    are kept on disk: ranking a thousand known candidates costs one query and a few products.

    Training goes through the modules: ``model.preprocess(pairs)`` and ``model(features)["scores"]``, as for
    any ``CrossEncoder``; or :meth:`encode_features` and ``model.head.score``.

    Args:
        model_name_or_path: A save of this class; for another encoder use :meth:`from_encoder`.
        symmetric: Whether a score is the mean of both orders of the pair; ``None`` takes what was saved, at
            first False as in the reference code, where ``score(a, b)`` is not ``score(b, a)``.
        label: The class that a multiclass model ranks by: its score is the log-odds of this class against all
            others. ``None`` takes what was saved; without one, such a model cannot rank.
        vector_cache: Folder where document vectors are kept, by model and text; True takes the default cache
            folder, ``None`` keeps none. Vectors of other weights, settings or texts are never used.
        cache_dtype: ``"float32"``, or ``"float16"`` for half of the space.
        **kwargs: Arguments of :class:`~fletching.models.reranker.Reranker`.

    Raises:
        ArgumentError: If an argument is outside its domain.
        CheckpointError: If the folder holds no DSE model.
    """

    usage_example = (
        'print(model.rank("What is fletching?", ["Feathers on an arrow.", "A dance."]))\n'
        'print(model.encode("What is fletching?").shape)'
    )

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        symmetric: bool | None = None,
        label: int | None = None,
        vector_cache: str | Path | bool | None = None,
        cache_dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        name = None if model_name_or_path is None else str(model_name_or_path)
        if "modules" in kwargs:
            _check_modules("(modules)", kwargs["modules"])
        super().__init__(name, vector_cache=vector_cache, cache_dtype=cache_dtype, **kwargs)
        if symmetric is not None:
            self.head.symmetric = bool(symmetric)
        if label is not None:
            self.head.label = label

    @classmethod
    def from_encoder(
        cls, model_name_or_path: str | Path = HUB_ID, config: DSEConfig | None = None, **kwargs: Any
    ) -> DSEReranker:
        """Start a student on any encoder: its pooling reads what is there, its head is new.

        Args:
            model_name_or_path: Folder or hub id of an encoder, or of an embedder whose encoder to take.
            config: What the student is made of; ``None`` takes the defaults.
            **kwargs: Arguments of this class, and where the encoder's files come from.

        Returns:
            A model to train.

        Raises:
            ArgumentError: If the encoder has too few layers or positions.
        """
        config = config or DSEConfig()
        hub = {name: kwargs.pop(name) for name in _OF_ENCODER if name in kwargs}
        network = SiameseTransformer(find_network(str(model_name_or_path)), **spread_hub_options(**hub))
        modules = build_modules(network, config)
        return cls(modules=modules, **kwargs)

    # --- the parts ---

    @property
    def num_labels(self) -> int:
        """Labels of a pair."""
        return self.head.num_labels

    def get_default_activation_fn(self) -> nn.Module:
        """A sigmoid for a binary model; values and the logits of classes stay as they are.

        Returns:
            The activation of a model that names none.
        """
        return nn.Sigmoid() if self.head.task == "binary" else nn.Identity()

    def to_embedder(self, **kwargs: Any) -> Embedder:
        """Look at the encoder as an embedder of its own, to be saved, indexed with or compared by cosine.

        Args:
            **kwargs: Arguments of :class:`~fletching.models.embedder.Embedder`.

        Returns:
            An embedder that shares the weights; its folder opens without the head.
        """
        network: Any = self[0]
        modules = [network.as_single(), *list(self)[1:-1]]
        options: dict[str, Any] = {"device": str(self.device), "similarity_fn_name": "cosine", **kwargs}
        return Embedder(modules=modules, **options)

    # --- scores of pairs ---

    @deprecated_kwargs(sentences="inputs", activation_fct="activation_fn")
    def predict(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[Tensor], Tensor] | None = None,
        apply_softmax: bool | None = None,
        *args: Any,
        scores: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Score pairs; see ``Reranker.predict`` for the arguments not listed here.

        Each distinct text is encoded once, whichever pairs it is in.

        Args:
            inputs: One pair or a list of pairs.
            prompt_name: Name of a saved prompt.
            prompt: Text to put in front of the first sentences.
            batch_size: Most texts of one micro-batch; ``None`` lets the token budget alone decide.
            show_progress_bar: Whether to draw a progress bar.
            activation_fn: Applied to the logits; ``None`` takes the model's.
            apply_softmax: Whether the logits of a multiclass model become probabilities; ``None``: unless
                ``activation_fn`` or ``scores`` says otherwise.
            *args: Passed on.
            scores: ``"logit"`` or ``"probability"``: of a multiclass model, its softmax.
            **kwargs: Passed on.

        Returns:
            A float32 NumPy array of shape ``(N,)``, or ``(N, C)`` for a multiclass model.

        Raises:
            ArgumentError: If an argument is outside its domain.
            FletchingError: If the model computes NaN.
        """
        if self.num_labels > 1:
            self._resolve_scores(f"{type(self).__name__}.predict", scores, activation_fn)
            if apply_softmax is None:
                apply_softmax = activation_fn is None and scores != "logit"
            scores, activation_fn = None, activation_fn or nn.Identity()
        return super().predict(
            inputs, prompt_name, prompt, batch_size, show_progress_bar, activation_fn, apply_softmax, *args,
            scores=scores, **kwargs,
        )  # fmt: skip

    def score_matrix(
        self,
        queries: Any,
        documents: Any,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        *,
        scores: str | None = None,
        activation_fn: Callable[[Tensor], Tensor] | None = None,
    ) -> NDArray[np.float32]:
        """Score every query against every document.

        Takes texts, or vectors of :meth:`encode`; a memory-mapped array of a million vectors is read block by
        block. Texts of documents go through ``vector_cache``. Memory grows with the result, not with the
        vectors of the documents.

        Args:
            queries: B texts, or vectors of shape ``(B, D)``.
            documents: N texts, or vectors of shape ``(N, D)``.
            prompt: Text to put in front of the queries.
            batch_size: Most texts of one micro-batch.
            show_progress_bar: Whether to draw progress bars of the encoding.
            scores: ``"logit"`` or ``"probability"``; ``None`` leaves it to ``activation_fn``.
            activation_fn: Applied to the logits; ``None`` takes what :meth:`predict` takes.

        Returns:
            Shape ``(B, N)``, float32; ``(B, N, C)`` for a multiclass model.

        Raises:
            ArgumentError: If an argument is outside its domain.
            ShapeError: If vectors are of another width than the model's.
            FletchingError: If the model computes NaN.
        """
        owner = f"{type(self).__name__}.score_matrix"
        activation = self._resolve_scores(owner, scores, activation_fn)
        if self.num_labels > 1 and (scores == "probability" or activation is None):
            activation = nn.Softmax(dim=-1)
        activation = activation or self.activation_fn or nn.Identity()
        call = self._start_call(owner, None, batch_size, show_progress_bar)
        left = self._take_vectors(owner, "queries", queries)
        right = self._take_vectors(owner, "documents", documents)
        if left is None:
            prompt = self._resolve_prompt(prompt, None)
            u = self._encode_all(check_texts(owner, "queries", queries), prompt, call)
        else:
            u = _to_tensor(left)
        u = u.to(call.device)
        texts = check_texts(owner, "documents", documents) if right is None else []
        count = len(texts) if right is None else len(right)
        result = np.empty((len(u), count, self.num_labels), np.float32)
        with torch.inference_mode():
            for start in range(0, count, BLOCK):
                block = slice(start, start + BLOCK)
                v = (
                    self._embed_documents(texts[block], call).vectors
                    if right is None
                    else _to_tensor(right[block])
                )
                logits = self.head.score_all(u, v.to(call.device))
                if logits.isnan().any():
                    place = start + int(logits.isnan().any(dim=2).any(dim=0).nonzero()[0])
                    raise FletchingError(
                        f"{owner}: a score of documents[{place}] is NaN; load the model in float32, or check "
                        "its weights and the vectors."
                    )
                result[:, block] = activation(logits).cpu().numpy()
        return result[..., 0] if self.num_labels == 1 else result

    # --- the one path that rank and predict take ---

    def _choose_label(self, owner: str) -> dict[str, Any]:
        """Say which class ranking goes by."""
        if self.num_labels > 1 and self.head.label is None:
            domain = f"one of the classes 0 to {self.num_labels - 1} to rank by"
            raise bad_argument(
                owner, "self.head.label", domain, None, "Set it, or open the model with label="
            )
        return {"label": self.head.label}

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
        label: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        target = self._resolve_inference_device(device)
        lists = self._group(inputs)
        pairs = [pair for pairs in lists for pair in pairs]
        if not pairs:
            return torch.tensor([], device=target)
        call = Call(target, batch_size, show_progress_bar, state or CallState(), long or self.long, kwargs)
        logits = self._score_texts(pairs, prompt, label, call)
        self._refuse_nan(logits, list(range(len(pairs))), [len(group) for group in lists])
        values = activation_fn(logits) if activation_fn is not None else logits
        if values.ndim > 1 and values.shape[1] == 1:
            values = values.squeeze(-1)
        return values.softmax(dim=1) if apply_softmax and values.ndim > 1 else values

    def _score_texts(
        self, pairs: list[tuple[str, str]], prompt: str | None, label: int | None, call: Call
    ) -> Tensor:
        """Encode every distinct text once and score every distinct pair; logits in the order of ``pairs``."""
        queries = list(dict.fromkeys(query for query, _ in pairs))
        documents = list(dict.fromkeys(document for _, document in pairs))
        query_places = {text: place for place, text in enumerate(queries)}
        document_places = {text: place for place, text in enumerate(documents)}
        wanted = [(document_places[document], query_places[query]) for query, document in pairs]
        distinct = sorted(set(wanted))
        u = self._embed(queries, prompt, call, chunked=False)
        call.between = True
        width = self.num_labels if label is None else 1
        scores = torch.empty(len(distinct), width, device=call.device)
        lost: list[int] = []
        done = 0
        for start in range(0, len(documents), BLOCK):
            parts = self._embed_documents(
                documents[start : start + BLOCK], call, chunked=call.long == "chunk_max"
            )
            lost += parts.lost
            stop = done
            while stop < len(distinct) and distinct[stop][0] < start + BLOCK:
                stop += 1
            block = [(place - start, query) for place, query in distinct[done:stop]]
            scores[done:stop] = self._score_block(u.vectors, parts, block, label)
            done = stop
        self._report_lost(pairs, wanted, lost, u.lost, call)
        order = {pair: place for place, pair in enumerate(distinct)}
        return scores[torch.tensor([order[pair] for pair in wanted], device=scores.device)]

    def _score_block(
        self, u: Tensor, parts: Parts, block: list[tuple[int, int]], label: int | None
    ) -> Tensor:
        """Score pairs of a document of the block and a query; of chunks the best one counts."""
        rows_of: dict[int, list[int]] = {}
        for row, owner in enumerate(parts.owners):
            rows_of.setdefault(owner, []).append(row)
        by_query: dict[int, list[int]] = {}
        for place, (_, query) in enumerate(block):
            by_query.setdefault(query, []).append(place)
        width = self.num_labels if label is None else 1
        scores = u.new_full((len(block), width), float("-inf"))
        few: list[tuple[int, int, int]] = []  # place, query, row
        for query, places in by_query.items():
            rows = [(place, row) for place in places for row in rows_of[block[place][0]]]
            if len(rows) <= _FEW:
                few += [(place, query, row) for place, row in rows]
                continue
            chosen = torch.tensor(rows, device=u.device)
            whole = len(rows) == len(parts.vectors) and [row for _, row in rows] == list(range(len(rows)))
            v = parts.vectors if whole else parts.vectors[chosen[:, 1]]
            logits = self.head.score_all(u[query : query + 1], v)[0]
            _keep_best(scores, chosen[:, 0], _reduce(logits, label))
        for start in range(0, len(few), BLOCK):
            chosen = torch.tensor(few[start : start + BLOCK], device=u.device)
            logits = self.head.score(u[chosen[:, 1]], parts.vectors[chosen[:, 2]])
            _keep_best(scores, chosen[:, 0], _reduce(logits, label))
        return scores

    def _report_lost(
        self,
        pairs: list[tuple[str, str]],
        wanted: list[tuple[int, int]],
        lost: list[int],
        lost_of_queries: list[int],
        call: Call,
    ) -> None:
        """Note what truncation cost each pair, and log it."""
        cut = {
            index: lost[document] + lost_of_queries[query]
            for index, (document, query) in enumerate(wanted)
            if lost[document] + lost_of_queries[query]
        }
        call.state.lost_tokens.update(cut)
        documents = [lost[document] for document, _ in wanted if lost[document]]
        if documents:
            logger.warning(
                '%s: cut %d of %d documents to %d tokens, %d tokens lost; long="chunk_max" reads them whole.',
                type(self).__name__,
                len(documents),
                len(pairs),
                self.max_seq_length,
                sum(documents),
            )
        if any(lost_of_queries):
            logger.warning(
                "%s: cut %d of %d queries to %d tokens, %d tokens lost.",
                type(self).__name__,
                sum(map(bool, lost_of_queries)),
                len(lost_of_queries),
                self.max_seq_length,
                sum(lost_of_queries),
            )

    def _take_vectors(self, owner: str, name: str, value: Any) -> Any:
        """Return vectors as they are; ``None`` for texts."""
        if not isinstance(value, (np.ndarray, Tensor)) or (
            isinstance(value, np.ndarray) and value.dtype.kind in "UO"
        ):
            return None
        expected = (len(value) if value.ndim else 0, self.get_embedding_dimension())
        if tuple(value.shape) != expected:
            raise bad_shape(owner, name, "N, D", expected, tuple(value.shape))
        return value

    def _load_config_modules(self, model_name_or_path: str, *args: Any, **kwargs: Any) -> Any:
        """Open a save, if it is one of this class."""
        modules, options = super()._load_config_modules(model_name_or_path, *args, **kwargs)
        _check_modules(model_name_or_path, modules)
        return modules, options

    def _load_default_modules(
        self, model_name_or_path: str, **kwargs: Any
    ) -> tuple[list[nn.Module], dict[str, Any]]:
        """Refuse an encoder without a head, and saves of other kinds."""
        raise _bad_folder(model_name_or_path)


def _check_modules(name: str, modules: Any) -> None:
    """Refuse modules that are no DSE model."""
    parts = list(modules.values() if isinstance(modules, dict) else modules or [])
    if not parts or not isinstance(parts[0], SiameseTransformer) or not isinstance(parts[-1], DSEPairHead):
        raise _bad_folder(name)


def _bad_folder(name: str) -> Exception:
    remedy = "Start a new one with DSEReranker.from_encoder"
    return bad_checkpoint(name, "it holds no DSE model", remedy)


def _to_tensor(vectors: Any) -> Tensor:
    """Take vectors, of a memory map too, in float32."""
    if isinstance(vectors, Tensor):
        return vectors.float()
    return torch.from_numpy(np.array(vectors, np.float32))


def _reduce(logits: Tensor, label: int | None) -> Tensor:
    return logits if label is None else compute_log_odds(logits, label)[..., None]


def _keep_best(scores: Tensor, places: Tensor, values: Tensor) -> None:
    """Raise scores to the best value at their place."""
    scores.scatter_reduce_(0, places[:, None].expand_as(values), values, reduce="amax")
