"""The mean of models: from folders, from memory, and not of what does not fit."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

import fletching
from fletching.errors import ArgumentError, CheckpointError
from fletching.methods.kalm import KaLMEmbedder, model_soup
from fletching.testing import save_tiny_bert, save_tiny_embedder, save_tiny_qwen2


@pytest.fixture(scope="module")
def saves(tmp_path_factory):
    """Three KaLM-Embeddings of different weights."""
    folders = []
    for seed in range(3):
        base = save_tiny_qwen2(tmp_path_factory.mktemp("base"), seed=seed)
        folder = tmp_path_factory.mktemp(f"model{seed}")
        KaLMEmbedder(base, causal=False, max_seq_length=32, device="cpu").save(str(folder))
        folders.append(folder)
    return folders


def read(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("weights", [None, [0.5, 0.75, -0.25]])
def test_folders_are_averaged_and_saved(saves, tmp_path, weights):
    soup = model_soup(saves, weights=weights, output_dir=tmp_path / "soup")
    states = [read(folder) for folder in saves]
    for name, tensor in read(tmp_path / "soup").items():
        shares = weights or [1 / 3] * 3
        expected = sum(share * state[name].double() for share, state in zip(shares, states, strict=True))
        torch.testing.assert_close(tensor, expected.float(), rtol=0, atol=1e-7)
    assert type(soup) is KaLMEmbedder
    again = fletching.load(tmp_path / "soup", device="cpu")
    assert again.encode("wood").tolist() == soup.encode("wood").tolist()
    assert (again.causal, again.max_seq_length) == (False, 32)


def test_folders_and_loaded_models_give_the_same(saves):
    """A mix of both is loaded; the result is that of folders alone."""
    models = [saves[0], KaLMEmbedder(str(saves[1]), device="cpu")]
    mixed, streamed = model_soup(models), model_soup(saves[:2])
    for name, tensor in streamed.state_dict().items():
        torch.testing.assert_close(mixed.state_dict()[name], tensor, rtol=0, atol=1e-7)


def test_loaded_models_stay_as_they_were(saves, tmp_path):
    models = [KaLMEmbedder(str(folder), device="cpu") for folder in saves[:2]]
    before = [model.encode("wood").tolist() for model in models]
    soup = model_soup(models, output_dir=tmp_path / "soup")
    assert [model.encode("wood").tolist() for model in models] == before
    assert fletching.load(tmp_path / "soup").encode("wood").tolist() == soup.encode("wood").tolist()


def test_low_precision_is_averaged_in_double(tmp_path):
    """Of equal bf16 models a third each, summed in bf16, would not be the model."""
    model = torch.nn.Linear(64, 64).to(torch.bfloat16)
    assert torch.equal(model_soup([model] * 3).weight, model.weight)


def test_shards_may_be_cut_differently(saves, tmp_path):
    """The second model's weights lie in two files."""
    model = KaLMEmbedder(str(saves[1]), device="cpu")
    model.save(str(tmp_path / "one"))
    model[0].model.save_pretrained(tmp_path / "one", max_shard_size="40KB")
    (tmp_path / "one" / "model.safetensors").unlink()
    assert len(list((tmp_path / "one").glob("*.safetensors"))) > 1
    first, second = model_soup([saves[0], tmp_path / "one"]), model_soup(saves[:2])
    assert first.encode("wood").tolist() == second.encode("wood").tolist()


def test_a_model_of_another_shape_is_named(saves, tmp_path):
    other = save_tiny_embedder(tmp_path / "bert")
    message = r"`models\[1\]` must be of the shape of models\[0\], with class Qwen2Model; got 'BertModel'"
    with pytest.raises(ArgumentError, match=message):
        model_soup([saves[0], other])


def test_a_weight_of_another_shape_is_named():
    models = [torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.nn.Linear(3, 2)]
    with pytest.raises(
        ArgumentError, match=r"`models\[2\]` must be .* 'weight' of shape \(2, 2\); got \(2, 3\)"
    ):
        model_soup(models)


def test_models_of_different_modes_are_no_soup(saves, tmp_path):
    KaLMEmbedder(str(saves[1]), causal=True, device="cpu").save(str(tmp_path))
    with pytest.raises(ArgumentError, match="with is_causal False; got True"):
        model_soup([saves[0], tmp_path])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "`weights` must be one for each of the 2 models"),
        ([0.5, 0.6], "`weights` must be finite numbers with sum 1"),
        ([float("nan"), 1.0], "`weights` must be finite numbers with sum 1"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, message):
    with pytest.raises(ArgumentError, match=message):
        model_soup([torch.nn.Linear(1, 1)] * 2, weights=weights)


@pytest.mark.parametrize("models", [[], "model", [torch.nn.Linear(1, 1)]])
def test_a_soup_takes_two_models(models):
    with pytest.raises(ArgumentError, match="`models` must be two or more models"):
        model_soup(models)


def test_pickled_weights_are_averaged_too(saves, tmp_path):
    shutil.copytree(saves[1], tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save(read(saves[1]), tmp_path / "pickled" / "pytorch_model.bin")
    first, second = model_soup([saves[0], tmp_path / "pickled"]), model_soup(saves[:2])
    assert first.encode("wood").tolist() == second.encode("wood").tolist()


def test_a_folder_without_weights_is_named(saves, tmp_path):
    shutil.copytree(saves[0], tmp_path / "empty")
    (tmp_path / "empty" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"empty': it could not be opened .* no file named model"):
        model_soup([saves[0], tmp_path / "empty"])


def test_published_layouts_make_a_soup_that_reads_both_ways(published, tmp_path):
    """Their files do not say so; the saved soup does, whatever its folder is called."""
    soup = model_soup([published("2"), published("2.5")], output_dir=tmp_path / "soup")
    again = fletching.load(tmp_path / "soup", device="cpu")
    assert (type(again), again.causal) == (KaLMEmbedder, False)
    assert again.encode("wood").tolist() == soup.encode("wood").tolist()


def test_a_published_model_and_its_fine_tuned_save_make_a_soup(published, tmp_path):
    folder = published("2")
    KaLMEmbedder(folder, device="cpu").save(str(tmp_path))
    assert model_soup([folder, tmp_path]).causal is False


def test_adapters_are_refused():
    class Adapted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lora_A = torch.nn.Linear(1, 1)

    with pytest.raises(ArgumentError, match=r"`models\[0\]` must be a model without adapters; got 'lora_A"):
        model_soup([Adapted(), Adapted()])


def test_a_full_output_folder_is_left_alone(saves, tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ArgumentError, match="`output_dir` must be a new or an empty folder"):
        model_soup(saves[:2], output_dir=tmp_path)


def test_encoders_make_soups_too(tmp_path):
    folders = [save_tiny_bert(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    soup = model_soup(folders)
    first, second = (load_file(f"{folder}/model.safetensors") for folder in folders)
    name = "embeddings.word_embeddings.weight"
    got = dict(soup[0].model.named_parameters())[name]
    torch.testing.assert_close(got, (first[name] + second[name]) / 2)
