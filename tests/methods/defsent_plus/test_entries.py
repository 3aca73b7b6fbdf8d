"""Entry embeddings: how they are built, and that they come back from disk as they were."""

from __future__ import annotations

import logging

import pytest
import torch
from safetensors.torch import save_file

from fletching import fingerprint
from fletching.errors import ArgumentError, DataError, FletchingError, ShapeError
from fletching.methods.defsent_plus import DefinitionSet, DefSentPlusEmbedder, EntryEmbeddings
from fletching.methods.defsent_plus.entries import embed_bare

PAIRS = [("bow", "1,1 2,0"), ("knot", "3,1"), ("loop", "3,1")]


@pytest.fixture
def entries(echo):
    return EntryEmbeddings.build(echo, DefinitionSet.from_pairs(PAIRS))


def test_synonyms_have_one_row(entries):
    assert entries.members == (("bow",), ("knot", "loop"))
    assert entries.entries == ("bow", "knot")
    assert entries.vectors.tolist() == [[1.0, 1.0], [3.0, 1.0]]
    assert entries.vectors.dtype == torch.float32


def test_build_computes_without_dropout_and_leaves_every_mode_as_it_was(echo):
    echo.train()
    echo[1].eval()
    EntryEmbeddings.build(echo, DefinitionSet.from_pairs(PAIRS))
    assert not echo[0].training_seen
    assert [module.training for module in (echo, echo[0], echo[1])] == [True, True, False]


def test_build_keeps_no_gradient(bert, definitions):
    entries = EntryEmbeddings.build(DefSentPlusEmbedder(bert, device="cpu"), definitions)
    assert not entries.vectors.requires_grad
    assert not entries.vectors.is_inference()


def test_a_definition_of_several_classes_is_read_once(echo, monkeypatch):
    read = []
    preprocess = type(echo[0]).preprocess
    monkeypatch.setattr(
        type(echo[0]),
        "preprocess",
        lambda self, texts, **kwargs: read.extend(texts) or preprocess(self, texts),
    )
    pairs = [("bow", "1,1"), ("bow", "2,2"), ("knot", "1,1")]
    entries = EntryEmbeddings.build(echo, DefinitionSet.from_pairs(pairs))
    assert sorted(read) == ["1,1", "2,2"]
    assert entries.vectors.tolist() == [[1.5, 1.5], [1.0, 1.0]]


def test_prompts_and_unit_length_do_not_count(bert, definitions):
    plain = DefSentPlusEmbedder(bert, device="cpu")
    prompted = DefSentPlusEmbedder(bert, prompts={"d": "why "}, default_prompt_name="d", device="cpu")
    assert torch.equal(
        EntryEmbeddings.build(prompted, definitions).vectors,
        EntryEmbeddings.build(plain, definitions).vectors,
    )


def test_definitions_longer_than_the_window_are_cut_and_logged(bert, caplog):
    model = DefSentPlusEmbedder(bert, device="cpu")
    window = model.max_seq_length
    fits, longer = "wood " * (window - 2), "wood " * (window - 1)
    with caplog.at_level(logging.WARNING, logger="fletching"):
        vectors = embed_bare(model, [fits, longer, "wood"], pooling="mean")
    assert f"1 texts are longer than the {window} tokens that the model reads" in caplog.text
    assert torch.allclose(vectors[0], vectors[1], atol=1e-6)


def test_nan_does_not_become_an_entry(echo):
    with pytest.raises(FletchingError, match="the model computed NaN"):
        EntryEmbeddings.build(echo, DefinitionSet.from_pairs([("bow", "nan,1")]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"how": "cls"}, "`how` must be one of 'ac', 'amp'; got 'cls'"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer; got 0"),
    ],
)
def test_build_refuses_what_is_outside(echo, options, message):
    with pytest.raises(ArgumentError, match=message):
        EntryEmbeddings.build(echo, DefinitionSet.from_pairs(PAIRS), **options)


def test_entries_come_back_as_they_were(entries, echo, tmp_path):
    path = tmp_path / "new" / "entries.safetensors"
    entries.save(path)
    back = EntryEmbeddings.load(path)
    assert torch.equal(back.vectors, entries.vectors)
    assert (back.members, back.how, back.transformed) == (entries.members, "ac", False)
    assert back.source == entries.source == fingerprint(echo)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_components_are_marked(tmp_path):
    vectors = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    components = EntryEmbeddings(vectors, [[str(row)] for row in range(50)], how="amp", source="x").ica()
    components.save(tmp_path / "entries.safetensors")
    back = EntryEmbeddings.load(tmp_path / "entries.safetensors")
    assert (back.transformed, back.how, back.source) == (True, "amp", "x")
    assert torch.equal(back.vectors, components.vectors)


def test_normalized_vectors_have_length_one(entries):
    unit = entries.normalize()
    assert unit.vectors.norm(dim=1).tolist() == pytest.approx([1.0, 1.0])
    assert unit.members == entries.members


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "entries.safetensors"
    with pytest.raises(DataError, match="must be an existing file"):
        EntryEmbeddings.load(path)
    save_file({"vectors": torch.zeros(1, 2)}, path)
    with pytest.raises(DataError, match="must be entry embeddings; got another safetensors file"):
        EntryEmbeddings.load(path)
    path.write_bytes(b"broken")
    with pytest.raises(DataError, match="must be entry embeddings; got a broken file"):
        EntryEmbeddings.load(path)


def test_vectors_and_members_must_fit():
    with pytest.raises(ShapeError, match=r"`vectors` has the wrong shape"):
        EntryEmbeddings(torch.zeros(2, 3), [["bow"]], how="ac")
    with pytest.raises(ArgumentError, match="`vectors` must be finite"):
        EntryEmbeddings(torch.full((1, 3), torch.inf), [["bow"]], how="ac")


def test_embed_bare_refuses_an_unknown_pooling(echo):
    with pytest.raises(ArgumentError, match="`pooling` must be one of 'cls', 'mean', 'max'; got 'prompt'"):
        embed_bare(echo, ["1,1"], pooling="prompt")
