"""Every embedder and reranker we ship keeps the promises: one class each, counted by the last test below."""

from __future__ import annotations

import pytest
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore

from fletching.methods.defsent_plus import DefSentPlusEmbedder
from fletching.methods.dse import DSEConfig, DSEReranker
from fletching.methods.kalm import KaLMEmbedder
from fletching.methods.mvp import MVPReranker
from fletching.methods.token_prepending import TokenPrependingEmbedder
from fletching.methods.two_d_matryoshka import ElasticEmbedder
from fletching.methods.ullme import GenerativeReranker, LLMEmbedder
from fletching.models.embedder import Embedder
from fletching.models.reranker import Reranker
from fletching.plugins import registry
from fletching.testing import (
    EmbedderContract,
    RerankerContract,
    check_method,
    save_tiny_bert,
    save_tiny_cross_encoder,
    save_tiny_embedder,
    save_tiny_llama,
    save_tiny_qwen2,
    save_tiny_t5,
)
from fletching.testing.contracts.promises import TEXTS
from fletching.testing.tiny import MAX_SEQ_LENGTH


class TestReranker(RerankerContract):
    @classmethod
    def make_model(cls, folder):
        return Reranker(save_tiny_cross_encoder(folder), device="cpu")


class TestCausalReranker(RerankerContract):
    """A language model that says yes or no: padded on the left, scored by its last token."""

    adapter_modules = ("q_proj", "v_proj")

    @classmethod
    def make_model(cls, folder):
        backbone = Transformer(
            save_tiny_llama(folder), transformer_task="text-generation", max_seq_length=MAX_SEQ_LENGTH
        )
        yes, no = backbone.tokenizer.convert_tokens_to_ids(["true", "wood"])
        return Reranker(modules=[backbone, LogitScore(true_token_id=yes, false_token_id=no)], device="cpu")


class TestEmbedder(EmbedderContract):
    @classmethod
    def make_model(cls, folder):
        return Embedder(save_tiny_embedder(folder), device="cpu")


class TestAsymmetricEmbedder(EmbedderContract):
    @classmethod
    def make_model(cls, folder):
        prompts = {"query": "what is: ", "document": "passage: "}
        return Embedder(save_tiny_embedder(folder, prompts=prompts, normalize=False), device="cpu")


# A new method adds its class here: `method` is its name, `make_model` builds a tiny one.


class TestMVPOnT5(RerankerContract):
    method = "mvp"
    adapter_modules = ("q", "v")

    @classmethod
    def make_model(cls, folder):
        return MVPReranker(save_tiny_t5(folder), n_views=2, max_seq_length=MAX_SEQ_LENGTH, device="cpu")


class TestMVPOnBert(RerankerContract):
    method = "mvp"

    @classmethod
    def make_model(cls, folder):
        return MVPReranker.from_encoder(
            save_tiny_bert(folder), n_views=2, max_seq_length=MAX_SEQ_LENGTH, device="cpu"
        )


class TestMVPOnBiEncoder(RerankerContract):
    method = "mvp"

    @classmethod
    def make_model(cls, folder):
        return MVPReranker.from_bi_encoder(
            save_tiny_embedder(folder), n_views=2, rank=4, max_seq_length=MAX_SEQ_LENGTH, device="cpu"
        )


class TestTokenPrepending(EmbedderContract):
    method = "token_prepending"

    @classmethod
    def make_model(cls, folder):
        return TokenPrependingEmbedder(save_tiny_llama(folder), output_layer=2, device="cpu")


class TestTokenPrependingWithPrompts(EmbedderContract):
    """Several prompts a text, and a query prompt of sentence-transformers inside them."""

    method = "token_prepending"
    rows_per_text = 2

    @classmethod
    def make_model(cls, folder):
        return TokenPrependingEmbedder(
            save_tiny_llama(folder),
            prompt=['the : <PST> "*sent 0*" is:"', 'what : <PST> "*sent 0*" of:"'],
            output_layer=-1,
            prompts={"query": "why "},
            device="cpu",
        )


class TestKaLM(EmbedderContract):
    method = "kalm"

    @classmethod
    def make_model(cls, folder):
        return KaLMEmbedder(
            save_tiny_qwen2(folder), causal=False, max_seq_length=MAX_SEQ_LENGTH, device="cpu"
        )


class TestLLMEmbedder(EmbedderContract):
    method = "ullme"

    @classmethod
    def make_model(cls, folder):
        return LLMEmbedder(save_tiny_llama(folder), max_seq_length=MAX_SEQ_LENGTH, device="cpu")


class TestLLMEmbedderWithInstructions(EmbedderContract):
    """An instruction for queries, which the template keeps apart from the text and pooling leaves out."""

    method = "ullme"

    @classmethod
    def make_model(cls, folder):
        return LLMEmbedder(
            save_tiny_llama(folder),
            causal=True,
            pooling="weightedmean",
            projection=True,
            max_seq_length=MAX_SEQ_LENGTH,
            prompts={"query": "what is"},
            device="cpu",
        )

    @pytest.mark.parametrize("name", ["query", "document"])
    def test_the_checkpoint_s_own_prompt_is_put_in_front(self, model, name):
        prompted = getattr(model, f"encode_{name}")([*TEXTS])
        instruction = model.prompts.get(name) or ""
        assert (prompted == model.encode([*TEXTS], prompt=instruction)).all()
        assert (prompted != model.encode([*TEXTS])).any() == (name == "query")


class TestGenerativeReranker(RerankerContract):
    method = "ullme_reranker"
    adapter_modules = ("q_proj", "v_proj")

    @classmethod
    def make_model(cls, folder):
        return GenerativeReranker(save_tiny_llama(folder), max_seq_length=MAX_SEQ_LENGTH, device="cpu")


class TestElastic(EmbedderContract):
    """Also called with another number of layers by each thread."""

    method = "two_d_matryoshka"

    @classmethod
    def make_model(cls, folder):
        return ElasticEmbedder(save_tiny_embedder(folder), device="cpu")

    @classmethod
    def make_calls(cls, model):
        sizes = [
            {"num_layers": 1},
            {"num_layers": 2, "truncate_dim": 8},
            {"num_layers": 1, "truncate_dim": 4},
        ]
        cut = [lambda size=size: model.encode([*TEXTS], **size).tolist() for size in sizes]
        return [*super().make_calls(model), *cut]


class TestDSE(RerankerContract):
    method = "dse"

    @classmethod
    def make_model(cls, folder):
        config = DSEConfig(num_layers=2, fc_dims=(16, 1), max_seq_length=MAX_SEQ_LENGTH)
        return DSEReranker.from_encoder(save_tiny_bert(folder), config, device="cpu")


class TestDSEEmbedder(EmbedderContract):
    method = "dse_embedder"

    @classmethod
    def make_model(cls, folder):
        config = DSEConfig(num_layers=2, embedding_size=24, max_seq_length=MAX_SEQ_LENGTH)
        return DSEReranker.from_encoder(save_tiny_bert(folder), config, device="cpu").to_embedder()


class TestDefSentPlus(EmbedderContract):
    method = "defsent_plus"

    @classmethod
    def make_model(cls, folder):
        model = DefSentPlusEmbedder(save_tiny_bert(folder), pooling="cls", device="cpu")
        model.max_seq_length = MAX_SEQ_LENGTH
        return model


class TestDefSentPlusWithTemplate(EmbedderContract):
    """Pooled at a mask, and a query prompt of sentence-transformers inside the template."""

    method = "defsent_plus"

    @classmethod
    def make_model(cls, folder):
        return DefSentPlusEmbedder(
            save_tiny_bert(folder), pooling="prompt", prompts={"query": "why "}, device="cpu"
        )


CONTRACTS = [
    value for value in globals().values() if isinstance(value, type) and hasattr(value, "make_model")
]


@pytest.mark.parametrize("spec", [*registry()], ids=lambda spec: spec.name)
def test_method_is_what_it_says(spec):
    check_method(spec)


def test_every_registered_model_is_under_contract():
    promised = {getattr(contract, "method", None) for contract in CONTRACTS}
    registered = {spec.name for spec in registry() if spec.kind in ("embedder", "reranker")}
    assert registered <= promised
