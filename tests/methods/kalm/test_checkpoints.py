"""Which checkpoints are causal, and which are KaLM-Embedding's at all."""

from __future__ import annotations

import pytest

from fletching.errors import ArgumentError, CheckpointError
from fletching.methods.kalm import PUBLISHED
from fletching.methods.kalm.checkpoints import find_published, is_kalm, resolve_causal

CUSTOM_CODE = {"AutoModel": "modeling.Qwen2Model"}
V1, V15, V2, V25 = (row.model for row in PUBLISHED)


@pytest.mark.parametrize(("model", "causal"), [(V1, True), (V15, True), (V2, False), (V25, False)])
def test_the_mode_of_a_published_checkpoint_is_known_by_name(model, causal):
    assert resolve_causal(model, {}) is causal


@pytest.mark.parametrize(
    "location",
    [
        V25,
        V25.lower(),
        f"/models/{V25}",
        "x/KaLM-embedding-multilingual-mini-instruct-v2.5/",
        f"/cache/hub/models--{V25.replace('/', '--')}/snapshots/0123abc",
    ],
)
def test_a_copy_is_known_by_the_name_of_its_folder(location):
    assert find_published(location).version == "2.5"


@pytest.mark.parametrize("location", ["", "Qwen/Qwen2-0.5B", "my-KaLM", f"{V25}-lora"])
def test_other_names_say_nothing(location):
    assert find_published(location) is None


@pytest.mark.parametrize(
    ("location", "config", "given", "expected"),
    [
        ("x", {"is_causal": False}, None, False),
        ("x", {"is_causal": True, "auto_map": CUSTOM_CODE}, None, True),
        ("x", {"is_causal": True}, False, False),
        ("x", {"auto_map": CUSTOM_CODE}, None, False),
        (V1, {"auto_map": CUSTOM_CODE}, None, True),
        (V25, {"is_causal": True}, True, True),
        (V25, {}, True, True),
    ],
)
def test_the_most_definite_word_counts(location, config, given, expected):
    assert resolve_causal(location, config, causal=given) is expected


@pytest.mark.parametrize("config", [{}, {"is_causal": None}, {"auto_map": {"AutoConfig": "x.Y"}}])
def test_a_checkpoint_that_does_not_say_is_asked_for(config):
    with pytest.raises(ArgumentError, match="`causal` must be given for 'some/qwen2', which does not say"):
        resolve_causal("some/qwen2", config)


def test_a_name_and_a_configuration_that_contradict_each_other_are_refused():
    with pytest.raises(CheckpointError, match=r'"is_causal": true, but KaLM-Embedding 2\.5 reads both ways'):
        resolve_causal(V25, {"is_causal": True})


def test_causal_must_be_a_truth_value():
    with pytest.raises(ArgumentError, match="`causal` must be True, False or None; got 'no'"):
        resolve_causal("x", {}, causal="no")


@pytest.mark.parametrize(
    ("location", "config", "model", "expected"),
    [
        ("x", {"model_type": "llama"}, {"fletching": {"method": "kalm"}}, True),
        ("x", {"model_type": "qwen2"}, {"fletching": {"method": "other"}}, False),
        (V2, {"model_type": "qwen2"}, {}, True),
        ("models/my-kalm", {"model_type": "qwen2"}, {}, True),
        ("x", {"model_type": "qwen2", "_name_or_path": "HIT-TMG/KaLM-x"}, {}, True),
        ("HIT-TMG/KaLM-Reranker", {"model_type": "qwen2"}, {"model_type": "CrossEncoder"}, False),
        ("kalm/gemma", {"model_type": "gemma3"}, {}, False),
        ("Alibaba-NLP/gte-Qwen2-1.5B-instruct", {"model_type": "qwen2", "auto_map": CUSTOM_CODE}, {}, False),
    ],
)
def test_kalm_is_recognised_by_its_mark_or_its_name(location, config, model, expected):
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
    contents = {"modules.json": modules, "config.json": config, "config_sentence_transformers.json": model}
    assert is_kalm(location, contents) is expected
