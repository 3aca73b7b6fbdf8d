"""Whose checkpoint it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from fletching.models.marks import goes_by, read_mark

MODEL = "KaLM-Embedding/mini-v2"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (MODEL, True),
        ("kalm-embedding/MINI-V2", True),
        (str(Path("models") / "mini-v2"), True),
        (str(Path("hub") / "models--KaLM-Embedding--mini-v2" / "snapshots" / "0a1b"), True),
        (str(Path("mini-v2") / "tuned"), False),
        ("mini-v2.5", False),
        ("", False),
    ],
)
def test_a_name_counts_as_hub_id_as_folder_and_in_the_cache(location, expected):
    assert goes_by(location, MODEL) is expected


@pytest.mark.parametrize("mark", [None, "kalm", [], {}, {"method": "dse"}])
def test_the_mark_of_another_is_none(mark):
    assert read_mark({"fletching": mark}, "kalm") == {}


def test_a_mark_is_returned_as_a_copy():
    config = {"fletching": {"method": "kalm", "version": 2}}
    mark = read_mark(config, "kalm")
    assert mark == config["fletching"]
    mark["version"] = 3
    assert config["fletching"]["version"] == 2
