"""What must hold, items 1, 2, 7, 8, 9 and 10 of the description of DSE."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fletching
from fletching.methods.dse.config import POOLERS
from fletching.methods.dse.functional import build_pair_features
from fletching.methods.dse.modules import DSEPairHead, TopLayersPooling
from fletching.testing.tiny import HIDDEN_SIZE

TEXTS = [
    "the feathers keep the arrow true",
    "a bow of wood",
    "why is the wind in the string of the bow? " * 3,
    "goose",
]
MASK = torch.tensor([[1, 1, 1, 1, 0]])
LAYER_1 = torch.tensor([[[9.0, 9.0], [1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 7.0]]])


def pool_toy(name, layer=LAYER_1):
    combine, tokens, include_cls = POOLERS[name]
    pooling = TopLayersPooling(
        2, num_layers=2, combine=combine, token_pooling=tokens, include_cls=include_cls
    ).eval()
    states = (torch.zeros(1, 5, 2), layer, 10 * layer)
    return pooling({"all_layer_embeddings": states, "attention_mask": MASK})["sentence_embedding"][0]


def test_item_1_features_of_a_pair_stand_in_the_order_of_the_reference_code():
    """u = [1, 2], v = [3, -1]: u * v = [3, -2], |u - v| = [2, 3]."""
    features = build_pair_features(torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0]))
    assert features.tolist() == [1, 2, 3, -1, 3, -2, 2, 3]


@pytest.mark.parametrize(
    ("pooler", "expected"),
    [
        ("concat_top_mean", [3, 4, 30, 40]),
        ("concat_top_sqrt_mean", [5.196153, 6.928204, 51.961525, 69.282036]),  # 9, 12, 90, 120 by sqrt(3)
        ("mean_top_mean", [16.5, 22]),
        ("concat_top_max", [5, 6, 50, 60]),
    ],
)
def test_item_2_poolers_compute_the_toy_values(pooler, expected):
    assert pool_toy(pooler).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("pooler", [name for name in POOLERS if not name.endswith("_with_cls")])
def test_item_2_first_token_and_padding_change_nothing(pooler):
    changed = LAYER_1.clone()
    changed[0, 0], changed[0, 4] = 1000.0, -1000.0
    assert pool_toy(pooler, changed).tolist() == pool_toy(pooler).tolist()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("kind", "fc_dims"), [("mlp", (8, 3)), ("mlp", (8, 4, 1)), ("dot", (4, 1)), ("dot", ())]
)
@pytest.mark.parametrize("chunk_size", [None, 1, 3, 100])
def test_item_7_decomposed_scores_are_the_naive_ones(kind, fc_dims, symmetric, chunk_size):
    generator = torch.Generator().manual_seed(0)
    head = DSEPairHead(6, fc_dims, kind=kind, symmetric=symmetric)
    u, v = torch.randn(4, 6, generator=generator), torch.randn(7, 6, generator=generator)
    naive = torch.stack([head.score(row.expand(7, 6), v) for row in u])
    torch.testing.assert_close(head.score_all(u, v, chunk_size), naive, rtol=1e-5, atol=1e-6)


def test_item_7_predict_rank_and_the_matrix_agree(shared_student):
    """Twelve documents, so that ranking takes the decomposed head, and pairs take the plain one."""
    documents = [f"{text} {number}" for text in TEXTS for number in range(3)]
    matrix = shared_student.score_matrix(TEXTS, documents)
    pairs = [(query, document) for query in TEXTS for document in documents]
    singles = [shared_student.predict([pair])[0] for pair in pairs[::7]]
    assert np.allclose(singles, matrix.ravel()[::7], rtol=1e-5)
    assert np.allclose(shared_student.predict(pairs), matrix.ravel(), rtol=1e-5)
    for query, row in zip(TEXTS, matrix, strict=True):
        ranked = {hit["corpus_id"]: hit["score"] for hit in shared_student.rank(query, documents)}
        assert np.allclose([ranked[place] for place in range(len(documents))], row, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "width"),
    [
        ({}, 4 * HIDDEN_SIZE),
        ({"num_layers": 2}, 2 * HIDDEN_SIZE),
        ({"pooling": "mean_top_max"}, HIDDEN_SIZE),
        ({"pooling": "cls"}, HIDDEN_SIZE),
        ({"embedding_size": 12}, 12),
    ],
    ids=str,
)
def test_item_8_width_is_what_the_pooler_says(make_student, fields, width):
    model = make_student(**fields)
    assert model.encode(TEXTS).shape == (len(TEXTS), width)
    assert model.get_embedding_dimension() == width


def test_item_8_vectors_depend_neither_on_the_batch_nor_on_the_side(shared_student):
    together = shared_student.encode(TEXTS)
    alone = np.stack([shared_student.encode(text) for text in TEXTS])
    assert np.allclose(together, alone, atol=1e-5)
    with torch.inference_mode():
        pairs = [(TEXTS[0], TEXTS[2]), (TEXTS[1], TEXTS[0])]
        sides = shared_student.eval().encode_features(shared_student.preprocess(pairs))
    assert torch.equal(sides[0], sides[3])  # the first sentence of one pair is the second one of the other


def test_item_9_only_training_is_noisy(make_student):
    model = make_student()
    features = model.preprocess([TEXTS[0]])
    model.train()
    assert not torch.equal(model.encode_features(features), model.encode_features(features))
    model.eval()
    assert torch.equal(model.encode_features(features), model.encode_features(features))


def test_item_9_the_pooled_vector_is_dropped_out():
    """Without an encoder: of 4000 values about one in ten is zero, and the others grow by 1 / 0.9."""
    pooling = TopLayersPooling(1000, num_layers=4).train()
    features = {"all_layer_embeddings": (torch.ones(1, 3, 1000),) * 5, "attention_mask": torch.ones(1, 3)}
    pooled = pooling(features)["sentence_embedding"]
    assert 200 < (pooled == 0).sum() < 600
    assert pooled.max().item() == pytest.approx(1 / 0.9)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"pooling": "cls", "head": "dot", "fc_dims": ()},
        {"pooling": "mean_top_sqrt_mean_with_cls", "embedding_size": 12, "fc_dims": (8, 3)},
    ],
    ids=str,
)
def test_item_10_a_save_computes_the_same(make_student, tmp_path, fields):
    model = make_student(**fields)
    model.save(str(tmp_path))
    loaded = fletching.load(tmp_path, device="cpu")
    pairs = [(first, second) for first in TEXTS for second in TEXTS]
    assert (loaded.encode(TEXTS) == model.encode(TEXTS)).all()
    assert (loaded.predict(pairs) == model.predict(pairs)).all()
