"""Vectors on disk: found again by the same model and text, and by nothing else."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fletching.errors import ArgumentError, ShapeError
from fletching.models.vector_cache import VectorCache


def make_vectors(count, width=4, seed=0):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def make_texts(count, name="text"):
    return [f"{name} {number}" for number in range(count)]


@pytest.fixture
def open_cache(tmp_path):
    def open_cache(**options):
        return VectorCache(tmp_path / "vectors", **{"model": "one", "dimensions": 4, **options})

    return open_cache


ADD_FOR_EVER = """
import itertools, sys
import numpy as np
from fletching.models.vector_cache import VectorCache
folder, name, count = sys.argv[1:]
cache = VectorCache(folder, model="one", dimensions=4)
for number in range(int(count)) if int(count) else itertools.count():
    cache.add([f"{name} {number}"], np.full((1, 4), number, np.float32))
    print(number, flush=True)
"""


def start_adding(cache, name, count):
    arguments = [sys.executable, "-c", ADD_FOR_EVER, str(cache.folder), name, str(count)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


# --- what is found ---


def test_vectors_and_notes_are_found_again_by_another_object(open_cache):
    texts, vectors = make_texts(5), make_vectors(5)
    open_cache().add(texts, vectors, notes=[0, 1, 2, 3, 4])
    found_vectors, notes, found = open_cache().read(texts[::-1])
    assert found.all()
    assert (found_vectors == vectors[::-1]).all()
    assert notes.tolist() == [4, 3, 2, 1, 0]


def test_what_is_missing_is_zero_and_said_to_be_missing(open_cache):
    cache = open_cache()
    cache.add(["arrow"], make_vectors(1), notes=[7])
    vectors, notes, found = cache.read(["bow", "arrow", "Arrow", "arrow "])
    assert found.tolist() == [False, True, False, False]
    assert notes.tolist() == [0, 7, 0, 0]
    assert not vectors[[0, 2, 3]].any()


@pytest.mark.parametrize(
    "other", [{"model": "two"}, {"dimensions": 3}, {"dtype": "float16"}], ids=lambda other: next(iter(other))
)
def test_another_model_width_or_precision_finds_nothing(open_cache, other):
    cache = open_cache()
    cache.add(["arrow"], make_vectors(1))
    assert not open_cache(**other).read(["arrow"])[2].any()
    assert cache.read(["arrow"])[2].all()


def test_another_scope_finds_nothing(open_cache):
    """The border between scope and text counts: 'a' + 'bc' is not 'ab' + 'c'."""
    cache = open_cache()
    cache.add(["bc"], make_vectors(1), scope="a")
    assert cache.read(["bc"], scope="a")[2].all()
    assert not cache.read(["c"], scope="ab")[2].any()
    assert not cache.read(["bc"])[2].any()


def test_a_text_keeps_the_vector_that_it_has(open_cache):
    cache = open_cache()
    first, second = make_vectors(1), make_vectors(1, seed=1)
    assert (cache.add(["arrow"], first) == first).all()
    assert (cache.add(["arrow"], second) == first).all()
    assert len(cache) == 1


def test_a_text_given_twice_has_one_vector(open_cache):
    stored = open_cache().add(["arrow", "arrow"], make_vectors(2))
    assert (stored[0] == stored[1]).all()


def test_half_precision_takes_half_of_the_space_and_returns_what_it_keeps(open_cache):
    texts, vectors = make_texts(100), make_vectors(100)
    whole, half = open_cache(), open_cache(dtype="float16")
    whole.add(texts, vectors)
    stored = half.add(texts, vectors)
    assert (stored == vectors.astype(np.float16).astype(np.float32)).all()
    assert (half.read(texts)[0] == stored).all()
    sizes = [next(cache.path.glob("*.vectors")).stat().st_size for cache in (whole, half)]
    assert sizes[0] - sizes[1] == 100 * 4 * 2


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_what_float16_cannot_hold_is_not_kept(open_cache, value):
    cache = open_cache(dtype="float16")
    vectors = make_vectors(2)
    vectors[1, 2] = value
    stored = cache.add(["arrow", "bow"], vectors)
    assert np.array_equal(stored[1], vectors[1], equal_nan=True)
    assert cache.read(["arrow", "bow"])[2].tolist() == [True, False]


def test_damaged_unicode_is_a_text_like_any_other(open_cache):
    cache = open_cache()
    cache.add(["\ud83c", ""], make_vectors(2))
    assert cache.read(["\ud83c", "", "\N{REPLACEMENT CHARACTER}"])[2].tolist() == [True, True, False]


def test_no_texts_are_no_vectors(open_cache):
    cache = open_cache()
    assert cache.add([], np.zeros((0, 4), np.float32)).shape == (0, 4)
    assert cache.read([])[0].shape == (0, 4)
    assert len(cache) == 0


def test_clearing_leaves_other_models_alone(open_cache):
    one, two = open_cache(), open_cache(model="two")
    for cache in (one, two):
        cache.add(["arrow"], make_vectors(1))
    one.clear()
    assert (len(one), len(two)) == (0, 1)


# --- many files, many hands ---


def test_many_small_additions_become_few_files(open_cache):
    """200 = 3 x 64 + 8 = 3 x 4^3 + 2 x 4: fewer than four files of each size are left."""
    cache = open_cache()
    texts, vectors = make_texts(200), make_vectors(200)
    for number in range(200):
        cache.add([texts[number]], vectors[number : number + 1], notes=[number])
    assert len([*cache.path.glob("*.vectors")]) == 5
    for reader in (cache, open_cache()):
        found_vectors, notes, found = reader.read(texts)
        assert found.all()
        assert (found_vectors == vectors).all()
        assert notes.tolist() == [*range(200)]


def test_what_others_add_is_found(open_cache):
    one, two = open_cache(), open_cache()
    assert not two.read(["arrow"])[2].any()
    one.add(["arrow"], make_vectors(1))
    assert two.read(["arrow"])[2].all()


def test_threads_add_and_read_at_once(open_cache):
    cache = open_cache()
    texts, vectors = make_texts(64), make_vectors(64)

    def work(number):
        stored = cache.add([texts[number % 64]], vectors[number % 64 : number % 64 + 1])
        return (stored == cache.read([texts[number % 64]])[0]).all()

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(work, range(256)))
    assert (cache.read(texts)[0] == vectors).all()
    assert len(cache) == 64


def test_processes_add_at_once_and_one_is_killed(open_cache):
    """What a process says that it has added is there, whole, even if it is killed in the next moment."""
    cache = open_cache()
    killed = start_adding(cache, "killed", 0)
    others = [start_adding(cache, name, 10) for name in "ab"]
    lines = [killed.stdout.readline() for _ in range(20)]
    killed.kill()
    lines += killed.stdout.readlines()
    assert [process.wait() for process in others] == [0, 0]
    killed.wait()
    for process in (killed, *others):
        process.stdout.close()
    done = len([line for line in lines if line.endswith("\n")])
    for name, count in (("killed", done), ("a", 10), ("b", 10)):
        vectors, _, found = cache.read([f"{name} {number}" for number in range(count)])
        assert found.all()
        assert vectors[:, 3].tolist() == [*range(count)]


def test_files_that_vanish_are_vectors_that_are_missing(open_cache):
    cache = open_cache()
    cache.add(["arrow"], make_vectors(1))
    for path in cache.path.iterdir():
        path.unlink()
    cache.path.rmdir()
    assert not cache.read(["arrow"])[2].any()
    cache.add(["arrow"], make_vectors(1))
    assert cache.read(["arrow"])[2].all()


def test_a_pickled_cache_reads_the_same_folder(open_cache):
    cache = open_cache(dtype="float16")
    cache.add(["arrow"], make_vectors(1))
    again = pickle.loads(pickle.dumps(cache))
    assert again.read(["arrow"])[2].all()
    assert (again.dtype, again.dimensions, again.model) == ("float16", 4, "one")


# --- accidents ---


def test_a_process_killed_while_writing_leaves_nothing_to_read(open_cache):
    cache = open_cache()
    cache.add(["arrow"], make_vectors(1))
    [path] = cache.path.glob("*.vectors")
    part = path.with_name("half.part")
    part.write_bytes(path.read_bytes()[:70])
    os.utime(part, (time.time() - 2 * 24 * 3600,) * 2)
    assert open_cache().read(["arrow"])[2].all()
    cache.add(["bow"], make_vectors(1))
    assert not part.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: content[:40],
        lambda content: b"",
        lambda content: b"other!!!" + content[8:],
        lambda content: content[:64] + bytes([content[64] ^ 1]) + content[65:],
    ],
    ids=["cut", "too long", "header cut", "empty", "another format", "a key changed"],
)
def test_a_damaged_file_is_not_used(open_cache, damage, caplog):
    open_cache().add(["arrow"], make_vectors(1))
    cache = open_cache()
    [path] = cache.path.glob("*.vectors")
    path.write_bytes(damage(path.read_bytes()))
    assert not cache.read(["arrow"])[2].any()
    assert "damaged or belongs elsewhere" in caplog.text
    stored = cache.add(["arrow"], make_vectors(1, seed=1))
    assert (cache.read(["arrow"])[0] == stored).all()


def test_a_file_copied_from_another_model_is_not_used(open_cache):
    one, two = open_cache(), open_cache(model="two")
    one.add(["arrow"], make_vectors(1))
    [path] = one.path.glob("*.vectors")
    (two.path / path.name).write_bytes(path.read_bytes())
    assert not two.read(["arrow"])[2].any()


def test_a_full_disk_costs_the_cache_and_not_the_call(open_cache, monkeypatch, caplog):
    cache = open_cache()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    vectors = make_vectors(1)
    assert (cache.add(["arrow"], vectors) == vectors).all()
    assert "No space left" in caplog.text
    assert [*cache.path.glob("*.part")] == []


# --- memory ---


def test_reading_a_few_of_many_takes_little_memory(open_cache):
    """20,000 vectors of 256 values are 20 MB on disk; ten of them must not take more than 2 MB."""
    open_cache(dimensions=256).add(make_texts(20_000), make_vectors(20_000, 256))
    cache = open_cache(dimensions=256)
    tracemalloc.start()
    try:
        assert cache.read(make_texts(10))[2].all()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2e6


# --- bad input ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "`model` must be the fingerprint of a model; got ''"),
        ({"dimensions": 0}, "`dimensions` must be a positive integer; got 0"),
        ({"dtype": "int8"}, "`dtype` must be one of 'float32', 'float16'; got 'int8'"),
    ],
    ids=str,
)
def test_an_argument_outside_its_domain_is_refused(open_cache, options, message):
    with pytest.raises(ArgumentError, match=message):
        open_cache(**options)


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="`folder` must be writable"):
        VectorCache(tmp_path / "file", model="one", dimensions=4)


def test_vectors_of_another_shape_are_refused(open_cache):
    with pytest.raises(ShapeError, match=r"\(1, 4\), got \(1, 5\)"):
        open_cache().add(["arrow"], make_vectors(1, 5))
