"""Elastic `encode` with all-MiniLM-L6-v2: how much of the full model's time n of its 6 layers take.

A turn encodes NFCorpus abstracts from text to vectors, tokenization included, with `ElasticEmbedder.encode`
at each depth, and once more one text per call, as a query comes. The share of time is the median over the
turns of (seconds at n layers) / (seconds at all layers) in the same turn; the bar is n / 6 + 0.08.

"difference" is the largest one between the vectors and those of the model that `truncate_model` saves, opened
with sentence-transformers. "parameters copied" counts the weights of a layer view that are not the model's
own.

    python benchmarks/elastic.py --threads 1 --json elastic.json
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from measuring import Report, build_parser, read_nfcorpus, run_script, time_turns
from sentence_transformers import SentenceTransformer

from fletching.methods.two_d_matryoshka import ElasticEmbedder, truncate_model
from fletching.models.minilm import find_minilm
from fletching.nn import layer_view

ALLOWANCE = 0.08  # beyond n / N: the tokenizer, the embeddings, the pooling
DIM = 128
N_TEXTS, N_SINGLE, N_CHECKED = 64, 16, 64


def measure(options: argparse.Namespace, report: Report) -> None:
    """Time all depths, and compare vectors with those of the saved models."""
    texts = read_nfcorpus(options.data)
    step = max(1, len(texts) // (16 if options.quick else N_TEXTS))
    texts = texts[::step]
    repetitions = options.repetitions or (1 if options.quick else 9)
    model = ElasticEmbedder(find_minilm(), device="cpu")
    count = model.num_layers
    depths = range(1, count + 1)
    single = texts[: 4 if options.quick else N_SINGLE]

    def encode(depth: int) -> Any:
        return model.encode(texts, num_layers=depth, truncate_dim=DIM, show_progress_bar=False)

    def encode_each(depth: int) -> None:
        for text in single:
            model.encode([text], num_layers=depth, truncate_dim=DIM, show_progress_bar=False)

    contenders: dict[str, Callable[[], Any]] = {
        **{f"{depth}": lambda depth=depth: encode(depth) for depth in depths},
        **{f"{depth}, one by one": lambda depth=depth: encode_each(depth) for depth in depths},
    }
    encode(count)
    encode_each(count)
    report.seconds, vectors = time_turns(contenders, repetitions=repetitions)
    for depth in depths:
        report.rows.append(
            {
                "layers": f"{depth} of {count}",
                "documents/s": len(texts) / statistics.median(report.seconds[f"{depth}"]),
                "share of time": compute_share(report.seconds, f"{depth}", f"{count}"),
                "one by one": compute_share(report.seconds, f"{depth}, one by one", f"{count}, one by one"),
                "bar": f"{depth / count + ALLOWANCE:.3f}",
                "difference": compare_with_saved(model, depth, texts[:N_CHECKED], vectors[f"{depth}"]),
                "parameters copied": count_copied(model, depth),
            }
        )
    tokens = int(model.preprocess(texts)["attention_mask"].sum()) / len(texts)
    report.notes.append(
        f"{len(texts)} abstracts of {tokens:.0f} tokens on average, {len(single)} of them one by one; cut to "
        f"{DIM} dimensions; {repetitions} turn(s) each"
    )


def compute_share(seconds: dict[str, list[float]], name: str, whole: str) -> float:
    """Return the median over the turns of the time of one contender in that of another."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[whole], strict=True))


def compare_with_saved(model: ElasticEmbedder, depth: int, texts: list[str], vectors: Any) -> float:
    """Return the largest difference from the vectors of the saved smaller model."""
    with tempfile.TemporaryDirectory() as folder:
        truncate_model(model, depth, DIM, output_path=folder)
        stock = SentenceTransformer(folder, device="cpu")
    expected = stock.encode(texts, show_progress_bar=False)
    return float(np.abs(vectors[: len(texts)] - expected).max())


def count_copied(model: ElasticEmbedder, depth: int) -> int:
    """Count the parameters of a layer view that do not lie where the model's do."""
    places = {parameter.data_ptr() for parameter in model.parameters()}
    view = layer_view(model[0].model, depth)
    return sum(parameter.data_ptr() not in places for parameter in view.parameters())


def main() -> None:
    """Measure and print the table."""
    parser = build_parser(__doc__, bfloat16=False)
    print(run_script(parser, measure, title="elastic encode of NFCorpus abstracts, all-MiniLM-L6-v2, CPU"))


if __name__ == "__main__":
    main()
