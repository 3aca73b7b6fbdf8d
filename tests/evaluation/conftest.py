"""Tiny models of every kind, and a data set small enough to check by hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import MultiVectorEncoder, SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sparse_encoder.modules import SpladePooling

import fletching
from fletching.data import Document
from fletching.evaluation import EvaluationSet
from fletching.testing import save_tiny_bert, save_tiny_cross_encoder, save_tiny_embedder

_WORDS = [
    "arrow",
    "bow",
    "string",
    "feather",
    "flight",
    "archer",
    "target",
    "wind",
    "wood",
    "goose",
    "shaft",
    "nock",
    "point",
]

DataBuilder = Callable[..., EvaluationSet]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Saved models by kind; never changed."""
    root = tmp_path_factory.mktemp("models")
    save_tiny_embedder(root / "embedder", prompts={"query": "query ", "document": "passage "})
    save_tiny_cross_encoder(root / "reranker")
    masked = Transformer(save_tiny_bert(root / "mlm", head="masked-lm"), transformer_task="fill-mask")
    SparseEncoder(modules=[masked, SpladePooling("max")], device="cpu").save(str(root / "sparse"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = Transformer(save_tiny_bert(root / "bert"))
        MultiVectorEncoder(modules=[backbone], device="cpu").save(str(root / "multi_vector"))
    return {kind: str(root / kind) for kind in ("embedder", "reranker", "sparse", "multi_vector")}


@pytest.fixture(scope="session")
def models(folders: dict[str, str]) -> dict[str, Any]:
    """The same, opened; never changed."""
    return {kind: fletching.load(folder, device="cpu") for kind, folder in folders.items()}


@pytest.fixture(scope="session")
def documents() -> dict[str, str]:
    """Thirty passages of archery words, all different."""
    draw = random.Random(0)
    return {f"d{number:02}": " ".join(draw.choices(_WORDS, k=6)) for number in range(30)}


@pytest.fixture(scope="session")
def build_data(documents: dict[str, str]) -> DataBuilder:
    """Build a set of six judged queries; five have ten candidates each, unless there are none at all."""
    draw = random.Random(1)
    queries = {f"q{number}": " ".join(draw.choices(_WORDS, k=2)) for number in range(6)}
    qrels = {
        query: {key: draw.randint(1, 3) for key in draw.sample(sorted(documents), 4)} for query in queries
    }
    lists = {
        query: {key: float(-place) for place, key in enumerate(draw.sample(sorted(documents), 10))}
        for query in list(queries)[:5]
    }

    def open_corpus() -> Iterator[Document]:
        return (Document(key, text) for key, text in documents.items())

    def build(*, candidates: bool = True, digest: str = "d1") -> EvaluationSet:
        return EvaluationSet(
            name="toy",
            queries=queries,
            qrels=qrels,
            open_corpus=open_corpus,
            candidates=lists if candidates else None,
            first_stage="draw" if candidates else "",
            skipped={"blank queries": 2},
            digest=digest,
        )

    return build


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """A run of one query on the toy data, with a tie."""
    path = tmp_path / "other.run"
    path.write_text("q0 Q0 d09 1 2.5 x\nq0 Q0 d05 2 1.5 x\nq0 Q0 d03 3 1.5 x\n")
    return path
