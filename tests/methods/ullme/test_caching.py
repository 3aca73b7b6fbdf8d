"""Gradient caching beyond equality, which `test_spec.py` has: memory, replay, and what it leaves alone."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from fletching.methods.ullme.caching import (
    CachedColumnsMixin,
    ReplayContext,
    attach_gradient,
    without_dropout,
)


class SquareLoss(CachedColumnsMixin, nn.Module):
    """The squared sum of everything; notes the rows of each run and the graphs that are alive."""

    def __init__(self, model: nn.Module, mini_batch_size: int | None) -> None:
        super().__init__()
        self.model, self.mini_batch_size = model, mini_batch_size
        self.sizes: list[tuple[int, bool]] = []
        self.graphs: list[weakref.ref[Tensor]] = []
        self.most = 0
        self.entered: list[str] = []

    def run_column(self, features: dict[str, Any]) -> Tensor:
        values: Tensor = self.model(features["input_ids"].double())
        self.sizes.append((len(values), values.requires_grad))
        if values.requires_grad:
            self.graphs.append(weakref.ref(values))
            self.most = max(self.most, sum(graph() is not None for graph in self.graphs))
        return values

    def calculate_loss(self, reps: Any, labels: Any = None, *, with_backward: bool = False) -> Tensor:
        loss = torch.cat([value for column in reps for value in column]).sum().square()
        if with_backward:
            loss.backward()
        return loss.detach() if with_backward else loss

    def forward(self, *columns: Tensor) -> Tensor:
        return self.compute_columns([{"input_ids": column} for column in columns])


def build(size: int | None) -> SquareLoss:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SquareLoss(nn.Linear(3, 2, dtype=torch.float64), size)


COLUMNS = torch.arange(15).view(5, 3), torch.arange(12).view(4, 3)


def test_every_mini_batch_runs_twice_the_second_time_with_a_graph():
    loss = build(2)
    loss(*COLUMNS).backward()
    runs = [2, 2, 1, 2, 2]
    assert loss.sizes == [(size, False) for size in runs] + [(size, True) for size in runs]


def test_one_graph_is_alive_at_a_time():
    """The next one is built while the variable still holds the last: two at most, of five."""
    loss = build(2)
    loss(*COLUMNS).backward()
    assert loss.most <= 2
    assert len(loss.graphs) == 5


def test_without_mini_batches_a_column_runs_once():
    loss = build(None)
    loss(*COLUMNS).backward()
    assert loss.sizes == [(5, True), (4, True)]


def test_a_second_batch_before_the_backward_pass_does_no_harm():
    """As with gradient accumulation over several losses: each keeps its own cache."""
    together, apart = build(2), build(2)
    first, second = together(*COLUMNS), together(COLUMNS[1])
    (first + second).backward()
    apart(*COLUMNS).backward()
    apart(COLUMNS[1]).backward()
    assert torch.allclose(together.model.weight.grad, apart.model.weight.grad)


def test_evaluation_runs_once_without_a_graph():
    loss = build(2)
    with torch.no_grad():
        value = loss(*COLUMNS)
    assert not value.requires_grad
    assert loss.sizes == [(size, False) for size in (2, 2, 1, 2, 2)]


def test_the_replay_restores_randomness_and_precision():
    tensor = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = ReplayContext(tensor)
        drawn, product = torch.rand(3), tensor @ tensor
    following = torch.rand(3)
    with state:
        assert torch.equal(torch.rand(3), drawn)
        assert (tensor @ tensor).dtype == product.dtype == torch.bfloat16
    assert (tensor @ tensor).dtype == torch.float32
    torch.set_rng_state(state.fwd_cpu_state)
    torch.rand(3)
    assert torch.equal(torch.rand(3), following)


def test_an_attached_value_is_exact_even_where_the_total_is_infinite():
    total = torch.tensor(float("inf"), requires_grad=True)
    part = attach_gradient(torch.tensor(0.1), total)
    part.backward()
    assert part.item() == torch.tensor(0.1).item()
    assert total.grad is not None
    assert total.grad.item() == 1


def test_without_dropout_leaves_each_part_as_it_was():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    model[1].eval()
    with without_dropout(model):
        assert not model[0].training
    assert (model.training, model[0].training, model[1].training, model[1][0].training) == (
        True,
        True,
        False,
        False,
    )
