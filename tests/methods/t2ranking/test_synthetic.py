"""Made-up collections: the same layout, the same files for the same seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fletching.errors import ArgumentError
from fletching.methods.t2ranking import T2RankingDataset, write_synthetic


def read_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_same_seed_writes_the_same_files(tmp_path: Path) -> None:
    folders = [
        write_synthetic(tmp_path / name, n_train=4, n_dev=2, n_passages=40, seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    first, second, third = map(read_bytes, folders)
    assert first == second
    assert first != third


def test_all_files_of_the_layout_are_there(collection: Path) -> None:
    assert {path.name for path in collection.iterdir()} == {
        "collection.tsv",
        *(f"queries.{split}.tsv" for split in ("train", "dev", "test")),
        *(f"qrels.{kind}{split}.tsv" for kind in ("", "retrieval.") for split in ("train", "dev")),
        *(
            "train.bm25.tsv",
            "train.mined.tsv",
            "dev.bm25.tsv",
            "dev.dpr.tsv",
            "test.bm25.tsv",
            "test.dpr.tsv",
        ),
    }


def test_passages_repeat_as_many_words_as_their_level_says(collection: Path) -> None:
    """A query begins with the topic's three words of two characters each, in the training split."""
    dataset = T2RankingDataset(collection, "train")
    for query, levels in dataset.qrels_graded.items():
        text = dataset.queries[query]
        words = [text[place : place + 2] for place in (0, 2, 4)]
        for passage, level in levels.items():
            assert sum(word in dataset.corpus[passage] for word in words) >= level


def test_some_query_has_no_relevant_passage(collection: Path) -> None:
    dataset = T2RankingDataset(collection, "train")
    assert len(dataset.queries) - len(dataset.positives) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_train": 2, "n_dev": 3}, "`n_dev` must be from 1 to n_train"), ({"n_passages": 9}, "at least 336")],
)
def test_bad_sizes_are_refused(options: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=message):
        write_synthetic(tmp_path, **options)
