"""What the two trainers are given."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from fletching.errors import ArgumentError
from fletching.methods.multi_cpr import MultiCPRConfig, MultiCPRDataset
from fletching.methods.multi_cpr.functional import compute_contrastive_loss
from fletching.methods.multi_cpr.training import (
    GroupSampler,
    build_cross_encoder,
    build_dual_encoder,
    fill_defaults,
    train_cross_encoder,
    train_dual_encoder,
)
from fletching.training import EpochCallback, TrainingFolder


def test_dual_encoder_is_the_state_of_the_first_token(base: str) -> None:
    model = build_dual_encoder(base, max_tokens=16)
    text = "长安往事第2集"
    features = model.preprocess([text])
    with torch.no_grad():
        states = model[0].eval().model(**{name: features[name] for name in ("input_ids", "attention_mask")})
    expected = states.last_hidden_state[0, 0]
    torch.testing.assert_close(torch.tensor(model.encode(text)), expected.cpu(), atol=1e-5, rtol=1e-5)
    assert model.max_seq_length == 16


def test_lower_case_survives_a_save(base: str, tmp_path: Path) -> None:
    """The tokenizer of the base tells capitals apart; sentence-transformers itself opens the save."""
    texts = ["JINGYI 连衣裙", "jingyi 连衣裙"]
    build_dual_encoder(base, max_tokens=32).save_pretrained(str(tmp_path / "lower"))
    build_dual_encoder(base, max_tokens=32, lower_case=False).save_pretrained(str(tmp_path / "as it is"))
    lower, other = (
        SentenceTransformer(str(tmp_path / name)).tokenizer(texts)["input_ids"]
        for name in ("lower", "as it is")
    )
    assert lower[0] == lower[1]
    assert other[0] != other[1]


@pytest.mark.parametrize(("score", "similarity"), [("cosine", "cosine"), ("l2", "euclidean"), ("dot", "dot")])
def test_saved_model_compares_as_it_was_searched(base: str, score: str, similarity: str) -> None:
    assert build_dual_encoder(base, max_tokens=32, score=score).similarity_fn_name == similarity


def test_an_embedder_is_taken_as_it_is(base: str, tmp_path: Path) -> None:
    first = build_dual_encoder(base, max_tokens=32)
    first.save_pretrained(str(tmp_path))
    second = build_dual_encoder(str(tmp_path), max_tokens=20)
    assert second.max_seq_length == 20
    assert second.encode("长安").tolist() == pytest.approx(first.encode("长安").tolist())


def test_cross_encoder_has_one_logit_and_a_head_of_its_seed(base: str) -> None:
    one, same, other = (build_cross_encoder(base, max_tokens=32, seed=seed) for seed in (1, 1, 2))
    assert one.num_labels == 1
    weights = [dict(model.named_parameters())["0.model.classifier.weight"] for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_7_no_batch_repeats_a_passage(
    root: Path, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Section 5, item 7: some pairs of the video domain repeat a passage, no batch of the trainer does."""
    dataset = MultiCPRDataset(root, "video", "train")
    assert max(Counter(dataset.positives.values()).values()) > 1
    batches: list[list[int]] = []

    def look(trainer: Any, **options: Any) -> None:
        batches.extend(trainer.get_train_dataloader().batch_sampler)

    monkeypatch.setattr("sentence_transformers.SentenceTransformerTrainer.train", look)
    config = fill_defaults(MultiCPRConfig(batch_size=16, fp16=False), "dual_encoder")
    model = build_dual_encoder(base, max_tokens=64)
    train_dual_encoder(model, dataset, config=config, folder=TrainingFolder(tmp_path), save_steps=10)

    passages = dataset.build_pairs()["positive"]
    assert len(batches) >= 5
    for batch in batches:
        assert len({passages[place] for place in batch}) == len(batch)


def test_7_identical_positives_keep_the_loss_above_log_two() -> None:
    """Section 5, item 7: both have the same score, so that the right one gets at most half."""
    queries = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    passages = queries.clone()
    assert compute_contrastive_loss(queries, passages).item() == pytest.approx(math.log(2), abs=1e-6)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        queries = torch.randn(2, 4, generator=generator)
        repeated = torch.randn(1, 4, generator=generator).repeat(2, 1)
        assert compute_contrastive_loss(queries, repeated).item() >= math.log(2) - 1e-6


CORPUS = {f"p{number}": f"text {number}" for number in range(20)}
ROWS: dict[str, list[Any]] = {
    "query": ["q1", "q2"],
    "positive": ["p0", "p1"],
    "pool": [[f"p{number}" for number in range(2, 20)], ["p0", "p5"]],
}


def test_groups_are_columns_of_texts() -> None:
    columns = GroupSampler(CORPUS, size=4, seed=1)(ROWS)
    assert list(columns) == ["query", "positive", "negative_1", "negative_2", "negative_3"]
    assert columns["query"] == ["q1", "q2"]
    assert columns["positive"] == ["text 0", "text 1"]
    assert {columns[f"negative_{number}"][1] for number in (1, 2, 3)} <= {"text 0", "text 5"}


def test_groups_change_with_the_epoch_and_come_back_when_a_run_goes_on() -> None:
    sampler = GroupSampler(CORPUS, size=4, seed=1)
    callback = EpochCallback(sampler)
    drawn = []
    for epoch in (0.0, 1.0, 2.0, 1.4):  # the last: a run that goes on in the middle of the second epoch
        callback.on_epoch_begin(None, SimpleNamespace(epoch=epoch), None)
        drawn.append(sampler(ROWS))
    assert drawn[0] != drawn[1] != drawn[2]
    assert drawn[3] == drawn[1]
    assert GroupSampler(CORPUS, size=4, seed=2)(ROWS) != drawn[0]


def test_trainer_draws_new_groups_in_each_epoch(
    root: Path, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = MultiCPRDataset(root, "video", "train").take(4)
    ids = [key for key in dataset.corpus if key not in dataset.positives.values()]
    pools = dict.fromkeys(dataset.qrels, ids[:60])
    seen: list[tuple[str, ...]] = []
    original = GroupSampler.__call__

    def remember(self: GroupSampler, rows: dict[str, list[Any]]) -> dict[str, list[str]]:
        columns = original(self, rows)
        seen.extend(zip(*columns.values(), strict=True))
        return columns

    config = fill_defaults(
        MultiCPRConfig(epochs=2.0, batch_size=2, accumulation_steps=1, group_size=5), "cross_encoder"
    )
    model = build_cross_encoder(base, max_tokens=48, seed=0)
    monkeypatch.setattr(GroupSampler, "__call__", remember)
    folder = TrainingFolder(tmp_path)
    train_cross_encoder(model, dataset, pools, config=config, folder=folder, save_steps=100)
    groups = {row[0]: {other for other in seen if other[0] == row[0]} for row in seen}
    assert set(groups) == set(dataset.queries.values())
    assert all(len(found) >= 2 for found in groups.values())
    assert all(row[1] not in row[2:] for row in seen)


def test_no_negatives_at_all_is_refused(root: Path, base: str, tmp_path: Path) -> None:
    dataset = MultiCPRDataset(root, "video", "train").take(2)
    config = fill_defaults(MultiCPRConfig(), "cross_encoder")
    model = build_cross_encoder(base, max_tokens=48, seed=0)
    assert isinstance(model, CrossEncoder)
    with pytest.raises(ArgumentError, match="`first_stage` must be rankings with a passage other than"):
        train_cross_encoder(
            model,
            dataset,
            {key: [] for key in dataset.qrels},
            config=config,
            folder=TrainingFolder(tmp_path),
            save_steps=1,
        )
