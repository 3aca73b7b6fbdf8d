"""The cache gives a vector back only to whoever asks the same question of the same model."""

from __future__ import annotations

import json

import pytest
import torch
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.embeddings.fletching import FletchingEmbedding
from llama_index.embeddings.fletching.cache import COLLECTIONS, read_entry

import fletching
from fletching.errors import ArgumentError
from fletching.testing import save_tiny_embedder

METHODS = {
    "query": "get_query_embedding",
    "text": "get_text_embedding",
    "texts": "get_text_embedding_batch",
}
TEXTS = ["the archer draws the bow", "feathers keep the arrow true", "a dance", "wood and wind"]


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """Ask for the vector of a query, of a text, or of many texts."""

    async def run(embed_model, task, text):
        name = METHODS[task]
        if request.param == "sync":
            return getattr(embed_model, name)(text)
        return await getattr(embed_model, f"a{name}")(text)

    return run


def entries(store, task):
    return store.get_all(collection=COLLECTIONS[task])


@pytest.mark.parametrize("first", ["query", "text"])
async def test_queries_and_documents_never_mix(ask, embed_model, folder, store, first):
    cached = FletchingEmbedding(folder, embeddings_cache=store)
    for task in (first, "query", "text", "query"):
        assert await ask(cached, task, "bow") == await ask(embed_model, task, "bow")
    assert await ask(cached, "query", "bow") != await ask(cached, "text", "bow")


@pytest.mark.parametrize("task", ["query", "text"])
async def test_a_vector_is_computed_once(ask, counted, store, task):
    cached = FletchingEmbedding(counted, embeddings_cache=store)
    first = await ask(cached, task, "bow")
    assert await ask(cached, task, "bow") == first
    assert counted.computed == ["bow"]


async def test_a_batch_computes_what_is_missing(ask, counted, embed_model, store):
    cached = FletchingEmbedding(counted, embeddings_cache=store)
    await ask(cached, "text", TEXTS[1])
    vectors = await ask(cached, "texts", TEXTS)
    assert counted.computed == [TEXTS[1], TEXTS[0], *TEXTS[2:]]
    assert vectors == [
        pytest.approx(vector, abs=1e-6) for vector in embed_model.get_text_embedding_batch(TEXTS)
    ]
    assert await ask(cached, "texts", TEXTS) == vectors
    assert len(counted.computed) == 4


async def test_single_texts_and_batches_share_entries(ask, counted, store):
    cached = FletchingEmbedding(counted, embeddings_cache=store)
    vectors = await ask(cached, "texts", TEXTS)
    assert await ask(cached, "text", TEXTS[2]) == vectors[2]
    assert len(counted.computed) == len(TEXTS)


async def test_an_empty_store_is_used(ask, counted):
    class EmptyStore(SimpleKVStore):
        def __len__(self):
            return 0

    cached = FletchingEmbedding(counted, embeddings_cache=EmptyStore())
    await ask(cached, "query", "bow")
    await ask(cached, "query", "bow")
    assert counted.computed == ["bow"]


@pytest.mark.parametrize(
    "settings",
    [
        {"truncate_dim": 8},
        {"query_prompt": "feather: ", "document_prompt": "feather: "},
        {"query_prompt": ""},
    ],
    ids=str,
)
async def test_settings_never_mix(ask, folder, store, settings):
    await ask(FletchingEmbedding(folder, embeddings_cache=store), "query", "bow")
    cached = FletchingEmbedding(folder, embeddings_cache=store, **settings)
    expected = await ask(FletchingEmbedding(folder, **settings), "query", "bow")
    assert await ask(cached, "query", "bow") == expected


async def test_models_never_mix(ask, folder, tmp_path, store):
    other = save_tiny_embedder(tmp_path, seed=1)
    first = await ask(FletchingEmbedding(folder, embeddings_cache=store), "text", "bow")
    second = await ask(FletchingEmbedding(other, embeddings_cache=store), "text", "bow")
    assert second == await ask(FletchingEmbedding(other), "text", "bow")
    assert second != first


async def test_a_model_that_changed_its_prompts_is_another(ask, own_embedder, store):
    cached = FletchingEmbedding(own_embedder, embeddings_cache=store)
    before = await ask(cached, "query", "bow")
    own_embedder.prompts = {"query": "feather: "}
    assert await ask(cached, "query", "bow") == own_embedder.encode_query(["bow"])[0].tolist() != before


async def test_the_same_model_under_another_name_shares_entries(ask, folder, counted, store):
    first = await ask(FletchingEmbedding(folder, embeddings_cache=store), "query", "bow")
    assert await ask(FletchingEmbedding(counted, embeddings_cache=store), "query", "bow") == first
    assert counted.computed == []


CORRUPT = {
    "another length": {"embedding": [0.1] * 31},
    "nothing": {"embedding": []},
    "NaN": {"embedding": [float("nan")] * 32},
    "infinity": {"embedding": [float("inf")] * 32},
    "no float": {"embedding": [10**400] * 32},
    "text": {"embedding": ["0.1"] * 32},
    "flags": {"embedding": [True] * 32},
    "no list": {"embedding": "0.1"},
    "no entry of ours": {"8a6f": [0.1] * 32},
    "nothing at all": {},
}


@pytest.mark.parametrize("entry", CORRUPT.values(), ids=CORRUPT)
async def test_a_corrupt_entry_is_computed_again(ask, counted, store, entry):
    cached = FletchingEmbedding(counted, embeddings_cache=store)
    expected = await ask(cached, "query", "bow")
    (key,) = entries(store, "query")
    store.put(key, entry, collection=COLLECTIONS["query"])
    assert await ask(cached, "query", "bow") == expected
    assert entries(store, "query") == {key: {"embedding": expected}}
    assert counted.computed == ["bow", "bow"]


async def test_changing_a_returned_vector_changes_no_entry(ask, folder, store):
    cached = FletchingEmbedding(folder, embeddings_cache=store)
    expected = list(await ask(cached, "query", "bow"))
    for _ in range(2):
        (await ask(cached, "query", "bow")).clear()
    assert await ask(cached, "query", "bow") == expected


async def test_entries_survive_json(ask, counted, store):
    cached = FletchingEmbedding(counted, embeddings_cache=store)
    expected = await ask(cached, "texts", TEXTS)
    reopened = SimpleKVStore.from_dict(json.loads(json.dumps(store.to_dict())))
    assert await ask(FletchingEmbedding(counted, embeddings_cache=reopened), "texts", TEXTS) == expected
    assert counted.computed == TEXTS


async def test_keys_hold_no_text(ask, folder, store):
    await ask(FletchingEmbedding(folder, embeddings_cache=store), "query", "a secret question \ud83d")
    (key,) = entries(store, "query")
    assert len(key) == 64


def test_a_cache_assigned_later_is_kept_from_the_base_class(folder, embed_model, store):
    later = FletchingEmbedding(folder)
    later.embeddings_cache = store
    assert later.cache is store
    assert later.embeddings_cache is None
    later.get_text_embedding("bow")
    assert later.get_query_embedding("bow") == embed_model.get_query_embedding("bow")
    later.embeddings_cache = None
    assert later.cache is None


def test_a_cache_assigned_later_is_checked(embed_model):
    with pytest.raises(ArgumentError, match="`embeddings_cache` must be a BaseKVStore or None"):
        embed_model.embeddings_cache = {}


def test_the_model_is_fingerprinted_once(folder, store, monkeypatch):
    calls, fingerprint = [], fletching.fingerprint
    monkeypatch.setattr(fletching, "fingerprint", lambda model: calls.append(model) or fingerprint(model))
    cached = FletchingEmbedding(folder, embeddings_cache=store)
    for text in TEXTS:
        cached.get_query_embedding(text)
    assert len(calls) == 1


async def test_a_model_trained_in_place_is_another(ask, own_embedder, store):
    cached = FletchingEmbedding(own_embedder, embeddings_cache=store)
    before = await ask(cached, "query", "bow")
    with torch.no_grad():
        for parameter in own_embedder.parameters():
            parameter.add_(torch.linspace(0, 1, parameter.numel()).view_as(parameter))
    assert await ask(cached, "query", "bow") == own_embedder.encode_query(["bow"])[0].tolist() != before


async def test_weights_of_inference_mode_are_cached(ask, own_embedder, store):
    with torch.inference_mode():
        for module in own_embedder.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, torch.nn.Parameter(parameter.clone(), requires_grad=False))
    cached = FletchingEmbedding(own_embedder, embeddings_cache=store)
    assert await ask(cached, "query", "bow") == await ask(cached, "query", "bow")


def test_a_cache_in_a_copy_is_kept_from_the_base_class(embed_model, store):
    copied = embed_model.model_copy(update={"embeddings_cache": store})
    assert (copied.cache, copied.embeddings_cache, embed_model.cache) == (store, None, None)


def test_large_values_are_no_infinity():
    assert read_entry({"embedding": [1e308] * 32}, 32) == [1e308] * 32
