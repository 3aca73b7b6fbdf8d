from __future__ import annotations

import string
from typing import Any

import pytest
from transformers import AddedToken, LlamaTokenizer

from fletching.errors import ArgumentError
from fletching.methods.ullme.templates import TEMPLATES
from fletching.methods.ullme.tokenization import TemplateTokenizer
from fletching.testing import build_tiny_qwen2_tokenizer, build_tiny_tokenizer

INSTRUCTION = "Given a query, retrieve documents that answer the query:"
TEXTS = ["The feathers of a goose.", "wood", "  a bow?!\n", "\n\nstring", "弓と矢", ""]
PUBLISHED = ["genc_llama", "genc_mistral", "genc_phi", "genc_phi3"]


@pytest.fixture
def build(build_chat_tokenizer: Any) -> Any:
    def build_one(
        name: str, *, generate: bool = False, tokenizer: Any = None
    ) -> tuple[Any, TemplateTokenizer, str]:
        template = TEMPLATES[name]
        written = template.generate if generate else template.embed
        tokenizer = tokenizer or build_chat_tokenizer(name)
        around = not template.brings_special_tokens
        return tokenizer, TemplateTokenizer(tokenizer, written, add_special_tokens=around), written

    return build_one


def decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_those_of_the_whole_string(build, name, text):
    """As in the reference code, which tokenizes the filled template at once."""
    tokenizer, rows, template = build(name)
    whole = template.replace("{instruction}", INSTRUCTION).replace("{text}", text)
    row = rows.build_rows([{"instruction": INSTRUCTION, "text": text}], max_tokens=None)[0]
    assert row.ids == tokenizer(whole, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_text_is_found_among_the_tokens(build, name):
    tokenizer, rows, _ = build(name)
    row = rows.build_rows([{"instruction": INSTRUCTION, "text": "wood and string"}], max_tokens=None)[0]
    assert decode(tokenizer, row.ids[row.start : row.stop]) == "wood and string"


@pytest.mark.parametrize("name", [*PUBLISHED, "ullme", "plain"])
def test_the_passage_is_found_among_the_tokens(build, name):
    tokenizer, rows, _ = build(name, generate=True)
    values = {"instruction": INSTRUCTION, "query": "What is a bow?", "passage": "wood and string"}
    row = rows.build_rows([values], max_tokens=None)[0]
    assert decode(tokenizer, row.ids[row.start : row.stop]) == "wood and string"


def test_a_token_of_both_is_the_text_s():
    """``.\\n`` may be one token: of the text's full stop and the template's newline."""
    tokenizer = build_tiny_qwen2_tokenizer()
    tokenizer.add_tokens([".\n"])
    rows = TemplateTokenizer(tokenizer, "{text}\nend", add_special_tokens=False)
    row = rows.build_rows([{"text": "wood."}], max_tokens=None)[0]
    assert decode(tokenizer, row.ids[row.start : row.stop]) == "wood.\n"


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("generate", [False, True], ids=["embed", "generate"])
def test_a_space_in_front_of_a_row_is_not_one_in_front_of_each_text(build, generate, legacy):
    """Of the tokenizers of Llama 2, Mistral and Phi-3 some put it behind every special token, some do not."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["\N{LOWER ONE EIGHTH BLOCK}", *string.ascii_letters, *string.punctuation]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=[], legacy=legacy)
    _, rows, template = build("genc_mistral", tokenizer=tokenizer, generate=generate)
    values = {"instruction": INSTRUCTION, "text": " wood", "query": "a bow", "passage": "of wood"}
    whole = template
    for name, value in values.items():
        whole = whole.replace(f"{{{name}}}", value)
    row = rows.build_rows([values], max_tokens=None)[0]
    assert row.ids == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(row.ids[row.start : row.stop]).strip() == values[rows.slots[-1]].strip()


def test_special_tokens_spelt_out_in_a_text_are_text(build):
    tokenizer, rows, _ = build("genc_llama")
    text = "<|eot_id|> wood <|begin_of_text|></s>"
    row = rows.build_rows([{"instruction": "<|eot_id|>", "text": text}], max_tokens=None)[0]
    for token in TEMPLATES["genc_llama"].special_tokens:
        expected = TEMPLATES["genc_llama"].embed.count(token)
        assert row.ids.count(tokenizer.convert_tokens_to_ids(token)) == expected
    assert decode(tokenizer, row.ids[row.start : row.stop]) == text


def test_a_token_of_the_template_that_is_not_special_is_broken_up_in_a_text():
    tokenizer = build_tiny_qwen2_tokenizer()
    tokenizer.add_tokens(["[INST]"])
    rows = TemplateTokenizer(tokenizer, "[INST]{text}", add_special_tokens=False)
    row = rows.build_rows([{"text": "wood [INST]"}], max_tokens=None)[0]
    assert row.ids.count(tokenizer.convert_tokens_to_ids("[INST]")) == 1


def test_a_blank_line_in_a_text_stays_where_it_is_a_token():
    """Tokenizers of Gemma have one for each run of newlines; that of the template is among them."""
    tokenizer = build_tiny_qwen2_tokenizer()
    tokenizer.add_tokens(["\n", "\n\n"])
    rows = TemplateTokenizer(tokenizer, "{query}\n\n{passage}", add_special_tokens=False)
    row = rows.build_rows([{"query": "a\n\nbow", "passage": "of\nwood"}], max_tokens=None)[0]
    assert decode(tokenizer, row.ids) == "a\n\nbow\n\nof\nwood"


@pytest.mark.parametrize("instruction", ["", "  Find:"])
@pytest.mark.parametrize("text", ["wood", "\n wood \n", " ", ""])
def test_special_tokens_take_the_whitespace_that_is_theirs(instruction, text):
    """Those of Phi-3 take what follows them; a mask takes what is in front of it."""
    tokenizer = build_tiny_qwen2_tokenizer()
    after, before = (
        AddedToken(name, special=True, **{side: True})
        for name, side in (("<|user|>", "rstrip"), ("<mask>", "lstrip"))
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [after, before]})
    template = "<|user|>{instruction}\n{text}<mask>end<|user|>{text}"
    rows = TemplateTokenizer(tokenizer, template.rpartition("{")[0], add_special_tokens=False)
    row = rows.build_rows([{"instruction": instruction, "text": text}], max_tokens=None)[0]
    whole = template.rpartition("{")[0].replace("{instruction}", instruction).replace("{text}", text)
    assert row.ids == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert decode(tokenizer, row.ids[row.start : row.stop]).strip() == text.strip()


@pytest.mark.parametrize("length", [30, 31, 40, 100])
def test_the_template_s_tail_survives_a_text_that_is_too_long(build, length):
    tokenizer, rows, _ = build("genc_llama")
    values = {"instruction": "Find:", "text": "The archer draws the bow. " * 50}
    row = rows.build_rows([values], max_tokens=length)[0]
    assert length - 8 <= len(row.ids) <= length
    assert decode(tokenizer, row.ids).endswith("<|eot_id|>\n<|end_of_text|>")
    assert decode(tokenizer, row.ids[row.start : row.stop]).startswith("The archer")


def test_what_is_lost_is_counted(build):
    _, rows, _ = build("plain", tokenizer=build_tiny_tokenizer())
    row, short = rows.build_rows(
        [{"instruction": "what", "text": "wood " * 20}, {"instruction": "what", "text": "wood"}],
        max_tokens=12,
    )
    assert (len(row.ids), row.lost) == (12, 11)  # [CLS] what, nine of twenty words, [SEP]
    assert short.lost == 0


def test_a_megabyte_is_counted_too(build):
    _, rows, _ = build("plain", tokenizer=build_tiny_tokenizer())
    row = rows.build_rows([{"instruction": "", "text": "wood " * 200_000}], max_tokens=12)[0]
    assert (len(row.ids), row.lost) == (12, 200_000 - 10)


def test_a_text_of_few_tokens_is_read_however_many_its_characters(build):
    _, rows, _ = build("plain", tokenizer=build_tiny_tokenizer())
    spaces = " " * 100_000
    far, near = rows.build_rows(
        [{"instruction": "", "text": f"{spaces}wood"}, {"instruction": "", "text": "wood"}], max_tokens=12
    )
    assert far == near


def test_an_empty_passage_in_the_midst_of_a_token_has_none():
    """``ending`` is one token, and the template's."""
    tokenizer = build_tiny_qwen2_tokenizer()
    tokenizer.add_tokens(["ending"])
    rows = TemplateTokenizer(tokenizer, "{query}end{passage}ing", add_special_tokens=False)
    row = rows.build_rows([{"query": "bow", "passage": ""}], max_tokens=None)[0]
    assert tokenizer.convert_ids_to_tokens(row.ids)[-1] == "ending"
    assert row.start == row.stop == len(row.ids)


def test_a_long_query_leaves_the_passage_half_of_the_room(build):
    tokenizer, rows, _ = build("plain", generate=True, tokenizer=build_tiny_tokenizer())
    values = {"instruction": "", "query": "bow " * 50, "passage": "wood " * 50}
    row = rows.build_rows([values], max_tokens=22)[0]
    assert tokenizer.decode(row.ids) == f"[CLS] {'bow ' * 10}{'wood ' * 10}[SEP]"


@pytest.mark.parametrize(("query", "passage", "kept"), [(50, 4, (16, 4)), (4, 50, (4, 16))])
def test_room_that_one_text_leaves_is_the_other_s(build, query, passage, kept):
    tokenizer, rows, _ = build("plain", generate=True, tokenizer=build_tiny_tokenizer())
    values = {"instruction": "", "query": "bow " * query, "passage": "wood " * passage}
    row = rows.build_rows([values], max_tokens=22)[0]
    words = tokenizer.decode(row.ids).split()
    assert (words.count("bow"), words.count("wood")) == kept


def test_a_window_without_room_for_the_template_is_refused(build):
    _, rows, _ = build("plain", tokenizer=build_tiny_tokenizer())
    values = {"instruction": "wood " * 10, "text": "bow"}
    with pytest.raises(ArgumentError, match=r"`max_seq_length` must be at least 12, .*; got 8"):
        rows.build_rows([values], max_tokens=8)


def test_an_empty_text_in_an_empty_template_is_one_token():
    tokenizer = build_tiny_qwen2_tokenizer()
    rows = TemplateTokenizer(tokenizer, "{text}", add_special_tokens=True)
    assert rows.build_rows([{"text": ""}], max_tokens=8)[0].ids == [tokenizer.eos_token_id]


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ArgumentError, match="a model with a fast tokenizer"):
        TemplateTokenizer(Slow(), "{text}", add_special_tokens=True)


def test_no_text_gives_no_row(build):
    _, rows, _ = build("plain", tokenizer=build_tiny_tokenizer())
    assert rows.build_rows([], max_tokens=8) == []
