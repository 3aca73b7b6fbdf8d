from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fletching.data import Document
from fletching.errors import ArgumentError, DataError
from fletching.evaluation.data_set import EvaluationSet, STSSet, read_evaluation_set

CORPUS = {"d1": "bows bend", "d2": "arrows fly", "d3": "a goose"}
QUERIES = {"q1": "what bends?", "q2": "what flies?", "q3": "not judged"}
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td9\t1\nq2\td2\t1\n"  # d9 is no passage
RUN = "q1\td2\t1\t9.5\nq1\td1\t2\t8.5\nq2\td2\t1\t7\n"


def write_json(path: Path, records: Sequence[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "archery"
    (path / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", CORPUS), ("queries", QUERIES)):
        write_json(path / f"{name}.jsonl", [{"_id": key, "text": text} for key, text in texts.items()])
    (path / "qrels" / "test.tsv").write_text(QRELS)
    (path / "run.tsv").write_text(RUN)
    return path


def read(path: Path, **options: Any) -> EvaluationSet:
    data = read_evaluation_set(path, **options)
    assert isinstance(data, EvaluationSet)
    return data


def read_digest(path: Path, **options: Any) -> str:
    return read_evaluation_set(path, **options).digest


# --- folders ---


def test_folder_is_read(folder: Path) -> None:
    data = read(folder)

    assert data.name == "archery"
    assert data.queries == {"q1": "what bends?", "q2": "what flies?"}
    assert data.qrels == {"q1": {"d1": 2, "d9": 1}, "q2": {"d2": 1}}
    assert data.candidates is None


def test_corpus_is_opened_anew_at_each_call(folder: Path) -> None:
    data = read(folder)
    expected = [Document(key, text) for key, text in CORPUS.items()]

    assert [list(data.open_corpus()), list(data.open_corpus())] == [expected, expected]


def test_what_was_skipped_is_counted(folder: Path) -> None:
    assert read(folder).skipped == {
        "queries without a judgement": 1,
        "judged documents that the corpus lacks": 1,
    }


def test_judged_queries_without_text_are_counted(folder: Path) -> None:
    records = [{"_id": "q1", "text": "what bends?"}, {"_id": "q2", "text": " "}]
    write_json(folder / "queries.jsonl", records)

    data = read(folder)
    assert (list(data.queries), data.skipped["judged queries without text"]) == (["q1"], 1)


def test_folder_whose_judged_queries_are_all_blank_is_refused(folder: Path) -> None:
    write_json(folder / "queries.jsonl", [{"_id": key, "text": ""} for key in QUERIES])

    with pytest.raises(DataError, match=r"test.tsv: the file must be judgements of at least one query"):
        read(folder)


def test_split_is_read_and_shown(folder: Path) -> None:
    (folder / "qrels" / "dev.tsv").write_text("q3\td3\t1\n")

    data = read(folder, split="dev")
    assert (data.name, list(data.queries)) == ("archery/dev", ["q3"])


def test_test_split_is_the_default(folder: Path) -> None:
    (folder / "qrels" / "dev.tsv").write_text("q3\td3\t1\n")

    assert list(read(folder).queries) == ["q1", "q2"]


def test_splits_are_listed_when_none_is_the_default(folder: Path) -> None:
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "dev.tsv")
    (folder / "qrels" / "train.tsv").write_text("q3\td3\t1\n")

    with pytest.raises(ArgumentError, match="`split` must be one of 'dev', 'train'; got None"):
        read(folder)


def test_name_and_relevance_level_are_taken(folder: Path) -> None:
    data = read(folder, name="bows", relevance_level=2)

    assert (data.name, data.relevance_level) == ("bows", 2)


@pytest.mark.parametrize("level", [0, -1, 1.5])
def test_relevance_level_must_be_positive(folder: Path, level: Any) -> None:
    with pytest.raises(ArgumentError, match="`relevance_level` must be a whole number of at least 1"):
        read(folder, relevance_level=level)


def test_windows_line_ends_change_nothing(folder: Path) -> None:
    before = read_digest(folder, candidates="run.tsv")
    for path in (path for path in folder.rglob("*") if path.is_file()):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))

    assert read_digest(folder, candidates="run.tsv") == before


def test_folder_in_tab_separated_files_is_read(tmp_path: Path) -> None:
    texts = {"collection.tsv": "0\ta bow\n", "queries.dev.tsv": "7\twhat?\n", "qrels.dev.tsv": "7\t0\t0\t1\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)

    data = read(tmp_path)
    assert (data.queries, data.qrels) == ({"7": "what?"}, {"7": {"0": 1}})
    assert list(data.open_corpus()) == [Document("0", "a bow")]


# --- candidates ---


def test_candidates_are_read(folder: Path) -> None:
    data = read(folder, candidates=folder / "run.tsv")

    assert data.candidates == {"q1": {"d2": 9.5, "d1": 8.5}, "q2": {"d2": 7.0}}
    assert data.first_stage == "run"


def test_candidates_are_looked_for_in_the_folder(folder: Path) -> None:
    assert read(folder, candidates="run.tsv").candidates == {"q1": {"d2": 9.5, "d1": 8.5}, "q2": {"d2": 7.0}}


def test_working_directory_comes_before_the_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.tsv").write_text("q1\td3\t1\t1\n")
    monkeypatch.chdir(tmp_path)

    assert read(folder, candidates="run.tsv").candidates == {"q1": {"d3": 1.0}}


def test_gzipped_candidates_lose_both_endings(folder: Path) -> None:
    (folder / "bm25.tsv.gz").write_bytes(gzip.compress(RUN.encode()))

    assert read(folder, candidates="bm25.tsv.gz").first_stage == "bm25"


def test_judged_queries_without_candidates_are_counted(folder: Path) -> None:
    (folder / "run.tsv").write_text("q1\td1\t1\t1\n")

    skipped = read(folder, candidates="run.tsv").skipped
    assert skipped["judged queries without candidates, which count 0"] == 1


def test_candidates_of_queries_without_a_judgement_are_counted(folder: Path) -> None:
    """One query has no judgement, one no text; a document that is not there does not matter for them."""
    (folder / "run.tsv").write_text(f"{RUN}q3\td77\t1\t1\nq4\td1\t1\t1\n")

    skipped = read(folder, candidates="run.tsv").skipped
    assert skipped["queries of the candidates without a judgement"] == 2


def test_candidate_without_a_text_is_named(folder: Path) -> None:
    (folder / "run.tsv").write_text(f"{RUN}q2\td8\t2\t1\nq2\td9\t3\t0\n")

    with pytest.raises(DataError) as caught:
        read(folder, candidates="run.tsv")
    message = (
        f"{folder / 'run.tsv'}:4: `document` must be a passage of {folder}; got 'd8'. 1 more are missing."
    )
    assert str(caught.value) == message


def test_candidates_for_other_queries_are_refused(folder: Path) -> None:
    (folder / "run.tsv").write_text("z1\td1\t1\t1\n")

    with pytest.raises(DataError, match=r"run.tsv: the file must be a run with a judged query, such as 'q1'"):
        read(folder, candidates="run.tsv")


@pytest.mark.parametrize("score", ["nan", "inf", "-inf"])
def test_score_that_is_not_finite_is_named(folder: Path, score: str) -> None:
    (folder / "run.tsv").write_text(f"q1\td1\t1\t2\nq1\td2\t2\t{score}\n")

    with pytest.raises(DataError, match=rf"run.tsv:2: `score` must be a finite number; got '{score}'"):
        read(folder, candidates="run.tsv")


def test_missing_candidates_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"^lists/bm25.tsv: the file must be an existing file"):
        read(folder, candidates="lists/bm25.tsv")


# --- bad folders ---


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("qrels/test.tsv", b"q1\td1\t1\nq8\td1\t1\n", r"test.tsv:2: `query` must be one of the ids .*'q8'"),
        ("qrels/test.tsv", b"q1\td1\t1\nq1\td1\t0\n", r"test.tsv:2: `document` must be judged once .*'d1'"),
        ("qrels/test.tsv", b"", r"test.tsv: the file must be a file with at least one record"),
        ("qrels/test.tsv", b"query-id\tcorpus-id\tscore\n", r"test.tsv: .* at least one record; got none"),
        ("qrels/test.tsv", b"q1\td1\t0.5\n", r"test.tsv:1: `grade` must be a whole number"),
        (
            "qrels/test.tsv",
            gzip.compress(QRELS.encode(), mtime=0)[:-9],
            r"test.tsv: the file must be a whole gzip file",
        ),
        ("corpus.jsonl", b'{"_id": "d1", "text": "\xe9"}\n', r"corpus.jsonl:1: the record must be UTF-8"),
        ("corpus.jsonl", b'{"_id": "d1", "text": "a"}\n' * 2, r"corpus.jsonl:2: `id` must be unique"),
        ("queries.jsonl", b'{"_id": "q1"}\n', r"queries.jsonl:1: `text` must be a string"),
    ],
    ids=["unknown id", "twice", "empty", "header", "grade", "cut off", "encoding", "duplicate", "text"],
)
def test_broken_file_is_named_with_its_line(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)

    with pytest.raises(DataError, match=message):
        read(folder)


def test_folder_of_no_known_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"BEIR.*MS MARCO, T2Ranking, Multi-CPR"):
        read(tmp_path)


def test_missing_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: the file must be an existing folder or file; got none"):
        read(tmp_path / "nowhere")


def test_file_of_unknown_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("1,a,b\n")

    with pytest.raises(DataError, match=r"pairs.csv: the file must be one that ends in .jsonl .* Everything"):
        read(tmp_path / "pairs.csv")


# --- digests ---


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("corpus.jsonl", "goose", "swan"),
        ("corpus.jsonl", '"d3"', '"d4"'),
        ("queries.jsonl", "bends", "breaks"),
        ("qrels/test.tsv", "d1\t2", "d1\t1"),
        ("run.tsv", "9.5", "9.4"),
    ],
)
def test_digest_changes_with_the_contents(folder: Path, name: str, old: str, new: str) -> None:
    before = read_digest(folder, candidates="run.tsv")
    path = folder / name
    path.write_text(path.read_text().replace(old, new))

    assert read_digest(folder, candidates="run.tsv") != before


def test_digest_tells_titles_from_texts(folder: Path) -> None:
    write_json(folder / "corpus.jsonl", [{"_id": "d1", "title": "a", "text": "bc"}])
    before = read_digest(folder)
    write_json(folder / "corpus.jsonl", [{"_id": "d1", "title": "ab", "text": "c"}])

    assert read_digest(folder) != before


def test_digest_is_the_same_for_the_same_contents(folder: Path, tmp_path: Path) -> None:
    """Elsewhere, gzipped, under another name, and with another level of relevance."""
    before = read_digest(folder)
    moved = folder.rename(tmp_path / "moved")
    corpus = moved / "corpus.jsonl"
    (moved / "corpus.jsonl.gz").write_bytes(gzip.compress(corpus.read_bytes()))
    corpus.unlink()

    assert read_digest(moved, name="x", relevance_level=2) == before


# --- lists ---

LISTS = [
    {
        "qid": "q1",
        "query": "what bends?",
        "candidates": [
            {"id": "d2", "text": "arrows fly", "label": 0},
            {"id": "d1", "text": "bows bend", "label": 2},
        ],
    },
    {"qid": "q2", "query": "what flies?", "candidates": [{"id": "d2", "text": "arrows fly", "label": 1}]},
]


def test_lists_are_candidates_in_the_order_of_the_file(tmp_path: Path) -> None:
    data = read(write_json(tmp_path / "lists.jsonl", LISTS))

    assert data.name == "lists"
    assert data.queries == {"q1": "what bends?", "q2": "what flies?"}
    assert data.qrels == {"q1": {"d2": 0, "d1": 2}, "q2": {"d2": 1}}
    assert data.candidates == {"q1": {"d2": 2.0, "d1": 1.0}, "q2": {"d2": 1.0}}
    assert data.first_stage == "file order"
    assert data.notes == ()


def test_documents_of_lists_are_the_corpus(tmp_path: Path) -> None:
    data = read(write_json(tmp_path / "lists.jsonl", LISTS))

    assert list(data.open_corpus()) == [Document("d2", "arrows fly"), Document("d1", "bows bend")]


def test_ids_that_mean_different_texts_are_replaced(tmp_path: Path) -> None:
    """Each list counts its documents from 0; equal texts get equal names, in whichever list they stand."""
    records = [
        {
            "query": "a",
            "candidates": [{"id": 0, "text": "x", "label": 0}, {"id": 1, "text": "y", "label": 1}],
        },
        {"query": "b", "candidates": [{"id": 0, "text": "y", "label": 1}]},
    ]
    data = read(write_json(tmp_path / "lists.jsonl", records))

    assert sorted(document.text for document in data.open_corpus()) == ["x", "y"]
    assert set(data.qrels["2"]) < set(data.qrels["1"])


def test_text_that_stands_twice_in_a_list_has_two_names(tmp_path: Path) -> None:
    records = [{"query": "a", "documents": ["x", "x", "y"], "labels": [0, 1, 1]}]
    data = read(write_json(tmp_path / "lists.jsonl", records))

    assert sorted(data.qrels["1"].values()) == [0, 1, 1]


def test_queries_without_ids_are_called_by_their_lines(tmp_path: Path) -> None:
    path = write_json(tmp_path / "lists.jsonl", [{"query": "a", "documents": ["x"], "labels": [1]}])
    path.write_text(f"\n{path.read_text()}")

    assert read(path).queries == {"2": "a"}


def test_positives_do_not_stand_in_front(tmp_path: Path) -> None:
    """By the order of the file every positive would come first. Ten lists of five and five: chance is nil."""
    records = [
        {
            "query": f"q{n}",
            "positives": [f"p{n}{i}" for i in "abcde"],
            "negatives": [f"n{n}{i}" for i in "abcde"],
        }
        for n in range(10)
    ]
    data = read(write_json(tmp_path / "lists.jsonl", records))

    assert data.candidates is not None
    assert data.first_stage == "order of ids"
    ranked = [
        [data.qrels[query][key] for key in sorted(scores, key=lambda key: -scores[key])]
        for query, scores in data.candidates.items()
    ]
    assert any(grades != sorted(grades, reverse=True) for grades in ranked)
    assert all(list(scores) == sorted(scores) for scores in data.candidates.values())


@pytest.mark.parametrize("ids", [["a", "b"], None])
def test_order_that_gives_labels_away_is_not_kept(tmp_path: Path, ids: list[str] | None) -> None:
    """The ids are in the order of the labels as well; they would break ties that way."""
    texts = ["one", "two"]
    candidates = [{"text": text, "label": 1 - place} for place, text in enumerate(texts)]
    for candidate, key in zip(candidates, ids or (), strict=False):
        candidate["id"] = key
    records = [{"query": str(n), "candidates": candidates} for n in range(2)]
    data = read(write_json(tmp_path / "lists.jsonl", records))

    assert data.notes[0].startswith("All lists stood in the order of their labels")
    assert not {"a", "b"} & set(data.qrels["1"])


def test_one_list_in_the_order_of_its_labels_is_kept(tmp_path: Path) -> None:
    records = [{"query": "a", "documents": ["x", "y"], "labels": [1, 0]}]
    data = read(write_json(tmp_path / "lists.jsonl", records))

    assert (data.first_stage, data.notes) == ("file order", ())


def test_label_that_is_no_grade_is_named(tmp_path: Path) -> None:
    records = [*LISTS, {"query": "a", "documents": ["x"], "labels": [0.5]}]

    with pytest.raises(DataError, match=r"lists.jsonl:3: `label` must be a whole number up to 1000; got 0.5"):
        read(write_json(tmp_path / "lists.jsonl", records))


def test_query_id_that_repeats_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lists.jsonl:2: `query_id` must be unique; got 'q1'"):
        read(write_json(tmp_path / "lists.jsonl", [LISTS[0], LISTS[0]]))


@pytest.mark.parametrize("option", [{"candidates": "run.tsv"}, {"split": "dev"}])
def test_file_takes_neither_candidates_nor_split(tmp_path: Path, option: dict[str, str]) -> None:
    path = write_json(tmp_path / "lists.jsonl", LISTS)

    with pytest.raises(ArgumentError, match=r"must be left out: lists.jsonl is one file and no folder"):
        read_evaluation_set(path, **option)  # type: ignore[arg-type]


# --- sentence pairs ---


def test_sentence_pairs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "sts.tsv"
    path.write_text("score\tsentence1\tsentence2\n4.5\ta bow\tthe bow\n1\ta bow\ta goose\n")

    data = read_evaluation_set(path)
    assert isinstance(data, STSSet)
    assert data.name == "sts"
    assert [(pair.score, pair.sentence2) for pair in data.pairs] == [(4.5, "the bow"), (1.0, "a goose")]


def test_digest_of_pairs_changes_with_a_score(tmp_path: Path) -> None:
    path = tmp_path / "sts.tsv"
    digests = set()
    for score in ("4", "5"):
        path.write_text(f"{score}\ta\tb\n1\tc\td\n")
        digests.add(read_digest(path))
    assert len(digests) == 2


def test_pairs_of_one_score_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sts.tsv"
    path.write_text("3\ta\tb\n3\tc\td\n")

    with pytest.raises(DataError, match=r"pairs with at least two different scores; got 2 of 3"):
        read_evaluation_set(path)


def test_broken_pair_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sts.tsv"
    path.write_text("3\ta\tb\nnan\tc\td\n")

    with pytest.raises(DataError, match=r"sts.tsv:2: `score` must be a finite number"):
        read_evaluation_set(path)
