"""Made-up collections in T2Ranking's layout: for tests and first tries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random

from fletching.data.lines import StrPath, write_lines
from fletching.errors import bad_argument

__all__ = ["CHARACTERS", "write_synthetic"]

CHARACTERS = "".join(chr(0x4E00 + 37 * place) for place in range(240))
"""All characters of synthetic texts; real ones, in no meaningful order."""

_FILLERS = CHARACTERS[:60]
_TOPICS = CHARACTERS[60:]
_WORD_LENGTH = 2
_LEVELS = (3, 2, 2, 1, 0, 0)  # of the judged passages of a topic
_SHARED_WORDS = {3: 3, 2: 2, 1: 1, 0: 0}  # words of the topic in a passage of each level
_WITHOUT_POSITIVE = 12  # every so-manyth query has none, as 8 % of T2Ranking's
_LIST_LENGTH = 60


def write_synthetic(
    folder: StrPath,
    *,
    n_train: int = 48,
    n_dev: int = 24,
    n_passages: int = 400,
    header: bool = True,
    seed: int = 0,
) -> Path:
    """Write a small collection with all files of T2Ranking, by the same names and in the same columns.

    Each query asks for a topic of three made-up words; a passage of level 3 has all of them, of level 2 two,
    of level 1 one. Dev queries ask for topics of the training queries in other words. One query in twelve has
    no relevant passage, some passages hold quotation marks, and one is empty.

    Args:
        folder: Where to; made when missing.
        n_train: Training queries.
        n_dev: Dev queries, at most ``n_train``; there are as many test queries, which are not judged.
        n_passages: Passages, at least seven for each training query.
        header: Whether files begin with the names of their columns, as the official ones do.
        seed: Same seed, same files, on every platform.

    Returns:
        The folder.

    Raises:
        ArgumentError: If a number is out of range.
    """
    if not 1 <= n_dev <= n_train:
        raise bad_argument("write_synthetic", "n_dev", f"from 1 to n_train ({n_train})", n_dev)
    if n_passages < (len(_LEVELS) + 1) * n_train:
        lowest = (len(_LEVELS) + 1) * n_train
        raise bad_argument("write_synthetic", "n_passages", f"at least {lowest}", n_passages)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    generator = Random(seed)
    topics = [["".join(generator.choices(_TOPICS, k=_WORD_LENGTH)) for _ in range(3)] for _ in range(n_train)]
    places = list(range(1, n_passages))  # passage 0 is the empty one
    generator.shuffle(places)
    passages = [""] + [_write_text(generator, [], 30) for _ in range(n_passages - 1)]
    judged: list[dict[int, int]] = []
    for number, topic in enumerate(topics):
        levels = [min(level, 1) for level in _LEVELS] if number % _WITHOUT_POSITIVE == 5 else list(_LEVELS)
        chosen = [places.pop() for _ in levels]
        judged.append(dict(zip(chosen, levels, strict=True)))
        for place, level in judged[-1].items():
            words = generator.sample(topic, _SHARED_WORDS[level])
            passages[place] = _write_text(generator, words, 24)
    rows = [(place, text) for place, text in enumerate(passages)]
    _write(folder / "collection.tsv", ("pid", "passage"), rows, header)
    ids = generator.sample(range(1000, 10_000), n_train + 2 * n_dev)
    start = 0
    for split, size in (("train", n_train), ("dev", n_dev), ("test", n_dev)):
        keys = ids[start : start + size]
        start += size
        queries = {
            key: _write_query(generator, topics[place], split != "train") for place, key in enumerate(keys)
        }
        _write(folder / f"queries.{split}.tsv", ("qid", "query"), queries.items(), header)
        _write_lists(folder, split, queries, passages, header, generator)
        if split != "test":
            levels_of = dict(zip(keys, judged, strict=False))
            _write_qrels(folder, split, levels_of, header)
    return folder


def _write_text(generator: Random, words: Sequence[str], length: int) -> str:
    parts = [*words, *generator.choices(_FILLERS, k=length)]
    generator.shuffle(parts)
    text = "".join(parts)
    return f'"{text}' if generator.random() < 0.05 else text


def _write_query(generator: Random, topic: Sequence[str], is_shuffled: bool) -> str:
    words = generator.sample(topic, len(topic)) if is_shuffled else list(topic)
    return "".join(words) + "".join(generator.choices(_FILLERS, k=3))


def _write_lists(
    folder: Path,
    split: str,
    queries: dict[int, str],
    passages: Sequence[str],
    header: bool,
    generator: Random,
) -> None:
    """Rank by shared characters: exactly for ``bm25``, with noise for what a dual encoder found."""
    dense = "mined" if split == "train" else "dpr"
    exact: list[tuple[object, ...]] = []
    noisy: list[tuple[object, ...]] = []
    characters = [set(text) for text in passages]
    for key, query in queries.items():
        shared = [float(len(characters[place] & set(query))) for place in range(len(passages))]
        noise = [value + generator.uniform(-1, 1) for value in shared]
        for rows, scores in ((exact, shared), (noisy, noise)):
            best = sorted(range(len(passages)), key=lambda place: (-scores[place], place))[:_LIST_LENGTH]
            for rank, place in enumerate(best, start=1):
                score = (f"{scores[place]:.4f}",) if rows is noisy else ()
                rows.append((key, place, rank, *score))
    _write(folder / f"{split}.bm25.tsv", ("qid", "pid", "index"), exact, header)
    _write(folder / f"{split}.{dense}.tsv", ("qid", "pid", "index", "score"), noisy, header)


def _write_qrels(folder: Path, split: str, levels: dict[int, dict[int, int]], header: bool) -> None:
    graded = [(key, 0, place, level) for key, row in levels.items() for place, level in row.items()]
    positives = [(key, place) for key, _, place, level in graded if level >= 2]
    _write(folder / f"qrels.{split}.tsv", ("qid", "-", "pid", "rel"), graded, header)
    _write(folder / f"qrels.retrieval.{split}.tsv", ("qid", "pid"), positives, header)


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]], header: bool) -> None:
    records = ["\t".join(map(str, row)) for row in rows]
    write_lines(path, ["\t".join(columns), *records] if header else records)
