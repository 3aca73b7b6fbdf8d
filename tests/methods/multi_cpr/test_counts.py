"""The official counts: a whole copy shows no difference, a part of one shows which."""

from __future__ import annotations

from pathlib import Path

import pytest

from fletching.methods.multi_cpr import MultiCPRDataset
from fletching.methods.multi_cpr.counts import OFFICIAL, DomainCounts, SplitCounts


def test_1_counts_are_those_of_the_official_files() -> None:
    """Section 5, item 1: the table of section 2.2."""
    passages = {domain: counts.passages for domain, counts in OFFICIAL.items()}
    assert passages == {"ecom": 1_002_822, "video": 1_000_000, "medical": 959_526}
    train = {domain: counts.splits["train"] for domain, counts in OFFICIAL.items()}
    assert {name: split.queries for name, split in train.items()} == {
        "ecom": 100_000,
        "video": 100_000,
        "medical": 99_999,
    }
    assert {name: split.distinct_passages for name, split in train.items()} == {
        "ecom": 100_000,
        "video": 93_406,
        "medical": 98_872,
    }
    dev = {domain: counts.splits["dev"] for domain, counts in OFFICIAL.items()}
    assert {split.queries for split in dev.values()} == {1000}
    assert dev["medical"].query_ids == (1, 1000)
    assert train["medical"].query_ids == (1, 99_999)  # the ids of dev are among them


def test_other_files_differ_in_what_is_named(root: Path) -> None:
    differences = {row.subject: row for row in MultiCPRDataset(root, "medical", "train").check_counts()}
    assert str(differences["queries"]) == "queries: expected 99999, found 90"
    assert str(differences["passages"]) == "passages: expected 959526, found 150"
    assert "judged passages that are missing" not in differences


def test_a_copy_with_the_right_counts_shows_no_difference(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = MultiCPRDataset(root, "medical", "dev")
    mean = round(sum(len(text) for text in dataset.queries.values()) / 20, 2)
    split = SplitCounts(20, (1, 20), (30_000_001, 30_000_020), mean_query_length=mean)
    monkeypatch.setitem(OFFICIAL, "medical", DomainCounts(150, {"dev": split}, shared_range=False))
    assert dataset.check_counts() == []


def test_ids_outside_a_shared_range_are_reported(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = MultiCPRDataset(root, "video", "train")
    highest = max(int(passage) for passage in dataset.positives.values())
    for most, expected in ((highest, 0), (highest - 1, 1)):
        split = SplitCounts(90, (6, 95), (1, most))
        monkeypatch.setitem(OFFICIAL, "video", DomainCounts(150, {"train": split}, shared_range=True))
        found = [row for row in dataset.check_counts() if row.subject == "range of the judged ids"]
        assert len(found) == expected


def test_missing_passages_are_a_difference_not_an_error(tmp_path: Path) -> None:
    domain = tmp_path / "video"
    domain.mkdir()
    (domain / "dev.query.txt").write_text("q7\ta\n")
    (domain / "qrels.dev.tsv").write_text("q7\t0\tp\t1\n")
    differences = {row.subject: row.found for row in MultiCPRDataset(tmp_path, "video", "dev").check_counts()}
    assert differences["passages"] is None
    assert differences["range of the query ids"] is None  # these ids are no numbers
