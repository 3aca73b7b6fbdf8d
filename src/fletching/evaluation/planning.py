"""Which systems an evaluation runs, in which order and under which names; wrong ones are reported here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fletching.errors import (
    ArgumentError,
    CheckpointError,
    DataError,
    FletchingError,
    MissingExtraError,
    bad_argument,
)
from fletching.evaluation.answering import BM25_NAME, RunSystem
from fletching.evaluation.bm25 import BM25
from fletching.evaluation.data_set import EvaluationSet
from fletching.evaluation.systems import find_system_kind, name_system, open_system
from fletching.registry import summarise

__all__ = ["Entry", "check_seed", "failure_named", "hash_lists", "plan_systems"]

_OWNER = "evaluate"


@dataclass(frozen=True)
class Entry:
    """A system to evaluate.

    Args:
        name: What it is called on the table.
        system: What opens it, or the system itself.
        kind: As in `SystemResult`.
        orders: Whether it orders the candidates of the first stage; else it finds documents itself.
    """

    name: str
    system: Any
    kind: str
    orders: bool

    @property
    def is_checkpoint(self) -> bool:
        """Whether a model is opened for it, and nobody else holds that model."""
        return isinstance(self.system, (str, Path)) and self.kind != BM25_NAME


def plan_systems(
    systems: Sequence[Any] | Mapping[str, Any], data: EvaluationSet, model_options: Mapping[str, Any]
) -> list[Entry]:
    """Check and name everything, before anything is opened but run files.

    Args:
        systems: As for `evaluate`.
        data: As for `evaluate`.
        model_options: As for `evaluate`.

    Returns:
        The systems in the order asked for; the first stage, where there is one, comes first.

    Raises:
        ArgumentError: If a system is of no known kind, or a run file has none of the queries.
        CheckpointError: If a name belongs to no checkpoint.
        DataError: If a run file is missing or malformed.
        MissingExtraError: If BM25 is needed and bm25s is not installed.
    """
    given = data.candidates is not None
    entries = []
    for name, system in _name_all(systems).items():
        kind = find_system_kind(system, **model_options)
        if kind == BM25_NAME:
            BM25()  # complains if its extra is missing
        if kind == "run":
            system = open_system(system, name=name)
            if not any(system.search(query, "", 1) for query in data.queries):
                raise bad_argument(_OWNER, "systems", "runs with judged queries", name)
        entries.append(Entry(name, system, kind, kind == "reranker" or (given and kind != "run")))
    taken = [entry.name for entry in entries]
    if given:
        assert data.candidates is not None
        name = data.first_stage or "first stage"
        name = f"{name} (candidates)" if name in taken else name
        first = RunSystem(name, data.candidates, hash_lists(data.candidates))
        return [Entry(name, first, "run", False), *entries]
    if any(entry.orders for entry in entries):
        found = next((entry for entry in entries if entry.kind == BM25_NAME), None)
        if found is None:
            BM25()
            name = f"{BM25_NAME} (first stage)" if BM25_NAME in taken else BM25_NAME
            found = Entry(name, BM25_NAME, BM25_NAME, False)
        return [found, *(entry for entry in entries if entry is not found)]
    return entries


def _name_all(systems: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """Name all systems; of several with one name the second is called ``name #2``."""
    if isinstance(systems, Mapping):
        named = {str(name): system for name, system in systems.items()}
    elif isinstance(systems, (str, Path)) or not isinstance(systems, Iterable):
        raise bad_argument(
            _OWNER, "systems", "a list of systems", systems, "Pass a list, even for one system"
        )
    else:
        named = {}
        for system in systems:
            name, number = name_system(system), 1
            while (unique := name if number == 1 else f"{name} #{number}") in named:
                number += 1
            named[unique] = system
    if not named:
        raise bad_argument(_OWNER, "systems", "at least one system", systems)
    return named


def hash_lists(lists: Mapping[str, Iterable[str] | Mapping[str, float]]) -> str:
    """Name lists: their queries, their documents, their order, and the scores if they have any.

    Args:
        lists: Query id -> ids of documents, or ids and scores.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for query, ids in lists.items():
        items = list(ids.items()) if isinstance(ids, Mapping) else list(ids)
        digest.update(repr((query, items)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def check_seed(owner: str, seed: object) -> None:
    """Refuse a seed that numpy does not take, before anything is computed.

    Args:
        owner: The call named in the error.
        seed: Anything.

    Raises:
        ArgumentError: If it is none.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise bad_argument(owner, "seed", "a whole number of at least 0", seed)


@contextmanager
def failure_named(name: str) -> Iterator[None]:
    """Say which system failed, whatever it raises.

    Args:
        name: Of the system.

    Yields:
        Nothing.

    Raises:
        FletchingError: If the body fails; of the same class if it raised one of ours.
    """
    try:
        yield
    except (MissingExtraError, DataError):  # a file is to blame, or what is not installed
        raise
    except FletchingError as error:
        if repr(name) in str(error):
            raise
        kinds = (ArgumentError, CheckpointError, FletchingError)
        kind = next(kind for kind in kinds if isinstance(error, kind))
        raise kind(f"System {name!r}: {error}") from error
    except Exception as error:
        raise FletchingError(f"System {name!r}: it failed with {summarise(error)}.") from error
