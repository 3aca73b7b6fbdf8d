"""Both ways to mteb: our models as its models, local data as one of its tasks (extra ``mteb``)."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from torch import Tensor
from transformers import PreTrainedModel

from fletching.data.lines import StrPath
from fletching.errors import bad_argument, missing_extra
from fletching.evaluation.data_set import EvaluationSet, read_evaluation_set
from fletching.models.loading import load
from fletching.models.reranker import Reranker
from fletching.models.sharing import fingerprint

if TYPE_CHECKING:
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models import ModelMeta
    from mteb.models.model_meta import MODEL_TYPES
    from mteb.types import PromptType

__all__ = ["MTEBEmbedder", "MTEBReranker", "as_mteb_model", "build_local_task"]

logger = logging.getLogger(__name__)

_SPLIT = "test"
_PAIRS_AT_ONCE = 4096  # of whole lists; bounds the memory, not the micro-batches
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_NAME_DIGITS = 8  # of the digest, at the end of a task's name

Batches = Iterable[dict[str, Any]]


class MTEBEmbedder:
    """An embedder as mteb calls it (its ``EncoderProtocol``); made by `as_mteb_model`.

    Queries go through ``encode_query`` and documents through ``encode_document``, with the checkpoint's own
    prompts. A prompt that the checkpoint has under the name of the task or of its type comes first, as mteb
    has it. Inputs of tasks without queries go through ``encode``.

    Args:
        model: An ``Embedder``, or any ``SentenceTransformer``.
        mteb_model_meta: What mteb stores with the results.
    """

    def __init__(self, model: SentenceTransformer, mteb_model_meta: ModelMeta) -> None:
        self.model = model
        self.mteb_model_meta = mteb_model_meta

    def encode(
        self,
        inputs: Batches,
        *,
        task_metadata: TaskMetadata,
        prompt_type: PromptType | None = None,
        hf_split: str = "",
        hf_subset: str = "",
        **kwargs: Any,
    ) -> NDArray[np.float32]:
        """Embed texts.

        Args:
            inputs: mteb's batches; each has its texts under ``"text"``.
            task_metadata: The task, which may have a prompt of its own.
            prompt_type: Queries, documents, or neither (``None``).
            hf_split: Not used.
            hf_subset: Not used.
            **kwargs: ``batch_size``, ``show_progress_bar`` and ``precision``, passed on.

        Returns:
            Shape ``(B, D)``, in the order of the inputs.
        """
        from mteb.models.abs_encoder import get_prompt_name

        texts = [text for batch in inputs for text in batch["text"]]
        encode = {"query": self.model.encode_query, "document": self.model.encode_document}.get(
            prompt_type.value if prompt_type else "", self.model.encode
        )
        prompts = {name: prompt or "" for name, prompt in self.model.prompts.items()}
        prompt_name = get_prompt_name(prompts, task_metadata, prompt_type)
        embeddings: NDArray[np.float32] = encode(texts, prompt_name=prompt_name, **kwargs)
        return embeddings

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Compare all with all, by the checkpoint's own similarity.

        Args:
            embeddings1: Shape ``(B, D)`` or ``(D,)``.
            embeddings2: Shape ``(N, D)`` or ``(D,)``.

        Returns:
            Shape ``(B, N)``.
        """
        return self.model.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Compare row by row, by the checkpoint's own similarity.

        Args:
            embeddings1: Shape ``(B, D)``.
            embeddings2: Shape ``(B, D)``.

        Returns:
            Shape ``(B,)``.
        """
        return self.model.similarity_pairwise(embeddings1, embeddings2)


class MTEBReranker:
    """A reranker as mteb calls it (its ``CrossEncoderProtocol``), with lists whole; made by `as_mteb_model`.

    mteb hands over the pairs of all queries in batches of a fixed size, whose borders cut lists, and its own
    wrapper scores each batch by itself: the scores of a listwise model then depend on the batch size. Here
    the lists are put together again, by the query's id, and `Reranker.rank_batch` scores each as a whole.

    Args:
        model: The reranker.
        mteb_model_meta: What mteb stores with the results.
    """

    def __init__(self, model: Reranker, mteb_model_meta: ModelMeta) -> None:
        self.model = model
        self.mteb_model_meta = mteb_model_meta

    def predict(
        self,
        inputs1: Batches,
        inputs2: Batches,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        **kwargs: Any,
    ) -> NDArray[np.float64]:
        """Score the pairs of all lists.

        Args:
            inputs1: Batches of queries, one for each pair. Neighbouring pairs with the same ``"id"`` and
                ``"text"`` are one list; without ids, those with the same ``"text"``.
            inputs2: Batches of documents, one for each pair.
            batch_size: Most pairs of one micro-batch, as in `Reranker.rank`; it moves no score.
            show_progress_bar: Whether to draw progress bars.
            **kwargs: Not used: task, split and subset.

        Returns:
            The scores of `Reranker.rank_batch`, one for each pair in the order of the inputs.
        """
        scores: list[float] = []
        for lists in _take_lists(_read_lists(inputs1, inputs2)):
            rankings = self.model.rank_batch(
                [query for query, _ in lists],
                [documents for _, documents in lists],
                batch_size=batch_size,
                show_progress_bar=show_progress_bar,
            )
            for ranking in rankings:
                scores += [hit["score"] for hit in sorted(ranking, key=itemgetter("corpus_id"))]
        return np.array(scores)


def as_mteb_model(model: Any, *, name: str | None = None) -> Any:
    """Make a model one that ``mteb.evaluate`` takes, on any of its text tasks.

    mteb accepts sentence-transformers models as they are, but then it cuts the lists of a reranker (see
    `MTEBReranker`) and stores results under a name that other weights may have, too. Here the revision is the
    model's `fingerprint`, so that results in mteb's cache are those of these very weights.

    Args:
        model: An ``Embedder`` (or any ``SentenceTransformer``), a `Reranker`, a ``SparseEncoder``, a
            ``MultiVectorEncoder``; or whatever `load` opens.
        name: For mteb's results, as ``"organization/model"``; ``"local/"`` is put in front of a name without
            an organization. ``None``: the hub id, the registered name or the folder; of a model that is
            already open, the hub id on its card, else its class.

    Returns:
        An `MTEBEmbedder`, an `MTEBReranker`, or mteb's own wrapper of a sparse or multi-vector model.

    Raises:
        ArgumentError: If ``model`` is none of these.
        CheckpointError: If it cannot be opened.
        MissingExtraError: If mteb is not installed.
    """
    _require_mteb("as_mteb_model")
    from mteb.models import MultiVectorWrapper, SparseEncoderWrapper

    if isinstance(model, str | Path):
        name = name or _name_location(model)
        model = load(model)
    if isinstance(model, Reranker):
        return MTEBReranker(model, _describe(model, name, "cross-encoder"))
    if isinstance(model, SparseEncoder):
        wrapper: Any = SparseEncoderWrapper(model)
        wrapper.mteb_model_meta = _describe(model, name, "sparse")
    elif isinstance(model, MultiVectorEncoder):
        wrapper = MultiVectorWrapper(model)
        wrapper.mteb_model_meta = _describe(model, name, "late-interaction")
    elif isinstance(model, SentenceTransformer):
        wrapper = MTEBEmbedder(model, _describe(model, name, "dense"))
    else:
        domain = "an embedder, a reranker, or the name or folder of one"
        raise bad_argument("as_mteb_model", "model", domain, model, "Open it with `fletching.load`")
    return wrapper


def build_local_task(
    data: EvaluationSet | StrPath,
    *,
    name: str | None = None,
    split: str | None = None,
    candidates: StrPath | None = None,
    languages: Sequence[str] = ("und-Zyyy",),
) -> AbsTaskRetrieval:
    """Make an mteb task of local data: a retrieval task, or a reranking task where there are candidates.

    Passages are read when mteb asks for them, and then held in memory; of a reranking task, only those that
    are candidates. mteb takes stored results for a task by its name alone, so the name ends in the first
    digits of the data's digest: results of other data are never taken for these.

    mteb's figures are those of `evaluate_run` with ``ties="trec_eval"``, rounded. Its binary measures count
    every grade above 0 as relevant, whatever the relevance level of the data; a warning is logged then.

    Args:
        data: An evaluation set, or a folder or file that `read_evaluation_set` reads.
        name: Name of the task, to which the digits are added; ``None`` takes that of the data.
        split: Which judgements of a folder, as in `read_evaluation_set`.
        candidates: Run file with the lists of a first stage, as in `read_evaluation_set`.
        languages: Of the texts, as mteb writes them: ``"eng-Latn"``. Undetermined when left out.

    Returns:
        A task for ``mteb.evaluate``; its main score is nDCG@10.

    Raises:
        ArgumentError: If the data are sentence pairs, or an argument does not go with the data.
        DataError: If the data cannot be read.
        MissingExtraError: If mteb is not installed.
    """
    owner = "build_local_task"
    _require_mteb(owner)
    if isinstance(data, EvaluationSet):
        for parameter, value in (("split", split), ("candidates", candidates)):
            if value is not None:
                raise bad_argument(owner, parameter, "left out for an evaluation set", value)
        found: Any = data
    else:
        found = read_evaluation_set(data, split=split, candidates=candidates)
    if not isinstance(found, EvaluationSet):
        raise bad_argument(owner, "data", "queries with judged passages", found)
    if found.relevance_level > 1:
        logger.warning(
            "%s: in MAP, MRR, recall and precision, mteb counts every grade above 0 as relevant, not only "
            "those from %d; nDCG is not affected.",
            found.name,
            found.relevance_level,
        )
    return _build_task(found, name or found.name, list(languages))


def _require_mteb(owner: str) -> None:
    try:
        import mteb  # noqa: F401  (asked for here, so that the error names the extra)
    except ModuleNotFoundError as error:
        raise missing_extra(owner, "mteb", "mteb") from error


# --- models ---


def _read_lists(queries: Batches, documents: Batches) -> Iterator[tuple[str, list[str]]]:
    """Undo the batches: yield each query with all its documents."""
    pairs = (
        pair
        for left, right in zip(queries, documents, strict=True)
        for pair in zip(left.get("id") or left["text"], left["text"], right["text"], strict=True)
    )
    for _, group in groupby(pairs, key=itemgetter(0, 1)):
        rows = list(group)
        yield rows[0][1], [document for _, _, document in rows]


def _take_lists(lists: Iterator[tuple[str, list[str]]]) -> Iterator[list[tuple[str, list[str]]]]:
    """Yield several lists at once, as many as make a few thousand pairs."""
    taken: list[tuple[str, list[str]]] = []
    size = 0
    for query, documents in lists:
        if taken and size + len(documents) > _PAIRS_AT_ONCE:
            yield taken
            taken, size = [], 0
        taken.append((query, documents))
        size += len(documents)
    if taken:
        yield taken


def _describe(model: Any, name: str | None, model_type: MODEL_TYPES) -> ModelMeta:
    """Fill in what mteb wants to know of a model and the model can tell."""
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    parameters = list(model.parameters())
    networks = (module for module in model.modules() if isinstance(module, PreTrainedModel))
    tokens = next((network.get_input_embeddings() for network in networks), None)
    similarity = getattr(model, "similarity_fn_name", None)
    if model_type == "late-interaction":
        similarity = "MaxSim"
    long = getattr(model, "long", "truncate")
    return ModelMeta(
        loader=None,
        name=_qualify(name or _name_model(model)),
        revision=fingerprint(model),
        release_date=None,
        languages=None,
        n_parameters=sum(parameter.numel() for parameter in parameters),
        n_embedding_parameters=None if tokens is None else sum(p.numel() for p in tokens.parameters()),
        memory_usage_mb=sum(p.numel() * p.element_size() for p in parameters) / 2**20,
        max_tokens=getattr(model, "max_seq_length", None),
        embed_dim=None if model_type == "cross-encoder" else model.get_embedding_dimension(),
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["Sentence Transformers", "PyTorch"],
        similarity_fn_name=ScoringFunction(similarity) if similarity else None,
        use_instructions=any(model.prompts.values()),
        training_datasets=None,
        model_type=[model_type],
        experiment_kwargs=None if long == "truncate" else {"long": long},
    )


def _name_location(location: StrPath) -> str:
    """Name a checkpoint by what it is opened by: a folder, a hub id or a name that a method registers."""
    if Path(location).is_dir():
        return Path(location).resolve().name
    return str(location) if _HUB_ID.fullmatch(str(location)) else f"fletching/{location}"


def _name_model(model: torch.nn.Module) -> str:
    """Name a model by its hub id, if its card has one."""
    card: Any = model.model_card_data
    for name in (card.model_id, card.model_name, card.base_model):
        if isinstance(name, str) and _HUB_ID.fullmatch(name) and not Path(name).is_dir():
            return name
    return type(model).__name__


def _qualify(name: str) -> str:
    return name if _HUB_ID.fullmatch(name) else f"local/{_simplify(name)}"


def _simplify(name: str) -> str:
    """Make a name fit for a file."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-") or "unnamed"


# --- tasks ---


def _build_task(data: EvaluationSet, name: str, languages: list[str]) -> AbsTaskRetrieval:
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    revision = data.digest or _compute_digest(data)
    name = f"{_simplify(name)}-{revision[:_NAME_DIGITS]}"

    class LocalTask(AbsTaskRetrieval):
        """Judged queries and passages of this machine."""

        metadata = TaskMetadata(
            name=name,
            description=f"Local data: {data.name}.",
            dataset={"path": f"local/{name}", "revision": revision},
            type="Retrieval" if data.candidates is None else "Reranking",
            category="t2t",
            eval_splits=[_SPLIT],
            eval_langs=languages,
            main_score="ndcg_at_10",
        )

        def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
            """Read queries, passages and judgements, when mteb asks for them."""
            if not self.data_loaded:
                self.dataset = {"default": {_SPLIT: _load(data)}}
                self.data_loaded = True

    return LocalTask()


def _load(data: EvaluationSet) -> Any:
    """Fill mteb's tables; anew each time, since mteb changes them."""
    from datasets import Dataset

    lists = data.candidates
    wanted = None if lists is None else {document for scores in lists.values() for document in scores}
    corpus: dict[str, list[str]] = {"id": [], "text": []}
    for document in data.open_corpus():
        if wanted is None or document.id in wanted:
            corpus["id"].append(document.id)
            corpus["text"].append(document.full_text)
    missing = (wanted or set()).difference(corpus["id"])
    if missing:
        raise bad_argument("build_local_task", "data", "candidates with a passage", min(missing))
    return {
        "corpus": Dataset.from_dict(corpus),
        "queries": Dataset.from_dict({"id": list(data.queries), "text": list(data.queries.values())}),
        "relevant_docs": {  # trec_eval may never return from grades that are all negative
            query: {key: max(grade, 0) for key, grade in data.qrels[query].items()} for query in data.queries
        },
        "top_ranked": None
        if lists is None
        else {
            query: [key for key, _ in sorted(lists.get(query, {}).items(), key=lambda hit: (-hit[1], hit[0]))]
            for query in data.queries
        },
    }


def _compute_digest(data: EvaluationSet) -> str:
    """Digest data that came without one."""
    digest = sha256()
    for part in (data.queries, data.qrels, data.candidates):
        digest.update(json.dumps(part, sort_keys=True).encode())
    for document in data.open_corpus():
        digest.update(json.dumps([document.id, document.full_text]).encode())
    return digest.hexdigest()
