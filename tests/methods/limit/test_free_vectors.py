"""The free-embedding experiment at the sizes of Table 6, and what surrounds the optimisation."""

from __future__ import annotations

from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

import pytest
import torch

from fletching.errors import ArgumentError, DataError
from fletching.methods.limit import free_vectors
from fletching.methods.limit.bounds import CRITICAL_N
from fletching.methods.limit.config import FreeEmbeddingConfig
from fletching.methods.limit.data import LimitDataset
from fletching.methods.limit.free_vectors import find_critical_n, free_embeddings

SHORT = FreeEmbeddingConfig(max_iterations=120)


def test_item_9_critical_size_is_solved_and_documents_stay_unit_vectors() -> None:
    """d = 8, n = 28: solved within about 2000 steps."""
    result = free_embeddings(28, 8)
    assert result.accuracy == 1.0
    assert result.iterations <= 2500
    assert len(result.margins) == comb(28, 2)
    assert (result.margins > 0).all()
    for vectors in (result.query_embeddings, result.document_embeddings):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))


def test_item_9_accuracy_one_means_every_program_is_feasible() -> None:
    result = free_embeddings(10, 5)
    assert result.accuracy == 1.0
    assert free_vectors.certify_subsets(
        result.document_embeddings, [[i, j] for i in range(10) for j in range(i)]
    ).all()


@pytest.mark.slow
def test_item_9_one_document_more_is_not_solved() -> None:
    assert free_embeddings(29, 8).accuracy < 1.0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("dim", [6, 7, 8])
def test_critical_n_is_within_one_of_table_6(dim: int) -> None:
    """Up to the first failure; at d = 8 this seed solves n = 31 as well, though neither 29 nor 30."""
    found = find_critical_n(dim)
    assert abs(found.unbroken - CRITICAL_N[dim]) <= 1
    assert found.n >= found.unbroken


@pytest.mark.slow
def test_critical_n_is_no_capacity() -> None:
    """Pitfall 2: at d = 4, n = 10 the run stops short, yet its own documents admit all 45 pairs."""
    result = free_embeddings(10, 4, certify=True)
    assert result.accuracy < 1.0
    assert result.certified is not None
    assert result.certified.all()


def test_paper_form_of_the_loss_stalls_where_the_code_solves() -> None:
    """Pitfall 1: one relevant document satisfies it."""
    config = FreeEmbeddingConfig(max_iterations=1500)
    assert free_embeddings(10, 5, config=config).accuracy == 1.0
    assert free_embeddings(10, 5, config=replace(config, loss="any")).accuracy < 0.9


def test_same_seed_gives_the_same_vectors_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    first, again = (free_embeddings(12, 4, config=SHORT) for _ in range(2))
    assert torch.get_rng_state().equal(state)
    assert first.document_embeddings.equal(again.document_embeddings)
    other = free_embeddings(12, 4, config=replace(SHORT, seed=1))
    assert not first.document_embeddings.equal(other.document_embeddings)


@pytest.mark.parametrize("loss", ["each", "any"])
def test_chunks_change_nothing(loss: str) -> None:
    """Section 2.3: the loss is a sum over queries, so gradients accumulate exactly (up to rounding)."""
    config = replace(SHORT, loss=loss, max_iterations=20)
    whole = free_embeddings(12, 4, config=config)
    parts = free_embeddings(12, 4, config=replace(config, queries_per_chunk=7))
    torch.testing.assert_close(whole.document_embeddings, parts.document_embeddings, rtol=0, atol=1e-4)


@pytest.mark.parametrize("loss", ["each", "any"])
def test_chunked_loss_of_uneven_queries_is_the_whole_loss(loss: str) -> None:
    config = replace(SHORT, loss=loss, queries_per_chunk=2)
    run = free_vectors._Run([(0,), (0, 1, 2), (3,), (1, 4), (2,)], 5, 3, config, torch.device("cpu"))
    logits = run.queries @ run.documents.T / config.temperature
    whole = free_vectors.compute_contrastive_loss(logits, run.relevance, form=loss)
    (expected,) = torch.autograd.grad(whole, [run.documents])
    assert run._accumulate_gradients() == pytest.approx(float(whole.detach()), rel=1e-5)
    torch.testing.assert_close(run.documents.grad, expected)


def test_own_relevance_of_any_size() -> None:
    result = free_embeddings([[0, 3], [1], [2, 0, 1]], 4, n_documents=6, certify=True)
    assert result.accuracy == 1.0
    assert result.document_embeddings.shape == (6, 4)
    assert result.certified is not None
    assert result.certified.tolist() == [True] * 3


def test_relevance_of_a_data_set_goes_in_as_it_is() -> None:
    dataset = LimitDataset.generate("cycle", n_queries=6, n_docs=6, items_per_doc=3)
    assert free_embeddings(dataset.relevant_indices(), 3).accuracy == 1.0


def test_accuracy_counts_documents_not_sets() -> None:
    """Two documents cannot be told apart in one dimension when three queries want different pairs."""
    result = free_embeddings([[0, 1], [1, 2], [0, 2]], 1, config=SHORT)
    assert 0.5 <= result.accuracy < 1.0
    assert round(result.accuracy * 6) == pytest.approx(result.accuracy * 6)


def test_interrupted_run_ends_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_vectors, "_ITERATIONS_PER_SAVE", 40)
    path, config = tmp_path / "runs" / "state.pt", replace(SHORT, max_iterations=150)
    whole = free_embeddings(12, 4, config=config)
    step, steps = free_vectors._Run.step, 0

    def fail_at_100(self: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 100:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(free_vectors._Run, "step", fail_at_100)
        with pytest.raises(KeyboardInterrupt):
            free_embeddings(12, 4, config=config, checkpoint=path)
    resumed = free_embeddings(12, 4, config=config, checkpoint=path)
    assert resumed.iterations == whole.iterations == 150
    assert resumed.document_embeddings.equal(whole.document_embeddings)
    assert resumed.query_embeddings.equal(whole.query_embeddings)
    assert [file.name for file in path.parent.iterdir()] == ["state.pt"]


def test_checkpoint_of_another_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_vectors, "_ITERATIONS_PER_SAVE", 40)
    path = tmp_path / "state.pt"
    free_embeddings(12, 4, config=SHORT, checkpoint=path)
    with pytest.raises(DataError, match="belongs to a run with other documents"):
        free_embeddings(12, 5, config=SHORT, checkpoint=path)
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="not a checkpoint of free_embeddings"):
        free_embeddings(12, 4, config=SHORT, checkpoint=path)


@pytest.mark.parametrize(("limit", "start"), [(17, 3), (17, 16), (17, 17), (17, 40), (2, 3), (3, 30)])
def test_search_finds_the_border_from_either_side(
    monkeypatch: pytest.MonkeyPatch, limit: int, start: int
) -> None:
    def solve(n: int, dim: int, **kwargs: Any) -> Any:
        return free_vectors.FreeEmbeddings(float(n <= limit), 1, *[torch.zeros(1)] * 3)

    monkeypatch.setattr(free_vectors, "free_embeddings", solve)
    found = find_critical_n(6, start=start)
    assert found.n == found.unbroken == limit
    assert list(found.accuracies) == sorted(found.accuracies)
    assert set(range(max(2, limit - 4), limit + 6)) <= found.accuracies.keys()


def test_sweep_forgives_a_size_that_fails_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    def solve(n: int, dim: int, **kwargs: Any) -> Any:
        return free_vectors.FreeEmbeddings(float(n <= 20 and n != 18), 1, *[torch.zeros(1)] * 3)

    monkeypatch.setattr(free_vectors, "free_embeddings", solve)
    assert find_critical_n(6, start=17, sweep=False).n == 17
    swept = find_critical_n(6, start=17)
    assert (swept.n, swept.unbroken) == (20, 17)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: free_embeddings(5, 0), "free_embeddings: `dim`"),
        (lambda: free_embeddings(5, 2, k=6), "free_embeddings: `k` must be an integer from 1"),
        (lambda: free_embeddings([], 2), "free_embeddings: `target`"),
        (lambda: free_embeddings([[0], []], 2), "free_embeddings: `target`"),
        (lambda: free_embeddings([[0, 9]], 2, n_documents=5), "`target` must be indices from 0 to 4"),
        (lambda: find_critical_n(0), "find_critical_n: `dim`"),
    ],
)
def test_values_outside_their_domain_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()
