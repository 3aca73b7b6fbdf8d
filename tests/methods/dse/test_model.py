"""DSEReranker: what users call."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

import fletching
from fletching.errors import ArgumentError, CheckpointError, FletchingError, ShapeError
from fletching.methods.dse import DSEConfig, DSEReranker
from fletching.models.embedder import Embedder
from fletching.testing import save_tiny_cross_encoder, save_tiny_embedder, save_tiny_llama, save_tiny_t5

QUERY = "what keeps an arrow true"
DOCUMENTS = ["the feathers of a goose", "a bow of wood", "the wind", "what is a nock?"]
PAIRS = [(QUERY, document) for document in DOCUMENTS]


def scores_of(ranking):
    return [hit["score"] for hit in sorted(ranking, key=lambda hit: hit["corpus_id"])]


# --- students of many encoders ---


def test_an_embedder_s_encoder_becomes_a_student(tmp_path):
    folder = save_tiny_embedder(tmp_path)
    model = DSEReranker.from_encoder(folder, DSEConfig(num_layers=2), device="cpu")
    expected = SentenceTransformer(folder, device="cpu")[0].model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model[0].model.state_dict().items())


def test_an_encoder_in_a_folder_of_its_own_is_found(tmp_path):
    """As sentence-transformers saved it before version 2."""
    folder = tmp_path / "old"
    save_tiny_embedder(folder)
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in [*folder.iterdir()]:
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(inner / path.name)
    modules = folder / "modules.json"
    modules.write_text(modules.read_text().replace('"path": ""', '"path": "0_Transformer"', 1))
    assert DSEReranker.from_encoder(folder, DSEConfig(num_layers=2), device="cpu").encode("bow").shape == (
        64,
    )


@pytest.mark.parametrize("save", [save_tiny_llama, save_tiny_t5], ids=["decoder", "T5"])
def test_a_network_of_another_kind_becomes_a_student(tmp_path, save):
    """Padded on the left; or an encoder whose norm stands in front of each layer."""
    config = DSEConfig(num_layers=2, apply_final_norm=True, max_seq_length=32)
    model = DSEReranker.from_encoder(save(tmp_path / "base"), config, device="cpu")
    together, alone = model.encode(DOCUMENTS), np.stack([model.encode(text) for text in DOCUMENTS])
    assert np.allclose(together, alone, atol=1e-5)
    model.save(str(tmp_path / "saved"))
    loaded = fletching.load(tmp_path / "saved", device="cpu")
    assert (loaded.predict(PAIRS) == model.predict(PAIRS)).all()


def test_minilm_becomes_a_student_without_network():
    model = DSEReranker.from_encoder(device="cpu")
    assert model.get_embedding_dimension() == 4 * 384
    assert model.max_seq_length == 128


def test_too_few_layers_are_refused_at_once(deep_encoder):
    with pytest.raises(
        ArgumentError, match="`num_layers` must be at most 5, the layers of this encoder; got 6"
    ):
        DSEReranker.from_encoder(deep_encoder, DSEConfig(num_layers=6))


def test_too_many_tokens_are_refused_at_once(deep_encoder):
    with pytest.raises(ArgumentError, match="`max_seq_length` must be at most 48: the encoder reads no more"):
        DSEReranker.from_encoder(deep_encoder, DSEConfig(max_seq_length=49))


def test_a_narrower_precision_is_kept(make_student):
    model = make_student({"dtype": "bfloat16"})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.encode("bow").dtype == np.float32
    assert np.isfinite(scores_of(model.rank(QUERY, DOCUMENTS))).all()


# --- saved and opened ---


def test_a_stock_cross_encoder_computes_the_same(make_student, tmp_path):
    model = make_student()
    model.save(str(tmp_path))
    stock = CrossEncoder(str(tmp_path), device="cpu", trust_remote_code=True)
    assert stock.num_labels == 1
    assert np.allclose(stock.predict(PAIRS), model.predict(PAIRS), atol=1e-6)
    expected = [hit["corpus_id"] for hit in model.rank(QUERY, DOCUMENTS)]
    assert [hit["corpus_id"] for hit in stock.rank(QUERY, DOCUMENTS)] == expected


def test_a_stock_cross_encoder_computes_the_logits_of_classes(make_student, tmp_path):
    model = make_student(fc_dims=(8, 3))
    model.save(str(tmp_path))
    stock = CrossEncoder(str(tmp_path), device="cpu", trust_remote_code=True)
    assert stock.num_labels == 3
    assert np.allclose(stock.predict(PAIRS), model.predict(PAIRS, scores="logit"), atol=1e-6)
    assert np.allclose(stock.predict(PAIRS, apply_softmax=True), model.predict(PAIRS), atol=1e-6)


def test_what_the_head_was_told_is_saved(make_student, tmp_path):
    model = make_student(symmetric=True, label=2, fc_dims=(8, 3))
    model.save(str(tmp_path))
    loaded = fletching.load(tmp_path, device="cpu")
    assert (loaded.head.symmetric, loaded.head.label) == (True, 2)
    assert loaded.rank(QUERY, DOCUMENTS) == model.rank(QUERY, DOCUMENTS)
    other = fletching.load(tmp_path, device="cpu", symmetric=False, label=0)
    assert (other.head.symmetric, other.head.label) == (False, 0)


def test_the_encoder_is_an_embedder_of_its_own(make_student, tmp_path):
    model = make_student(embedding_size=12)
    embedder = model.to_embedder()
    assert (embedder.encode(DOCUMENTS) == model.encode(DOCUMENTS)).all()
    assert {id(weight) for weight in embedder.parameters()} < {id(weight) for weight in model.parameters()}
    embedder.save(str(tmp_path))
    stock = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    assert np.allclose(stock.encode(DOCUMENTS), model.encode(DOCUMENTS), atol=1e-6)
    assert type(fletching.load(tmp_path, device="cpu")) is Embedder


@pytest.mark.parametrize("save", [save_tiny_embedder, save_tiny_cross_encoder, save_tiny_llama])
def test_a_folder_of_another_kind_is_refused(tmp_path, save):
    with pytest.raises(
        CheckpointError, match=r"holds no DSE model\. Start a new one with DSEReranker\.from_encoder"
    ):
        DSEReranker(save(tmp_path), device="cpu")


# --- scores ---


def test_a_binary_model_gives_probabilities_and_a_regression_values(make_student):
    binary, regression = make_student(), make_student(task="regression")
    logits = binary.predict(PAIRS, scores="logit")
    assert np.allclose(binary.predict(PAIRS), 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert np.allclose(regression.predict(PAIRS), logits)


def test_a_multiclass_model_gives_a_softmax(make_student):
    model = make_student(fc_dims=(8, 3))
    logits = torch.from_numpy(model.predict(PAIRS, scores="logit"))
    assert logits.shape == (4, 3)
    for options in ({}, {"scores": "probability"}, {"apply_softmax": True}):
        assert np.allclose(model.predict(PAIRS, **options), logits.softmax(dim=1), atol=1e-6)
    assert np.allclose(model.predict(PAIRS, activation_fn=torch.nn.Tanh()), logits.tanh(), atol=1e-6)
    assert np.allclose(model.score_matrix([QUERY], DOCUMENTS)[0], logits.softmax(dim=1), atol=1e-6)
    matrix = model.score_matrix([QUERY], DOCUMENTS, scores="logit")
    assert np.allclose(matrix[0], logits, atol=1e-6)


@pytest.mark.parametrize("label", [0, 2])
def test_a_multiclass_model_ranks_by_the_class_it_is_told(make_student, label):
    model = make_student({"label": label}, fc_dims=(8, 3))
    probabilities = model.predict(PAIRS)[:, label]
    assert np.allclose(
        scores_of(model.rank(QUERY, DOCUMENTS, scores="probability")), probabilities, atol=1e-6
    )
    log_odds = np.log(probabilities / (1 - probabilities))
    assert np.allclose(scores_of(model.rank(QUERY, DOCUMENTS)), log_odds, atol=1e-5)


def test_a_multiclass_model_that_was_told_nothing_does_not_rank(make_student):
    model = make_student(fc_dims=(8, 3))
    with pytest.raises(
        ArgumentError, match=r"must be one of the classes 0 to 2 to rank by; got None\. Set it"
    ):
        model.rank(QUERY, DOCUMENTS)


def test_both_orders_of_a_pair_count_only_where_asked(make_student):
    plain, symmetric = make_student(), make_student({"symmetric": True})
    there, back = plain.predict([(QUERY, "bow"), ("bow", QUERY)], scores="logit")
    assert abs(there - back) > 1e-4
    one, other = symmetric.predict([(QUERY, "bow"), ("bow", QUERY)], scores="logit")
    assert [one, other] == pytest.approx([(there + back) / 2] * 2, abs=1e-5)


def test_a_prompt_is_for_queries_alone(make_student):
    model = make_student({"prompts": {"query": "why "}, "default_prompt_name": "query"})
    expected = model.rank(f"why {QUERY}", DOCUMENTS, prompt="")
    assert np.allclose(scores_of(model.rank(QUERY, DOCUMENTS)), scores_of(expected), atol=1e-6)
    matrix = model.score_matrix([QUERY], DOCUMENTS)[0]
    assert np.allclose(matrix, scores_of(expected), atol=1e-6)


def test_each_text_is_encoded_once(make_student):
    from fletching.testing.contracts.promises import before_each_batch

    model, rows = make_student(), []
    with before_each_batch(model, rows.append, pass_rows=True):
        model.predict([(first, second) for first in DOCUMENTS for second in DOCUMENTS])
    assert sum(rows) == 8  # four as queries, four as documents


# --- the matrix ---


@pytest.mark.parametrize("kind", ["array", "half", "tensor", "mapped"])
def test_vectors_may_be_given_instead_of_texts(shared_student, tmp_path, kind):
    expected = shared_student.score_matrix([QUERY], DOCUMENTS)
    vectors = shared_student.encode(DOCUMENTS)
    if kind == "half":
        vectors = vectors.astype(np.float16)
    if kind == "tensor":
        vectors = torch.from_numpy(vectors)
    if kind == "mapped":
        np.save(tmp_path / "vectors.npy", vectors)
        vectors = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    got = shared_student.score_matrix(shared_student.encode([QUERY]), vectors)
    assert np.allclose(got, expected, atol=1e-2 if kind == "half" else 1e-6)


def test_an_empty_side_gives_an_empty_matrix(shared_student):
    assert shared_student.score_matrix([], DOCUMENTS).shape == (0, 4)
    assert shared_student.score_matrix([QUERY], []).shape == (1, 0)


def test_vectors_of_another_width_are_refused(shared_student):
    with pytest.raises(ShapeError, match=r"expected \(N, D\) = \(4, 128\), got \(4, 3\)"):
        shared_student.score_matrix([QUERY], np.ones((4, 3), np.float32))


def test_vectors_with_nan_are_refused(shared_student):
    vectors = shared_student.encode(DOCUMENTS)
    vectors[2, 5] = np.nan
    with pytest.raises(FletchingError, match=r"a score of documents\[2\] is NaN"):
        shared_student.score_matrix([QUERY], vectors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": "percent"}, "`scores` must be one of"),
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"scores": "logit", "activation_fn": torch.nn.Tanh()}, "`scores` must be None when"),
    ],
    ids=str,
)
def test_an_option_of_the_matrix_outside_its_domain_is_refused(shared_student, options, message):
    with pytest.raises(ArgumentError, match=message):
        shared_student.score_matrix([QUERY], DOCUMENTS, **options)


# --- gradients ---


def test_gradients_reach_the_encoder_through_pairs(make_student):
    model = make_student()
    features = model.preprocess(PAIRS)
    vectors = model.encode_features(features)
    model.head.score(vectors[:4], vectors[4:]).sum().backward()
    assert model[0].model.encoder.layer[0].output.dense.weight.grad.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        vectors = model.encode_features(features)
        torch.testing.assert_close(model(features)["scores"], model.head.score(vectors[:4], vectors[4:]))
