"""What answers cost: time, tokens, padding, memory."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn
from transformers import PreTrainedModel

from fletching.evaluation.results import Cost

__all__ = ["Meter", "Spent", "sum_costs"]

T = TypeVar("T")

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): resets the high-water mark of the resident set


@dataclass(frozen=True)
class Spent:
    """What one step took: a query, or a block of passages.

    Args:
        seconds: From text to result.
        tokens: Tokens that the networks read; ``None`` where no network could be watched.
        positions: The same with padding.
        lost_tokens: Tokens that were cut off; ``None`` where that is not known.
        peak_memory_mib: Highest memory until the end of the step, above the start; ``None`` likewise.
    """

    seconds: float
    tokens: int | None = None
    positions: int | None = None
    lost_tokens: int | None = None
    peak_memory_mib: float | None = None

    @classmethod
    def read(cls, record: Any) -> Spent:
        """Read what ``vars`` made of one.

        Args:
            record: Numbers by field.

        Returns:
            The step.

        Raises:
            ValueError: If a field is missing or no number.
        """
        values: list[Any] = [
            record.get(field.name) if isinstance(record, dict) else None for field in fields(cls)
        ]
        if values[0] is None or any(not isinstance(value, int | float | None) for value in values):
            raise ValueError("no costs")
        return cls(*values)


class Meter:
    """Watches a system while it works.

    Made before the system is opened, so that its weights count as memory it takes.
    """

    def __init__(self) -> None:
        self._counters: list[_TokenCounter] = []
        _give_back()
        self._device = "cpu"
        self._base = _reset_peak()
        self._cuda_base = 0
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()
            self._cuda_base = torch.cuda.memory_allocated()

    @contextmanager
    def watch(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """Count the tokens that reach the networks.

        Args:
            modules: Models; what is inside them is found.

        Yields:
            Nothing.
        """
        networks = {id(part): part for module in modules for part in _find_networks(module)}
        counter = _TokenCounter(networks.values())
        self._counters = [counter] if networks else []
        devices = [parameter.device.type for module in modules for parameter in module.parameters()]
        self._device = next((device for device in devices if device != "cpu"), "cpu")
        try:
            yield
        finally:
            counter.remove()

    def measure(self, call: Callable[[], T], lost_tokens: Callable[[], int | None]) -> tuple[T, Spent]:
        """Run one step.

        Args:
            call: The step.
            lost_tokens: How many tokens were cut off until now.

        Returns:
            ``(result, spent)``.
        """
        lost_before = lost_tokens()
        before = [counter.read() for counter in self._counters]
        start = time.perf_counter()
        result = call()
        seconds = time.perf_counter() - start
        after = [counter.read() for counter in self._counters]
        lost = lost_tokens()
        return result, Spent(
            seconds,
            after[0][0] - before[0][0] if after else None,
            after[0][1] - before[0][1] if after else None,
            None if lost is None or lost_before is None else lost - lost_before,
            self._read_peak(),
        )

    def exclude(self, call: Callable[[], T]) -> T:
        """Do something whose memory is not the system's.

        Args:
            call: What to do.

        Returns:
            What it returns.
        """
        before = _read_status("VmRSS")
        result = call()
        after = _read_status("VmRSS")
        if self._base is not None and before is not None and after is not None:
            self._base += max(after - before, 0)
        return result

    def _read_peak(self) -> float | None:
        if self._device == "cuda":
            return (torch.cuda.max_memory_allocated() - self._cuda_base) / 2**20
        peak = _read_status("VmHWM")
        if self._device != "cpu" or self._base is None or peak is None:
            return None
        return max(peak - self._base, 0) / 1024


def sum_costs(
    prepared: Iterable[Spent], queries: Mapping[str, Spent], *, bytes_per_vector: float | None
) -> Cost:
    """Add up the steps of one system.

    Args:
        prepared: What was done once for all queries.
        queries: Query id -> what its answer took.
        bytes_per_vector: As in `Cost`.

    Returns:
        What it cost in all.
    """
    once = list(prepared)
    steps = [*once, *queries.values()]
    tokens, positions = _add(step.tokens for step in steps), _add(step.positions for step in steps)
    peaks = [step.peak_memory_mib for step in steps if step.peak_memory_mib is not None]
    return Cost(
        latency_ms={query: 1000 * step.seconds for query, step in queries.items()},
        prepare_seconds=sum(step.seconds for step in once),
        tokens=tokens if positions else None,
        padding=1 - tokens / positions if tokens is not None and positions else None,
        peak_memory_mib=max(peaks, default=None),
        bytes_per_vector=bytes_per_vector,
        lost_tokens=_add(step.lost_tokens for step in queries.values()),
    )


class _TokenCounter:
    """Counts the tokens that networks are called with; a network that another one calls counts once.

    sentence-transformers' module around a network is watched too: it calls the network's ``forward`` itself,
    past all hooks. Totals stay where the masks are, so that an accelerator need not stop for each batch.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        self._totals: dict[torch.device, Tensor] = {}
        self._positions = 0
        self._depth = threading.local()
        self._handles = [
            handle
            for network in networks
            for handle in (
                network.register_forward_pre_hook(self._enter, with_kwargs=True),
                network.register_forward_hook(self._leave, always_call=True),
            )
        ]

    def read(self) -> tuple[int, int]:
        """Return tokens, and tokens with padding."""
        return sum(int(total) for total in self._totals.values()), self._positions

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, network: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        depth = getattr(self._depth, "value", 0)
        self._depth.value = depth + 1
        if depth:
            return
        first = arguments[0] if arguments else None
        inputs = first if isinstance(first, Mapping) else {"input_ids": first, **options}
        mask = inputs.get("attention_mask")
        if not (isinstance(mask, Tensor) and mask.ndim == 2):
            mask = inputs.get("input_ids")
            if not isinstance(mask, Tensor) or mask.ndim != 2:
                return  # states, not tokens: a decoder that reads what an encoder wrote
            mask = torch.ones_like(mask)  # without a mask nothing is padding
        total = mask.count_nonzero()
        self._totals[mask.device] = (
            self._totals[mask.device] + total if mask.device in self._totals else total
        )
        self._positions += mask.numel()

    def _leave(self, *_: Any) -> None:
        self._depth.value -= 1


def _find_networks(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, (PreTrainedModel, Transformer))]


def _add(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _read_status(field: str) -> int | None:
    """Read a line of the process's status, in KiB; ``None`` where there is none."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)


def _reset_peak() -> int | None:
    """Forget the highest memory so far; return what is taken now, in KiB, or ``None`` where that fails."""
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return None
    return _read_status("VmRSS")


def _give_back() -> None:
    """Give freed memory back to the system, which else counts as taken and is then reused unseen."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # the GNU library has it
        if trim is not None:
            trim(0)
