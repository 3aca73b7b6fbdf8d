"""What other wrappers get wrong: each check passes on ours and, marked `upstream`, fails on theirs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.load import dumpd

import fletching
from langchain_fletching import FletchingEmbeddings, FletchingReranker

BuildReranker = Callable[..., Any]


# --- rerankers: langchain_classic.retrievers.document_compressors.CrossEncoderReranker ---


def check_scores_are_kept(build: BuildReranker) -> None:
    hits = build().compress_documents([Document("one"), Document("two")], "query")
    assert all(isinstance(hit.metadata.get("relevance_score"), float) for hit in hits)


def check_top_n_is_validated(build: BuildReranker) -> None:
    with pytest.raises(ValueError, match="top_n"):
        build(top_n=-1).compress_documents([Document("one"), Document("two")], "query")


def check_all_can_be_returned(build: BuildReranker) -> None:
    documents = [Document(str(number)) for number in range(5)]
    assert len(build(top_n=None).compress_documents(documents, "query")) == 5


def check_arguments_can_be_written_down(build: BuildReranker) -> None:
    assert dumpd(build())["type"] == "constructor"


def check_cancelling_stops(build: BuildReranker) -> None:
    reranker = build(slow=True)
    model: Any = reranker.model

    async def cancel() -> None:
        documents = [Document(f"text {number}") for number in range(20)]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(reranker.acompress_documents(documents, "query"), timeout=0.2)
        await asyncio.sleep(0.15)
        scored = model.scored
        await asyncio.sleep(0.2)
        assert model.scored == scored

    asyncio.run(cancel())


RERANKER_CHECKS = [
    check_scores_are_kept,
    check_top_n_is_validated,
    check_all_can_be_returned,
    check_arguments_can_be_written_down,
    check_cancelling_stops,
]


@pytest.fixture
def build_ours(reranker_folder: str) -> BuildReranker:
    class Slow(fletching.Reranker):
        scored = 0

        def encode_rows(self, features: dict[str, Any], **kwargs: Any) -> Any:
            time.sleep(0.05)
            self.scored += 1
            return super().encode_rows(features, **kwargs)

    def build(*, slow: bool = False, **arguments: Any) -> FletchingReranker:
        model = Slow(reranker_folder, device="cpu") if slow else reranker_folder
        return FletchingReranker(model=model, batch_size=1, **arguments)

    return build


@pytest.fixture
def build_theirs() -> BuildReranker:
    compressors = pytest.importorskip("langchain_classic.retrievers.document_compressors")

    class Slow(compressors.cross_encoder.BaseCrossEncoder):
        """Scores a pair by the length of its document, in 50 ms."""

        scored = 0

        def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
            scores = []
            for _, document in text_pairs:
                time.sleep(0.05)
                self.scored += 1
                scores.append(float(len(document)))
            return scores

    def build(*, slow: bool = False, **arguments: Any) -> Any:
        return compressors.CrossEncoderReranker(model=Slow(), **arguments)

    return build


@pytest.mark.parametrize("check", RERANKER_CHECKS, ids=lambda check: check.__name__)
def test_our_reranker(check: Callable[[BuildReranker], None], build_ours: BuildReranker) -> None:
    check(build_ours)


@pytest.mark.upstream
@pytest.mark.parametrize("check", RERANKER_CHECKS, ids=lambda check: check.__name__)
def test_their_reranker(check: Callable[[BuildReranker], None], build_theirs: BuildReranker) -> None:
    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)):
        check(build_theirs)


# --- embeddings: langchain_huggingface.HuggingFaceEmbeddings ---


def check_prompts_of_the_checkpoint_are_applied(embeddings: Any, model: Any) -> None:
    assert embeddings.embed_query("arrow") == pytest.approx(model.encode_query("arrow").tolist(), abs=1e-5)
    [vector] = embeddings.embed_documents(["arrow"])
    assert vector == pytest.approx(model.encode_document("arrow").tolist(), abs=1e-5)


def check_line_breaks_reach_the_model(embeddings: Any, model: Any) -> None:
    """The spy sees what the tokenizer is given; a BERT reads both alike, other models do not."""
    seen: list[str] = []
    opened = getattr(embeddings, "_client", None) or embeddings._open()
    preprocess = opened.preprocess

    def spy(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.extend(inputs)
        return preprocess(inputs, *args, **kwargs)

    opened.preprocess = spy
    try:
        embeddings.embed_documents(["one\ntwo"])
    finally:
        del opened.preprocess
    assert seen == ["one\ntwo"]


EMBEDDER_CHECKS = [check_prompts_of_the_checkpoint_are_applied, check_line_breaks_reach_the_model]


@pytest.mark.parametrize("check", EMBEDDER_CHECKS, ids=lambda check: check.__name__)
def test_our_embeddings(check: Callable[[Any, Any], None], embedder_folder: str) -> None:
    check(FletchingEmbeddings(model=embedder_folder), fletching.load_shared(embedder_folder))


@pytest.mark.upstream
@pytest.mark.parametrize("check", EMBEDDER_CHECKS, ids=lambda check: check.__name__)
def test_their_embeddings(check: Callable[[Any, Any], None], embedder_folder: str) -> None:
    theirs = pytest.importorskip("langchain_huggingface").HuggingFaceEmbeddings(model_name=embedder_folder)
    with pytest.raises(AssertionError):
        check(theirs, fletching.load_shared(embedder_folder))
