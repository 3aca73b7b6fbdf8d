"""Compare rerankers with BM25's order and with the cosine of all-MiniLM-L6-v2 on mvp-mini's final test sets.

Sets: TREC DL 2019 (BM25's and SPLADE++'s first hundred), NovelEval (20 candidates), WikiQA test, covidqa (the
first 50 of BM25 over its corpus) and the validation part of MEDIQA 2019 (gain = grade - 1). nDCG@10 is
trec_eval's (linear gain, judgements outside the candidates count for the ideal). Equal scores are ordered by
candidate id. The paired bootstrap draws queries of `POOLED` together.

    python benchmarks/mvp_mini/evaluate.py --data ../shared/data --reranker mvp-mini --json result.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import bm25s
import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import fletching
from fletching.data import open_beir, read_lists, read_run, read_table
from fletching.methods.mvp import MVPReranker
from fletching.methods.mvp.bi_encoder import BiEncoderMVPModule
from fletching.metrics import RunEvaluation, bootstrap_interval, break_ties, evaluate_run, paired_bootstrap
from fletching.models.minilm import find_minilm

REPOSITORY = Path(__file__).resolve().parents[2]
POOLED = ("dl19", "noveleval", "wikiqa", "covidqa", "mediqa")
MEASURES = ("ndcg_at_10", "map", "mrr")


class Reranker(Protocol):
    """Anything that orders candidates: sentence-transformers' `CrossEncoder`, a model of fletching."""

    def rank(self, query: str, documents: list[str]) -> Iterable[Any]:
        """Return one `{"corpus_id": int, "score": float}` per document, in any order."""
        ...


@dataclass(frozen=True)
class TestQuery:
    """One query with its candidates in the baseline's order.

    Attributes:
        query_id: Unique within its set.
        text: The query.
        candidates: Candidate id -> text, best of the baseline first.
        grades: Document id -> gain, also of documents that are not candidates.
    """

    query_id: str
    text: str
    candidates: dict[str, str]
    grades: dict[str, int]


class CosineReranker:
    """The cosine of a bi-encoder as a reranker; documents are encoded once over all queries.

    Args:
        encoder: The bi-encoder.
    """

    def __init__(self, encoder: SentenceTransformer) -> None:
        self.encoder = encoder
        self.cache: dict[str, NDArray[np.float32]] = {}

    def rank(self, query: str, documents: list[str]) -> list[dict[str, Any]]:
        """Score every document by its cosine with the query."""
        new = [text for text in dict.fromkeys(documents) if text not in self.cache]
        if new:
            embeddings = self.encoder.encode(new, normalize_embeddings=True, show_progress_bar=False)
            self.cache.update(zip(new, embeddings, strict=True))
        query_embedding = self.encoder.encode(query, normalize_embeddings=True, show_progress_bar=False)
        return [
            {"corpus_id": index, "score": float(self.cache[text] @ query_embedding)}
            for index, text in enumerate(documents)
        ]


def read_folder(folder: Path) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, int]]]:
    """Read a BEIR folder: document id -> title and text, query id -> text, judgements of the test part."""
    layout = open_beir(folder)
    texts = {document.id: document.full_text for document in layout.read_corpus()}
    test = layout.read_split("test")
    return texts, test.queries, test.qrels


def load_dl19(data: Path, retriever: str) -> list[TestQuery]:
    """TREC Deep Learning 2019: the first hundred of one retriever."""
    folder = data / "trec_dl" / "dl19"
    texts, queries, qrels = read_folder(folder)
    run = read_run(folder / "lists" / f"{retriever}.tsv.gz", order_by="rank")
    return [
        TestQuery(
            key, queries[key], {name: texts[name] for name in list(break_ties(run[key]))[:100]}, qrels[key]
        )
        for key in sorted(qrels)
        if key in run
    ]


def load_noveleval(data: Path) -> list[TestQuery]:
    """NovelEval: the candidates of query q are the documents "q-0" to "q-19"."""
    texts, queries, qrels = read_folder(data / "noveleval")
    return [
        TestQuery(key, queries[key], {f"{key}-{i}": texts[f"{key}-{i}"] for i in range(20)}, qrels[key])
        for key in sorted(qrels)
    ]


def load_wikiqa(data: Path) -> list[TestQuery]:
    """WikiQA test: the candidate sentences of a question, in document order."""
    candidates: dict[str, dict[str, str]] = defaultdict(dict)
    grades: dict[str, dict[str, int]] = defaultdict(dict)
    questions: dict[str, str] = {}
    for row in read_table(data / "answer_selection" / "wikiqa_test.tsv.gz"):
        key = row["qid"]
        questions[key] = row["question"]
        sentence_id = f"{key}-{len(candidates[key]):03d}"
        candidates[key][sentence_id] = row["sentence"]
        grades[key][sentence_id] = int(row["label"])
    return [TestQuery(key, questions[key], candidates[key], grades[key]) for key in sorted(questions)]


def load_covidqa(data: Path, *, n_queries: int | None = None) -> list[TestQuery]:
    """COVID-QA: BM25's first 50 passages of the whole corpus.

    Args:
        data: The data folder.
        n_queries: Keep this many questions, chosen by the hash of their id; `None` keeps all 1,380 (69,000
        rows).

    Returns:
        The questions, ordered by id.
    """
    texts, queries, qrels = read_folder(data / "covidqa")
    chosen = sorted(qrels, key=lambda key: hashlib.sha256(key.encode()).hexdigest())[:n_queries]
    ids, keys = list(texts), sorted(chosen)
    retriever = bm25s.BM25(k1=0.9, b=0.4)
    retriever.index(
        bm25s.tokenize(list(texts.values()), stopwords="en", show_progress=False), show_progress=False
    )
    tokens = bm25s.tokenize([queries[key] for key in keys], stopwords="en", show_progress=False)
    found, scores = retriever.retrieve(tokens, k=50, show_progress=False)
    result = []
    for key, positions, values in zip(keys, np.asarray(found), np.asarray(scores), strict=True):
        order = sorted(zip(-values, positions, strict=True))
        result.append(TestQuery(key, queries[key], {ids[i]: texts[ids[i]] for _, i in order}, qrels[key]))
    return result


def load_mediqa(data: Path) -> list[TestQuery]:
    """MEDIQA 2019, validation part: the answers of a question, in the order of the baseline CHiQA."""
    return [
        TestQuery(
            found.query_id,
            found.query,
            dict(zip(found.document_ids, found.documents, strict=True)),
            {key: int(grade) - 1 for key, grade in zip(found.document_ids, found.labels, strict=True)},
        )
        for found in read_lists(data / "mediqa_rerank" / "validation.jsonl.gz")
    ]


LOADERS = {
    "dl19": lambda data: load_dl19(data, "bm25"),
    "dl19_splade": lambda data: load_dl19(data, "splade_pp_ed"),
    "noveleval": load_noveleval,
    "wikiqa": load_wikiqa,
    "covidqa": load_covidqa,
    "mediqa": load_mediqa,
}


def rerank_queries(reranker: Reranker | None, queries: Sequence[TestQuery]) -> dict[str, dict[str, float]]:
    """Score every candidate of every query; `None` keeps the baseline's order."""
    run = {}
    for query in queries:
        ids = list(query.candidates)
        scores = {key: -float(position) for position, key in enumerate(ids)}
        if reranker is not None:
            for hit in reranker.rank(query.text, list(query.candidates.values())):
                scores[ids[int(hit["corpus_id"])]] = float(hit["score"])
        run[query.query_id] = scores
    return run


def score_run(queries: Sequence[TestQuery], run: dict[str, dict[str, float]]) -> RunEvaluation:
    """Return nDCG@10, MAP and reciprocal rank per query."""
    return evaluate_run(run, {query.query_id: query.grades for query in queries}, MEASURES)


def compare_pooled(measured: dict[str, RunEvaluation], first: str, second: str) -> dict[str, float]:
    """Return the mean nDCG@10 difference over the `POOLED` sets together, with interval and query count."""
    names = [name for name in POOLED if f"{name}/{first}" in measured]
    mine, theirs = (
        np.concatenate([measured[f"{name}/{label}"]["ndcg_at_10"] for name in names])
        for label in (first, second)
    )
    interval = paired_bootstrap(mine, theirs)
    return {"difference": interval.mean, "low": interval.low, "high": interval.high, "queries": len(mine)}


def evaluate_rerankers(
    rerankers: dict[str, Reranker | None], sets: dict[str, list[TestQuery]], *, baseline: str = "minilm"
) -> dict[str, Any]:
    """Evaluate all rerankers on all sets.

    Args:
        rerankers: Name -> reranker; `None` stands for the order of the first stage.
        sets: Name -> queries.
        baseline: The reranker that the others are compared with.

    Returns:
        `figures` (means and intervals per set and reranker), `comparisons` (pooled paired bootstrap against
        `baseline`) and `per_query`.
    """
    figures: dict[str, dict[str, float]] = {}
    evaluations: dict[str, RunEvaluation] = {}
    for name, queries in sets.items():
        for label, reranker in rerankers.items():
            start = time.perf_counter()
            run = rerank_queries(reranker, queries)
            seconds = time.perf_counter() - start
            measured = score_run(queries, run)
            interval = bootstrap_interval(measured["ndcg_at_10"])
            figures[f"{name}/{label}"] = {
                **measured.means(),
                "low": interval.low,
                "high": interval.high,
                "queries": len(measured.query_ids),
                "seconds": seconds,
            }
            evaluations[f"{name}/{label}"] = measured
    comparisons = {
        label: compare_pooled(evaluations, label, baseline) for label in rerankers if label != baseline
    }
    per_query = {name: list(measured.rows()) for name, measured in evaluations.items()}
    return {"figures": figures, "comparisons": comparisons, "per_query": per_query}


def format_report(result: dict[str, Any]) -> str:
    """Lay out figures and comparisons as text."""
    lines = [
        f"{'set/reranker':<28}{'queries':>8}{'nDCG@10':>9}  {'95 % interval':<16}"
        f"{'MAP':>7}{'MRR':>7}{'seconds':>9}"
    ]
    for name, row in result["figures"].items():
        interval = f"{row['low']:.3f} - {row['high']:.3f}"
        lines.append(
            f"{name:<28}{row['queries']:>8}{row['ndcg_at_10']:>9.4f}  {interval:<16}"
            f"{row['map']:>7.3f}{row['mrr']:>7.3f}{row['seconds']:>9.1f}"
        )
    for label, row in result["comparisons"].items():
        lines.append(
            f"{label} minus baseline, {' + '.join(POOLED)}, {row['queries']} queries: "
            f"{row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
        )
    return "\n".join(lines)


def main() -> None:
    """Read the command line, evaluate, print the report and write the JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument(
        "--reranker", action="append", default=[], help="name or folder for fletching.load; repeatable"
    )
    parser.add_argument("--sets", nargs="+", default=list(LOADERS), choices=list(LOADERS))
    parser.add_argument(
        "--encoder", default=None, help="path of all-MiniLM-L6-v2; default: the offline wheel's"
    )
    parser.add_argument(
        "--json", type=Path, default=None, help="write everything, with the per-query table, here"
    )
    parser.add_argument(
        "--ablate", action="store_true", help="also each reranker without its list view, and an untrained one"
    )
    parser.add_argument(
        "--covidqa-queries", type=int, default=None, help="fixed sample of so many; default: all"
    )
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.error(f"--data must be an existing folder; got {options.data}")
    rerankers: dict[str, Reranker | None] = {
        "first_stage": None,
        "minilm": CosineReranker(SentenceTransformer(options.encoder or find_minilm(), device="cpu")),
    }
    for name in options.reranker:
        rerankers[name] = remember_texts(fletching.load(name))
        if options.ablate:
            rerankers[f"{name}_pointwise"] = drop_list_view(remember_texts(fletching.load(name)))
    if options.ablate:
        rerankers["untrained"] = remember_texts(MVPReranker.from_bi_encoder())
    sets = {name: LOADERS[name](options.data) for name in options.sets if name != "covidqa"}
    if "covidqa" in options.sets:
        sets["covidqa"] = load_covidqa(options.data, n_queries=options.covidqa_queries)
    result = evaluate_rerankers(rerankers, sets)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"wrote {options.json}", file=sys.stderr)
    print(format_report(result))


def remember_texts(model: Reranker) -> Reranker:
    """Let a reranker on a frozen bi-encoder encode each text once over all queries, as `CosineReranker` does.

    Candidates of covidqa are 69,000 rows of 3,133 passages. What is remembered goes by its tokens, so a
    passage that a longer question cuts short is another one.

    Args:
        model: The reranker; one of another kind stays as it is.

    Returns:
        The same object.
    """
    network = getattr(model, "network", None)
    if not isinstance(network, BiEncoderMVPModule):
        return model
    read_text, known = network._read_text, {}

    def read_new_text(rows: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        keys = [tuple(row.tolist()) for row in rows]
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in known}
        if new:
            for key, states, mask, pooled in zip(new, *read_text(list(new.values())), strict=True):
                known[key] = (states[: len(key)].clone(), mask[: len(key)].clone(), pooled.clone())
        states, masks, pooled = zip(*(known[key] for key in keys), strict=True)
        return (
            pad_sequence(states, batch_first=True),
            pad_sequence(masks, batch_first=True),
            torch.stack(pooled),
        )

    network._read_text = read_new_text
    return model


def drop_list_view(model: MVPReranker) -> MVPReranker:
    """Switch the feedback of an mvp-mini off, so that each passage is scored on its own."""
    model.network.feedback.data.zero_()
    return model


if __name__ == "__main__":
    main()
