"""Which precision `dtype="auto"` picks, on machines that are not here."""

from __future__ import annotations

import pytest
import torch

from fletching.errors import ArgumentError
from fletching.models.hardware import DTYPES, default_token_budget, multiplies_bfloat16_fast, resolve_dtype


@pytest.fixture
def cpu(monkeypatch):
    """Say what the CPU can do."""
    return lambda **capabilities: monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: capabilities, raising=False
    )


def test_auto_is_bfloat16_on_a_cpu_with_tiles(cpu):
    cpu(amx_bf16=True, avx512_bf16=True)
    assert resolve_dtype("Owner", "auto", "cpu") == torch.bfloat16


@pytest.mark.parametrize("capabilities", [{}, {"avx512_bf16": True}, {"amx_bf16": False}], ids=str)
def test_auto_keeps_the_checkpoint_s_precision_elsewhere(cpu, capabilities):
    cpu(**capabilities)
    assert resolve_dtype("Owner", "auto", "cpu") is None


def test_auto_takes_an_older_torch_for_a_slow_cpu(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not multiplies_bfloat16_fast("cpu")


@pytest.mark.parametrize("supported", [True, False])
def test_auto_asks_the_gpu(monkeypatch, supported):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert multiplies_bfloat16_fast("cuda") is supported


def test_auto_does_not_guess_about_other_devices():
    assert resolve_dtype("Owner", "auto", "mps") is None


@pytest.mark.parametrize(("name", "dtype"), DTYPES.items())
def test_a_name_stands_for_its_dtype(name, dtype):
    assert resolve_dtype("Owner", name, "cpu") is dtype


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_dtype_or_none_is_taken_as_it_is(dtype):
    assert resolve_dtype("Owner", dtype, "cpu") is dtype


def test_an_unknown_name_is_refused():
    with pytest.raises(
        ArgumentError, match=r"`dtype` must be one of 'auto', .*; got 'bfloat32'\. Did you mean"
    ):
        resolve_dtype("Owner", "bfloat32", "cpu")


def test_half_precision_gets_larger_batches():
    assert default_token_budget("cpu", torch.bfloat16) == 4 * default_token_budget("cpu", torch.float32)
