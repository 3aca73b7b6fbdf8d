from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn
from transformers import BertConfig, BertModel

from fletching.data import Document, SentencePair
from fletching.errors import ArgumentError, DataError, FletchingError, MissingExtraError
from fletching.evaluation import EvaluationSet, STSSet, evaluate, evaluate_sts
from fletching.methods.two_d_matryoshka import ElasticEmbedder, frontier, truncate_model
from fletching.methods.two_d_matryoshka import depth_vectors as depth_vectors_module
from fletching.methods.two_d_matryoshka import measuring as measuring_module
from fletching.testing import build_tiny_tokenizer, save_tiny_cross_encoder

PAIRS = STSSet(
    "pairs",
    tuple(
        SentencePair(*row)
        for row in [
            ("a bow of wood", "the wooden bow", 5.0),
            ("a goose in the wind", "the arrow", 0.0),
            ("feather", "a feather of the goose", 3.5),
            ("an archer on target", "the archer", 4.0),
            ("string", "wind and wood and string", 1.0),
            ("a bow of wood", "the arrow", 2.0),
        ]
    ),
    digest="pairs",
)
DOCUMENTS = {
    "d1": "a feather keeps the arrow true",
    "d2": "the bow and the string",
    "d3": "a goose in the wind",
    "d4": "an archer on target",
    "d5": "wood",
}
QUERIES = {"q1": "feather of an arrow", "q2": "string of a bow", "q3": "goose"}
QRELS = {"q1": {"d1": 2}, "q2": {"d2": 1, "d1": 0}, "q3": {"d3": 1, "d5": 1}}


def open_corpus() -> Iterator[Document]:
    return (Document(key, text) for key, text in DOCUMENTS.items())


SEARCH = EvaluationSet("search", QUERIES, QRELS, open_corpus, digest="search")
LISTS = EvaluationSet(
    "lists",
    QUERIES,
    QRELS,
    open_corpus,
    candidates={"q1": {"d1": 2.0, "d3": 1.0}, "q2": {"d4": 3.0, "d2": 2.0, "d5": 1.0}, "q3": {"d2": 1.0}},
    first_stage="words",
    digest="lists",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six layers of 32 dimensions, mean pooling, length one."""
    path = tmp_path_factory.mktemp("models")
    tokenizer = build_tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(path / "bert")
    tokenizer.save_pretrained(path / "bert")
    modules = [Transformer(str(path / "bert"), max_seq_length=64), Pooling(32, "mean"), Normalize()]
    prompts = {"query": "query: ", "document": "passage: "}
    SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save(str(path / "model"))
    return str(path / "model")


def measure(model: Any, data: Any, **options: Any) -> Any:
    return frontier(model, data, **{"measure_latency": False, "n_resamples": 20, **options})


class Recorder:
    """Counts, layer by layer, the texts that reach it in batches; the probes of a model hold one text."""

    def __init__(self, model: SentenceTransformer) -> None:
        self.rows = [0] * 6
        layers: Any = model[0].model.encoder.layer  # type: ignore[union-attr]
        for place, layer in enumerate(layers):
            layer.register_forward_hook(self._make_hook(place), with_kwargs=True)

    def _make_hook(self, place: int) -> Any:
        def hook(layer: nn.Module, args: Any, options: Any, output: Any) -> None:
            hidden = args[0] if args else options["hidden_states"]
            self.rows[place] += len(hidden) if len(hidden) > 1 else 0

        return hook


def test_frontier_takes_one_pass_for_all_sizes(folder: str) -> None:
    """Thirty sizes of 10 different sentences: each layer sees each of them once."""
    model = SentenceTransformer(folder, device="cpu")
    recorder = Recorder(model)
    found = measure(model, PAIRS, dims=[2, 4, 8, 16])
    texts = {text for pair in PAIRS.pairs for text in (pair.sentence1, pair.sentence2)}
    assert len(found.points) == 30
    assert len(texts) == 10
    assert recorder.rows == [10] * 6


def test_frontier_of_queries_encodes_each_passage_once(folder: str) -> None:
    model = SentenceTransformer(folder, device="cpu")
    recorder = Recorder(model)
    measure(model, SEARCH, layers=[2, 6], dims=[8, 16])
    assert recorder.rows == [len(QUERIES) + len(DOCUMENTS)] * 6


def test_frontier_agrees_with_models_that_were_cut(folder: str, tmp_path: Path) -> None:
    """What must hold, 10: the grid of one pass is that of the truncated models."""
    model = ElasticEmbedder(folder, device="cpu")
    found = {
        name: measure(model, PAIRS, layers=[2, 5], dims=[8], measure=name) for name in ("spearman", "pearson")
    }
    for num_layers, dim in [(2, 8), (5, 32), (6, 32)]:
        truncate_model(model, num_layers, dim, output_path=tmp_path / f"{num_layers}-{dim}")
        cut = evaluate_sts([str(tmp_path / f"{num_layers}-{dim}")], PAIRS, n_resamples=20, device="cpu")
        for name, expected in cut.results[0].intervals.items():
            point = found[name].at(num_layers, dim)
            assert point.score == pytest.approx(expected.mean, abs=1e-5)
            assert point.interval.low == pytest.approx(expected.low, abs=1e-5)


@pytest.mark.parametrize("data", [SEARCH, LISTS], ids=["search", "lists"])
def test_frontier_agrees_with_evaluate(folder: str, data: EvaluationSet) -> None:
    found = measure(folder, data, layers=[3], dims=[4], measure="map", device="cpu")
    model = ElasticEmbedder(folder, device="cpu")

    class Cut:
        """The model, at three layers and four dimensions."""

        similarity = model.similarity

        def encode_query(self, texts: list[str]) -> Any:
            return model.encode_query(texts, num_layers=3, truncate_dim=4)

        def encode_document(self, texts: list[str]) -> Any:
            return model.encode_document(texts, num_layers=3, truncate_dim=4)

    expected = evaluate({"cut": Cut(), "full": model}, data, measures=["map"], n_resamples=20)
    cut, full = expected.results[-2:]
    assert found.at(3, 4).score == pytest.approx(cut.intervals["map"].mean, abs=1e-6)
    assert found.full.score == pytest.approx(full.intervals["map"].mean, abs=1e-6)
    assert found.at(3, 4).difference.interval.mean == pytest.approx(
        cut.intervals["map"].mean - full.intervals["map"].mean, abs=1e-6
    )
    assert found.n_items == 3


def test_frontier_may_cut_queries_alone(folder: str) -> None:
    """Scores by hand: queries of two layers against passages of six, eight dimensions of either."""
    found = measure(folder, SEARCH, layers=[2], dims=[8], document_layers=6, measure="mrr", device="cpu")
    model = ElasticEmbedder(folder, device="cpu")
    queries = model.encode_query(list(QUERIES.values()), num_layers=2, truncate_dim=8)
    documents = model.encode_document(list(DOCUMENTS.values()), truncate_dim=8)
    order = np.argsort(-queries @ documents.T, axis=1)
    keys = list(DOCUMENTS)
    expected = []
    for row, grades in zip(order, QRELS.values(), strict=True):
        ranks = [rank for rank, place in enumerate(row, start=1) if grades.get(keys[place], 0)]
        expected.append(1 / ranks[0])
    assert found.at(2, 8).score == pytest.approx(sum(expected) / 3)
    assert found.document_layers == 6


def test_frontier_counts_bytes_and_shares(folder: str) -> None:
    wide = measure(folder, PAIRS, dims=[8], layers=[6], device="cpu")
    narrow = measure(folder, PAIRS, dims=[8], layers=[6], precision="float16", device="cpu")
    assert [point.bytes_per_vector for point in wide.points] == [128, 32]
    assert [point.bytes_per_vector for point in narrow.points] == [64, 16]
    assert wide.full.difference is None
    assert wide.points[1].difference is not None
    assert narrow.at(6, 8).score == pytest.approx(wide.at(6, 8).score, abs=0.2)


def test_frontier_times_each_depth(folder: str) -> None:
    found = frontier(
        folder, PAIRS, layers=[1], dims=[8], batch_size=2, n_tokens=4, n_resamples=20, device="cpu"
    )
    by_depth = {point.num_layers: point.latency_ms for point in found.points}
    assert set(by_depth) == {1, 6}
    assert 0 < by_depth[1] < by_depth[6]  # type: ignore[operator]
    assert (found.batch_size, found.n_tokens, found.device[:3]) == (2, 4, "cpu")


def test_frontier_takes_an_evaluator(folder: str) -> None:
    sides = [[getattr(pair, name) for pair in PAIRS.pairs] for name in ("sentence1", "sentence2", "score")]
    evaluator = EmbeddingSimilarityEvaluator(*sides, name="toy")
    found = measure(folder, evaluator, layers=[2], dims=[8], device="cpu")
    expected = measure(folder, PAIRS, layers=[2], dims=[8], device="cpu")
    assert found.measure == "toy_spearman_cosine"
    assert [point.score for point in found.points] == pytest.approx(
        [p.score for p in expected.points], abs=1e-6
    )
    assert found.full.interval is None


def test_frontier_wants_higher_scores_to_be_better(folder: str) -> None:
    evaluator = EmbeddingSimilarityEvaluator(["bow", "wood"], ["bow", "goose"], [1.0, 0.0])
    evaluator.greater_is_better = False
    with pytest.raises(ArgumentError, match="an evaluator whose higher score is better"):
        measure(folder, evaluator, device="cpu")


def test_frontier_names_the_extra_of_queries(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring_module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "fletching\[evaluate\]"'):
        measure(folder, SEARCH, device="cpu")


def test_frontier_scores_a_size_that_tells_nothing_apart_with_0(folder: str) -> None:
    """Both sentences of each pair are equal: all similarities are 1, at every size."""
    same = STSSet(
        "same", tuple(SentencePair(text, text, score) for text, score in [("bow", 1.0), ("wood", 2.0)])
    )
    found = measure(folder, same, layers=[6], dims=[1], device="cpu")
    assert [point.score for point in found.points] == [0.0, 0.0]


def test_frontier_reads_files(folder: str, tmp_path: Path) -> None:
    lines = [
        "score\tsentence1\tsentence2",
        *(f"{p.score}\t{p.sentence1}\t{p.sentence2}" for p in PAIRS.pairs),
    ]
    (tmp_path / "sts.tsv").write_text("\n".join(lines))
    found = measure(folder, tmp_path / "sts.tsv", layers=[6], dims=[8], device="cpu")
    assert (found.data_name, found.n_items, found.measure) == ("sts", 6, "spearman")
    assert found.full.score == measure(folder, PAIRS, layers=[6], dims=[8], device="cpu").full.score


def test_frontier_goes_on_after_an_interrupt(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of two: the third is interrupted, and only it and those after it are encoded again."""
    monkeypatch.setattr(depth_vectors_module, "_BLOCK", 2)
    encoded: list[int] = []
    real = ElasticEmbedder.encode_sizes

    def encode(self: ElasticEmbedder, texts: Any, layers: Any, **options: Any) -> Any:
        if len(encoded) == 2:
            encoded.append(0)
            raise KeyboardInterrupt
        encoded.append(len(texts))
        return real(self, texts, layers, **options)

    monkeypatch.setattr(ElasticEmbedder, "encode_sizes", encode)
    options = {"layers": [2], "dims": [8], "device": "cpu", "cache": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        measure(folder, PAIRS, **options)
    found = measure(folder, PAIRS, **options)
    assert encoded == [2, 2, 0, 2, 2, 2]  # five blocks of ten texts
    again = measure(folder, PAIRS, **options)
    assert len(encoded) == 6
    assert again == found == measure(folder, PAIRS, **{**options, "cache": None})


def test_frontier_never_takes_vectors_of_another_side(folder: str, tmp_path: Path) -> None:
    """A text is a query and a passage, with two prompts; the cache must not mix them up."""
    corpus = {"d1": "goose", "d2": "a bow"}
    data = EvaluationSet(
        "one",
        {"q1": "goose", "q2": "a bow"},
        {"q1": {"d1": 1}, "q2": {"d2": 1}},
        lambda: (Document(key, text) for key, text in corpus.items()),
        digest="one",
    )
    options = {"layers": [6], "dims": [8], "device": "cpu", "measure": "ndcg"}
    assert measure(folder, data, cache=tmp_path, **options) == measure(folder, data, **options)


def test_frontier_names_the_text_of_which_the_model_makes_nan(folder: str) -> None:
    model = ElasticEmbedder(folder, device="cpu")
    with torch.no_grad():
        model[0].model.encoder.layer[5].output.dense.bias[0] = torch.nan  # type: ignore[union-attr]
    with pytest.raises(FletchingError, match="NaN"):
        measure(model, PAIRS)


def test_frontier_complains_about_a_candidate_without_text(folder: str) -> None:
    broken = EvaluationSet("broken", QUERIES, QRELS, open_corpus, candidates={"q1": {"d1": 1.0, "d9": 0.5}})
    with pytest.raises(DataError, match="must hold all candidates; 1 are missing, such as 'd9'"):
        measure(folder, broken, device="cpu")


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (PAIRS, {"measure": "ndcg"}, "`measure` must be one of 'spearman', 'pearson'"),
        (SEARCH, {"measure": "spearman"}, "frontier: `measures` must be one of"),
        (PAIRS, {"document_layers": 3}, "`document_layers` must be left out: the data are no queries"),
        (SEARCH, {"document_layers": 7}, "from 1 to 6"),
        (PAIRS, {"layers": [0]}, "from 1 to 6"),
        (PAIRS, {"dims": [33]}, "from 1 to 32"),
        (PAIRS, {"precision": "int8"}, "`precision` must be one of 'float32', 'float16'"),
        (PAIRS, {"batch_size": 0}, "`batch_size`"),
        (PAIRS, {"seed": -1}, "`seed`"),
        (7, {}, "`data` must be a path, an EvaluationSet, an STSSet or an evaluator"),
    ],
)
def test_frontier_refuses_bad_arguments(
    folder: str, data: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        measure(folder, data, device="cpu", **options)


def test_frontier_refuses_a_reranker(tmp_path: Path) -> None:
    reranker = save_tiny_cross_encoder(tmp_path / "reranker")
    with pytest.raises(ArgumentError, match="a dense embedder; got 'Reranker'"):
        measure(reranker, PAIRS, device="cpu")


def test_frontier_is_a_function_whatever_was_imported_before() -> None:
    """No module of the folder may be called as the function is: it would hide it."""
    import fletching.methods.two_d_matryoshka as package

    names = {path.stem for path in Path(str(package.__file__)).parent.glob("*.py")}
    assert names.isdisjoint(package.__all__)
