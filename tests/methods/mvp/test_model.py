"""MVPReranker on every backbone: what the specification asks of the T5 model holds for ours too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling
from transformers import AutoModel, ModernBertConfig, ModernBertModel, RobertaConfig, RobertaModel

import fletching
from fletching.errors import ArgumentError, CheckpointError
from fletching.methods.mvp import MVPLoss, MVPReranker, bi_encoder
from fletching.models.minilm import HUB_ID
from fletching.testing.encoders import build_tiny_encoder
from fletching.testing.tiny import (
    HIDDEN_SIZE,
    build_tiny_tokenizer,
    save_tiny_bert,
    save_tiny_cross_encoder,
    save_tiny_embedder,
    save_tiny_qwen2,
    save_tiny_t5,
)

QUERY = "what is an arrow"
PASSAGES = [
    "feathers on the shaft",
    "a bow string",
    "goose",
    "the archer points arrows",
    "",
    "flight of the arrow",
]


def build_other_encoder(folder: Path, kind: str) -> str:
    """Save a tiny encoder that is not a BERT."""
    sizes = {
        "vocab_size": len(build_tiny_tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    torch.manual_seed(0)
    if kind == "modernbert":
        ids = dict.fromkeys(
            ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0
        )
        model = ModernBertModel(ModernBertConfig(**sizes, **ids))
    else:
        model = RobertaModel(RobertaConfig(**sizes, pad_token_id=0, max_position_embeddings=300))
    model.save_pretrained(folder)
    tokenizer = build_tiny_tokenizer()
    if kind == "roberta":
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    return str(folder)


BUILDERS = {
    "t5": lambda folder: MVPReranker(save_tiny_t5(folder), n_views=4),
    "bert": lambda folder: MVPReranker.from_encoder(save_tiny_bert(folder), n_views=3, decoder_layers=2),
    "modernbert": lambda folder: MVPReranker.from_encoder(build_other_encoder(folder, "modernbert")),
    "roberta": lambda folder: MVPReranker.from_encoder(build_other_encoder(folder, "roberta")),
    "bi-encoder": lambda folder: MVPReranker.from_bi_encoder(save_tiny_embedder(folder)),
}


@pytest.fixture(scope="module", params=list(BUILDERS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MVPReranker:
    built = BUILDERS[request.param](tmp_path_factory.mktemp(request.param))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # as after training: nothing is at its neutral start
        for name, parameter in built.named_parameters():
            if not name.startswith("0.model."):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return built


def score(model: MVPReranker, passages: list[str]) -> torch.Tensor:
    return model.explain(QUERY, passages)["scores"]


def test_permuting_the_list_permutes_the_scores(model: MVPReranker) -> None:
    order = [3, 0, 5, 1, 4, 2]
    permuted = score(model, [PASSAGES[index] for index in order])
    torch.testing.assert_close(permuted, score(model, PASSAGES)[order], rtol=1e-5, atol=1e-5)


def test_a_strict_subset_scores_differently(model: MVPReranker) -> None:
    assert (score(model, PASSAGES)[:4] - score(model, PASSAGES[:4])).abs().max() > 1e-6


def test_repeating_the_list_changes_nothing_and_duplicates_are_equal(model: MVPReranker) -> None:
    first, second = score(model, PASSAGES * 2).split(len(PASSAGES))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, score(model, PASSAGES), rtol=1e-5, atol=1e-5)


def test_scores_are_the_mean_over_views(model: MVPReranker) -> None:
    explained = model.explain(QUERY, PASSAGES)
    torch.testing.assert_close(explained["scores"], explained["view_scores"].mean(-1))
    assert explained["view_scores"].shape == (len(PASSAGES), model.network.n_views)


def test_rank_and_explain_agree(model: MVPReranker) -> None:
    scores = score(model, PASSAGES)
    for hit in model.rank(QUERY, PASSAGES):
        assert hit["score"] == pytest.approx(scores[hit["corpus_id"]].item(), abs=1e-6)


def test_ragged_training_batch_equals_each_list_alone(model: MVPReranker) -> None:
    model.eval()
    features = model.preprocess([(QUERY, passage) for passage in PASSAGES])
    with torch.no_grad():
        encoded = model.network.encode(features)
        together = model.network.score(encoded, [4, 2])["scores"]
        alone = [model.network.score(rows, [len(rows)])["scores"] for rows in encoded.split([4, 2])]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_loss_reaches_every_trained_parameter(model: MVPReranker) -> None:
    model.train()
    inputs = [[QUERY, "a goose"], [PASSAGES[:4], ["goose feathers", "a bow"]]]
    labels = [torch.tensor([0.0, 2.0, 1.0, 0.0]), torch.tensor([1.0, 0.0])]
    sum(MVPLoss(model)(inputs, labels).values()).backward()
    own = {name: p for name, p in model.named_parameters() if not name.startswith("0.model.")}
    silent = [name for name, p in own.items() if p.grad is None or not p.grad.isfinite().all()]
    model.zero_grad(set_to_none=True)
    model.eval()
    assert not silent


def test_save_and_load_keep_the_scores(model: MVPReranker, tmp_path: Path) -> None:
    model.save_pretrained(str(tmp_path))
    again = fletching.load(tmp_path)
    assert type(again) is MVPReranker
    assert again.rank(QUERY, PASSAGES) == model.rank(QUERY, PASSAGES)


def test_bfloat16_gives_float32_scores_close_to_float32(model: MVPReranker, tmp_path: Path) -> None:
    model.save_pretrained(str(tmp_path))
    half = fletching.load(tmp_path, dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    scores = score(half, PASSAGES)
    assert scores.dtype == torch.float32
    spread = score(model, PASSAGES).std()
    assert (scores - score(model, PASSAGES)).abs().max() < 0.25 * spread + 0.05


def test_stock_cross_encoder_is_refused_instead_of_splitting_lists(
    model: MVPReranker, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder

    model.save_pretrained(str(tmp_path))
    stock = CrossEncoder(str(tmp_path), trust_remote_code=True)
    with pytest.raises(ArgumentError, match="the model reads whole lists"):
        stock.predict([(QUERY, passage) for passage in PASSAGES])


def test_explain_needs_a_candidate(model: MVPReranker) -> None:
    with pytest.raises(ArgumentError, match="`documents` must be at least one text"):
        model.explain(QUERY, [])


def test_bi_encoder_starts_as_cosine_plus_late_interaction(tmp_path: Path) -> None:
    """Untrained, without feedback: cos(q, p) + 3 * mean over the query's tokens of their best cosine."""
    folder = save_tiny_embedder(tmp_path)
    model = MVPReranker.from_bi_encoder(folder)
    with torch.no_grad():
        model.network.feedback.zero_()
    backbone = AutoModel.from_pretrained(folder).eval()
    query = model.tokenizer(QUERY, return_tensors="pt")
    passage = model.tokenizer(PASSAGES[3], return_tensors="pt")
    with torch.no_grad():
        q, p = backbone(**query).last_hidden_state[0], backbone(**passage).last_hidden_state[0]
    cosine = torch.nn.functional.cosine_similarity(q.mean(0), p.mean(0), dim=0)
    unit_q, unit_p = (torch.nn.functional.normalize(states, dim=-1) for states in (q, p))
    maxsim = (unit_q[1:-1] @ unit_p[1:-1].T).amax(-1).mean()
    torch.testing.assert_close(score(model, [PASSAGES[3]])[0], cosine + 3 * maxsim, rtol=1e-5, atol=1e-5)


def test_bi_encoder_saves_what_was_trained_only(tmp_path: Path) -> None:
    model = MVPReranker.from_bi_encoder(save_tiny_embedder(tmp_path / "base"))
    model.save_pretrained(str(tmp_path / "saved"))
    assert not (tmp_path / "saved" / "model.safetensors").exists()
    assert not any(parameter.requires_grad for parameter in model.network.model.parameters())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda folder: MVPReranker.from_encoder(folder, n_views=0), "`n_views` must be a positive integer"),
        (
            lambda folder: MVPReranker.from_encoder(folder, decoder_layers=0),
            "`decoder_layers` must be a positive",
        ),
        (
            lambda folder: MVPReranker.from_bi_encoder(folder, n_views=5),
            "`n_views` must be a divisor of the hidden",
        ),
        (
            lambda folder: MVPReranker.from_encoder(folder, max_seq_length=-1),
            "`max_seq_length` must be a positive",
        ),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, build, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        build(save_tiny_bert(tmp_path))


def test_an_encoder_folder_is_not_an_mvp(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="from_encoder"):
        MVPReranker(save_tiny_bert(tmp_path))


def test_more_tokens_than_positions_are_refused(tmp_path: Path) -> None:
    folder = save_tiny_bert(tmp_path)  # 96 positions
    with pytest.raises(ArgumentError, match="`max_seq_length` must be at most"):
        MVPReranker.from_encoder(folder, max_seq_length=4096)
    model = MVPReranker.from_bi_encoder(folder)
    with pytest.raises(ArgumentError, match="`max_seq_length` must be at most"):
        model.max_seq_length = 4096


def test_chunks_beside_a_query_that_fills_its_half(tmp_path: Path) -> None:
    model = MVPReranker.from_bi_encoder(save_tiny_embedder(tmp_path), max_seq_length=40)
    query = "what is an arrow " * 12
    ranking = model.rank(query, ["", "goose", "wood and feathers " * 40], long="chunk_max")
    assert sorted(hit["corpus_id"] for hit in ranking) == [0, 1, 2]
    assert set(ranking.lost_tokens) == {0, 1, 2}  # every row lost the end of the query, and says so


def test_tokenizer_options_of_one_call_reach_the_bi_encoder(tmp_path: Path) -> None:
    model = MVPReranker.from_bi_encoder(save_tiny_embedder(tmp_path))
    options = {"text": {"max_length": 12, "padding": True, "return_tensors": "pt"}}
    features = model.preprocess([(QUERY, "wood " * 30), (QUERY, "goose")], processing_kwargs=options)
    assert features["input_ids"].shape[1] == 12
    assert features["attention_mask"].sum(1).tolist()[0] == 12


def test_predict_keeps_lists_that_processes_would_share(tmp_path: Path) -> None:
    """What is handed down is whole lists, so that a shard of them never cuts one."""
    model = MVPReranker.from_encoder(save_tiny_bert(tmp_path))
    shards = []

    def share(inputs: list, **options: object) -> torch.Tensor:
        shards.extend(inputs)
        return torch.cat([model._inference([part], **options) for part in inputs])

    pairs = [(query, passage) for query in ("a bow", "a goose") for passage in PASSAGES]
    alone = model.predict(pairs)
    model._distributed_inference = share
    assert model.predict(pairs).tolist() == alone.tolist()
    assert [len(part) for part in shards] == [len(PASSAGES)] * 2


def save_encoder(folder: Path, family: str, **changes: int) -> str:
    """Save a tiny encoder of another family beside the tokenizer of the tiny BERT."""
    tokenizer = build_tiny_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 192, **changes}
    build_tiny_encoder(family, **sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", ["albert", "electra"])
def test_views_are_as_wide_as_the_embeddings_of_tokens(tmp_path: Path, family: str) -> None:
    """Theirs are half as wide as their states."""
    model = MVPReranker.from_encoder(save_encoder(tmp_path / "base", family))
    assert model.network.views.shape == (4, HIDDEN_SIZE // 2)
    model.save_pretrained(str(tmp_path / "saved"))
    assert fletching.load(tmp_path / "saved").rank(QUERY, PASSAGES) == model.rank(QUERY, PASSAGES)


@pytest.mark.parametrize(("width", "heads"), [(32, 1), (136, 2), (200, 2), (328, 4)])
def test_decoder_heads_divide_the_width(tmp_path: Path, width: int, heads: int) -> None:
    """A head for each 64 dimensions; 200 is no multiple of 3, nor 328 of 5, so they take one less."""
    model = MVPReranker.from_encoder(save_encoder(tmp_path, "bert", hidden_size=width))
    assert model.network.decoder.layers[0].multihead_attn.num_heads == heads


def test_the_bi_encoder_that_is_installed_asks_no_network(monkeypatch):
    def ask(path, filename, **hub):
        raise AssertionError(f"{path} was asked for {filename}")

    monkeypatch.setattr(bi_encoder, "load_file_path", ask)
    assert MVPReranker.from_bi_encoder().network.base == HUB_ID


@pytest.mark.parametrize("start", ["from_encoder", "from_bi_encoder"])
def test_weights_stored_in_bfloat16_stay_so(tmp_path: Path, start: str) -> None:
    folder = save_tiny_bert(tmp_path)
    AutoModel.from_pretrained(folder).bfloat16().save_pretrained(folder)
    model = getattr(MVPReranker, start)(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert len(model.rank(QUERY, PASSAGES)) == len(PASSAGES)


def test_a_language_model_is_no_encoder(tmp_path: Path) -> None:
    """Its views would stand in front of all it reads, and give every passage the same score."""
    with pytest.raises(ArgumentError, match="`backbone` must be an encoder: in a decoder the views"):
        MVPReranker.from_encoder(save_tiny_qwen2(tmp_path))


def test_a_language_model_that_reads_both_ways_is_an_encoder(tmp_path: Path) -> None:
    folder = save_tiny_qwen2(tmp_path)
    backbone = AutoModel.from_pretrained(folder)
    backbone.config.is_causal = False
    backbone.save_pretrained(folder)
    assert len(score(MVPReranker.from_encoder(folder), PASSAGES).unique()) == len(PASSAGES)


@pytest.mark.parametrize("start", ["from_encoder", "from_bi_encoder"])
def test_an_encoder_decoder_is_no_encoder(tmp_path: Path, start: str) -> None:
    with pytest.raises(ArgumentError, match="must be an encoder without a decoder; got 'T5Model'"):
        getattr(MVPReranker, start)(save_tiny_t5(tmp_path))


def test_bi_encoder_takes_rows_padded_on_the_left(tmp_path: Path) -> None:
    folder = save_tiny_embedder(tmp_path)
    right = MVPReranker.from_bi_encoder(folder)
    left = MVPReranker.from_bi_encoder(folder)
    with torch.no_grad():
        left.network.down.copy_(right.network.down)
    left.tokenizer.padding_side = "left"
    torch.testing.assert_close(score(left, PASSAGES), score(right, PASSAGES))


@pytest.mark.parametrize("kind", ["cls", "lasttoken", "dense", "prompts"])
def test_bi_encoder_of_another_kind_is_refused(tmp_path: Path, kind: str) -> None:
    """It would be read as one of mean pooling, and its own training be lost."""
    backbone = Transformer(save_tiny_bert(tmp_path / "bert"))
    pooling = Pooling(HIDDEN_SIZE, kind if kind in ("cls", "lasttoken") else "mean")
    modules = [backbone, pooling, *([Dense(HIDDEN_SIZE, 8)] if kind == "dense" else [])]
    prompts = {"query": "query: "} if kind == "prompts" else None
    SentenceTransformer(modules=modules, prompts=prompts).save(str(tmp_path / "other"))
    with pytest.raises(ArgumentError, match="must be a bi-encoder with mean pooling, no other layers and no"):
        MVPReranker.from_bi_encoder(tmp_path / "other")


def test_bi_encoder_is_found_from_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_embedder(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    model = MVPReranker.from_bi_encoder("base")
    model.save_pretrained("saved")
    monkeypatch.chdir("/")
    assert fletching.load(tmp_path / "saved").rank(QUERY, PASSAGES) == model.rank(QUERY, PASSAGES)


def test_a_save_without_its_bi_encoder_says_so(tmp_path: Path) -> None:
    save_tiny_embedder(tmp_path / "base")
    MVPReranker.from_bi_encoder(tmp_path / "base").save_pretrained(str(tmp_path / "saved"))
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"it builds on '.*base', which is not there"):
        fletching.load(tmp_path / "saved")


@pytest.mark.parametrize(
    ("start", "shortest"),
    [("from_encoder", 5), ("from_bi_encoder", 6)],  # [CLS] q [SEP] p [SEP]; [CLS] q [SEP] [CLS] p [SEP]
)
def test_a_row_holds_some_of_query_and_passage(tmp_path: Path, start: str, shortest: int) -> None:
    build = getattr(MVPReranker, start)
    folder = save_tiny_bert(tmp_path)
    assert (
        build(folder, max_seq_length=shortest).preprocess([(QUERY, "goose")])["input_ids"].numel() == shortest
    )
    with pytest.raises(ArgumentError, match=f"`max_seq_length` must be at least {shortest}"):
        build(folder, max_seq_length=shortest - 1)


def test_views_that_fill_all_positions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="`n_views` must be small enough to leave positions"):
        MVPReranker.from_encoder(save_tiny_bert(tmp_path), n_views=95)  # of 96


def test_loss_wants_an_mvp(tmp_path: Path) -> None:
    pointwise = fletching.load(save_tiny_cross_encoder(tmp_path))
    with pytest.raises(ArgumentError, match="`model` must be an MVPReranker; got 'Reranker'"):
        MVPLoss(pointwise)([[QUERY], [["a bow"]]], [torch.ones(1)])
