from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from fletching.errors import ArgumentError
from fletching.methods.ullme.heads import ProjectionHead, TextPooling
from fletching.methods.ullme.modules import LLMTransformer
from fletching.testing import TINY_DECODERS, save_tiny_bert, save_tiny_qwen2, save_tiny_t5

QUERIES = ["what is a bow", "why"]
PASSAGES = ["wood and string", "the wind is in the feathers of the arrow"]


@pytest.fixture
def make_network(save_decoder: Any) -> Any:
    def make(family: str = "llama", *, tokenizer: Any = None, **options: Any) -> LLMTransformer:
        return LLMTransformer(save_decoder(family, tokenizer=tokenizer), **options).eval()

    return make


def count_head_rows(network: LLMTransformer) -> list[int]:
    """Record how many positions the head is run on, call by call."""
    counts: list[int] = []
    head: Any = network.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].shape[:-1].numel()))
    return counts


# --- embedding ---


def test_states_are_those_after_the_final_norm_without_logits(make_network):
    network = make_network(causal=True)
    counts = count_head_rows(network)
    features = network.preprocess(PASSAGES)
    with torch.no_grad():
        states = network(features)["token_embeddings"]
        expected = network.model.model(
            input_ids=features["input_ids"], attention_mask=features["attention_mask"]
        ).last_hidden_state
    seen = features["attention_mask"].bool()
    torch.testing.assert_close(states[seen], expected[seen], atol=1e-5, rtol=0)
    assert counts == []


def test_the_mask_of_the_text_begins_behind_the_instruction(make_network):
    network = make_network()
    features = network.preprocess(["wood", "goose feather"], prompt="what is")
    words = [
        network.tokenizer.convert_ids_to_tokens(ids[mask.bool()])
        for ids, mask in zip(features["input_ids"], features["text_mask"], strict=True)
    ]
    assert words == [["wood", "[SEP]"], ["goose", "feather", "[SEP]"]]


def test_each_text_may_have_an_instruction_of_its_own(make_network):
    network = make_network()
    together = network.build_rows(["wood", "bow"], ["what is", ""], max_tokens=None)
    alone = [
        network.build_rows(["wood"], "what is", max_tokens=None),
        network.build_rows(["bow"], max_tokens=None),
    ]
    assert together == [rows[0] for rows in alone]


def test_instructions_must_be_as_many_as_texts(make_network):
    with pytest.raises(
        ArgumentError, match="`prompt` must be one for all, or one for each of 2 texts; got 1"
    ):
        make_network().preprocess(["wood", "bow"], prompt=["what"])


def test_an_empty_text_at_the_end_of_its_row_is_read_whole(make_network, build_chat_tokenizer):
    network = make_network("qwen2", tokenizer=build_chat_tokenizer("plain"))
    features = network.preprocess([""], prompt="what is")
    assert torch.equal(features["text_mask"], features["attention_mask"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_either_side_may_be_padded(make_network, side):
    network = make_network()
    pooling = TextPooling(network.get_embedding_dimension(), "mean", include_prompt=False)
    network.tokenizer.padding_side = side
    with torch.no_grad():
        features = [network.preprocess(texts, prompt="what is") for texts in (PASSAGES, PASSAGES[:1])]
        batch, alone = (pooling(network(each))["sentence_embedding"] for each in features)
    torch.testing.assert_close(batch[:1], alone, atol=1e-5, rtol=0)


def test_a_window_wider_than_the_model_is_refused(make_network):
    with pytest.raises(ArgumentError, match="`max_seq_length` must be at most 512, the model's positions"):
        make_network(max_seq_length=1000)


def test_rows_are_512_tokens_at_most_unless_told_otherwise(make_network):
    network = make_network()
    assert network.max_seq_length == 512
    network.max_seq_length = 10
    assert network.preprocess(["wood " * 600])["input_ids"].shape == (1, 10)


def test_a_caller_narrows_or_lifts_the_window(make_network):
    network = make_network(max_seq_length=20)
    text = ["wood " * 30]
    assert network.preprocess(text, max_length=8)["input_ids"].shape == (1, 8)
    lifted = network.preprocess(text, processing_kwargs={"text": {"truncation": False}})
    assert lifted["input_ids"].shape == (1, 32)


@pytest.mark.parametrize("causal", [False, True])
def test_calls_leave_nothing_behind(make_network, causal):
    """An attribute that stays is there after the first; the others would show growth."""
    network = make_network(causal=causal)
    features = network.preprocess(["wood"])
    parts = [network.model.config, *network.model.modules()]
    before = [(type(part), sorted(vars(part))) for part in parts]
    with torch.no_grad():
        for _ in range(3):
            network({**features})
    assert [(type(part), sorted(vars(part))) for part in parts] == before


# --- pooling and projection ---

STATES = torch.tensor([[[1.0], [2.0], [4.0], [8.0]]])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("mean", 6.0),  # (4 + 8) / 2
        ("weightedmean", 20 / 3),  # (1 * 4 + 2 * 8) / 3: m <- m * cumsum(m)
        ("cls", 4.0),
        ("lasttoken", 8.0),
        ("max", 8.0),
        ("mean_sqrt_len_tokens", 12 / 2**0.5),
    ],
)
def test_pooling_leaves_the_prompt_out(mode, expected):
    features = {
        "token_embeddings": STATES,
        "attention_mask": torch.tensor([[1, 1, 1, 1]]),
        "text_mask": torch.tensor([[0, 0, 1, 1]]),
    }
    pooled = TextPooling(1, mode, include_prompt=False)(features)["sentence_embedding"]
    assert pooled.item() == pytest.approx(expected)
    assert features["attention_mask"].tolist() == [[1, 1, 1, 1]]


def test_pooling_may_include_the_prompt():
    features = {
        "token_embeddings": STATES,
        "attention_mask": torch.tensor([[0, 1, 1, 1]]),
        "text_mask": torch.tensor([[0, 0, 1, 1]]),
    }
    pooled = TextPooling(1, "mean", include_prompt=True)(features)["sentence_embedding"]
    assert pooled.item() == pytest.approx(14 / 3)


def test_the_projection_is_two_layers_of_length_one():
    torch.manual_seed(0)
    head, vectors = ProjectionHead(4).train(), torch.randn(3, 4)
    projected = head({"sentence_embedding": vectors})["projected_embedding"]
    hidden = (vectors @ head.first.weight.T + head.first.bias).clamp(min=0)
    torch.testing.assert_close(projected, normalize(hidden @ head.second.weight.T + head.second.bias))


def test_the_projection_is_for_training_only():
    features = ProjectionHead(4).eval()({"sentence_embedding": torch.ones(1, 4)})
    assert "projected_embedding" not in features


# --- generation rows and likelihoods ---


def test_labels_are_the_passage_s_own_tokens(make_network):
    network = make_network()
    rows = network.build_generation_rows(QUERIES, PASSAGES)
    kept = [network.tokenizer.decode(labels[labels != -100]) for labels in rows["labels"]]
    assert kept == PASSAGES
    labelled = rows["labels"] != -100
    assert torch.equal(rows["labels"][labelled], rows["input_ids"][labelled])


def test_the_first_token_of_a_row_is_no_label(make_network, build_chat_tokenizer):
    """With neither query nor special token, nothing stands before it."""
    network = make_network(
        "qwen2", tokenizer=build_chat_tokenizer("plain"), generation_template="{query}{passage}"
    )
    rows = network.build_generation_rows([""], ["wood"])
    assert (rows["labels"][:, 0] == -100).all()
    assert (rows["labels"][:, 1:] != -100).all()


def test_queries_and_passages_go_together(make_network):
    with pytest.raises(ArgumentError, match="`passages` must be one for each of 2 queries; got 1"):
        make_network().build_generation_rows(QUERIES, PASSAGES[:1])


def test_the_instruction_of_generation_may_be_given(make_network):
    network = make_network(template="ullme")
    default, given = (
        network.build_generation_rows(QUERIES, PASSAGES, instruction=instruction)
        for instruction in (None, "what is")
    )
    written = "Please write a passage that can be used to answer above query.. Query:\nwhat is a bow"
    ids = network.tokenizer(written, add_special_tokens=False)["input_ids"]
    assert default["input_ids"][0][default["attention_mask"][0].bool()].tolist()[1 : len(ids) + 1] == ids
    assert network.tokenizer.decode(given["input_ids"][1]).startswith("[CLS] what is . query :")


@pytest.mark.parametrize("family", TINY_DECODERS)
def test_scores_are_those_of_all_logits(get_network, family):
    """Families cap or scale their logits: the head alone would not do."""
    network = get_network(family)
    rows = network.build_generation_rows(QUERIES, PASSAGES)
    ids, mask, labels = rows["input_ids"], rows["attention_mask"], rows["labels"]
    with torch.no_grad():
        scores = network.score_tokens(ids, mask, labels)
        for row in range(len(ids)):  # without padding
            own = ids[row][mask[row].bool()][None]
            logits = network.model(input_ids=own).logits[0].float().log_softmax(dim=-1)
            expected = torch.zeros(own.shape[1])
            expected[1:] = logits[:-1].gather(1, own[0, 1:, None])[:, 0]
            wanted = labels[row][mask[row].bool()] != -100
            torch.testing.assert_close(scores[row][mask[row].bool()], expected * wanted, atol=1e-4, rtol=1e-5)
    assert scores.dtype == torch.float32
    assert (scores[labels == -100] == 0).all()


def test_the_head_runs_only_where_a_label_is(make_network):
    network = make_network()
    rows = network.build_generation_rows(QUERIES, PASSAGES)
    columns = int((rows["labels"] != -100).any(dim=0).sum())
    counts = count_head_rows(network)
    network.score_tokens(**rows)
    assert counts == [len(QUERIES) * columns]
    assert columns < rows["labels"].shape[1]


def test_without_a_label_nothing_is_computed(make_network):
    network = make_network()
    rows = network.build_generation_rows(QUERIES, ["", ""])
    assert network.score_tokens(**rows).equal(torch.zeros(rows["labels"].shape))


def test_labels_of_the_prompt_change_nothing_elsewhere(make_network):
    network = make_network()
    rows = network.build_generation_rows(QUERIES[:1], PASSAGES[:1])
    expected = network.score_tokens(**rows)
    labelled = rows["labels"] != -100
    others = torch.where(labelled, rows["labels"], rows["input_ids"])
    scores = network.score_tokens(rows["input_ids"], rows["attention_mask"], others)
    torch.testing.assert_close(scores[labelled], expected[labelled])


def test_scores_have_gradients(make_network):
    network = make_network()
    network.score_tokens(**network.build_generation_rows(QUERIES, PASSAGES)).sum().backward()
    gradients = [parameter.grad for parameter in network.model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_scores_are_summed_in_float32(make_network):
    network = make_network()
    rows = network.build_generation_rows(QUERIES, PASSAGES)
    exact = network.score_tokens(**rows)
    network.model.to(torch.bfloat16)
    scores = network.score_tokens(**rows)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, exact, atol=0.5, rtol=0.1)


def test_a_checkpoint_without_a_head_embeds_and_does_not_generate(tmp_path):
    network = LLMTransformer(save_tiny_qwen2(tmp_path))
    assert type(network.model).__name__ == "Qwen2Model"
    assert network(network.preprocess(["wood"]))["token_embeddings"].shape[-1] == 32
    with pytest.raises(
        ArgumentError, match="must be a checkpoint with a language-model head; got 'Qwen2Model'"
    ):
        network.score_tokens(**network.build_generation_rows(QUERIES, PASSAGES))


# --- what is refused ---


@pytest.mark.parametrize("save", [save_tiny_bert, save_tiny_t5])
def test_what_is_no_decoder_is_refused(save, tmp_path):
    with pytest.raises(ArgumentError, match=r"must be a decoder-only language model"):
        LLMTransformer(save(tmp_path))


def test_other_backends_are_refused(save_decoder):
    with pytest.raises(ArgumentError, match="`backend` must be 'torch'"):
        LLMTransformer(save_decoder(), backend="onnx")
