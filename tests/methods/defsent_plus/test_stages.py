"""Stages: resumption, what is saved, multi-positive rows, refusals; DefSent's own training."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from transformers import Trainer

from fletching.errors import ArgumentError, CheckpointError, FletchingError
from fletching.methods.defsent_plus.data import DefinitionSet
from fletching.methods.defsent_plus.entries import EntryEmbeddings
from fletching.methods.defsent_plus.heads import MaskedWordHead, find_single_words
from fletching.methods.defsent_plus.model import DefSentPlusEmbedder
from fletching.methods.defsent_plus.stages import ProgressiveSeparateTrainer, Stage
from fletching.methods.defsent_plus.training import TrainingOptions, train_single_words
from fletching.testing import save_tiny_bert
from fletching.training import TrainingFolder

PAIRS = [
    ("bow", "a string on wood"),
    ("bow", "what the archer is with"),
    ("goose feather", "the fletching of an arrow"),
    ("shaft", "the wood of an arrow"),
    ("nock", "the point on the string"),
    ("end of a shaft", "the point on the string"),
    ("end of a shaft", "the wood on the string"),
    ("arrow", "a shaft with a point and feathers"),
]
OPTIONS = TrainingOptions(batch_size=3, save_steps=1, seed=1)
STAGES = [Stage(learning_rate=1e-3), Stage(entry="amp", learning_rate=1e-3)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_bert(tmp_path_factory.mktemp("base"), head="masked-lm")


@pytest.fixture(scope="module")
def definitions() -> DefinitionSet:
    return DefinitionSet.from_pairs(PAIRS)


def build(base: str, definitions: DefinitionSet, **options: Any) -> ProgressiveSeparateTrainer:
    return ProgressiveSeparateTrainer(
        base,
        definitions,
        options.pop("stages", STAGES),
        options=TrainingOptions(head="identity", batch_size=3, save_steps=1, seed=1, **options),
        evaluate=lambda model: {"norm": float(model.encode("a bow").sum())},
    )


@pytest.fixture(scope="module")
def trained(
    base: str, definitions: DefinitionSet, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ProgressiveSeparateTrainer, DefSentPlusEmbedder]:
    folder = tmp_path_factory.mktemp("trained")
    trainer = build(base, definitions)
    return folder, trainer, trainer.train(folder)


def test_a_training_killed_in_each_stage_ends_with_the_same_weights(
    base: str,
    definitions: DefinitionSet,
    trained: tuple[Path, ProgressiveSeparateTrainer, DefSentPlusEmbedder],
    tmp_path: Path,
    kill_at_checkpoint: Any,
) -> None:
    """Three steps a stage, a checkpoint behind each: killed behind step 2 of either stage."""
    for resume, checkpoint in ((False, 2), (True, 3)):
        with kill_at_checkpoint(checkpoint):
            build(base, definitions).train(tmp_path, resume=resume)
    assert (tmp_path / "checkpoints" / "checkpoint-2").is_dir()
    assert not (tmp_path / "modules.json").exists()
    trainer = build(base, definitions)
    model = trainer.train(tmp_path, resume=True)
    _, whole, expected = trained
    found = model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.state_dict().items())
    for name in ("weight", "bias"):
        assert torch.equal(getattr(model.dictionary, name), getattr(expected.dictionary, name))
    assert trainer.records == whole.records
    assert trainer.before == whole.before


def test_definitions_of_like_length_may_be_read_together(
    base: str, definitions: DefinitionSet, tmp_path: Path, drawn_by_length: list[list[int]]
) -> None:
    """Sorted, the batches' lengths are those of all definitions in their order."""
    build(base, definitions, stages=STAGES[:1], group_by_length=True).train(tmp_path)
    lengths = [len(text) for text, _ in definitions.examples()]
    found = [sorted(lengths[row] for row in batch) for batch in drawn_by_length]
    assert [length for batch in sorted(found) for length in batch] == sorted(lengths)


def test_a_finished_training_is_not_repeated(
    base: str,
    definitions: DefinitionSet,
    trained: tuple[Path, ProgressiveSeparateTrainer, DefSentPlusEmbedder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(Trainer, "train", refuse)
    again = build(base, definitions)
    again.train(trained[0], resume=True)
    assert again.records == trained[1].records


def test_a_training_that_starts_anew_forgets_the_one_before(
    base: str,
    definitions: DefinitionSet,
    trained: tuple[Path, ProgressiveSeparateTrainer, DefSentPlusEmbedder],
    tmp_path: Path,
    kill_at_checkpoint: Any,
) -> None:
    """Its second stage is neither taken for done by the run that resumes it, nor gone on with."""
    copytree(trained[0], tmp_path, dirs_exist_ok=True)
    assert len(list(tmp_path.rglob("stage.json"))) == 2
    with kill_at_checkpoint(1):
        build(base, definitions).train(tmp_path)
    assert not list(tmp_path.rglob("stage.json"))
    assert [path.parent.parent.name for path in tmp_path.rglob("checkpoint-*")] == ["stage_1"]


def test_records_tell_what_each_stage_was(
    trained: tuple[Path, ProgressiveSeparateTrainer, DefSentPlusEmbedder],
) -> None:
    folder, trainer, model = trained
    first, second = trainer.records
    assert [record["settings"]["entry"] for record in (first, second)] == ["ac", "amp"]
    assert trainer.before["norm"] not in (first["metrics"]["norm"], second["metrics"]["norm"])
    assert first["head"] == "the identity"
    assert second["entries"]["count"] == 6
    assert second["metrics"] == {"norm": pytest.approx(float(model.encode("a bow").sum()), abs=1e-5)}
    assert first["metrics"] != second["metrics"]
    assert json.loads((folder / "checkpoints" / "stage.json").read_text(encoding="utf-8")) == second


def test_the_saved_model_names_entries(
    trained: tuple[Path, ProgressiveSeparateTrainer, DefSentPlusEmbedder],
) -> None:
    folder, _, _ = trained
    model = DefSentPlusEmbedder(str(folder), device="cpu")
    hits = model.nearest_entries("the point on the string", top_k=6)
    assert {hit.entry for hit in hits} == {"bow", "goose feather", "shaft", "nock", "end of a shaft", "arrow"}
    entries = EntryEmbeddings.load(folder / "checkpoints" / "entries.safetensors")
    assert model.dictionary is not None
    assert torch.equal(model.dictionary.entries.vectors, entries.vectors)


def test_other_definitions_do_not_resume(
    base: str,
    definitions: DefinitionSet,
    trained: tuple[Path, ProgressiveSeparateTrainer, DefSentPlusEmbedder],
) -> None:
    """Not even where the entries are the same, and the text of one definition is another."""
    others = DefinitionSet.from_pairs([("bow", "a string on a stick"), *PAIRS[1:]])
    assert others.members == definitions.members
    with pytest.raises(ArgumentError, match="`definitions` must be what the stopped run was begun"):
        build(base, others).train(trained[0], resume=True)


def test_another_base_does_not_resume(
    definitions: DefinitionSet,
    trained: tuple[Path, ProgressiveSeparateTrainer, DefSentPlusEmbedder],
    tmp_path: Path,
) -> None:
    other = save_tiny_bert(tmp_path, seed=7, head="masked-lm")
    with pytest.raises(ArgumentError, match="`base` must be what the stopped run was begun with"):
        build(other, definitions).train(trained[0], resume=True)


@pytest.mark.parametrize(
    ("name", "changes"), [("stages", {"stages": [*STAGES, STAGES[0]]}), ("options", {"epochs": 2})]
)
def test_other_settings_do_not_resume(
    base: str,
    definitions: DefinitionSet,
    trained: tuple[Path, ProgressiveSeparateTrainer, DefSentPlusEmbedder],
    name: str,
    changes: dict[str, Any],
) -> None:
    with pytest.raises(ArgumentError, match=f"`{name}` must be what the stopped run was begun with"):
        build(base, definitions, **changes).train(trained[0], resume=True)


def test_a_checkpoint_without_the_projection_is_refused(
    base: str, definitions: DefinitionSet, tmp_path: Path, kill_at_checkpoint: Any
) -> None:
    with kill_at_checkpoint(1):
        build(base, definitions, stages=STAGES[:1]).train(tmp_path)
    (tmp_path / "checkpoints" / "checkpoint-1" / "definition_loss.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is not there, or that of another loss"):
        build(base, definitions, stages=STAGES[:1]).train(tmp_path, resume=True)


def test_a_model_in_memory_is_left_as_it_is(base: str, definitions: DefinitionSet, tmp_path: Path) -> None:
    model = DefSentPlusEmbedder(base, pooling="mean", device="cpu")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = ProgressiveSeparateTrainer(
        model, definitions, STAGES[:1], options=TrainingOptions(head="identity", batch_size=3, seed=1)
    )
    result = trainer.train(tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert (model.pooling, result.pooling) == ("mean", "cls")
    assert any(not torch.equal(tensor, before[name]) for name, tensor in result.state_dict().items())


def test_multi_positive_rows_train(base: str, definitions: DefinitionSet, tmp_path: Path) -> None:
    """In a single step: seven definitions, one of them of two entries, instead of eight examples."""
    options = TrainingOptions(
        head="identity", multi_positive=True, classes_at_once=2, batch_size=7, save_steps=1
    )
    ProgressiveSeparateTrainer(base, definitions, STAGES[:1], options=options).train(tmp_path)
    assert [path.name for path in tmp_path.rglob("checkpoint-*")] == ["checkpoint-1"]


def test_independent_components_are_what_the_stage_trains_on(base: str, tmp_path: Path) -> None:
    """40 entries of 32 dimensions: columns have the deviation 100 / sqrt(40) and are uncorrelated.

    The states come from a LayerNorm, whose outputs span 31 dimensions; the last column is empty.
    """
    words = ["archer", "wind", "wood", "goose", "shaft", "nock", "point", "string"]
    pairs = [
        (f"{one} {other}", f"the {one} of a {other} {'in the wind' * (place % 3)}")
        for place, one in enumerate(words)
        for other in words[:5]
    ]
    definitions = DefinitionSet.from_pairs(pairs)
    stage = Stage(learning_rate=1e-4, ica=True)
    options = TrainingOptions(head="identity", batch_size=16)
    ProgressiveSeparateTrainer(base, definitions, [stage], options=options).train(tmp_path)
    entries = EntryEmbeddings.load(tmp_path / "checkpoints" / "entries.safetensors")
    assert entries.transformed
    covariance = entries.vectors.double().T.cov(correction=0)
    expected = 250 * torch.eye(32).double()
    expected[31, 31] = 0
    torch.testing.assert_close(covariance, expected, atol=0.5, rtol=0)


def test_the_norm_of_gradients_counts_the_projection(
    base: str, definitions: DefinitionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clipped: list[int] = []

    def clip(self: Trainer, model: torch.nn.Module) -> torch.Tensor:
        clipped.append(
            sum(weight.grad is not None for name, weight in model.named_parameters() if "head" in name)
        )
        return torch.tensor(1.0)

    monkeypatch.setattr(Trainer, "_clip_grad_norm", clip)
    build(base, definitions, stages=STAGES[:1]).train(tmp_path)
    assert clipped == [2, 2, 2]  # W and b, in each step


def test_single_word_training_moves_the_layers_alone(
    base: str, definitions: DefinitionSet, tmp_path: Path
) -> None:
    model = DefSentPlusEmbedder(base, pooling="max", device="cpu")
    head = MaskedWordHead.from_pretrained(base)
    tokens = find_single_words(definitions.entries, model.tokenizer)
    assert set(tokens) == {"bow", "shaft", "nock", "arrow"}
    pairs = [
        (definition, tokens[definitions.entries[label]])
        for definition, label in definitions.examples()
        if definitions.entries[label] in tokens
    ]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frozen = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    folder = TrainingFolder(tmp_path)
    train_single_words(model, head, pairs, folder, options=OPTIONS, learning_rate=1e-3)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all(".encoder.layer." in name for name in moved)
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in head.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"entry": "mean"}, "`entry` must be one of 'ac', 'amp'"),
        ({"pooling": "prompt"}, "can be opened with pooling='prompt'"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive and finite"),
        ({"ica": "yes"}, "`ica` must be True, False or an ICAConfig; got 'yes'"),
    ],
)
def test_a_stage_out_of_its_domain_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Stage(**options)


def test_options_and_stages_are_checked(base: str, definitions: DefinitionSet) -> None:
    with pytest.raises(ArgumentError, match="`head` must be one of"):
        TrainingOptions(head="poller")
    with pytest.raises(ArgumentError, match="`batch_size` must be a positive integer"):
        TrainingOptions(batch_size=0)
    with pytest.raises(ArgumentError, match="`epochs` must be positive"):
        TrainingOptions(epochs=0)
    with pytest.raises(ArgumentError, match="at least one stage"):
        ProgressiveSeparateTrainer(base, definitions, [])


def test_several_processes_are_refused(
    base: str, definitions: DefinitionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(FletchingError, match="it trains in one process; WORLD_SIZE is 2"):
        build(base, definitions).train(tmp_path)
