from __future__ import annotations

import json
import logging
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

import fletching
from fletching.errors import ArgumentError, CheckpointError
from fletching.methods.token_prepending import PROMPTS, TokenPrependingEmbedder
from fletching.models.sharing import fingerprint
from fletching.nn import attention_mode, find_layers
from fletching.testing import save_tiny_bert, save_tiny_embedder, save_tiny_t5

TEXTS = ["wood", "The archer draws the bow.", "What is a nock? A notch for the string!"]
LONG = "The archer draws the bow. " * 100


def read_tokens(model: Any, text: str) -> list[str]:
    return model.tokenizer.convert_ids_to_tokens(model.preprocess([text])["input_ids"][0])


# --- what is read ---


def test_a_row_is_the_prompt_from_first_to_last_token(make_embedder):
    model = make_embedder()
    tokens = read_tokens(model, "wood")
    expected = model.tokenizer.tokenize('This sentence : <PST> "wood." means in one word:"')
    assert tokens == [
        "[CLS]",
        *expected,
    ]  # and no [SEP], which this tokenizer appends: the prompt's end is pooled
    assert model.tokenizer("wood")["input_ids"][-1] == model.tokenizer.sep_token_id


@pytest.mark.parametrize("text", ["<PST>", "a <PST> b <PST>", "<pst>", "<PŚT> wood", "<<PST>>", "<PST" * 9])
def test_only_the_prompt_s_placeholder_is_one(make_embedder, text):
    model = make_embedder()
    ids = model.preprocess([text, "wood"])["input_ids"]
    assert (ids == model.tokenizer.convert_tokens_to_ids("<PST>")).sum(dim=1).tolist() == [1, 1]
    assert np.isfinite(model.encode(text)).all()


def test_special_tokens_in_a_text_are_text(make_embedder):
    model = make_embedder()
    tokens = read_tokens(model, "[SEP] wood [CLS]")
    assert tokens.count("[SEP]") == 0
    assert tokens.count("[CLS]") == 1


def test_a_plain_prompt_leaves_the_tokenizer_and_the_literal_placeholder_alone(make_embedder):
    model = make_embedder(prompt="plain_prompteol")
    assert "<PST>" not in model.tokenizer.get_vocab()
    assert (
        read_tokens(model, "<PST>")[-20:]
        == ["[CLS]", *model.tokenizer.tokenize('This sentence : "<PST>." means in one word:"')][-20:]
    )


def test_an_empty_text_is_read_as_an_empty_sentence(make_embedder):
    model = make_embedder()
    assert read_tokens(model, "") == [
        "[CLS]",
        *model.tokenizer.tokenize('This sentence : <PST> "" means in one word:"'),
    ]
    assert np.isfinite(model.encode("")).all()


def test_text_is_left_uncleaned_on_request(make_embedder):
    cleaned, raw = make_embedder(), make_embedder(clean_text=False)
    assert read_tokens(raw, "why?")[-18:] == raw.tokenizer.tokenize('"why?" means in one word:"')[-18:]
    assert read_tokens(cleaned, "why.") == read_tokens(raw, "why.") == read_tokens(cleaned, "why?")


def test_a_prompt_of_sentence_transformers_stands_inside_the_method_s(make_embedder):
    model = make_embedder(prompts={"query": "what is "})
    assert model.encode_query("wood").tolist() == model.encode("what is wood").tolist()


# --- long sentences ---


def test_a_long_sentence_is_cut_and_the_prompt_s_end_stays(make_embedder, caplog):
    model = make_embedder(max_sentence_tokens=20)
    end = model.tokenizer.tokenize('" means in one word:"')
    assert read_tokens(model, LONG)[-len(end) :] == end
    assert model.encode(LONG).tolist() == model.encode(LONG + "goose").tolist()
    tokens = len(model.tokenizer(LONG, add_special_tokens=False)["input_ids"])
    assert model.count_lost_tokens(["wood", LONG]) == [0, tokens - 20]
    assert f"1 of 1 texts do not fit and were cut: {tokens - 20} tokens are not read." in caplog.text


def test_a_sentence_of_just_the_limit_is_not_cut(make_embedder):
    model = make_embedder(max_sentence_tokens=30)
    assert model.count_lost_tokens(["bow " * 30, "bow " * 31]) == [0, 1]


def test_a_sentence_is_cut_to_the_window(make_embedder):
    model = make_embedder()
    model.max_seq_length = 60
    features = model.preprocess([LONG])
    assert features["input_ids"].shape[1] <= 60
    assert read_tokens(model, LONG)[-1] == '"'
    assert model.count_lost_tokens([LONG])[0] > 0


def test_the_cut_is_reported_once_for_all_prompts(make_embedder):
    model = make_embedder(prompt=["<PST> *sent 0* end", "this <PST> *sent 0* end"], max_sentence_tokens=10)
    assert model.count_lost_tokens(["bow " * 15]) == [5]


def test_a_window_narrower_than_the_prompt_is_refused(make_embedder, save_decoder):
    with pytest.raises(ArgumentError, match=r"`max_seq_length` must be at least \d+, .* got 9"):
        make_embedder(tokenizer={"model_max_length": 9})
    model = make_embedder()
    model.max_seq_length = 9
    with pytest.raises(ArgumentError, match=r"`max_seq_length` must be at least \d+, .* got 9"):
        model.encode("wood")


# --- tokenizers ---


def test_a_tokenizer_without_padding_works(make_embedder):
    expected = make_embedder().encode(TEXTS)
    model = make_embedder(tokenizer={"pad_token": None})
    assert model.tokenizer.pad_token_id is None
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-5)


def test_the_placeholder_s_id_is_past_the_vocabulary_and_the_table_stays(make_embedder):
    model = make_embedder()
    table = model.network.model.get_input_embeddings()
    assert model.tokenizer.convert_tokens_to_ids("<PST>") == table.num_embeddings
    assert model.network.model.config.vocab_size == table.num_embeddings


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "opt"])
def test_embeddings_equal_the_reference_procedure(make_embedder, save_decoder, family):
    """The reference grows the table by one row, writes the vector there, and overwrites rows in place."""
    model = make_embedder(family, start=1, stop=3, output_layer=-1)
    decoder = AutoModel.from_pretrained(save_decoder(family)).eval()
    tokenizer = AutoTokenizer.from_pretrained(save_decoder(family))
    tokenizer.add_tokens(["<PST>"])
    decoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    place = tokenizer.convert_tokens_to_ids("<PST>")
    with torch.no_grad():
        decoder.get_input_embeddings().weight[place] = model.network.placeholder
        for layer in find_layers(decoder)[1:3]:
            layer.register_forward_pre_hook(lambda _, args: overwrite(args, position))
        for text in TEXTS:
            sentence = {"wood": "wood."}.get(text, text)
            sentence = f"{sentence}." if sentence.endswith("!") else sentence
            ids = tokenizer(f'This sentence : <PST> "{sentence}" means in one word:"', return_tensors="pt")
            ids = ids["input_ids"][:, :-1]  # without [SEP]
            position = ids[0].tolist().index(place)
            expected = decoder(input_ids=ids).last_hidden_state[0, -1]
            torch.testing.assert_close(model.encode(text, convert_to_tensor=True), expected)


def overwrite(args: tuple[Any, ...], position: int) -> None:
    args[0][:, position] = args[0][:, -1]


def test_the_mean_of_the_table_is_another_start(make_embedder):
    model = make_embedder(pst_init="mean")
    table = model.network.model.get_input_embeddings().weight
    torch.testing.assert_close(model.network.placeholder, table.mean(dim=0))
    assert model.encode("wood").tolist() != make_embedder().encode("wood").tolist()


# --- what is computed ---


def test_layers_after_the_output_layer_are_not_computed(make_embedder):
    model = make_embedder(start=1, stop=2, output_layer=2)
    ran: list[int] = []
    for index, layer in enumerate(model.network.model.layers):
        layer.mlp.register_forward_hook(lambda *_, index=index: ran.append(index))
    model.encode("wood")
    assert ran == [0, 1]


def test_bidirectional_attention_is_refused(make_embedder):
    model = make_embedder()
    expected = model.encode("wood").tolist()
    with attention_mode(model, causal=False), pytest.raises(ArgumentError, match="use one of the two"):
        model.encode("wood")
    with attention_mode(model, causal=True):
        assert model.encode("wood").tolist() == expected


def test_a_checkpoint_that_is_bidirectional_by_itself_is_refused(save_decoder, tmp_path):
    folder = shutil.copytree(save_decoder(), tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "is_causal": False}))
    with pytest.raises(ArgumentError, match=r"whose tokens do not see those after them; got 'LlamaModel'"):
        TokenPrependingEmbedder(folder, device="cpu")


def test_a_decoder_that_looks_its_tokens_up_a_second_time_is_refused(save_decoder, tmp_path):
    """Gemma 4 has embeddings for every layer; it finds them by the token, and the placeholder has none."""
    tokenizer = AutoTokenizer.from_pretrained(save_decoder())
    config = AutoConfig.for_model(
        "gemma4_text",
        vocab_size=len(tokenizer),
        vocab_size_per_layer_input=len(tokenizer),
        hidden_size_per_layer_input=4,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        global_head_dim=8,
        num_kv_shared_layers=0,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        ArgumentError, match=r"a decoder that reads vectors in place of tokens, .* got 'Gemma4"
    ):
        TokenPrependingEmbedder(tmp_path, device="cpu")


def test_a_row_without_the_placeholder_is_refused(make_embedder):
    model = make_embedder()
    features = {"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.ones(1, 2)}
    with pytest.raises(ArgumentError, match="rows that each hold <PST>"):
        model(features)


@pytest.mark.parametrize(("save", "kind"), [(save_tiny_bert, "encoder"), (save_tiny_t5, "encoder-decoder")])
def test_what_is_no_decoder_is_refused(tmp_path, save, kind):
    with pytest.raises(
        ArgumentError, match=f"`model` must be a decoder-only language model; got '.*, an {kind}'"
    ):
        TokenPrependingEmbedder(save(tmp_path), device="cpu")


def test_a_finished_embedder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="it is a finished model of sentence-transformers"):
        TokenPrependingEmbedder(save_tiny_embedder(tmp_path), device="cpu")


def test_token_states_of_several_prompts_are_refused(make_embedder):
    with pytest.raises(
        ArgumentError, match="`output_value` must be 'sentence_embedding' for a model with several"
    ):
        make_embedder(prompt="metaeol").encode(TEXTS, output_value="token_embeddings")


def test_models_of_one_decoder_do_not_mix_their_settings_across_threads(make_embedder):
    """Several embedders over the very same decoder: what one thread copies and where it stops is its own."""
    models = [
        make_embedder(start=start, stop=stop, output_layer=layer, prompt=prompt)
        for start, stop, layer, prompt in [
            (1, 3, 3, "prompteol"), (1, 2, -1, "cot"), (1, 1, 2, "prompteol"), (2, 3, -1, "ke"),
        ]
    ]  # fmt: skip
    for model in models[1:]:
        model.network.model = models[0].network.model
    expected = [model.encode(TEXTS).tolist() for model in models]
    with ThreadPoolExecutor(8) as threads:
        got = [*threads.map(lambda model: model.encode(TEXTS).tolist(), models * 15)]
    assert got == expected * 15


def test_a_language_model_is_tuned_through_the_copies(make_embedder):
    model = make_embedder(start=1, stop=3, output_layer=3).train()
    model(model.preprocess(["wood"]))["sentence_embedding"].sum().backward()
    assert model.network.model.get_input_embeddings().weight.grad.abs().sum() > 0


# --- files ---


def test_a_save_opens_by_load_without_remote_code(saved_folder, make_embedder):
    loaded = fletching.load(saved_folder, device="cpu")
    assert type(loaded) is TokenPrependingEmbedder
    expected = make_embedder(stop=2, output_layer=3).encode(TEXTS).tolist()
    assert loaded.encode(TEXTS).tolist() == expected
    assert pickle.loads(pickle.dumps(loaded)).encode(TEXTS).tolist() == expected
    assert (loaded.settings.stop, loaded.settings.output_layer) == (2, 3)


def test_a_save_has_the_fingerprint_of_the_model(make_embedder, tmp_path):
    model = make_embedder(prompt="metaeol")
    model.save(str(tmp_path))
    assert fingerprint(fletching.load(tmp_path, device="cpu")) == fingerprint(model)
    assert fingerprint(make_embedder(prompt="metaeol", seed=1)) != fingerprint(model)


def test_a_save_opens_in_sentence_transformers(saved_folder):
    stock = SentenceTransformer(str(saved_folder), device="cpu", trust_remote_code=True)
    ours = fletching.load(saved_folder, device="cpu")
    np.testing.assert_allclose(stock.encode(TEXTS), ours.encode(TEXTS), atol=1e-5)


def test_a_save_holds_the_decoder_as_it_was(saved_folder, save_decoder):
    saved, original = (
        AutoModel.from_pretrained(path).state_dict() for path in (saved_folder, save_decoder())
    )
    assert saved.keys() == original.keys()
    assert all(saved[name].equal(original[name]) for name in saved)


def test_a_save_opens_with_other_settings(saved_folder, make_embedder):
    changed = fletching.load(saved_folder, device="cpu", stop=3, output_layer=-1)
    assert changed.encode(TEXTS).tolist() == make_embedder(stop=3, output_layer=-1).encode(TEXTS).tolist()


@pytest.mark.parametrize("prompt", ["metaeol", "plain_prompteol"])
def test_a_save_opens_with_another_prompt(saved_folder, make_embedder, prompt):
    changed = fletching.load(saved_folder, device="cpu", prompt=prompt)
    assert changed.encode(TEXTS).tolist() == make_embedder(prompt=prompt).encode(TEXTS).tolist()
    assert changed.settings.prompt == PROMPTS[prompt]


def test_a_save_opened_without_the_placeholder_reads_its_text_as_text(saved_folder):
    plain = fletching.load(saved_folder, device="cpu", prompt="plain_prompteol")
    place = plain.tokenizer.convert_tokens_to_ids("<PST>")
    assert (plain.preprocess(["<PST> <pst>"])["input_ids"] != place).all()
    assert np.isfinite(plain.encode("<PST> <pst>")).all()


def test_other_settings_keep_the_saved_placeholder(make_embedder, tmp_path):
    model = make_embedder()
    model.network.placeholder = torch.ones_like(model.network.placeholder)
    model.save(str(tmp_path))
    assert (fletching.load(tmp_path, device="cpu", stop=3).network.placeholder == 1).all()
    assert (fletching.load(tmp_path, device="cpu", seed=1).network.placeholder != 1).any()


def test_a_save_without_its_placeholder_is_refused(make_embedder, tmp_path):
    make_embedder().save(str(tmp_path))
    (tmp_path / "placeholder.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lacks the placeholder's vector, of 32 numbers"):
        fletching.load(tmp_path, device="cpu")


def test_settings_are_written_as_plain_json(saved_folder):
    config = json.loads((Path(saved_folder) / "sentence_bert_config.json").read_text())
    assert config["prompt"] == [*PROMPTS["prompteol"]]
    assert (config["start"], config["stop"], config["output_layer"], config["seed"]) == (1, 2, 3, 3407)


def test_the_choice_of_settings_is_logged(make_embedder, caplog):
    caplog.set_level(logging.INFO, "fletching")
    make_embedder()
    assert "start=1, stop=2, output_layer=-2 (our rule of thumb)" in caplog.text


def test_half_precision_computes(make_embedder):
    model = make_embedder(dtype="bfloat16")
    assert model.network.placeholder.dtype == torch.bfloat16
    cosines = torch.cosine_similarity(
        model.encode(TEXTS, convert_to_tensor=True), make_embedder().encode(TEXTS, convert_to_tensor=True)
    )
    assert cosines.min() > 0.99
