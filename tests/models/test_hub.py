"""Where files come from is told to model, tokenizer and configuration alike."""

from __future__ import annotations

from fletching.models.hub import spread_hub_options


def test_every_part_is_told_where_its_files_are() -> None:
    told = spread_hub_options(token="t", cache_folder="c", revision="r", local_files_only=True)
    where = {
        "token": "t",
        "cache_dir": "c",
        "revision": "r",
        "local_files_only": True,
        "trust_remote_code": False,
    }
    assert told == dict.fromkeys(("model_kwargs", "processor_kwargs", "config_kwargs"), where)


def test_arguments_for_one_part_win_there_alone() -> None:
    told = spread_hub_options(revision="r", model_kwargs={"revision": "s"})
    assert [each["revision"] for each in told.values()] == ["s", "r", "r"]
