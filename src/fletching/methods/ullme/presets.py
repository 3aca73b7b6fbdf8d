"""What objectives make of the loss, and published settings by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["OBJECTIVES", "PRECISIONS", "PRESETS"]

OBJECTIVES: Mapping[str, Mapping[str, Any]] = {
    "grl": {},
    "contrastive": {"kl_weight": 0.0, "gen_weight": 0.0, "two_adapters": False},
    "simcse": {"kl_weight": 0.0, "gen_weight": 0.0, "two_adapters": False, "n_positives": 1},
    "sft": {"contrastive_weight": 0.0, "kl_weight": 0.0, "gen_loss": "sft", "gen_weight": 1.0}
    | {"two_adapters": False},
    "preference": {"contrastive_weight": 0.0, "kl_weight": 0.0, "gen_weight": 1.0, "two_adapters": False},
}
"""Objective -> what it makes of the settings of the loss; ``"grl"`` takes them as they are."""

PRECISIONS = ("bf16", "bf16-mixed", "fp32")
"""What ``precision`` may be: weights in bfloat16, autocast to it, or neither."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "genc": {},
    "genc_phi": {"base": "microsoft/phi-1_5", "learning_rate": 1e-4, "mini_batch_size": 8},
    "ullme": {  # nlp-uoregon/ullme, current tree, phi.yaml
        "base": "microsoft/phi-1_5",
        "template": "ullme",
        "exclude_prompt": False,
        "projection": True,
        "batch_size": 16,
        "max_steps": 50_000,
        "epochs": 3.0,
        "learning_rate": 1e-4,
        "scheduler": "cosine_with_min_lr",  # over the run; theirs begins anew with each epoch
        "min_learning_rate": 1e-7,
        "warmup_ratio": 0.01,  # 5 %, but at most 500 of the 50,000 steps
        "max_grad_norm": 1.0,
        "contrastive_loss": "ntxent",
        "similarity": "euclidean",
        "temperature": 0.05,
        "miner_epsilon": 0.25,
        "kl_temperature": 0.05,
        "gen_weight": 1.0,
        "reference": "none",
        "two_adapters": False,
        "mini_batch_size": 1,
        "precision": "bf16-mixed",
        "seed": 999,
    },
}
"""Preset -> the fields in which it differs from the defaults, which are those of the released checkpoints."""
