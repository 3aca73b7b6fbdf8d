"""What every embedder promises."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from sentence_transformers import SentenceTransformer

from fletching.testing.contracts.promises import TEXTS, ModelContract, assert_close


class EmbedderContract(ModelContract):
    """The promises of an embedder; a subclass says in ``make_model`` how to build it.

    Example:
        >>> class TestMyEmbedder(EmbedderContract):
        ...     @classmethod
        ...     def make_model(cls, folder):
        ...         return MyEmbedder(save_tiny_embedder(folder), device="cpu")
    """

    text_parameter: ClassVar[str] = "inputs"

    @classmethod
    def compute(cls, model: Any, texts: list[str], **options: Any) -> list[Any]:
        """Encode texts without a prompt."""
        return model.encode(texts, **options).tolist()

    @classmethod
    def make_calls(cls, model: Any) -> list[Callable[[], Any]]:
        """Encode short and long texts, as queries, documents and neither."""
        methods = (model.encode, model.encode_query, model.encode_document)
        halves = ([*TEXTS[:3]], [*TEXTS[3:]])
        return [partial(_encode, method, half) for method in methods for half in halves]

    def test_one_text_gives_one_vector(self, model: Any) -> None:
        assert model.encode("wood").tolist() == model.encode(["wood"])[0].tolist()

    def test_vectors_are_float32_arrays(self, model: Any) -> None:
        vectors = model.encode([*TEXTS])
        assert vectors.shape == (len(TEXTS), model.get_embedding_dimension())
        assert vectors.dtype == "float32"

    @pytest.mark.parametrize("name", ["query", "document"])
    def test_the_checkpoint_s_own_prompt_is_put_in_front(self, model: Any, name: str) -> None:
        prompt = model.prompts.get(name) or ""
        prompted = getattr(model, f"encode_{name}")([*TEXTS])
        assert_close(
            prompted.tolist(), self.compute(model, [prompt + text for text in TEXTS]), self.tolerance
        )

    @pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
    def test_vectors_are_those_of_sentence_transformers(
        self, model: Any, tmp_path: Path, method: str
    ) -> None:
        model.save(str(tmp_path))
        stock = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
        expected = getattr(stock, method)([*TEXTS], normalize_embeddings=True)
        got = getattr(model, method)([*TEXTS], normalize_embeddings=True)
        assert_close(got.tolist(), expected.tolist(), self.tolerance)

    def test_truncated_unit_vectors_have_length_one(self, model: Any) -> None:
        whole = torch.tensor(self.compute(model, [*TEXTS], normalize_embeddings=True))
        half = whole.shape[1] // 2
        truncated = self.compute(model, [*TEXTS], normalize_embeddings=True, truncate_dim=half)
        expected = torch.nn.functional.normalize(whole[:, :half], dim=1)
        assert_close(truncated, expected.tolist(), self.tolerance)

    def test_what_is_lost_of_a_long_text_is_told(self, model: Any) -> None:
        """What comes behind a text that is cut already changes nothing; what is not cut does."""
        long = "wood " * ((model.max_seq_length or 500) + 1)
        longer = long + "bow bow bow"
        none, some, more = model.count_lost_tokens(["wood", long, longer])
        assert none == 0
        assert (some > 0) == (model.max_seq_length is not None)
        assert (more > some) == (some > 0)
        first, second = self.compute(model, [long, longer])
        assert (first == second) == (some > 0)

    @pytest.mark.slow
    def test_a_pool_of_processes_computes_what_one_process_computes(self, model: Any) -> None:
        pooled = model.encode([*TEXTS], device=["cpu", "cpu"], chunk_size=2)
        assert_close(pooled.tolist(), self.compute(model, [*TEXTS]), self.tolerance)


def _encode(method: Callable[[list[str]], Any], texts: list[str]) -> list[list[float]]:
    vectors: list[list[float]] = method(texts).tolist()
    return vectors
