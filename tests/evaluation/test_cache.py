"""What was computed is not computed again, and what is damaged is not believed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from fletching.errors import ArgumentError, FletchingError
from fletching.evaluation import EvaluationSet, encoding, evaluate
from fletching.evaluation.cache import open_store
from fletching.models.embedder import Embedder

DataBuilder = Callable[..., EvaluationSet]


class Counting:
    """Prefers long documents, counts its calls, and breaks down at one of them."""

    def __init__(self, breaks_at: int = 0, version: str = "v1") -> None:
        self.calls = 0
        self.breaks_at = breaks_at
        self.version = version

    def rank(self, query: str, documents: list[str]) -> list[dict[str, Any]]:
        self.calls += 1
        if self.calls == self.breaks_at:
            raise KeyboardInterrupt
        return [{"corpus_id": place, "score": len(text) / 7} for place, text in enumerate(documents)]

    def fingerprint(self) -> str:
        return self.version


def compare(systems: Any, data: EvaluationSet, cache: Path, **options: Any) -> Any:
    return evaluate(systems, data, n_resamples=20, cache=cache, **options)


def find(cache: Path, pattern: str) -> Path:
    (path,) = cache.glob(pattern)
    return path


@pytest.fixture
def finished(build_data: DataBuilder, tmp_path: Path) -> Path:
    """The cache of a finished run of five queries."""
    compare([Counting()], build_data(), tmp_path)
    return tmp_path


# --- going on ---


def test_a_finished_run_returns_at_once(build_data: DataBuilder, tmp_path: Path) -> None:
    """Five queries and the one that warms up; then none."""
    first, second = Counting(), Counting()
    before = compare([first], build_data(), tmp_path).results[1]
    after = compare([second], build_data(), tmp_path).results[1]
    assert (first.calls, second.calls) == (6, 0)
    assert (before.from_cache, after.from_cache) == (False, True)
    assert after.run == before.run
    assert after.cost == before.cost
    assert after.intervals == before.intervals


def test_a_finished_run_does_not_read_the_collection(build_data: DataBuilder, finished: Path) -> None:
    def fail() -> Any:
        raise AssertionError

    again = compare([Counting()], replace(build_data(), open_corpus=fail), finished)
    assert again.results[1].from_cache


def test_an_interrupted_run_computes_only_the_rest(build_data: DataBuilder, tmp_path: Path) -> None:
    """The fourth call is the third query: two are kept, three are left, and one call warms up."""
    with pytest.raises(KeyboardInterrupt):
        compare([Counting(breaks_at=4)], build_data(), tmp_path)
    second = Counting()
    after = compare([second], build_data(), tmp_path).results[1]
    assert second.calls == 4
    assert not after.from_cache
    assert after.run == evaluate([Counting()], build_data(), n_resamples=20).results[1].run
    assert len(after.cost.latency_ms) == 5


def test_an_interrupted_embedder_encodes_only_the_rest(
    models: dict[str, Any], build_data: DataBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty documents in three blocks; the second breaks, so that the first is kept."""
    monkeypatch.setattr(encoding, "_BLOCK", 10)
    model = models["embedder"]
    blocks: list[str] = []
    breaks_at = 2
    encode = Embedder.encode_document

    def watched(self: Any, texts: list[str], **kwargs: Any) -> Any:
        blocks.append(texts[0])
        if len(blocks) == breaks_at:
            raise KeyboardInterrupt
        return encode(self, texts, **kwargs)

    monkeypatch.setattr(Embedder, "encode_document", watched)
    data = build_data(candidates=False)
    with pytest.raises(KeyboardInterrupt):
        compare([model], data, tmp_path)
    compare([model], data, tmp_path)
    after = compare([model], data, tmp_path).results[0]
    fresh = evaluate([model], data, n_resamples=20).results[0]
    assert len(blocks) == 2 + 2 + 0 + 3
    assert after.run == fresh.run
    assert (after.cost.tokens, after.cost.padding) == (fresh.cost.tokens, fresh.cost.padding)
    assert after.cost.bytes_per_vector == fresh.cost.bytes_per_vector == 128


@pytest.mark.parametrize("kind", ["sparse", "multi_vector"])
def test_vectors_of_every_kind_are_kept(
    models: dict[str, Any],
    build_data: DataBuilder,
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With another depth only the queries are asked anew."""
    data = build_data(candidates=False)
    model = models[kind]
    fresh = compare([model], data, tmp_path).results[0]
    monkeypatch.setattr(model, "encode_document", None)  # whoever calls it fails
    shorter = compare([model], data, tmp_path, depth=3).results[0]
    assert not shorter.from_cache
    assert {query: list(scores) for query, scores in shorter.run.items()} == {
        query: list(scores)[:3] for query, scores in fresh.run.items()
    }


def test_a_failure_does_not_lose_the_systems_before_it(build_data: DataBuilder, tmp_path: Path) -> None:
    class Broken:
        def rank(self, query: str, documents: list[str]) -> Any:
            raise RuntimeError("no room")

    with pytest.raises(FletchingError, match="System 'Broken'"):
        compare([Counting(), Broken()], build_data(), tmp_path)
    again = Counting()
    assert compare([again], build_data(), tmp_path).results[1].from_cache
    assert again.calls == 0


# --- what makes a difference ---


@pytest.mark.parametrize(
    "changes",
    [
        {"system": Counting(version="v2")},
        {"digest": "d2"},
        {"rerank_depth": 5},
        {"order": "shuffled"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_changes_the_answers_is_computed_anew(
    build_data: DataBuilder, finished: Path, changes: dict[str, Any]
) -> None:
    options = dict(changes)
    system, data = options.pop("system", Counting()), build_data(digest=options.pop("digest", "d1"))
    assert not compare([system], data, finished, **options).results[1].from_cache


def test_answers_of_another_version_of_torch_are_computed_anew(
    build_data: DataBuilder, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fletching.evaluation.cache.version", lambda name: "0.1")
    assert not compare([Counting()], build_data(), finished).results[1].from_cache


def test_the_depth_of_a_search_makes_a_difference(build_data: DataBuilder, tmp_path: Path) -> None:
    data = build_data(candidates=False)
    assert not compare(["bm25"], data, tmp_path).results[0].from_cache
    assert not compare(["bm25"], data, tmp_path, depth=5).results[0].from_cache
    assert compare(["bm25"], data, tmp_path).results[0].from_cache


def test_names_make_no_difference(build_data: DataBuilder, finished: Path) -> None:
    assert compare({"other": Counting()}, build_data(), finished).results[1].from_cache


def test_a_system_that_nobody_can_identify_is_not_kept(build_data: DataBuilder, tmp_path: Path) -> None:
    first, second = Counting(version=""), Counting(version="")
    compare([first], build_data(), tmp_path)
    compare([second], build_data(), tmp_path)
    assert (first.calls, second.calls) == (6, 6)
    assert not list(tmp_path.iterdir())


# --- damage ---


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [*lines[:3], lines[3][:-20] + b"\n", *lines[4:]],
        lambda lines: [*lines[:3], lines[3].replace(b"d", b"e"), *lines[4:]],
        lambda lines: [*lines[:3], b"\xff\n", *lines[4:]],
        lambda lines: lines[:4],
        lambda lines: [*lines[:4], lines[4][:15]],
        lambda lines: [*lines[:4], lines[4].removesuffix(b"\n")[:-1]],
    ],
    ids=["cut line", "other id", "no text", "no last line", "cut last line", "last byte"],
)
def test_a_damaged_answer_is_computed_again(build_data: DataBuilder, finished: Path, damage: Any) -> None:
    path = find(finished, "answers/*/queries.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(damage(lines)))
    system = Counting()
    repaired = compare([system], build_data(), finished).results[1]
    assert system.calls == 2
    assert repaired.run == evaluate([Counting()], build_data(), n_resamples=20).results[1].run
    assert compare([Counting()], build_data(), finished).results[1].from_cache


def test_damaged_costs_of_preparing_are_measured_again(build_data: DataBuilder, finished: Path) -> None:
    find(finished, "answers/*/prepared.json").write_text("{}")
    assert not compare([Counting()], build_data(), finished).results[1].from_cache
    assert compare([Counting()], build_data(), finished).results[1].from_cache


@pytest.mark.parametrize("pattern", ["vectors/*/*.npy", "vectors/*/*.json"])
@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
def test_damaged_vectors_are_computed_again(
    models: dict[str, Any], build_data: DataBuilder, tmp_path: Path, pattern: str, how: str
) -> None:
    data = build_data(candidates=False)
    model = models["embedder"]
    fresh = compare([model], data, tmp_path).results[0]
    path = find(tmp_path, pattern)
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-9] + (b"" if how == "cut" else b"~" + content[-8:]))
    again = compare([model], data, tmp_path, depth=40).results[0]
    assert again.run == fresh.run


# --- the folder ---


def test_threads_may_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have written the same file before either puts it into its place."""
    both_wrote = Barrier(2, timeout=30)
    write = Path.write_bytes

    def write_and_wait(path: Path, content: Any) -> int:
        size = write(path, content)
        both_wrote.wait()
        return size

    monkeypatch.setattr(Path, "write_bytes", write_and_wait)
    with ThreadPoolExecutor(2) as threads:
        opened = [threads.submit(open_store, tmp_path, {}, fingerprint="f", data="d") for _ in range(2)]
        assert [future.result().answers for future in opened] == [{}, {}]
    assert not [*tmp_path.rglob("*.part")]


def test_a_folder_that_cannot_be_made_is_an_error(build_data: DataBuilder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="`cache` must be a folder that can be written"):
        compare([Counting()], build_data(), tmp_path / "file")


def test_data_without_a_digest_is_not_kept(build_data: DataBuilder, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"`data\.digest` must be set"):
        compare([Counting()], replace(build_data(), digest=""), tmp_path)
