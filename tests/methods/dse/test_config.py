"""What a configuration refuses."""

from __future__ import annotations

import pytest

from fletching.errors import ArgumentError
from fletching.methods.dse.config import POOLERS, DSEConfig


def test_the_defaults_are_those_of_the_reference_code():
    config = DSEConfig()
    assert (config.pooling, config.num_layers, config.fc_dims) == ("concat_top_mean", 4, (512, 1))
    assert (config.head, config.embedding_size, config.apply_final_norm) == ("mlp", None, False)


def test_every_pooler_of_the_reference_code_has_its_name():
    names = {
        f"{a}_top_{b}{c}"
        for a in ("concat", "mean")
        for b in ("mean", "sqrt_mean", "max")
        for c in ("", "_with_cls")
    }
    assert set(POOLERS) == names


@pytest.mark.parametrize(
    ("fc_dims", "task"), [((512, 1), "binary"), ((512, 3), "multiclass"), ((), "binary")]
)
def test_the_task_is_found_from_the_labels(fc_dims, task):
    assert DSEConfig(fc_dims=fc_dims, head="dot").chosen_task == task


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "concat_top_men"}, "Did you mean 'concat_top_mean'"),
        ({"head": "cosine"}, "`head` must be one of 'mlp', 'dot'"),
        ({"task": "rank"}, "`task` must be one of"),
        ({"num_layers": 0}, "`num_layers` must be a positive integer; got 0"),
        ({"num_layers": None}, "`num_layers` must be a positive integer; got None"),
        ({"embedding_size": -1}, "`embedding_size` must be a positive integer or None; got -1"),
        ({"fc_dims": ()}, "`fc_dims` must be at least one width for head='mlp'"),
        ({"fc_dims": (512, 0)}, r"`fc_dims\[1\]` must be a positive integer; got 0"),
        ({"fc_dims": 512}, "`fc_dims` must be a list of positive integers"),
        ({"fc_dims": (512, 3), "label": 3}, "`label` must be from 0 to 2, or None; got 3"),
        ({"label": 0}, "`label` must be None for one label; got 0"),
        ({"fc_dims": (512, 3), "task": "binary"}, "1 for the others; got 3"),
        ({"fc_dims": (512, 1), "task": "multiclass"}, "2 or more labels for a multiclass task"),
    ],
    ids=str,
)
def test_a_field_outside_its_domain_is_refused(fields, message):
    with pytest.raises(ArgumentError, match=message):
        DSEConfig(**fields)
