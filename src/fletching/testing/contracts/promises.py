"""What embedders and rerankers promise alike, and the texts that try it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import fletching
from fletching.errors import ArgumentError, FletchingError

TEXTS = (
    "Feathers at the end of an arrow keep its flight true.",
    "wood",
    "The archer draws the bow. " * 6,
    "What is a nock? A notch for the string!",
    "",
    "wood",
    "In wind, 42 goose feathers; " * 40,
)
"""Short and long, one twice, one empty, two that do not fit a tiny model."""

THREADS = 32
"""How many threads use a model at once."""


class ModelContract:
    """The promises of every model; :class:`EmbedderContract` and :class:`RerankerContract` inherit it."""

    tolerance: ClassVar[float] = 1e-5
    """How far results may move when only the batch around an input changes."""

    rows_per_text: ClassVar[int] = 1
    """Rows that the network reads for one text; more for a method with several prompts."""

    text_parameter: ClassVar[str]
    """Name of the parameter that takes the texts, as errors spell it."""

    @classmethod
    def make_model(cls, folder: Path) -> Any:
        """Build the model under test; a subclass says how.

        Args:
            folder: An empty folder to build it in.

        Returns:
            The model, on the CPU.
        """
        raise NotImplementedError(f"{cls.__name__} must say how to make its model")

    @classmethod
    def compute(cls, model: Any, texts: list[str], **options: Any) -> list[Any]:
        """Call the model the plain way.

        Args:
            model: The model.
            texts: What it reads.
            **options: Keyword arguments of the call.

        Returns:
            One result per text: a score, or a vector.
        """
        raise NotImplementedError

    @classmethod
    def make_calls(cls, model: Any) -> list[Callable[[], Any]]:
        """List calls that want different things of the tokenizer, to be made from many threads at once.

        Args:
            model: The model.

        Returns:
            Functions without arguments, whose results compare with ``==``.
        """
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tmp_path_factory: pytest.TempPathFactory) -> Any:
        """One model for all tests that leave it as it was."""
        return cls.make_model(tmp_path_factory.mktemp(cls.__name__))

    @pytest.fixture
    def own_model(self, model: Any) -> Any:
        """A copy to break."""
        return copy.deepcopy(model)

    @pytest.mark.parametrize("batch_size", [1, 2, 100])
    def test_results_do_not_depend_on_the_batch_size(self, model: Any, batch_size: int) -> None:
        got = self.compute(model, [*TEXTS], batch_size=batch_size)
        assert_close(got, self.compute(model, [*TEXTS]), self.tolerance)

    @pytest.mark.parametrize("max_tokens", [1, 100])
    def test_results_do_not_depend_on_the_token_budget(self, own_model: Any, max_tokens: int) -> None:
        expected = self.compute(own_model, [*TEXTS])
        own_model.max_tokens_per_batch = max_tokens
        assert_close(self.compute(own_model, [*TEXTS]), expected, self.tolerance)

    def test_equal_texts_get_equal_results(self, model: Any) -> None:
        results = self.compute(model, [*TEXTS])
        assert results[TEXTS.index("wood")] == results[5]

    def test_different_texts_get_different_results(self, model: Any) -> None:
        distinct = [text for text in dict.fromkeys(TEXTS) if text]
        results = self.compute(model, distinct)
        assert len({str(result) for result in results}) == len(distinct)

    def test_inputs_are_not_changed(self, model: Any) -> None:
        texts = [*TEXTS]
        self.compute(model, texts)
        assert texts == [*TEXTS]

    def test_no_text_gives_no_result(self, model: Any) -> None:
        assert self.compute(model, []) == []

    def test_one_text_gives_one_result(self, model: Any) -> None:
        assert len(self.compute(model, ["wood"])) == 1

    def test_threads_compute_what_one_thread_computes(self, model: Any) -> None:
        calls = self.make_calls(model)
        expected = [call() for call in calls]
        rounds = THREADS // len(calls) + 1
        with ThreadPoolExecutor(THREADS) as threads:
            assert list(threads.map(lambda call: call(), calls * rounds)) == expected * rounds

    @pytest.mark.parametrize("value", [None, 3, b"bytes", ["nested"]], ids=repr)
    def test_what_is_not_text_is_refused_by_position(self, model: Any, value: object) -> None:
        with pytest.raises(ArgumentError, match=rf"`{self.text_parameter}\[1\]` must be a string; got"):
            self.compute(model, ["wood", value])  # type: ignore[list-item]

    def test_a_lone_surrogate_is_read_as_a_replacement_character(self, model: Any) -> None:
        damaged, repaired = self.compute(model, ["bow \ud83c", "bow \N{REPLACEMENT CHARACTER}"])
        assert damaged == repaired

    def test_a_megabyte_of_text_is_one_text(self, model: Any) -> None:
        assert len(self.compute(model, ["wood", "goose feather " * 75_000])) == 2

    def test_ten_thousand_texts_get_ten_thousand_results(self, model: Any) -> None:
        results = self.compute(model, ["bow", "wood", "goose", "feather"] * 2_500)
        assert len(results) == 10_000
        assert results == results[:4] * 2_500

    def test_an_interrupted_call_leaves_the_model_usable(self, own_model: Any) -> None:
        expected = self.compute(own_model, [*TEXTS], batch_size=1)
        batches = iter(range(2))

        def interrupt_the_second() -> None:
            if next(batches) == 1:
                raise KeyboardInterrupt

        with before_each_batch(own_model, interrupt_the_second), pytest.raises(KeyboardInterrupt):
            self.compute(own_model, [*TEXTS], batch_size=1)
        assert self.compute(own_model, [*TEXTS], batch_size=1) == expected

    def test_memory_that_runs_out_halves_the_batches(self, own_model: Any) -> None:
        texts = [f"arrow {number}" for number in range(8)]
        expected = self.compute(own_model, texts)
        sizes = []

        def run_out_above_two_rows(rows: int) -> None:
            sizes.append(rows / self.rows_per_text)
            if sizes[-1] > 2:
                raise RuntimeError(
                    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
                )

        with before_each_batch(own_model, run_out_above_two_rows, pass_rows=True):
            assert_close(self.compute(own_model, texts), expected, self.tolerance)
        tried = [*dict.fromkeys(size for size in sizes if size > 1)]  # a method may encode the query apart
        assert tried[:3] == [8, 4, 2]

    def test_nan_is_raised(self, own_model: Any) -> None:
        with torch.no_grad():
            for parameter in own_model.parameters():
                parameter.fill_(float("nan"))
        with pytest.raises(FletchingError, match="computed NaN"):
            self.compute(own_model, ["wood"])

    def test_a_saved_model_opens_as_what_it_was(self, model: Any, tmp_path: Path) -> None:
        model.save(str(tmp_path / "saved"))
        loaded = fletching.load(tmp_path / "saved", device="cpu")
        assert type(loaded) is type(model)
        assert self.compute(loaded, [*TEXTS]) == self.compute(model, [*TEXTS])

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
    def test_a_copy_computes_the_same(self, model: Any, copied: Callable[[Any], Any]) -> None:
        assert self.compute(copied(model), [*TEXTS]) == self.compute(model, [*TEXTS])

    def test_the_saved_card_shows_how_to_open_it(self, model: Any, tmp_path: Path) -> None:
        model.save(str(tmp_path / "saved"))
        card = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
        assert f"`{type(model).__name__}` of fletching" in card
        assert "model = fletching.load('saved')" in card
        assert "from sentence_transformers import" not in card


@contextmanager
def before_each_batch(model: Any, action: Callable[..., None], *, pass_rows: bool = False) -> Iterator[None]:
    """Call ``action`` whenever the network is about to read tokens: once a micro-batch, or a few times.

    Args:
        model: Any model with a token embedding.
        action: Called without arguments; may raise, or wait.
        pass_rows: Whether ``action`` is called with the number of rows instead.

    Yields:
        Nothing; on leaving, the model is as before.
    """
    tables = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    vocabulary = max(table.num_embeddings for table in tables)  # not positions, not token types
    handles = [
        table.register_forward_pre_hook(lambda _, inputs: action(*[len(inputs[0])] if pass_rows else []))
        for table in tables
        if table.num_embeddings == vocabulary  # tied weights: encoder and decoder may each have a table
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def assert_close(got: list[Any], expected: list[Any], tolerance: float) -> None:
    """Compare scores or vectors.

    Args:
        got: Numbers, or lists of numbers.
        expected: The same shape.
        tolerance: Largest absolute difference.
    """
    torch.testing.assert_close(
        torch.tensor(got, dtype=torch.float64),
        torch.tensor(expected, dtype=torch.float64),
        atol=tolerance,
        rtol=0,
    )
