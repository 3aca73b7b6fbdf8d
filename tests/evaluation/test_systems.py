"""Run files, BM25 and models of every kind answer alike, and equal scores are ordered by id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch

from fletching.errors import ArgumentError, CheckpointError, DataError, FletchingError
from fletching.evaluation import BM25, System, encoding, find_system_kind, open_system
from fletching.models.embedder import Embedder
from fletching.models.ranking import Ranking
from fletching.models.reranker import Reranker
from fletching.testing import save_tiny_embedder

ENCODERS = ["embedder", "sparse", "multi_vector"]
STOCK = {
    "embedder": sentence_transformers.SentenceTransformer,
    "reranker": sentence_transformers.CrossEncoder,
    "sparse": sentence_transformers.SparseEncoder,
    "multi_vector": sentence_transformers.MultiVectorEncoder,
}
QUERY = "what keeps an arrow true"


class Positions:
    """A reranker that says where each document stood, and remembers what it was shown."""

    def __init__(self) -> None:
        self.lists: list[list[str]] = []

    def rank(self, query: str, documents: list[str]) -> list[dict[str, Any]]:
        self.lists.append(documents)
        return [{"corpus_id": place, "score": np.float32(-place)} for place in range(len(documents))]


class LangChainLike:
    """Embeds by length of the text and the number of its words."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return [float(len(text)), float(len(text.split())), 1.0]


class LlamaIndexLike:
    """The same under other names."""

    def get_text_embedding(self, text: str) -> list[float]:
        return self.get_query_embedding(text)

    def get_query_embedding(self, text: str) -> list[float]:
        return LangChainLike().embed_query(text)


class Lengths:
    """A baseline: the longer, the better."""

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[float(len(text)) for text in documents] for _ in queries])


class Constant:
    """An embedder that sees no difference, or computes NaN for what holds a word."""

    similarity_fn_name = "dot"

    def __init__(self, broken: str = "-") -> None:
        self.broken = broken

    def encode_document(self, texts: list[str], **kwargs: Any) -> np.ndarray:
        return np.array([[np.nan if self.broken in text else 1.0] for text in texts], dtype=np.float32)

    encode_query = encode_document

    def similarity(self, first: Any, second: Any) -> Any:
        return first @ second.T


def open_prepared(system: Any, documents: dict[str, str], **options: Any) -> System:
    opened = open_system(system, **options)
    opened.prepare(documents.items())
    return opened


def compare_all(model: Any, documents: dict[str, str]) -> dict[str, float]:
    """Score every document as the documentation of sentence-transformers says."""
    encoded = [model.encode_query([QUERY]), model.encode_document(list(documents.values()))]
    if isinstance(model, sentence_transformers.SparseEncoder):
        encoded = [vectors.to_dense() for vectors in encoded]  # cosines of sparse tensors make torch warn
    return dict(zip(documents, model.similarity(*encoded)[0].tolist(), strict=True))


# --- what a user may pass ---


def test_kind_is_found_for_every_name(folders: dict[str, str], run_file: Path) -> None:
    assert {kind: find_system_kind(folder) for kind, folder in folders.items()} == {
        kind: kind for kind in folders
    }
    assert find_system_kind("mvp-mini") == "reranker"
    assert find_system_kind("bm25") == "bm25"
    assert find_system_kind(run_file) == find_system_kind(str(run_file)) == "run"


@pytest.mark.parametrize("kind", list(STOCK))
def test_kind_is_found_for_every_model(folders: dict[str, str], models: dict[str, Any], kind: str) -> None:
    assert find_system_kind(models[kind]) == kind
    assert find_system_kind(STOCK[kind](folders[kind], device="cpu")) == kind


@pytest.mark.parametrize(
    ("system", "kind"),
    [
        (BM25(), "bm25"),
        (Positions(), "reranker"),
        (LangChainLike(), "embedder"),
        (LlamaIndexLike(), "embedder"),
        (Lengths(), "scorer"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_kind_is_found_for_every_object(system: object, kind: str) -> None:
    assert find_system_kind(system) == kind
    assert open_system(system).name == type(system).__name__


def test_open_system_is_returned_as_it_is() -> None:
    system = open_system("bm25")
    assert open_system(system) is system


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("runs/missing.trec.gz", DataError, "must be an existing run file"),
        ("no-such-model", CheckpointError, "no such folder"),
        (3, ArgumentError, "`system` must be a run file, 'bm25', a checkpoint"),
    ],
)
def test_wrong_names_are_errors(name: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        find_system_kind(name)


# --- scores ---


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders_score_with_prompts_and_similarity_of_the_model(
    folders: dict[str, str], models: dict[str, Any], documents: dict[str, str], kind: str
) -> None:
    expected = compare_all(STOCK[kind](folders[kind], device="cpu"), documents)
    scores = open_prepared(models[kind], documents).score("q", QUERY, list(documents))
    assert scores == pytest.approx(expected, abs=1e-4)
    assert all(type(score) is float for score in scores.values())
    assert list(scores.values()) == sorted(scores.values(), reverse=True)


@pytest.mark.parametrize("similarity", ["dot", "euclidean", "manhattan"])
def test_embedder_compares_as_it_was_saved(
    documents: dict[str, str], similarity: Any, tmp_path: Path
) -> None:
    model = Embedder(save_tiny_embedder(tmp_path, similarity=similarity, normalize=False), device="cpu")
    scores = open_prepared(model, documents).score("q", QUERY, list(documents))
    assert scores == pytest.approx(compare_all(model, documents), rel=1e-4)


def test_sparse_model_compares_as_it_was_saved(folders: dict[str, str], documents: dict[str, str]) -> None:
    model = sentence_transformers.SparseEncoder(folders["sparse"], similarity_fn_name="cosine", device="cpu")
    scores = open_prepared(model, documents).score("q", QUERY, list(documents))
    assert scores == pytest.approx(compare_all(model, documents), rel=1e-4)


@pytest.mark.parametrize("kind", [*ENCODERS, "bm25", "scorer"])
def test_search_finds_the_best_of_all_scores_across_blocks(
    models: dict[str, Any], documents: dict[str, str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_BLOCK", 7)
    named: Any = {"bm25": "bm25", "scorer": Lengths()}
    system = open_prepared(named.get(kind) or models[kind], documents)
    scores = system.score("q", "arrow bow", list(documents))
    best = {key: score for key, score in list(scores.items())[:8] if score or kind != "bm25"}
    found = system.search("q", "arrow bow", 8)
    assert list(found) == list(best)
    assert found == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("kind", [*ENCODERS, "bm25", "scorer"])
def test_many_queries_find_what_one_finds(
    models: dict[str, Any], documents: dict[str, str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two queries fit into the room for scores: three are asked in two parts."""
    monkeypatch.setattr(encoding, "_SCORES_AT_ONCE", 2 * len(documents))
    named: Any = {"bm25": "bm25", "scorer": Lengths()}
    system = open_prepared(named.get(kind) or models[kind], documents)
    queries = {"a": "arrow bow", "b": "goose feather wind", "c": "nock"}
    many = system.search_many(queries, 5)
    for key, query in queries.items():
        one = system.search(key, query, 5)
        assert list(many[key]) == list(one)
        assert many[key] == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("adapter", [LangChainLike(), LlamaIndexLike()], ids=["LangChain", "LlamaIndex"])
def test_embeddings_of_other_libraries_are_compared_by_cosine(adapter: object) -> None:
    """Vectors (2, 1, 1), (1, 1, 1) and (5, 2, 1): cosines 4 / sqrt(18) and 13 / sqrt(180), to two digits."""
    system = open_prepared(adapter, {"a": "x", "b": "xy zx"})
    assert system.score("q", "xy", ["a", "b"]) == pytest.approx({"a": 4 / 18**0.5, "b": 13 / 180**0.5})


def test_embeddings_of_other_libraries_are_truncated() -> None:
    """Of (2, 1, 1) and (5, 2, 1) the first two numbers: 12 / sqrt(5 * 29)."""
    system = open_prepared(LangChainLike(), {"b": "xy zx"}, truncate_dim=2)
    assert system.score("q", "xy", ["b"]) == pytest.approx({"b": 12 / 145**0.5})


def test_embedder_is_truncated(folders: dict[str, str], documents: dict[str, str]) -> None:
    model = Embedder(folders["embedder"], truncate_dim=8, device="cpu")
    cut = open_prepared(folders["embedder"], documents, truncate_dim=8, device="cpu")
    assert cut.bytes_per_vector == 4 * 8
    assert cut.score("q", QUERY, list(documents)) == pytest.approx(compare_all(model, documents), abs=1e-5)


def test_bm25_scores_candidates_with_the_statistics_of_the_collection(documents: dict[str, str]) -> None:
    system = open_prepared("bm25", documents)
    everything = system.score("q", "arrow bow", list(documents))
    assert system.reads_corpus
    assert system.score("q", "arrow bow", ["d03", "d01"]) == {
        key: everything[key] for key in everything if key in ("d01", "d03")
    }


def test_run_answers_with_its_file(run_file: Path) -> None:
    system = open_system(str(run_file))
    assert list(system.search("q0", "", 1).items()) == [("d09", 2.5), ("d03", 1.5), ("d05", 1.5)]
    assert system.search("q1", "", 1) == {}
    assert system.score("q0", "", ["d05", "d11"]) == {"d05": 1.5}


# --- rerankers ---


def test_reranker_gets_each_list_whole_and_in_the_order_given(documents: dict[str, str]) -> None:
    model = Positions()
    system = open_prepared(model, documents)
    scores = system.score("q", QUERY, ["d05", "d02", "d09"])
    assert model.lists == [[documents["d05"], documents["d02"], documents["d09"]]]
    assert scores == {"d05": 0.0, "d02": -1.0, "d09": -2.0}
    assert type(scores["d02"]) is float


@pytest.mark.parametrize("load", [Reranker, sentence_transformers.CrossEncoder])
def test_reranker_scores_as_predict_does(
    folders: dict[str, str], documents: dict[str, str], load: Any
) -> None:
    model = load(folders["reranker"], device="cpu")
    expected = dict(
        zip(documents, model.predict([(QUERY, text) for text in documents.values()]), strict=True)
    )
    scores = open_prepared(model, documents).score("q", QUERY, list(documents))
    assert scores == pytest.approx(expected, abs=1e-5)


def test_lost_tokens_that_one_list_does_not_tell_are_not_known(
    folders: dict[str, str], documents: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Reranker(folders["reranker"], device="cpu")
    system = open_prepared(model, documents)
    system.score("q0", QUERY, ["d05"])
    assert system.lost_tokens == 0
    hit = [{"corpus_id": 0, "score": 1.0}]
    monkeypatch.setattr(model, "rank", lambda *_, **options: Ranking(hit, lost_tokens=None))
    system.score("q1", QUERY, ["d05"])
    assert system.lost_tokens is None


def test_no_candidates_need_no_model(documents: dict[str, str]) -> None:
    model = Positions()
    assert open_prepared(model, documents).score("q", QUERY, []) == {}
    assert model.lists == []


def test_reranker_cannot_search() -> None:
    with pytest.raises(FletchingError, match="'Positions': a reranker cannot search"):
        open_system(Positions()).search("q", QUERY, 3)


@pytest.mark.parametrize("places", [[0, 0], [0, 2], [-1, 0]], ids=str)
def test_reranker_must_name_each_place_once(places: list[int]) -> None:
    class Wrong:
        def rank(self, query: str, documents: list[str]) -> list[dict[str, Any]]:
            return [{"corpus_id": place, "score": 1.0} for place in places]

    system = open_prepared(Wrong(), {"a": "x", "b": "y"})
    with pytest.raises(FletchingError, match=r"'Wrong': `corpus_id` must be one of 2 places, each once"):
        system.score("q", QUERY, ["a", "b"])


def test_scorer_must_return_a_matrix() -> None:
    class Wrong:
        def score(self, queries: Sequence[str], documents: Sequence[str]) -> list[float]:
            return [1.0]

    with pytest.raises(FletchingError, match=r"a matrix of shape \(1, 2\); got \(1,\)"):
        open_prepared(Wrong(), {"a": "x", "b": "y"}).score("q", QUERY, ["a", "b"])


# --- ties, NaN, unknown ids ---


def test_ties_are_ordered_by_id_even_at_the_last_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_BLOCK", 2)
    system = open_prepared(Constant(), dict.fromkeys(["d", "b", "e", "a", "c"], "x"))
    assert list(system.search("q", "x", 3)) == ["a", "b", "c"]
    assert list(system.score("q", "x", ["e", "b", "d"])) == ["b", "d", "e"]


def test_a_score_that_is_no_number_is_named() -> None:
    class Broken(Positions):
        def rank(self, query: str, documents: list[str]) -> list[dict[str, Any]]:
            return [{"corpus_id": 1, "score": float("nan")}, {"corpus_id": 0, "score": 1.0}]

    system = open_prepared(Broken(), {"a": "x", "b": "y"})
    with pytest.raises(
        FletchingError, match="'Broken': the score of document 'b' for query 'q' must be finite"
    ):
        system.score("q", QUERY, ["a", "b"])


def test_a_vector_that_is_no_number_is_named() -> None:
    with pytest.raises(FletchingError, match="'Constant': the vector of document 'b' must be finite"):
        open_prepared(Constant(broken="bad"), {"a": "x", "b": "bad", "c": "x"})


def test_a_query_that_becomes_no_number_is_named() -> None:
    system = open_prepared(Constant(broken="bad"), {"b": "x", "a": "x"})
    for ask in (lambda: system.search("q7", "bad", 1), lambda: system.score("q7", "bad", ["b"])):
        with pytest.raises(FletchingError, match="document 'b' for query 'q7' must be finite"):
            ask()


def test_an_embedder_that_refuses_a_text_is_told_which(
    folders: dict[str, str], documents: dict[str, str]
) -> None:
    """The word of the broken row of the embedding table stands in one passage and one query only."""
    model = Embedder(folders["embedder"], device="cpu")
    word = model.tokenizer.convert_tokens_to_ids("keeps")
    with torch.no_grad():
        model[0].model.embeddings.word_embeddings.weight[word] = float("nan")
    with pytest.raises(FletchingError, match=r"System 'Embedder', document 'e': .* computed NaN"):
        open_prepared(model, {**documents, "e": "what keeps", "f": "wood"})
    system = open_prepared(model, documents)
    with pytest.raises(FletchingError, match=r"System 'Embedder', query 'q7': .* computed NaN"):
        system.search_many({"q6": "wood", "q7": "what keeps", "q8": "wind"}, 2)


def test_a_reranker_that_refuses_a_text_is_told_which(folders: dict[str, str]) -> None:
    model = Reranker(folders["reranker"], device="cpu")
    word = model.tokenizer.convert_tokens_to_ids("keeps")
    with torch.no_grad():
        model[0].model.bert.embeddings.word_embeddings.weight[word] = float("nan")
    system = open_prepared(model, {"a": "wood", "b": "keeps", "c": "wind"})
    with pytest.raises(FletchingError, match=r"System 'Reranker', query 'q', document 'b': .* computed NaN"):
        system.score("q", "what", ["a", "b", "c"])


@pytest.mark.parametrize(
    "system", [Positions(), Lengths(), Constant()], ids=lambda value: type(value).__name__
)
def test_a_document_that_was_not_prepared_is_named(system: object) -> None:
    with pytest.raises(ArgumentError, match="`ids` must be ids of documents that were prepared; got 'b'"):
        open_prepared(system, {"a": "x"}).score("q", QUERY, ["a", "b"])


# --- memory and identity ---


def test_documents_are_read_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a block is encoded, no text behind it has been read."""
    monkeypatch.setattr(encoding, "_BLOCK", 4)
    read, encoded = [], []

    class Watched(Constant):
        def encode_document(self, texts: list[str], **kwargs: Any) -> np.ndarray:
            encoded.append((len(texts), len(read)))
            return super().encode_document(texts)

    def stream() -> Iterator[tuple[str, str]]:
        for number in range(10):
            read.append(number)
            yield str(number), "x"

    open_system(Watched()).prepare(stream())
    assert encoded == [(4, 4), (4, 8), (2, 10)]


def test_prepare_replaces_what_was_there(documents: dict[str, str]) -> None:
    system = open_prepared(Constant(), documents)
    system.score("q", QUERY, ["d01"])
    system.prepare([("z", "x")])
    assert system.search("q", QUERY, 5) == system.score("q", QUERY, ["z"]) == {"z": 1.0}


def test_bytes_of_a_vector_are_those_of_an_index(models: dict[str, Any]) -> None:
    """32 floats; a number and a weight for each term; 32 floats for [CLS], "wood" and [SEP]."""
    sizes = {kind: open_prepared(models[kind], {"a": "wood"}).bytes_per_vector for kind in ENCODERS}
    terms = int(models["sparse"].encode_document(["wood"]).to_dense().count_nonzero())
    assert sizes == {"embedder": 4 * 32, "sparse": 8 * terms, "multi_vector": 3 * 4 * 32}
    assert open_prepared("bm25", {"a": "wood"}).bytes_per_vector is None


@pytest.mark.parametrize("kind", list(STOCK))
def test_fingerprint_of_a_model_stays_the_same(folders: dict[str, str], kind: str) -> None:
    first, second = (open_system(folders[kind], device="cpu").fingerprint() for _ in range(2))
    assert first == second != ""


def test_fingerprint_changes_with_what_changes_scores(folders: dict[str, str], run_file: Path) -> None:
    before = open_system(run_file).fingerprint()
    run_file.write_text(run_file.read_text().replace("2.5", "2.6"))
    fingerprints = [
        before,
        open_system(run_file).fingerprint(),
        open_system("bm25").fingerprint(),
        open_system(BM25(k1=2.0)).fingerprint(),
        open_system(folders["embedder"], device="cpu").fingerprint(),
        open_system(folders["embedder"], device="cpu", truncate_dim=8).fingerprint(),
        open_system(folders["embedder"], device="cpu", dtype="bfloat16").fingerprint(),
        open_system(folders["reranker"], device="cpu").fingerprint(),
        open_system(folders["reranker"], device="cpu", long="chunk_max").fingerprint(),
    ]
    assert len(set(fingerprints)) == len(fingerprints)


def test_fingerprint_of_an_object_is_its_own_or_unknown() -> None:
    class Known(Positions):
        def fingerprint(self) -> str:
            return "v1"

    assert open_system(Positions()).fingerprint() == ""
    assert open_system(Known()).fingerprint() == "v1"


def test_fingerprint_of_an_object_changes_with_its_options() -> None:
    class Known(LangChainLike):
        def fingerprint(self) -> str:
            return "v1"

    whole, cut = (open_system(Known(), truncate_dim=dim).fingerprint() for dim in (None, 2))
    assert whole != cut != ""
