"""What the machine multiplies fast: the precision of ``dtype="auto"`` and the default batch budget."""

from __future__ import annotations

import torch

from fletching.errors import bad_choice

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Names accepted for ``dtype``, beside ``"auto"`` and a ``torch.dtype``."""


def multiplies_bfloat16_fast(device_type: str) -> bool:
    """Say whether bf16 matrix products beat fp32 ones on this kind of device.

    On CPUs that is a matter of AMX tiles; AVX512-BF16 alone gains little, and a CPU without either emulates
    bf16 and is slower than fp32.

    Args:
        device_type: ``"cpu"``, ``"cuda"``, ...

    Returns:
        True where bf16 is natively multiplied and faster.
    """
    if device_type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # newer torch only
        return bool(capabilities.get("amx_bf16", False))
    return False


def resolve_dtype(owner: str, dtype: str | torch.dtype | None, device_type: str) -> torch.dtype | None:
    """Turn the ``dtype`` argument of our models into a ``torch.dtype``.

    Args:
        owner: The class named in the error.
        dtype: ``None`` keeps the checkpoint's own precision; ``"auto"`` is bf16 where
            :func:`multiplies_bfloat16_fast`, else the checkpoint's; otherwise a name of :data:`DTYPES` or a
            dtype.
        device_type: Kind of device the model will run on.

    Returns:
        The dtype to load the weights in, or ``None`` for the checkpoint's own.

    Raises:
        ArgumentError: If the name is unknown.
    """
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.bfloat16 if multiplies_bfloat16_fast(device_type) else None
    if dtype not in DTYPES:
        raise bad_choice(owner, "dtype", ("auto", *DTYPES), dtype)
    return DTYPES[dtype]


def default_token_budget(device_type: str, dtype: torch.dtype | None) -> int:
    """Padded tokens in one micro-batch.

    On a CPU small batches win: activations of about 1,000 tokens stay in the cache, those of a batch of 32
    long passages do not (``benchmarks/encode.py``). Half-precision activations are half as large, and faster
    matrix products leave more of the time to what each batch costs once. A GPU wants to be filled.

    Args:
        device_type: ``"cpu"``, ``"cuda"``, ...
        dtype: Precision of the weights.

    Returns:
        A number of tokens, padding included.
    """
    if device_type == "cpu":
        return 4096 if dtype in (torch.bfloat16, torch.float16) else 1024
    return 32_768
