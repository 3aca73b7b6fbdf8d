"""The made-up collections have what loaders stumble over."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fletching.errors import ArgumentError
from fletching.methods.multi_cpr import DOMAINS, MultiCPRDataset, write_synthetic


def test_all_domains_and_splits_can_be_read(root: Path) -> None:
    for domain in DOMAINS:
        for split, size in (("train", 90), ("dev", 20)):
            dataset = MultiCPRDataset(root, domain, split)
            assert len(dataset.queries) == len(dataset.qrels) == size
            assert len(dataset.corpus) == len(set(dataset.corpus.values())) == 150
            assert set(dataset.positives.values()) <= set(dataset.corpus)


def test_medical_ids_collide_and_its_passages_are_in_parts(root: Path) -> None:
    train, dev = (MultiCPRDataset(root, "medical", split) for split in ("train", "dev"))
    assert {key.id for key in dev.queries} < {key.id for key in train.queries}
    assert min(map(int, dev.positives.values())) == 30_000_001
    assert max(map(int, train.positives.values())) < 1000
    assert len(train.corpus_paths) == 4


def test_video_ids_have_gaps_and_pairs_repeat_passages(root: Path) -> None:
    """6.6 % of 90 pairs are 6."""
    dataset = MultiCPRDataset(root, "video", "train")
    counts = Counter(dataset.positives.values())
    assert sum(count - 1 for count in counts.values()) == 6
    assert max(map(int, dataset.corpus)) > 150
    assert len(set(MultiCPRDataset(root, "ecom", "train").positives.values())) == 90


def test_same_seed_same_files(root: Path, tmp_path: Path) -> None:
    sizes = {"n_passages": 150, "n_train": 90, "n_dev": 20}
    write_synthetic(tmp_path / "same", **sizes)
    write_synthetic(tmp_path / "other", **sizes, seed=1)
    for path in sorted(root.rglob("*.t*")):
        name = path.relative_to(root)
        assert (tmp_path / "same" / name).read_bytes() == path.read_bytes()
    assert (tmp_path / "other/ecom/corpus.tsv").read_bytes() != (root / "ecom/corpus.tsv").read_bytes()


@pytest.mark.parametrize("n_passages", [109, 100_000])
def test_impossible_sizes_are_refused(tmp_path: Path, n_passages: int) -> None:
    with pytest.raises(ArgumentError, match="`n_passages` must be from n_train"):
        write_synthetic(tmp_path, n_passages=n_passages, n_train=90, n_dev=20)
    assert list(tmp_path.iterdir()) == []
