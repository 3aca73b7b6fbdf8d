"""A sentence in a template, and the state at its mask."""

from __future__ import annotations

import pytest
import torch
from sentence_transformers.base.modules import Transformer

from fletching.errors import ArgumentError
from fletching.methods.defsent_plus import TEMPLATE, MaskPooling, PromptTransformer

SENTENCES = ("The archer draws the bow.", "wood", '"quoted"', "...why?", " a  b ", "")


def get_rows(features):
    return [
        row[mask.bool()].tolist()
        for row, mask in zip(features["input_ids"], features["attention_mask"], strict=True)
    ]


@pytest.fixture(params=["bert", "roberta"])
def module(request):
    return PromptTransformer(request.getfixturevalue(request.param))


def test_template_is_tokenized_as_by_the_reference_code(module):
    """The tokenizer, given the whole text with its own mask token in it, does the same."""
    tokenizer = module.tokenizer
    texts = [TEMPLATE.format(sentence=text, mask=tokenizer.mask_token) for text in SENTENCES]
    assert get_rows(module.preprocess([*SENTENCES])) == tokenizer(texts)["input_ids"]


def test_the_sentence_is_cut_and_never_the_template(module):
    """Of ``wood wood ...`` the words that fit stay, and what is around them is as around one word."""
    window, limit = module.max_seq_length, 40
    long = " ".join(["wood"] * 3 * window)
    (short,), (cut,) = module.tokenize_sentences(["wood"])[0], module.tokenize_sentences([long])[0]
    assert (len(cut), len(module.tokenize_sentences([long], max_length=limit)[0][0])) == (window, limit)
    tail = len(module._tail) + len(module._last) + 1
    assert cut[-tail:] == short[-tail:]
    front = module.tokenizer(module._before, add_special_tokens=False)["input_ids"]
    assert cut[1 : 1 + len(front)] == front


def test_lost_tokens_are_counted(bert):
    """One token for each word beside those of the template."""
    module = PromptTransformer(bert)
    around = len(module.tokenize_sentences([""])[0][0])
    fits = module.max_seq_length - around
    assert module.tokenize_sentences(["wood " * fits, "wood " * (fits + 7)])[1] == [0, 7]


def test_special_tokens_that_a_sentence_spells_are_text(module):
    tokenizer = module.tokenizer
    for name in (tokenizer.mask_token, tokenizer.cls_token, tokenizer.sep_token):
        (row,) = get_rows(module.preprocess([f"a {name} b"]))
        special = [id_ for id_ in row if id_ in tokenizer.all_special_ids]
        assert special == [tokenizer.cls_token_id, tokenizer.mask_token_id, tokenizer.sep_token_id]


def test_a_prompt_goes_inside_the_template(module):
    got = get_rows(module.preprocess(["wood"], prompt="why "))
    assert got == get_rows(module.preprocess(["why wood"]))


def test_max_length_narrows_the_window(module):
    features = module.preprocess(["wood " * 90], processing_kwargs={"text": {"max_length": 42}})
    assert features["input_ids"].shape == (1, 42)
    assert module.preprocess(["wood " * 90], max_length=42)["input_ids"].shape == (1, 42)


def test_no_text_gives_no_features(module):
    assert module.preprocess([]) == {}


def test_a_window_too_narrow_for_the_template_is_refused(module):
    with pytest.raises(
        ArgumentError, match=r"`max_seq_length` must be at least .* the tokens of the template"
    ):
        module.preprocess(["wood"], max_length=8)


def test_a_tokenizer_without_a_mask_is_refused(bert):
    network = Transformer(bert)
    network.tokenizer.mask_token = None
    with pytest.raises(ArgumentError, match="`pooling` must be one that needs no mask token"):
        PromptTransformer.wrap(network)


def test_wrapping_shares_network_and_tokenizer_and_can_be_undone(bert):
    stock = Transformer(bert)
    expected = stock.preprocess(["wood"])["input_ids"]
    wrapped = PromptTransformer.wrap(stock, template="{sentence} is {mask}")
    assert wrapped.model is stock.model
    assert wrapped.tokenizer is stock.tokenizer
    back = wrapped.unwrap()
    assert type(back) is Transformer
    assert not hasattr(back, "template")
    assert torch.equal(back.preprocess(["wood"])["input_ids"], expected)
    assert torch.equal(wrapped.preprocess(["wood"], templated=False)["input_ids"], expected)


def test_a_saved_module_keeps_its_template(bert, tmp_path):
    PromptTransformer(bert, template="{sentence} is {mask}").save(str(tmp_path))
    assert PromptTransformer.load(str(tmp_path)).template == "{sentence} is {mask}"


def test_mask_pooling_reads_the_last_mask_that_is_not_padding():
    states = torch.arange(12.0).reshape(2, 3, 2)
    features = {
        "token_embeddings": states,
        "input_ids": torch.tensor([[4, 9, 4], [0, 4, 4]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
    }
    assert MaskPooling(2, 4)(features)["sentence_embedding"].tolist() == [[4.0, 5.0], [8.0, 9.0]]


def test_mask_pooling_refuses_a_row_without_a_mask():
    features = {
        "token_embeddings": torch.zeros(1, 2, 2),
        "input_ids": torch.tensor([[1, 4]]),
        "attention_mask": torch.tensor([[1, 0]]),
    }
    with pytest.raises(ArgumentError, match="`features` must be rows with a mask token; got 'a row without'"):
        MaskPooling(2, 4)(features)


def test_saved_pooling_comes_back(tmp_path):
    MaskPooling(2, 4).save(str(tmp_path))
    back = MaskPooling.load(str(tmp_path))
    assert (back.get_embedding_dimension(), back.mask_token_id) == (2, 4)
