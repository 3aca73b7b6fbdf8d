"""What the authors trained with, and where each value comes from."""

from __future__ import annotations

from typing import Any

__all__ = ["DEFSENT_RATES", "MODES", "PRESETS"]

MODES = ("defsent_plus", "defsent")
"""What ``mode`` of the recipe may be."""

_BERT, _ROBERTA = "google-bert/bert-{}-uncased", "FacebookAI/roberta-{}"
DEFSENT_RATES = {  # DefSent, paper and scripts
    "bert-base": {"cls": 2**2.5, "mean": 2**3.5, "max": 2**3.5},
    "bert-large": {"cls": 2**2.5, "mean": 2**3.5, "max": 2**3},
    "roberta-base": {"cls": 2**2.5, "mean": 2**3, "max": 2**2},
    "roberta-large": {"cls": 2**2, "mean": 2**2, "max": 2**2.5},
}
"""DefSent's learning rates in millionths, by encoder and pooling."""

PRESETS: dict[str, dict[str, Any]] = {
    "syncse-roberta-base": {  # reference code, README: one stage
        "mode": "defsent_plus",
        "base": "sjtu-lit/SynCSE-partial-RoBERTa-base",
        "backbone": _ROBERTA.format("base"),
        "entry": "ac",
        "pooling": "mean",
        "learning_rates": (1e-6,),
        "ica_stages": (),
        "batch_size": 32,
    },
    "syncse-roberta-large": {  # reference code, README: two stages
        "mode": "defsent_plus",
        "base": "sjtu-lit/SynCSE-partial-RoBERTa-large",
        "backbone": _ROBERTA.format("large"),
        "entry": "ac",
        "pooling": "cls",
        "learning_rates": (2e-5, 5e-6),
        "ica_stages": (),
        "batch_size": 32,
    },
    **{
        f"bert-{size}": {
            "mode": "defsent_plus",
            "base": _BERT.format(size),
            "backbone": None,
            "entry": "ac",  # ours: the README says how many stages and where ICA stands, no more
            "pooling": "cls",  # ours
            "learning_rates": (2e-5, 2e-5, 2e-5),  # three stages: README; the rates are ours
            "ica_stages": (3,),  # reference code, README
            "batch_size": 32,
        }
        for size in ("base", "large")
    },
    **{
        f"defsent-{name}": {
            "mode": "defsent",
            "base": (_BERT if name.startswith("bert") else _ROBERTA).format(name.split("-")[1]),
            "backbone": None,
            "entry": "ac",
            "pooling": best,
            "learning_rates": (),  # by pooling
            "ica_stages": (),
            "batch_size": 16,  # DefSent, paper
        }
        for name, best in (
            ("bert-base", "mean"),
            ("bert-large", "mean"),
            ("roberta-base", "cls"),
            ("roberta-large", "max"),
        )
    },
}
"""What the authors trained, as far as it is known; the pooling of DefSent's is the best of their three."""
