"""The exceptions fletching raises, and the builders that word them.

Every message is one sentence that names the bad value, what was expected and, where it helps, what to do::

    FletchingError
    ├── ArgumentError        (ValueError)    a value handed to a public call is wrong
    │   └── ShapeError                       ... because a tensor has the wrong shape
    ├── DataError            (ValueError)    a record in a file is wrong
    ├── CheckpointError      (ValueError)    a model folder is broken, hostile or not ours
    ├── UnknownMethodError   (LookupError)   no method or checkpoint has this name
    ├── MissingExtraError    (ImportError)   an optional dependency is not installed
    └── PluginError          (RuntimeError)  a plug-in cannot be used

    UserWarning
    └── FidelityWarning      a run departs from the paper it follows

Raise what a builder returns: ``raise bad_argument("Owner", "top_k", "a positive integer", top_k)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from os import PathLike
from reprlib import Repr

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "DataError",
    "FidelityWarning",
    "FletchingError",
    "MissingExtraError",
    "PluginError",
    "ShapeError",
    "UnknownMethodError",
    "bad_argument",
    "bad_checkpoint",
    "bad_choice",
    "bad_record",
    "bad_shape",
    "did_you_mean",
    "missing_extra",
]

_MAX_VALUE_LENGTH = 80
_MAX_PROBLEM_LENGTH = 400


class FletchingError(Exception):
    """Base of every error that fletching raises on purpose."""


class ArgumentError(FletchingError, ValueError):
    """A value handed to a public call is outside its domain."""


class ShapeError(ArgumentError):
    """A tensor does not have the shape that the call needs."""


class DataError(FletchingError, ValueError):
    """A record read from a file is malformed."""


class CheckpointError(FletchingError, ValueError):
    """A model folder is broken, hostile or not ours."""


class UnknownMethodError(FletchingError, LookupError):
    """No method or checkpoint is registered under this name."""


class MissingExtraError(FletchingError, ImportError):
    """A package that only some methods need is not installed."""


class PluginError(FletchingError, RuntimeError):
    """A plug-in is broken; the cause is chained."""


class FidelityWarning(UserWarning):
    """A run departs from the paper or reference code that it follows."""


def bad_argument(owner: str, parameter: str, domain: str, value: object, remedy: str = "") -> ArgumentError:
    """Build the error for a value outside its domain.

    Args:
        owner: Class or function whose call is wrong, such as ``"PEGLoss"``.
        parameter: Name of the parameter, as the caller types it.
        domain: What is allowed, read after "must be": ``"a positive integer"``.
        value: What was given; long values are shortened.
        remedy: What to do about it, one sentence; empty when the domain says it all.

    Returns:
        The error, to be raised by the caller.

    Example:
        >>> print(bad_argument("rank", "top_k", "a positive integer or None", -1))
        rank: `top_k` must be a positive integer or None; got -1.
    """
    return ArgumentError(_join(f"{owner}: `{parameter}` must be {domain}; got {_show(value)}", remedy))


def bad_choice(owner: str, parameter: str, options: Iterable[str], value: object) -> ArgumentError:
    """Build the error for a value that is none of the allowed names.

    Args:
        owner: Class or function whose call is wrong.
        parameter: Name of the parameter, as the caller types it.
        options: The allowed names, taken from the table that decides.
        value: What was given; a close option is suggested when it is a string.

    Returns:
        The error, to be raised by the caller.

    Example:
        >>> print(bad_choice("PEGLoss", "schedule", ["linear", "cosine"], "cos"))
        PEGLoss: `schedule` must be one of 'linear', 'cosine'; got 'cos'. Did you mean 'cosine'?
    """
    names = list(options)
    domain = f"one of {', '.join(map(repr, names))}"
    return bad_argument(owner, parameter, domain, value, did_you_mean(value, names))


def bad_shape(owner: str, name: str, letters: str, expected: Sequence[int], got: Sequence[int]) -> ShapeError:
    """Build the error for a tensor of the wrong shape.

    Args:
        owner: Class or function whose call is wrong.
        name: Name of the tensor.
        letters: The shape in the library's letters, such as ``"B, N"``.
        expected: Sizes the call needs, one for each letter.
        got: Sizes of the tensor that was given.

    Returns:
        The error, to be raised by the caller.

    Example:
        >>> print(bad_shape("score_list", "scores", "B, N", (4, 8), (4, 7)))
        score_list: `scores` has the wrong shape: expected (B, N) = (4, 8), got (4, 7).
    """
    return ShapeError(
        f"{owner}: `{name}` has the wrong shape: expected ({letters}) = {tuple(expected)}, got {tuple(got)}."
    )


def bad_record(
    path: str | PathLike[str],
    line: int | None,
    field: str | None,
    domain: str,
    value: object,
    remedy: str = "",
) -> DataError:
    """Build the error for a malformed record in a file.

    Args:
        path: The file.
        line: Line of the record, counted from 1; ``None`` when the whole file is meant.
        field: Field of the record; ``None`` when the whole record (or file) is meant.
        domain: What is allowed, read after "must be".
        value: What was found; long values are shortened.
        remedy: What to do about it, one sentence.

    Returns:
        The error, to be raised by the caller.

    Example:
        >>> print(bad_record("queries.jsonl", 12, "query", "a non-empty string", None))
        queries.jsonl:12: `query` must be a non-empty string; got None.
    """
    place = _printable(str(path)) if line is None else f"{_printable(str(path))}:{line}"
    subject = f"`{field}`" if field else "the file" if line is None else "the record"
    return DataError(_join(f"{place}: {subject} must be {domain}; got {_show(value)}", remedy))


def bad_checkpoint(path: str | PathLike[str], problem: str, remedy: str = "") -> CheckpointError:
    """Build the error for a model folder that cannot be opened.

    Args:
        path: Folder or hub id of the checkpoint.
        problem: What is wrong with it, without the final full stop; a long one loses its middle.
        remedy: What to do about it, one sentence.

    Returns:
        The error, to be raised by the caller.

    Example:
        >>> print(bad_checkpoint("runs/3", "holds no config.json", "Was the run stopped before it saved?"))
        Checkpoint 'runs/3': holds no config.json. Was the run stopped before it saved?
    """
    name, problem = (_printable(_cut(text)) for text in (str(path), problem))
    return CheckpointError(_join(f"Checkpoint '{name}': {problem}", remedy))


def missing_extra(owner: str, package: str, extra: str) -> MissingExtraError:
    """Build the error for an optional dependency that is not installed.

    Args:
        owner: Method, class or command that needs the package.
        package: Distribution that is missing.
        extra: The extra of fletching that installs it; ``""`` when none does (a plug-in's own dependency).

    Returns:
        The error, to be raised by the caller.

    Example:
        >>> print(missing_extra("fletching train", "peft", "train"))
        fletching train: the package 'peft' is not installed. Run: pip install "fletching[train]"
    """
    requirement = f"fletching[{extra}]" if extra else package
    return MissingExtraError(
        f'{owner}: the package {package!r} is not installed. Run: pip install "{requirement}"', name=package
    )


def did_you_mean(value: object, options: Iterable[str]) -> str:
    """Word a suggestion for a misspelt name.

    Args:
        value: What was typed.
        options: The names that exist.

    Returns:
        ``"Did you mean 'cosine'?"``, or ``""`` when no option is close.
    """
    if not isinstance(value, str):
        return ""
    by_lower_case = {option.lower(): option for option in options}
    close = get_close_matches(value[:_MAX_VALUE_LENGTH].lower(), by_lower_case, n=1)
    return f"Did you mean {by_lower_case[close[0]]!r}?" if close else ""


_short = Repr()  # reads only the ends of long values
_short.maxstring = _short.maxother = _short.maxlong = _MAX_VALUE_LENGTH


def _show(value: object) -> str:
    """Render a value on one short line; never fails, whatever the value's ``__repr__`` does."""
    try:
        text = _printable(" ".join(_short.repr(value).split()))
    except Exception:
        return f"<{type(value).__name__}>"
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[: _MAX_VALUE_LENGTH - 3]}..."


def _cut(text: str) -> str:
    """Take the middle out of a long text: a checkpoint decides on the names in it."""
    half = _MAX_PROBLEM_LENGTH // 2
    return text if len(text) <= _MAX_PROBLEM_LENGTH else f"{text[:half]}...{text[-half:]}"


def _printable(text: str) -> str:
    """Escape lone surrogates, which no terminal or log file can encode."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _join(sentence: str, remedy: str) -> str:
    """End the sentence with one full stop and add the remedy, ended likewise."""
    return " ".join(
        part if part.endswith((".", "!", "?")) else f"{part}." for part in (sentence, remedy) if part
    )
