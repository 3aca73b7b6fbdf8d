"""From a sentence to the text of a prompt, as the reference code does it."""

from __future__ import annotations

from fletching.methods.token_prepending.config import PLACEHOLDER, SENTENCE

_ENDS = (".", "?", '"', "'")


def clean_sentence(sentence: str) -> str:
    """Clean a sentence so that the prompt's quotation marks stay its own.

    In this order: a full stop is added to a sentence that is not empty and ends with none of ``. ? " '``;
    every ``"`` becomes ``'``; a question mark at the end becomes a full stop.

    Args:
        sentence: The sentence.

    Returns:
        The sentence, cleaned.

    Example:
        >>> clean_sentence('He said "go"'), clean_sentence("Why?"), clean_sentence("")
        ("He said 'go'", 'Why.', '')
    """
    if sentence and not sentence.endswith(_ENDS):
        sentence += "."
    sentence = sentence.replace('"', "'")
    return f"{sentence[:-1]}." if sentence.endswith("?") else sentence


def fill_prompt(prompt: str, sentence: str) -> str:
    """Put a sentence into a prompt.

    Args:
        prompt: A prompt with ``*sent 0*``.
        sentence: The sentence; what looks like ``*sent 0*`` in it stays as it is.

    Returns:
        The text, without white space around it.

    Example:
        >>> fill_prompt('This sentence : <PST> "*sent 0*" means in one word:"', "Go.")
        'This sentence : <PST> "Go." means in one word:"'
    """
    return prompt.replace(SENTENCE, sentence).strip()


def escape_placeholder(sentence: str) -> str:
    """Take the meaning of the placeholder from a sentence that holds its very text.

    Args:
        sentence: The sentence.

    Returns:
        The sentence with white space inside each ``<PST>``.

    Example:
        >>> escape_placeholder("a <PST> b")
        'a < PST> b'
    """
    return sentence.replace(PLACEHOLDER, f"{PLACEHOLDER[0]} {PLACEHOLDER[1:]}")
