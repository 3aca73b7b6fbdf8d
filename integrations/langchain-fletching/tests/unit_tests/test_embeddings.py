from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import fletching
from fletching.errors import ArgumentError, CheckpointError
from fletching.methods.two_d_matryoshka import ElasticEmbedder
from fletching.testing import save_tiny_embedder
from langchain_fletching import FletchingEmbeddings


@pytest.fixture
def embeddings(embedder_folder: str) -> FletchingEmbeddings:
    return FletchingEmbeddings(model=embedder_folder)


@pytest.fixture
def model(embedder_folder: str) -> Any:
    return fletching.load_shared(embedder_folder, kind="embedder")


def test_prompts_are_those_of_the_checkpoint(
    embeddings: FletchingEmbeddings, model: Any, query: str, texts: list[str]
) -> None:
    assert embeddings.embed_query(query) == model.encode_query(query).tolist()
    assert embeddings.embed_documents(texts) == model.encode_document(texts).tolist()
    assert embeddings.embed_query(query) != model.encode(query).tolist()


def test_prompts_can_be_replaced(embedder_folder: str, model: Any, query: str) -> None:
    embeddings = FletchingEmbeddings(model=embedder_folder, query_prompt="search: ", document_prompt="")
    assert embeddings.embed_query(query) == model.encode(f"search: {query}", prompt="").tolist()
    assert embeddings.embed_documents([query]) == [model.encode(query, prompt="").tolist()]


async def test_async_results_are_the_same(
    embeddings: FletchingEmbeddings, query: str, texts: list[str]
) -> None:
    assert await embeddings.aembed_query(query) == embeddings.embed_query(query)
    assert await embeddings.aembed_documents(texts) == embeddings.embed_documents(texts)


def test_values_are_python_floats(embeddings: FletchingEmbeddings, query: str, texts: list[str]) -> None:
    vectors = [embeddings.embed_query(query), *embeddings.embed_documents(texts)]
    assert {type(value) for vector in vectors for value in vector} == {float}
    json.dumps(vectors)


async def test_no_texts_open_no_model() -> None:
    embeddings = FletchingEmbeddings(model="no/such-model")
    assert embeddings.embed_documents([]) == []
    assert await embeddings.aembed_documents([]) == []


def test_truncated_vectors_have_length_one(embedder_folder: str, query: str, texts: list[str]) -> None:
    """The leading dimensions keep their direction, and get length one again."""
    whole = np.array(FletchingEmbeddings(model=embedder_folder).embed_documents(texts))[:, :8]
    embeddings = FletchingEmbeddings(model=embedder_folder, truncate_dim=8)
    vectors = np.array(embeddings.embed_documents(texts))
    assert vectors.shape == (len(texts), 8)
    assert len(embeddings.embed_query(query)) == 8
    np.testing.assert_allclose(vectors, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-6)


def test_truncation_may_keep_all(embeddings: FletchingEmbeddings, embedder_folder: str, query: str) -> None:
    whole = embeddings.embed_query(query)
    same = FletchingEmbeddings(model=embedder_folder, truncate_dim=len(whole)).embed_query(query)
    np.testing.assert_allclose(same, whole, atol=1e-6)


def test_normalize_gives_length_one(tmp_path: Any, query: str) -> None:
    folder = save_tiny_embedder(tmp_path, normalize=False)
    raw = np.array(FletchingEmbeddings(model=folder, normalize=False).embed_query(query))
    unit = np.array(FletchingEmbeddings(model=folder, normalize=True).embed_query(query))
    assert abs(np.linalg.norm(raw) - 1) > 0.01
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw), atol=1e-6)
    assert FletchingEmbeddings(model=folder).embed_query(query) == raw.tolist()


def test_batch_size_changes_no_vector(embedder_folder: str, texts: list[str]) -> None:
    one = FletchingEmbeddings(model=embedder_folder, batch_size=1).embed_documents(texts)
    np.testing.assert_allclose(
        one, FletchingEmbeddings(model=embedder_folder).embed_documents(texts), atol=1e-6
    )


def test_num_layers_reaches_a_model_that_knows_it(tmp_path: Any, query: str) -> None:
    """The stand-in multiplies its vector by the number of layers, so that its arrival can be read off."""
    from torch import nn

    class Scaling(nn.Module):
        forward_kwargs = frozenset({"truncate_layers"})

        def forward(
            self, features: dict[str, Any], truncate_layers: int = 1, **kwargs: Any
        ) -> dict[str, Any]:
            return {**features, "sentence_embedding": features["sentence_embedding"] * truncate_layers}

    model = fletching.Embedder(save_tiny_embedder(tmp_path, normalize=False), device="cpu")
    model.append(Scaling())
    whole = np.array(FletchingEmbeddings(model=model).embed_query(query))
    cut = FletchingEmbeddings(model=model, num_layers=3).embed_query(query)
    np.testing.assert_allclose(cut, 3 * whole, rtol=1e-6)


def test_elastic_model_is_cut_in_depth_and_width(tmp_path: Any, texts: list[str], query: str) -> None:
    folder = str(tmp_path / "elastic")
    ElasticEmbedder(save_tiny_embedder(tmp_path / "tiny"), device="cpu").save(folder)
    embeddings = FletchingEmbeddings(
        model=folder, num_layers=1, truncate_dim=8, model_kwargs={"device": "cpu"}
    )
    model = fletching.load(folder, device="cpu")
    expected = model.encode_document(texts, num_layers=1, truncate_dim=8)
    assert embeddings.embed_documents(texts) == expected.tolist()
    assert embeddings.embed_query(query) == model.encode_query(query, num_layers=1, truncate_dim=8).tolist()
    assert np.abs(expected - model.encode_document(texts, truncate_dim=8)).max() > 0.01


def test_layers_that_an_elastic_model_does_not_have_are_refused(tmp_path: Any, query: str) -> None:
    model = ElasticEmbedder(save_tiny_embedder(tmp_path), device="cpu")
    with pytest.raises(ArgumentError) as caught:
        FletchingEmbeddings(model=model, num_layers=3).embed_query(query)
    message = "`num_layers` must be an integer from 1 to 2, the layers of the model; got 3."
    assert str(caught.value) == f"ElasticEmbedder.encode: {message}"


def test_loaded_model_is_used_as_it_is(model: Any, query: str) -> None:
    assert FletchingEmbeddings(model=model).embed_query(query) == model.encode_query(query).tolist()


def test_vector_store_finds_the_text_itself(embedder_folder: str, texts: list[str]) -> None:
    from langchain_core.vectorstores import InMemoryVectorStore

    embeddings = FletchingEmbeddings(model=embedder_folder, query_prompt="", document_prompt="")
    store = InMemoryVectorStore.from_texts(texts, embeddings)
    [(hit, score)] = store.similarity_search_with_score(texts[1], k=1)
    assert hit.page_content == texts[1]
    assert score == pytest.approx(1)


# --- bad input ---


@pytest.mark.parametrize("name", ["truncate_dim", "num_layers", "batch_size"])
@pytest.mark.parametrize("value", [0, -8, True, "8"])
def test_count_is_refused(name: str, value: object) -> None:
    with pytest.raises(ArgumentError) as caught:
        FletchingEmbeddings(**{name: value})
    message = f"FletchingEmbeddings: `{name}` must be a positive integer or None; got {value!r}."
    assert str(caught.value) == message


async def test_too_wide_truncation_is_refused(embedder_folder: str, query: str) -> None:
    embeddings = FletchingEmbeddings(model=embedder_folder, truncate_dim=4096)
    message = "`truncate_dim` must be at most 32, the dimensions of the model; got 4096."
    with pytest.raises(ArgumentError) as caught:
        embeddings.embed_documents([query])
    assert str(caught.value) == f"FletchingEmbeddings: {message}"
    with pytest.raises(ArgumentError, match="must be at most 32"):
        await embeddings.aembed_query(query)


def test_num_layers_is_refused_by_a_model_without_it(embedder_folder: str, query: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        FletchingEmbeddings(model=embedder_folder, num_layers=1).embed_query(query)
    message = (
        "`num_layers` must be None for a model that cannot stop at a layer; got 1. "
        "ElasticEmbedder opens one that can."
    )
    assert str(caught.value) == f"FletchingEmbeddings: {message}"


def test_normalize_false_is_refused_by_a_normalising_model(embedder_folder: str, query: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        FletchingEmbeddings(model=embedder_folder, normalize=False).embed_query(query)
    message = "`normalize` must be True or None for a checkpoint that normalises by itself; got False."
    assert str(caught.value) == f"FletchingEmbeddings: {message}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"normalize": "yes"}, "`normalize` must be a valid boolean; got 'yes'."),
        ({"query_prompt": 3}, "`query_prompt` must be a valid string; got 3."),
        (
            {"model_name": "x"},
            "`kwargs` must be one of the arguments of FletchingEmbeddings; got 'model_name'. "
            "Did you mean 'model'?",
        ),
    ],
)
def test_argument_is_refused_in_one_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        FletchingEmbeddings(**arguments)
    assert str(caught.value) == f"FletchingEmbeddings: {message}"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("text", "`texts` must be a list of strings; got 'text'. Pass a list, even for one text."),
        (["text", None], "`texts[1]` must be a string; got None."),
        (None, "`texts` must be a list of strings; got None. Pass a list, even for one text."),
    ],
)
def test_other_things_than_texts_are_refused(
    embeddings: FletchingEmbeddings, texts: Any, message: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        embeddings.embed_documents(texts)
    assert str(caught.value) == f"FletchingEmbeddings.embed_documents: {message}"


def test_query_is_one_text(embeddings: FletchingEmbeddings) -> None:
    with pytest.raises(ArgumentError) as caught:
        embeddings.embed_query(["text"])  # type: ignore[arg-type]
    assert str(caught.value) == "FletchingEmbeddings.embed_query: `text` must be a string; got ['text']."


def test_reranker_is_refused_as_an_embedder(query: str) -> None:
    with pytest.raises(CheckpointError, match="it opens as MVPReranker, which is no embedder"):
        FletchingEmbeddings(model="mvp-mini").embed_query(query)
