from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from math import log
from random import Random

import pytest

from fletching.errors import ArgumentError, FletchingError, MissingExtraError
from fletching.evaluation.bm25 import BM25
from fletching.text.words import split_words

DOCUMENTS = [("d1", "A bow bends."), ("d2", "The arrow and the bow."), ("d3", "Rain.")]


def build_collection(n_documents: int, seed: int = 0) -> dict[str, str]:
    """Texts of 1 to 30 words out of 40, the first ones more often."""
    source = Random(seed)
    words = [f"w{number}" for number in range(40)]
    weights = [1 / (1 + number) for number in range(40)]
    return {
        f"d{number}": " ".join(source.choices(words, weights, k=source.randint(1, 30)))
        for number in range(n_documents)
    }


def compute_bm25(query: str, documents: dict[str, str], k1: float, b: float) -> dict[str, float]:
    """The formula, word by word and passage by passage."""
    lists = {key: split_words(text) for key, text in documents.items()}
    mean = sum(map(len, lists.values())) / len(lists)
    scores = dict.fromkeys(lists, 0.0)
    for word in split_words(query):
        n_holding = sum(word in words for words in lists.values())
        idf = log(1 + (len(lists) - n_holding + 0.5) / (n_holding + 0.5))
        for key, words in lists.items():
            frequency = words.count(word)
            scores[key] += idf * frequency / (frequency + k1 * (1 - b + b * len(words) / mean))
    return scores


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.4), (2.0, 0.0), (0.5, 1.0)])
def test_scores_equal_the_formula(k1: float, b: float) -> None:
    documents = build_collection(60)
    model = BM25("words", k1=k1, b=b)
    model.index(documents.items())
    for query in ("w0 w3", "w7 w7 w39 unknown", "w12"):
        expected = compute_bm25(query, documents, k1, b)
        assert model.score(query, documents) == pytest.approx(expected, rel=1e-5)


def test_worked_example() -> None:
    """N = 3, n = 2, L = 3: ln(1 + 1.5 / 2.5) = ln 1.6, over 1 + 1.2 * 1 for d1 and 1 + 1.2 * 1.5 for d2."""
    model = BM25()
    model.index(DOCUMENTS)
    assert model.retrieve("Bow?", 10) == pytest.approx({"d1": log(1.6) / 2.2, "d2": log(1.6) / 2.8})


def test_retrieval_is_the_sorted_formula() -> None:
    documents = build_collection(80, seed=1)
    model = BM25()
    model.index(documents.items())
    for query in ("w0 w1 w2", "w5 w20", "w33"):
        scores = model.score(query, documents)
        ranked = sorted((key for key in scores if scores[key] > 0), key=lambda key: (-scores[key], key))
        for depth in (1, 7, 80):
            assert list(model.retrieve(query, depth).items()) == [
                (key, scores[key]) for key in ranked[:depth]
            ]


def test_equal_scores_are_ordered_by_id_at_the_cut_too() -> None:
    model = BM25()
    model.index([(key, "a bow") for key in ("d9", "d10", "d2", "d1")])
    assert list(model.retrieve("bow", 3)) == ["d1", "d10", "d2"]


def test_passages_without_a_shared_word_are_not_retrieved() -> None:
    model = BM25()
    model.index(DOCUMENTS)
    assert list(model.retrieve("rain", 10)) == ["d3"]
    assert model.retrieve("snow", 10) == {}
    assert model.retrieve("", 10) == {}


def test_passages_without_a_shared_word_score_zero() -> None:
    model = BM25()
    model.index(DOCUMENTS)
    assert model.score("rain", ["d2", "d3", "d1"]) == {
        "d2": 0.0,
        "d3": pytest.approx(log(8 / 3) / 1.6),
        "d1": 0.0,
    }
    assert model.score("snow", ["d2"]) == {"d2": 0.0}


def test_order_of_the_collection_does_not_matter() -> None:
    documents = build_collection(50, seed=2)
    forwards, backwards = BM25(), BM25()
    forwards.index(documents.items())
    backwards.index(reversed(documents.items()))
    assert list(forwards.retrieve("w1 w4 w9", 20).items()) == list(backwards.retrieve("w1 w4 w9", 20).items())


def test_index_reads_each_document_once_and_in_order() -> None:
    def stream() -> Iterator[tuple[str, str]]:
        for number in range(1000):
            yield str(number), f"word{number}"

    model = BM25()
    model.index(stream())
    assert len(model) == 1000
    assert list(model.retrieve("word999 word0", 5)) == ["0", "999"]


def test_index_replaces_what_was_there() -> None:
    model = BM25()
    model.index(DOCUMENTS)
    model.index([("x", "a bow")])
    assert list(model.retrieve("bow", 10)) == ["x"]


def test_blank_texts_are_indexed_and_never_found() -> None:
    model = BM25()
    model.index([("a", ""), ("b", " ... ")])
    assert model.retrieve("bow", 10) == {}
    assert model.score("bow", ["a"]) == {"a": 0.0}


def test_auto_cuts_chinese_into_words() -> None:
    """As one run, the sentence would share nothing with the word."""
    model = BM25()
    model.index([("a", "学生去图书馆看书。"), ("b", "他们在北京工作。")])
    assert list(model.retrieve("图书馆", 10)) == ["a"]


def test_splitter_may_be_a_function() -> None:
    model = BM25(list)
    model.index([("a", "xy"), ("b", "z")])
    assert list(model.retrieve("x", 10)) == ["a"]


def test_model_pickles() -> None:
    model = BM25()
    model.index(DOCUMENTS)
    assert pickle.loads(pickle.dumps(model)).retrieve("bow", 2) == model.retrieve("bow", 2)


def test_fingerprint_tells_settings_apart() -> None:
    models = [BM25(), BM25("words"), BM25("chinese"), BM25(split_words), BM25(k1=0.9), BM25(b=0.4)]
    assert len({model.fingerprint() for model in models}) == len(models)


def test_fingerprint_does_not_depend_on_the_collection() -> None:
    model = BM25()
    before = model.fingerprint()
    model.index(DOCUMENTS)
    assert model.fingerprint() == before == BM25().fingerprint()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k1": -1}, "BM25: `k1` must be a number >= 0; got -1"),
        ({"k1": float("nan")}, "BM25: `k1`"),
        ({"b": 1.5}, "BM25: `b` must be a number from 0 to 1; got 1.5"),
        ({"splitter": "word"}, "Did you mean 'words'"),
    ],
    ids=["k1", "nan", "b", "splitter"],
)
def test_bad_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        BM25(**settings)  # type: ignore[arg-type]


def test_bad_documents_are_refused() -> None:
    model = BM25()
    with pytest.raises(ArgumentError, match="pairs with unique ids; got 'd1'"):
        model.index([*DOCUMENTS, ("d1", "again")])
    with pytest.raises(ArgumentError, match="at least one pair"):
        model.index([])


def test_bad_questions_are_refused() -> None:
    model = BM25()
    with pytest.raises(FletchingError, match=r"BM25\.retrieve: nothing has been indexed yet"):
        model.retrieve("bow", 1)
    model.index(DOCUMENTS)
    with pytest.raises(ArgumentError, match="`depth` must be an integer >= 1; got 0"):
        model.retrieve("bow", 0)
    with pytest.raises(ArgumentError, match="ids of indexed passages; got 'd7'"):
        model.score("bow", ["d1", "d7"])


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingExtraError, match=r'pip install "fletching\[evaluate\]"'):
        BM25()
