"""What callers may pass as text, checked once at the public border."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, TypeGuard

from fletching.errors import bad_argument

logger = logging.getLogger(__name__)

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def check_text(owner: str, parameter: str, value: object) -> str:
    """Return ``value`` as text a tokenizer accepts.

    Lone surrogates (half of an emoji cut by a careless slice) cannot be encoded as UTF-8; each one is read as
    U+FFFD, as every browser does, so that one damaged document does not cost the other ninety-nine.

    Args:
        owner: The call named in the error, e.g. ``"MVPReranker.rank"``.
        parameter: The parameter named in the error, e.g. ``"documents[3]"``.
        value: Anything.

    Returns:
        The text, unchanged but for lone surrogates; always a plain ``str``, since subclasses (markup, enums)
        may put prompts in front of themselves in a way of their own.

    Raises:
        ArgumentError: If ``value`` is not a ``str``.
    """
    if not isinstance(value, str):
        raise bad_argument(owner, parameter, "a string", value, _remedy(value))
    text = str.__str__(value)
    if text.isascii() or not _LONE_SURROGATE.search(text):
        return text
    logger.warning("%s: `%s` holds lone surrogates; each is read as U+FFFD.", owner, parameter)
    return _LONE_SURROGATE.sub(_REPLACEMENT, text)


def is_listing(value: object) -> bool:
    """Say whether a value lists things in an order that results can refer to.

    Args:
        value: Anything.

    Returns:
        True for iterables that are neither text, nor a mapping, nor a set.
    """
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping, set, frozenset))


def check_texts(owner: str, parameter: str, values: object) -> list[str]:
    """Return ``values`` as a list of texts; the error names the first position that is not one.

    Args:
        owner: The call named in the error.
        parameter: The parameter named in the error.
        values: A sequence or other iterable of strings; a bare string is refused, since its characters are
            not what the caller means, and so are mappings and sets.

    Returns:
        A new list, in the same order.

    Raises:
        ArgumentError: If ``values`` is not an iterable of strings.
    """
    if not isinstance(values, Iterable) or not is_listing(values):
        raise bad_argument(owner, parameter, "a list of strings", values, "Pass a list, even for one text")
    return [check_text(owner, f"{parameter}[{index}]", value) for index, value in enumerate(values)]


def check_query(owner: str, parameter: str, value: object) -> str:
    """Return ``value`` as a query: text with at least one visible character.

    Args:
        owner: The call named in the error.
        parameter: The parameter named in the error.
        value: Anything.

    Returns:
        The text, unchanged but for lone surrogates.

    Raises:
        ArgumentError: If ``value`` is not a string or is blank: nothing can be relevant to it.
    """
    query = check_text(owner, parameter, value)
    if not query.strip():
        raise bad_argument(
            owner,
            parameter,
            "a query with at least one visible character",
            query,
            "Skip the call when there is no query",
        )
    return query


def check_pairs(owner: str, pairs: Sequence[Any]) -> list[tuple[str, str]]:
    """Return ``pairs`` as ``(query, document)`` tuples of text.

    Args:
        owner: The call named in the error.
        pairs: Sequence of two-item sequences.

    Returns:
        A new list, in the same order.

    Raises:
        ArgumentError: If an item is not a pair of a query and a text.
    """
    checked = []
    for index, pair in enumerate(pairs):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise bad_argument(owner, f"inputs[{index}]", "a (query, document) pair", pair)
        checked.append(
            (
                check_query(owner, f"inputs[{index}][0]", pair[0]),
                check_text(owner, f"inputs[{index}][1]", pair[1]),
            )
        )
    return checked


def check_count(owner: str, parameter: str, value: object) -> int | None:
    """Return ``value`` as a positive integer, or ``None``.

    Args:
        owner: The call named in the error.
        parameter: The parameter named in the error.
        value: Anything.

    Returns:
        The integer, or ``None`` for ``None``.

    Raises:
        ArgumentError: If ``value`` is neither.
    """
    if value is None:
        return None
    if not _is_positive(value):
        raise bad_argument(owner, parameter, "a positive integer or None", value)
    return int(value)


def check_positive(owner: str, parameter: str, value: object) -> int:
    """Return ``value`` as a positive integer.

    Args:
        owner: The call named in the error.
        parameter: The parameter named in the error.
        value: Anything.

    Returns:
        The integer.

    Raises:
        ArgumentError: If ``value`` is none.
    """
    if not _is_positive(value):
        raise bad_argument(owner, parameter, "a positive integer", value)
    return int(value)


def _is_positive(value: object) -> TypeGuard[int]:
    """Accept NumPy's integers, too."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _remedy(value: object) -> str:
    if value is None:
        return "Drop the missing ones or pass ''"
    if isinstance(value, bytes):
        return "Decode it first, e.g. value.decode('utf-8')"
    return "Convert it with str() if that is what you mean"
