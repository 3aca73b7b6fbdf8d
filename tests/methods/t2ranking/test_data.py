"""The files of T2Ranking, with and without their header lines."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from fletching.errors import ArgumentError, DataError
from fletching.methods.t2ranking import T2RankingDataset, measure_rankings, write_synthetic
from fletching.methods.t2ranking.data import stream_rankings


def write(folder: Path, **files: str) -> Path:
    """Write `qrels_dev="..."` to qrels.dev.tsv, and so on; spaces stand for tabs outside of texts."""
    for name, content in files.items():
        (folder / f"{name.replace('_', '.')}.tsv").write_text(content, encoding="utf-8")
    return folder


def read_everything(folder: Path) -> list[object]:
    train, dev, test = (T2RankingDataset(folder, split) for split in ("train", "dev", "test"))
    return [
        *(dataset.queries for dataset in (train, dev, test)),
        dict(train.corpus),
        *((dataset.qrels_graded, dataset.positives) for dataset in (train, dev)),
        *(list(train.negatives(source, 50)) for source in ("bm25", "mined")),
        *(list(dev.stream_run(name)) for name in ("bm25", "dpr")),
    ]


def test_7_header_lines_make_no_difference(tmp_path: Path) -> None:
    with_header = write_synthetic(tmp_path / "a", n_train=12, n_dev=6, n_passages=90)
    without = write_synthetic(tmp_path / "b", n_train=12, n_dev=6, n_passages=90, header=False)
    assert (with_header / "queries.dev.tsv").read_text(encoding="utf-8").startswith("qid\tquery\n")
    assert (without / "queries.dev.tsv").read_text(encoding="utf-8")[0].isdecimal()
    assert read_everything(with_header) == read_everything(without)


def test_7_a_quotation_mark_stays(tmp_path: Path) -> None:
    write(
        tmp_path,
        queries_dev='qid\tquery\n7\t"什么是\n8\t他说""好"\n',
        collection='pid\tpassage\n0\t"开\n1\t\n2\ta "b" c\n',
    )
    dataset = T2RankingDataset(tmp_path, "dev")
    assert dataset.queries == {"7": '"什么是', "8": '他说""好"'}
    assert dict(dataset.corpus) == {"0": '"开', "1": "", "2": 'a "b" c'}


@pytest.mark.parametrize("header", ["qid\tpid\n", "query-id\tcorpus-id\n", ""])
def test_a_header_is_never_counted_as_a_positive(header: str, tmp_path: Path) -> None:
    write(tmp_path, queries_dev="1\ta\n2\tb\n", qrels_retrieval_dev=f"{header}1\t5\n1\t6\n2\t5\n")
    assert T2RankingDataset(tmp_path, "dev").positives == {"1": ("5", "6"), "2": ("5",)}


def test_ids_that_are_no_numbers_lose_no_record(tmp_path: Path) -> None:
    """A collection of one's own, without header lines: the first record is no header."""
    write(tmp_path, collection="d-a\tone\nd-b\ttwo\n", queries_dev="q-a\twhat\nq-b\twho\n")
    write(tmp_path, qrels_dev="q-a\t0\td-a\t3\nq-b\t0\td-b\t2\n", dev_bm25="q-a\td-a\t1\nq-b\td-b\t1\n")
    dataset = T2RankingDataset(tmp_path, "dev")
    assert dict(dataset.corpus) == {"d-a": "one", "d-b": "two"}
    assert dataset.queries == {"q-a": "what", "q-b": "who"}
    assert dataset.positives == {"q-a": ("d-a",), "q-b": ("d-b",)}
    assert dict(dataset.stream_run("bm25")) == {"q-a": ["d-a"], "q-b": ["d-b"]}


def test_another_split_reads_the_passages_once(collection: Path) -> None:
    train = T2RankingDataset(collection, "train")
    dev = train.open_split("dev")
    assert (dev.split, dev.queries) == ("dev", T2RankingDataset(collection, "dev").queries)
    assert dev.corpus is train.corpus


def test_lists_may_stand_elsewhere(collection: Path, tmp_path: Path) -> None:
    """Mined by a model of one's own: the folder holds nothing but the lists."""
    train = T2RankingDataset(collection, "train")
    query, (positive, *_) = next(iter(train.positives.items()))
    write(tmp_path, train_mined=f"{query}\t{positive}\t1\n{query}\t0\t2\n")
    assert list(train.negatives("mined", 5, folder=tmp_path)) == [(query, ["0"])]


def test_levels_become_labels_at_the_threshold(tmp_path: Path) -> None:
    rows = "".join(f"1\t0\t{level}0\t{level}\n" for level in range(4))
    dataset = T2RankingDataset(write(tmp_path, queries_dev="1\ta\n", qrels_dev=rows), "dev")
    assert dataset.qrels_graded == {"1": {"00": 0, "10": 1, "20": 2, "30": 3}}
    assert dataset.qrels_binary() == {"1": {"00": 0, "10": 0, "20": 1, "30": 1}}
    assert dataset.qrels_binary(threshold=1) == {"1": {"00": 0, "10": 1, "20": 1, "30": 1}}


def test_positives_come_from_the_levels_where_the_file_is_missing(tmp_path: Path) -> None:
    write(tmp_path, queries_dev="1\ta\n2\tb\n", qrels_dev="1\t0\t5\t2\n1\t0\t6\t1\n2\t0\t5\t1\n")
    assert T2RankingDataset(tmp_path, "dev").positives == {"1": ("5",)}


def test_both_files_of_a_collection_agree(collection: Path) -> None:
    dataset = T2RankingDataset(collection, "train")
    from_levels = {
        query: {key for key, label in row.items() if label} for query, row in dataset.qrels_binary().items()
    }
    from_levels = {query: keys for query, keys in from_levels.items() if keys}
    assert {query: set(keys) for query, keys in dataset.positives.items()} == from_levels
    assert len(dataset.positives) < len(dataset.queries)  # some query has none


def test_negatives_lose_positives_before_the_window_is_cut(tmp_path: Path) -> None:
    write(
        tmp_path,
        queries_train="1\ta\n2\tb\n",
        qrels_retrieval_train="1\t10\n1\t12\n",
        train_bm25="qid\tpid\tindex\n1\t10\t1\n1\t11\t2\n1\t12\t3\n1\t13\t4\n1\t14\t5\n2\t10\t1\n",
    )
    dataset = T2RankingDataset(tmp_path, "train")
    assert list(dataset.negatives("bm25", 2)) == [("1", ["11", "13"]), ("2", ["10"])]
    assert list(dataset.negatives("bm25", (1, 9))) == [("1", ["13", "14"]), ("2", [])]


def test_lists_are_read_by_rank_not_by_score(tmp_path: Path) -> None:
    write(
        tmp_path,
        queries_train="1\ta\n",
        qrels_retrieval_train="1\t99\n",
        train_mined="1\t10\t2\t0.9\n1\t11\t1\t0.9\n1\t12\t3\t0.1\n",
    )
    assert list(T2RankingDataset(tmp_path, "train").negatives("mined", 200)) == [("1", ["11", "10", "12"])]


def test_a_long_list_is_streamed(tmp_path: Path) -> None:
    """The first query is there before a broken line behind it is read."""
    write(tmp_path, queries_train="1\ta\n2\tb\n", qrels_retrieval_train="1\t5\n")
    write(tmp_path, train_bm25="1\t10\t1\n1\t11\t2\n2\t10\t1\n2\tbroken\n")
    negatives = T2RankingDataset(tmp_path, "train").negatives("bm25", 200)
    assert next(negatives) == ("1", ["10", "11"])
    with pytest.raises(DataError, match=r"train\.bm25\.tsv:4: the record must be a row of 3 columns"):
        list(negatives)


def test_gzipped_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "queries.dev.tsv.gz").write_bytes(gzip.compress("qid\tquery\n7\t问\n".encode()))
    assert T2RankingDataset(tmp_path, "dev").queries == {"7": "问"}


def test_test_judgements_are_not_released(collection: Path) -> None:
    dataset = T2RankingDataset(collection, "test")
    assert len(dataset.queries) == 6
    with pytest.raises(DataError, match="Judgements of the test set are not released; evaluate on 'dev'"):
        _ = dataset.qrels_graded


def test_a_judgement_of_an_unknown_query_is_refused(tmp_path: Path) -> None:
    write(tmp_path, queries_dev="1\ta\n", qrels_dev="1\t0\t5\t2\n9\t0\t5\t2\n")
    with pytest.raises(DataError, match=r"qrels\.dev\.tsv:2: `query` must be one of the ids"):
        _ = T2RankingDataset(tmp_path, "dev").qrels_graded


@pytest.mark.parametrize("row", ["1 0 5 4", "1 0 5 -1", "1 0 2 5"])
def test_a_level_that_is_none_is_refused(row: str, tmp_path: Path) -> None:
    """The last row has its columns in another order: a level, then a passage."""
    write(tmp_path, queries_dev="1\ta\n", qrels_dev=f"1 0 6 3\n{row}\n")
    message = r"qrels\.dev\.tsv: `level` must be from 0 to 3; got (4|-1|5) for passage '[25]' of query '1'"
    with pytest.raises(DataError, match=message):
        _ = T2RankingDataset(tmp_path, "dev").qrels_graded


def test_a_header_that_is_not_understood_is_refused(tmp_path: Path) -> None:
    write(tmp_path, queries_train="1\ta\n", qrels_retrieval_train="1\t5\n", train_bm25="x\ty\t1\n1\t10\t2\n")
    with pytest.raises(DataError, match=r"train\.bm25\.tsv:1: `query` must be a whole number, or the name"):
        list(T2RankingDataset(tmp_path, "train").negatives("bm25", 200))


@pytest.mark.parametrize(
    ("source", "window", "message"),
    [("bm52", 200, "Did you mean 'bm25'"), ("bm25", 0, "a range of ranks"), ("bm25", (5, 5), "a range of")],
)
def test_bad_settings_are_refused(
    source: str, window: int | tuple[int, int], message: str, collection: Path
) -> None:
    with pytest.raises(ArgumentError, match=message):
        list(T2RankingDataset(collection, "train").negatives(source, window))


def test_an_unknown_split_is_refused(collection: Path) -> None:
    with pytest.raises(ArgumentError, match="`split` must be one of 'train', 'dev', 'test'; got 'val'"):
        T2RankingDataset(collection, "val")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be an existing folder"):
        T2RankingDataset(tmp_path / "none", "dev")


def test_a_missing_rank_is_kept_as_a_gap(tmp_path: Path) -> None:
    """The reference evaluator puts passage 0 at rank 2, where it would count as found."""
    path = tmp_path / "run.tsv"
    path.write_text("q1 10 1\nq1 12 3\nq2 0 2\n".replace("q", ""), encoding="utf-8")
    rankings = dict(stream_rankings(path))
    assert rankings == {"1": ["10", None, "12"], "2": [None, "0"]}
    metrics = measure_rankings(rankings, {"1": ["0", "12"], "2": ["0"]})
    assert metrics["t2_mrr_at_10"] == pytest.approx((1 / 3 + 1 / 2) / 2)


@pytest.mark.parametrize("rows", ["1 10 1\n1 11 1\n", "1 10 0\n1 11 1\n"])
def test_ranks_that_are_no_places_are_refused(rows: str, tmp_path: Path) -> None:
    path = tmp_path / "run.tsv"
    path.write_text(rows, encoding="utf-8")
    with pytest.raises(DataError, match="a run with the ranks 1, 2, "):
        list(stream_rankings(path))


def test_ranks_after_a_thousand_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "run.tsv"
    path.write_text("".join(f"1\t{rank + 5}\t{rank}\n" for rank in range(1, 1003)), encoding="utf-8")
    ((_, ranking),) = stream_rankings(path)
    assert (len(ranking), ranking[-1]) == (1000, "1005")
