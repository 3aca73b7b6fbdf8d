"""KaLMEmbedder: published layouts, both modes, prompts, widths, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Qwen2Model

import fletching
from fletching.errors import ArgumentError, CheckpointError, FidelityWarning
from fletching.methods.kalm import INSTRUCTIONS, KaLMEmbedder, fill_template
from fletching.methods.kalm.model import _set_attention
from fletching.models.embedder import Embedder
from fletching.nn import attention_mode
from fletching.testing import (
    TINY_DECODERS,
    build_tiny_decoder,
    save_tiny_bert,
    save_tiny_embedder,
    save_tiny_qwen2,
)

CUSTOM_CODE = {"AutoModel": "modeling.Qwen2Model"}
TEXTS = ["The feathers of a goose.", "a bow of wood and a string of flax", "wind"]
PADDED = pytest.mark.parametrize("side", ["right", "left"])
VERSIONS = pytest.mark.parametrize(
    ("version", "causal"), [("1", True), ("1.5", True), ("2", False), ("2.5", False)]
)


def compute_by_hand(folder: str, text: str, *, causal: bool) -> np.ndarray:
    """Mean over all tokens of the stock model in the mode that `attention_mode` gives it, to length one."""
    model = KaLMEmbedder(folder, causal=True, device="cpu")
    ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad(), attention_mode(model, causal=causal):
        states = model[0].model(input_ids=ids).last_hidden_state[0]
    vector = states.mean(dim=0)
    return (vector / vector.norm()).numpy()


@VERSIONS
def test_a_published_layout_opens_in_its_own_mode(published, version, causal):
    folder = published(version)
    model = fletching.load(folder, device="cpu")
    assert type(model) is KaLMEmbedder
    assert type(model[0].model) is Qwen2Model
    assert model.causal is causal
    assert model.max_seq_length == 512
    expected = compute_by_hand(folder, TEXTS[0], causal=causal)
    np.testing.assert_allclose(model.encode(TEXTS[0]), expected, atol=1e-6)
    other = compute_by_hand(folder, TEXTS[0], causal=not causal)
    assert np.abs(model.encode(TEXTS[0]) - other).max() > 0.01


def test_the_instruction_is_that_of_the_version(published):
    first, second = (
        KaLMEmbedder(published(version), device="cpu").prompts["query"] for version in ("1", "2")
    )
    assert first == "Instruct: Given a query, retrieve documents that answer the query. \n Query: "
    assert second == "Instruct: Given a query, retrieve documents that answer the query \n Query: "


def test_an_old_rope_theta_is_read(published):
    """At the top of ``config.json``, as before transformers 5; the default would be 10,000."""
    model = KaLMEmbedder(published("2.5"), device="cpu")
    assert model[0].model.config.rope_parameters["rope_theta"] == 1_000_000.0


@pytest.mark.parametrize("open_it", [KaLMEmbedder, fletching.load, SentenceTransformer, Embedder])
def test_a_save_reads_both_ways_wherever_it_is_opened(qwen2, tmp_path, open_it):
    model = KaLMEmbedder(qwen2, causal=False, device="cpu")
    model.save(str(tmp_path))
    again = open_it(str(tmp_path), device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-6)
    np.testing.assert_allclose(again.encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-6)
    assert (tmp_path / "config.json").read_text().count('"is_causal": false') == 1


def test_a_save_does_not_name_code_that_it_lacks(published, tmp_path):
    KaLMEmbedder(published("2"), device="cpu").save(str(tmp_path / "saved"))
    assert "auto_map" not in (tmp_path / "saved" / "config.json").read_text()


@pytest.mark.parametrize("open_it", [fletching.load, Embedder])
def test_the_silent_causal_trap_is_refused_under_any_name(save_in_layout, tmp_path, open_it):
    """A copy of V2 in a folder that says nothing: the stock embedder would read it from left to right."""
    folder = save_in_layout(tmp_path / "best-model", normalizes=True, auto_map=CUSTOM_CODE)
    with pytest.raises(CheckpointError, match=r"would read from left to right.*KaLMEmbedder"):
        open_it(folder, device="cpu")
    assert not KaLMEmbedder(folder, device="cpu").causal


def test_a_flag_in_the_configuration_answers_the_stock_embedder(save_in_layout, tmp_path):
    folder = save_in_layout(tmp_path / "best-model", normalizes=True, auto_map=CUSTOM_CODE, is_causal=False)
    expected = compute_by_hand(folder, TEXTS[0], causal=False)
    np.testing.assert_allclose(Embedder(folder, device="cpu").encode(TEXTS[0]), expected, atol=1e-6)


def test_a_bare_decoder_must_be_told(qwen2):
    with pytest.raises(ArgumentError, match=r"`causal` must be given for .*, which does not say whether"):
        KaLMEmbedder(qwen2, device="cpu")


def test_a_causal_language_model_is_opened_without_its_head(tmp_path):
    folder = save_tiny_qwen2(tmp_path, head="causal-lm")
    model = KaLMEmbedder(folder, causal=False, device="cpu")
    assert type(model[0].model) is Qwen2Model
    np.testing.assert_allclose(
        model.encode(TEXTS[0]), compute_by_hand(folder, TEXTS[0], causal=False), atol=1e-6
    )


@PADDED
def test_the_padding_s_side_does_not_matter(qwen2, side):
    model = KaLMEmbedder(qwen2, causal=False, device="cpu")
    expected = [model.encode(text) for text in TEXTS]
    model.tokenizer.padding_side = side
    features = model.preprocess(TEXTS)
    with torch.no_grad():
        got = model(features)["sentence_embedding"].numpy()
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_causal_block_overrules_the_flag(qwen2):
    """To generate from the same weights, say; the flag comes back with the end of the block."""
    model = KaLMEmbedder(qwen2, causal=False, device="cpu")
    before = model.encode(TEXTS[0])
    with attention_mode(model, causal=True):
        inside = model.encode(TEXTS[0])
    np.testing.assert_allclose(inside, compute_by_hand(qwen2, TEXTS[0], causal=True), atol=1e-6)
    assert model.encode(TEXTS[0]).tolist() == before.tolist()


def test_the_prompt_is_pooled_with_the_text_to_the_last_space(qwen2):
    model = KaLMEmbedder(qwen2, causal=False, device="cpu")
    prompt = "Instruct: Given a query, retrieve documents that answer the query \n Query: "
    assert model.encode_query("wood").tolist() == model.encode(f"{prompt}wood").tolist()
    assert model.encode_document("wood").tolist() == model.encode("wood").tolist()


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_an_instruction_is_taken_for_a_call(qwen2, method):
    model = KaLMEmbedder(qwen2, causal=False, device="cpu")
    got = getattr(model, method)(TEXTS, instruction="Find it")
    assert got.tolist() == model.encode([f"Instruct: Find it \n Query: {text}" for text in TEXTS]).tolist()


def test_symmetric_tasks_are_named_prompts(qwen2):
    model = KaLMEmbedder(qwen2, causal=False, device="cpu")
    expected = model.encode(fill_template(INSTRUCTIONS["sts"]) + "wood")
    assert model.encode("wood", prompt_name="sts").tolist() == expected.tolist()


@pytest.mark.parametrize("other", [{"prompt": "x"}, {"prompt_name": "sts"}])
def test_an_instruction_beside_another_prompt_is_refused(qwen2, other):
    model = KaLMEmbedder(qwen2, causal=False, device="cpu")
    with pytest.raises(ArgumentError, match="`instruction` must be given without `prompt`"):
        model.encode("wood", instruction="Find it", **other)


def test_instruction_and_template_are_saved(qwen2, tmp_path):
    options = {"causal": False, "instruction": "Find it", "template": "Task: {instruction}\nQuery: "}
    KaLMEmbedder(qwen2, **options, device="cpu").save(str(tmp_path))
    again = fletching.load(tmp_path, device="cpu")
    assert again.prompts["query"] == "Task: Find it\nQuery: "
    assert again.prompts["sts"] == "Task: Retrieve semantically similar text\nQuery: "
    expected = again.encode("Task: Else\nQuery: wood")
    assert again.encode("wood", instruction="Else").tolist() == expected.tolist()


@pytest.mark.parametrize("prompt", ["ask: ", ""])
def test_a_query_prompt_of_one_s_own_wins_and_is_saved(qwen2, tmp_path, prompt):
    model = KaLMEmbedder(qwen2, causal=False, prompts={"query": prompt}, device="cpu")
    model.save(str(tmp_path))
    assert model.prompts["query"] == fletching.load(tmp_path).prompts["query"] == prompt


def test_an_empty_instruction_gives_no_query_prompt(qwen2):
    model = KaLMEmbedder(qwen2, causal=False, instruction="", device="cpu")
    assert model.encode_query("wood").tolist() == model.encode("wood").tolist()


def test_texts_are_cut_where_they_are_told_to(qwen2, tmp_path):
    model = KaLMEmbedder(qwen2, causal=False, max_seq_length=4, device="cpu")
    ids = model.tokenizer("the arrow and the bow of wood", add_special_tokens=False)["input_ids"]
    cut = model.tokenizer.decode(ids[:4])
    assert len(ids) > 4
    np.testing.assert_allclose(model.encode("the arrow and the bow of wood"), model.encode(cut), atol=1e-6)
    model.save(str(tmp_path))
    assert fletching.load(tmp_path).max_seq_length == 4


@pytest.mark.parametrize(
    ("length", "domain"), [(0, "a positive integer"), (513, "at most 512, the positions")]
)
def test_a_length_that_the_model_has_not_is_refused(qwen2, length, domain):
    with pytest.raises(ArgumentError, match=f"`max_seq_length` must be {domain}"):
        KaLMEmbedder(qwen2, causal=False, max_seq_length=length, device="cpu")


@pytest.mark.parametrize("texts", [[""], ["", "wood", ""], ["", ""]])
def test_a_text_without_tokens_gets_the_zero_vector(qwen2, texts):
    vectors = KaLMEmbedder(qwen2, causal=False, device="cpu").encode(texts)
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(lengths, [1.0 if text else 0.0 for text in texts], atol=1e-6)


def test_cut_vectors_have_length_one(published):
    model = KaLMEmbedder(published("1"), device="cpu")
    whole, cut = model.encode(TEXTS), model.encode(TEXTS, truncate_dim=8)
    expected = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, expected, atol=1e-6)


def test_a_width_that_was_not_trained_warns_once(qwen2, recwarn):
    model = KaLMEmbedder(qwen2, causal=False, device="cpu")
    model.matryoshka_dims = (32, 16)
    for dim in (32, 16):
        model.encode("wood", truncate_dim=dim)
    assert not recwarn.list
    with pytest.warns(FidelityWarning, match="truncate_dim=12 was not trained, 32, 16 were"):
        model.encode("wood", truncate_dim=12)
    model.encode("wood", truncate_dim=12)
    assert not recwarn.list


@pytest.mark.parametrize("dim", [0, 33, True, 2.5])
def test_a_width_that_the_model_has_not_is_refused(qwen2, dim):
    model = KaLMEmbedder(qwen2, causal=False, device="cpu")
    with pytest.raises(ArgumentError, match="`truncate_dim` must be from 1 to 32, the width of the model"):
        model.encode("wood", truncate_dim=dim)


def test_the_trained_widths_are_saved(qwen2, tmp_path):
    model = KaLMEmbedder(qwen2, causal=False, truncate_dim=16, device="cpu")
    model.matryoshka_dims = (32, 16)
    model.save(str(tmp_path))
    again = fletching.load(tmp_path)
    assert (again.matryoshka_dims, again.truncate_dim, again.encode("wood").shape) == ((32, 16), 16, (16,))


def test_an_encoder_is_refused(tmp_path):
    with pytest.raises(
        ArgumentError, match="must be a decoder-only language model; got 'BertModel, an encoder'"
    ):
        KaLMEmbedder(save_tiny_bert(tmp_path), causal=False, device="cpu")


def test_a_finished_embedder_of_an_encoder_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="must be a decoder-only language model"):
        KaLMEmbedder(save_tiny_embedder(tmp_path), device="cpu")


def test_another_pooling_is_refused(save_in_layout, tmp_path):
    folder = save_in_layout(tmp_path / "gte", normalizes=True, pooling="lasttoken", is_causal=False)
    with pytest.raises(CheckpointError, match="pools the mean over all tokens, this model 'lasttoken'"):
        KaLMEmbedder(folder, device="cpu")


@pytest.mark.parametrize("causal", [True, False])
def test_a_backbone_that_ignores_the_switch_is_refused(qwen2, monkeypatch, causal):
    """A model whose masks say the opposite of what it is told, whatever its configuration."""
    forward = Qwen2Model.forward

    def ignore(self, *args, **kwargs):
        with attention_mode(self, causal=not causal):
            return forward(self, *args, **kwargs)

    monkeypatch.setattr(Qwen2Model, "forward", ignore)
    way = "from left to right" if causal else "both ways"
    with pytest.raises(CheckpointError, match=f"its Qwen2Model does not read {way} when told to"):
        KaLMEmbedder(qwen2, causal=causal, device="cpu")


@pytest.mark.parametrize(
    ("letters", "message"),
    [
        ("", r"opened as Qwen2Tokenizer, finds no tokens in a text; .* byte-level BPE"),
        ("KaLMredsxt.", r"reads 'KaLM reads a text.' as 'KaLMreadsatext.'"),
    ],
)
def test_a_tokenizer_that_is_taken_for_another_is_refused(tmp_path, letters, message):
    """transformers opens every Qwen2's as byte-level BPE: of one of words, letters at best are left."""
    words = ["<|endoftext|>", *letters, "KaLM", "reads", "text"]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    save_tiny_qwen2(tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=message):
        KaLMEmbedder(str(tmp_path), causal=False, device="cpu")


def test_a_name_that_contradicts_the_configuration_is_refused(save_in_layout, tmp_path):
    name = "KaLM-embedding-multilingual-mini-instruct-v2"
    folder = save_in_layout(tmp_path / name, normalizes=True, is_causal=True)
    with pytest.raises(CheckpointError, match="Say which with causal=True or causal=False"):
        fletching.load(folder)
    assert KaLMEmbedder(folder, causal=False).causal is False


def test_gradient_checkpointing_keeps_the_mode(qwen2):
    """Layers that are run again in the backward pass must read both ways again."""
    gradients = []
    for saves_memory in (False, True):
        model = KaLMEmbedder(qwen2, causal=False, device="cpu").train()
        if saves_memory:
            model[0].model.activation_checkpointing_enable()
        model(model.preprocess(TEXTS))["sentence_embedding"][:, 0].sum().backward()
        gradients.append(model[0].model.embed_tokens.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("family", TINY_DECODERS)
def test_the_flag_reaches_every_family(family):
    """As `KaLMEmbedder` sets it: every state of a text depends on its last token."""
    decoder = build_tiny_decoder(family)
    _set_attention(decoder, family, False)
    with torch.no_grad():
        first, second = decoder(torch.tensor([[5, 6, 7], [5, 6, 8]])).last_hidden_state
    assert not torch.equal(first[0], second[0])
