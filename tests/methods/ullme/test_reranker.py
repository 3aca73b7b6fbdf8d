from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import fletching
from fletching.errors import ArgumentError, CheckpointError, FletchingError
from fletching.methods.ullme import GenerativeReranker, LLMEmbedder
from fletching.testing import save_tiny_cross_encoder, save_tiny_qwen2

QUERY = "what is a bow"
PASSAGES = ["wood and string", "the wind is in the feathers of the arrow", "goose"]


@pytest.fixture
def reranker(save_decoder):
    return GenerativeReranker(save_decoder(), device="cpu")


def score_by_hand(reranker, query, passage):
    """Mean of log P over the tokens of the passage, from the logits of the whole string."""
    network = reranker.network
    text = f"{query}\n\n{passage}"
    ids = reranker.tokenizer(text, return_tensors="pt")["input_ids"]
    count = len(reranker.tokenizer.tokenize(passage))
    with torch.no_grad():
        likelihoods = network.model(ids).logits[0].log_softmax(dim=-1)
    places = range(ids.shape[1] - 1 - count, ids.shape[1] - 1)  # [SEP] is the template's
    return sum(likelihoods[place - 1, ids[0, place]].item() for place in places) / count


def test_a_score_is_the_mean_likelihood_of_the_passage(reranker):
    scores = reranker.predict([(QUERY, passage) for passage in PASSAGES])
    expected = [score_by_hand(reranker, QUERY, passage) for passage in PASSAGES]
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)
    assert (scores < 0).all()


def test_the_most_likely_passage_comes_first(reranker):
    expected = [score_by_hand(reranker, QUERY, passage) for passage in PASSAGES]
    ranking = reranker.rank(QUERY, PASSAGES)
    assert [hit["corpus_id"] for hit in ranking] == sorted(range(3), key=lambda place: -expected[place])


def test_the_template_is_applied_once(released_folder):
    """The reference code puts its reranker's prompt into the prompt's own template."""
    reranker = GenerativeReranker(released_folder, device="cpu")
    ids = reranker.preprocess([(QUERY, "wood")], prompt="Find it.")["input_ids"][0]
    whole = (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nFind it.\nwhat is a bow<|eot_id|>\n"
        "<|start_header_id|>assistant<|end_header_id|>\n\nwood<|eot_id|>\n<|end_of_text|>"
    )
    assert ids.tolist() == reranker.tokenizer(whole, add_special_tokens=False)["input_ids"]


def test_the_prompt_of_a_call_is_the_instruction(save_decoder):
    reranker = GenerativeReranker(save_decoder(), template="ullme", device="cpu")
    default = reranker.predict([(QUERY, "wood")])
    written = "Please write a passage that can be used to answer above query."
    assert (reranker.predict([(QUERY, "wood")], prompt=written) == default).all()
    assert (reranker.predict([(QUERY, "wood")], prompt="why") != default).all()


def test_an_embedder_lends_its_weights(make_embedder):
    embedder = make_embedder()
    vectors = embedder.encode(PASSAGES)
    reranker = GenerativeReranker(embedder, max_seq_length=20)
    assert reranker.network.model is embedder.network.model
    expected = [score_by_hand(reranker, QUERY, passage) for passage in PASSAGES]
    scores = reranker.predict([(QUERY, passage) for passage in PASSAGES])
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)
    assert (embedder.encode(PASSAGES) == vectors).all()
    assert embedder.max_seq_length == 512


def test_scoring_while_other_threads_embed_with_the_same_weights(make_embedder):
    """One thread needs causal attention while another needs the other kind."""
    embedder = make_embedder()
    reranker = GenerativeReranker(embedder)
    pairs = [(QUERY, passage) for passage in PASSAGES]
    vectors, scores = embedder.encode(PASSAGES), reranker.predict(pairs)
    with ThreadPoolExecutor(4) as threads:
        encoded, scored = [], []
        for _ in range(10):
            encoded.append(threads.submit(embedder.encode, PASSAGES))
            scored.append(threads.submit(reranker.predict, pairs))
    assert all((each.result() == vectors).all() for each in encoded)
    assert all((each.result() == scores).all() for each in scored)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_an_overflow_in_half_precision_is_raised(save_decoder):
    reranker = GenerativeReranker(save_decoder(), dtype="float16", device="cpu")
    with torch.no_grad():
        for layer in reranker.network.model.model.layers:
            layer.mlp.down_proj.weight.fill_(6e4)
    with pytest.raises(FletchingError, match="NaN"):
        reranker.predict([(QUERY, "wood")])


def test_a_saved_embedder_opens_as_a_reranker_with_its_template(make_embedder, tmp_path):
    embedder = make_embedder(template="ullme", max_seq_length=100)
    embedder.save(str(tmp_path))
    opened, shared = GenerativeReranker(tmp_path, device="cpu"), GenerativeReranker(embedder)
    assert opened.rank(QUERY, PASSAGES) == shared.rank(QUERY, PASSAGES)
    assert opened.max_seq_length == 100


def test_a_saved_reranker_opens_as_an_embedder_with_its_template(make_embedder, tmp_path):
    embedder = make_embedder(template="ullme")
    GenerativeReranker(embedder).save(str(tmp_path))
    opened = LLMEmbedder(tmp_path, device="cpu")
    assert opened.network.template == embedder.network.template
    assert (opened.encode(PASSAGES) == embedder.encode(PASSAGES)).all()


def test_an_empty_passage_scores_as_a_guess(reranker):
    vocabulary = reranker.network.model.config.vocab_size
    scores = reranker.predict([(QUERY, ""), (QUERY, "wood")])
    assert scores[0] == pytest.approx(-math.log(vocabulary))
    assert scores[1] == pytest.approx(score_by_hand(reranker, QUERY, "wood"), abs=1e-5)


def test_an_activation_of_one_s_own_is_saved(save_decoder, tmp_path):
    reranker = GenerativeReranker(save_decoder(), activation_fn=torch.nn.Tanh(), device="cpu")
    reranker.save(str(tmp_path))
    assert isinstance(fletching.load(tmp_path, device="cpu").activation_fn, torch.nn.Tanh)


def test_a_save_opens_with_another_template(reranker, tmp_path):
    reranker.save(str(tmp_path))
    again = fletching.load(tmp_path, template="ullme", device="cpu")
    fresh = GenerativeReranker(reranker.network.model.name_or_path, template="ullme", device="cpu")
    assert again.rank(QUERY, PASSAGES) == fresh.rank(QUERY, PASSAGES)


def test_a_causal_language_model_asks_which_kind(save_decoder):
    with pytest.raises(CheckpointError, match="a causal language model can be either kind"):
        fletching.load(save_decoder())


@pytest.mark.parametrize("prompt", [3, ["why"]])
def test_an_instruction_that_is_no_text_is_refused(reranker, prompt):
    with pytest.raises(ArgumentError, match=r"GenerativeReranker\.predict: `prompt` must be a string"):
        reranker.predict([(QUERY, "wood")], prompt=prompt)


def test_the_errors_name_the_reranker(save_decoder):
    with pytest.raises(ArgumentError, match=r"^GenerativeReranker: `max_seq_length` must be at most 512"):
        GenerativeReranker(save_decoder(), max_seq_length=1000, device="cpu")
    with pytest.raises(ArgumentError, match=r"^GenerativeReranker: `template` must be one of 'genc'"):
        GenerativeReranker(save_decoder(), template="alpaca", device="cpu")


def test_a_checkpoint_without_a_head_is_refused(tmp_path):
    folder = save_tiny_qwen2(tmp_path)
    with pytest.raises(ArgumentError, match="must be a checkpoint with a language-model head"):
        GenerativeReranker(folder, device="cpu")
    with pytest.raises(ArgumentError, match="must be a checkpoint with a language-model head"):
        GenerativeReranker(LLMEmbedder(folder, device="cpu"))


def test_another_finished_reranker_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="it is a finished model of sentence-transformers"):
        GenerativeReranker(save_tiny_cross_encoder(tmp_path), device="cpu")
