from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fletching
from fletching.data import SentencePair
from fletching.errors import ArgumentError, CheckpointError, FletchingError
from fletching.evaluation.data_set import STSSet
from fletching.evaluation.sts import MEASURES, _resample, _test_by_swapping, evaluate_sts
from fletching.metrics import pearson, spearman
from fletching.testing import save_tiny_cross_encoder, save_tiny_embedder

SENTENCES = ["a feather", "the feather", "an arrow on a string", "a goose", "the bow", "wind", "wood", "true"]
DATA = STSSet(
    "archery",
    tuple(
        SentencePair(first, second, float((3 * place) % 7))
        for place, (first, second) in enumerate(zip(SENTENCES, SENTENCES[1:] + SENTENCES[:1], strict=True))
    ),
    digest="d1",
)


class Angles:
    """An embedder of LangChain's kind: a text is a direction, told by its length."""

    def __init__(self, step: float = 0.1) -> None:
        self.step = step
        self.n_texts = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.n_texts += len(texts)
        angles = [self.step * len(text) for text in texts]
        return [[float(np.cos(angle)), float(np.sin(angle))] for angle in angles]

    def embed_query(self, text: str) -> list[float]:
        raise AssertionError("the two sentences are encoded alike")


class Lengths:
    """A reranker that scores by length, and nothing but pairs."""

    def rank(self, query: str, documents: Sequence[str]) -> list[dict[str, Any]]:
        raise AssertionError("pairs are no lists")

    def predict(self, pairs: Sequence[tuple[str, str]], **kwargs: Any) -> NDArray[np.float64]:
        return np.array([len(first) + 2.0 * len(second) for first, second in pairs])


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_embedder(tmp_path_factory.mktemp("embedder"))


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_cross_encoder(tmp_path_factory.mktemp("reranker"))


def test_embedder_is_measured_by_the_cosine() -> None:
    """The cosine of two directions is that of the angle between them."""
    result = evaluate_sts({"angles": Angles()}, DATA).results[0]

    expected = [np.cos(0.1 * (len(pair.sentence1) - len(pair.sentence2))) for pair in DATA.pairs]
    gold = [pair.score for pair in DATA.pairs]
    assert result.evaluation["similarity"] == pytest.approx(expected, abs=1e-6)
    assert result.evaluation["score"].tolist() == gold
    assert result.intervals["spearman"].mean == pytest.approx(spearman(gold, result.evaluation["similarity"]))
    assert result.intervals["pearson"].mean == pytest.approx(pearson(gold, expected), abs=1e-5)


def test_checkpoint_encodes_both_sentences_alike(embedder: str) -> None:
    """Query and document prompts would differ; equal sentences have the cosine 1."""
    pairs = (SentencePair("a goose", "a goose", 5.0), SentencePair("a bow", "wind", 1.0))
    result = evaluate_sts([embedder], STSSet("two", pairs, "d")).results[0]

    assert result.name == embedder
    assert result.kind == "embedder"
    assert result.evaluation["similarity"][0] == pytest.approx(1.0, abs=1e-5)


def test_reranker_scores_pairs_as_they_are() -> None:
    result = evaluate_sts({"lengths": Lengths()}, DATA).results[0]

    expected = [len(pair.sentence1) + 2.0 * len(pair.sentence2) for pair in DATA.pairs]
    assert result.evaluation["similarity"].tolist() == expected


def test_reranker_checkpoint_is_measured(reranker: str) -> None:
    result = evaluate_sts([reranker], DATA).results[0]

    assert result.kind == "reranker"
    assert len(result.evaluation["similarity"]) == len(DATA.pairs)
    assert result.cost.tokens is not None


def test_difference_is_that_of_the_correlations() -> None:
    comparison = evaluate_sts({"angles": Angles(), "lengths": Lengths()}, DATA)

    first, second = comparison.results
    assert (comparison.measures, comparison.baseline, first.differences) == (MEASURES, "angles", {})
    for measure in MEASURES:
        difference = second.intervals[measure].mean - first.intervals[measure].mean
        assert second.differences[measure].interval.mean == pytest.approx(difference)


def test_equal_systems_do_not_differ() -> None:
    """Every swap gives the difference 0, which is as large as the one seen."""
    found = evaluate_sts({"one": Lengths(), "two": Lengths()}, DATA).results[1].differences["spearman"]

    assert (found.interval.mean, found.interval.low, found.interval.high, found.p_value) == (0, 0, 0, 1)


def test_same_seed_gives_the_same_intervals() -> None:
    first, second, third = (
        evaluate_sts({"x": Lengths()}, DATA, seed=seed).results[0].intervals for seed in (1, 1, 2)
    )
    assert first == second
    assert first != third


def test_scores_are_kept(embedder: str, tmp_path: Path) -> None:
    first = evaluate_sts([embedder], DATA, cache=tmp_path).results[0]
    second = evaluate_sts([embedder], DATA, cache=tmp_path).results[0]

    assert (first.from_cache, second.from_cache) == (False, True)
    assert second.evaluation["similarity"].tolist() == first.evaluation["similarity"].tolist()
    assert second.cost == first.cost


@pytest.mark.parametrize("system", ["bm25", "run.tsv"])
def test_systems_without_similarities_are_refused(system: str, tmp_path: Path, embedder: str) -> None:
    (tmp_path / "run.tsv").write_text("q1\td1\t1\t1\n")
    named = {"embedder": embedder, system: "bm25" if system == "bm25" else tmp_path / system}

    with pytest.raises(
        ArgumentError, match="embedders and rerankers, since the data are sentence pairs; got"
    ):
        evaluate_sts(named, DATA)


def test_wrong_name_is_found_before_any_work() -> None:
    angles = Angles()

    with pytest.raises(CheckpointError, match="no/such/model"):
        evaluate_sts({"angles": angles, "wrong": "no/such/model/at-all"}, DATA)
    assert angles.n_texts == 0


def test_unknown_baseline_is_refused() -> None:
    with pytest.raises(ArgumentError, match="`baseline` must be one of 'angles'; got 'angels'"):
        evaluate_sts({"angles": Angles()}, DATA, baseline="angels")


def test_no_systems_are_refused() -> None:
    with pytest.raises(ArgumentError, match="`systems` must be at least one system"):
        evaluate_sts([], DATA)


def test_two_systems_of_one_name_are_refused() -> None:
    with pytest.raises(
        ArgumentError, match=r"`systems` must be of different names; got \['Angles', 'Angles'\]"
    ):
        evaluate_sts([Angles(), Angles()], DATA)


def test_one_name_is_no_list() -> None:
    with pytest.raises(ArgumentError, match="`systems` must be a list of systems; got 'mvp-mini'"):
        evaluate_sts("mvp-mini", DATA)


def test_constant_similarity_is_named() -> None:
    with pytest.raises(FletchingError, match="System 'still': it scores all 8 pairs alike, 1"):
        evaluate_sts({"still": Angles(step=0.0)}, DATA)


def test_similarity_that_is_not_finite_is_named() -> None:
    with pytest.raises(FletchingError, match="System 'broken': the score of pair 1 must be finite"):
        evaluate_sts({"broken": Angles(step=float("nan"))}, DATA)


# --- resampling ---


def test_draws_equal_correlations_of_drawn_pairs() -> None:
    """Ranks by counting are the ranks of the drawn pairs, ties included."""
    generator = np.random.default_rng(5)
    gold = generator.integers(0, 4, 30).astype(float)
    values = np.round(gold + generator.normal(0, 1, 30))
    drawn = np.random.default_rng(0).integers(0, 30, (200, 30))

    found = _resample(gold, values, 200, seed=0)
    for measure, correlate in (("spearman", spearman), ("pearson", pearson)):
        assert found[measure] == pytest.approx([correlate(gold[row], values[row]) for row in drawn])


def test_draws_that_are_constant_do_not_count() -> None:
    """Two pairs: half of all draws hold one pair twice; the others correlate perfectly."""
    pairs = (SentencePair("a", "bb", 0.0), SentencePair("a", "bbb", 1.0))
    interval = evaluate_sts({"x": Lengths()}, STSSet("two", pairs, "d")).results[0].intervals["pearson"]

    assert (interval.mean, interval.low, interval.high) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("measure", MEASURES)
def test_swapping_equals_its_definition(measure: str) -> None:
    """Every pattern of swaps of 5 pairs by hand, as shares; random signs come near that share."""
    gold, first, second = (
        np.array([1, 2, 3, 4, 5.0]),
        np.array([1, 3, 2, 4, 5.0]),
        np.array([5, 1, 2, 3, 4.0]),
    )

    def standardise(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return (values - values.mean()) / values.std()

    a, b = standardise(first), standardise(second)  # ranks already
    differences = []
    for pattern in range(32):
        swap = np.array([bool(pattern >> place & 1) for place in range(5)])
        x, y = np.where(swap, b, a), np.where(swap, a, b)
        differences.append(abs(np.corrcoef(gold, x)[0, 1] - np.corrcoef(gold, y)[0, 1]))
    share = np.mean(np.array(differences) >= differences[0] - 1e-9)

    found = _test_by_swapping(measure, gold, first, second, n_resamples=20_000, seed=0)
    assert found == pytest.approx(share, abs=0.02)  # 5 standard errors of 20,000 draws


def test_swaps_that_make_a_system_constant_do_not_count() -> None:
    """Two pairs, two opposite systems: half of all swaps make both constant, the others differ as much."""
    gold, values = np.array([0.0, 1.0]), np.array([1.0, 2.0])

    assert _test_by_swapping("pearson", gold, values, -values, n_resamples=1000, seed=0) == 1


# --- failures ---


class Broken(Lengths):
    def predict(self, pairs: Sequence[tuple[str, str]], **kwargs: Any) -> NDArray[np.float64]:
        raise KeyError("weight")


def test_failure_of_a_model_names_the_system() -> None:
    with pytest.raises(FletchingError, match="System 'Broken': it failed with KeyError"):
        evaluate_sts([Broken()], DATA)


def test_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ArgumentError, match="evaluate_sts: `cache` must be a folder that can be written"):
        evaluate_sts([Lengths()], DATA, cache=tmp_path / "file")


def test_data_without_a_digest_are_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"`data\.digest` must be set where results are to be kept"):
        evaluate_sts([Lengths()], STSSet("archery", DATA.pairs), cache=tmp_path)


def test_negative_seed_is_refused() -> None:
    with pytest.raises(ArgumentError, match="`seed` must be a whole number of at least 0; got -1"):
        evaluate_sts([Lengths()], DATA, seed=-1)


def test_batch_size_reaches_a_reranker(reranker: str) -> None:
    model = fletching.load(reranker, device="cpu")
    sizes = []
    model.register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[0]["input_ids"])))
    evaluate_sts([model], DATA, batch_size=2)

    assert max(sizes) == 2
