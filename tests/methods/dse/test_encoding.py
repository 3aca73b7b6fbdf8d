"""Sentence vectors, and those of documents on disk."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import fletching
from fletching.errors import ArgumentError, FletchingError
from fletching.methods.dse import DSEConfig, DSEReranker, encoding
from fletching.methods.dse import model as model_module
from fletching.models.vector_cache import VectorCache
from fletching.testing.contracts.promises import before_each_batch
from fletching.testing.tiny import MAX_SEQ_LENGTH

QUERY = "what keeps an arrow true"
DOCUMENTS = [f"the feathers of goose {number}" for number in range(12)]
LONG = "in the wind, feathers of a goose on the shaft. " * 12


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "vectors"


@pytest.fixture
def make_cached(make_student, folder):
    def make(options=None, **fields):
        return make_student(
            {"vector_cache": folder, **(options or {})}, max_seq_length=MAX_SEQ_LENGTH, **fields
        )

    return make


def count_rows(model, action):
    """Count the texts that the network reads while ``action`` runs."""
    rows: list[int] = []
    with before_each_batch(model, rows.append, pass_rows=True):
        action()
    return sum(rows)


def scores_of(ranking):
    return [hit["score"] for hit in sorted(ranking, key=lambda hit: hit["corpus_id"])]


# --- sentence vectors ---


def test_one_text_gives_one_vector(shared_student):
    assert shared_student.encode("bow").tolist() == shared_student.encode(["bow"])[0].tolist()


def test_vectors_are_float32_arrays_or_tensors(shared_student):
    vectors = shared_student.encode(["bow", "wood"])
    assert (type(vectors), vectors.dtype) == (np.ndarray, np.float32)
    tensor = shared_student.encode(["bow", "wood"], convert_to_tensor=True)
    assert torch.equal(tensor, torch.from_numpy(vectors))


def test_no_texts_give_no_vectors(shared_student):
    assert shared_student.encode([]).shape == (0, 128)
    assert shared_student.encode_document([]).shape == (0, 128)


def test_vectors_get_length_one_on_request(shared_student):
    plain = shared_student.encode("bow")
    unit = shared_student.encode("bow", normalize_embeddings=True)
    assert np.linalg.norm(unit) == pytest.approx(1)
    assert np.allclose(unit * np.linalg.norm(plain), plain, atol=1e-6)


def test_a_prompt_stands_in_front(shared_student):
    prompted = shared_student.encode("bow", prompt="what is a ")
    assert (prompted == shared_student.encode("what is a bow")).all()


@pytest.mark.parametrize("method", ["encode", "encode_document"])
@pytest.mark.parametrize("value", [None, 3, ["bow", 3]], ids=repr)
def test_what_is_not_text_is_refused(shared_student, method, value):
    with pytest.raises(ArgumentError, match=rf"DSEReranker\.{method}: `inputs"):
        getattr(shared_student, method)(value)


@pytest.mark.parametrize("method", ["encode", "encode_document"])
def test_nan_is_raised_and_never_kept(make_cached, method):
    model = make_cached()
    with torch.no_grad():
        model[0].model.embeddings.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(FletchingError, match=r"computed NaN for inputs\[0\]"):
        getattr(model, method)(["bow"])
    assert len(model.open_cache()) == 0


# --- vectors on disk ---


def test_a_second_call_reads_the_query_alone(make_cached):
    model = make_cached()
    assert count_rows(model, lambda: model.rank(QUERY, DOCUMENTS)) == 13
    assert count_rows(model, lambda: model.rank(QUERY, DOCUMENTS)) == 1
    assert count_rows(model, lambda: model.encode_document(DOCUMENTS)) == 0
    assert count_rows(model, lambda: model.score_matrix([QUERY], [*DOCUMENTS, "bow"])) == 2


def test_a_second_call_says_the_same_bit_for_bit(make_cached):
    model = make_cached()
    assert model.rank(QUERY, DOCUMENTS) == model.rank(QUERY, DOCUMENTS)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 1e-2)])
def test_cached_scores_are_those_without_a_cache(make_cached, make_student, dtype, tolerance):
    cached = make_cached({"cache_dtype": dtype})
    plain = make_student(max_seq_length=MAX_SEQ_LENGTH)
    cached.rank(QUERY, DOCUMENTS)
    got, expected = (scores_of(model.rank(QUERY, DOCUMENTS, scores="logit")) for model in (cached, plain))
    assert np.allclose(got, expected, atol=tolerance)


def test_a_model_opened_anew_finds_the_vectors(make_cached, folder, tmp_path):
    model = make_cached()
    model.rank(QUERY, DOCUMENTS)
    model.save(str(tmp_path / "model"))
    again = fletching.load(tmp_path / "model", vector_cache=folder, device="cpu")
    assert count_rows(again, lambda: again.rank(QUERY, DOCUMENTS)) == 1


def test_another_head_finds_the_vectors_too(make_cached):
    make_cached().rank(QUERY, DOCUMENTS)
    other = make_cached({"symmetric": True}, fc_dims=(8, 4, 1), seed=1)
    assert count_rows(other, lambda: other.score_matrix([QUERY], DOCUMENTS)) == 1


@pytest.mark.parametrize(
    "fields", [{"pooling": "mean_top_mean"}, {"num_layers": 3}, {"embedding_size": 128}], ids=str
)
def test_another_encoder_of_the_same_weights_finds_nothing(make_cached, fields):
    make_cached().rank(QUERY, DOCUMENTS)
    other = make_cached(**fields)
    assert count_rows(other, lambda: other.rank(QUERY, DOCUMENTS)) == 13


def change_a_weight(model):
    with torch.no_grad():
        model[0].model.encoder.layer[4].output.dense.weight[0, 0] += 1


def train_behind_the_back(model):
    model.train()
    model[0].model.encoder.layer[4].output.dense.weight.data[0, 0] += 1  # leaves no version


def read_fewer_tokens(model):
    model.max_seq_length = 5


def pool_otherwise(model):
    model[1].token_pooling = "max"


@pytest.mark.parametrize(
    "change", [change_a_weight, train_behind_the_back, read_fewer_tokens, pool_otherwise]
)
def test_a_changed_model_does_not_find_what_it_was_before(make_cached, change):
    """Its vectors are those of the changed model, computed anew."""
    model = make_cached()
    before = model.encode_document(DOCUMENTS)
    change(model)
    after = model.encode_document(DOCUMENTS)
    assert not np.allclose(after, before, atol=1e-4)
    assert np.allclose(after, model.encode(DOCUMENTS), atol=1e-6)


def test_an_adapter_switched_off_does_not_find_what_it_was_before(make_cached):
    peft = pytest.importorskip("peft")
    model = make_cached()
    plain = model.encode_document(DOCUMENTS)
    model.add_adapter(peft.LoraConfig(target_modules=["query", "value"], init_lora_weights=False, r=2))
    adapted = model.encode_document(DOCUMENTS)
    model.disable_adapters()
    assert not np.allclose(adapted, plain, atol=1e-4)
    assert np.allclose(model.encode_document(DOCUMENTS), plain, atol=1e-6)


def test_a_changed_text_is_read_anew(make_cached):
    model = make_cached()
    model.rank(QUERY, DOCUMENTS)
    changed = [DOCUMENTS[0] + " ", *DOCUMENTS[1:]]
    assert count_rows(model, lambda: model.rank(QUERY, changed)) == 2


def test_what_truncation_cost_is_known_of_cached_documents(make_cached, caplog):
    model = make_cached()
    first = model.rank(QUERY, [LONG, "bow"])
    caplog.clear()
    second = model.rank(QUERY, [LONG, "bow"])
    assert second.lost_tokens == first.lost_tokens
    assert set(first.lost_tokens) == {0}
    assert "1 of 2 documents" in caplog.text


def test_chunks_of_long_documents_are_cached(make_cached, make_student):
    model, plain = make_cached(), make_student(max_seq_length=MAX_SEQ_LENGTH)
    documents = [*DOCUMENTS, LONG, LONG + " an arrow on a bow"]
    expected = scores_of(plain.rank(QUERY, documents, long="chunk_max", scores="logit"))
    first = model.rank(QUERY, documents, long="chunk_max", scores="logit")
    second: list = []
    read = count_rows(
        model, lambda: second.append(model.rank(QUERY, documents, long="chunk_max", scores="logit"))
    )
    assert read == 1
    for ranking in (first, *second):
        assert np.allclose(scores_of(ranking), expected, atol=1e-5)
        assert ranking.lost_tokens == {}


def test_chunks_and_cut_documents_are_not_mistaken_for_each_other(make_cached, make_student):
    model, plain = make_cached(), make_student(max_seq_length=MAX_SEQ_LENGTH)
    for long in ("truncate", "chunk_max", "truncate", "chunk_max"):
        got = model.rank(QUERY, [LONG, "bow"], long=long, scores="logit")
        expected = plain.rank(QUERY, [LONG, "bow"], long=long, scores="logit")
        assert np.allclose(scores_of(got), scores_of(expected), atol=1e-5)


def test_no_chunk_loses_a_token(make_student):
    """A chunk that begins inside a word may have more tokens than it had within it."""
    model = make_student(max_seq_length=12)
    for text in ("archery" * 60, "feathers " * 50, "x1y2" * 30):
        ranking = model.rank(QUERY[:9], [text], long="chunk_max")
        assert ranking.lost_tokens == {}


def test_a_query_that_is_cut_is_reported(make_student, caplog):
    model = make_student(max_seq_length=12)
    ranking = model.rank("feathers " * 20, ["bow", "wood"])
    assert ranking.lost_tokens == {0: 10, 1: 10}  # 20 words, of which 12 - 2 fit
    assert "1 of 1 queries" in caplog.text


def test_a_damaged_cache_is_computed_anew(make_cached, make_student, folder):
    expected = make_student(max_seq_length=MAX_SEQ_LENGTH).rank(QUERY, DOCUMENTS)
    make_cached().rank(QUERY, DOCUMENTS)
    for path in folder.rglob("*.vectors"):
        path.write_bytes(path.read_bytes()[:-8])
    assert np.allclose(scores_of(make_cached().rank(QUERY, DOCUMENTS)), scores_of(expected), atol=1e-6)


def test_a_copy_keeps_using_the_cache(make_cached):
    model = make_cached()
    model.rank(QUERY, DOCUMENTS)
    again = copy.deepcopy(model)
    assert count_rows(again, lambda: again.rank(QUERY, DOCUMENTS)) == 1


def test_a_thousand_blocks_make_no_difference(make_cached, monkeypatch):
    model = make_cached({"vector_cache": None})
    documents = [*DOCUMENTS, LONG, "bow"]
    expected = [
        scores_of(model.rank(QUERY, documents, long=long, scores="logit"))
        for long in ("truncate", "chunk_max")
    ]
    monkeypatch.setattr(encoding, "BLOCK", 3)
    monkeypatch.setattr(model_module, "BLOCK", 3)
    got = [
        scores_of(model.rank(QUERY, documents, long=long, scores="logit"))
        for long in ("truncate", "chunk_max")
    ]
    assert np.allclose(got, expected, atol=1e-6)
    assert np.allclose(model.score_matrix([QUERY], documents, scores="logit")[0], expected[0], atol=1e-6)
    assert np.allclose(model.encode_document(documents), model.encode(documents), atol=1e-6)


def test_vectors_are_read_from_the_disk_block_by_block(make_cached, monkeypatch):
    """Memory is that of a block, however many documents there are."""
    monkeypatch.setattr(encoding, "BLOCK", 3)
    monkeypatch.setattr(model_module, "BLOCK", 3)
    model = make_cached()
    model.encode_document(DOCUMENTS)
    sizes, read = [], VectorCache.read

    def note(self, texts, **options):
        sizes.append(len(texts))
        return read(self, texts, **options)

    monkeypatch.setattr(VectorCache, "read", note)
    model.rank(QUERY, DOCUMENTS)
    model.score_matrix([QUERY], DOCUMENTS)
    assert sizes == [3] * 8  # twice 12 documents


def test_the_default_folder_is_that_of_all_caches(make_student, tmp_path, monkeypatch):
    monkeypatch.setenv("FLETCHING_CACHE", str(tmp_path))
    model = make_student({"vector_cache": True})
    model.encode_document(["bow"])
    assert isinstance(model.open_cache(), VectorCache)
    assert len([*(tmp_path / "dse").rglob("*.vectors")]) == 1


def test_without_a_cache_there_is_none_to_open(shared_student):
    with pytest.raises(ArgumentError, match="`vector_cache` must be a folder; got None"):
        shared_student.open_cache()


def test_a_precision_that_is_none_is_refused(deep_encoder):
    with pytest.raises(ArgumentError, match="`cache_dtype` must be one of 'float32', 'float16'"):
        DSEReranker.from_encoder(deep_encoder, DSEConfig(), cache_dtype="int8", device="cpu")
