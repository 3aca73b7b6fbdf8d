"""MVPReranker on every backbone: what the specification asks of the T5 model holds for ours too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, ModernBertConfig, ModernBertModel, RobertaConfig, RobertaModel

import fletching
from fletching.errors import ArgumentError, CheckpointError
from fletching.methods.mvp import MVPLoss, MVPReranker
from fletching.testing.tiny import build_tiny_tokenizer, save_tiny_bert, save_tiny_embedder, save_tiny_t5

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
    folder = save_tiny_bert(tmp_path)  # 192 positions
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
