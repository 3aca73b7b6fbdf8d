"""What `fletching.evaluation.evaluate` adds to the model: mvp-mini, 100 queries with 100 candidates each.

The passages are words of this repository's own documentation, the queries beginnings of some of them; what
they say does not matter here. One evaluation with all that it can do (fingerprint, memory, tokens, answers
kept in a cache folder, four measures with intervals and tests of 10,000 draws) is timed as a whole, and
within it the calls of the model: the rest is what evaluating adds. Counting tokens happens inside those
calls: it is timed on a network that does nothing, multiplied by the calls of the real one, and added to the
rest. Opening the model is no part of either. A last run finds every answer in the cache.

    python benchmarks/evaluation_overhead.py --json evaluation_overhead.json
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import time
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Any

import torch
from measuring import REPOSITORY, Report, build_parser, find_missing_minilm, run_script
from transformers import BertConfig, PreTrainedModel

import fletching
from fletching.data import Document
from fletching.evaluation import EvaluationSet, evaluate
from fletching.evaluation.costs import Meter

MODEL = "mvp-mini"
N_QUERIES, N_CANDIDATES = 100, 100
WORDS = 50  # of a passage, about as many as MS MARCO's
BOUND = 0.05


def read_passages() -> list[str]:
    """Cut the documentation into passages."""
    words = [
        word
        for path in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
        for word in re.findall("[A-Za-z]+", path.read_text(encoding="utf-8"))
    ]
    return [" ".join(words[start : start + WORDS]) for start in range(0, len(words) - WORDS, WORDS // 5)]


def build_data(n_queries: int, n_candidates: int) -> EvaluationSet:
    """Build judged queries with candidates; the passage that a query was taken from is relevant."""
    draw = random.Random(0)
    passages = {f"p{number:04}": text for number, text in enumerate(read_passages())}
    queries, qrels, candidates = {}, {}, {}
    for number, source in enumerate(draw.sample(sorted(passages), n_queries)):
        others = draw.sample(sorted(passages.keys() - {source}), n_candidates - 1)
        query = f"q{number}"
        queries[query] = " ".join(passages[source].split()[:8])
        qrels[query] = {source: 1}
        candidates[query] = {key: draw.random() for key in (source, *others)}

    def open_corpus() -> Iterator[Document]:
        return (Document(key, text) for key, text in passages.items())

    return EvaluationSet(
        "documentation", queries, qrels, open_corpus, candidates, first_stage="chance", digest="documentation"
    )


class Idle(PreTrainedModel):
    """A network that does nothing."""

    config_class = BertConfig

    def forward(self, input_ids: Any = None, attention_mask: Any = None) -> None:
        """Return at once."""


class Stopwatch:
    """Takes the place of a model's `rank`, and adds up its seconds."""

    def __init__(self, model: Any) -> None:
        self.seconds: list[float] = []
        self.network_calls = 0
        self._rank = model.rank
        for part in model.modules():
            if isinstance(part, PreTrainedModel):
                part.register_forward_pre_hook(self._count)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Rank, and look at the clock before and after."""
        start = time.perf_counter()
        ranking = self._rank(*args, **kwargs)
        self.seconds.append(time.perf_counter() - start)
        return ranking

    def _count(self, *_: Any) -> None:
        self.network_calls += 1


def time_counting() -> float:
    """Return the seconds that counting its tokens adds to one call of a network."""
    network = Idle(BertConfig())
    mask = torch.ones(16, 128, dtype=torch.long)

    def time_call() -> float:
        start = time.perf_counter()
        network(input_ids=mask, attention_mask=mask)
        return time.perf_counter() - start

    bare = statistics.median(time_call() for _ in range(1000))
    with Meter().watch([network]):
        return max(0.0, statistics.median(time_call() for _ in range(1000)) - bare)


def measure(options: argparse.Namespace, report: Report) -> None:
    """Time an evaluation, the model's share of it, and a run from the cache."""
    n_queries, n_candidates = (4, 20) if options.quick else (N_QUERIES, N_CANDIDATES)
    data = build_data(n_queries, n_candidates)
    model = fletching.load(MODEL, device="cpu")
    model.rank = stopwatch = Stopwatch(model)
    seconds = []
    with TemporaryDirectory() as cache:
        for _ in range(2):
            start = time.perf_counter()
            evaluate({MODEL: model}, data, cache=cache)
            seconds.append(time.perf_counter() - start)
    inside = sum(stopwatch.seconds)  # the second run asks nothing
    counting = time_counting() * stopwatch.network_calls
    report.seconds = {"rank": stopwatch.seconds, "evaluate": seconds}
    report.rows = [
        {
            f"{n_queries} queries x {n_candidates} candidates": name,
            "seconds": value,
            "of the model's time": None if value is inside else f"{value / inside:.2%}",
            "bound": bound,
        }
        for name, value, bound in (
            (f"{MODEL}, {len(stopwatch.seconds)} calls of rank", inside, None),
            ("everything else", seconds[0] - inside + counting, f"{BOUND:.0%}"),
            ("of that: counting tokens", counting, None),
            ("a run that finds everything in the cache", seconds[1], None),
        )
    ]
    report.notes.append(
        f"a list takes {statistics.median(stopwatch.seconds):.2f} s, the median, and "
        f"{stopwatch.network_calls / len(stopwatch.seconds):.0f} calls of the network"
    )


def main() -> None:
    """Measure and print the table."""
    parser = build_parser(__doc__, bfloat16=False)
    title = "What evaluate adds to the model"
    print(run_script(parser, measure, title=title, find_missing=find_missing_minilm))


if __name__ == "__main__":
    main()
