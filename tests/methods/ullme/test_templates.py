from __future__ import annotations

import pytest

from fletching.errors import ArgumentError
from fletching.methods.ullme.templates import TEMPLATES, choose_template

INSTRUCTION, TEXT, PASSAGE = "Find it.", "a bow", "of wood"


def fill(template: str) -> str:
    values = {"{instruction}": INSTRUCTION, "{text}": TEXT, "{query}": TEXT, "{passage}": PASSAGE}
    for place, value in values.items():
        template = template.replace(place, value)
    return template


@pytest.mark.parametrize(
    ("name", "written"),
    [
        (
            "genc_llama",
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nFind it.\na bow<|eot_id|>\n"
            "<|end_of_text|>",
        ),
        ("genc_mistral", "<s>[INST]Find it.\na bow[/INST]</s>"),
        ("genc_phi", "<|im_start|>user\n\nFind it.\na bow\n<|im_end|>"),
        ("genc_phi3", "<s><|user|>Find it.\na bow<|end|><|end_of_text|>"),
        ("ullme", "Find it.\na bow"),
        ("plain", "Find it.\na bow"),
    ],
)
def test_a_text_is_embedded_in_the_published_template(name, written):
    template = TEMPLATES[name]
    assert fill(template.write_embed(INSTRUCTION)) == written


@pytest.mark.parametrize(
    ("name", "written"),
    [
        (
            "genc_llama",
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nFind it.\na bow<|eot_id|>\n"
            "<|start_header_id|>assistant<|end_header_id|>\n\nof wood<|eot_id|>\n<|end_of_text|>",
        ),
        ("genc_mistral", "<s>[INST]Find it.\na bow[/INST]of wood[/INST]</s>"),
        (
            "genc_phi",
            "<|im_start|>user\n\nFind it.\na bow\n<|im_start|>assistant\n\nof wood\n<|im_end|>",
        ),
        ("genc_phi3", "<s><|user|>Find it.\na bow<|end|><|assistant|>of wood<|end|><|end_of_text|>"),
        ("ullme", "Find it.. Query:\na bow\n\nof wood\n"),
        ("plain", "Find it.\na bow\n\nof wood"),
    ],
)
def test_a_passage_is_generated_in_the_published_template(name, written):
    template = TEMPLATES[name]
    assert fill(template.write_generate(INSTRUCTION)) == written


@pytest.mark.parametrize(
    ("model_type", "name"),
    [("llama", "genc_llama"), ("mistral", "genc_mistral"), ("phi", "genc_phi"), ("phi3", "genc_phi3")],
)
def test_the_type_of_the_model_chooses_the_template(model_type, name):
    known = TEMPLATES[name].special_tokens
    chosen = choose_template(None, None, model_type=model_type, known_tokens=known)
    assert chosen is TEMPLATES[name]
    assert choose_template("genc", None, model_type=model_type, known_tokens=known) is chosen


def test_a_tokenizer_without_the_special_tokens_gets_the_plain_template():
    known = ("<s>", "</s>")  # of Llama 2
    assert choose_template(None, None, model_type="llama", known_tokens=known) is TEMPLATES["plain"]


def test_a_template_that_the_tokenizer_cannot_write_is_refused():
    with pytest.raises(ArgumentError, match=r"`template` must be one whose special tokens .* lacks <\|user"):
        choose_template("genc_phi3", None, model_type="phi3", known_tokens=("<s>",))


def test_genc_has_no_template_for_other_types():
    with pytest.raises(ArgumentError, match=r"`template` must be another than 'genc', .* for a qwen2"):
        choose_template("genc", None, model_type="qwen2", known_tokens=())


def test_an_unknown_name_is_refused_with_the_closest_one():
    with pytest.raises(ArgumentError, match="Did you mean 'genc_llama'"):
        choose_template("genc_lama", None, model_type="llama", known_tokens=())


@pytest.mark.parametrize(
    "template",
    ["{instruction} {query}", "{text} {text}", "{text} {instruction}", "{instruction} {passage} {text}", 3],
)
def test_a_template_of_one_s_own_needs_its_places(template):
    with pytest.raises(ArgumentError, match="`template` must be"):
        choose_template(template, None, model_type="llama", known_tokens=())


def test_the_passage_comes_after_the_query():
    with pytest.raises(ArgumentError, match=r"`generation_template` must be text with \{query\} and then"):
        choose_template(None, "{passage} {query}", model_type="llama", known_tokens=())


def test_braces_that_are_no_place_stand_for_themselves():
    chosen = choose_template('{"q": "{text}"}', None, model_type="gpt2", known_tokens=())
    assert fill(chosen.write_embed("")) == '{"q": "a bow"}'


def test_the_template_of_generation_is_chosen_apart():
    chosen = choose_template("ullme", "Q: {query} A: {passage}", model_type="phi", known_tokens=())
    assert (chosen.embed, chosen.generate) == (TEMPLATES["ullme"].embed, "Q: {query} A: {passage}")
    assert chosen.generation_instruction == ""


@pytest.mark.parametrize(
    ("name", "written"),
    [("plain", "a bow"), ("ullme", "a bow"), ("genc_mistral", "<s>[INST]\na bow[/INST]</s>")],
)
def test_without_an_instruction_only_genc_keeps_its_newline(name, written):
    """GenC fills in an empty string."""
    assert fill(TEMPLATES[name].write_embed("").replace("{instruction}", "")) == written
