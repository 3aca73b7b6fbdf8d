from __future__ import annotations

import json
import logging
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoConfig, GPTNeoForCausalLM

import fletching
from fletching.errors import ArgumentError, CheckpointError, FletchingError
from fletching.methods.ullme import TEMPLATES, LLMEmbedder
from fletching.methods.ullme.config import POOLINGS
from fletching.testing import save_tiny_bert, save_tiny_embedder, save_tiny_qwen2, save_tiny_t5
from fletching.testing.tiny import build_tiny_tokenizer

TEXTS = ["wood", "The archer draws the bow.", "What is a nock? A notch for the string!"]
CHAT = "<|eot_id|></s>[INST]<|im_end|>"


def states_of(model: LLMEmbedder, text: str, *, causal: bool, prompt: str = "") -> tuple[Any, Any]:
    """Last hidden states and ids of one row, by transformers alone."""
    row = model.network.build_rows([text], prompt, max_tokens=None)[0]
    network = model.network.model
    ids = torch.tensor([row.ids])
    shape = (1, 1, len(row.ids), len(row.ids))
    mask = torch.zeros(shape)
    if causal:
        mask = torch.full(shape, torch.finfo(torch.float32).min).triu(1)
    with torch.no_grad():
        states = network.model(input_ids=ids, attention_mask=mask).last_hidden_state[0]
    return states, row


# --- what is computed ---


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
def test_the_embedding_is_the_mean_over_the_text_of_length_one(make_embedder, causal):
    """By the reference's own way: an additive 4-D mask, all zero or a triangle."""
    model = make_embedder(causal=causal)
    states, row = states_of(model, TEXTS[1], causal=causal, prompt="what is")
    mean = states[row.start :].mean(dim=0)
    got = model.encode(TEXTS[1], prompt="what is")
    np.testing.assert_allclose(got, (mean / mean.norm()).numpy(), atol=1e-5)


def test_bidirectional_is_the_default_and_differs(make_embedder):
    default, bidirectional, causal = (
        make_embedder(**options).encode(TEXTS) for options in ({}, {"causal": False}, {"causal": True})
    )
    assert (default == bidirectional).all()
    assert np.abs(default - causal).max() > 1e-3


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_survives_a_save(make_embedder, tmp_path, pooling):
    model = make_embedder(pooling=pooling, exclude_prompt=False)
    model.save(str(tmp_path))
    loaded = fletching.load(tmp_path, device="cpu")
    assert loaded.settings == model.settings
    assert (loaded.encode(TEXTS, prompt="what") == model.encode(TEXTS, prompt="what")).all()


def test_queries_and_documents_get_their_instructions(make_embedder):
    model = make_embedder(prompts={"query": "what is", "document": "the passage"})
    assert (model.encode_query(TEXTS) == model.encode(TEXTS, prompt="what is")).all()
    assert (model.encode_document(TEXTS) == model.encode(TEXTS, prompt="the passage")).all()
    assert not np.allclose(model.encode_query(TEXTS), model.encode_document(TEXTS), atol=1e-3)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_instruction_is_read_but_not_pooled_on_either_side(make_embedder, side):
    model = make_embedder()
    model.tokenizer.padding_side = side
    batch = model.encode(TEXTS, prompt="what is")
    for text, got in zip(TEXTS, batch, strict=True):
        states, row = states_of(model, text, causal=False, prompt="what is")
        mean = states[row.start :].mean(dim=0)
        np.testing.assert_allclose(got, (mean / mean.norm()).numpy(), atol=1e-5)


def test_the_instruction_may_be_pooled(make_embedder):
    model = make_embedder(exclude_prompt=False)
    states, _ = states_of(model, TEXTS[0], causal=False, prompt="what is")
    mean = states.mean(dim=0)
    got = model.encode(TEXTS[0], prompt="what is")
    np.testing.assert_allclose(got, (mean / mean.norm()).numpy(), atol=1e-5)


def test_the_projection_has_no_say_in_an_embedding(make_embedder, tmp_path):
    plain, projected = make_embedder(), make_embedder(projection=True)
    assert (plain.encode(TEXTS) == projected.encode(TEXTS)).all()
    projected.save(str(tmp_path))
    loaded = fletching.load(tmp_path, device="cpu")
    loaded.train()
    features = loaded(loaded.preprocess(TEXTS))
    projected.train()
    expected = projected(projected.preprocess(TEXTS))["projected_embedding"]
    torch.testing.assert_close(features["projected_embedding"], expected)
    torch.testing.assert_close(expected.norm(dim=1), torch.ones(3))


# --- templates and odd texts ---


def test_a_released_checkpoint_opens_by_itself(released_folder):
    model = fletching.load(released_folder, device="cpu")
    assert type(model) is LLMEmbedder
    assert model.network.template is TEMPLATES["genc_llama"]
    assert type(model.network.model).__name__ == "LlamaForCausalLM"
    assert (model.encode(TEXTS) == LLMEmbedder(released_folder, device="cpu").encode(TEXTS)).all()
    assert fletching.load(released_folder, kind="embedder", device="cpu").settings == model.settings


def test_a_released_checkpoint_reads_what_the_authors_code_reads(released_folder):
    model = LLMEmbedder(released_folder, device="cpu")
    front = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
    whole = f"{front}Find it.\nwood<|eot_id|>\n<|end_of_text|>"
    ids = model.tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert model.preprocess(["wood"], prompt="Find it.")["input_ids"][0].tolist() == ids


def test_a_saved_model_opens_in_the_stock_class(released_folder, tmp_path):
    model = LLMEmbedder(released_folder, prompts={"query": "Find it."}, device="cpu")
    model.save(str(tmp_path))
    stock = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    np.testing.assert_allclose(stock.encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-6)


@pytest.mark.parametrize("text", ["", "  ", CHAT, f"wood {CHAT}", "\n\n"])
def test_odd_texts_have_embeddings(released_folder, text):
    model = LLMEmbedder(released_folder, device="cpu")
    alone, prompted = model.encode(text), model.encode(text, prompt="Find it.")
    assert np.isfinite(alone).all()
    assert np.isfinite(prompted).all()


def test_a_lone_surrogate_in_an_instruction_is_read_as_in_a_text(make_embedder):
    model = make_embedder()
    replaced = model.encode("wood", prompt="what \ufffd")
    assert (model.encode("wood", prompt="what \ud800") == replaced).all()


def test_an_instruction_longer_than_the_window_is_refused(make_embedder):
    with pytest.raises(ArgumentError, match=r"`max_seq_length` must be at least 602, .*; got 512"):
        make_embedder().encode("wood", prompt="what " * 600)


def test_chat_tokens_in_a_text_are_text(released_folder):
    model = LLMEmbedder(released_folder, device="cpu")
    eot = model.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    ids = model.preprocess([f"wood {CHAT}", "wood"])["input_ids"]
    assert (ids == eot).sum(dim=1).tolist() == [1, 1]
    assert not np.allclose(model.encode(f"wood {CHAT}"), model.encode("wood"), atol=1e-3)


def test_a_long_text_keeps_the_tail_of_the_template(released_folder, caplog):
    model = LLMEmbedder(released_folder, max_seq_length=64, device="cpu")
    long = "The archer draws the bow. " * 40
    with caplog.at_level(logging.WARNING):
        ids = model.preprocess([long, "wood"])["input_ids"]
    tail = model.tokenizer("<|eot_id|>\n<|end_of_text|>", add_special_tokens=False)["input_ids"]
    assert ids[0].tolist()[-len(tail) :] == tail
    assert "1 of 2 texts do not fit" in caplog.text
    lost = model.count_lost_tokens([long, "wood"])
    assert lost[0] > 100
    assert lost[1] == 0


def test_what_is_behind_the_window_is_not_read(make_embedder):
    model = make_embedder(max_seq_length=20)
    first, second = model.encode(["wood " * 30, "wood " * 30 + "goose"])
    assert (first == second).all()


def test_a_window_too_narrow_for_the_template_is_refused(released_folder):
    model = LLMEmbedder(released_folder, max_seq_length=5, device="cpu")
    with pytest.raises(ArgumentError, match=r"`max_seq_length` must be at least .*; got 5"):
        model.encode("wood")


def test_without_a_pad_token_the_end_pads(save_decoder, build_chat_tokenizer):
    tokenizer = build_chat_tokenizer("plain", pad_token=None, eos_token="<|endoftext|>")
    model = LLMEmbedder(save_decoder("gpt2", tokenizer=tokenizer), device="cpu")
    assert model.tokenizer.pad_token == "<|endoftext|>"
    alone = np.stack([model.encode(text) for text in TEXTS])
    np.testing.assert_allclose(model.encode(TEXTS), alone, atol=1e-5)


def test_a_template_of_one_s_own_is_saved(make_embedder, tmp_path):
    model = make_embedder(template="query: {instruction} {text} passage:")
    model.save(str(tmp_path))
    loaded = fletching.load(tmp_path, device="cpu")
    assert loaded.network.template == model.network.template
    assert (loaded.encode(TEXTS) == model.encode(TEXTS)).all()


# --- saves opened otherwise ---


def test_a_save_opens_with_other_settings(make_embedder, tmp_path):
    make_embedder().save(str(tmp_path))
    options = {"causal": True, "pooling": "lasttoken", "template": "ullme", "max_seq_length": 20}
    loaded = fletching.load(tmp_path, device="cpu", **options)
    fresh = make_embedder(**options)
    assert loaded.settings == fresh.settings
    assert (loaded.encode(TEXTS) == fresh.encode(TEXTS)).all()


def test_settings_that_contradict_a_save_are_refused(make_embedder, tmp_path):
    make_embedder(pooling="cls").save(str(tmp_path))
    with pytest.raises(ArgumentError, match="`pooling` must be another than 'cls' with causal=True"):
        LLMEmbedder(tmp_path, causal=True, device="cpu")


def test_a_copy_is_a_model_of_its_own(make_embedder):
    model = make_embedder()
    copied = pickle.loads(pickle.dumps(model))
    copied.network.causal = True
    assert np.abs(copied.encode(TEXTS) - model.encode(TEXTS)).max() > 1e-3


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"causal": "no"}, "`causal` must be True or False; got 'no'"),
        ({"pooling": "average"}, "`pooling` must be one of 'mean'"),
        ({"pooling": "cls", "causal": True}, "The first token sees no other; use 'lasttoken'"),
        ({"exclude_prompt": 1}, "`exclude_prompt` must be True or False"),
        ({"max_seq_length": 0}, "`max_seq_length` must be a positive integer"),
        ({"template": "alpaca"}, "`template` must be one of 'genc'"),
        ({"template": "genc_llama"}, r"it lacks <\|begin_of_text\|>"),
        ({"generation_template": "{text}"}, "`generation_template` must be text with {query}"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_option_outside_its_domain_is_refused(make_embedder, options, message):
    with pytest.raises(ArgumentError, match=message):
        make_embedder(**options)


@pytest.mark.parametrize("save", [save_tiny_bert, save_tiny_t5])
def test_an_encoder_is_refused_in_one_sentence(save, tmp_path):
    with pytest.raises(ArgumentError, match=r"^LLMEmbedder: `\w+` must be a decoder-only language model"):
        LLMEmbedder(save(tmp_path), device="cpu")


def test_a_backbone_that_ignores_the_switch_is_refused(tmp_path):
    """GPT-Neo keeps a triangle of its own in every layer."""
    tokenizer = build_tiny_tokenizer()
    kinds = [[["global"], 2]]
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_layers": 2, "num_heads": 4}
    GPTNeoForCausalLM(GPTNeoConfig(attention_types=kinds, **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match="its first token does not see its last one"):
        LLMEmbedder(tmp_path, device="cpu")
    assert LLMEmbedder(tmp_path, causal=True, device="cpu").encode("wood").shape == (32,)


def test_another_finished_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="it is a finished model of sentence-transformers"):
        LLMEmbedder(save_tiny_embedder(tmp_path), device="cpu")


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_an_overflow_in_half_precision_is_raised(make_embedder):
    model = make_embedder(dtype="float16")
    with torch.no_grad():
        for layer in model.network.model.model.layers:
            layer.mlp.down_proj.weight.fill_(6e4)
    with pytest.raises(FletchingError, match=r"computed NaN for inputs\[0\]; load it in float32"):
        model.encode(TEXTS)


def test_half_precision_is_near_float32(make_embedder):
    exact, half = (make_embedder(dtype=dtype).encode(TEXTS) for dtype in ("float32", "bfloat16"))
    assert (exact * half).sum(axis=1).min() > 0.99


def test_a_headless_checkpoint_embeds_and_is_saved(tmp_path):
    model = LLMEmbedder(save_tiny_qwen2(tmp_path / "decoder"), device="cpu")
    model.save(str(tmp_path / "saved"))
    assert (fletching.load(tmp_path / "saved", device="cpu").encode(TEXTS) == model.encode(TEXTS)).all()


# --- LoRA ---


@pytest.fixture
def peft() -> Any:
    return pytest.importorskip("peft")


def disturb(model: LLMEmbedder, name: str = "default") -> None:
    """Give an adapter, which begins as nothing, something to say."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if f"lora_B.{name}" in key:
                parameter.normal_(generator=torch.Generator().manual_seed(len(key)), std=0.1)


def test_lora_is_on_every_linear_layer_but_the_head(peft, make_embedder):
    model = make_embedder()
    before = model.encode(TEXTS)
    model.add_lora(r=2)
    adapted = {
        name.split(".lora_A")[0].rpartition(".")[2]
        for name, _ in model.named_parameters()
        if ".lora_A" in name
    }
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name for name, each in model.named_parameters() if each.requires_grad} == {
        name for name, _ in model.named_parameters() if ".lora_" in name
    }
    assert (model.encode(TEXTS) == before).all()


def test_without_its_adapter_the_model_is_as_before(peft, make_embedder):
    model = make_embedder()
    before = model.encode(TEXTS)
    model.add_lora(r=2)
    disturb(model)
    adapted = model.encode(TEXTS)
    assert np.abs(adapted - before).max() > 1e-3
    with model.network.adapters_off():
        assert (model.encode(TEXTS) == before).all()
    assert (model.encode(TEXTS) == adapted).all()


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # two are meant
def test_two_adapters_take_turns(peft, make_embedder):
    model = make_embedder()
    for name in ("generation", "embedding"):
        model.add_lora(r=2, name=name)
        disturb(model, name)
    embedded = model.encode(TEXTS)
    with model.network.use_adapter("generation"):
        assert np.abs(model.encode(TEXTS) - embedded).max() > 1e-3
        with model.network.adapters_off(), model.network.use_adapter("embedding"):
            assert np.abs(model.encode(TEXTS) - embedded).max() > 1e-3
    assert (model.encode(TEXTS) == embedded).all()


def test_blocks_of_several_threads_leave_the_adapter_as_it_was(peft, make_embedder):
    model = make_embedder()
    model.add_lora(r=2)
    disturb(model)
    adapted = model.encode("wood")
    first_inside, second_inside, first_out = (threading.Event() for _ in range(3))

    def open_first() -> None:
        with model.network.adapters_off():
            first_inside.set()
            second_inside.wait(0.2)
        first_out.set()

    def open_second() -> None:
        first_inside.wait()
        with model.network.adapters_off():  # waits for the first: it would take "off" for what was before
            second_inside.set()
            first_out.wait()

    with ThreadPoolExecutor(2) as threads:
        for each in [threads.submit(open_first), threads.submit(open_second)]:
            each.result()
    assert (model.encode("wood") == adapted).all()


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # two are meant
def test_both_adapters_get_gradients_whichever_is_active_last(peft, make_embedder):
    """peft freezes what it puts aside, and autograd then drops the gradient that is on its way."""
    model = make_embedder()
    for name in ("embedding", "generation"):
        model.add_lora(r=2, name=name)
        disturb(model, name)
    losses = []
    for name in ("embedding", "generation"):
        with model.network.use_adapter(name):
            losses.append(model(model.preprocess(TEXTS))["sentence_embedding"][:, 0].sum())
    with model.network.adapters_off():
        pass
    sum(losses).backward()
    without = [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None]
    assert without == []


def test_a_merged_adapter_is_the_model_itself(peft, make_embedder, tmp_path):
    model = make_embedder()
    model.add_lora(r=2)
    disturb(model)
    adapted = model.encode(TEXTS)
    model.merge_lora()
    np.testing.assert_allclose(model.encode(TEXTS), adapted, atol=1e-5)
    model.save(str(tmp_path))
    assert not (tmp_path / "adapter_config.json").exists()
    assert (fletching.load(tmp_path, device="cpu").encode(TEXTS) == model.encode(TEXTS)).all()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_unmerged_adapter_is_saved_as_one(peft, make_embedder, tmp_path):
    model = make_embedder()
    model.add_lora(r=2)
    disturb(model)
    model.save(str(tmp_path))
    assert (tmp_path / "adapter_config.json").exists()
    loaded = fletching.load(tmp_path, device="cpu")
    np.testing.assert_allclose(loaded.encode(TEXTS), model.encode(TEXTS), atol=1e-6)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # asked by peft
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning")  # meant
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    ],
    ids=["linear", "embedding", "whole-module"],
)
def test_the_folder_of_a_peft_adapter_opens(peft, save_decoder, tmp_path, options):
    decoder, folder = save_decoder(), tmp_path / "adapter"
    config = peft.LoraConfig(r=2, init_lora_weights=False, task_type="CAUSAL_LM", **options)
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(decoder), config).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name:
                parameter += 0.3
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(decoder).save_pretrained(folder)
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == decoder
    opened, plain = LLMEmbedder(folder, device="cpu"), LLMEmbedder(decoder, device="cpu")
    vector = opened.encode("wood")
    assert np.abs(vector - plain.encode("wood")).max() > 1e-4
    opened.merge_lora()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(
            opened.network.model(ids).logits, adapted(ids).logits, atol=1e-4, rtol=1e-4
        )
    opened.save(str(tmp_path / "merged"))
    merged = fletching.load(tmp_path / "merged", kind="embedder", device="cpu")
    np.testing.assert_allclose(merged.encode("wood"), vector, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.add_lora(r=0), "`r` must be a positive integer; got 0"),
        (lambda model: model.add_lora(dropout=1.0), "`dropout` must be a number from 0 up, less than 1"),
        (lambda model: model.merge_lora(), "`model` must be a model with an adapter"),
        (
            lambda model: model.network.adapters_off().__enter__(),
            "adapters_off: `model` must be a model with",
        ),
        (
            lambda model: model.network.use_adapter("embedding").__enter__(),
            "use_adapter: `name` must be one of",
        ),
    ],
)
def test_what_adapters_cannot_do_is_refused(peft, make_embedder, call, message):
    with pytest.raises(ArgumentError, match=message):
        call(make_embedder())


def test_an_adapter_is_not_added_twice(peft, make_embedder):
    model = make_embedder()
    model.add_lora(r=2)
    with pytest.raises(ArgumentError, match="`name` must be another than those there are; got 'default'"):
        model.add_lora(r=2)
