from __future__ import annotations

import pytest

from fletching import errors


@pytest.mark.parametrize(
    ("error", "built_in"),
    [
        (errors.ArgumentError, ValueError),
        (errors.ShapeError, errors.ArgumentError),
        (errors.DataError, ValueError),
        (errors.CheckpointError, ValueError),
        (errors.UnknownMethodError, LookupError),
        (errors.MissingExtraError, ImportError),
        (errors.PluginError, RuntimeError),
    ],
)
def test_error_is_what_callers_already_catch(error: type[Exception], built_in: type[Exception]) -> None:
    assert issubclass(error, built_in)
    assert issubclass(error, errors.FletchingError)


def test_every_class_is_drawn_in_the_tree() -> None:
    classes = [name for name in errors.__all__ if isinstance(getattr(errors, name), type)]
    assert [name for name in classes if name not in (errors.__doc__ or "")] == []


def test_bad_argument_names_owner_parameter_domain_value_and_remedy() -> None:
    error = errors.bad_argument("rank", "top_k", "a positive integer", -1, "Leave it out to keep all")
    assert str(error) == "rank: `top_k` must be a positive integer; got -1. Leave it out to keep all."


class _Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param("\ud800", r"'\ud800'", id="lone-surrogate"),
        (_Unprintable(), "<_Unprintable instance"),
        pytest.param(10**5000, "<int>", id="huge-integer"),
        ("a\nb", r"'a\nb'"),
        (b"\xff", r"b'\xff'"),
        ([[1, 2], [3]], "[[1, 2], [3]]"),
    ],
)
def test_bad_argument_renders_any_value(value: object, shown: str) -> None:
    message = str(errors.bad_argument("rank", "query", "a string", value))
    assert shown in message
    message.encode("utf-8")


@pytest.mark.parametrize(
    "value",
    ["x" * 1_000_000, ["x" * 99] * 99, dict.fromkeys(range(99), "y" * 50), b"z" * 9999],
    ids=["string", "list", "mapping", "bytes"],
)
def test_bad_argument_cuts_long_values(value: object) -> None:
    assert len(str(errors.bad_argument("rank", "query", "a string", value))) < 130


@pytest.mark.parametrize("typed", ["cos", "COSINE", "cosin"])
def test_bad_choice_suggests_the_closest_option(typed: str) -> None:
    message = str(errors.bad_choice("PEGLoss", "schedule", iter(["linear", "cosine"]), typed))
    assert message == (
        f"PEGLoss: `schedule` must be one of 'linear', 'cosine'; got {typed!r}. Did you mean 'cosine'?"
    )


@pytest.mark.parametrize("typed", ["zzz", None, 3])
def test_bad_choice_suggests_nothing_when_nothing_is_close(typed: object) -> None:
    assert str(errors.bad_choice("PEGLoss", "schedule", ["linear"], typed)).endswith(f"got {typed!r}.")


def test_bad_shape_prints_letters() -> None:
    message = str(errors.bad_shape("score_list", "scores", "B, N", [4, 8], (4, 7)))
    assert message == "score_list: `scores` has the wrong shape: expected (B, N) = (4, 8), got (4, 7)."


@pytest.mark.parametrize(
    ("line", "field", "start"),
    [
        (12, "query", "q.jsonl:12: `query` must be text"),
        (12, None, "q.jsonl:12: the record must be text"),
        (None, None, "q.jsonl: the file must be text"),
    ],
)
def test_bad_record_names_the_place(line: int | None, field: str | None, start: str) -> None:
    assert str(errors.bad_record("q.jsonl", line, field, "text", None)) == f"{start}; got None."


def test_bad_record_prints_a_path_that_is_not_unicode() -> None:
    str(errors.bad_record("menu\udce9.txt", None, None, "text", b"\xe9")).encode("utf-8")


def test_bad_checkpoint_names_path_problem_and_remedy() -> None:
    message = str(errors.bad_checkpoint("runs/3", "holds no config.json", "Save it again"))
    assert message == "Checkpoint 'runs/3': holds no config.json. Save it again."


def test_missing_extra_gives_the_pip_line() -> None:
    error = errors.missing_extra("fletching train", "peft", "train")
    assert str(error).endswith('Run: pip install "fletching[train]"')
    assert error.name == "peft"


def test_missing_extra_names_the_package_when_no_extra_brings_it() -> None:
    assert str(errors.missing_extra("quiver", "acme-core", "")).endswith('Run: pip install "acme-core"')
