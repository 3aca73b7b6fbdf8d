"""Incremental, interruptible, bound to its model, safe with two writers."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pypdf import PdfWriter

import fletching
from fletching.errors import ArgumentError, FletchingError
from fletching.search import Index, update
from fletching.search import table as table_module
from fletching.search.table import PassageTable
from fletching.testing import save_tiny_embedder

Open = Callable[..., Index]
Write = Callable[..., None]


def read_rows(index: Index) -> list[dict[str, Any]]:
    """Everything that is published, in a fixed order."""
    state = index._store.read_state()
    assert state is not None
    table = index._store.open_table(state.table, version=state.version)._table
    rows = table.search().limit(None).to_list()
    return sorted(rows, key=lambda row: (row["file"], row["position"]))


def assert_like_new(index: Index, tmp_path: Path) -> None:
    """Compare with an index that was built in one go; other batches may change the last bit of a vector."""
    fresh = Index(index.folder, embedder=index.embedder, cache=tmp_path / "new", max_words=index.max_words)
    fresh.update()
    rows, expected = read_rows(index), read_rows(fresh)
    vectors, expected_vectors = ([row.pop("vector") for row in found] for found in (rows, expected))

    assert rows == expected
    np.testing.assert_allclose(vectors, expected_vectors, rtol=0, atol=1e-6)


def test_first_update_embeds_every_passage(open_index: Open) -> None:
    report = open_index().update()

    assert (report.files, report.passages, report.changed, report.embedded) == (3, 5, 3, 5)
    assert (report.reused, report.removed, report.skipped, report.notes) == (0, 0, {}, [])


def test_second_update_reads_and_embeds_nothing(open_index: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    open_index().update()
    monkeypatch.setattr(update, "read_document", lambda *args, **kwargs: pytest.fail("read a file"))

    report = open_index().update()

    assert (report.files, report.passages, report.changed, report.embedded) == (3, 5, 0, 0)


def test_vectors_are_those_of_encode_document(open_index: Open, embedder: Any) -> None:
    index = open_index()
    index.update()

    for row in read_rows(index):
        np.testing.assert_allclose(row["vector"], embedder.encode_document(row["content"]), atol=1e-6)


def test_offsets_point_into_the_file(open_index: Open, folder: Path) -> None:
    index = open_index()
    index.update()

    for row in read_rows(index):
        text = (folder / row["file"]).read_text()[row["start"] : row["end"]]
        assert row["content"] == (f"{row['heading']}\n{text}" if row["heading"] else text)


def test_changed_section_alone_is_embedded(
    open_index: Open, folder: Path, tmp_path: Path, write: Write
) -> None:
    index = open_index()
    index.update()
    write(folder / "bow.md", (folder / "bow.md").read_text().replace("on the bow", "of the bow"), age=100)

    report = index.update()

    assert (report.changed, report.embedded, report.reused) == (1, 1, 1)
    assert_like_new(index, tmp_path)


def test_renamed_file_is_not_embedded(open_index: Open, folder: Path, tmp_path: Path) -> None:
    index = open_index()
    index.update()
    (folder / "bow.md").rename(folder / "longbow.md")

    report = index.update()

    assert (report.files, report.embedded, report.reused, report.removed) == (3, 0, 2, 1)
    assert_like_new(index, tmp_path)


def test_removed_file_leaves_the_index(open_index: Open, folder: Path) -> None:
    index = open_index()
    index.update()
    (folder / "bow.md").unlink()

    report = index.update()

    assert (report.files, report.passages, report.removed, report.embedded) == (2, 3, 1, 0)
    assert {row["file"] for row in read_rows(index)} == {"guide/arrow.md", "target.txt"}


def test_touched_file_is_not_indexed_again(open_index: Open, folder: Path, write: Write) -> None:
    index = open_index()
    index.update()
    version = index._store.read_state().version
    write(folder / "bow.md", (folder / "bow.md").read_text(), age=50)

    report = index.update()

    assert (report.changed, report.embedded) == (0, 0)
    assert index._store.read_state().version == version


def test_change_that_the_clock_does_not_show_is_seen(open_index: Open, folder: Path, write: Write) -> None:
    """Same size, same time: two writes within one tick, the second after the file was read."""
    path = folder / "target.txt"
    write(path, "The archer shot at the target.\n", age=0)
    before = path.stat()
    index = open_index()
    index.update()
    path.write_text("The archer aims at the target."[:29] + ".\n")
    path.write_text(path.read_text().ljust(before.st_size)[: before.st_size])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert index.update().changed == 1


def test_equal_passages_are_embedded_once(open_index: Open, folder: Path, write: Write) -> None:
    for number in range(4):
        write(folder / f"copy-{number}.txt", "The goose has feathers.\n")

    report = open_index().update()

    assert (report.passages, report.embedded, report.reused) == (9, 6, 3)


def test_other_cut_keeps_the_passages_that_stay(
    open_index: Open, folder: Path, tmp_path: Path, write: Write
) -> None:
    write(folder / "long.txt", " ".join(f"Feather {n}." for n in range(30)))
    first = open_index(max_words=40)
    first.update()

    second = open_index(max_words=20)
    report = second.update()

    assert report.notes == ["Files are cut into passages in another way now: new passages are embedded."]
    assert (report.changed, report.embedded, report.reused) == (4, 2, 6)
    assert_like_new(second, tmp_path)


def test_other_weights_under_the_same_name_embed_all(open_index: Open, tmp_path: Path) -> None:
    model = tmp_path / "model"
    save_tiny_embedder(model)
    open_index(embedder=str(model)).update()
    save_tiny_embedder(model, seed=1)

    index = open_index(embedder=str(model))
    report = index.update()

    assert report.notes == [
        "The embedder's weights or settings are not those of the index: all is embedded again."
    ]
    assert report.embedded == 5
    assert len(list(index.root.glob("*.lance"))) == 1
    assert_like_new(index, tmp_path)


def test_embedder_that_was_trained_meanwhile_embeds_all(open_index: Open, embedder_folder: str) -> None:
    model = fletching.load(embedder_folder)
    index = open_index(embedder=model)
    index.update()
    with torch.no_grad():
        next(model.parameters())[:] += 0.5

    assert index.update().embedded == 5
    assert len(index.retrieve("feathers")) == 5


def test_two_embedders_do_not_disturb_each_other(open_index: Open, embedder: Any, tmp_path: Path) -> None:
    other = fletching.load(save_tiny_embedder(tmp_path / "other", seed=1))
    open_index().update()
    open_index(embedder=other).update()

    assert open_index().update().embedded == open_index(embedder=other).update().embedded == 0


def test_rebuild_embeds_all(open_index: Open) -> None:
    open_index().update()

    assert open_index().update(rebuild=True).embedded == 5


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
def test_similarity_is_the_embedders(open_index: Open, tmp_path: Path, similarity: Any) -> None:
    model = fletching.load(save_tiny_embedder(tmp_path / "m", similarity=similarity, normalize=False))
    index = open_index(embedder=model)
    index.update()

    for hit in index.retrieve("feathers"):
        expected = model.similarity(model.encode_query("feathers"), model.encode_document(hit.content))
        assert hit.similarity == pytest.approx(float(expected), rel=1e-4)


def test_similarity_unknown_to_the_store_is_refused(open_index: Open, tmp_path: Path) -> None:
    model = fletching.load(save_tiny_embedder(tmp_path / "m", similarity="manhattan"))

    with pytest.raises(ArgumentError, match=r"must be one of 'cosine', 'dot', 'euclidean'; got 'manhattan'"):
        open_index(embedder=model).update()


# --- killed and interrupted ---


class Killed(BaseException):
    """Stands for a kill: nothing of ours may catch it."""


@pytest.fixture
def small_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "_COMMIT", 2)


def count_calls(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, action: Callable[[int], None]
) -> None:
    """Do something before the n-th call of a method."""
    original, calls = getattr(owner, name), iter(range(1, 1000))

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        action(next(calls))
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


KILLS = [("add", 1), ("add", 2), ("add", 3), ("delete", 1), ("index_words", 1), ("compact", 1)]


def kill_at(monkeypatch: pytest.MonkeyPatch, index: Index, place: str, call: int, **options: Any) -> None:
    """Update, and die before the n-th call of a method."""

    def kill(number: int) -> None:
        if number == call:
            raise Killed

    with monkeypatch.context() as patch:
        count_calls(patch, PassageTable, place, kill)
        with pytest.raises(Killed):
            index.update(**options)


@pytest.fixture
def changed_index(open_index: Open, folder: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An index whose folder has changed since: six passages to embed, three to delete."""
    monkeypatch.setattr(table_module, "_MAX_INDEXES", 1)  # compact at once
    index = open_index()
    index.update()
    write(folder / "bow.md", "# Bow\n\nThe bow is of wood from a goose.\n\n## String\n\nStrings.\n", age=99)
    write(folder / "new.md", "\n".join(f"# Part {n}\n\nArrow {n}.\n" for n in range(4)), age=99)
    (folder / "target.txt").unlink()
    return index


@pytest.mark.parametrize(("place", "call"), KILLS)
@pytest.mark.usefixtures("small_commits")
def test_update_after_a_kill_ends_like_an_undisturbed_one(
    changed_index: Index,
    open_index: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    call: int,
) -> None:
    kill_at(monkeypatch, changed_index, place, call)
    commits_before = call - 1 if place == "add" else 3
    report = open_index().update()

    assert report.embedded == 6 - 2 * commits_before
    assert_like_new(open_index(), tmp_path)


@pytest.mark.parametrize(("place", "call"), KILLS)
@pytest.mark.usefixtures("small_commits")
def test_files_may_be_as_before_again_after_a_kill(
    changed_index: Index,
    open_index: Open,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Write,
    place: str,
    call: int,
) -> None:
    kill_at(monkeypatch, changed_index, place, call)
    (folder / "new.md").unlink()
    write(
        folder / "bow.md",
        "# Bow\n\nThe bow is of wood.\n\n## String\n\nThe string is on the bow.\n",
        age=9999,
    )
    write(folder / "target.txt", "The archer shot at the target in the wind.\n", age=9999)
    report = open_index().update()

    assert (report.files, report.passages) == (3, 5)
    assert_like_new(open_index(), tmp_path)


@pytest.mark.parametrize(("place", "call"), [("add", 1), ("add", 2), ("index_words", 1)])
@pytest.mark.usefixtures("small_commits")
def test_killed_rebuild_leaves_the_state_before(
    open_index: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, call: int
) -> None:
    index = open_index()
    index.update()
    before = index.retrieve("feathers")
    kill_at(monkeypatch, index, place, call, rebuild=True)

    assert index.retrieve("feathers") == open_index().retrieve("feathers") == before
    assert open_index().update().passages == 5
    assert_like_new(open_index(), tmp_path)
    assert len(list(index.root.glob("*.lance"))) <= 2


def test_folder_that_was_empty_for_a_while_loses_nothing(
    open_index: Open, folder: Path, tmp_path: Path, write: Write
) -> None:
    index = open_index()
    index.update()
    texts = {path: path.read_text() for path in folder.rglob("*.*")}
    for path in texts:
        write(path, "", age=50)
    with pytest.raises(FletchingError, match="holds text that can be read"):
        index.update()
    for path, text in texts.items():
        write(path, text)

    assert index.update().passages == 5
    assert_like_new(index, tmp_path)


def test_readers_beside_a_rebuild_see_complete_states(open_index: Open) -> None:
    index = open_index()
    index.update()
    expected = index.retrieve("feathers")
    stop, wrong = threading.Event(), []

    def read() -> None:
        reader = open_index()
        while not stop.is_set():
            try:
                found = reader.retrieve("feathers")
            except FletchingError as error:
                wrong.append(str(error))
            else:
                wrong.extend([] if found == expected else ["other hits"])

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        index.update(rebuild=True)
    stop.set()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_many_updates_are_compacted(
    open_index: Open, folder: Path, tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    compacted: list[int] = []
    monkeypatch.setattr(table_module, "_MAX_INDEXES", 4)
    count_calls(monkeypatch, PassageTable, "compact", compacted.append)
    index = open_index()
    for number in range(12):
        write(folder / "bow.md", f"# Bow\n\nThe bow number {number} is of wood.\n", age=900 - number)
        index.update()
    state = index._store.read_state()
    assert state is not None

    assert compacted
    assert index._store.open_table(state.table).version == state.version
    assert_like_new(index, tmp_path)


@pytest.mark.usefixtures("small_commits")
def test_readers_see_the_state_before_until_all_is_done(
    open_index: Open, folder: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    index = open_index()
    index.update()
    before = index.retrieve("feathers", 9)
    write(folder / "new.md", "\n".join(f"# Part {n}\n\nFeathers {n}.\n" for n in range(4)), age=99)
    seen = []
    count_calls(monkeypatch, PassageTable, "add", lambda n: seen.append(open_index().retrieve("feathers", 9)))
    count_calls(
        monkeypatch, PassageTable, "index_words", lambda n: seen.append(open_index().retrieve("feathers", 9))
    )

    index.update()

    assert len(seen) >= 3
    assert all(hits == before for hits in seen)
    assert index.retrieve("feathers", 9) != before


def test_scores_after_many_changes_are_those_of_a_new_index(
    open_index: Open, folder: Path, tmp_path: Path, embedder: Any, write: Write
) -> None:
    index = open_index()
    for number in range(5):
        write(
            folder / "bow.md",
            f"# Bow\n\nThe bow number {number} is of wood, not of feathers.\n",
            age=90 - number,
        )
        write(folder / f"{number}.txt", f"Arrow {number} has feathers of a goose.", age=90)
        index.update()
    fresh = Index(folder, embedder=embedder, cache=tmp_path / "fresh")
    fresh.update()

    assert index.retrieve("goose feathers") == fresh.retrieve("goose feathers")


KILLED_CHILD = """
import sys, time
from fletching.search import Index, update
from fletching.search import table as table_module
from fletching.models.embedder import Embedder

update._COMMIT = 4
encode = Embedder.encode_document
def slow(self, *args, **kwargs):
    time.sleep(0.02)
    return encode(self, *args, **kwargs)
Embedder.encode_document = slow
print("ready", flush=True)
Index(sys.argv[1], embedder=sys.argv[2], cache=sys.argv[3]).update()
print("done", flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_kills_cost_nothing(folder: Path, embedder_folder: str, tmp_path: Path, write: Write) -> None:
    for number in range(200):
        write(
            folder / f"{number}.md", f"# Part {number}\n\nArrow {number}.\n\n## More\n\nOf wood {number}.\n"
        )
    generator = random.Random(0)
    child = [sys.executable, "-c", KILLED_CHILD, str(folder), embedder_folder]
    kills = 0
    for _ in range(10):
        with subprocess.Popen(
            [*child, str(tmp_path / "cache")], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(generator.uniform(0.05, 1.0))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
    assert kills >= 8
    rows = []
    for cache in ("cache", "undisturbed"):
        subprocess.run([*child, str(tmp_path / cache)], check=True, stdout=subprocess.DEVNULL)
        rows.append(read_rows(Index(folder, embedder=embedder_folder, cache=tmp_path / cache)))

    assert len(rows[0]) == 405
    assert rows[0] == rows[1]


# --- two writers ---


def test_two_writers_embed_each_passage_once(open_index: Open, tmp_path: Path) -> None:
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(open_index().update())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(report.embedded for report in reports) == 5
    assert_like_new(open_index(), tmp_path)


@pytest.mark.slow
def test_two_processes_embed_each_passage_once(
    folder: Path, embedder_folder: str, tmp_path: Path, write: Write
) -> None:
    for number in range(60):
        write(folder / f"{number}.md", f"# Part {number}\n\nArrow {number}.\n")
    child = [sys.executable, "-c", KILLED_CHILD, str(folder), embedder_folder, str(tmp_path / "cache")]
    running = [subprocess.Popen(child, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in running:
        assert process.communicate()[0] == "ready\ndone\n"
    index = Index(folder, embedder=embedder_folder, cache=tmp_path / "cache")

    assert index.update().embedded == 0
    assert_like_new(index, tmp_path)


# --- what may be wrong with folder, files and cache ---


@pytest.mark.parametrize("name", [None, "picture.png"])
def test_folder_without_readable_files_is_named(tmp_path: Path, embedder: Any, name: str | None) -> None:
    (tmp_path / "docs").mkdir()
    if name:
        (tmp_path / "docs" / name).write_bytes(bytes(range(256)))

    with pytest.raises(
        FletchingError, match=r"docs holds no Markdown, text, HTML or PDF file. Pass a folder"
    ):
        Index(tmp_path / "docs", embedder=embedder, cache=tmp_path / "cache").update()


def test_folder_of_binaries_says_what_was_wrong(tmp_path: Path, embedder: Any, write: Write) -> None:
    write(tmp_path / "docs" / "a.txt", "\0\0")

    with pytest.raises(
        FletchingError, match=r"no file of .*docs holds text that can be read. a.txt: the file must be text"
    ):
        Index(tmp_path / "docs", embedder=embedder, cache=tmp_path / "cache").update()


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"Index: `folder` must be an existing folder; got '.*nowhere'"):
        Index(tmp_path / "nowhere")


def test_broken_files_are_skipped(open_index: Open, folder: Path) -> None:
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 nothing else")

    report = open_index().update()

    assert list(report.skipped) == ["broken.pdf"]
    assert report.passages == 5


def test_pdf_without_text_is_named_each_time(open_index: Open, folder: Path) -> None:
    writer = PdfWriter()
    writer.add_blank_page(600, 800)
    writer.write(folder / "scan.pdf")

    for report in (open_index().update(), open_index().update()):
        assert report.skipped == {"scan.pdf": "it holds no text, as scanned pages without a text layer"}
        assert report.passages == 5


def test_vector_that_is_not_finite_is_named_with_its_file(
    open_index: Open, embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = type(embedder).encode_document

    def break_one(model: Any, texts: list[str], **options: Any) -> Any:
        vectors = encode(model, texts, **options)
        vectors[[place for place, text in enumerate(texts) if "Feathers keep" in text], 0] = np.nan
        return vectors

    monkeypatch.setattr(type(embedder), "encode_document", break_one)
    message = "Index: the vector of a passage of guide/arrow.md must be finite; got NaN or infinity"
    with pytest.raises(FletchingError, match=message):
        open_index().update()


def test_file_that_goes_away_is_skipped(
    open_index: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = update.find_files
    monkeypatch.setattr(update, "find_files", lambda path: [*find(path), path / "gone.md"])

    report = open_index().update()

    assert report.skipped == {"gone.md": "No such file or directory"}
    assert report.passages == 5


def test_known_file_that_goes_away_is_skipped(
    open_index: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_index().update()
    find = update.find_files

    def find_and_lose(path: Path) -> list[Path]:
        found = find(path)
        (folder / "target.txt").unlink()
        return found

    monkeypatch.setattr(update, "find_files", find_and_lose)
    report = open_index().update()

    assert report.skipped == {"target.txt": "No such file or directory"}
    assert report.passages == 4


def test_cache_that_cannot_be_written_is_named(folder: Path, embedder: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(
        FletchingError, match=r"it cannot be read or written \(.*\). Pass a cache folder that you may"
    ):
        Index(folder, embedder=embedder, cache=tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_cache_without_permission_is_named(folder: Path, embedder: Any, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)

    with pytest.raises(FletchingError, match=r"it cannot be read or written"):
        Index(folder, embedder=embedder, cache=tmp_path / "closed")


def test_full_disk_leaves_the_state_before(
    open_index: Open, folder: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    index = open_index()
    index.update()
    before = index.retrieve("feathers")
    write(folder / "new.md", "# New\n\nFeathers.\n")
    table = type(index._store.open_table(index._store.read_state().table)._table)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(table, "add", refuse)
        with pytest.raises(FletchingError, match=r"the disk is full. Free some space, or pass another cache"):
            index.update()

    assert index.retrieve("feathers") == before
    assert index.update().embedded == 1


def test_cache_of_the_future_is_refused(open_index: Open) -> None:
    index = open_index()
    index.update()
    edit_state(index, format=99)

    with pytest.raises(FletchingError, match=r"made by a newer fletching \(format 99; this one reads 1\)"):
        open_index().update()


def test_cache_of_the_past_is_built_anew(open_index: Open, tmp_path: Path) -> None:
    index = open_index()
    index.update()
    edit_state(index, format=0)

    assert open_index().update().passages == 5
    assert_like_new(index, tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": "x"}', "\0"])
def test_half_written_state_is_built_anew(open_index: Open, tmp_path: Path, content: str) -> None:
    index = open_index()
    index.update()
    (index.root / "state.json").write_text(content)

    report = open_index().update()

    assert (report.passages, report.embedded) == (5, 0)
    assert_like_new(index, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"version": -1}, {"version": 1.5}, {"version": 10**30}, {"metric": None}, {"table": 3}, {"files": []}],
    ids=str,
)
def test_state_with_wrong_values_is_built_anew(open_index: Open, tmp_path: Path, changes: Any) -> None:
    index = open_index()
    index.update()
    edit_state(index, **changes)

    assert open_index().update().embedded == 0
    assert_like_new(open_index(), tmp_path)


def damage_versions(table: Path) -> None:
    for path in (table / "_versions").iterdir():
        path.write_bytes(b"x")


def damage_all(table: Path) -> None:
    shutil.rmtree(table)
    table.mkdir()


def lose_table(table: Path) -> None:
    shutil.rmtree(table)


@pytest.mark.parametrize("damage", [damage_versions, damage_all, lose_table])
def test_damaged_table_is_built_anew(
    open_index: Open, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    index = open_index()
    index.update()
    damage(next(index.root.glob("*.lance")))

    report = open_index().update()

    assert report.embedded == 5
    assert_like_new(open_index(), tmp_path)


def test_damage_found_while_searching_names_the_remedy(open_index: Open) -> None:
    index = open_index()
    index.update()
    shutil.rmtree(next(index.root.glob("*.lance")) / "data")

    with pytest.raises(
        FletchingError,
        match=r"it is damaged \(.*\)\. Build it anew: `Index.update\(rebuild=True\)`, or --rebuild",
    ):
        open_index().retrieve("feathers")
    assert open_index().update(rebuild=True).embedded == 5
    assert open_index().retrieve("feathers")


def edit_state(index: Index, **changes: Any) -> None:
    path = index.root / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_names_that_are_no_unicode_are_indexed(open_index: Open, folder: Path, write: Write) -> None:
    name = os.fsdecode(b"\xe9.txt")
    try:
        write(folder / name, "A goose.")
    except OSError:
        pytest.skip("this file system takes Unicode only")
    index = open_index()
    index.update()

    assert r"\xe9.txt" in {hit.file for hit in index.retrieve("goose")}
