"""Build the candidate lists that mvp-mini is trained and tuned on.

Writes `train.jsonl.gz` and `dev.jsonl.gz`, one JSON object a line:
`{"query": str, "documents": [str], "labels": [float], "source": str}`. A label is a relevance grade or a
teacher's score; higher is better. Question and paragraph pairs become lists by mining: the hardest passages
of BM25 and of all-MiniLM-L6-v2, without those that are known to answer the question.

The final test sets (trec_dl/dl19, noveleval, covidqa, the validation part of mediqa_rerank, the test part of
WikiQA) are never opened here. Equal seeds give equal files.

    python benchmarks/mvp_mini/build_lists.py --data ../shared/data --out build/mvp_mini/lists
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from fletching.data import CandidateList, open_beir, read_lists, read_qrels, read_run, read_table
from fletching.data.lines import read_json_lines, write_lines
from fletching.models.minilm import find_minilm

REPOSITORY = Path(__file__).resolve().parents[2]
MAX_WORDS = 150
"""Passages are cut to this many words: rows of training hold 192 tokens."""


@dataclass(frozen=True)
class GroupedList(CandidateList):
    """One query with its candidates, and what it belongs to.

    Attributes:
        group: What must not be split over training and development (an article, a query).
    """

    group: str = ""

    def to_json(self) -> str:
        """Write the list as one line of JSON, without its group."""
        record = {
            "query": self.query,
            "documents": self.documents,
            "labels": self.labels,
            "source": self.source,
        }
        return json.dumps(record, ensure_ascii=False)


def make_list(
    query: str, documents: Iterable[str], labels: Iterable[float], source: str, group: str
) -> GroupedList:
    """Make a list of documents and their labels, side by side."""
    return GroupedList(query, tuple(documents), tuple(labels), source=source, group=group)


@dataclass
class ListWriter:
    """Everything the builders share: the data folder, the miner's encoder and the random source.

    Attributes:
        data: The data folder.
        encoder: all-MiniLM-L6-v2, for mining.
        seed: Seeds every sampler, together with the name of the source.
    """

    data: Path
    encoder: SentenceTransformer
    seed: int
    skipped: list[str] = field(default_factory=list)

    def random(self, name: str) -> random.Random:
        """Return the random source of one data set, independent of all others."""
        return random.Random(f"{self.seed}-{name}")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a gzipped file of JSON lines whose further fields count."""
    return [record for _, record in read_json_lines(path)]


def read_folder(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Read passages and queries of a BEIR folder, each id -> text, cut to `MAX_WORDS` words."""
    layout = open_beir(folder)
    texts = {document.id: cut(document.full_text) for document in layout.read_corpus()}
    return texts, {key: cut(text) for key, text in layout.read_queries().items()}


def cut(text: str) -> str:
    """Keep the first `MAX_WORDS` words."""
    return " ".join(text.split()[:MAX_WORDS])


def rank_by_bm25(queries: list[str], passages: list[str], *, depth: int) -> NDArray[np.int64]:
    """Return the positions of the `depth` best passages per query; shape ``(queries, depth)``."""
    retriever = bm25s.BM25(k1=0.9, b=0.4)
    retriever.index(bm25s.tokenize(passages, stopwords="en", show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(queries, stopwords="en", show_progress=False)
    found, _ = retriever.retrieve(tokens, k=min(depth, len(passages)), show_progress=False)
    return np.asarray(found, dtype=np.int64)


def rank_by_cosine(
    encoder: SentenceTransformer, queries: list[str], passages: list[str], *, depth: int
) -> NDArray[np.int64]:
    """Return the positions of the `depth` nearest passages per query; shape ``(queries, depth)``."""
    passage_embeddings = encoder.encode(passages, normalize_embeddings=True, show_progress_bar=False)
    query_embeddings = encoder.encode(queries, normalize_embeddings=True, show_progress_bar=False)
    similarities = query_embeddings @ passage_embeddings.T
    return np.argsort(-similarities, axis=1, kind="stable")[:, :depth]


def mine_lists(
    writer: ListWriter,
    source: str,
    pairs: list[tuple[str, int, str]],
    passages: list[str],
    *,
    n_candidates: int = 16,
    depth: int = 30,
    with_encoder: bool = True,
    extra: Callable[[int], Iterable[int]] | None = None,
) -> list[GroupedList]:
    """Turn (query, position of the answer, group) triples into lists with hard negatives.

    Half of the negatives are the best of BM25 (and, with `with_encoder`, of MiniLM, the two interleaved), the
    other half are drawn from the rest of the first `depth`. Passages with the text of an answer count as
    answers.

    Args:
        writer: Encoder and seed.
        source: Name of the data set.
        pairs: The triples.
        passages: All passages.
        n_candidates: Length of each list.
        depth: How deep to mine.
        with_encoder: Also mine with MiniLM (encodes all passages).
        extra: Further hard negatives of the pair at a position, taken first; at most four are used.

    Returns:
        The lists, in the order of `pairs`.
    """
    answers: dict[str, set[str]] = defaultdict(set)
    for query, position, _ in pairs:
        answers[query].add(passages[position])
    queries = [query for query, _, _ in pairs]
    found = [rank_by_bm25(queries, passages, depth=depth)]
    if with_encoder:
        found.append(rank_by_cosine(writer.encoder, queries, passages, depth=depth))
    generator = writer.random(source)
    lists = []
    for index, (query, position, group) in enumerate(pairs):
        seen = set(answers[query])
        mined: list[str] = []
        for candidate in [i for row in zip(*(ranks[index] for ranks in found), strict=True) for i in row]:
            if passages[candidate] not in seen:
                seen.add(passages[candidate])
                mined.append(passages[candidate])
        first = [passages[i] for i in extra(index)] if extra else []
        negatives = list(dict.fromkeys(text for text in first if text not in answers[query]))[:4]
        mined = [text for text in mined if text not in negatives]
        n_best = (n_candidates - 1 - len(negatives)) // 2
        negatives += mined[:n_best]
        rest = mined[n_best:]
        negatives += generator.sample(rest, min(len(rest), n_candidates - 1 - len(negatives)))
        documents = [(passages[position], 1.0), *((text, 0.0) for text in negatives)]
        generator.shuffle(documents)
        texts, labels = zip(*documents, strict=True)
        lists.append(make_list(query, texts, labels, source, group))
    return lists


def build_trec_dl(writer: ListWriter, year: str) -> Iterator[GroupedList]:
    """Yield the lists of one TREC Deep Learning year: all that BM25, BM25+RM3 or SPLADE++ found.

    SPLADE++'s opinion of a passage is ``2 * exp(-(rank - 1) / 20)``, and 0 where it does not list the
    passage. Without judgements (2022) the opinion is the label. With judgements (2021) the label is the NIST
    grade, 0 for unjudged passages, plus a tenth of the opinion, which only orders equal grades. BM25's
    passages come first, by rank.
    """
    folder = writer.data / "trec_dl" / year
    texts, queries = read_folder(folder)
    qrels_path = folder / "qrels" / "test.tsv"
    qrels = read_qrels(qrels_path) if qrels_path.exists() else {}
    teacher: dict[str, dict[str, float]] = defaultdict(dict)
    candidates: dict[str, dict[str, None]] = defaultdict(dict)
    for name in ("bm25", "bm25_rm3", "splade_pp_ed"):
        run = read_run(folder / "lists" / f"{name}.tsv.gz", order_by="rank")
        for query_id, found in run.items():  # a rank is read as its negative
            candidates[query_id] |= dict.fromkeys(found)
            if name == "splade_pp_ed":
                teacher[query_id] = {key: 2.0 * math.exp((rank + 1) / 20.0) for key, rank in found.items()}
    for query_id in sorted(candidates):
        grades = qrels.get(query_id, {})
        labels = []
        for passage_id in candidates[query_id]:
            opinion = teacher[query_id].get(passage_id, 0.0)
            labels.append(grades.get(passage_id, 0) + 0.1 * opinion if qrels else opinion)
        documents = [texts[passage_id] for passage_id in candidates[query_id]]
        yield make_list(queries[query_id], documents, [round(y, 4) for y in labels], year, query_id)


def build_answer_selection(writer: ListWriter, name: str) -> Iterator[GroupedList]:
    """Lists of WikiQA, SelQA or TrecQA: the candidate sentences of a question, labels 0 and 1."""
    questions: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in read_table(writer.data / "answer_selection" / f"{name}.tsv.gz"):
        questions[row["qid"]].append(row)
    for group, rows in questions.items():
        labels = [float(row["label"]) for row in rows]
        if len(set(labels)) > 1:
            sentences = [cut(row["sentence"]) for row in rows]
            yield make_list(rows[0]["question"], sentences, labels, name.rsplit("_", 1)[0], group)


def build_mediqa(writer: ListWriter) -> Iterator[GroupedList]:
    """Lists of the training part of MEDIQA 2019, labels = grade - 1."""
    for found in read_lists(writer.data / "mediqa_rerank" / "train.jsonl.gz"):
        labels = [grade - 1.0 for grade in found.labels]
        if len(set(labels)) > 1:
            yield make_list(found.query, map(cut, found.documents), labels, "mediqa", found.query_id)


def build_squad_sentences(writer: ListWriter, *, n_queries: int = 5000) -> list[GroupedList]:
    """Question -> answer sentence over the sentences of SQuAD v1.1 train articles, with mined negatives."""
    rows = list(read_table(writer.data / "squad_sentences" / "train.tsv.gz"))
    passages = sorted({row["sentence"] for row in rows})
    position = {text: index for index, text in enumerate(passages)}
    rows = writer.random("squad_sentences").sample(rows, n_queries)
    pairs = [(row["question"], position[row["sentence"]], row["sentence"]) for row in rows]
    return mine_lists(writer, "squad_sentences", pairs, passages)


def build_squad_paragraphs(writer: ListWriter) -> list[GroupedList]:
    """Question -> paragraph over SQuAD 2.0 dev (one half) and XQuAD English, with mined negatives."""
    half, xquad = writer.data / "squad2_dev_half", writer.data / "xquad"
    records = {row["_id"]: row for row in read_jsonl(half / "corpus.jsonl.gz")}
    asked = [(row["text"], row["paragraph"]) for row in read_jsonl(half / "queries.jsonl.gz")]
    gold = read_qrels(xquad / "qrels" / "test.tsv")
    records |= {row["_id"]: row for row in read_jsonl(xquad / "corpus.jsonl.gz") if row["lang"] == "en"}
    asked += [
        (row["text"], next(iter(gold[row["_id"]])))
        for row in read_jsonl(xquad / "queries.jsonl.gz")
        if row["lang"] == "en"
    ]
    texts = {key: cut(row["text"]) for key, row in records.items()}
    title = {cut(row["text"]): row["title"] for row in records.values() if row.get("title")}
    passages = sorted(set(texts.values()))
    position = {text: index for index, text in enumerate(passages)}
    # XQuAD gives no titles: paragraphs that are also in SQuAD 2.0 take theirs, the others stay in training.
    pairs = [
        (query, position[texts[key]], title.get(texts[key], "xquad")) for query, key in dict(asked).items()
    ]
    return mine_lists(writer, "squad_paragraphs", pairs, passages)


def build_pubmedqa(writer: ListWriter) -> list[GroupedList]:
    """Research question -> abstract without its conclusion, with mined negatives."""
    rows = read_jsonl(writer.data / "pubmedqa" / "pqal.jsonl.gz")
    passages = [cut(" ".join(row["contexts"])) for row in rows]
    pairs = [(row["question"], index, row["pmid"]) for index, row in enumerate(rows)]
    return mine_lists(writer, "pubmedqa", pairs, passages)


def build_medquad(writer: ListWriter, *, n_queries: int = 1200) -> list[GroupedList]:
    """Consumer-health question -> answer; other answers on the same disease are the first hard negatives."""
    folder = writer.data / "medquad"
    records = read_jsonl(folder / "corpus.jsonl.gz")
    passages = [cut(row["text"]) for row in records]
    position = {row["_id"]: index for index, row in enumerate(records)}
    focus_of = [row["focus"] for row in records]
    by_focus: dict[str, list[int]] = defaultdict(list)
    for index, focus in enumerate(focus_of):
        by_focus[focus].append(index)
    queries = {row["_id"]: row["text"] for row in read_jsonl(folder / "queries.jsonl.gz")}
    gold = sorted(read_qrels(folder / "qrels" / "train.tsv").items())
    gold = writer.random("medquad").sample(gold, n_queries)
    pairs = []
    for query_id, grades in gold:
        answer = position[next(iter(grades))]
        pairs.append((queries[query_id], answer, focus_of[answer]))

    def same_focus(index: int) -> list[int]:
        return [i for i in by_focus[pairs[index][2]] if i != pairs[index][1]]

    return mine_lists(writer, "medquad", pairs, passages, with_encoder=False, extra=same_focus)


def build_titles(writer: ListWriter, name: str, *, n_queries: int = 800) -> list[GroupedList]:
    """Title -> abstract over the papers of one collection, negatives from BM25."""
    file, key = ("papers", "abstract") if name == "graph_acl" else ("corpus", "text")
    rows = [row for row in read_jsonl(writer.data / name / f"{file}.jsonl.gz") if len(row[key].split()) > 30]
    passages = [cut(row[key]) for row in rows]
    chosen = writer.random(name).sample(range(len(rows)), n_queries)
    pairs = [(rows[index]["title"], index, rows[index]["_id"]) for index in chosen]
    return mine_lists(writer, name, pairs, passages, with_encoder=False)


def build_nfcorpus(writer: ListWriter, *, n_queries: int = 300) -> Iterator[GroupedList]:
    """Lay titles -> medical abstracts: up to eight judged ones and the best unjudged of BM25."""
    folder = writer.data / "nfcorpus"
    texts, queries = read_folder(folder)
    ids, passages = list(texts), list(texts.values())
    generator = writer.random("nfcorpus")
    qrels = read_qrels(folder / "qrels" / "train.tsv")
    chosen = generator.sample(sorted(set(qrels) & set(queries)), n_queries)
    found = rank_by_bm25([queries[query_id] for query_id in chosen], passages, depth=40)
    for query_id, ranks in zip(chosen, found, strict=True):
        grades = {key: grade for key, grade in qrels[query_id].items() if key in texts}
        judged = generator.sample(sorted(grades), min(8, len(grades)))
        others = [ids[i] for i in ranks if ids[i] not in grades][: 20 - len(judged)]
        keys = judged + others
        if judged and others:
            labels = [float(grades.get(key, 0)) for key in keys]
            yield make_list(queries[query_id], [texts[key] for key in keys], labels, "nfcorpus", query_id)


def build_rgb(writer: ListWriter) -> Iterator[GroupedList]:
    """One hundred English questions with positive and negative web passages."""
    for found in read_lists(writer.data / "zh_rerank" / "rgb_en_fact.jsonl.gz"):
        documents = list(zip(map(cut, found.documents), found.labels, strict=True))
        if len(set(found.labels)) > 1:
            writer.random(f"rgb-{found.query_id}").shuffle(documents)
            texts, labels = zip(*documents, strict=True)
            yield make_list(found.query, texts, labels, "rgb", found.query_id)


Builder = Callable[[ListWriter], Iterable[GroupedList]]
SOURCES: list[tuple[str, str, Builder]] = [
    # folder, part, builder; "split" parts are divided by group, a fixed share going to development
    ("trec_dl/dl21", "split", lambda writer: build_trec_dl(writer, "dl21")),
    ("trec_dl/dl22", "split", lambda writer: build_trec_dl(writer, "dl22")),
    ("answer_selection", "train", lambda writer: build_answer_selection(writer, "wikiqa_train")),
    ("answer_selection", "dev", lambda writer: build_answer_selection(writer, "wikiqa_dev")),
    ("answer_selection", "train", lambda writer: build_answer_selection(writer, "selqa_test")),
    ("answer_selection", "dev", lambda writer: build_answer_selection(writer, "selqa_dev")),
    ("answer_selection", "train", lambda writer: build_answer_selection(writer, "trecqa_train")),
    ("mediqa_rerank", "split", build_mediqa),
    ("squad_sentences", "train", build_squad_sentences),
    ("squad2_dev_half", "split", build_squad_paragraphs),
    ("pubmedqa", "split", build_pubmedqa),
    ("medquad", "train", build_medquad),
    ("acm_cr", "train", lambda writer: build_titles(writer, "acm_cr")),
    ("graph_acl", "train", lambda writer: build_titles(writer, "graph_acl")),
    ("nfcorpus", "train", build_nfcorpus),
    ("zh_rerank", "train", build_rgb),
]
DEV_SHARE = {"dl21": 0.5, "dl22": 0.33, "squad_paragraphs": 0.15, "pubmedqa": 0.15, "mediqa": 0.2}
DEV_LISTS = {"dl21": 26, "dl22": 12, "wikiqa": 60, "selqa": 50, "squad_paragraphs": 40, "mediqa": 37}
"""Development lists of each source: few, since they are ranked again and again; the others give none."""

TRAIN_LISTS = {
    "selqa": 700,
    "squad_sentences": 900,
    "squad_paragraphs": 900,
    "pubmedqa": 250,
    "medquad": 250,
    "acm_cr": 200,
    "graph_acl": 200,
    "nfcorpus": 100,
}
"""Most training lists of a source, so that no single one decides."""

GRADED = ("dl21", "dl22", "mediqa", "nfcorpus")
DRAWS, DRAWN_PASSAGES = 12, 32
"""How often, and how many passages, are drawn from each of the long TREC lists."""


def split_lists(
    lists: list[GroupedList], generator: random.Random
) -> tuple[list[GroupedList], list[GroupedList]]:
    """Divide lists by group, the source's share of groups going to development."""
    groups = sorted({entry.group for entry in lists} - {"xquad"})
    held_out = set(generator.sample(groups, round(DEV_SHARE[lists[0].source] * len(groups))))
    dev = [x for x in lists if x.group in held_out]
    if lists[0].source in ("dl21", "dl22"):  # rerank BM25's first hundred; judgements without the teacher
        rounded = lists[0].source == "dl21"
        dev = [
            replace(
                x,
                documents=x.documents[:100],
                labels=tuple(float(round(y)) if rounded else y for y in x.labels[:100]),
            )
            for x in dev
        ]
    return [x for x in lists if x.group not in held_out], dev


def draw_lists(entry: GroupedList, generator: random.Random) -> list[GroupedList]:
    """Draw short lists from a TREC list, half from what the teacher likes.

    Returns:
        The short lists; a list of any other source as it is.
    """
    if entry.source not in ("dl21", "dl22"):
        return [entry]
    places = range(len(entry.documents))
    good = [place for place in places if entry.labels[place] >= 0.5]
    drawn = []
    for _ in range(DRAWS):
        chosen = generator.sample(good, min(len(good), DRAWN_PASSAGES // 2))
        rest = sorted(set(places) - set(chosen))
        chosen += generator.sample(rest, min(len(rest), DRAWN_PASSAGES - len(chosen)))
        generator.shuffle(chosen)
        documents = tuple(entry.documents[i] for i in chosen)
        drawn.append(replace(entry, documents=documents, labels=tuple(entry.labels[i] for i in chosen)))
    return drawn


def sharpen(entry: GroupedList) -> GroupedList:
    """Turn labels into a teacher's logits: softmax(labels) is what training aims at.

    Grades are divided by 0.5; an answer among non-answers takes nearly all the mass.

    Returns:
        The list with its new labels.
    """
    factor = 2.0 if entry.source in GRADED else 8.0
    return replace(entry, labels=tuple(round(factor * label, 4) for label in entry.labels))


def build_all(writer: ListWriter) -> tuple[list[GroupedList], list[GroupedList]]:
    """Build every source that is there; names of absent folders are collected in `writer.skipped`."""
    train: list[GroupedList] = []
    dev: list[GroupedList] = []
    for folder, part, builder in SOURCES:
        if not (writer.data / folder).is_dir():
            writer.skipped.append(folder)
            continue
        lists = list(builder(writer))
        generator = writer.random(f"split-{folder}-{part}")
        new_train, new_dev = split_lists(lists, generator) if part == "split" else (lists, [])
        if part == "dev":
            new_train, new_dev = [], lists
        source = lists[0].source
        new_train = generator.sample(new_train, min(len(new_train), TRAIN_LISTS.get(source, len(new_train))))
        train += [sharpen(drawn) for entry in new_train for drawn in draw_lists(entry, generator)]
        dev += generator.sample(new_dev, min(len(new_dev), DEV_LISTS.get(source, 0)))
    writer.random("order").shuffle(train)
    return train, dev


def format_table(train: list[GroupedList], dev: list[GroupedList]) -> str:
    """Count lists and passages per source."""
    rows = [f"{'source':<18}{'train lists':>12}{'passages':>10}{'dev lists':>11}{'passages':>10}"]
    for source in sorted({entry.source for entry in train + dev}):
        cells = [[x for x in part if x.source == source] for part in (train, dev)]
        counts = [(len(part), sum(len(x.documents) for x in part)) for part in cells]
        rows.append(f"{source:<18}{counts[0][0]:>12}{counts[0][1]:>10}{counts[1][0]:>11}{counts[1][1]:>10}")
    return "\n".join(rows)


def main() -> None:
    """Read the command line, build the lists, write both files and print the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=Path("mvp_mini_lists"))
    parser.add_argument(
        "--encoder", default=None, help="path of all-MiniLM-L6-v2; default: the offline wheel's"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.error(f"--data must be an existing folder; got {options.data}")
    writer = ListWriter(options.data, SentenceTransformer(options.encoder or find_minilm()), options.seed)
    train, dev = build_all(writer)
    options.out.mkdir(parents=True, exist_ok=True)
    write_lines(options.out / "train.jsonl.gz", (entry.to_json() for entry in train))
    write_lines(options.out / "dev.jsonl.gz", (entry.to_json() for entry in dev))
    for folder in writer.skipped:
        print(f"skipped: no folder {options.data / folder}", file=sys.stderr)
    print(format_table(train, dev))


if __name__ == "__main__":
    main()
