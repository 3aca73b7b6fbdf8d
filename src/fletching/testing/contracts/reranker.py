"""What every reranker promises."""

from __future__ import annotations

import asyncio
import copy
import math
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from sentence_transformers.cross_encoder.losses import LambdaLoss

import fletching
from fletching.errors import ArgumentError
from fletching.testing.contracts.promises import TEXTS, ModelContract, assert_close, before_each_batch

QUERY = "What keeps an arrow true?"
OTHER_QUERY = "How long is the string of a bow?"
LONG_TEXT = "In wind, 42 goose feathers; " * 12
PATIENCE_SECONDS = 30.0  # nothing below takes a second; a lock-up must not take the suite along


class RerankerContract(ModelContract):
    """The promises of a reranker; a subclass says in ``make_model`` how to build it.

    Example:
        >>> class TestMyReranker(RerankerContract):
        ...     @classmethod
        ...     def make_model(cls, folder):
        ...         return MyReranker(save_tiny_cross_encoder(folder), device="cpu")
    """

    text_parameter: ClassVar[str] = "documents"

    order_equivariant: ClassVar[bool] = True
    """Whether the order of the candidates has no say in their scores."""

    adapter_modules: ClassVar[tuple[str, ...]] = ("query", "value")
    """Linear layers that a LoRA adapter is tried on; empty when the backbone takes none."""

    @classmethod
    def make_loss(cls, model: Any) -> torch.nn.Module:
        """Build a loss for rows of ``(query, [documents], [labels])``.

        Args:
            model: The model to train.

        Returns:
            The loss.
        """
        return LambdaLoss(model, mini_batch_size=-1)  # -1: whole lists

    @classmethod
    def compute(cls, model: Any, texts: list[str], **options: Any) -> list[Any]:
        """Score texts as the candidates of one query, in their own order."""
        return scores_of(model.rank(QUERY, texts, scores="logit", **options))

    @classmethod
    def make_calls(cls, model: Any) -> list[Callable[[], Any]]:
        """Rank lists that fit and lists that do not, cut and whole."""
        lists = ([*TEXTS], [*TEXTS[:2]], [LONG_TEXT, "wood"])
        return [
            partial(model.rank, QUERY, texts, long=long)
            for texts in lists
            for long in ("truncate", "chunk_max")
        ]

    # --- lists ---

    def test_shuffled_candidates_keep_their_scores(self, model: Any) -> None:
        if not self.order_equivariant:
            pytest.skip("the method reads the order of its candidates")
        shuffled = self.compute(model, [*reversed(TEXTS)])
        assert_close([*reversed(shuffled)], self.compute(model, [*TEXTS]), self.tolerance)

    def test_neighbours_count_only_in_a_listwise_model(self, model: Any) -> None:
        alone = [self.compute(model, [text])[0] for text in TEXTS]
        together = self.compute(model, [*TEXTS])
        moved = max(abs(a - b) for a, b in zip(alone, together, strict=True))
        assert (moved > self.tolerance) == model.listwise

    def test_lists_of_a_batch_do_not_see_each_other(self, model: Any) -> None:
        queries, lists = [QUERY, OTHER_QUERY, QUERY], [[*TEXTS[:2]], [*TEXTS], ["string"]]
        batch = model.rank_batch(queries, lists, scores="logit")
        for query, texts, ranking in zip(queries, lists, batch, strict=True):
            alone = model.rank(query, texts, scores="logit")
            assert_close(scores_of(ranking), scores_of(alone), self.tolerance)

    def test_neighbouring_lists_of_one_query_do_not_merge(self, model: Any) -> None:
        halves = [[*TEXTS[:3]], [*TEXTS[3:]]]
        batch = model.rank_batch([QUERY, QUERY], halves, scores="logit")
        for half, ranking in zip(halves, batch, strict=True):
            assert_close(scores_of(ranking), self.compute(model, half), self.tolerance)

    def test_empty_lists_give_empty_rankings(self, model: Any) -> None:
        empty, full = model.rank_batch([QUERY, QUERY], [[], ["wood"]])
        assert (empty, len(full)) == ([], 1)

    def test_no_lists_give_no_rankings(self, model: Any) -> None:
        assert model.rank_batch([], []) == []

    def test_predict_agrees_with_rank(self, model: Any) -> None:
        predicted = model.predict([(QUERY, text) for text in TEXTS], scores="logit")
        assert_close(predicted.tolist(), self.compute(model, [*TEXTS]), self.tolerance)

    # --- rankings ---

    def test_hits_are_sorted_and_hold_python_numbers(self, model: Any) -> None:
        ranking = model.rank(QUERY, [*TEXTS])
        assert [hit["score"] for hit in ranking] == sorted((hit["score"] for hit in ranking), reverse=True)
        assert {hit["corpus_id"] for hit in ranking} == set(range(len(TEXTS)))
        assert {(type(hit["corpus_id"]), type(hit["score"])) for hit in ranking} == {(int, float)}

    def test_ties_keep_the_order_of_the_documents(self, model: Any) -> None:
        ranking = model.rank(QUERY, ["wood", "goose", "wood", "goose", "wood"], scores="logit")
        ids = [hit["corpus_id"] for hit in ranking]
        assert ids in ([0, 2, 4, 1, 3], [1, 3, 0, 2, 4])

    def test_scores_that_an_activation_makes_equal_are_ordered_by_the_logits(self, model: Any) -> None:
        ranking = model.rank(QUERY, [*TEXTS], activation_fn=torch.zeros_like)
        ids = [hit["corpus_id"] for hit in model.rank(QUERY, [*TEXTS], scores="logit")]
        assert [hit["corpus_id"] for hit in ranking] == ids
        assert {hit["score"] for hit in ranking} == {0.0}

    def test_top_k_is_the_head_of_the_whole_ranking(self, model: Any) -> None:
        assert model.rank(QUERY, [*TEXTS], top_k=2) == model.rank(QUERY, [*TEXTS])[:2]

    def test_documents_are_returned_on_request(self, model: Any) -> None:
        ranking = model.rank(QUERY, [*TEXTS], return_documents=True)
        assert [hit["text"] for hit in ranking] == [TEXTS[hit["corpus_id"]] for hit in ranking]

    def test_a_probability_is_the_sigmoid_of_the_logit(self, model: Any) -> None:
        logits = self.compute(model, [*TEXTS])
        probabilities = scores_of(model.rank(QUERY, [*TEXTS], scores="probability"))
        assert_close(probabilities, [1 / (1 + math.exp(-logit)) for logit in logits], 1e-6)

    # --- long documents ---

    def test_what_truncation_cost_is_reported(self, model: Any, caplog: pytest.LogCaptureFixture) -> None:
        twice, once, short = LONG_TEXT * 2, LONG_TEXT, "wood"
        ranking = model.rank(QUERY, [twice, short, once], long="truncate")
        assert set(ranking.lost_tokens) == {0, 2}
        assert 0 < ranking.lost_tokens[2] < ranking.lost_tokens[0]
        assert "2 of 3 documents" in caplog.text

    def test_the_end_of_a_cut_document_is_not_read(self, model: Any) -> None:
        first, second = self.compute(model, [LONG_TEXT, LONG_TEXT + "archer"], long="truncate")
        assert first == second

    def test_chunks_read_a_long_document_whole(self, model: Any) -> None:
        endings = ["goose", QUERY, OTHER_QUERY, "wood " * 50, "42 " * 50]
        rankings = [
            model.rank(QUERY, ["goose " * 200 + ending], scores="logit", long="chunk_max")
            for ending in endings
        ]
        assert all(ranking.lost_tokens == {} for ranking in rankings)
        assert len({ranking[0]["score"] for ranking in rankings}) > 1  # one of the endings is the best chunk

    def test_chunks_leave_a_document_that_fits_alone(self, model: Any) -> None:
        texts = ["wood", "A notch for the string"]
        assert self.compute(model, texts, long="chunk_max") == self.compute(model, texts, long="truncate")

    # --- async ---

    def test_arank_returns_what_rank_returns(self, model: Any) -> None:
        async def rank_together() -> list[Any]:
            return await asyncio.gather(*(model.arank(QUERY, [*TEXTS]) for _ in range(4)))

        expected = model.rank(QUERY, [*TEXTS])
        rankings = asyncio.run(rank_together())
        assert all(ranking == expected for ranking in rankings)
        assert all(ranking.lost_tokens == expected.lost_tokens for ranking in rankings)

    def test_arank_leaves_the_loop_free(self, own_model: Any) -> None:
        started, released = threading.Event(), threading.Event()

        def wait_for_the_loop() -> None:
            started.set()
            assert released.wait(PATIENCE_SECONDS), "the event loop was blocked"

        async def release_while_ranking() -> Any:
            ranking = asyncio.create_task(own_model.arank(QUERY, ["wood"]))
            while not started.is_set():
                await asyncio.sleep(0.001)
            released.set()
            return await ranking

        with before_each_batch(own_model, wait_for_the_loop):
            assert len(asyncio.run(release_while_ranking())) == 1

    def test_a_cancelled_arank_stops_at_the_next_batch(self, own_model: Any) -> None:
        started, released = threading.Event(), threading.Event()
        reads: list[int] = []
        with before_each_batch(own_model, lambda: reads.append(1)):
            own_model.rank(QUERY, ["wood"])
        reads_per_batch = len(reads)
        reads.clear()

        def count_and_wait() -> None:
            reads.append(1)
            started.set()
            assert released.wait(PATIENCE_SECONDS), "the call was not cancelled"

        async def cancel_in_the_first_batch() -> None:
            ranking = asyncio.create_task(own_model.arank(QUERY, ["wood", "string", "bow"], batch_size=1))
            while not started.is_set():
                await asyncio.sleep(0.001)
            ranking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await ranking
            released.set()  # asyncio.run waits for the worker thread

        with before_each_batch(own_model, count_and_wait):
            asyncio.run(cancel_in_the_first_batch())
        assert len(reads) == reads_per_batch

    # --- bad input ---

    @pytest.mark.parametrize("query", ["", " \n\t", None, 3, b"bytes"], ids=repr)
    def test_what_is_no_query_is_refused(self, model: Any, query: Any) -> None:
        with pytest.raises(ArgumentError, match=r"rank: `query` must be .*; got"):
            model.rank(query, ["wood"])

    def test_a_string_is_not_a_list_of_documents(self, model: Any) -> None:
        with pytest.raises(ArgumentError, match=r"`documents` must be a list of strings; got 'wood'"):
            model.rank(QUERY, "wood")

    def test_lists_of_unequal_length_are_refused(self, model: Any) -> None:
        with pytest.raises(ArgumentError, match=r"`document_lists` must be one list per query \(2\); got 1"):
            model.rank_batch([QUERY, OTHER_QUERY], [["wood"]])

    @pytest.mark.parametrize(
        "option",
        [{"top_k": 0}, {"batch_size": -1}, {"scores": "percent"}, {"long": "wrap"}],
        ids=lambda option: next(iter(option)),
    )
    def test_an_option_outside_its_domain_is_refused(self, model: Any, option: dict[str, Any]) -> None:
        with pytest.raises(ArgumentError, match=f"`{next(iter(option))}` must be"):
            model.rank(QUERY, ["wood"], **option)

    # --- inside sentence-transformers ---

    def test_the_stock_evaluator_sees_the_same_order(self, model: Any) -> None:
        lists = {QUERY: [*TEXTS[:4]], OTHER_QUERY: ["string", "wood", "goose", "The bow"]}
        samples: list[dict[str, str | list[str]]] = [
            {"query": query, "positive": [texts[1]], "documents": texts} for query, texts in lists.items()
        ]
        evaluator = CrossEncoderRerankingEvaluator(samples, at_k=10, always_rerank_positives=False)
        places = [
            [hit["corpus_id"] for hit in model.rank(query, texts)].index(1) for query, texts in lists.items()
        ]
        mrr = sum(1 / (place + 1) for place in places) / len(places)
        assert evaluator(model)["mrr@10"] == pytest.approx(mrr)

    @pytest.mark.slow
    def test_a_pool_of_processes_computes_what_one_process_computes(self, model: Any) -> None:
        pooled = model.rank(QUERY, [*TEXTS], scores="logit", device=["cpu", "cpu"], chunk_size=2)
        assert_close(scores_of(pooled), self.compute(model, [*TEXTS]), self.tolerance)

    def test_the_stock_trainer_trains_it(self, own_model: Any, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        rows = [{"query": QUERY, "documents": ["feathers", "wood", "goose"], "labels": [1.0, 0.0, 0.0]}] * 4
        arguments = CrossEncoderTrainingArguments(
            str(tmp_path), max_steps=2, per_device_train_batch_size=2, learning_rate=1e-2, save_strategy="no",
            report_to="none", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        before = copy.deepcopy(own_model.state_dict())
        CrossEncoderTrainer(
            own_model,
            arguments,
            train_dataset=datasets.Dataset.from_list(rows),
            loss=self.make_loss(own_model),
        ).train()
        after = own_model.state_dict()
        assert any(not torch.equal(before[name], after[name]) for name in before)
        assert all(map(math.isfinite, self.compute(own_model, [*TEXTS])))

    def test_an_adapter_is_saved_and_opened_again(self, own_model: Any, tmp_path: Path) -> None:
        if not self.adapter_modules:
            pytest.skip("the backbone takes no adapter")
        peft = pytest.importorskip("peft")
        own_model.add_adapter(
            peft.LoraConfig(target_modules=[*self.adapter_modules], init_lora_weights=False, r=2)
        )
        own_model.save(str(tmp_path))
        loaded = fletching.load(tmp_path, device="cpu")
        assert_close(self.compute(loaded, [*TEXTS]), self.compute(own_model, [*TEXTS]), self.tolerance)


def scores_of(ranking: list[dict[str, Any]]) -> list[float]:
    """Put the scores of a ranking back into the order of its documents.

    Args:
        ranking: Hits of one query.

    Returns:
        One score per document.
    """
    return [hit["score"] for hit in sorted(ranking, key=lambda hit: hit["corpus_id"])]
