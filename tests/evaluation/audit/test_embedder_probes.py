"""Planted faults are found, and healthy embedders have none."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from fletching.data import CandidateList
from fletching.evaluation.audit import AuditReport, Probe, audit
from fletching.models.embedder import Embedder
from fletching.testing import save_tiny_embedder


def guess(*texts: str) -> float:
    """A number between 0 and 1 that depends on the texts only."""
    return int.from_bytes(hashlib.blake2b("|".join(texts).encode(), digest_size=4).digest(), "big") / 2**32


class HonestEmbedder:
    """Embeds each text alone, with length one."""

    def encode(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        vectors = np.array([[guess(text, str(axis)) - 0.5 for axis in range(8)] for text in texts])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class CentredEmbedder(HonestEmbedder):
    """Subtracts the mean of the batch."""

    def encode(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        starts = range(0, len(texts), batch_size)
        batches = [super(CentredEmbedder, self).encode(texts[start : start + batch_size]) for start in starts]
        return np.concatenate([batch - batch.mean(axis=0) for batch in batches])


class NoisyEmbedder(HonestEmbedder):
    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def encode(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        vectors = super().encode(texts)
        return vectors + self.generator.normal(0, 0.05, vectors.shape)


class ConstantEmbedder(HonestEmbedder):
    def encode(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        return np.ones((len(texts), 8)) / 8**0.5


class NumberedEmbedder(HonestEmbedder):
    """Adds the place in the input."""

    def encode(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        return super().encode(texts) + 0.05 * np.arange(len(texts))[:, None]


class PaddedEmbedder(HonestEmbedder):
    def encode(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        longest = max(map(len, texts))
        return super().encode(texts) + np.eye(8)[0] * longest / 1000


class SharedStateEmbedder(HonestEmbedder):
    texts: list[str] = []

    def encode(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        self.texts = texts
        time.sleep(0.002)
        return super().encode([*self.texts, *texts][: len(texts)])


class EmptyIsNaN(HonestEmbedder):
    def encode(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        vectors = super().encode(texts)
        vectors[[not text for text in texts]] = np.nan
        return vectors


class LongVectors(HonestEmbedder):
    def encode(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        return 3 * super().encode(texts)


class ForgetsPrompts(HonestEmbedder):
    prompts = {"query": "query: ", "document": ""}

    def encode(self, texts: list[str], batch_size: int = 32, prompt: str = "") -> np.ndarray:
        return super().encode([prompt + text for text in texts])

    def encode_query(self, texts: list[str]) -> np.ndarray:
        return self.encode(texts)

    encode_document = encode_query


class SortsInput(HonestEmbedder):
    """Sorts the caller's own list, as one that batches by length may."""

    def encode(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        vectors = super().encode(texts)
        texts.sort(key=len)
        return vectors


class NaNBesideLong(HonestEmbedder):
    def encode(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        vectors = super().encode(texts)
        return vectors * np.nan if max(map(len, texts)) > 1000 else vectors


class RefusesLong(HonestEmbedder):
    def encode(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        if max(map(len, texts)) > 1000:
            raise ValueError("a text is too long")
        return super().encode(texts)


class CentredQueries(HonestEmbedder):
    """Passages are right; from each query the mean of its batch is subtracted."""

    def encode_query(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        return CentredEmbedder().encode(texts, batch_size=batch_size)

    encode_document = HonestEmbedder.encode


class NoisyQueries(HonestEmbedder):
    def __init__(self) -> None:
        self.noisy = NoisyEmbedder()

    def encode_query(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        return self.noisy.encode(texts)

    encode_document = HonestEmbedder.encode


class FewParameters(HonestEmbedder):
    """Its methods for queries and passages take texts only, and `encode` takes no prompt."""

    prompts = {"query": "query: "}

    def encode_query(self, texts: list[str]) -> np.ndarray:
        return self.encode(["query: " + text for text in texts])

    def encode_document(self, texts: list[str]) -> np.ndarray:
        return self.encode(texts)


def find(report: AuditReport, name: str) -> Probe:
    return next(probe for probe in report.probes if probe.name == name)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (CentredEmbedder(), {"order", "batch size", "padding"}),
        (NoisyEmbedder(), {"repeated calls", "threads"}),
        (ConstantEmbedder(), {"ties", "query"}),
        (NumberedEmbedder(), {"order", "duplicates"}),
        (PaddedEmbedder(), {"padding"}),
        (SharedStateEmbedder(), {"threads"}),
        (EmptyIsNaN(), {"empty text"}),
        (ForgetsPrompts(), {"prompts"}),
        (SortsInput(), {"inputs"}),
        (CentredQueries(), {"batch size"}),
        (NoisyQueries(), {"repeated calls"}),
        (NaNBesideLong(), {"padding"}),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, set) else "",
)
def test_a_planted_fault_is_found(model: Any, expected: set[str], lists: list[CandidateList]) -> None:
    assert expected <= {probe.name for probe in audit(model, lists).faults}


def test_an_honest_object_has_no_fault(lists: list[CandidateList]) -> None:
    report = audit(HonestEmbedder(), lists)
    assert report.faults == ()
    assert report.kind == "embedder"


def test_vectors_that_are_not_finite_in_a_probe_are_described(lists: list[CandidateList]) -> None:
    probe = find(audit(NaNBesideLong(), lists), "padding")
    assert probe.sentence == "While this was tried: a vector holds NaN or infinity."


def test_what_methods_do_not_take_is_not_tried(lists: list[CandidateList]) -> None:
    report = audit(FewParameters(), lists)
    assert report.faults == ()
    assert {probe.name for probe in report.probes if probe.verdict == "skipped"} == {
        "batch size", "prompts", "truncation",
    }  # fmt: skip


def test_a_refused_long_text_leaves_out_the_padding_probe(lists: list[CandidateList]) -> None:
    report = audit(RefusesLong(), lists)
    assert (find(report, "padding").verdict, report.faults) == ("skipped", ())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_class", [Embedder, SentenceTransformer])
def test_a_healthy_embedder_has_no_fault(
    model_class: type[Any], dtype: str, tmp_path_factory: pytest.TempPathFactory, lists: list[CandidateList]
) -> None:
    prompts = {"query": "query: ", "document": ""}
    folder = save_tiny_embedder(tmp_path_factory.mktemp("embedder"), prompts=prompts)
    report = audit(model_class(folder, device="cpu", model_kwargs={"dtype": dtype}), lists[:2])
    assert report.faults == ()
    assert find(report, "prompts").sentence.endswith("put the model's prompts in front: query 'query: '.")


def test_vectors_of_other_lengths_are_noted(lists: list[CandidateList]) -> None:
    """Vectors of length 3 are 2 too long."""
    probe = find(audit(LongVectors(), lists), "unit length")
    assert (probe.verdict, probe.value) == ("note", pytest.approx(2.0))


def test_vectors_for_dot_products_may_have_any_length(
    tmp_path_factory: pytest.TempPathFactory, lists: list[CandidateList]
) -> None:
    folder = save_tiny_embedder(tmp_path_factory.mktemp("dot"), normalize=False, similarity="dot")
    probe = find(audit(Embedder(folder, device="cpu"), lists[:2]), "unit length")
    assert probe.verdict == "ok"
    assert "compares them by dot" in probe.sentence


def test_vectors_that_are_not_finite_are_the_only_fault(lists: list[CandidateList]) -> None:
    class Broken(HonestEmbedder):
        def encode(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
            return super().encode(texts) * np.inf

    (probe,) = audit(Broken(), lists).probes
    assert (probe.verdict, probe.sentence) == ("fault", "A vector holds NaN or infinity.")


def test_passages_that_share_a_vector_are_counted(lists: list[CandidateList]) -> None:
    """What is lower case for this model is one text: 2 of the 4 passages."""

    class Lower(HonestEmbedder):
        def encode(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
            return super().encode([text.lower() for text in texts])

    probe = find(audit(Lower(), [CandidateList("q", ("A", "a", "b", "c"), ())]), "ties")
    assert (probe.verdict, probe.value) == ("note", 0.5)


def test_lost_tokens_are_counted(tmp_path_factory: pytest.TempPathFactory) -> None:
    """48 tokens fit: [CLS] x 46 [SEP]; of 50 words 4 are lost."""
    model = Embedder(save_tiny_embedder(tmp_path_factory.mktemp("embedder")), device="cpu")
    probe = find(
        audit(model, [CandidateList("bow", ("wood " * 50, "wood " * 46, "goose"), ())]), "truncation"
    )
    assert probe.sentence == "1 of 3 passages were cut; tokens not read: 4."


def test_a_prompt_takes_the_place_of_tokens(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The prompt is one word: of 46 others one is lost."""
    folder = save_tiny_embedder(tmp_path_factory.mktemp("embedder"), prompts={"document": "passage "})
    probe = find(audit(Embedder(folder), [CandidateList("bow", ("wood " * 46, "goose"), ())]), "truncation")
    assert probe.sentence == "1 of 2 passages were cut; tokens not read: 1."
