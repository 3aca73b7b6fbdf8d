"""One evaluator for every kind of model; rankings are checked against sentence-transformers' own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.multi_vector_encoder.evaluation import MultiVectorInformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sparse_encoder.evaluation import SparseInformationRetrievalEvaluator
from sentence_transformers.sparse_encoder.modules import SpladePooling

from fletching.errors import ArgumentError
from fletching.methods.limit.baselines import ItemMatcher, RandomWordVectors
from fletching.methods.limit.data import LimitDataset
from fletching.methods.limit.evaluation import LimitEvaluator, measure_dimensions
from fletching.models.embedder import Embedder
from fletching.models.reranker import Reranker
from fletching.testing import save_tiny_bert, save_tiny_cross_encoder, save_tiny_embedder

KINDS = {
    "dense": InformationRetrievalEvaluator,
    "sparse": SparseInformationRetrievalEvaluator,
    "late": MultiVectorInformationRetrievalEvaluator,
}


@pytest.fixture(scope="module")
def data() -> LimitDataset:
    """Documents short enough for tiny models: four people, all six pairs, three items each."""
    return LimitDataset.generate(n_queries=6, items_per_doc=3, seed=2, vocabulary=list("abcdefghij"))


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    folder = tmp_path_factory.mktemp("dense")
    return Embedder(save_tiny_embedder(folder, prompts={"query": "query: ", "document": ""}), device="cpu")


def build(kind: str, folder: Path) -> Any:
    if kind == "dense":
        return Embedder(save_tiny_embedder(folder), device="cpu")
    if kind == "late":
        backbone = Transformer(save_tiny_bert(folder))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return MultiVectorEncoder(modules=[backbone], device="cpu")
    masked = Transformer(save_tiny_bert(folder, head="masked-lm"), transformer_task="fill-mask")
    return SparseEncoder(modules=[masked, SpladePooling("max")], device="cpu")


class EchoReranker:
    """Prefers long documents, and remembers what it was shown."""

    def __init__(self) -> None:
        self.lists: list[list[str]] = []

    def predict(self, pairs: Any) -> Any:
        raise NotImplementedError

    def rank(self, query: str, documents: list[str], **kwargs: Any) -> list[dict[str, Any]]:
        self.lists.append(documents)
        return [{"corpus_id": i, "score": float(len(text))} for i, text in enumerate(documents)]


def test_recall_is_the_found_share() -> None:
    class Fixed:
        def score(self, queries: Sequence[str], documents: Sequence[str]) -> torch.Tensor:
            return torch.tensor([[3.0, 1.0, 4.0, 2.0]])  # c, a, d, b

    data = LimitDataset("toy", {"q": "?"}, dict(zip("abcd", "wxyz", strict=True)), {"q": ("a", "b")})
    metrics = LimitEvaluator(data, k_values=[1, 2, 3, 4, 9])(Fixed())
    assert [metrics[f"toy_recall_at_{k}"] for k in (1, 2, 3, 4, 9)] == [0.0, 0.5, 0.5, 1.0, 1.0]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")  # their count of active dimensions
@pytest.mark.parametrize("kind", list(KINDS))
def test_recall_equals_that_of_sentence_transformers(kind: str, data: LimitDataset, tmp_path: Path) -> None:
    model = build(kind, tmp_path)
    relevant = {query: set(ids) for query, ids in data.qrels.items()}
    theirs = KINDS[kind](
        dict(data.queries), dict(data.corpus), relevant, precision_recall_at_k=[1, 2, 3], write_csv=False
    )(model)
    ours = LimitEvaluator(data, k_values=[1, 2, 3], name="x")(model)
    for k in (1, 2, 3):
        (expected,) = (value for key, value in theirs.items() if key.endswith(f"recall@{k}"))
        assert ours[f"x_recall_at_{k}"] == pytest.approx(expected)


def test_set_accuracy_needs_the_whole_set() -> None:
    class Half:
        def score(self, queries: Sequence[str], documents: Sequence[str]) -> torch.Tensor:
            return torch.tensor([[3.0, 1.0, 2.0], [3.0, 2.0, 1.0]])

    texts = {"a": "x", "b": "y", "c": "z"}
    data = LimitDataset("toy", {"p": "?", "q": "!"}, texts, {"p": ("a", "b"), "q": ("a", "b")})
    metrics = LimitEvaluator(data, k_values=[2])(Half())
    assert metrics == {"toy_recall_at_2": 0.75, "toy_set_accuracy": 0.5}


def test_every_query_keeps_its_values(full_size: LimitDataset) -> None:
    """Means of what `measure` returns are what a call returns."""
    evaluator = LimitEvaluator(full_size, name="x")
    measured = evaluator.measure(RandomWordVectors(64))
    assert {len(values) for values in measured.values()} == {1000}
    assert set(measured["recall_at_2"].tolist()) == {0.0, 0.5, 1.0}
    assert evaluator(RandomWordVectors(64)) == {
        f"x_{name}": values.mean() for name, values in measured.items()
    }


def test_equal_scores_are_ordered_by_id() -> None:
    class Blind:
        def score(self, queries: Sequence[str], documents: Sequence[str]) -> torch.Tensor:
            return torch.zeros(len(queries), len(documents))

    data = LimitDataset("toy", {"q": "?"}, {"c": "x", "a": "y", "b": "z"}, {"q": ("a", "b")})
    assert LimitEvaluator(data)(Blind())["toy_recall_at_2"] == 1.0
    shuffled = replace(data, corpus={"b": "z", "c": "x", "a": "y"})
    assert LimitEvaluator(shuffled)(Blind())["toy_recall_at_2"] == 1.0


def test_cuts_and_primary_metric_are_those_of_the_paper(data: LimitDataset) -> None:
    """Section 4: 2, 10, 20 on the small set, 2, 10, 100 on the full one; recall@2 is the main score."""
    evaluator = LimitEvaluator(data)
    assert (evaluator.k_values, evaluator.primary_metric) == ((2, 10, 20), "limit_dense_recall_at_2")
    assert LimitEvaluator(data, k_values=[3, 2, 1]).primary_metric == "limit_dense_recall_at_2"
    assert LimitEvaluator(data, k_values=[5, 3]).primary_metric == "limit_dense_recall_at_3"
    many = LimitDataset.generate(n_queries=1, n_docs=101, items_per_doc=1)
    assert LimitEvaluator(many).k_values == (2, 10, 100)


def test_item_10_truncation_changes_the_result_and_full_is_no_truncation(embedder: Embedder) -> None:
    """Recall need not grow with the dimension, so only this is promised."""
    words = [f"{first} {second}" for first in "abcdefgh" for second in "qrstuvwxyz"]
    data = LimitDataset.generate(n_queries=45, items_per_doc=9, vocabulary=words)
    whole = LimitEvaluator(data, name="limit")(embedder)
    curve = measure_dimensions(embedder, data, [1, 4, 32])
    assert curve[32] == {metric.removeprefix("limit_"): value for metric, value in whole.items()}
    assert curve[1] != curve[32]
    assert curve[4] != curve[32]


@pytest.mark.parametrize(
    "names", [("embed_documents", "embed_query"), ("get_text_embedding", "get_query_embedding")]
)
def test_embeddings_of_other_libraries_are_taken(
    data: LimitDataset, embedder: Embedder, names: tuple[str, str]
) -> None:
    class Adapter:
        pass

    adapter = Adapter()
    setattr(adapter, names[0], lambda texts: embedder.encode_document(texts).tolist())
    setattr(adapter, names[1], lambda text: embedder.encode_query(text).tolist())
    assert LimitEvaluator(data)(adapter) == LimitEvaluator(data)(embedder)
    assert LimitEvaluator(data, truncate_dim=2)(adapter) == LimitEvaluator(data, truncate_dim=2)(embedder)


def test_few_documents_are_one_list_for_a_reranker(data: LimitDataset) -> None:
    model = EchoReranker()
    metrics = LimitEvaluator(data)(model)
    assert [sorted(texts) for texts in model.lists] == [sorted(data.corpus.values())] * 6
    assert "limit_dense_ceiling" not in metrics


def test_many_documents_are_cut_by_bm25_whose_recall_is_the_ceiling(full_size: LimitDataset) -> None:
    model = EchoReranker()
    metrics = LimitEvaluator(full_size, candidates=5, name="x")(model)
    assert {len(texts) for texts in model.lists} == {5}
    assert metrics["x_recall_at_2"] < metrics["x_recall_at_10"] == metrics["x_ceiling"]
    assert metrics["x_ceiling"] > 0.97


def test_order_of_candidates_is_no_hint(data: LimitDataset) -> None:
    """A model that scores everything alike must not inherit the order of the first stage."""
    model = EchoReranker()
    LimitEvaluator(data, candidates=3)(model)
    by_text = {text: name for name, text in data.corpus.items()}
    for texts in model.lists:
        names = [by_text[text] for text in texts]
        assert names == sorted(names)


@pytest.mark.parametrize("model_class", [CrossEncoder, Reranker])
def test_cross_encoders_are_evaluated(data: LimitDataset, model_class: Any, tmp_path: Path) -> None:
    model = model_class(save_tiny_cross_encoder(tmp_path), device="cpu")
    metrics = LimitEvaluator(data, batch_size=4)(model)
    assert 0 <= metrics["limit_dense_recall_at_2"] <= metrics["limit_dense_recall_at_10"] == 1.0


def test_results_reach_the_model_card(data: LimitDataset, embedder: Embedder) -> None:
    evaluator = LimitEvaluator(data)
    metrics = evaluator(embedder)
    assert embedder.model_card_data.eval_results_dict[evaluator] == metrics


def test_queries_are_scored_in_chunks(full_size: LimitDataset) -> None:
    sizes = []

    class Counting(ItemMatcher):
        def score(self, queries: Sequence[str], documents: Sequence[str]) -> torch.Tensor:
            sizes.append(len(queries))
            return super().score(queries, documents)

    assert LimitEvaluator(full_size)(Counting(full_size))["limit_dense_recall_at_2"] == 1.0
    assert sizes == [256, 256, 256, 232]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k_values": []}, "`k_values` must be one or more positive integers"),
        ({"k_values": [0]}, "`k_values`"),
        ({"truncate_dim": 0}, "`truncate_dim` must be a positive integer or None; got 0"),
        ({"candidates": -1}, "`candidates`"),
    ],
)
def test_values_outside_their_domain_are_refused(
    data: LimitDataset, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=f"LimitEvaluator: {message}"):
        LimitEvaluator(data, **values)


def test_other_objects_are_refused(data: LimitDataset) -> None:
    with pytest.raises(
        ArgumentError, match=r"must be a run file, .*, a sentence-transformers model, an object with"
    ):
        LimitEvaluator(data)(46)
