"""The recipe: presets, sources, resumption, DefSent's mode, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fletching
from fletching.errors import ArgumentError, CheckpointError
from fletching.methods.defsent_plus.data import DefinitionSet
from fletching.methods.defsent_plus.model import DefSentPlusEmbedder
from fletching.methods.defsent_plus.presets import PRESETS
from fletching.methods.defsent_plus.recipe import DefSentPlusRecipe
from fletching.methods.defsent_plus.sources import read_definitions, sample_definitions
from fletching.methods.defsent_plus.synthetic import build_synthetic_definitions, build_synthetic_pairs
from fletching.testing import save_tiny_bert
from fletching.training.recipe import RESULTS_FILE

WORDS = ["arrow", "bow", "string", "feather", "archer", "target", "wind", "wood", "goose", "shaft"]
WORDS += ["nock", "point"]


def read_record(folder: Path) -> Any:
    return json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_bert(tmp_path_factory.mktemp("base"), head="masked-lm")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two dictionaries and pairs of sentences."""
    folder = tmp_path_factory.mktemp("files")
    words = [f"{word}\tthe {word} of a {other}\n" for word, other in zip(WORDS, WORDS[::-1], strict=True)]
    longer = [f"{word} of the archer\twhat the archer is with, a {word}\n" for word in WORDS[:6]]
    pairs = [f"{place % 3}\tthe {word}\ta {WORDS[-place]}\n" for place, word in enumerate(WORDS)]
    found = {"words": words, "longer": longer, "dev": pairs}
    for name, lines in found.items():
        (folder / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
    return {name: str(folder / f"{name}.tsv") for name in found}


@pytest.fixture(scope="module")
def recipe(base: str, files: dict[str, str]) -> DefSentPlusRecipe:
    return DefSentPlusRecipe(
        train_data=(files["words"], files["longer"]),
        dev_data=(files["dev"],),
        base=base,
        head="identity",
        entry="amp",
        learning_rates=(1e-3, 5e-4),
        ica_stages=(),
        batch_size=4,
        save_steps=2,
        seed=3,
    )


@pytest.fixture(scope="module")
def trained(recipe: DefSentPlusRecipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("trained")
    return folder, recipe.run(folder)


def test_a_trained_model_is_what_was_measured(trained: tuple[Path, Any], recipe: DefSentPlusRecipe) -> None:
    folder, results = trained
    model = fletching.load(folder, device="cpu")
    assert type(model) is DefSentPlusEmbedder
    assert model.pooling == "cls"
    record = read_record(folder)
    assert record["results"] == results
    assert results["before"].keys() == results["after"].keys() > {"sts_dev", "definitions_mean_cosine"}
    assert results["before"] != results["after"]
    assert [stage["settings"]["learning_rate"] for stage in record["stages"]] == [1e-3, 5e-4]
    assert record["stages"][-1]["metrics"] == results["after"]
    assert {"words.tsv", "longer.tsv", "dev.tsv"} == record["data"].keys()
    assert record["definitions"]["classes"] == 18
    assert record["definitions"]["multi_word_entries"] == 6
    hit = model.nearest_entries("what the archer is with, a bow", top_k=1)[0]
    assert hit.entry in {*WORDS, *(f"{word} of the archer" for word in WORDS)}


@pytest.mark.slow
def test_a_run_killed_and_resumed_ends_with_the_same_weights(
    recipe: DefSentPlusRecipe,
    trained: tuple[Path, Any],
    tmp_path: Path,
    kill_at_checkpoint: Any,
) -> None:
    """Five steps a stage, checkpoints at 2, 4 and 5: killed at 4 of the second stage."""
    with kill_at_checkpoint(5):
        recipe.run(tmp_path)
    assert (tmp_path / "stage_1" / "modules.json").is_file()
    assert recipe.run(tmp_path, resume=True) == trained[1]
    whole, killed = (fletching.load(folder, device="cpu") for folder in (trained[0], tmp_path))
    found = killed.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in whole.state_dict().items())
    assert torch.equal(whole.dictionary.weight, killed.dictionary.weight)


def test_the_saved_pooling_may_be_another_one(
    recipe: DefSentPlusRecipe, trained: tuple[Path, Any], tmp_path: Path
) -> None:
    """Stage 1 alone equals that of the run above; only how it pools in the end differs."""
    chosen = replace(recipe, learning_rates=(1e-3,), inference_pooling="prompt", dev_data=())
    chosen.run(tmp_path)
    model = fletching.load(tmp_path, device="cpu")
    assert model.pooling == "prompt"
    expected = DefSentPlusEmbedder(str(trained[0] / "stage_1"), pooling="prompt", device="cpu")
    texts = ["a bow", "the wind of the archer"]
    torch.testing.assert_close(model.encode(texts), expected.encode(texts))


def test_defsent_trains_on_single_words_and_ranks_held_out_ones(
    recipe: DefSentPlusRecipe, tmp_path: Path, kill_at_checkpoint: Any
) -> None:
    """Twelve words of one token: 10 to train on, 1 of each of the others; the longer entries are left out."""
    chosen = replace(recipe, mode="defsent", preset="defsent-bert-base", learning_rates=(1e-3,))
    results = chosen.run(tmp_path / "whole")
    record = read_record(tmp_path / "whole")
    assert (record["words"], record["training_words"], record["examples"]) == (12, 10, 10)
    assert {"words_mrr", "words_top10", "sts_dev"} < results["after"].keys()
    assert 0 < results["after"]["words_mrr"] <= 1
    with kill_at_checkpoint(1):
        chosen.run(tmp_path / "killed")
    assert chosen.run(tmp_path / "killed", resume=True) == results
    whole, killed = (fletching.load(tmp_path / name, device="cpu") for name in ("whole", "killed"))
    found = killed.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in whole.state_dict().items())


def test_defsent_needs_a_head_for_masked_words(recipe: DefSentPlusRecipe, tmp_path: Path) -> None:
    bare = save_tiny_bert(tmp_path / "bare")
    chosen = replace(recipe, mode="defsent", learning_rates=(1e-3,), base=bare)
    with pytest.raises(CheckpointError, match="no head for masked words"):
        chosen.run(tmp_path / "run")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("smoke")
    DefSentPlusRecipe.smoke().run(folder)
    return read_record(folder)


@pytest.mark.slow
def test_smoke_run_learns(smoke: Any) -> None:
    before, after = smoke["results"]["before"], smoke["results"]["after"]
    assert after["sts_dev"] > before["sts_dev"] + 0.1
    assert after["definitions_mean_cosine"] < before["definitions_mean_cosine"] - 0.2


@pytest.mark.slow
def test_spec_item_10_entries_of_a_raw_bert_spread_from_the_first_to_the_second_stage(smoke: Any) -> None:
    first, second = (stage["entries"]["mean_cosine"] for stage in smoke["stages"])
    assert second < first


def test_smoke_data_are_made_up_alike_each_time() -> None:
    """8 materials, 6 things, 3 definitions; a third of the pairs with each score."""
    definitions = build_synthetic_definitions()
    assert len(definitions) == len(set(definitions)) == 8 * 6 * 3
    assert all(" " in entry for entry, _ in definitions)
    pairs = build_synthetic_pairs(n_pairs=30, seed=1)
    assert pairs == build_synthetic_pairs(n_pairs=30, seed=1) != build_synthetic_pairs(n_pairs=30, seed=2)
    assert [pair.score for pair in pairs] == [0.0] * 10 + [1.0] * 10 + [2.0] * 10


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_recipes(preset: str) -> None:
    full = DefSentPlusRecipe(preset=preset).fill()
    assert full.mode in ("defsent", "defsent_plus")
    assert full.batch_size == (16 if full.mode == "defsent" else 32)
    assert full.epochs == 1
    assert full.learning_rates


def test_documented_presets_have_the_published_values() -> None:
    """Of the README: one stage at 1e-6 with mean pooling; two stages at 2e-5 and 5e-6 with CLS."""
    small, large = (DefSentPlusRecipe(preset=f"syncse-roberta-{size}") for size in ("base", "large"))
    assert [(s.entry, s.pooling, s.learning_rate) for s in small.build_stages()] == [("ac", "mean", 1e-6)]
    assert [(s.entry, s.pooling, s.learning_rate) for s in large.build_stages()] == [
        ("ac", "cls", 2e-5),
        ("ac", "cls", 5e-6),
    ]
    assert [bool(s.ica) for s in DefSentPlusRecipe(preset="bert-base").build_stages()] == [False, False, True]


@pytest.mark.parametrize(
    ("preset", "pooling", "power"),
    [
        ("defsent-bert-base", "cls", 2.5),
        ("defsent-bert-base", "mean", 3.5),
        ("defsent-bert-large", "max", 3),
        ("defsent-roberta-base", "mean", 3),
        ("defsent-roberta-base", "max", 2),
        ("defsent-roberta-large", "cls", 2),
        ("defsent-roberta-large", "max", 2.5),
    ],
)
def test_defsent_takes_the_rate_of_its_pooling(preset: str, pooling: str, power: float) -> None:
    full = DefSentPlusRecipe(preset=preset, pooling=pooling).fill()
    assert full.learning_rates == (pytest.approx(2**power * 1e-6),)


def test_the_mode_alone_turns_a_preset_into_defsents() -> None:
    full = DefSentPlusRecipe(preset="bert-large", mode="defsent", base="mine", pooling="max").fill()
    assert (full.base, full.batch_size, full.ica_stages) == ("mine", 16, ())
    assert full.learning_rates == (pytest.approx(8e-6),)


def test_the_backbone_of_a_preset_is_not_that_of_another_base() -> None:
    preset = DefSentPlusRecipe(preset="syncse-roberta-base")
    assert preset.fill().backbone == "FacebookAI/roberta-base"
    assert replace(preset, base="somewhere/else").fill().backbone is None


def test_dictionaries_of_all_kinds_are_read_and_joined(tmp_path: Path, files: dict[str, str]) -> None:
    synsets = [
        {"_id": "1", "lemmas": ["arc", "bow"], "definition": "a curve"},
        {"_id": "2", "lemmas": ["yew"], "definition": "a tree"},
    ]
    (tmp_path / "synsets.jsonl").write_text("\n".join(map(json.dumps, synsets)), encoding="utf-8")
    table = "word\tsplit\tsynset\narc\ttrain\t1\nbow\ttest\t1\nyew\ttrain\t2\n"
    (tmp_path / "words.tsv").write_text(table, encoding="utf-8")
    open_wordnet = str(tmp_path / "synsets.jsonl")
    assert read_definitions([open_wordnet]).members == (("arc", "bow"), ("yew",))
    words = str(tmp_path / "words.tsv")
    part = read_definitions([open_wordnet], words=words, split="train")
    assert part.entries == ("arc", "yew")
    joined = read_definitions([files["words"], open_wordnet])
    label = joined.find_label("bow")
    assert label is not None
    assert joined.definitions[label] == ("the bow of a nock", "a curve")  # one from each
    assert len(joined) == 12 + 2
    with pytest.raises(ArgumentError, match="at least one dictionary"):
        read_definitions([])
    with pytest.raises(ArgumentError, match=r"`split` must be left out without `\.jsonl` synsets"):
        read_definitions([files["words"]], split="train")


def test_a_folder_is_wordnets(tmp_path: Path) -> None:
    line = '00001740 05 n 02 bow 0 long_bow 0 000 | a weapon; "he drew it"\n'
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text(f"  licence\n{line}", encoding="utf-8")
    found = read_definitions([str(tmp_path)], merge_identical=False)
    assert found.entries == ("bow", "long bow")


def test_samples_are_whole_entries_and_the_same_for_a_seed() -> None:
    pairs = [(f"entry {number}", f"definition {number} {part}") for number in range(50) for part in "ab"]
    definitions = DefinitionSet.from_pairs(pairs)
    drawn = sample_definitions(definitions, 10, seed=1)
    assert len(drawn) == 10
    assert all(len(known) == 2 for known in drawn.definitions)
    assert drawn.entries == sample_definitions(definitions, 10, seed=1).entries
    assert drawn.entries != sample_definitions(definitions, 10, seed=2).entries
    assert sample_definitions(definitions, None, seed=1) is definitions
    assert sample_definitions(definitions, 50, seed=1) is definitions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "bert"}, "`preset` must be one of"),
        ({"mode": "defsent+"}, "`mode` must be one of 'defsent_plus', 'defsent'"),
        ({"pooling": "max"}, "`pooling` must be one of 'cls', 'mean'"),
        ({"mode": "defsent", "pooling": "middle"}, "`pooling` must be one of 'cls', 'mean', 'max'"),
        ({"inference_pooling": "middle"}, "`inference_pooling` must be one of"),
        ({"entry": "mean"}, "`entry` must be one of 'ac', 'amp'"),
        ({"learning_rates": ()}, "one for each stage, at least one"),
        ({"learning_rates": (1e-5, 0.0)}, "`learning_rates` must be positive"),
        ({"learning_rates": (1e-5,)}, "from 1 to 1; got .* Those of the preset hold until you set others"),
        ({"mode": "defsent", "learning_rates": (1e-5, 1e-5)}, "one, since DefSent has one stage"),
        ({"mode": "defsent", "pooling": "prompt"}, "`pooling` must be one of 'cls', 'mean', 'max'"),
        ({"pooling": "prompt"}, "can be opened with pooling='prompt'"),
        ({"ica_max_iterations": 0}, "`max_iterations` must be a positive integer"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"max_entries": 0}, "`max_entries` must be a positive integer"),
        ({"ica_variance": "both"}, "`variance` must be one of"),
        ({"head": "poller"}, "`head` must be one of"),
    ],
)
def test_values_out_of_their_domain_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        DefSentPlusRecipe(**options)


def test_a_run_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="at least one dictionary"):
        DefSentPlusRecipe().run(tmp_path)
