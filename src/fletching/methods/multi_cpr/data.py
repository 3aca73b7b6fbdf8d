"""Multi-CPR data: queries, the passage that answers each, and a million passages that stay on disk."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from fletching.data import read_queries
from fletching.data.lines import StrPath, Words, no_records, read_lines
from fletching.data.mapped import MappedTexts
from fletching.errors import DataError, bad_argument, bad_record
from fletching.methods.multi_cpr.config import DOMAINS, check_choice

if TYPE_CHECKING:
    from fletching.methods.multi_cpr.counts import CountDifference

__all__ = ["SPLITS", "MultiCPRDataset", "Passages", "QueryKey"]

logger = logging.getLogger(__name__)

SPLITS = ("train", "dev")
"""The splits; ``"dev"`` is the paper's test set."""

_QUERIES = "{}.query.txt"
_QRELS = "qrels.{}.tsv"
_CORPUS = "corpus.tsv"
_PART = re.compile(r"corpus_split_([0-9]+)\.tsv")
_FULL_COPY = "Some public copies leave the largest files out; take it from the full data"


class QueryKey(NamedTuple):
    """What names a query: in the medical domain, train and dev both have the ids 1 to 1000.

    Args:
        split: ``"train"`` or ``"dev"``.
        id: The id in the file.
    """

    split: str
    id: str


class Passages(Mapping[str, str]):
    """Passage id -> text, read from disk when asked for.

    Tabs inside a record become spaces: the reference joins title and text of a record of three columns so,
    and in a record of two a tab belongs to the text.

    Args:
        paths: The files, one collection in this order.

    Raises:
        DataError: If a record is malformed or an id repeats; the text names file and line.
    """

    def __init__(self, paths: Sequence[StrPath]) -> None:
        self._texts = MappedTexts(paths, header=False)

    def __getitem__(self, key: str) -> str:
        return _join_columns(self._texts[key])

    def __contains__(self, key: object) -> bool:
        return key in self._texts

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def stream(self) -> Iterator[tuple[str, str]]:
        """Read all passages in the files' order and in flat memory.

        Yields:
            Id and text.
        """
        for document in self._texts.documents():
            yield document.id, _join_columns(document.text)


class MultiCPRDataset:
    """The queries of one split, the passage that answers each, and the passages of the domain.

    ``queries`` maps a :class:`QueryKey` to its text and ``qrels`` to ``{passage id: 1}``; keys of two splits
    never collide. ``corpus`` maps passage ids to texts; it is opened at first use, since queries and
    judgements are of use without it. ``paths`` are the files of queries and judgements. Ids are strings
    everywhere. The ``"dev"`` split is the paper's test set:
    do not tune on it, :meth:`hold_out` cuts a development set from ``"train"``.

    Args:
        root: The folder that holds the domains' folders (or holds them in ``data``, as the repository does).
            Queries and judgements may be gzipped, passages may not.
        domain: ``"ecom"``, ``"medical"`` or ``"video"``.
        split: ``"train"`` or ``"dev"``.

    Raises:
        ArgumentError: If there is no such domain or split.
        DataError: If a file is missing or a record is malformed: a judgement has other than four columns, or
            labels other than ``0`` and ``1``; a query is judged twice, or unknown. The text names file and
            line.
    """

    def __init__(self, root: StrPath, domain: str, split: str) -> None:
        owner = type(self).__name__
        check_choice(owner, "domain", DOMAINS, domain)
        check_choice(owner, "split", SPLITS, split)
        self.domain = domain
        self.split = split
        self.name = f"multi_cpr_{domain}_{split}"
        self.folder = _find_folder(Path(root), domain)
        path = _require(self.folder / _QUERIES.format(split))
        qrels_path = _require(self.folder / _QRELS.format(split))
        self.paths = (path, qrels_path)
        texts = read_queries(path, columns=("id", "text"), header=False)
        self.queries = {QueryKey(split, key): text for key, text in texts.items()}
        self.qrels = _read_qrels(qrels_path, split, self.queries, path)
        self._corpus: Passages | dict[str, str] | None = None
        if n_unjudged := len(self.queries) - len(self.qrels):
            logger.warning("%s: %d of %d queries are not judged.", self.name, n_unjudged, len(self.queries))

    def __repr__(self) -> str:
        return f"MultiCPRDataset({self.name!r}: {len(self.queries)} queries, {len(self.qrels)} judged)"

    @property
    def positives(self) -> dict[QueryKey, str]:
        """The judged queries and the id of the one passage that answers each."""
        return {key: next(iter(passages)) for key, passages in self.qrels.items()}

    @property
    def corpus_paths(self) -> tuple[Path, ...]:
        """The files of the passages: ``corpus.tsv``, or its parts in the order of their numbers."""
        if (whole := self.folder / _CORPUS).is_file():
            return (whole,)
        found = {
            int(match[1]): path
            for path in self.folder.iterdir()
            if (match := _PART.fullmatch(path.name)) and path.is_file()
        }
        for number in range(1, max(found, default=1) + 1):
            if number not in found:
                missing = whole if not found else self.folder / f"corpus_split_{number}.tsv"
                raise _missing(missing)
        return tuple(found[number] for number in sorted(found))

    @property
    def corpus(self) -> Mapping[str, str]:
        """Passage id -> text, in the files' order.

        Raises:
            DataError: If a file is missing or a record is malformed.
        """
        if self._corpus is None:
            self._corpus = Passages(self.corpus_paths)
        return self._corpus

    def stream_passages(self) -> Iterator[tuple[str, str]]:
        """Read the passages one at a time, in the files' order.

        Yields:
            Id and text.

        Raises:
            DataError: If a file is missing or a record is malformed.
        """
        corpus = self.corpus
        yield from corpus.stream() if isinstance(corpus, Passages) else corpus.items()

    def sample_corpus(self, n_random: int, *, seed: int = 0) -> MultiCPRDataset:
        """Keep the passages that answer a query here, and a random sample of the others.

        Fewer passages are easier to search: no figure on the result is comparable with one on all passages,
        and its name says so.

        Args:
            n_random: Passages to keep that answer no query of this data set, >= 0.
            seed: Same seed, same sample.

        Returns:
            The same queries and judgements with a smaller ``corpus``, held in memory.

        Raises:
            ArgumentError: If there are fewer passages.
            DataError: If a judged passage is not in the corpus.
        """
        judged = set(self.positives.values())
        others = [key for key in self.corpus if key not in judged]
        if not (isinstance(n_random, int) and 0 <= n_random <= len(others)):
            domain = f"an integer from 0 to {len(others)}, the passages that answer no query here"
            raise bad_argument("MultiCPRDataset.sample_corpus", "n_random", domain, n_random)
        for key in self.positives:
            self.read_positive(key)
        chosen = judged.union(Random(seed).sample(others, n_random))
        smaller = self._derive(f"positives_and_{n_random}_random_not_comparable", self.qrels)
        smaller._corpus = {key: text for key, text in self.stream_passages() if key in chosen}
        return smaller

    def hold_out(self, n_queries: int, *, seed: int = 0) -> tuple[MultiCPRDataset, MultiCPRDataset]:
        """Cut a development set off, at random; on it settings may be chosen, unlike on ``"dev"``.

        Queries that share their passage stay together, so that nothing of the development set is trained on;
        it may get a few queries more for that. Queries without a judgement are in neither part.

        Args:
            n_queries: Queries to hold out; at least one, and not all.
            seed: Same seed, same parts, whatever the order of the files.

        Returns:
            What is left, and what was held out, over the same passages.

        Raises:
            ArgumentError: If there are not enough queries.
        """
        by_passage: dict[str, list[QueryKey]] = defaultdict(list)
        for key, passage in self.positives.items():
            by_passage[passage].append(key)
        order = sorted(by_passage)
        Random(seed).shuffle(order)
        held: set[QueryKey] = set()
        if isinstance(n_queries, int):
            for passage in order:
                if len(held) >= n_queries:
                    break
                held.update(by_passage[passage])
        if not 0 < len(held) < len(self.qrels):
            domain = f"an integer that leaves some of the {len(self.qrels)} judged queries"
            raise bad_argument("MultiCPRDataset.hold_out", "n_queries", domain, n_queries)
        rest = {key: passages for key, passages in self.qrels.items() if key not in held}
        chosen = {key: passages for key, passages in self.qrels.items() if key in held}
        return self._derive("rest", rest), self._derive("held_out", chosen)

    def take(self, n_queries: int, *, seed: int = 0) -> MultiCPRDataset:
        """Keep a random sample of the judged queries.

        Args:
            n_queries: Queries to keep; all if there are fewer.
            seed: Same seed, same sample.

        Returns:
            The data set with these queries, in the order of the files, over the same passages.

        Raises:
            ArgumentError: If ``n_queries`` is not positive.
        """
        if not (isinstance(n_queries, int) and n_queries >= 1):
            raise bad_argument("MultiCPRDataset.take", "n_queries", "a positive integer", n_queries)
        if n_queries >= len(self.qrels):
            return self
        kept = set(Random(seed).sample(sorted(self.qrels), n_queries))
        return self._derive(
            f"{n_queries}_queries", {key: self.qrels[key] for key in self.qrels if key in kept}
        )

    def build_pairs(self) -> dict[str, list[str]]:
        """Build the rows that the dual encoder is trained on.

        Returns:
            Columns ``anchor`` (queries) and ``positive`` (passages), one row for each judged query.

        Raises:
            DataError: If a judged passage is not in the corpus.
        """
        return {
            "anchor": [self.queries[key] for key in self.qrels],
            "positive": [self.read_positive(key) for key in self.qrels],
        }

    def read_positive(self, key: QueryKey) -> str:
        """Read the passage that answers a query.

        Args:
            key: A judged query.

        Returns:
            Its text.

        Raises:
            DataError: If the passage is not in the corpus.
        """
        passage = next(iter(self.qrels[key]))
        text = self.corpus.get(passage)
        if text is None:
            found = Words(f"{passage!r} for query {key.id!r}")
            raise bad_record(
                self.paths[1], None, None, f"about passages of {self.corpus_paths[0].name}", found
            )
        return text

    def check_counts(self) -> list[CountDifference]:
        """Compare what is here with what the official files hold.

        Returns:
            What differs; empty if nothing does.
        """
        from fletching.methods.multi_cpr.counts import compare_counts

        return compare_counts(self)

    def _derive(self, suffix: str, qrels: dict[QueryKey, dict[str, int]]) -> MultiCPRDataset:
        derived = copy(self)
        derived.name = f"{self.name}_{suffix}"
        if qrels is not self.qrels:
            derived.qrels = qrels
            derived.queries = {key: self.queries[key] for key in qrels}
        return derived


def _join_columns(text: str) -> str:
    return text.replace("\t", " ")


def _find_folder(root: Path, domain: str) -> Path:
    for folder in (root / domain, root / "data" / domain):
        if folder.is_dir():
            return folder
    domain_folders = ", ".join(DOMAINS)
    raise bad_record(root, None, None, f"a folder with {domain_folders}", Words(f"no folder {domain!r}"))


def _require(path: Path) -> Path:
    """Find a file, plain or gzipped."""
    for found in (path, path.with_name(f"{path.name}.gz")):
        if found.is_file():
            return found
    raise _missing(path)


def _missing(path: Path) -> DataError:
    return bad_record(path, None, None, "an existing file", Words("nothing under this name"), _FULL_COPY)


def _read_qrels(
    path: Path, split: str, queries: Mapping[QueryKey, str], queries_path: Path
) -> dict[QueryKey, dict[str, int]]:
    """Read judgements exactly as the files have them: query, ``0``, passage, ``1``; one row a query."""
    qrels: dict[QueryKey, dict[str, int]] = {}
    for number, line in read_lines(path):
        fields = line.split("\t")
        if len(fields) != 4:
            found = Words(f"{len(fields)}: {line[:40]!r}")
            raise bad_record(path, number, None, "a row of 4 columns separated by tabs", found)
        query, iteration, passage, label = fields
        if iteration != "0":
            raise bad_record(path, number, "iteration", "'0'", iteration)
        if label != "1":
            raise bad_record(path, number, "label", "'1'", label)
        if not passage or passage.isspace():
            raise bad_record(path, number, "passage", "a non-empty id", passage)
        key = QueryKey(split, query)
        if key not in queries:
            raise bad_record(path, number, "query", f"an id of {queries_path.name}", query)
        if key in qrels:
            raise bad_record(path, number, "query", "judged once", query)
        qrels[key] = {passage: 1}
    if not qrels:
        raise no_records(path)
    return qrels
