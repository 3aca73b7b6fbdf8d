"""Which classes a checkpoint may name."""

from __future__ import annotations

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router

import fletching
from fletching.errors import CheckpointError
from fletching.models.trust import TRUSTED_MODULES
from fletching.testing import save_tiny_embedder

SOURCE = '''
import torch
from fletching import MethodSpec, hookimpl
from sentence_transformers.sentence_transformer.modules import Normalize

class Negate(Normalize):
    """Turns every vector around."""

    def forward(self, features):
        features["sentence_embedding"] = -features["sentence_embedding"]
        return features

@hookimpl
def fletching_methods():
    return [
        MethodSpec(
            name="turn", kind="tool", title="Turn", summary="Turns vectors.", paper="", fidelity="paper",
            entry="fletching.models.embedder:Embedder", module_classes=("acme_turn.Negate",),
        )
    ]
'''


@pytest.fixture
def negate(fake_distribution):
    fake_distribution("acme-turn", {"acme_turn": SOURCE}, {"turn": "acme_turn"})
    return TRUSTED_MODULES["acme_turn.Negate"]


def test_a_registered_class_is_imported(negate):
    assert negate.__name__ == "Negate"


@pytest.mark.parametrize("class_ref", ["os.system", "acme_turn.MethodSpec", "acme_turn", "", "Negate"])
def test_no_other_class_is(negate, class_ref):
    assert TRUSTED_MODULES.get(class_ref) is None


def test_the_mapping_lists_what_is_registered(negate):
    assert "acme_turn.Negate" in [*TRUSTED_MODULES]


def test_the_mapping_is_never_empty():
    """sentence-transformers would not ask an empty one."""
    assert bool(TRUSTED_MODULES) is True


@pytest.fixture
def routed(negate, tmp_path):
    """A model with a registered class inside a `Router`, saved."""
    backbone = SentenceTransformer(save_tiny_embedder(tmp_path / "backbone"), device="cpu")
    router = Router.for_query_document(query_modules=[negate()], document_modules=[negate()])
    fletching.Embedder(modules=[*backbone, router], device="cpu").save(str(tmp_path / "routed"))
    return tmp_path / "routed"


def test_a_registered_class_opens_inside_a_router(routed):
    assert type(fletching.load(routed, device="cpu")[-1].sub_modules["query"][0]).__name__ == "Negate"


def test_another_class_is_refused_inside_a_router(routed):
    [config] = routed.glob("*_Router/router_config.json")
    config.write_text(config.read_text().replace("acme_turn.Negate", "acme_turn.Other"))
    with pytest.raises(CheckpointError, match=r"acme_turn\.Other"):
        fletching.load(routed, device="cpu")
