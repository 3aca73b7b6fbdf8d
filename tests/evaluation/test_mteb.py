from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import mteb
import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder, SparseEncoder

import fletching
from fletching import fingerprint
from fletching.data import Document
from fletching.errors import ArgumentError, MissingExtraError
from fletching.evaluation import mteb as bridge
from fletching.evaluation.data_set import EvaluationSet
from fletching.evaluation.mteb import as_mteb_model, build_local_task
from fletching.metrics import evaluate_run
from fletching.models.reranker import Reranker
from fletching.testing import save_tiny_bert, save_tiny_cross_encoder, save_tiny_embedder

WORDS = ["arrow", "bow", "string", "feather", "wind", "goose", "shaft", "nock", "point", "target"]
SOURCE = Random(0)
DOCUMENTS = {f"d{number}": " ".join(SOURCE.choices(WORDS, k=6)) for number in range(40)}
QUERIES = {f"q{number}": " ".join(SOURCE.choices(WORDS, k=3)) for number in range(7)}
QRELS = {
    query: {key: SOURCE.randint(0, 2) for key in SOURCE.sample(list(DOCUMENTS), 12)} for query in QUERIES
}
CANDIDATES = {
    query: {key: SOURCE.random() for key in SOURCE.sample(list(DOCUMENTS), 9 + place)}
    for place, query in enumerate(QUERIES)
}
MEASURES = {  # ours -> mteb's
    "ndcg_at_10": "ndcg_at_10",
    "map": "map_at_1000",
    "recall_at_20": "recall_at_20",
    "mrr_at_10": "mrr_at_10",
}
ROUNDING = 5e-6  # mteb keeps five digits


def open_corpus() -> Iterator[Document]:
    for key, text in DOCUMENTS.items():
        yield Document(key, text, title="Archery")


def build_data(candidates: Mapping[str, Mapping[str, float]] | None = None) -> EvaluationSet:
    return EvaluationSet("toy data", QUERIES, QRELS, open_corpus, candidates=candidates)


def run(model: Any, task: Any, **options: Any) -> dict[str, Any]:
    """Return mteb's figures; without its cache, in batches that divide neither queries nor lists evenly."""
    options = {"cache": None, "encode_kwargs": {"batch_size": 4, "show_progress_bar": False}, **options}
    scores: dict[str, Any] = mteb.evaluate(model, task, **options).task_results[0].scores["test"][0]
    return scores


@pytest.fixture(scope="module")
def embedder_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    prompts = {"query": "query: ", "document": "passage: "}
    return save_tiny_embedder(tmp_path_factory.mktemp("models") / "tiny", prompts=prompts)


class AgainstTheMean(Reranker):
    """Scores a document by how far it is above the mean of its list: half a list has other scores."""

    listwise = True

    def score_lists(self, encoded: torch.Tensor, list_sizes: Sequence[int]) -> torch.Tensor:
        return torch.cat([scores - scores.mean() for scores in encoded.split([*list_sizes])])


@pytest.fixture(scope="module")
def listwise(tmp_path_factory: pytest.TempPathFactory) -> AgainstTheMean:
    return AgainstTheMean(save_tiny_cross_encoder(tmp_path_factory.mktemp("listwise")), device="cpu")


def order_candidates(query: str) -> list[str]:
    return sorted(CANDIDATES[query], key=lambda key: -CANDIDATES[query][key])


def test_embedder_gets_the_figures_of_a_plain_loop(embedder_folder: str) -> None:
    model = fletching.load(embedder_folder)
    texts = [document.full_text for document in open_corpus()]
    similarities = model.similarity(model.encode_query(list(QUERIES.values())), model.encode_document(texts))
    plain = {
        query: dict(zip(DOCUMENTS, row, strict=True))
        for query, row in zip(QUERIES, similarities.tolist(), strict=True)
    }
    expected = evaluate_run(plain, QRELS, list(MEASURES), ties="trec_eval").means()
    found = run(as_mteb_model(embedder_folder), build_local_task(build_data()))
    assert {ours: found[theirs] for ours, theirs in MEASURES.items()} == pytest.approx(expected, abs=ROUNDING)


def test_reranker_gets_whole_lists(listwise: Any, tmp_path: Path) -> None:
    """Neighbouring queries are equal in text, and the batches of 4 cut every list."""
    queries = {**QUERIES, "q2": QUERIES["q1"]}
    task = build_local_task(replace(build_data(CANDIDATES), queries=queries))
    run(as_mteb_model(listwise), task, prediction_folder=tmp_path)
    found = json.loads((tmp_path / task.prediction_file_name).read_text())["default"]["test"]
    rankings = listwise.rank_batch(
        list(queries.values()),
        [[f"Archery {DOCUMENTS[key]}" for key in order_candidates(query)] for query in queries],
        batch_size=4,
    )
    expected = {
        query: {order_candidates(query)[hit["corpus_id"]]: hit["score"] for hit in ranking}
        for query, ranking in zip(queries, rankings, strict=True)
    }
    assert found == expected


def test_lists_stay_whole_when_they_come_in_portions(listwise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 5 pairs at once: lists of 3, 3, 6 and 1 make portions of one list each but the last."""
    monkeypatch.setattr(bridge, "_PAIRS_AT_ONCE", 5)
    texts = list(DOCUMENTS.values())
    lists = {"a": texts[:3], "b": texts[3:6], "c": texts[6:12], "d": texts[12:13]}
    pairs = [(key, QUERIES["q0"], text) for key, documents in lists.items() for text in documents]
    batches = [pairs[start : start + 2] for start in range(0, len(pairs), 2)]
    found = as_mteb_model(listwise).predict(
        [{"id": [key for key, _, _ in batch], "text": [query for _, query, _ in batch]} for batch in batches],
        [{"text": [text for _, _, text in batch]} for batch in batches],
    )
    expected = [
        score
        for documents in lists.values()
        for score in listwise.predict([(QUERIES["q0"], text) for text in documents])
    ]
    assert found == pytest.approx(expected, abs=1e-5)


def test_queries_that_share_an_id_are_told_apart(listwise: Any) -> None:
    texts = list(DOCUMENTS.values())[:4]
    queries = ["what is a bow"] * 2 + ["wind"] * 2
    found = as_mteb_model(listwise).predict([{"id": ["q"] * 4, "text": queries}], [{"text": texts}])
    expected = [
        *listwise.predict(list(zip(queries[:2], texts[:2], strict=True))),
        *listwise.predict(list(zip(queries[2:], texts[2:], strict=True))),
    ]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_lists_without_ids_are_told_apart_by_the_query(listwise: Any) -> None:
    texts = list(DOCUMENTS.values())[:5]
    queries = ["what is a bow"] * 3 + ["wind"] * 2
    found = as_mteb_model(listwise).predict(
        [{"text": queries[:2]}, {"text": queries[2:]}], [{"text": texts[:2]}, {"text": texts[2:]}]
    )
    expected = listwise.predict(list(zip(queries, texts, strict=True)))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_query_without_candidates_counts_zero(embedder_folder: str) -> None:
    some = {query: CANDIDATES[query] for query in list(QUERIES)[:-1]}
    model = as_mteb_model(embedder_folder)
    found = run(model, build_local_task(build_data(some)))["ndcg_at_10"]
    judged = {query: QRELS[query] for query in some}
    queries = {query: QUERIES[query] for query in some}
    without = run(model, build_local_task(replace(build_data(some), queries=queries, qrels=judged)))
    assert found == pytest.approx(without["ndcg_at_10"] * len(some) / len(QUERIES), abs=2 * ROUNDING)


@pytest.mark.parametrize(
    ("prompt_type", "prompt"), [("query", "query: "), ("document", "passage: "), (None, "")]
)
def test_prompts_are_the_checkpoints_own(embedder_folder: str, prompt_type: str | None, prompt: str) -> None:
    from mteb.types import PromptType

    model = as_mteb_model(embedder_folder)
    found = model.encode(
        [{"text": ["an arrow"]}, {"text": ["a bow"]}],
        task_metadata=build_local_task(build_data()).metadata,
        prompt_type=PromptType(prompt_type) if prompt_type else None,
    )
    np.testing.assert_allclose(found, model.model.encode(["an arrow", "a bow"], prompt=prompt), atol=1e-6)


@pytest.mark.parametrize(
    ("prompt_type", "method"), [("query", "encode_query"), ("document", "encode_document"), (None, "encode")]
)
def test_each_kind_of_text_has_its_own_encoder(
    embedder_folder: str, monkeypatch: pytest.MonkeyPatch, prompt_type: str | None, method: str
) -> None:
    """A model with two towers chooses by it."""
    from mteb.types import PromptType

    model = as_mteb_model(embedder_folder)
    monkeypatch.setattr(model.model, method, lambda texts, **options: (method, texts, options["batch_size"]))
    found = model.encode(
        [{"text": ["an arrow"]}, {"text": ["a bow"]}],
        task_metadata=build_local_task(build_data()).metadata,
        prompt_type=PromptType(prompt_type) if prompt_type else None,
        batch_size=3,
    )
    assert found == (method, ["an arrow", "a bow"], 3)


def test_prompt_for_the_type_of_task_comes_first(tmp_path: Path) -> None:
    from mteb.types import PromptType

    prompts = {"query": "query: ", "Retrieval-query": "what is "}
    model = as_mteb_model(save_tiny_embedder(tmp_path, prompts=prompts))
    found = model.encode(
        [{"text": ["an arrow"]}],
        task_metadata=build_local_task(build_data()).metadata,
        prompt_type=PromptType.query,
    )
    np.testing.assert_allclose(found, model.model.encode(["what is an arrow"], prompt=""), atol=1e-6)


def test_stored_figures_are_those_of_these_weights_and_data(embedder_folder: str, tmp_path: Path) -> None:
    cache = mteb.ResultCache(tmp_path / "results")
    model, task = as_mteb_model(embedder_folder), build_local_task(build_data())
    found = run(model, task, cache=cache)["ndcg_at_10"]
    model.encode = None  # from now on, figures can only come from the cache
    assert run(model, task, cache=cache)["ndcg_at_10"] == found
    with pytest.raises(TypeError):
        run(model, build_local_task(replace(build_data(), qrels={**QRELS, "q0": {"d0": 1}})), cache=cache)
    others = as_mteb_model(save_tiny_embedder(tmp_path / "tiny", seed=1))
    assert others.mteb_model_meta.name == model.mteb_model_meta.name
    assert run(others, task, cache=cache)["ndcg_at_10"] != found


def test_card_says_what_the_model_is(embedder_folder: str) -> None:
    wrapped = as_mteb_model(embedder_folder)
    meta = wrapped.mteb_model_meta
    assert meta.name == "local/tiny"
    assert meta.revision == fingerprint(wrapped.model)
    assert (meta.embed_dim, meta.max_tokens) == (32, 48)
    assert meta.similarity_fn_name.value == "cosine"
    assert meta.use_instructions
    assert meta.model_type == ["dense"]
    assert meta.n_parameters == sum(weights.numel() for weights in wrapped.model.parameters())
    assert meta.n_embedding_parameters == 32 * len(wrapped.model.tokenizer)


def test_card_of_a_reranker_tells_its_options_apart(tmp_path: Path) -> None:
    folder = save_tiny_cross_encoder(tmp_path)
    cut, chunked = (
        as_mteb_model(fletching.load(folder, long=long)).mteb_model_meta for long in ("truncate", "chunk_max")
    )
    assert cut.model_type == ["cross-encoder"]
    assert cut.experiment_name != chunked.experiment_name


@pytest.mark.parametrize(
    ("given", "name"),
    [(None, "local/Embedder"), ("acme/quiver", "acme/quiver"), ("my model!", "local/my-model")],
)
def test_open_model_is_named(embedder_folder: str, given: str | None, name: str) -> None:
    model = fletching.load(embedder_folder)
    assert as_mteb_model(model, name=given).mteb_model_meta.name == name


def test_registered_checkpoint_keeps_its_name() -> None:
    assert as_mteb_model("mvp-mini").mteb_model_meta.name == "fletching/mvp-mini"


# torch says this once in a process, when two sparse matrices are multiplied
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning")
@pytest.mark.parametrize("model_class", [SparseEncoder, MultiVectorEncoder])
def test_sparse_and_multi_vector_models_run(model_class: type[Any], tmp_path: Path) -> None:
    head = "masked-lm" if model_class is SparseEncoder else "backbone"
    model = model_class(save_tiny_bert(tmp_path, head=head), device="cpu")
    wrapped = as_mteb_model(model, name="tiny")
    assert wrapped.mteb_model_meta.revision == fingerprint(model)
    assert 0 < run(wrapped, build_local_task(build_data()))["ndcg_at_10"] < 1


def write_folder(folder: Path) -> Path:
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(
        "".join(f'{{"_id": "{key}", "title": "", "text": "{text}"}}\n' for key, text in DOCUMENTS.items())
    )
    (folder / "queries.jsonl").write_text(
        "".join(f'{{"_id": "{key}", "text": "{text}"}}\n' for key, text in QUERIES.items())
    )
    rows = [f"{query}\t{key}\t{grade}\n" for query in QRELS for key, grade in QRELS[query].items()]
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows))
    lines = [
        f"{query} Q0 {key} {rank} {CANDIDATES[query][key]!r} first\n"
        for query in QUERIES
        for rank, key in enumerate(order_candidates(query), 1)
    ]
    (folder / "first.trec").write_text("".join(lines))
    return folder


def test_negative_grades_count_as_nothing() -> None:
    task = build_local_task(replace(build_data(), qrels={**QRELS, "q0": {"d0": -2, "d1": 1}}))
    task.load_data()
    found: Any = task.dataset["default"]["test"]
    assert found["relevant_docs"] == {**QRELS, "q0": {"d0": 0, "d1": 1}}


def test_folder_becomes_a_retrieval_task(tmp_path: Path) -> None:
    task = build_local_task(write_folder(tmp_path / "handbook"), languages=["eng-Latn"])
    task.load_data()
    found: Any = task.dataset["default"]["test"]
    assert task.metadata.type == "Retrieval"
    assert task.metadata.name.startswith("handbook-")
    assert task.metadata.languages == ["eng"]
    assert dict(zip(found["corpus"]["id"], found["corpus"]["text"], strict=True)) == DOCUMENTS
    assert dict(zip(found["queries"]["id"], found["queries"]["text"], strict=True)) == QUERIES
    assert found["relevant_docs"] == QRELS
    assert found["top_ranked"] is None


def test_folder_with_candidates_becomes_a_reranking_task(tmp_path: Path) -> None:
    task = build_local_task(write_folder(tmp_path), candidates="first.trec", name="mine")
    task.load_data()
    found: Any = task.dataset["default"]["test"]
    assert task.metadata.type == "Reranking"
    assert task.metadata.name.startswith("mine-")
    assert found["top_ranked"] == {query: order_candidates(query) for query in QUERIES}
    assert set(found["corpus"]["id"]) == {key for scores in CANDIDATES.values() for key in scores}


def test_task_can_be_run_again(embedder_folder: str) -> None:
    model, task = as_mteb_model(embedder_folder), build_local_task(build_data())
    assert run(model, task) == run(model, task)


def test_relevance_level_that_mteb_lacks_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fletching"):
        build_local_task(build_data())
        assert not caplog.records
        build_local_task(replace(build_data(), relevance_level=2))
    assert "every grade above 0 as relevant, not only those from 2" in caplog.text


def test_candidate_without_a_passage_is_refused() -> None:
    task = build_local_task(build_data({"q0": {"d0": 1.0, "nowhere": 0.5}}))
    with pytest.raises(ArgumentError, match="candidates with a passage; got 'nowhere'"):
        task.load_data()


def test_sentence_pairs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t1\nc\td\t2\n")
    with pytest.raises(ArgumentError, match="`data` must be queries with judged passages"):
        build_local_task(tmp_path / "pairs.tsv")


def test_arguments_of_a_folder_do_not_go_with_a_data_set() -> None:
    with pytest.raises(ArgumentError, match="`split` must be left out for an evaluation set; got 'dev'"):
        build_local_task(build_data(), split="dev")


def test_strangers_are_refused() -> None:
    with pytest.raises(ArgumentError, match="`model` must be an embedder, a reranker, or the name or folder"):
        as_mteb_model(object())


@pytest.mark.parametrize("call", [lambda: as_mteb_model("mvp-mini"), lambda: build_local_task("folder")])
def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, call: Any) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(MissingExtraError, match=r'pip install "fletching\[mteb\]"'):
        call()
