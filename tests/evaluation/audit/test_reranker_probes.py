"""Planted faults are found, and healthy rerankers have none."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SparseEncoder
from sentence_transformers.base.modules import Module, Transformer
from sentence_transformers.sparse_encoder.modules import SpladePooling

from fletching.data import CandidateList
from fletching.evaluation.audit import AuditReport, Probe, audit, read_own_lists
from fletching.methods.mvp import MVPReranker
from fletching.models.reranker import Reranker
from fletching.testing import save_tiny_bert, save_tiny_cross_encoder, save_tiny_t5

Hits = list[dict[str, Any]]


def guess(*texts: str) -> float:
    """A number between 0 and 1 that depends on the texts only."""
    return int.from_bytes(hashlib.blake2b("|".join(texts).encode(), digest_size=4).digest(), "big") / 2**32


def sort_hits(scores: Sequence[float]) -> Hits:
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    return [{"corpus_id": place, "score": scores[place]} for place in order]


class Honest:
    """Scores each passage alone."""

    def rank(self, query: str, documents: list[str]) -> Hits:
        return sort_hits(self.score(query, documents))

    def score(self, query: str, documents: list[str]) -> list[float]:
        return [guess(query, document) for document in documents]


class InputOrder(Honest):
    def score(self, query: str, documents: list[str]) -> list[float]:
        return [-float(place) for place in range(len(documents))]


class Reversed(Honest):
    def score(self, query: str, documents: list[str]) -> list[float]:
        return [float(place) for place in range(len(documents))]


class Constant(Honest):
    def score(self, query: str, documents: list[str]) -> list[float]:
        return [0.5] * len(documents)


class PositionNoise(Honest):
    """Noise that depends on nothing but the place, and has no trend."""

    noise = [0.2 * guess("noise", str(place)) - 0.1 for place in range(100)]

    def score(self, query: str, documents: list[str]) -> list[float]:
        return [value + self.noise[place] for place, value in enumerate(super().score(query, documents))]


class PositionTrend(Honest):
    def score(self, query: str, documents: list[str]) -> list[float]:
        return [value - 0.01 * place for place, value in enumerate(super().score(query, documents))]


class Dropout(Honest):
    """Not deterministic, whatever the place."""

    def __init__(self) -> None:
        self.generator = random.Random(3)

    def score(self, query: str, documents: list[str]) -> list[float]:
        return [value + self.generator.gauss(0, 0.05) for value in super().score(query, documents)]


class BatchMean(Honest):
    """Subtracts the mean of the batch, as a head does that takes the batch for its list."""

    def rank(self, query: str, documents: list[str], batch_size: int = 32) -> Hits:
        scores = self.score(query, documents)
        batches = [scores[start : start + batch_size] for start in range(0, len(scores), batch_size)]
        return sort_hits([value - sum(batch) / len(batch) for batch in batches for value in batch])


class Neighbour(Honest):
    """Each passage is scored together with the one before it."""

    def score(self, query: str, documents: list[str]) -> list[float]:
        return [guess(query, before, text) for before, text in zip(["", *documents], documents, strict=False)]


class PaddedTo(Honest):
    """Reads padding: scores shrink with the longest text of the call."""

    def score(self, query: str, documents: list[str]) -> list[float]:
        longest = max(map(len, documents), default=0)
        return [value / (1 + longest / 1000) for value in super().score(query, documents)]


class OneQueryForAll(Honest):
    """Scores alone are right; lists of one call share the first query."""

    def rank_batch(self, queries: list[str], document_lists: list[list[str]]) -> list[Hits]:
        return [self.rank(queries[0], documents) for documents in document_lists]


class SharedState(Honest):
    """Keeps the query of the call where other threads write theirs."""

    query = ""

    def score(self, query: str, documents: list[str]) -> list[float]:
        self.query = query
        time.sleep(0.002)
        return [guess(self.query, document) for document in documents]


class UnequalCopies(Honest):
    def score(self, query: str, documents: list[str]) -> list[float]:
        return [
            guess(query, text) - 0.3 * (text in documents[:place]) for place, text in enumerate(documents)
        ]


class IgnoresQuery(Honest):
    def score(self, query: str, documents: list[str]) -> list[float]:
        return [guess(document) for document in documents]


class ListMean(Honest):
    """Listwise: a score compares a passage with the others."""

    def score(self, query: str, documents: list[str]) -> list[float]:
        scores = super().score(query, documents)
        return [value - sum(scores) / len(scores) for value in scores]


class Listwise(ListMean):
    listwise = True


class LikesLength(Honest):
    def score(self, query: str, documents: list[str]) -> list[float]:
        return [len(text) + 0.1 * guess(query, text) for text in documents]


class Rounded(Honest):
    def score(self, query: str, documents: list[str]) -> list[float]:
        return [round(value, 1) for value in super().score(query, documents)]


class SortsInput(Honest):
    """Sorts the caller's own list."""

    def rank(self, query: str, documents: list[str]) -> Hits:
        hits = super().rank(query, documents)
        documents.sort(key=len)
        return hits


class NaNBesideLong(Honest):
    def score(self, query: str, documents: list[str]) -> list[float]:
        is_long = max(map(len, documents), default=0) > 1000
        return [float("nan") if is_long else value for value in super().score(query, documents)]


class NaNInSmallBatches(Honest):
    def rank(self, query: str, documents: list[str], batch_size: int = 32) -> Hits:
        return sort_hits(
            [value if batch_size > 1 else float("nan") for value in self.score(query, documents)]
        )


class OnlyFirstEight(Honest):
    """Loses what is beyond the eighth passage; the lists have eight."""

    def rank(self, query: str, documents: list[str]) -> Hits:
        return super().rank(query, documents[:8])


class FirstOfMoreThanEight(Honest):
    """The first place is worth something in lists of more than eight."""

    def score(self, query: str, documents: list[str]) -> list[float]:
        bonus = 0.3 * (len(documents) > 8)
        return [value + bonus * (place == 0) for place, value in enumerate(super().score(query, documents))]


class RefusesLong(Honest):
    def score(self, query: str, documents: list[str]) -> list[float]:
        if any(len(text) > 1000 for text in documents):
            raise ValueError("a passage is too long")
        return super().score(query, documents)


class RefusesOne(Honest):
    def score(self, query: str, documents: list[str]) -> list[float]:
        if len(documents) < 2:
            raise RuntimeError("one passage is no list")
        return super().score(query, documents)


def find(report: AuditReport, name: str) -> Probe:
    return next(probe for probe in report.probes if probe.name == name)


def name_faults(report: AuditReport) -> set[str]:
    return {probe.name for probe in report.faults}


class CentreBatch(Module):
    """The head of a listwise model that takes whatever comes in one batch for its list."""

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        features["scores"] = features["scores"] - features["scores"].mean(dim=0)
        return features

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_cross_encoder(tmp_path_factory.mktemp("reranker"))


# --- planted faults ---


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (InputOrder(), {"input order", "shuffled order", "reversed order", "position bias", "query"}),
        (Reversed(), {"input order", "shuffled order", "reversed order", "position bias", "query"}),
        (PositionNoise(), {"shuffled order", "reversed order", "position bias"}),
        (PositionTrend(), {"shuffled order", "reversed order", "position bias"}),
        (BatchMean(), {"batch size", "half the list", "padding"}),
        (Neighbour(), {"shuffled order", "reversed order"}),
        (PaddedTo(), {"padding", "half the list"}),
        (OneQueryForAll(), {"other lists"}),
        (SharedState(), {"threads"}),
        (UnequalCopies(), {"duplicates"}),
        (IgnoresQuery(), {"query"}),
        (ListMean(), {"half the list"}),
        (Dropout(), {"repeated calls", "threads"}),
        (Constant(), {"ties", "input order", "query"}),
        (OnlyFirstEight(), {"duplicates", "padding"}),
        (FirstOfMoreThanEight(), {"duplicates", "padding"}),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, set) else "",
)
def test_a_planted_fault_is_found(model: Any, expected: set[str], lists: list[CandidateList]) -> None:
    assert expected <= name_faults(audit(model, lists))


@pytest.mark.parametrize(
    ("model", "only"),
    [
        (OneQueryForAll(), "other lists"),
        (SharedState(), "threads"),
        (UnequalCopies(), "duplicates"),
        (IgnoresQuery(), "query"),
        (SortsInput(), "inputs"),
        (NaNBesideLong(), "padding"),
        (NaNInSmallBatches(), "batch size"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_a_fault_is_found_by_its_own_probe_alone(model: Any, only: str, lists: list[CandidateList]) -> None:
    assert name_faults(audit(model, lists)) == {only}


def test_a_listwise_head_in_a_stock_cross_encoder_is_found(folder: str, lists: list[CandidateList]) -> None:
    backbone = Transformer(folder, transformer_task="sequence-classification")
    model = CrossEncoder(modules=[backbone, CentreBatch()], device="cpu")
    assert {"batch size", "other lists", "half the list"} <= name_faults(audit(model, lists))


def test_an_answer_that_is_no_ranking_in_a_probe_is_described(lists: list[CandidateList]) -> None:
    probe = find(audit(NaNInSmallBatches(), lists), "batch size")
    assert probe.sentence == "While this was tried: a score is NaN or infinite."


def test_a_position_bonus_in_long_lists_is_found() -> None:
    lists = [
        CandidateList(query, tuple(f"goose {place}" for place in range(9)), ()) for query in ("bow", "arrow")
    ]
    assert {"shuffled order", "reversed order"} <= name_faults(audit(FirstOfMoreThanEight(), lists))


def test_noise_of_every_call_is_not_blamed_on_places(lists: list[CandidateList]) -> None:
    probe = find(audit(Dropout(), lists), "position bias")
    assert probe.verdict == "note"
    assert "see the repeated calls" in probe.sentence


def test_trend_by_position_is_measured() -> None:
    """Scores fall by 0.01 a place: at either end of four places by 0.015 from the middle."""
    texts = [f"goose {place}" for place in range(4)]
    spreads = [np.ptp(PositionTrend().score(query, texts)) for query in ("bow", "arrow")]
    spread = sum(spreads) / 2
    lists = [CandidateList(query, tuple(texts), ()) for query in ("bow", "arrow")]
    probe = find(audit(PositionTrend(), lists), "position bias")
    assert probe.value == pytest.approx(0.015 / spread)
    assert f"(-{100 * 0.01 / spread:.2g} % for each place" in probe.sentence


def test_a_model_that_fails_in_a_probe_has_a_fault(lists: list[CandidateList]) -> None:
    class Fragile(Honest):
        def rank_batch(self, queries: list[str], document_lists: list[list[str]]) -> list[Hits]:
            raise ValueError("not\nyet")

    probe = find(audit(Fragile(), lists), "other lists")
    assert (probe.verdict, probe.sentence) == ("fault", "The model failed with ValueError: not yet")


@pytest.mark.parametrize(
    ("hits", "sentence"),
    [
        ([{"corpus_id": 0, "score": 1.0}], "1 of 8 came back"),
        ([{"corpus_id": 0, "score": 1.0}] * 8, "1 of 8 came back"),
        ([{"corpus_id": place, "score": float("nan")} for place in range(8)], "NaN or infinite"),
        ([{"corpus_id": place, "score": float(place)} for place in range(8)], "not sorted by its scores"),
    ],
    ids=["one", "copies", "nan", "unsorted"],
)
def test_an_answer_that_is_no_ranking_is_the_only_fault(
    hits: Hits, sentence: str, lists: list[CandidateList]
) -> None:
    class Odd:
        def rank(self, query: str, documents: list[str]) -> Hits:
            return hits

    (probe,) = audit(Odd(), lists).probes
    assert (probe.name, probe.verdict) == ("form", "fault")
    assert sentence in probe.sentence


# --- no faults ---


def test_an_honest_object_has_no_fault(lists: list[CandidateList]) -> None:
    report = audit(Honest(), lists)
    assert report.faults == ()
    assert {probe.name for probe in report.probes if probe.verdict == "skipped"} == {
        "batch size", "other lists", "truncation",
    }  # fmt: skip
    assert (report.kind, report.dtype, report.fingerprint) == ("reranker", "", "")


def test_a_declared_listwise_model_has_no_fault(lists: list[CandidateList]) -> None:
    for report in (audit(Listwise(), lists), audit(ListMean(), lists, listwise=True)):
        assert report.faults == ()
        assert report.listwise
        assert find(report, "half the list").verdict == "note"
        assert find(report, "padding").verdict == "skipped"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_class", [Reranker, CrossEncoder])
def test_a_healthy_cross_encoder_has_no_fault(
    model_class: type[Any], dtype: str, folder: str, lists: list[CandidateList]
) -> None:
    model = model_class(folder, device="cpu", model_kwargs={"dtype": dtype})
    report = audit(model, lists[:2])
    assert report.faults == ()
    assert report.dtype == dtype
    assert not [probe for probe in report.probes if probe.verdict == "skipped"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_healthy_listwise_model_has_no_fault_on_one_list_of_two(dtype: str, tmp_path: Path) -> None:
    """Two scores are close together: in bfloat16 their rounding is no small part of the spread."""
    model = MVPReranker(save_tiny_t5(tmp_path), n_views=4, device="cpu", dtype=dtype)
    report = audit(model, [CandidateList("a bow", ("arrow", "bow of wood"), (1.0, 1.0))])
    assert report.faults == ()
    assert (report.dtype, report.listwise) == (dtype, True)


@pytest.mark.parametrize("kind", ["sparse", "multi_vector"])
def test_what_only_compares_vectors_is_tried_as_a_reranker(
    kind: str, tmp_path: Path, lists: list[CandidateList]
) -> None:
    model: Any
    if kind == "sparse":
        masked = Transformer(save_tiny_bert(tmp_path, head="masked-lm"), transformer_task="fill-mask")
        model = SparseEncoder(modules=[masked, SpladePooling("max")], device="cpu")
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = MultiVectorEncoder(modules=[Transformer(save_tiny_bert(tmp_path))], device="cpu")
    report = audit(model, lists[:2])
    assert report.kind == kind
    assert report.faults == ()


def test_copies_in_a_list_are_no_fault(lists: list[CandidateList]) -> None:
    """Copies have equal scores and keep their order: 4 of 28 pairs, a tau of 1/7 if they counted."""
    doubled = [CandidateList(one.query, (*one.documents[:4], *one.documents[:4]), ()) for one in lists]
    report = audit(Honest(), doubled)
    assert report.faults == ()
    assert find(report, "input order").value == 0


def test_equal_scores_that_keep_their_order_are_noted(lists: list[CandidateList]) -> None:
    """Each pair with equal scores counts 1, the others cancel out: Kendall's tau is the share of ties."""

    class Coarse(Honest):
        def score(self, query: str, documents: list[str]) -> list[float]:
            return [float(int(3 * value)) for value in super().score(query, documents)]

    report = audit(Coarse(), lists)
    probe = find(report, "input order")
    assert probe.verdict == "note"
    assert probe.value == pytest.approx(find(report, "ties").value)
    assert "equal scores come out in the order of the input" in probe.sentence


def test_a_refused_long_text_leaves_out_the_padding_probe(lists: list[CandidateList]) -> None:
    report = audit(RefusesLong(), lists)
    probe = find(report, "padding")
    assert (probe.verdict, report.faults) == ("skipped", ())
    assert probe.sentence == "The model refuses a text of 2,000 words: a passage is too long"


def test_a_model_that_takes_no_single_passage_has_no_fault(lists: list[CandidateList]) -> None:
    report = audit(RefusesOne(), lists)
    assert report.faults == ()
    assert find(report, "edge cases").verdict == "note"


def test_precision_of_a_wrapped_network_counts(folder: str, lists: list[CandidateList]) -> None:
    class Wrapper:
        def __init__(self) -> None:
            self.network = CrossEncoder(folder, device="cpu", model_kwargs={"dtype": "bfloat16"})

        def rank(self, query: str, documents: list[str], batch_size: int = 32) -> Any:
            return self.network.rank(query, documents, batch_size=batch_size)

    report = audit(Wrapper(), lists[:2])
    assert (report.dtype, find(report, "batch size").bound) == ("bfloat16", 0.05)


@pytest.mark.slow
def test_mvp_mini_has_no_fault() -> None:
    report = audit("mvp-mini", read_own_lists()[:4])
    assert report.faults == ()
    assert report.listwise


# --- notes ---


def test_ties_are_counted(lists: list[CandidateList]) -> None:
    probe = find(audit(Rounded(), lists), "ties")
    pairs = tied = 0
    for one in lists:
        scores = Rounded().score(one.query, [*one.documents])
        for place, score in enumerate(scores):
            pairs += len(scores[:place])
            tied += scores[:place].count(score)
    assert probe.verdict == "note"
    assert probe.value == tied / pairs


def test_length_bias_is_noted_with_that_of_the_labels(lists: list[CandidateList]) -> None:
    probe = find(audit(LikesLength(), lists), "length")
    assert probe.verdict == "note"
    assert probe.value == pytest.approx(1.0, abs=0.02)
    assert "labels and lengths with" in probe.sentence


@pytest.mark.parametrize("model_class", [Reranker, CrossEncoder])
def test_lost_tokens_are_counted(model_class: type[Any], folder: str) -> None:
    """48 tokens fit: [CLS] bow [SEP] x 44 [SEP]; of 50 words 6 are lost."""
    lists = [CandidateList("bow", ("wood " * 44, "wood " * 50, "goose"), ())]
    report = audit(model_class(folder, device="cpu"), lists)
    probe = find(report, "truncation")
    assert (probe.verdict, probe.value) == ("note", pytest.approx(1 / 3))
    assert probe.sentence == "1 of 3 passages were cut; tokens not read: 6."
    assert report.slices[0].lost_tokens == 6


def test_what_a_model_does_not_take_is_noted(lists: list[CandidateList]) -> None:
    class Picky(Honest):
        def rank(self, query: str, documents: list[str]) -> Hits:
            if not documents:
                raise IndexError
            return super().rank(query, documents)

    probe = find(audit(Picky(), lists), "edge cases")
    assert (probe.verdict, probe.sentence) == ("note", "The model does not take an empty list (IndexError).")


def test_one_query_alone_leaves_out_the_query_probe(lists: list[CandidateList]) -> None:
    assert find(audit(Honest(), lists[:1]), "query").verdict == "skipped"
