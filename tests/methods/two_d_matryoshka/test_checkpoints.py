from __future__ import annotations

import json

import pytest

import fletching
from fletching.methods.two_d_matryoshka import PUBLISHED, ElasticEmbedder
from fletching.methods.two_d_matryoshka.checkpoints import find_published, is_elastic, read_mark
from fletching.models.embedder import Embedder

MXBAI, MPNET, DISTILBERT = (row.model for row in PUBLISHED)
STOCK = {"modules.json": [{"type": "stock"}], "config.json": {}, "config_sentence_transformers.json": {}}


@pytest.mark.parametrize(
    "location",
    [
        MXBAI,
        MXBAI.upper(),
        f"models/{MXBAI.split('/')[1]}",
        f"hub/models--{MXBAI.replace('/', '--')}/snapshots/1",
    ],
)
def test_released_checkpoint_is_found_by_name(location):
    assert find_published(location) is PUBLISHED[0]
    assert is_elastic(location, STOCK)


def test_other_names_say_nothing():
    assert find_published("mixedbread-ai/mxbai-embed-large-v1") is None
    assert not is_elastic("mixedbread-ai/mxbai-embed-large-v1", STOCK)
    assert find_published("") is None


def test_a_reranker_of_a_released_name_is_none_of_ours():
    saved = {"config_sentence_transformers.json": {"model_type": "CrossEncoder"}}
    assert not is_elastic(MXBAI, {**STOCK, **saved})


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        ({"method": "kalm", "trained_dims": [8]}, {}),
        ("two_d_matryoshka", {}),
        ({"method": "two_d_matryoshka"}, {"method": "two_d_matryoshka"}),
        ({"method": "two_d_matryoshka", "trained_layers": "all"}, {"method": "two_d_matryoshka"}),
        (
            {"method": "two_d_matryoshka", "trained_layers": [1, True, "2", 3]},
            {"method": "two_d_matryoshka", "trained_layers": (1, 3)},
        ),
    ],
)
def test_a_mark_is_read_with_care(mark, expected):
    assert read_mark({"fletching": mark}) == expected


def age(folder):
    """Write the files as sentence-transformers did in 2024: other names, no word about the modality."""
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    for module in modules:
        module["type"] = f"sentence_transformers.models.{module['type'].rpartition('.')[2]}"
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    settings = {"max_seq_length": 48, "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings), encoding="utf-8")
    versions = {"sentence_transformers": "2.5.1", "transformers": "4.38.1", "pytorch": "2.2.0"}
    config = {"__version__": versions, "prompts": {}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_mxbai_2d_opens_with_its_prompt_and_its_advice(save_embedder, tmp_path):
    """BERT, CLS pooling, no Normalize; 24 layers, of which 20 to 24 are advised."""
    folder = tmp_path / "mxbai-embed-2d-large-v1"
    save_embedder(folder, "bert", pooling="cls", normalize=False, n_layers=24)
    model = fletching.load(age(folder), device="cpu")
    assert type(model) is ElasticEmbedder
    assert model.num_layers == 24
    assert model.prompts["query"] == "Represent this sentence for searching relevant passages: "
    prompted = model.prompts["query"] + "a bow"
    assert (
        model.encode_query("a bow", num_layers=20).tolist() == model.encode(prompted, num_layers=20).tolist()
    )
    assert model.encode_document("a bow").tolist() == model.encode("a bow").tolist()
    message = "num_layers=12 is not advised by its authors, who name 20 to 24"
    with pytest.warns(fletching.errors.FidelityWarning, match=message):
        model.encode("a bow", num_layers=12, truncate_dim=16)


def test_a_prompt_of_the_user_wins_over_the_card(save_embedder, tmp_path):
    folder = tmp_path / "mxbai-embed-2d-large-v1"
    save_embedder(folder, "bert", pooling="cls", normalize=False)
    assert ElasticEmbedder(folder, prompts={"query": ""}, device="cpu").prompts["query"] == ""


def test_adaptive_layer_distilbert_opens_at_any_depth(save_embedder, tmp_path):
    """DistilBERT of six layers, mean pooling; AdaptiveLayerLoss leaves the dimensions alone."""
    folder = tmp_path / DISTILBERT.split("/")[1]
    save_embedder(folder, "distilbert", normalize=False, n_layers=6)
    model = fletching.load(age(folder), untrained="refuse", device="cpu")
    assert type(model) is ElasticEmbedder
    assert (model.num_layers, model.trained_layers, model.trained_dims) == (6, None, ())
    assert model.encode("a bow", num_layers=3, truncate_dim=32).shape == (32,)
    with pytest.raises(fletching.errors.ArgumentError, match="It was not trained; only the full size was"):
        model.encode("a bow", num_layers=3, truncate_dim=16)


def test_other_embedders_stay_what_they_are(embedder_of):
    assert type(fletching.load(embedder_of("bert"), device="cpu")) is Embedder
