"""What must hold of MVP on T5: specification section 5, one test per item, named after it."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration, T5Model

import fletching
from fletching.errors import ArgumentError, CheckpointError, FidelityWarning
from fletching.methods.mvp import MVPReranker
from fletching.methods.mvp.functional import rename_fid_keys
from fletching.testing.tiny import build_tiny_t5_tokenizer

QUERY = "what is an arrow"
PASSAGES = [
    "feathers on the shaft",
    "a bow string",
    "goose",
    "the wind and the archer point at a target with arrows",
    "",
    "flight of the arrow to the target",
    "wood for the shaft of arrows",
]


def encode(model: MVPReranker, passages: list[str]) -> Tensor:
    return model.network.encode(model.preprocess([(QUERY, passage) for passage in passages]))


@torch.inference_mode()
def score(model: MVPReranker, passages: list[str]) -> dict[str, Tensor]:
    return double_score(model, encode(model, passages), [len(passages)])


def double_score(model: MVPReranker, relevance_vectors: Tensor, list_sizes: list[int]) -> dict[str, Tensor]:
    """The module's own score, but in the model's precision: the public one is float32."""
    outputs = model.network.score(relevance_vectors, list_sizes)
    padded = torch.nn.utils.rnn.pad_sequence(list(relevance_vectors.split(list_sizes)), batch_first=True)
    views = torch.einsum("bkd,bnkd->bnk", outputs["anchors"], padded)
    kept = torch.cat([row[:size] for row, size in zip(views, list_sizes, strict=True)])
    torch.testing.assert_close(outputs["view_scores"], kept.float())
    return {"scores": kept.mean(-1), "view_scores": kept, "anchors": outputs["anchors"]}


def test_item_01_permuting_the_list_permutes_the_scores(t5_double: MVPReranker) -> None:
    order = [3, 0, 6, 5, 1, 4, 2]
    plain, permuted = score(t5_double, PASSAGES), score(t5_double, [PASSAGES[index] for index in order])
    torch.testing.assert_close(permuted["scores"], plain["scores"][order], rtol=0, atol=1e-14)
    torch.testing.assert_close(permuted["anchors"], plain["anchors"], rtol=0, atol=1e-14)


def test_item_02_padding_changes_no_score(t5_double: MVPReranker) -> None:
    features = t5_double.preprocess([(QUERY, passage) for passage in PASSAGES])
    padded = {
        name: torch.nn.functional.pad(features[name], (0, 9)) for name in ("input_ids", "attention_mask")
    }
    with torch.inference_mode():
        plain, longer = t5_double.network.encode(features), t5_double.network.encode(padded)
    torch.testing.assert_close(longer, plain, rtol=0, atol=1e-14)


def test_item_03_micro_batches_and_ragged_lists_change_nothing(t5_double: MVPReranker) -> None:
    with torch.inference_mode():
        together = encode(t5_double, PASSAGES)
        apart = torch.cat([encode(t5_double, PASSAGES[:3]), encode(t5_double, PASSAGES[3:])])
        torch.testing.assert_close(apart, together, rtol=0, atol=1e-14)
        ragged = double_score(t5_double, together, [5, 2])["scores"]
        alone = [double_score(t5_double, rows, [len(rows)])["scores"] for rows in together.split([5, 2])]
    torch.testing.assert_close(ragged, torch.cat(alone), rtol=0, atol=1e-14)


def test_item_04_a_strict_subset_scores_differently(t5_double: MVPReranker) -> None:
    whole, part = score(t5_double, PASSAGES)["scores"], score(t5_double, PASSAGES[:4])["scores"]
    assert (whole[:4] - part).abs().min() > 0


def test_item_05_repeating_the_list_changes_nothing(t5_double: MVPReranker) -> None:
    once, twice = score(t5_double, PASSAGES), score(t5_double, PASSAGES * 2)
    torch.testing.assert_close(twice["anchors"], once["anchors"], rtol=0, atol=1e-14)
    first, second = twice["scores"].split(len(PASSAGES))
    torch.testing.assert_close(first, once["scores"], rtol=0, atol=1e-14)
    torch.testing.assert_close(second, first, rtol=0, atol=0)


def test_item_06_decoder_self_attention_is_over_one_token(t5_double: MVPReranker) -> None:
    changed = copy.deepcopy(t5_double)
    for block in changed.network.model.decoder.block:
        attention = block.layer[0].SelfAttention
        torch.nn.init.normal_(attention.q.weight)
        torch.nn.init.normal_(attention.k.weight)
    bias = changed.network.model.decoder.block[0].layer[0].SelfAttention.relative_attention_bias
    torch.nn.init.normal_(bias.weight)
    assert torch.equal(score(changed, PASSAGES)["scores"], score(t5_double, PASSAGES)["scores"])


def test_item_07_scores_are_the_mean_over_views(t5_folder: str) -> None:
    explained = MVPReranker(t5_folder, n_views=3).explain(QUERY, PASSAGES)
    torch.testing.assert_close(explained["scores"], explained["view_scores"].mean(-1))
    one_view = MVPReranker(t5_folder, n_views=1).explain(QUERY, PASSAGES)
    assert torch.equal(one_view["scores"], one_view["view_scores"][:, 0])


def fid_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename plain T5 keys as the authors' wrappers do."""
    renamed = {}
    for key, value in state.items():
        if key.startswith("encoder.block."):
            number, rest = key.removeprefix("encoder.block.").split(".", 1)
            key = f"encoder.encoder.block.{number}.module.{rest}"
        elif key.startswith("encoder."):
            key = f"encoder.{key}"
        renamed[key] = value.clone()
    return renamed


@pytest.fixture(params=["model.safetensors", "pytorch_model.bin", "sharded"])
def authors_folder(request: pytest.FixtureRequest, t5_folder: str, tmp_path) -> str:
    """The same weights as ``t5_folder`` in the authors' layout, in each file format."""
    t5 = T5ForConditionalGeneration.from_pretrained(t5_folder)
    state = fid_names(t5.state_dict())
    build_tiny_t5_tokenizer().save_pretrained(tmp_path)
    t5.config.architectures = ["FiDT5"]
    t5.config.save_pretrained(tmp_path)
    if request.param == "model.safetensors":
        save_file(state, tmp_path / request.param)
    elif request.param == "pytorch_model.bin":
        torch.save(state, tmp_path / request.param)
    else:
        names = sorted(state)
        halves = {"a-1-of-2.bin": names[::2], "a-2-of-2.bin": names[1::2]}
        for file, keys in halves.items():
            torch.save({key: state[key] for key in keys}, tmp_path / file)
        index = {"weight_map": {key: file for file, keys in halves.items() for key in keys}}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return str(tmp_path)


def test_item_10_key_mapping_is_a_bijection(t5_folder: str) -> None:
    plain = T5ForConditionalGeneration.from_pretrained(t5_folder).state_dict()
    renamed = fid_names(plain)
    assert len(renamed) == len(plain)
    assert renamed.keys() != plain.keys()
    back = rename_fid_keys(renamed)
    assert back.keys() == plain.keys()
    assert all(torch.equal(back[key], plain[key]) for key in plain)
    assert rename_fid_keys(plain).keys() == plain.keys()


def test_item_10_authors_layout_scores_bit_for_bit(t5_folder: str, authors_folder: str) -> None:
    plain = MVPReranker(t5_folder, n_views=4).rank(QUERY, PASSAGES)
    assert fletching.load(authors_folder, n_views=4).rank(QUERY, PASSAGES) == plain


def test_item_11_rows_start_with_views_and_end_with_eos(t5_folder: str) -> None:
    model = MVPReranker(t5_folder, n_views=4, max_seq_length=24)
    features = model.preprocess([(QUERY, "arrow"), (QUERY, "arrow " * 100)])
    views = model.tokenizer.convert_tokens_to_ids([f"<extra_id_{view}>" for view in range(4)])
    assert views == sorted(views, reverse=True)
    assert features["input_ids"].shape[1] == 24
    for ids, mask in zip(features["input_ids"], features["attention_mask"], strict=True):
        tokens = ids[mask.bool()]
        assert tokens[:4].tolist() == views
        assert tokens[-1] == model.tokenizer.eos_token_id
        assert (tokens == model.tokenizer.eos_token_id).sum() == 1


@pytest.mark.network
@pytest.mark.slow
def test_item_12_released_weights_rank_as_reported() -> None:
    """Order of one pair; the full DL19 figure (74.30) is a matter for the benchmarks."""
    model = fletching.load("mvp-base")
    query = "how long is life cycle of flea"
    passage = "The life cycle of a flea can last anywhere from 20 days to an entire year."
    assert model.rank(query, ["The capital of France is Paris.", passage])[0]["corpus_id"] == 1


def test_last_block_for_views_only_equals_the_whole_encoder(t5_folder: str, t5_double: MVPReranker) -> None:
    """The network skips states that nothing reads; a stock T5 computes them all."""
    stock = T5Model.from_pretrained(t5_folder).double().eval()
    features = t5_double.preprocess([(QUERY, passage) for passage in PASSAGES])
    with torch.inference_mode():
        states = stock.encoder(
            input_ids=features["input_ids"], attention_mask=features["attention_mask"]
        ).last_hidden_state
        torch.testing.assert_close(t5_double.network.encode(features), states[:, :4], rtol=0, atol=1e-13)


def test_saved_model_opens_with_stock_t5(t5_folder: str, tmp_path) -> None:
    model = MVPReranker(t5_folder, n_views=4)
    model.save_pretrained(str(tmp_path))
    stock = T5Model.from_pretrained(tmp_path)
    for name, weight in stock.state_dict().items():
        assert torch.equal(weight, model.network.model.state_dict()[name]), name
    assert fletching.load(tmp_path).network.n_views == 4


def test_wrong_number_of_views_is_refused_for_our_own_saves(t5_folder: str, tmp_path) -> None:
    MVPReranker(t5_folder, n_views=4).save_pretrained(str(tmp_path))
    with pytest.raises(ArgumentError, match=r"`n_views` must be 4, as this model was trained; got 2"):
        MVPReranker(tmp_path, n_views=2)


def test_too_many_views_for_the_tokenizer_are_refused(t5_folder: str) -> None:
    with pytest.raises(ArgumentError, match="a T5 tokenizer with 99 sentinels"):
        MVPReranker(t5_folder, n_views=99)


@pytest.mark.parametrize(
    "template",
    [
        "Query: {query} Context: {passage}",
        "{views} {query}",
        "",
        "{views} {passage} {query}",  # a long passage would push the query out
        "{views} {query} {passage} {query}",
    ],
)
def test_template_without_a_field_is_refused(t5_double: MVPReranker, template: str) -> None:
    network = t5_double.network
    with pytest.raises(ArgumentError, match=r"starts with \{views\} and holds \{query\} and \{passage\}"):
        type(network)(network.model, network.tokenizer, template=template)


@pytest.mark.parametrize("name", ["bfloat16", "auto"])
def test_precision_may_be_named_as_in_transformers(t5_folder: str, name: str) -> None:
    model = MVPReranker(t5_folder, n_views=4, model_kwargs={"dtype": name})
    assert model.dtype == (torch.bfloat16 if name == "bfloat16" else torch.float32)


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_attention_may_be_named_as_in_transformers(t5_folder: str, t5_double: MVPReranker, name: str) -> None:
    model = MVPReranker(t5_folder, n_views=4, model_kwargs={"attn_implementation": name})
    assert model.network.model.encoder.config._attn_implementation == name
    states = encode(model.double().eval(), PASSAGES)
    torch.testing.assert_close(states, encode(t5_double, PASSAGES), rtol=0, atol=1e-13)


def test_float16_weights_warn(t5_folder: str, tmp_path) -> None:
    T5Model.from_pretrained(t5_folder).half().save_pretrained(tmp_path)
    build_tiny_t5_tokenizer().save_pretrained(tmp_path)
    with pytest.warns(FidelityWarning, match="T5 overflows in float16"):
        MVPReranker(tmp_path, n_views=4)


def test_float16_warns(t5_folder: str) -> None:
    with pytest.warns(FidelityWarning, match="T5 overflows in float16"):
        MVPReranker(t5_folder, n_views=4, dtype="float16")


def test_braces_in_texts_are_only_text(t5_double: MVPReranker) -> None:
    odd = t5_double.preprocess([("{passage} {0}", "{query} {views}")])
    assert "{passage} {0}" in t5_double.tokenizer.decode(odd["input_ids"][0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.pop("decoder.final_layer_norm.weight"),
            "lacks weights: 'decoder.final_layer_norm.weight'",
        ),
        (
            lambda state: state.update(extra=torch.ones(1)),
            "has weights that the network has no place for: 'extra'",
        ),
        (lambda state: state.update({"shared.weight": torch.ones(3, 3)}), r"has shape \(3, 3\)"),
        (lambda state: state["shared.weight"].fill_(float("nan")), "holds NaN or infinity"),
    ],
)
def test_broken_authors_folders_are_refused(t5_folder: str, tmp_path, change, message: str) -> None:
    t5 = T5ForConditionalGeneration.from_pretrained(t5_folder)
    state = fid_names(t5.state_dict())
    change(state)
    t5.config.architectures = ["FiDT5"]
    t5.config.save_pretrained(tmp_path)
    build_tiny_t5_tokenizer().save_pretrained(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=message):
        fletching.load(tmp_path)


@pytest.mark.parametrize("kept", ["shared.weight", "decoder.embed_tokens.weight"])
def test_one_copy_of_the_shared_embeddings_is_enough(t5_folder: str, tmp_path, kept: str) -> None:
    """A converter to safetensors keeps any one of them, since they share their memory."""
    t5 = T5Model.from_pretrained(t5_folder)
    others = {"shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"} - {kept}
    state = {name: value.clone() for name, value in t5.state_dict().items() if name not in others}
    save_file(fid_names(state), tmp_path / "model.safetensors")
    t5.config.architectures = ["FiDT5"]
    t5.config.save_pretrained(tmp_path)
    build_tiny_t5_tokenizer().save_pretrained(tmp_path)
    assert fletching.load(tmp_path).rank(QUERY, PASSAGES) == MVPReranker(t5_folder).rank(QUERY, PASSAGES)


@pytest.mark.parametrize(
    "changes",
    [
        {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},  # T5 v1.1 and Flan
        {"num_layers": 1, "num_decoder_layers": 1},
        {"pad_token_id": None},
    ],
    ids=["gated", "one block", "no pad id"],
)
def test_scores_equal_the_reference_procedure(tmp_path, changes: dict) -> None:
    """A stock T5, every passage padded to the full length, one decoder step from id 0 for each view."""
    tokenizer = build_tiny_t5_tokenizer()
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    torch.manual_seed(0)
    t5 = T5Model(T5Config(vocab_size=len(tokenizer), initializer_factor=0.5, **{**sizes, **changes})).eval()
    t5.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = MVPReranker(tmp_path, n_views=4, max_seq_length=64)
    views = "<extra_id_0><extra_id_1><extra_id_2><extra_id_3>"
    rows = tokenizer(
        [f"{views} | Query: {QUERY} | Context: {passage}" for passage in PASSAGES],
        padding="max_length",
        max_length=64,
        return_tensors="pt",
    )
    expected = torch.zeros(len(PASSAGES))
    with torch.inference_mode():
        states = t5.encoder(**rows).last_hidden_state
        for view in range(4):
            vectors = states[:, view]
            anchor = t5.decoder(
                input_ids=torch.zeros(1, 1, dtype=torch.long), encoder_hidden_states=vectors[None]
            ).last_hidden_state[0, 0]
            expected += vectors @ anchor / 4
    torch.testing.assert_close(model.explain(QUERY, PASSAGES)["scores"], expected, rtol=0, atol=1e-5)


def test_a_row_holds_some_of_query_and_passage(t5_folder: str) -> None:
    """Four views, a token of each, </s>: seven."""
    with pytest.raises(ArgumentError, match="`max_seq_length` must be at least 7"):
        MVPReranker(t5_folder, n_views=4, max_seq_length=6)
