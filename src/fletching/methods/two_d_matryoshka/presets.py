"""Published settings by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["BASE_LOSSES", "PRECISIONS", "PRESETS"]

BASE_LOSSES = ("angle", "cosent", "mnrl")
"""What ``base_loss`` may be: AnglE's sum, or the stock losses for scored pairs and for in-batch negatives."""

PRECISIONS = ("fp32", "fp16", "bf16")
"""What ``precision`` may be; the last two are autocast on a GPU."""

_BERT: Mapping[str, Any] = {
    "base": "google-bert/bert-base-uncased",
    "batch_size": 128,
    "epochs": 10.0,
    "warmup_steps": 50,
    "seed": 42,
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "2dmse": {},
    "ese": {  # AnglE, README_ESE
        "objective": "ese",
        "dims": (128,),
        "ibn_weight": 10.0,
        "cln_weight": 1.0,  # the code's default, which the command leaves
        "cosine_weight": 0.0,
        "learning_rate": 1e-6,
        "max_seq_length": 75,
        "batch_size": 128,  # on each of 4 GPUs
        "accumulation_steps": 4,
        "warmup_steps": 200,
    },
    "angle_nli": {  # AnglE, examples/NLI
        **_BERT,
        "ibn_weight": 30.0,
        "cln_weight": 1.0,
        "cosine_weight": 0.0,
        "learning_rate": 5e-5,
        "max_seq_length": 128,
        "accumulation_steps": 16,
    },
    "ielab_2dmse": {  # ielab/2DMSE-Reproduce, "V1"; its loss was the one of sentence-transformers
        **_BERT,
        "base_loss": "mnrl",
        "accumulation_steps": 128,
    },
    "ielab_ese": {  # ielab/2DMSE-Reproduce, "V2"
        **_BERT,
        "objective": "ese",
        "dims": (128,),
        "ibn_weight": 30.0,
        "cln_weight": 1.0,
        "cosine_weight": 0.0,
        "learning_rate": 5e-5,
        "max_seq_length": 128,
        "accumulation_steps": 128,
    },
}
"""Preset -> the fields in which it differs from the defaults, those of the published 2DMSE command."""
