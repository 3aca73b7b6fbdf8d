"""The loader: keys of two splits, files in parts, errors by file and line, samples that say what they are."""

from __future__ import annotations

import gzip
import pickle
import shutil
from pathlib import Path

import pytest

from fletching.errors import ArgumentError, DataError
from fletching.methods.multi_cpr import MultiCPRDataset, QueryKey

QUERIES = "1\t红色连衣裙\n2\t蓝色 衬衫\n"
QRELS = "1\t0\t30\t1\n2\t0\t7\t1\n"
CORPUS = "30\t红色连衣裙新款\n7\t蓝色衬衫\n8\t黑色帽子\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A domain with two queries and three passages."""
    domain = tmp_path / "ecom"
    domain.mkdir()
    for name, text in (("train.query.txt", QUERIES), ("qrels.train.tsv", QRELS), ("corpus.tsv", CORPUS)):
        (domain / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_1_every_judgement_is_checked(folder: Path) -> None:
    """Section 5, item 1: each judged query exists, has one positive, and labels are text, not numbers."""
    dataset = MultiCPRDataset(folder, "ecom", "train")

    assert dataset.queries == {("train", "1"): "红色连衣裙", ("train", "2"): "蓝色 衬衫"}
    assert dataset.qrels == {("train", "1"): {"30": 1}, ("train", "2"): {"7": 1}}
    assert dataset.positives == {("train", "1"): "30", ("train", "2"): "7"}
    assert dict(dataset.corpus) == {"30": "红色连衣裙新款", "7": "蓝色衬衫", "8": "黑色帽子"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2\t0\t7", ":2: the record must be a row of 4 columns separated by tabs; got 3: '2"),
        ("2 0 7 1", ":2: the record must be a row of 4 columns separated by tabs; got 1: '2 0 7 1'"),
        ("2\t0\t7\t1\t", ":2: the record must be a row of 4 columns separated by tabs; got 5"),
        ("2\tQ0\t7\t1", ":2: `iteration` must be '0'; got 'Q0'"),
        ("2\t0\t7\t1.0", ":2: `label` must be '1'; got '1.0'"),
        ("2\t0\t7\t0", ":2: `label` must be '1'; got '0'"),
        ("2\t0\t\t1", ":2: `passage` must be a non-empty id; got ''"),
        ("3\t0\t7\t1", ":2: `query` must be an id of train.query.txt; got '3'"),
        ("1\t0\t7\t1", ":2: `query` must be judged once; got '1'"),
    ],
)
def test_malformed_judgements_name_file_and_line(folder: Path, row: str, message: str) -> None:
    path = folder / "ecom" / "qrels.train.tsv"
    path.write_text(f"1\t0\t30\t1\n{row}\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        MultiCPRDataset(folder, "ecom", "train")
    assert f"{path}{message}" in str(caught.value)


@pytest.mark.parametrize("name", ["train.query.txt", "qrels.train.tsv"])
def test_missing_queries_are_named_at_once(folder: Path, name: str) -> None:
    (folder / "ecom" / name).unlink()
    with pytest.raises(DataError, match=f"ecom/{name}: the file must be an existing file") as caught:
        MultiCPRDataset(folder, "ecom", "train")
    assert "take it from the full data" in str(caught.value)


def test_missing_passages_are_named_when_they_are_needed(folder: Path) -> None:
    """The public snapshot has queries and judgements without the passages: those can be read."""
    (folder / "ecom" / "corpus.tsv").unlink()
    dataset = MultiCPRDataset(folder, "ecom", "train")
    assert len(dataset.queries) == 2
    with pytest.raises(DataError, match=r"ecom/corpus.tsv: the file must be an existing file; got nothing"):
        _ = dataset.corpus


def test_2_ids_of_two_splits_do_not_collide(root: Path) -> None:
    """Section 5, item 2, in small: merging by id loses the 20 training queries whose ids dev has too."""
    train, dev = (MultiCPRDataset(root, "medical", split) for split in ("train", "dev"))

    naive = {key.id: text for key, text in train.queries.items()} | {
        key.id: text for key, text in dev.queries.items()
    }
    assert len(naive) == 90 + 20 - 20
    assert len(train.queries | dev.queries) == 90 + 20
    assert len(train.qrels | dev.qrels) == 90 + 20
    assert train.queries[QueryKey("train", "1")] != dev.queries[QueryKey("dev", "1")]


def test_parts_of_the_passages_are_joined_in_the_order_of_their_numbers(folder: Path) -> None:
    domain = folder / "ecom"
    (domain / "corpus.tsv").unlink()
    for number in (2, 10, 1, *range(3, 10)):
        (domain / f"corpus_split_{number}.tsv").write_text(f"{100 - number}\tp{number}\n")
    dataset = MultiCPRDataset(folder, "ecom", "train")

    assert list(dataset.corpus) == [str(100 - number) for number in range(1, 11)]
    assert dataset.corpus["90"] == "p10"


def test_a_missing_part_is_named(folder: Path) -> None:
    domain = folder / "ecom"
    (domain / "corpus.tsv").rename(domain / "corpus_split_3.tsv")
    (domain / "corpus_split_1.tsv").write_text("1\ta\n")
    with pytest.raises(DataError, match=r"corpus_split_2.tsv: the file must be an existing file"):
        _ = MultiCPRDataset(folder, "ecom", "train").corpus


def test_further_tabs_are_spaces(folder: Path) -> None:
    """Three columns are id, title, text; in two, a tab belongs to the text; a last field may be empty."""
    (folder / "ecom" / "corpus.tsv").write_text("30\t标题\t正文\n7\tab\t\n", encoding="utf-8")
    dataset = MultiCPRDataset(folder, "ecom", "train")
    assert dict(dataset.stream_passages()) == {"30": "标题 正文", "7": "ab "}
    assert dataset.corpus["30"] == "标题 正文"


def test_a_row_without_a_tab_names_file_and_line(folder: Path) -> None:
    (folder / "ecom" / "corpus.tsv").write_text("30\ta\n7 b\n")
    with pytest.raises(DataError, match=r"corpus.tsv:2: the record must be an id, a tab and a text"):
        _ = MultiCPRDataset(folder, "ecom", "train").corpus


def test_gzipped_queries_and_windows_line_ends_are_read(folder: Path) -> None:
    domain = folder / "ecom"
    packed = gzip.compress(QUERIES.replace("\n", "\r\n").encode())
    (domain / "train.query.txt").unlink()
    (domain / "train.query.txt.gz").write_bytes(packed)
    dataset = MultiCPRDataset(folder, "ecom", "train")
    assert list(dataset.queries.values()) == ["红色连衣裙", "蓝色 衬衫"]


def test_domains_are_found_where_the_repository_has_them(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clone").mkdir()
    shutil.move(folder / "ecom", tmp_path / "clone" / "data" / "ecom")
    assert len(MultiCPRDataset(tmp_path / "clone", "ecom", "train").queries) == 2


def test_unknown_names_are_refused(folder: Path) -> None:
    with pytest.raises(ArgumentError, match="`domain` must be one of 'ecom', 'medical', 'video'; got 'vide'"):
        MultiCPRDataset(folder, "vide", "train")
    with pytest.raises(ArgumentError, match="`split` must be one of 'train', 'dev'; got 'test'"):
        MultiCPRDataset(folder, "ecom", "test")
    with pytest.raises(DataError, match="a folder with ecom, medical, video; got no folder 'video'"):
        MultiCPRDataset(folder, "video", "train")


def test_unjudged_queries_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "ecom" / "qrels.train.tsv").write_text("1\t0\t30\t1\n")
    dataset = MultiCPRDataset(folder, "ecom", "train")
    assert (len(dataset.queries), len(dataset.qrels)) == (2, 1)
    assert "1 of 2 queries are not judged" in caplog.text


def test_a_positive_outside_the_passages_is_named(folder: Path) -> None:
    (folder / "ecom" / "qrels.train.tsv").write_text("1\t0\t31\t1\n2\t0\t7\t1\n")
    with pytest.raises(DataError, match=r"about passages of corpus.tsv; got '31' for query '1'"):
        MultiCPRDataset(folder, "ecom", "train").build_pairs()


def test_sampled_passages_hold_all_positives_and_say_so(root: Path) -> None:
    whole = MultiCPRDataset(root, "ecom", "dev")
    sample = whole.sample_corpus(30, seed=1)

    assert sample.name == "multi_cpr_ecom_dev_positives_and_30_random_not_comparable"
    assert len(sample.corpus) == 20 + 30
    assert set(sample.positives.values()) <= set(sample.corpus)
    assert list(sample.corpus) == [key for key in whole.corpus if key in sample.corpus]
    assert dict(whole.sample_corpus(30, seed=1).corpus) == dict(sample.corpus)
    assert dict(whole.sample_corpus(30, seed=2).corpus) != dict(sample.corpus)
    assert len(whole.corpus) == 150


def test_sample_larger_than_the_rest_is_refused(root: Path) -> None:
    with pytest.raises(ArgumentError, match="an integer from 0 to 130, the passages that answer no query"):
        MultiCPRDataset(root, "ecom", "dev").sample_corpus(131)


def test_held_out_queries_share_no_passage_with_the_rest(root: Path) -> None:
    whole = MultiCPRDataset(root, "video", "train")
    assert len(set(whole.positives.values())) < len(whole.positives)  # else this would test nothing
    for seed in range(5):
        rest, held = whole.hold_out(30, seed=seed)
        assert 30 <= len(held.queries) <= 32
        assert rest.queries | held.queries == whole.queries
        assert not rest.queries.keys() & held.queries.keys()
        assert not set(rest.positives.values()) & set(held.positives.values())
    assert whole.hold_out(30, seed=1)[1].queries == whole.hold_out(30, seed=1)[1].queries
    assert whole.hold_out(30, seed=1)[1].queries != whole.hold_out(30, seed=2)[1].queries


@pytest.mark.parametrize("n_queries", [0, 90, 1000, "3"])
def test_holding_out_nothing_or_everything_is_refused(root: Path, n_queries: int) -> None:
    with pytest.raises(ArgumentError, match="an integer that leaves some of the 90 judged queries"):
        MultiCPRDataset(root, "ecom", "train").hold_out(n_queries)


def test_take_keeps_the_order_of_the_files(root: Path) -> None:
    whole = MultiCPRDataset(root, "ecom", "train")
    part = whole.take(7, seed=3)
    assert len(part.queries) == 7
    assert list(part.queries) == [key for key in whole.queries if key in part.queries]
    assert whole.take(90) is whole


def test_pairs_are_query_and_positive(folder: Path) -> None:
    assert MultiCPRDataset(folder, "ecom", "train").build_pairs() == {
        "anchor": ["红色连衣裙", "蓝色 衬衫"],
        "positive": ["红色连衣裙新款", "蓝色衬衫"],
    }


def test_a_data_set_is_pickled(root: Path) -> None:
    dataset = MultiCPRDataset(root, "medical", "dev")
    first = next(iter(dataset.corpus))
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.queries == dataset.queries
    assert copy.corpus[first] == dataset.corpus[first]
