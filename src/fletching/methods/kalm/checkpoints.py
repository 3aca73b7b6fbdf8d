"""Which checkpoints are KaLM-Embedding's, which of them read both ways, and what V2.5 computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from fletching.errors import FletchingError, bad_argument, bad_checkpoint
from fletching.models.marks import goes_by, read_mark

__all__ = ["PUBLISHED", "PublishedCheckpoint", "find_published", "is_kalm", "resolve_causal"]

METHOD = "kalm"
"""What a save of ours says that it is."""

_OWNER = "KaLMEmbedder"


@dataclass(frozen=True)
class PublishedCheckpoint:
    """One of the authors' checkpoints.

    Args:
        model: Hub id.
        version: As the authors count.
        causal: Whether tokens see only those before them.
        instruction: For queries of retrieval.
    """

    model: str
    version: str
    causal: bool
    instruction: str


_ANSWER = "Given a query, retrieve documents that answer the query"

PUBLISHED = (  # instructions: reference tables of MTEB; V1's ends with a full stop
    PublishedCheckpoint("HIT-TMG/KaLM-embedding-multilingual-mini-instruct-v1", "1", True, f"{_ANSWER}."),
    PublishedCheckpoint("HIT-TMG/KaLM-embedding-multilingual-mini-instruct-v1.5", "1.5", True, f"{_ANSWER}."),
    PublishedCheckpoint("HIT-TMG/KaLM-embedding-multilingual-mini-instruct-v2", "2", False, _ANSWER),
    PublishedCheckpoint(
        "KaLM-Embedding/KaLM-embedding-multilingual-mini-instruct-v2.5", "2.5", False, _ANSWER
    ),
)
"""The 0.5B checkpoints. V1 and V1.5 are causal, V2 and V2.5 read both ways, from the same architecture."""


def find_published(location: str) -> PublishedCheckpoint | None:
    """Find the published checkpoint that a hub id, or a folder that carries its name, is.

    Args:
        location: Hub id or folder. Folders count by their last part, and those of the hub's cache.

    Returns:
        The checkpoint; ``None`` if the name says nothing.

    Example:
        >>> find_published("models/KaLM-embedding-multilingual-mini-instruct-v2.5").causal
        False
        >>> find_published("Qwen/Qwen2-0.5B")
    """
    return next((row for row in PUBLISHED if goes_by(location, row.model)), None)


def is_kalm(location: str, contents: Mapping[str, Any]) -> bool:
    """Say whether a checkpoint is KaLM-Embedding's, so that ``fletching.load`` opens it as such.

    It is if a save of ours says so, or if it has the shape and goes by the name: a Qwen2 of stock modules in
    a folder or repository whose name has "kalm" in it.

    Args:
        location: Hub id or folder.
        contents: ``modules.json``, ``config.json`` and ``config_sentence_transformers.json``.

    Returns:
        Whether it is.
    """
    if read_mark(contents["config_sentence_transformers.json"], METHOD):
        return True
    config = contents["config.json"]
    saved_as = contents["config_sentence_transformers.json"].get("model_type", "SentenceTransformer")
    if (
        config.get("model_type") != "qwen2"
        or not contents["modules.json"]
        or saved_as != "SentenceTransformer"
    ):
        return False
    names = (location, str(config.get("_name_or_path", "")))
    return find_published(location) is not None or any(
        "kalm" in PurePath(name).name.lower() for name in names
    )


def resolve_causal(location: str, config: Mapping[str, Any], *, causal: bool | None = None) -> bool:
    """Decide whether a checkpoint is causal; the architecture is the same for both, so something must say it.

    What counts, in this order: the argument, ``is_causal`` in ``config.json``, the name of a published
    checkpoint, modelling code of its own (``auto_map``), which only the bidirectional ones need. A published
    checkpoint whose ``config.json`` says the opposite of its name is refused.

    Args:
        location: Hub id or folder.
        config: Content of ``config.json``.
        causal: What the user says; ``None`` if nothing.

    Returns:
        ``True`` for causal.

    Raises:
        ArgumentError: If ``causal`` is neither, or nothing tells.
        CheckpointError: If name and configuration contradict each other.

    Example:
        >>> resolve_causal("my/model", {"auto_map": {"AutoModel": "modeling.Qwen2Model"}})
        False
    """
    if causal is not None:
        if not isinstance(causal, bool):
            raise bad_argument(_OWNER, "causal", "True, False or None", causal)
        return causal
    said = config.get("is_causal")
    row = find_published(location)
    if isinstance(said, bool):
        if row is not None and row.causal != said:
            problem = (
                f'its config.json says "is_causal": {str(said).lower()}, but KaLM-Embedding {row.version} '
                f"reads {'from left to right' if row.causal else 'both ways'}"
            )
            raise bad_checkpoint(location, problem, "Say which with causal=True or causal=False")
        return said
    if row is not None:
        return row.causal
    code = config.get("auto_map")
    if isinstance(code, dict) and "AutoModel" in code:
        return False
    raise bad_argument(
        _OWNER,
        "causal",
        f"given for {location!r}, which does not say whether it reads both ways",
        causal,
        "It is False for KaLM-Embedding V2 and later and for a model to train, True for V1 and V1.5",
    )


CONFORMANCE_TEXT = "This is an example sentence"
"""A text for which numbers are public."""

CONFORMANCE_VECTOR = (
    -0.01055833,
    -0.02115268,
    0.00994598,
    -0.00856667,
    -0.0047357,
    0.01062506,
    0.00235983,
    -0.07997689,
    -0.03332109,
    0.01760131,
)
"""Its first ten numbers by V2.5, without a prompt, in float32, of length one; from the review of a port."""

CONFORMANCE_TOLERANCE = 1e-4
"""How far each may be off."""


def check_conformance(
    model: Any,
    *,
    text: str = CONFORMANCE_TEXT,
    expected: Sequence[float] = CONFORMANCE_VECTOR,
    tolerance: float = CONFORMANCE_TOLERANCE,
) -> float:
    """Compare the first numbers of one vector with known ones.

    A checkpoint that is read from left to right by mistake, gets other tokens, or is pooled otherwise, is far
    off. Run it in float32 on a new copy of the weights, or after an update of transformers.

    Args:
        model: The embedder.
        text: What it reads, without a prompt.
        expected: The first numbers of its vector, of length one.
        tolerance: The largest difference allowed.

    Returns:
        The largest difference.

    Raises:
        ArgumentError: If the model is narrower than ``expected``.
        FletchingError: If a number is further off.
    """
    vector = model.encode(text, prompt="", normalize_embeddings=True, convert_to_numpy=True)
    if len(vector) < len(expected):
        domain = f"at least {len(expected)} wide"
        raise bad_argument("check_conformance", "model", domain, len(vector))
    difference = float(max(abs(float(got) - known) for got, known in zip(vector, expected, strict=False)))
    if not difference <= tolerance:
        raise FletchingError(
            f"check_conformance: the vector of {text!r} is off by {difference:.2g} from the known one, "
            f"more than {tolerance:.2g}. Is the model causal by mistake, "
            "in low precision, or of another tokenizer?"
        )
    return difference
