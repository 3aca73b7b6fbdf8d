"""What adapters to other frameworks do with the name and the options of a model; knows no framework."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from fletching.errors import ArgumentError, bad_argument, bad_choice

__all__ = [
    "bad_field",
    "check_flag",
    "check_model_kwargs",
    "check_model_name",
    "check_pickled",
    "freeze_settings",
    "is_overridden",
    "is_secret",
    "names_secret",
    "refuse_model_kwargs",
    "refuse_other_model",
    "refuse_unknown",
    "write_settings",
]

_SECRET = re.compile("token|secret|password|api[_-]?key|authorization", re.IGNORECASE)
_HARMLESS = re.compile(  # tokenizers, counts of tokens, special tokens; what stands between is looked at
    r"tokeni[sz]|tokens_per"
    r"|(?<![a-z0-9])(?:(?:max|min|num|n)_(?P<between>.+_)?tokens|(?:bos|eos|unk|sep|pad|cls|mask)_token)",
    re.IGNORECASE,
)
_RESERVED = ("path_or_id", "kind")  # what an adapter passes to `load_shared` itself


def is_secret(name: object, value: object) -> bool:
    """Say whether an option is better not shown.

    Args:
        name: Its name.
        value: What it is set to.

    Returns:
        Whether the name speaks of a token, a secret, a password, an API key or an authorization, however it
        is spelt. A flag such as ``token=True`` tells nothing, and neither do tokenizers, counts of tokens and
        special ones.

    Example:
        >>> is_secret("hf_token", "hf_abc"), is_secret("api_key", 1234), is_secret("token", True)
        (True, True, False)
        >>> is_secret("max_tokens_per_batch", 512), is_secret("pad_token", "<pad>")
        (False, False)
    """
    return names_secret(name) and not isinstance(value, (bool, type(None)))


def names_secret(name: object) -> bool:
    """Say whether a name is one under which secrets stand, whatever stands there; see `is_secret`.

    Args:
        name: The name.

    Returns:
        Whether it is.
    """
    return bool(_SECRET.search(_HARMLESS.sub(r"\g<between>", str(name))))


def write_settings(value: Any, *, hidden: tuple[type, ...] = ()) -> Any:
    """Make settings fit for JSON, and for everybody's eyes.

    Args:
        value: A mapping, a list, or anything in one.
        hidden: Types whose values are secret under any name, such as pydantic's ``SecretStr``.

    Returns:
        A copy without secrets at any depth; paths and torch's dtypes and devices are text, tuples lists.

    Example:
        >>> write_settings({"cache_folder": PurePath("models"), "headers": {"Authorization": "me"}})
        {'cache_folder': 'models', 'headers': {}}
    """
    if isinstance(value, Mapping):
        return {
            name: write_settings(item, hidden=hidden)
            for name, item in value.items()
            if not is_secret(name, item) and not isinstance(item, hidden)
        }
    if isinstance(value, (list, tuple)):
        return [write_settings(item, hidden=hidden) for item in value if not isinstance(item, hidden)]
    if isinstance(value, PurePath) or type(value).__module__ == "torch":
        return str(value).removeprefix("torch.")
    return value


def freeze_settings(value: Any) -> Any:
    """Copy the containers, so that a later change within them is seen by comparing.

    Args:
        value: A mapping, a list, or anything in one.

    Returns:
        The copy; tuples become lists.
    """
    if isinstance(value, Mapping):
        return {key: freeze_settings(item) for key, item in value.items()}
    return [freeze_settings(item) for item in value] if isinstance(value, (list, tuple)) else value


def check_model_name(owner: str, parameter: str, value: object) -> str:
    """Return the name of a model as text.

    Args:
        owner: The adapter, named in the error.
        parameter: The parameter, named in the error.
        value: Anything.

    Returns:
        The name.

    Raises:
        ArgumentError: If it is no name or path, or blank.
    """
    if not isinstance(value, (str, Path)) or not str(value).strip():
        remedy = f"Make another {owner} for a loaded model"
        raise bad_argument(owner, parameter, "a checkpoint name, a folder or a hub id", value, remedy)
    return str(value)


def check_model_kwargs(owner: str, parameter: str, value: object) -> dict[str, Any]:
    """Return options for `fletching.load_shared` as a new dictionary; no error shows a value.

    Args:
        owner: The adapter, named in the error.
        parameter: The parameter, named in the error.
        value: Anything; ``None`` stands for no options.

    Returns:
        The options.

    Raises:
        ArgumentError: If it is no mapping with strings as keys, or sets what the adapter sets itself.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        domain = "a mapping from argument names of fletching.load_shared to values"
        raise bad_argument(owner, parameter, domain, type(value).__name__)
    for name in _RESERVED:
        if name in value:
            raise bad_argument(owner, parameter, f"without {name!r}, which is set here", sorted(value))
    return dict(value)


def check_flag(owner: str, parameter: str, value: object) -> bool:
    """Return ``value`` if it is True or False.

    Args:
        owner: The adapter, named in the error.
        parameter: The parameter, named in the error.
        value: Anything.

    Returns:
        The flag.

    Raises:
        ArgumentError: If it is neither.
    """
    if not isinstance(value, bool):
        raise bad_argument(owner, parameter, "True or False", value)
    return value


def check_pickled(owner: str, state: Mapping[str, Any], private: str) -> None:
    """Refuse the pickle of a pydantic object that would come back with another model.

    Args:
        owner: The adapter, named in the error.
        state: What its ``__getstate__`` returned.
        private: The private attribute that holds the model.

    Raises:
        ArgumentError: If the model or its options are not in the state.
    """
    kept = {**state["__dict__"], **(state["__pydantic_private__"] or {})}
    for name, parameter in ((private, "model"), ("model_kwargs", "model_kwargs")):
        if name not in kept:
            raise bad_argument(owner, parameter, "what can be pickled", "an object that cannot")


def refuse_unknown(owner: str, known: Iterable[str], given: Iterable[str]) -> None:
    """Refuse arguments that nobody declared.

    Args:
        owner: The adapter, named in the error.
        known: Names of its arguments beside ``model``.
        given: Names that were passed.

    Raises:
        ArgumentError: If one of them is not known; a close name is suggested.
    """
    names = {"model", *known}
    for name in given:
        if name not in names:
            raise bad_choice(owner, "kwargs", sorted(names), name)


def refuse_model_kwargs(owner: str, options: Iterable[str]) -> None:
    """Refuse options for a model that is loaded already; the error shows their names, no value.

    Args:
        owner: The adapter, named in the error.
        options: The options.

    Raises:
        ArgumentError: If there are any.
    """
    names = sorted(options)
    if names:
        raise bad_argument(owner, "model_kwargs", "empty when `model` is loaded already", names)


def refuse_other_model(owner: str, parameter: str, value: object) -> ArgumentError:
    """Build the error for another name of a model that was given loaded.

    Args:
        owner: The adapter.
        parameter: The parameter that holds the name.
        value: The other name.

    Returns:
        The error, to be raised by the caller.
    """
    domain = "left as it is, since the model was given loaded"
    return bad_argument(owner, parameter, domain, value, f"Make another {owner}")


def bad_field(owner: str, problem: Mapping[str, Any]) -> ArgumentError:
    """Word pydantic's report of one field in a sentence that shows only the type of the value.

    Args:
        owner: The class whose field is wrong.
        problem: One item of pydantic's ``ValidationError.errors()``.

    Returns:
        The error, to be raised by the caller.
    """
    field = ".".join(map(str, problem["loc"])) or "kwargs"
    got = "nothing" if problem["type"] == "missing" else type(problem["input"]).__name__
    return bad_argument(owner, field, f"as {owner} declares it ({problem['msg']})", got)


def is_overridden(own: type, ours: type, name: str) -> bool:
    """Say whether a subclass changed a method, even if a framework has wrapped it since.

    Args:
        own: The subclass.
        ours: The class that defines the method.
        name: The method.

    Returns:
        Whether it did.
    """
    return inspect.unwrap(getattr(own, name)) is not inspect.unwrap(getattr(ours, name))
