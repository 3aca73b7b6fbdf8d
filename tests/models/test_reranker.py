"""What a `Reranker` does beyond the contract: it stays a `CrossEncoder`, and tells what it cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from fletching.errors import ArgumentError, FletchingError
from fletching.models import micro_batched
from fletching.models.reranker import Reranker
from fletching.testing import save_tiny_cross_encoder

QUERY = "What keeps an arrow true?"
TEXTS = ["wood", "The archer draws the bow.", "", "goose feather " * 40, "wood"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_cross_encoder(tmp_path_factory.mktemp("reranker"))


@pytest.fixture(scope="module")
def model(folder):
    return Reranker(folder, device="cpu")


@pytest.fixture(scope="module")
def stock(folder):
    return CrossEncoder(folder, device="cpu")


class Listwise(Reranker):
    """Scores as its base class does; lists stay whole."""

    listwise = True


# --- a cross-encoder ---


def test_rank_is_that_of_sentence_transformers(model, stock):
    got, expected = model.rank(QUERY, TEXTS), stock.rank(QUERY, TEXTS)
    assert [hit["corpus_id"] for hit in got] == [hit["corpus_id"] for hit in expected]
    assert [hit["score"] for hit in got] == pytest.approx([float(hit["score"]) for hit in expected], abs=1e-6)


def test_predict_is_that_of_sentence_transformers(model, stock):
    pairs = [(QUERY, text) for text in TEXTS]
    assert model.predict(pairs) == pytest.approx(stock.predict(pairs), abs=1e-6)


def test_one_pair_gives_one_score(model):
    assert model.predict((QUERY, "wood")) == pytest.approx(model.predict([(QUERY, "wood")])[0])


def test_no_pairs_give_no_scores(model):
    assert len(model.predict([])) == 0


def test_tensors_are_returned_on_request(model):
    assert isinstance(model.predict([(QUERY, "wood")], convert_to_tensor=True), torch.Tensor)


def test_a_prompt_is_put_in_front_of_the_query(model):
    assert model.rank("arrow", TEXTS, prompt="What is an ") == model.rank("What is an arrow", TEXTS)


@pytest.mark.parametrize("option", [{"prompt": 3}, {"prompt": b"What"}], ids=str)
def test_a_prompt_that_is_not_text_is_refused(model, option):
    with pytest.raises(ArgumentError, match=r"rank: `prompt` must be a string"):
        model.rank("arrow", TEXTS, **option)
    with pytest.raises(ArgumentError, match=r"predict: `prompt` must be a string"):
        model.predict([("arrow", "wood")], **option)


def test_half_of_a_surrogate_pair_in_a_prompt_is_read_as_a_replacement(model):
    assert model.rank("arrow", TEXTS, prompt="\ud83c ") == model.rank("\ufffd arrow", TEXTS)


def test_arguments_that_sentence_transformers_dropped_still_do_nothing(model):
    old = model.rank(QUERY, TEXTS, num_workers=0, convert_to_tensor=True, activation_fct=torch.nn.Identity())
    assert old == model.rank(QUERY, TEXTS, scores="logit")


def test_a_listwise_model_takes_an_array_of_pairs(folder):
    model = Listwise(folder, device="cpu")
    pairs = [(QUERY, "wood"), (QUERY, "bow")]
    assert model.predict(np.array(pairs)).tolist() == model.predict(pairs).tolist()


@pytest.mark.parametrize("queries", [{"q": "arrow"}, {"arrow"}], ids=repr)
def test_queries_without_an_order_are_refused(model, queries):
    with pytest.raises(ArgumentError, match="`queries` must be a list of queries"):
        model.rank_batch(queries, [TEXTS])


def test_the_card_of_several_labels_shows_what_they_can_do(folder, tmp_path):
    options = {"num_labels": 3, "model_kwargs": {"ignore_mismatched_sizes": True}}
    Reranker(folder, device="cpu", **options).save(str(tmp_path))
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "model.predict([(" in card
    assert "model.rank(" not in card


def test_two_labels_cannot_rank_but_predict(folder):
    model = Reranker(folder, device="cpu", num_labels=2, model_kwargs={"ignore_mismatched_sizes": True})
    with pytest.raises(ArgumentError, match=r"`self\.num_labels` must be 1 to rank; got 2"):
        model.rank(QUERY, TEXTS)
    probabilities = model.predict([(QUERY, text) for text in TEXTS], apply_softmax=True)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(TEXTS)))


# --- scores ---


def test_certain_probabilities_are_ordered_by_the_logits(folder):
    """Float32 rounds the sigmoid of anything above 17 to 1."""
    model = Reranker(folder, device="cpu")
    with torch.no_grad():
        model[0].model.classifier.bias += 40
    ranking = model.rank(QUERY, TEXTS)
    assert {hit["score"] for hit in ranking} == {1.0}
    by_logit = model.rank(QUERY, TEXTS, scores="logit")
    assert [hit["corpus_id"] for hit in ranking] == [hit["corpus_id"] for hit in by_logit]


def test_a_function_that_turns_scores_around_turns_the_order(model):
    ids = [hit["corpus_id"] for hit in model.rank(QUERY, TEXTS[:3], scores="logit")]
    turned = model.rank(QUERY, TEXTS[:3], activation_fn=torch.neg)
    assert [hit["corpus_id"] for hit in turned] == ids[::-1]


def test_a_function_of_the_user_is_applied(model):
    logits = model.predict([(QUERY, text) for text in TEXTS], scores="logit")
    doubled = model.predict([(QUERY, text) for text in TEXTS], activation_fn=lambda scores: 2 * scores)
    assert doubled == pytest.approx(2 * logits)


def test_scores_and_a_function_are_one_too_many(model):
    with pytest.raises(ArgumentError, match="`scores` must be None when `activation_fn` is given"):
        model.rank(QUERY, TEXTS, scores="logit", activation_fn=torch.nn.Identity())


def test_nan_names_the_document(folder):
    model = Reranker(folder, device="cpu")
    goose = model.tokenizer.convert_tokens_to_ids("goose")
    with torch.no_grad():
        model[0].model.bert.embeddings.word_embeddings.weight[goose] = float("nan")
    with pytest.raises(FletchingError, match="computed NaN for document 1 of list 0"):
        model.rank(QUERY, ["wood", "goose"])


def test_infinity_names_the_document(folder):
    model = Reranker(folder, device="cpu")
    with torch.no_grad():
        model[0].model.classifier.bias.fill_(float("inf"))
    with pytest.raises(FletchingError, match="computed infinity for document 0 of list 0"):
        model.rank(QUERY, ["wood", "goose"])


def test_nan_that_comes_of_the_list_is_refused(folder, monkeypatch):
    monkeypatch.setattr(Listwise, "score_lists", lambda self, encoded, sizes: encoded * float("nan"))
    with pytest.raises(FletchingError, match="computed NaN for document 0 of list 0"):
        Listwise(folder, device="cpu").rank(QUERY, ["wood", "goose"])


def test_a_string_is_not_a_list_of_queries(model):
    with pytest.raises(ArgumentError, match=r"`queries` must be a list of queries; got .* Use `rank`"):
        model.rank_batch(QUERY, [TEXTS])


@pytest.mark.parametrize("bad", [None, 5, b"q"])
def test_rank_batch_names_what_is_no_list(model, bad):
    with pytest.raises(ArgumentError, match="`queries` must be a list of queries"):
        model.rank_batch(bad, [TEXTS])
    with pytest.raises(ArgumentError, match="`document_lists` must be a list of lists of documents"):
        model.rank_batch([QUERY], bad)


# --- long documents ---


def test_lost_tokens_are_counted(model):
    document = "wood " * 100
    whole = model.tokenizer(QUERY, document, truncation=False, verbose=False)["input_ids"]
    assert model.rank(QUERY, ["wood", document]).lost_tokens == {1: len(whole) - model.max_seq_length}


def test_a_document_that_just_fits_loses_nothing(model):
    room = model.max_seq_length - len(model.tokenizer([QUERY], [""])["input_ids"][0])
    rankings = model.rank_batch([QUERY, QUERY], [["wood " * room], ["wood " * (room + 1)]])
    assert [ranking.lost_tokens for ranking in rankings] == [{}, {0: 1}]


def test_a_limit_that_the_checkpoint_tells_the_tokenizer_counts(folder):
    """It reads 48 tokens, but is told to cut at 20."""
    model = Reranker(folder, device="cpu")
    model[0].processing_kwargs = {"text": {"max_length": 20}}
    document = "wood " * 30
    whole = model.tokenizer(QUERY, document, truncation=False, verbose=False)["input_ids"]
    assert model.rank("bow", [document, "goose"]).lost_tokens.keys() == {0}
    assert model.rank(QUERY, [document]).lost_tokens == {0: len(whole) - 20}


def test_chunks_need_to_know_where_tokens_are(folder, monkeypatch):
    model = Reranker(folder, device="cpu")
    monkeypatch.setattr(type(model.tokenizer), "is_fast", False)
    with pytest.raises(ArgumentError, match="`long` must be 'truncate' with a tokenizer that does not tell"):
        model.rank(QUERY, TEXTS, long="chunk_max")


class TestBatchesThatCannotBeTakenApart:
    """As those that flash attention flattens: sentence-transformers computes them."""

    @pytest.fixture(autouse=True)
    def _cannot_split(self, monkeypatch):
        monkeypatch.setattr(micro_batched, "can_split", lambda features: False)

    def test_lost_tokens_are_not_known(self, model):
        assert model.rank(QUERY, TEXTS).lost_tokens is None

    def test_chunks_are_refused(self, model):
        with pytest.raises(ArgumentError, match="`long` must be 'truncate' for a model whose batches"):
            model.rank(QUERY, TEXTS, long="chunk_max")

    def test_nan_is_refused(self, folder):
        model = Reranker(folder, device="cpu")
        with torch.no_grad():
            model[0].model.classifier.bias.fill_(float("nan"))
        with pytest.raises(FletchingError, match="computed NaN for document 0 of list 0"):
            model.rank(QUERY, TEXTS)


def test_tokens_are_lost_per_list(model):
    rankings = model.rank_batch([QUERY, QUERY], [["wood", "wood " * 100], ["wood " * 100, "wood"]])
    assert [[*ranking.lost_tokens] for ranking in rankings] == [[1], [0]]


def test_chunks_cover_the_document_and_overlap(model):
    document = " ".join(f"feather {number}" for number in range(60))
    chunks = model._chunk(QUERY, document, prompt=None)
    starts = [document.index(chunk) for chunk in chunks]
    ends = [start + len(chunk) for start, chunk in zip(starts, chunks, strict=True)]
    assert (starts[0], ends[-1]) == (0, len(document))
    assert all(start < end for start, end in zip(starts[1:], ends, strict=False))
    assert model.rank(QUERY, chunks).lost_tokens == {}


def test_the_best_chunk_decides(model):
    document = " ".join(f"feather {number}" for number in range(60))
    chunks = model.rank(QUERY, model._chunk(QUERY, document, prompt=None), scores="logit")
    [hit] = model.rank(QUERY, [document], scores="logit", long="chunk_max")
    assert hit["score"] == pytest.approx(chunks[0]["score"], abs=1e-5)


def test_the_constructor_sets_what_happens_to_long_documents(folder):
    ranking = Reranker(folder, device="cpu", long="chunk_max").rank(QUERY, TEXTS)
    assert ranking.lost_tokens == {}


def test_a_query_that_leaves_no_room_for_chunks_is_refused(model):
    with pytest.raises(ArgumentError, match=r"`query` must be short enough to leave 16 of 48 tokens"):
        model.rank("arrow " * 40, ["wood " * 100], long="chunk_max")


@pytest.mark.parametrize(
    "option", [{"long": "wrap"}, {"dtype": "float8"}], ids=lambda option: next(iter(option))
)
def test_a_bad_option_is_refused_before_anything_is_opened(option):
    with pytest.raises(ArgumentError, match=f"`{next(iter(option))}` must be one of"):
        Reranker("no/such/folder", **option)


# --- long queries ---


@pytest.mark.parametrize("words", [20, 46, 47, 60, 500])
def test_a_clipped_query_gives_the_scores_and_losses_of_the_whole(model, monkeypatch, words):
    """A tiny model reads 48 tokens; 500 words are 500 tokens that cannot fit beside a document."""
    query = "arrow " * words
    clipped = model.rank(query, TEXTS)
    monkeypatch.setattr(Reranker, "_clip_queries", lambda self, pairs: (pairs, [0] * len(pairs)))
    whole = model.rank(query, TEXTS)

    assert clipped == whole
    assert clipped.lost_tokens == whole.lost_tokens


def test_a_query_of_100_000_characters_is_tokenized_once(model, monkeypatch):
    longest = []
    preprocess = Reranker.preprocess

    def watch(self, inputs, *args, **kwargs):
        longest.append(max(len(query) for query, _ in inputs))
        return preprocess(self, inputs, *args, **kwargs)

    monkeypatch.setattr(Reranker, "preprocess", watch)
    ranking = model.rank("feather " * 12_500, ["wood", "goose"] * 50)

    assert max(longest) < 2000
    assert len(ranking) == 100
    assert min(ranking.lost_tokens.values()) > 12_000
