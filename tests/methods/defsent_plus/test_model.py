"""What users call: any encoder, the authors' checkpoints, and the way back to entries."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoModel, AutoTokenizer

import fletching
from fletching.errors import ArgumentError, CheckpointError, FidelityWarning
from fletching.methods.defsent_plus import (
    DefSentPlusEmbedder,
    EntryEmbeddings,
    MaskPooling,
    PromptTransformer,
    compare_isotropy,
)
from fletching.testing import save_tiny_embedder

TEXTS = ["the archer draws the bow", "wood", ""]


@pytest.fixture
def trained(bert, definitions):
    """A model with a head and entries, as a training leaves it."""
    model = DefSentPlusEmbedder(bert, pooling="cls", device="cpu")
    entries = EntryEmbeddings.build(model, definitions, how="ac")
    dense = torch.nn.Linear(32, 32)
    with torch.no_grad():
        torch.nn.init.eye_(dense.weight)
        torch.nn.init.zeros_(dense.bias)
    model.attach_head(dense, activation="gelu", entries=entries)
    return model


@pytest.fixture
def states(bert):
    """Last hidden states of the first text, by transformers alone."""
    tokenizer, network = AutoTokenizer.from_pretrained(bert), AutoModel.from_pretrained(bert)
    with torch.no_grad():
        return network(**tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state[0]


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ("cls", lambda states: states[0]),
        ("mean", lambda states: states.mean(dim=0)),  # special tokens included
        ("max", lambda states: states.max(dim=0).values),
    ],
)
def test_embeddings_are_pooled_hidden_states(bert, states, pooling, pool):
    model = DefSentPlusEmbedder(bert, pooling=pooling, device="cpu")
    assert [type(module) for module in model] == [Transformer, Pooling]
    assert torch.allclose(torch.tensor(model.encode(TEXTS[0])), pool(states), atol=1e-5)


@pytest.mark.parametrize("backbone", ["bert", "roberta"])
def test_prompt_embedding_is_the_state_at_the_mask(request, backbone):
    """As the reference code has it: the filled template, and the state where its mask is."""
    folder = request.getfixturevalue(backbone)
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    text = f'This sentence : "{TEXTS[0]}" means {tokenizer.mask_token} . '
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        found = network(**inputs).last_hidden_state[inputs["input_ids"] == tokenizer.mask_token_id]
    got = DefSentPlusEmbedder(folder, pooling="prompt", device="cpu").encode([TEXTS[0]])
    assert torch.allclose(torch.tensor(got), found, atol=1e-5)


def test_pooling_of_any_embedder_is_replaced(tmp_path):
    """A save with mean pooling and unit length keeps both, until another pooling is asked for."""
    folder = save_tiny_embedder(tmp_path)
    kept = DefSentPlusEmbedder(folder, device="cpu")
    assert (kept.pooling, len(kept)) == ("mean", 3)
    changed = DefSentPlusEmbedder(folder, pooling="cls", device="cpu")
    assert (changed.pooling, len(changed)) == ("cls", 2)


def test_pooling_can_be_changed_and_changed_back(bert):
    model = DefSentPlusEmbedder(bert, pooling="mean", device="cpu")
    network, expected = model[0].model, model.encode(TEXTS)
    model.pooling = "prompt"
    assert (type(model[0]), type(model[1])) == (PromptTransformer, MaskPooling)
    assert model[0].model is network
    assert not (model.encode(TEXTS) == expected).all()
    model.pooling = "mean"
    assert type(model[0]) is Transformer
    assert (model.encode(TEXTS) == expected).all()


def test_template_can_be_chosen_and_is_saved(bert, tmp_path):
    model = DefSentPlusEmbedder(bert, template="{sentence} is {mask}", pooling="prompt", device="cpu")
    model.save(str(tmp_path), create_model_card=False)
    back = fletching.load(tmp_path, device="cpu")
    assert (type(back), back.pooling, back.template) == (
        DefSentPlusEmbedder,
        "prompt",
        "{sentence} is {mask}",
    )
    assert (
        DefSentPlusEmbedder(str(tmp_path), template="{sentence}: {mask}", device="cpu").template
        == "{sentence}: {mask}"
    )


def test_a_save_opens_in_sentence_transformers_without_this_library_s_classes(trained, tmp_path):
    trained.save(str(tmp_path), create_model_card=False)
    types = [module["type"] for module in json.loads((tmp_path / "modules.json").read_text())]
    assert all(name.startswith("sentence_transformers.") for name in types)
    stock = SentenceTransformer(str(tmp_path), device="cpu")
    assert (stock.encode(TEXTS) == trained.encode(TEXTS)).all()


# --- the authors' checkpoints ---


def test_a_published_checkpoint_without_tokenizer_takes_the_one_given(bare, bert):
    folder = bare("DefSentPlus-simcse-bert-base-uncased")
    with pytest.warns(FidelityWarning, match="does not say how it pools, and 'cls' is taken"):
        model = fletching.load(folder, backbone=bert, device="cpu")
    assert (type(model), model.pooling) == (DefSentPlusEmbedder, "cls")
    expected = DefSentPlusEmbedder(bert, pooling="cls", device="cpu").encode(TEXTS)
    assert (model.encode(TEXTS) == expected).all()


def test_a_published_checkpoint_that_is_known_to_pool_by_prompt_does(bare, bert):
    model = fletching.load(bare("DefSentPlus-bert-base-uncased"), backbone=bert, device="cpu")
    assert (type(model), model.pooling) == (DefSentPlusEmbedder, "prompt")


def test_nothing_is_warned_of_when_the_pooling_is_given(bare, bert):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = bare("DefSentPlus-simcse-bert-base-uncased")
        model = fletching.load(folder, backbone=bert, pooling="mean", device="cpu")
    assert model.pooling == "mean"


def test_a_defsent_checkpoint_is_a_masked_language_model_whose_name_ends_with_its_pooling(bare, bert):
    folder = bare("defsent-bert-base-uncased-max", tokenizer=True, head="masked-lm")
    model = fletching.load(folder, device="cpu")
    assert (type(model), model.pooling) == (DefSentPlusEmbedder, "max")


def test_a_checkpoint_without_tokenizer_whose_backbone_nobody_knows_is_refused(bare):
    with pytest.raises(
        CheckpointError, match=r"it holds no tokenizer\. Name the model that it was made of with backbone="
    ):
        DefSentPlusEmbedder(bare("my-encoder"), device="cpu")


def test_a_save_of_a_borrowed_tokenizer_needs_no_backbone(bare, bert, tmp_path):
    model = DefSentPlusEmbedder(bare("my-encoder"), backbone=bert, device="cpu")
    model.save(str(tmp_path), create_model_card=False)
    assert (fletching.load(tmp_path, device="cpu").encode(TEXTS) == model.encode(TEXTS)).all()


# --- reverse dictionary ---


def test_definitions_find_their_entries(trained, definitions):
    """With p = gelu(h) nearly h where h is large, the entry whose vector is h scores |h|^2, the most."""
    (hits,) = trained.nearest_entries(["what feathers are from"], top_k=1)
    assert hits == trained.nearest_entries("what feathers are from", top_k=1)
    assert len(trained.nearest_entries("wood", top_k=100)) == len(definitions)
    assert trained.nearest_entries([]) == []
    assert hits[0].entry in definitions.entries


def test_nearest_entries_reads_bare_text_whatever_the_pooling_is(trained):
    expected = trained.nearest_entries("wood")
    trained.pooling = "prompt"
    assert trained.nearest_entries("wood") == expected


def test_head_and_entries_are_saved_and_change_no_embedding(trained, bert, tmp_path):
    trained.save(str(tmp_path), create_model_card=False)
    back = fletching.load(tmp_path, device="cpu")
    assert back.nearest_entries(TEXTS) == trained.nearest_entries(TEXTS)
    plain = DefSentPlusEmbedder(bert, pooling="cls", device="cpu")
    assert (back.encode(TEXTS) == plain.encode(TEXTS)).all()
    assert [name for name, _ in back.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert fletching.fingerprint(back) == fletching.fingerprint(plain)


def test_a_copy_keeps_head_and_entries(trained):
    assert copy.deepcopy(trained).nearest_entries("wood") == trained.nearest_entries("wood")


def test_a_save_without_its_entries_is_refused(trained, tmp_path):
    trained.save(str(tmp_path), create_model_card=False)
    (tmp_path / "dictionary" / "entries.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"its folder 'dictionary' lacks head\.safetensors or entries"):
        fletching.load(tmp_path, device="cpu")


def test_a_model_without_head_names_no_entries(bert):
    with pytest.raises(ArgumentError, match="`model` must be one that has kept its projection and entries"):
        DefSentPlusEmbedder(bert, device="cpu").nearest_entries("wood")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "wood", "top_k": 0}, "`top_k` must be a positive integer; got 0"),
        (
            {"text": "wood", "batch_size": 0},
            "nearest_entries: `batch_size` must be a positive integer; got 0",
        ),
        ({"text": ["wood", None]}, r"`text\[1\]` must be a string; got None"),
        ({"text": None}, "`text` must be a list of strings; got None"),
    ],
)
def test_nearest_entries_refuses_what_is_outside(trained, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        trained.nearest_entries(**arguments)


def test_a_head_needs_a_pooling_of_training(trained):
    entries = trained.dictionary.entries
    trained.pooling = "prompt"
    with pytest.raises(ArgumentError, match="`pooling` must be one of 'cls', 'mean'; got 'prompt'"):
        trained.attach_head(torch.nn.Linear(32, 32), activation="tanh", entries=entries)
    with pytest.raises(ArgumentError, match="`dense` must be a linear layer with a bias"):
        trained.attach_head(torch.nn.Linear(32, 32, bias=False), activation="tanh", entries=entries)


# --- the rest ---


def test_lost_tokens_are_counted_for_every_pooling(bert):
    model = DefSentPlusEmbedder(bert, pooling="mean", device="cpu")
    window = model.max_seq_length
    assert model.count_lost_tokens(["wood " * (window - 2), "wood " * window, "wood"]) == [0, 2, 0]
    assert model.count_lost_tokens(["wood " * (window - 2)], prompt="why ") == [1]
    model.pooling = "prompt"
    assert model.count_lost_tokens(["wood", "wood " * window])[0] == 0
    assert model.count_lost_tokens([]) == []


def test_isotropy_before_and_after(bert, definitions):
    model = DefSentPlusEmbedder(bert, device="cpu")
    entries = EntryEmbeddings.build(model, definitions)
    centred = EntryEmbeddings(entries.vectors - entries.vectors.mean(dim=0), entries.members, how="ac")
    found = compare_isotropy(entries, centred)
    assert set(found) == {"mean_cosine", "partition_isotropy", "iso_score"}
    before, after = found["mean_cosine"]
    assert after < before
    assert compare_isotropy(model, model, ["wood", "bow", "goose"])["iso_score"][0] >= 0
    with pytest.raises(ArgumentError, match="`texts` must be given, for an embedder to read"):
        compare_isotropy(model, entries)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"pooling": "lasttoken"},
            "`pooling` must be one of 'cls', 'mean', 'prompt', 'max'; got 'lasttoken'",
        ),
        ({"template": "no place"}, "`template` must be text with one"),
        (
            {"template": "{sentence} {mask}", "pooling": "cls"},
            "`template` must be left out unless the pooling",
        ),
    ],
)
def test_constructor_refuses_what_is_outside(bert, options, message):
    with pytest.raises(ArgumentError, match=f"DefSentPlusEmbedder: {message}"):
        DefSentPlusEmbedder(bert, device="cpu", **options)


def test_an_unknown_pooling_is_refused_later_too(bert):
    model = DefSentPlusEmbedder(bert, device="cpu")
    with pytest.raises(ArgumentError, match="`pooling` must be one of"):
        model.pooling = "median"


def test_a_model_that_begins_with_something_else_is_refused(echo):
    with pytest.raises(CheckpointError, match="it does not begin with a transformer"):
        DefSentPlusEmbedder(modules=[*echo], device="cpu")


def test_paths_may_be_path_objects(bert):
    assert DefSentPlusEmbedder(Path(bert), device="cpu").pooling == "mean"
