"""What an `Embedder` does beyond the contract: it stays a `SentenceTransformer`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding

from fletching.errors import ArgumentError, CheckpointError, FletchingError
from fletching.models.embedder import Embedder
from fletching.testing import (
    build_tiny_tokenizer,
    save_tiny_bert,
    save_tiny_embedder,
    save_tiny_llama,
    save_tiny_qwen2,
)
from fletching.testing.tiny import HIDDEN_SIZE, MAX_SEQ_LENGTH

TEXTS = ["wood", "The archer draws the bow.", "", "wood"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    prompts = {"query": "what is: ", "document": "passage: "}
    return save_tiny_embedder(tmp_path_factory.mktemp("embedder"), prompts=prompts)


@pytest.fixture(scope="module")
def model(folder):
    return Embedder(folder, device="cpu")


@pytest.fixture(scope="module")
def stock(folder):
    return SentenceTransformer(folder, device="cpu")


def test_an_embedder_is_a_sentence_transformer(model):
    assert isinstance(model, SentenceTransformer)


def test_token_embeddings_are_those_of_sentence_transformers(model, stock):
    got = model.encode(TEXTS, output_value="token_embeddings")
    expected = stock.encode(TEXTS, output_value="token_embeddings")
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("precision", ["int8", "ubinary"])
def test_vectors_are_quantized_as_in_sentence_transformers(model, stock, precision):
    texts = [f"arrow {number}" for number in range(20)]
    difference = model.encode(texts, precision=precision).astype(int) - stock.encode(
        texts, precision=precision
    )
    assert np.abs(difference).max() <= 1


def test_tensors_are_returned_on_request(model):
    assert isinstance(model.encode(TEXTS, convert_to_tensor=True), torch.Tensor)


def test_the_old_name_of_the_inputs_still_works(model):
    assert model.encode(sentences=TEXTS).tolist() == model.encode(TEXTS).tolist()


def test_a_prompt_is_found_by_name_or_given(model):
    by_name = model.encode("bow", prompt_name="query")
    assert by_name.tolist() == model.encode("bow", prompt="what is: ").tolist()
    assert by_name.tolist() != model.encode("bow").tolist()


def test_an_empty_prompt_of_the_user_wins(folder):
    silent = Embedder(folder, device="cpu", prompts={"query": "", "document": ""})
    assert silent.encode_query("bow").tolist() == silent.encode("bow").tolist()


def save_with_prompts(folder, prompts):
    save_tiny_embedder(folder)
    path = folder / "config_sentence_transformers.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "prompts": prompts}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("document", "passage"),
        ("document", "corpus"),
        ("document", "doc"),
        ("document", "search_document"),
        ("document", "retrieval.passage"),
        ("query", "search_query"),
        ("query", "question"),
        ("query", "Retrieval-query"),
    ],
)
def test_a_prompt_is_applied_under_its_other_names(tmp_path, role, name):
    """sentence-transformers puts empty prompts `query` and `document` beside it, and uses those."""
    folder = save_with_prompts(tmp_path, {"query": "", name: "the: "})
    model = Embedder(folder, device="cpu")
    encode = getattr(model, f"encode_{role}")
    assert (encode("bow") == model.encode("bow", prompt="the: ")).all()
    assert (encode("bow") != model.encode("bow")).any()
    silent = Embedder(folder, device="cpu", prompts={role: ""})
    assert (getattr(silent, f"encode_{role}")("bow") == silent.encode("bow")).all()


def test_prompts_that_nothing_applies_are_told(tmp_path, caplog):
    folder = save_with_prompts(tmp_path, {"s2p_query": "to: ", "s2s_query": "like: "})
    Embedder(folder, device="cpu")
    assert "put nothing in front" in caplog.text
    assert "'s2p_query', 's2s_query'" in caplog.text


def test_prompts_of_other_tasks_beside_those_applied_are_not_told(tmp_path, caplog):
    Embedder(save_with_prompts(tmp_path, {"query": "to: ", "clustering": "sort: "}), device="cpu")
    assert "put nothing in front" not in caplog.text


def test_a_causal_model_reads_its_last_token(tmp_path):
    backbone = Transformer(save_tiny_llama(tmp_path), max_seq_length=MAX_SEQ_LENGTH)
    modules = [backbone, Pooling(HIDDEN_SIZE, "lasttoken")]
    expected = SentenceTransformer(modules=modules, device="cpu").encode(TEXTS)
    assert Embedder(modules=modules, device="cpu").encode(TEXTS) == pytest.approx(expected, abs=1e-5)


def test_similarity_is_the_checkpoint_s(tmp_path):
    folder = save_tiny_embedder(tmp_path, similarity="dot", normalize=False)
    vectors = (model := Embedder(folder, device="cpu")).encode(TEXTS)
    torch.testing.assert_close(model.similarity(vectors, vectors), torch.tensor(vectors @ vectors.T))


def test_unnormalised_vectors_keep_their_length(tmp_path):
    model = Embedder(save_tiny_embedder(tmp_path, normalize=False), device="cpu")
    whole, cut = model.encode("bow"), model.encode("bow", truncate_dim=8)
    assert cut == pytest.approx(whole[:8])


def test_a_dimension_of_the_constructor_is_renormalised(folder):
    vectors = Embedder(folder, device="cpu", truncate_dim=8).encode(TEXTS)
    assert vectors.shape == (len(TEXTS), 8)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-6)


def test_only_a_model_that_ends_in_unit_length_gives_it(tmp_path):
    backbone = Transformer(save_tiny_bert(tmp_path))
    modules = [backbone, Pooling(HIDDEN_SIZE, "mean"), Normalize(), Dense(HIDDEN_SIZE, 16)]
    expected = SentenceTransformer(modules=modules, device="cpu").encode(TEXTS)
    assert Embedder(modules=modules, device="cpu").encode(TEXTS) == pytest.approx(expected, abs=1e-5)


def test_a_route_that_ends_in_unit_length_is_renormalised(tmp_path):
    routes = [
        [Transformer(save_tiny_bert(tmp_path / role)), Pooling(HIDDEN_SIZE, "mean"), Normalize()]
        for role in ("query", "document")
    ]
    router = Router.for_query_document(query_modules=routes[0], document_modules=routes[1])
    vectors = Embedder(modules=[router], device="cpu").encode_query(TEXTS, truncate_dim=8)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-6)


@pytest.mark.parametrize("value", [0, -1, True, 2.5], ids=repr)
def test_what_is_no_number_of_dimensions_is_refused(model, folder, value):
    with pytest.raises(ArgumentError, match=r"Embedder\.encode: `truncate_dim` must be a positive integer"):
        model.encode(TEXTS, truncate_dim=value)
    with pytest.raises(ArgumentError, match="Embedder: `truncate_dim` must be a positive integer"):
        Embedder(folder, device="cpu", truncate_dim=value)


def test_any_iterable_of_texts_is_read(model):
    assert (model.encode(text for text in TEXTS) == model.encode(TEXTS)).all()


@pytest.mark.parametrize("pooling", ["mean", "lasttoken"])
def test_an_empty_text_without_special_tokens_is_one_in_any_batch(tmp_path, pooling):
    """Qwen2's tokenizer makes no token of it; its vector is that of padding alone."""
    modules = [Transformer(save_tiny_qwen2(tmp_path)), Pooling(HIDDEN_SIZE, pooling)]
    model = Embedder(modules=modules, device="cpu")
    assert model.encode("") == pytest.approx(model.encode(["", "bow"])[0], abs=1e-6)


def test_what_is_not_text_is_refused(model):
    with pytest.raises(ArgumentError, match=r"Embedder\.encode: `inputs.*` must be a .*string"):
        model.encode(None)


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_a_prompt_that_is_not_text_is_refused(model, method):
    with pytest.raises(ArgumentError, match="`prompt` must be a string; got 3"):
        getattr(model, method)("wood", prompt=3)


def test_half_of_a_surrogate_pair_in_a_prompt_is_read_as_a_replacement(model):
    assert (model.encode("wood", prompt="\ud83c ") == model.encode("\ufffd wood")).all()


def test_an_unknown_option_is_refused(model):
    with pytest.raises(ValueError, match="colour"):
        model.encode(TEXTS, colour="red")


def test_nan_names_the_text(folder):
    model = Embedder(folder, device="cpu")
    goose = model.tokenizer.convert_tokens_to_ids("goose")
    with torch.no_grad():
        model[0].model.embeddings.word_embeddings.weight[goose] = float("nan")
    with pytest.raises(FletchingError, match=r"computed NaN for inputs\[2\]"):
        model.encode(["wood", "bow", "goose"])


def test_infinity_names_the_text(tmp_path):
    model = Embedder(save_tiny_embedder(tmp_path, normalize=False), device="cpu")
    with torch.no_grad():
        model[0].model.encoder.layer[-1].output.LayerNorm.bias[0] = float("inf")
    with pytest.raises(FletchingError, match=r"computed infinity for inputs\[0\]"):
        model.encode("wood")  # beside a longer one, padding times infinity is NaN


def build_static_embedder(*modules, bad_word=None):
    static = StaticEmbedding(build_tiny_tokenizer().backend_tokenizer, embedding_dim=8)
    if bad_word is not None:
        with torch.no_grad():
            static.embedding.weight[static.tokenizer.token_to_id(bad_word)] = float("nan")
    return Embedder(modules=[static, *modules], device="cpu")


def test_nan_is_refused_of_what_cannot_be_cut_into_rows():
    with pytest.raises(FletchingError, match=r"computed NaN for inputs\[1\]"):
        build_static_embedder(bad_word="goose").encode(["wood and a bow", "goose"])


def test_what_cannot_be_cut_into_rows_is_renormalised():
    vectors = build_static_embedder(Normalize()).encode(["wood", "bow"], truncate_dim=4)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(2), abs=1e-6)


def test_what_cannot_be_cut_into_rows_still_runs_in_batches(folder):
    """Token embeddings are sentence-transformers' own path; it must not get everything in one batch."""
    model = Embedder(folder, device="cpu")
    sizes = []
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0]["input_ids"])))
    model.encode(["wood"] * 70, output_value="token_embeddings")
    assert sizes == [32, 32, 6]


def test_a_batch_size_of_nothing_is_refused(folder):
    with pytest.raises(ArgumentError, match="`batch_size` must be a positive integer or None; got 0"):
        Embedder(folder, device="cpu").encode(["wood"], batch_size=0)


def add_custom_code(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "auto_map": {"AutoModel": "modeling.MyModel"}, **changes}))


def test_a_decoder_with_code_of_its_own_must_say_how_it_reads(tmp_path):
    """The code is not run, and the stock class would read from left to right, whatever the other one did."""
    backbone = Transformer(save_tiny_llama(tmp_path))
    SentenceTransformer(modules=[backbone, Pooling(HIDDEN_SIZE, "mean")]).save(str(tmp_path))
    add_custom_code(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"code of its own \('modeling.MyModel'\).*\"is_causal\": false"
    ):
        Embedder(str(tmp_path), device="cpu")
    for is_causal in (True, False):
        add_custom_code(tmp_path, is_causal=is_causal)
        assert Embedder(str(tmp_path), device="cpu")[0].model.config.is_causal is is_causal


def test_an_encoder_with_code_of_its_own_reads_both_ways(tmp_path):
    add_custom_code(Path(save_tiny_embedder(tmp_path)))
    assert Embedder(str(tmp_path), device="cpu").encode("wood").shape == (HIDDEN_SIZE,)
