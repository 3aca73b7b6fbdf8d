"""The authors' checkpoints are told by their names."""

from __future__ import annotations

import pytest

from fletching.methods.defsent_plus.checkpoints import find_published, is_defsent_plus

BERT_BASE, ROBERTA_BASE = "google-bert/bert-base-uncased", "FacebookAI/roberta-base"


@pytest.mark.parametrize(
    ("location", "backbone", "pooling"),
    [
        ("RyuKT/DefSentPlus-bert-base-uncased", BERT_BASE, "prompt"),
        ("RyuKT/DefSentPlus-simcse-bert-base-uncased", BERT_BASE, None),
        ("RyuKT/DefSentPlus-simcse-roberta-base", ROBERTA_BASE, None),
        ("RyuKT/DefSentPlus-sncse-bert-large-uncased", "google-bert/bert-large-uncased", None),
        ("RyuKT/DefSentPlus-syncse-partial-roberta-base", ROBERTA_BASE, "mean"),
        ("cl-nagoya/defsent-bert-base-uncased-cls", BERT_BASE, "cls"),
        ("models/defsent-bert-large-uncased-mean", "google-bert/bert-large-uncased", "mean"),
        ("cl-nagoya/defsent-roberta-large-max", "FacebookAI/roberta-large", "max"),
        ("hub/models--RyuKT--DefSentPlus-simcse-roberta-base/snapshots/12ab", ROBERTA_BASE, None),
    ],
)
def test_published_checkpoints_tell_backbone_and_pooling(location, backbone, pooling):
    found = find_published(location)
    assert (found.backbone, found.pooling) == (backbone, pooling)


@pytest.mark.parametrize("location", ["bert-base-uncased", "my/defsent", "defsent-bert-base-uncased", ""])
def test_other_names_tell_nothing(location):
    assert find_published(location) is None


def contents(modules=(), config=None, model=None):
    return {
        "modules.json": list(modules),
        "config.json": config or {},
        "config_sentence_transformers.json": model or {},
    }


def test_a_save_of_ours_is_recognised():
    mark = {"fletching": {"method": "defsent_plus"}}
    assert is_defsent_plus("anywhere", contents(modules=[{"type": "x"}], model=mark))
    assert not is_defsent_plus("anywhere", contents(model={"fletching": {"method": "kalm"}}))


def test_a_published_checkpoint_is_recognised_by_name_and_shape():
    name = "RyuKT/DefSentPlus-bert-base-uncased"
    assert is_defsent_plus(name, contents(config={"model_type": "bert"}))
    assert not is_defsent_plus(name, contents(config={"model_type": "t5"}))
    assert not is_defsent_plus(name, contents(modules=[{"type": "x"}], config={"model_type": "bert"}))
    assert not is_defsent_plus("bert-base-uncased", contents(config={"model_type": "bert"}))
