"""What transformers finds missing or surplus in a checkpoint: it logs that and goes on; fletching listens."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, modeling_utils
from transformers.integrations import peft

__all__ = ["expect_heads", "listen"]

_SPEAKERS: tuple[Any, ...] = (modeling_utils, peft)  # each calls the function by a name of its own
_LOCK = threading.RLock()


@contextmanager
def listen(hear: Callable[..., bool]) -> Iterator[None]:
    """Hand the reports of this thread to a listener, one loading thread at a time.

    Args:
        hear: Called with the arguments of ``log_state_dict_report``; says whether the report is dealt with.
            Others, and those of other threads, go where they would have gone.

    Yields:
        Nothing.
    """
    owner = threading.get_ident()

    def route(original: Callable[..., None]) -> Callable[..., None]:
        def report(*args: Any, **kwargs: Any) -> None:
            if threading.get_ident() != owner or not hear(*args, **kwargs):
                original(*args, **kwargs)

        return report

    with _LOCK:
        originals = [speaker.log_state_dict_report for speaker in _SPEAKERS]
        for speaker, original in zip(_SPEAKERS, originals, strict=True):
            speaker.log_state_dict_report = route(original)
        try:
            yield
        finally:
            for speaker, original in zip(_SPEAKERS, originals, strict=True):
                speaker.log_state_dict_report = original


@contextmanager
def expect_heads() -> Iterator[None]:
    """Keep quiet about the head of a checkpoint that is opened without it; nothing else is silenced.

    Yields:
        Nothing.
    """

    def hear(*args: Any, **kwargs: Any) -> bool:
        report = kwargs["loading_info"]
        faults = (report.missing_keys, report.mismatched_keys, report.error_msgs, report.conversion_errors)
        if any(faults) or not report.unexpected_keys:
            return False
        return set(report.unexpected_keys) <= _name_weights(kwargs["model"].config)

    with listen(hear):
        yield


def _name_weights(config: Any) -> set[str]:
    """Name the weights of the architecture that a checkpoint was saved from, heads included."""
    names: set[str] = set()
    for name in config.architectures or ():
        architecture: Any = getattr(transformers, name, None)
        if isinstance(architecture, type) and issubclass(architecture, PreTrainedModel):
            with torch.device("meta"):
                names.update(architecture(copy.deepcopy(config)).state_dict())
    return names
