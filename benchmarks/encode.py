"""`encode` of the NFCorpus abstracts with all-MiniLM-L6-v2: fletching against sentence-transformers.

The peer is `SentenceTransformer.encode` with its defaults (batches of 32 texts, sorted by characters). Ours
is `fletching.Embedder.encode` with its defaults, in fp32 and with `dtype="auto"` (bf16 where there is AMX).
A turn encodes all 3,395 abstracts, from text to vectors, tokenization included. The texts are real ones with
all their properties: a few are equal, and ours computes those once.

"padding" is the share of padding among the tokens that went through the network, counted on the way. The last
row is a bound, not a contender: a bare loop of fp32 matrix products with as many floating-point operations as
ours needs (attention included). No batching in fp32 gets beyond it on this machine.

    python benchmarks/encode.py --json encode.json
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from measuring import (
    NO_AMX,
    PRODUCTS,
    Report,
    build_parser,
    build_products,
    compare_seconds,
    count_operations,
    read_nfcorpus,
    run_script,
    time_turns,
)
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from fletching import Embedder
from fletching.models.hardware import multiplies_bfloat16_fast
from fletching.models.minilm import find_minilm

STOCK, FP32, BF16 = "sentence-transformers, fp32", "fletching, fp32", "fletching, bf16"


class PaddingCounter:
    """Counts the tokens that reach a model's first module.

    Args:
        model: The model to watch.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        self.real = 0
        self.all = 0
        model[0].register_forward_pre_hook(self._count)

    def _count(self, module: Any, arguments: tuple[Any, ...]) -> None:
        mask = arguments[0]["attention_mask"]
        self.real += int(mask.sum())
        self.all += mask.numel()

    def share(self) -> float:
        """Return padding / all tokens, in [0, 1)."""
        return 1 - self.real / self.all


def measure(options: argparse.Namespace, report: Report) -> None:
    """Time stock and ours over the whole corpus."""
    texts = read_nfcorpus(options.data)
    if options.quick:
        texts = texts[:64]
    repetitions = options.repetitions or (1 if options.quick else 3)
    models: dict[str, SentenceTransformer] = {
        STOCK: SentenceTransformer(find_minilm(), device="cpu"),
        FP32: Embedder(find_minilm(), device="cpu"),
    }
    if multiplies_bfloat16_fast("cpu"):
        models[BF16] = Embedder(find_minilm(), dtype="auto", device="cpu")
    elif options.force_bf16:
        models[BF16] = Embedder(find_minilm(), dtype="bfloat16", device="cpu")
    else:
        report.skipped.append(f"{BF16}: {NO_AMX}")
    for model in models.values():
        model.encode(texts[:32], show_progress_bar=False)
    sample = texts[::10]
    operations = count_operations(lambda: models[FP32].encode(sample, show_progress_bar=False))
    counters = {name: PaddingCounter(model) for name, model in models.items()}
    contenders: dict[str, Callable[[], Any]] = {
        name: lambda model=model: model.encode(texts, show_progress_bar=False)
        for name, model in models.items()
    }
    operations = operations * len(texts) // len(sample)
    contenders[PRODUCTS] = build_products(operations, width=models[FP32].get_embedding_dimension())
    report.seconds, vectors = time_turns(contenders, repetitions=repetitions)
    stock: NDArray[np.float32] = vectors[STOCK]
    for name in models:
        cosines = (vectors[name] * stock).sum(axis=1) / np.linalg.norm(vectors[name], axis=1)
        cosines /= np.linalg.norm(stock, axis=1)
        report.rows.append(
            {
                "encode": name,
                "documents/s": len(texts) / statistics.median(report.seconds[name]),
                "times faster": compare_seconds(report.seconds, name, STOCK),
                "padding": f"{counters[name].share():.1%}",
                "largest difference": None if name == STOCK else float(np.abs(vectors[name] - stock).max()),
                "least cosine": None if name == STOCK else f"{cosines.min():.6f}",
                "bar": {FP32: "2x, 1e-5", BF16: "6x (AMX), cosine 0.999"}.get(name),
            }
        )
    report.rows.append(
        {
            **dict.fromkeys(report.rows[0]),
            "encode": PRODUCTS,
            "documents/s": len(texts) / statistics.median(report.seconds[PRODUCTS]),
            "times faster": compare_seconds(report.seconds, PRODUCTS, STOCK),
        }
    )
    tokens = counters[STOCK].real / len(texts) / repetitions
    report.notes.append(
        f"{len(texts)} abstracts, {len(set(texts))} of them distinct, {tokens:.0f} tokens on average after "
        f"truncation to {models[STOCK].max_seq_length}; {repetitions} turn(s) each"
    )


def main() -> None:
    """Measure and print the table."""
    parser = build_parser(__doc__, bfloat16=True)
    print(run_script(parser, measure, title="encode of NFCorpus abstracts, all-MiniLM-L6-v2, CPU"))


if __name__ == "__main__":
    main()
