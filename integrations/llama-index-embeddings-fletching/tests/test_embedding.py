"""The right prompt for each side, and vectors as the model makes them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.schema import MetadataMode, QueryBundle, TextNode
from llama_index.embeddings.fletching import FletchingEmbedding, base

import fletching
from fletching.errors import ArgumentError, CheckpointError
from fletching.methods.two_d_matryoshka import ElasticEmbedder
from fletching.testing import save_tiny_cross_encoder, save_tiny_embedder

TEXTS = ["the archer draws the bow", "feathers keep the arrow true", "a dance", "wood and wind"]
QUERY = "what keeps the arrow true"


def test_the_class_is_an_embedding():
    names = [base.__name__ for base in FletchingEmbedding.__mro__]
    assert BaseEmbedding.__name__ in names


def test_importing_and_constructing_loads_no_torch():
    code = (
        "import sys; from llama_index.embeddings.fletching import FletchingEmbedding; "
        "FletchingEmbedding(model='some/model'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_queries_and_documents_are_encoded_as_such(embed_model, embedder):
    assert embed_model.get_query_embedding(QUERY) == embedder.encode_query([QUERY])[0].tolist()
    assert embed_model.get_text_embedding(QUERY) == embedder.encode_document([QUERY])[0].tolist()
    assert embed_model.get_text_embedding_batch(TEXTS) == embedder.encode_document(TEXTS).tolist()


def test_the_prompts_of_the_checkpoint_are_applied(embed_model, embedder):
    expected = embedder.encode([QUERY], prompt="what is: ")[0].tolist()
    assert embed_model.get_query_embedding(QUERY) == expected
    expected = embedder.encode([QUERY], prompt="passage: ")[0].tolist()
    assert embed_model.get_text_embedding(QUERY) == expected


@pytest.mark.parametrize("prompt", ["feather: ", ""])
def test_a_prompt_of_the_user_wins(folder, embedder, prompt):
    embed_model = FletchingEmbedding(folder, query_prompt=prompt, document_prompt=prompt)
    expected = embedder.encode([QUERY], prompt=prompt)[0].tolist()
    assert embed_model.get_query_embedding(QUERY) == expected
    assert embed_model.get_text_embedding(QUERY) == expected


async def test_asynchronous_methods_return_the_same(embed_model):
    assert await embed_model.aget_query_embedding(QUERY) == embed_model.get_query_embedding(QUERY)
    assert await embed_model.aget_text_embedding(QUERY) == embed_model.get_text_embedding(QUERY)
    expected = embed_model.get_text_embedding_batch(TEXTS)
    assert await embed_model.aget_text_embedding_batch(TEXTS) == expected


def test_vectors_are_lists_of_python_floats(embed_model):
    for vector in (embed_model.get_query_embedding(QUERY), *embed_model.get_text_embedding_batch(TEXTS)):
        assert type(vector) is list
        assert {type(value) for value in vector} == {float}


def test_no_texts_give_no_vectors(embed_model):
    assert embed_model.get_text_embedding_batch([]) == []
    assert embed_model._get_text_embeddings([]) == []


def test_truncation_keeps_the_first_dimensions_at_length_one(folder, embedder):
    embed_model = FletchingEmbedding(folder, truncate_dim=8)
    assert (
        embed_model.get_query_embedding(QUERY) == embedder.encode_query([QUERY], truncate_dim=8)[0].tolist()
    )
    assert sum(value**2 for value in embed_model.get_text_embedding(QUERY)) == pytest.approx(1)


async def test_a_truncation_to_more_than_there_is_is_refused(folder):
    embed_model = FletchingEmbedding(folder, truncate_dim=33)
    message = f"FletchingEmbedding: `truncate_dim` must be at most 32, the dimensions of {folder}; got 33."
    with pytest.raises(ArgumentError) as caught:
        embed_model.get_query_embedding(QUERY)
    assert str(caught.value) == message
    with pytest.raises(ArgumentError):
        await embed_model.aget_text_embedding(QUERY)


def test_normalize_gives_length_one(tmp_path):
    folder = save_tiny_embedder(tmp_path, normalize=False)
    as_it_is = FletchingEmbedding(folder).get_text_embedding(QUERY)
    normalized = FletchingEmbedding(folder, normalize=True).get_text_embedding(QUERY)
    assert sum(value**2 for value in as_it_is) != pytest.approx(1)
    assert sum(value**2 for value in normalized) == pytest.approx(1)


def test_layers_of_a_model_that_computes_all_are_refused(folder):
    message = (
        f"FletchingEmbedding: `num_layers` must be None: {folder} always computes all its layers; got 1. "
        "Only models trained to leave early can be cut."
    )
    with pytest.raises(ArgumentError) as caught:
        FletchingEmbedding(folder, num_layers=1).get_query_embedding(QUERY)
    assert str(caught.value) == message


def test_layers_reach_a_model_that_leaves_early(own_embedder, monkeypatch):
    asked = []
    encode = own_embedder.encode

    def encode_early(*args, truncate_layers=None, **kwargs):
        asked.append(truncate_layers)
        return encode(*args, **kwargs)

    monkeypatch.setattr(own_embedder, "get_model_kwargs", lambda: ["truncate_layers"])
    monkeypatch.setattr(own_embedder, "encode", encode_early)
    FletchingEmbedding(own_embedder, num_layers=1).get_query_embedding(QUERY)
    FletchingEmbedding(own_embedder).get_query_embedding(QUERY)
    assert asked == [1, None]


def test_elastic_model_is_cut_in_depth_and_width(tmp_path):
    folder = str(tmp_path / "elastic")
    ElasticEmbedder(save_tiny_embedder(tmp_path / "tiny"), device="cpu").save(folder)
    options = {"num_layers": 1, "truncate_dim": 8}
    embed_model = FletchingEmbedding(folder, **options, model_kwargs={"device": "cpu"})
    model = fletching.load(folder, device="cpu")
    assert embed_model.get_query_embedding(QUERY) == model.encode_query(QUERY, **options).tolist()
    assert embed_model.get_text_embedding(QUERY) == model.encode_document(QUERY, **options).tolist()
    assert model.encode_query(QUERY, **options).tolist() != model.encode_query(QUERY, truncate_dim=8).tolist()


def test_all_embeddings_share_one_model(folder, monkeypatch):
    opened, load = [], fletching.load_shared
    monkeypatch.setattr(
        fletching, "load_shared", lambda *args, **kwargs: opened.append(load(*args, **kwargs)) or opened[-1]
    )
    for embed_model in [FletchingEmbedding(folder), FletchingEmbedding(folder, truncate_dim=8)] * 3:
        embed_model.get_query_embedding(QUERY)
    assert len(opened) == 2
    assert opened[0] is opened[1]


def test_a_missing_model_is_found_at_the_first_call():
    embed_model = FletchingEmbedding(model="no-such-model")
    with pytest.raises(CheckpointError, match="Checkpoint 'no-such-model': there is no such folder"):
        embed_model.get_query_embedding(QUERY)


@pytest.mark.parametrize("model", ["a cross-encoder", "mvp-mini"])
def test_a_reranker_is_refused(tmp_path, model):
    embed_model = FletchingEmbedding(model if model == "mvp-mini" else save_tiny_cross_encoder(tmp_path))
    with pytest.raises(CheckpointError, match="which is no embedder"):
        embed_model.get_query_embedding(QUERY)


def test_a_loaded_model_is_used_as_it_is(own_embedder, embed_model):
    given = FletchingEmbedding(own_embedder)
    assert given.get_query_embedding(QUERY) == embed_model.get_query_embedding(QUERY)


def test_loaded_models_have_different_names(own_embedder, tmp_path):
    other = fletching.load(save_tiny_embedder(tmp_path, seed=1))
    assert FletchingEmbedding(own_embedder).model_name != FletchingEmbedding(other).model_name


def test_lone_surrogates_and_blank_texts_have_vectors(embed_model):
    assert len(embed_model.get_query_embedding("")) == 32
    assert len(embed_model.get_query_embedding(" \n")) == 32
    assert len(embed_model.get_text_embedding("arrow \ud83d")) == 32


def test_a_query_of_100000_characters_has_a_vector(embed_model):
    assert len(embed_model.get_query_embedding("feathers " * 11_112)) == 32


@pytest.mark.parametrize("text", [None, 3, b"bow"])
async def test_what_is_no_text_is_refused(embed_model, text):
    message = r"^FletchingEmbedding: `text` must be a string; got .*\.$"
    with pytest.raises(ArgumentError, match=message):
        embed_model.get_query_embedding(text)
    with pytest.raises(ArgumentError, match=message):
        await embed_model.aget_text_embedding(text)


# --- in LlamaIndex ---


def test_an_index_finds_by_it(embed_model, embedder):
    nodes = [TextNode(text=text, id_=str(place)) for place, text in enumerate(TEXTS)]
    index = VectorStoreIndex(nodes, embed_model=embed_model)
    found = index.as_retriever(similarity_top_k=4).retrieve(QUERY)
    similarities = embedder.similarity(embedder.encode_query([QUERY]), embedder.encode_document(TEXTS))[0]
    expected = sorted(range(4), key=lambda place: -similarities[place])
    assert [node.node_id for node in found] == [str(place) for place in expected]
    assert found[0].score == pytest.approx(float(similarities.max()), abs=1e-5)


async def test_an_index_finds_asynchronously(embed_model):
    nodes = [TextNode(text=text) for text in TEXTS]
    retriever = VectorStoreIndex(nodes, embed_model=embed_model, use_async=False).as_retriever()
    found = await retriever.aretrieve(QueryBundle(QUERY))
    assert [node.text for node in found] == [node.text for node in retriever.retrieve(QUERY)]


async def test_it_is_a_transformation(embed_model):
    nodes = [TextNode(text=text, metadata={"page": 1}) for text in TEXTS]
    expected = embed_model.get_text_embedding_batch([node.get_content(MetadataMode.EMBED) for node in nodes])
    assert [node.embedding for node in embed_model(nodes)] == expected
    assert [node.embedding for node in await embed_model.acall(nodes)] == expected


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_each_batch_is_one_start_and_one_end(folder, events, way):
    embed_model = FletchingEmbedding(folder, embed_batch_size=3)
    if way == "sync":
        vectors = embed_model.get_text_embedding_batch(TEXTS)
    else:
        vectors = await embed_model.aget_text_embedding_batch(TEXTS)
    starts = [event for event in events.seen if event.class_name() == "EmbeddingStartEvent"]
    ends = [event for event in events.seen if event.class_name() == "EmbeddingEndEvent"]
    assert [event.model_dict["model_name"] for event in starts] == [folder, folder]
    assert [event.chunks for event in ends] == [TEXTS[:3], TEXTS[3:]]
    assert [vector for event in ends for vector in event.embeddings] == vectors


@pytest.mark.parametrize("cached", [False, True])
async def test_a_query_is_one_start_and_one_end(folder, store, events, cached):
    embed_model = FletchingEmbedding(folder, embeddings_cache=store if cached else None)
    for _ in range(2):
        vector = embed_model.get_query_embedding(QUERY)
        assert await embed_model.aget_query_embedding(QUERY) == vector
    assert [event.class_name() for event in events.seen] == ["EmbeddingStartEvent", "EmbeddingEndEvent"] * 4
    assert all(event.embeddings == [vector] for event in events.seen[1::2])


def test_the_callback_manager_is_told(folder):
    class Handler(BaseCallbackHandler):
        ended: list = []

        def start_trace(self, trace_id=None): ...

        def end_trace(self, trace_id=None, trace_map=None): ...

        def on_event_start(self, event_type, payload=None, **kwargs):
            return kwargs["event_id"]

        def on_event_end(self, event_type, payload=None, **kwargs):
            self.ended.append((event_type, payload[EventPayload.CHUNKS]))

    manager = CallbackManager([Handler([], [])])
    FletchingEmbedding(folder, callback_manager=manager).get_text_embedding_batch(TEXTS)
    assert Handler.ended == [(CBEventType.EMBEDDING, TEXTS)]


@pytest.mark.skipif("rate_limiter" not in BaseEmbedding.model_fields, reason="needs a newer llama-index-core")
def test_the_rate_limiter_is_asked(folder):
    class Limiter:
        asked = 0

        def acquire(self):
            self.asked += 1

    limiter = Limiter()
    FletchingEmbedding(folder, embed_batch_size=2, rate_limiter=limiter).get_text_embedding_batch(TEXTS)
    assert limiter.asked == 2


def test_a_rate_limiter_that_would_be_ignored_is_refused(folder, monkeypatch):
    monkeypatch.setattr(base, "BaseEmbedding", TextNode)  # a class without that field
    with pytest.raises(ArgumentError, match="`rate_limiter` must be None: the base class knows no limiter"):
        FletchingEmbedding(folder, rate_limiter=object())


def test_the_payload_of_events_holds_no_secret(folder, events):
    embed_model = FletchingEmbedding(folder, model_kwargs={"token": "hf_secret"})
    embed_model.get_query_embedding(QUERY)
    assert events.seen
    assert "hf_secret" not in str([event.model_dump() for event in events.seen])


# --- what is changed later, and subclasses ---


@pytest.mark.parametrize("name", ["model", "model_name"])
def test_a_model_assigned_later_is_opened(embed_model, tmp_path, name):
    other = save_tiny_embedder(tmp_path, seed=1)
    before, expected = embed_model.get_query_embedding(QUERY), FletchingEmbedding(other)
    copied = embed_model.model_copy(update={name: other})
    setattr(embed_model, name, other)
    for changed in (copied, embed_model):
        assert changed.model_name == other
        assert changed.get_query_embedding(QUERY) == expected.get_query_embedding(QUERY) != before


def test_options_changed_in_place_open_the_model_again(embed_model):
    first = embed_model._load()
    embed_model.model_kwargs["dtype"] = "bfloat16"
    assert embed_model._load() is not first


@pytest.mark.parametrize("name", ["model", "model_name", "model_kwargs"])
def test_a_given_model_stays(own_embedder, name):
    given = FletchingEmbedding(own_embedder)
    with pytest.raises(ArgumentError, match=f"^FletchingEmbedding: `{name}` must be (left|empty)"):
        setattr(given, name, {"device": "cpu"} if name == "model_kwargs" else "other")


async def test_a_synchronous_override_is_asked_asynchronously(folder):
    class Fixed(FletchingEmbedding):
        def _get_query_embedding(self, query):
            return [1.0]

        def _get_text_embedding(self, text):
            return [2.0]

        def _get_text_embeddings(self, texts):
            return [[3.0] for _ in texts]

    fixed = Fixed(folder)
    assert await fixed.aget_query_embedding(QUERY) == [1.0]
    assert await fixed.aget_text_embedding(QUERY) == [2.0]
    assert await fixed.aget_text_embedding_batch([QUERY]) == [[3.0]]
