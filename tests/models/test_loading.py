"""`fletching.load`: the right class for what is there, one clear sentence for what is broken or hostile."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sparse_encoder.modules import SpladePooling
from transformers import BertForSequenceClassification, DistilBertConfig, DistilBertForMaskedLM

import fletching
from fletching.errors import ArgumentError, CheckpointError
from fletching.models.embedder import Embedder
from fletching.models.loading import _loading_reports, find_kind
from fletching.models.reranker import Reranker
from fletching.testing import (
    build_tiny_tokenizer,
    save_tiny_bert,
    save_tiny_cross_encoder,
    save_tiny_embedder,
    save_tiny_llama,
)


def save_tiny_sparse(folder):
    """SPLADE: a masked language model and a maximum over the tokens."""
    folder = Path(folder)
    masked = Transformer(save_tiny_bert(folder / "mlm", head="masked-lm"), transformer_task="fill-mask")
    SparseEncoder(modules=[masked, SpladePooling("max")], device="cpu").save(str(folder / "model"))
    return str(folder / "model")


def save_tiny_multi_vector(folder):
    """ColBERT: a backbone and a projection of its tokens."""
    folder = Path(folder)
    dense = Dense(32, 8, bias=False, module_input_name="token_embeddings")
    modules = [Transformer(save_tiny_bert(folder / "backbone")), dense]
    MultiVectorEncoder(modules=modules, device="cpu").save(str(folder / "model"))
    return str(folder / "model")


STOCK = {"sparse": save_tiny_sparse, "multi_vector": save_tiny_multi_vector}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A good embedder; never changed."""
    return Path(save_tiny_embedder(tmp_path_factory.mktemp("saved")))


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to break."""
    return shutil.copytree(saved, tmp_path / "hostile")


@pytest.fixture
def marker(tmp_path):
    """A file that exists only if somebody ran the checkpoint's code."""
    return tmp_path / "executed"


class Payload:
    """Touches a file when it is unpickled without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_modules(folder, position, **changes):
    modules = json.loads((folder / "modules.json").read_text())
    modules[position] |= changes
    (folder / "modules.json").write_text(json.dumps(modules))


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def open_broken(folder):
    """Open what cannot be opened; return the one sentence."""
    with pytest.raises(CheckpointError) as caught:
        fletching.load(folder, device="cpu")
    text = str(caught.value)
    assert text.startswith(f"Checkpoint '{folder}': ")
    assert "\n" not in text
    assert text.endswith((".", "!", "?"))
    return text


# --- the right class ---


@pytest.mark.parametrize(
    ("save", "expected"),
    [
        (save_tiny_embedder, Embedder),
        (save_tiny_cross_encoder, Reranker),
        (save_tiny_bert, Embedder),
        (lambda folder: save_tiny_bert(folder, head="masked-lm"), Embedder),
        (lambda folder: save_tiny_bert(folder, head="sequence-classification"), Reranker),
        (save_tiny_sparse, SparseEncoder),
        (save_tiny_multi_vector, MultiVectorEncoder),
    ],
    ids=["embedder", "cross-encoder", "backbone", "masked language model", "classifier", "sparse", "late"],
)
def test_load_reads_the_kind_off_the_checkpoint(save, expected, tmp_path):
    assert type(fletching.load(save(tmp_path), device="cpu")) is expected


@pytest.mark.parametrize(("kind", "expected"), [("embedder", Embedder), ("reranker", Reranker)])
def test_load_takes_the_kind_that_is_asked_for(kind, expected, tmp_path):
    folder = save_tiny_bert(tmp_path, head="sequence-classification")
    assert type(fletching.load(folder, kind=kind, device="cpu")) is expected


def test_load_passes_options_on(saved):
    assert fletching.load(saved, device="cpu", dtype="bfloat16").dtype == torch.bfloat16


def test_load_reads_pickled_tensors_where_there_is_no_safetensors(folder):
    expected = fletching.load(folder, device="cpu").encode("wood")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert fletching.load(folder, device="cpu").encode("wood").tolist() == expected.tolist()


def test_a_causal_language_model_can_be_either_kind(tmp_path):
    save_tiny_llama(tmp_path)
    assert 'kind="embedder" or kind="reranker"' in open_broken(tmp_path)
    assert type(fletching.load(tmp_path, kind="embedder", device="cpu")) is Embedder


# --- arguments ---


@pytest.mark.parametrize("value", [None, "", 3, b"folder"], ids=repr)
def test_load_refuses_what_is_no_name(value):
    with pytest.raises(ArgumentError, match="`path_or_id` must be a checkpoint name, a folder or a hub id"):
        fletching.load(value)


def test_load_refuses_an_unknown_kind(saved):
    with pytest.raises(
        ArgumentError, match="`kind` must be one of 'embedder', 'reranker', 'sparse', 'multi_v"
    ):
        fletching.load(saved, kind="rerank")


@pytest.mark.parametrize("part", [None, "model_kwargs", "processor_kwargs", "config_kwargs"])
def test_load_never_trusts_remote_code(saved, part):
    flag = {"trust_remote_code": True}
    with pytest.raises(ArgumentError, match="`trust_remote_code` must be left out"):
        fletching.load(saved, **({part: flag} if part else flag))


# --- nothing there ---


def test_a_missing_folder_is_named(tmp_path):
    assert "there is no such folder" in open_broken(tmp_path / "nowhere")


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "this is a file" in open_broken(tmp_path / "model.safetensors")


def test_an_empty_folder_holds_no_model(tmp_path):
    assert "neither a modules.json nor a config.json" in open_broken(tmp_path)


def test_a_name_that_no_file_can_have_is_an_error():
    with pytest.raises(CheckpointError, match="File name too long") as caught:
        fletching.load("x" * 5000)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "1_Pooling/config.json"])
def test_a_missing_file_is_an_error(folder, name):
    (folder / name).unlink()
    open_broken(folder)


def test_missing_tokenizer_files_are_an_error(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    assert "it holds no tokenizer" in open_broken(folder)


# --- broken JSON ---


@pytest.mark.parametrize("name", ["modules.json", "config.json", "config_sentence_transformers.json"])
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b"3"], ids=["cut", "binary", "number"])
def test_broken_json_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    assert name in open_broken(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "sentence_bert_config.json", "1_Pooling/config.json"])
def test_broken_json_further_down_is_an_error(folder, name):
    (folder / name).write_bytes(b"{")
    open_broken(folder)


@pytest.mark.parametrize("entry", [3, {}, {"path": "", "type": 3}], ids=repr)
def test_a_module_without_path_and_type_is_an_error(folder, entry):
    (folder / "modules.json").write_text(json.dumps([entry]))
    assert "without `path` and `type`" in open_broken(folder)


# --- weights ---


def test_cut_weights_are_an_error(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    open_broken(folder)


def test_a_missing_weight_is_named(folder):
    name = "encoder.layer.0.output.dense.weight"
    edit_weights(folder, lambda weights: weights.pop(name))
    assert name in open_broken(folder)


def test_a_pooler_that_the_head_reads_is_missed(tmp_path):
    """Where nothing reads it, as in an embedder, a checkpoint may lack it; a classifier would see noise."""
    save_tiny_bert(tmp_path, head="sequence-classification")
    edit_weights(tmp_path, lambda weights: weights.pop("bert.pooler.dense.weight"))
    assert "it lacks weights: 'bert.pooler.dense.weight'" in open_broken(tmp_path)


def test_a_surplus_weight_is_named(folder):
    edit_weights(folder, lambda weights: weights.update(surprise=torch.zeros(1)))
    assert "'surprise'" in open_broken(folder)


def test_a_weight_of_the_wrong_shape_is_named(folder):
    name = "encoder.layer.0.output.dense.weight"
    edit_weights(folder, lambda weights: weights.update({name: torch.zeros(3, 3)}))
    assert name in open_broken(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_named(folder, value):
    edit_weights(folder, lambda weights: weights["encoder.layer.0.output.dense.weight"].fill_(value))
    assert "encoder.layer.0.output.dense.weight' holds NaN or infinity" in open_broken(folder)


@pytest.mark.parametrize(
    ("value", "text"), [("two", "expected int, got str"), (0, "ZeroDivisionError")], ids=["text", "zero"]
)
def test_an_impossible_configuration_is_an_error(folder, value, text):
    edit_json(folder / "config.json", num_attention_heads=value)
    assert text in open_broken(folder)


def test_a_configuration_of_another_size_is_an_error(folder):
    edit_json(folder / "config.json", hidden_size=64)
    assert "has the shape (32,), its configuration says (64,)" in open_broken(folder)


def test_unmet_requirements_are_named(folder):
    edit_json(folder / "config_sentence_transformers.json", requirements={"fletching": ">=99"})
    assert "fletching>=99" in open_broken(folder)


# --- hostile ---


@pytest.mark.parametrize(
    "path", ["../elsewhere", "/etc", "1_Pooling/../../elsewhere", "C:\\Windows", "..\\elsewhere"]
)
def test_a_module_outside_the_folder_is_refused(folder, path):
    edit_modules(folder, 1, path=path)
    assert "modules.json points outside the folder" in open_broken(folder)


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    shutil.move(folder / "1_Pooling", tmp_path / "elsewhere")
    (folder / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    assert "modules.json points outside the folder" in open_broken(folder)


@pytest.mark.parametrize(
    "class_ref", ["os.system", "subprocess.Popen", "modeling_evil.Evil", "fletching.load"]
)
def test_a_class_that_nobody_vouches_for_is_refused(folder, class_ref):
    edit_modules(folder, 1, type=class_ref)
    assert f"{class_ref!r}, which no installed method brings" in open_broken(folder)


@pytest.mark.parametrize(
    "class_ref",
    [
        "sentence_transformers.SentenceTransformer",
        "sentence_transformers.util.misc.import_from_string",
        "sentence_transformers.os.path",
    ],
)
def test_a_class_that_is_no_module_is_refused(folder, class_ref):
    edit_modules(folder, 1, type=class_ref)
    open_broken(folder)


def test_a_class_of_the_checkpoint_is_refused_inside_a_router(folder, marker):
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass Evil: pass\n")
    edit_modules(folder, 1, type="sentence_transformers.base.modules.Router")
    (folder / "1_Pooling" / "router_config.json").write_text(
        json.dumps(
            {
                "types": {"query_0_Evil": "evil.Evil"},
                "structure": {"query": ["query_0_Evil"]},
                "parameters": {},
            }
        )
    )
    assert "evil.Evil" in open_broken(folder)
    assert not marker.exists()


def test_a_malicious_pickle_is_not_opened(folder, marker):
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings.weight": Payload(marker)}, folder / "pytorch_model.bin")
    open_broken(folder)
    assert not marker.exists()


def test_a_plain_malicious_pickle_is_not_opened(folder, marker):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(marker), protocol=2))
    open_broken(folder)
    assert not marker.exists()


def test_a_checkpoint_cannot_ask_for_unsafe_unpickling(folder, marker):
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings.weight": Payload(marker)}, folder / "pytorch_model.bin")
    edit_json(folder / "config.json", dtype=None)  # transformers reads the weights to find out
    edit_json(folder / "sentence_bert_config.json", model_kwargs={"weights_only": False, "dtype": "auto"})
    open_broken(folder)
    assert not marker.exists()


@pytest.mark.parametrize("setting", ["model_kwargs", "config_kwargs", "processor_kwargs", "model_args"])
def test_a_checkpoint_cannot_trust_itself(folder, marker, setting):
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    edit_json(
        folder / "config.json",
        model_type="evil",
        auto_map={"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"},
    )
    edit_json(folder / "sentence_bert_config.json", **{setting: {"trust_remote_code": True}})
    open_broken(folder)
    assert not marker.exists()


def test_a_tokenizer_cannot_bring_code(folder, marker):
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    edit_json(
        folder / "tokenizer_config.json",
        tokenizer_class="EvilTokenizer",
        auto_map={"AutoTokenizer": ["evil.EvilTokenizer", None]},
    )
    fletching.load(folder, device="cpu")  # as what its tokenizer.json says
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config_sentence_transformers.json", {"activation_fn": "torch.hub.get_dir"}),
        ("config.json", {"sentence_transformers": {"activation_fn": "torch.hub.get_dir"}}),
        ("config.json", {"sbert_ce_default_activation_function": "torch.hub.get_dir"}),
    ],
)
def test_an_activation_function_that_is_no_layer_is_refused(tmp_path, name, change):
    save_tiny_cross_encoder(tmp_path)
    edit_json(tmp_path / name, **change)
    assert "no torch layer: 'torch.hub.get_dir'" in open_broken(tmp_path)


def test_an_activation_that_would_be_replaced_is_refused(tmp_path):
    """sentence-transformers puts Tanh in its place, which makes other vectors."""
    base = SentenceTransformer(save_tiny_embedder(tmp_path / "base"), device="cpu")
    parts = [*[*base][:2], Dense(32, 8)]
    SentenceTransformer(modules=parts, device="cpu").save(str(tmp_path / "model"))
    edit_json(tmp_path / "model" / "2_Dense" / "config.json", activation_function="acme.Swish")
    assert "its activation function is no torch layer: 'acme.Swish'" in open_broken(tmp_path / "model")


def test_an_index_cannot_point_outside_the_folder(folder, tmp_path):
    shutil.move(folder / "model.safetensors", tmp_path / "secret.safetensors")
    names = load_file(tmp_path / "secret.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "../secret.safetensors")})
    )
    assert "points outside the folder: '../secret.safetensors'" in open_broken(folder)


# --- what is only unusual ---


def test_the_saved_folder_opens_with_the_stock_class(saved):
    assert SentenceTransformer(str(saved), device="cpu").encode("wood").shape == (32,)


def test_two_folders_of_one_process_do_not_share_reports(folder, saved):
    edit_weights(folder, lambda weights: weights.update(surprise=torch.zeros(1)))
    open_broken(folder)
    assert type(fletching.load(saved, device="cpu")) is Embedder


def test_other_heads_of_any_family_are_no_surplus(tmp_path):
    """Names of heads differ by family; what counts is that they lie outside the backbone."""
    config = DistilBertConfig(
        vocab_size=len(build_tiny_tokenizer()), dim=32, hidden_dim=48, n_layers=1, n_heads=2
    )
    DistilBertForMaskedLM(config).save_pretrained(tmp_path)
    build_tiny_tokenizer().save_pretrained(tmp_path)
    assert type(fletching.load(tmp_path, device="cpu")) is Embedder


def test_a_stock_load_of_another_thread_is_not_blamed_on_the_folder(folder, saved, tmp_path):
    """Another thread's `from_pretrained` reports to transformers' own log while `load` listens."""
    other = save_tiny_bert(tmp_path / "other")
    with _loading_reports(str(folder)) as reports:
        thread = threading.Thread(target=BertForSequenceClassification.from_pretrained, args=(other,))
        thread.start()
        thread.join()
        assert reports == []
        BertForSequenceClassification.from_pretrained(other)
        assert len(reports) == 1


def test_an_argument_the_class_does_not_take_is_the_callers(saved):
    with pytest.raises(ArgumentError, match="one of the arguments of Embedder; got 'colour'"):
        fletching.load(saved, colour="cpu")


@pytest.mark.parametrize(
    ("save", "kind", "name"),
    [(save_tiny_embedder, "reranker", "Embedder"), (save_tiny_cross_encoder, "embedder", "Reranker")],
)
def test_one_kind_does_not_open_as_the_other(tmp_path, save, kind, name):
    """sentence-transformers would convert it, with a new head of random weights."""
    with pytest.raises(CheckpointError, match=f"it opens as {name}, which is no {kind}"):
        fletching.load(save(tmp_path / "model"), kind=kind)


@pytest.mark.parametrize("kind", list(STOCK))
@pytest.mark.parametrize("other", ["embedder", "reranker"])
def test_sparse_and_multi_vector_models_are_neither_embedder_nor_reranker(tmp_path, kind, other):
    with pytest.raises(
        CheckpointError, match=f"it opens as (Sparse|MultiVector)Encoder, which is no {other}"
    ):
        fletching.load(STOCK[kind](tmp_path), kind=other)


def test_an_embedder_does_not_open_as_sparse_or_multi_vector(saved):
    with pytest.raises(CheckpointError, match="it opens as Embedder, which is no sparse model"):
        fletching.load(saved, kind="sparse")
    with pytest.raises(CheckpointError, match="it opens as Embedder, which is no multi-vector model"):
        fletching.load(saved, kind="multi_vector")


def test_a_masked_language_model_opens_as_splade(tmp_path):
    """All its weights are there: the pooling has none."""
    folder = save_tiny_bert(tmp_path, head="masked-lm")
    assert type(fletching.load(folder, kind="sparse", device="cpu")) is SparseEncoder


@pytest.mark.parametrize(
    ("kind", "text"), [("sparse", "no head over the vocabulary"), ("multi_vector", "no projection for token")]
)
def test_a_backbone_gets_no_random_weights(tmp_path, kind, text):
    with pytest.raises(CheckpointError, match=f"{text}.*would add a random one. Train one first"):
        fletching.load(save_tiny_bert(tmp_path), kind=kind)


@pytest.mark.parametrize("kind", list(STOCK))
def test_sparse_and_multi_vector_models_compute_what_was_saved(tmp_path, kind):
    folder = STOCK[kind](tmp_path)
    stock = {"sparse": SparseEncoder, "multi_vector": MultiVectorEncoder}[kind](folder, device="cpu")
    model = fletching.load(folder, device="cpu")
    query, document = model.encode_query(["wood"]), model.encode_document(["wood arrow"])
    expected = stock.similarity(stock.encode_query(["wood"]), stock.encode_document(["wood arrow"]))
    assert model.similarity(query, document).tolist() == expected.tolist()


@pytest.mark.parametrize("kind", list(STOCK))
def test_sparse_and_multi_vector_models_take_a_dtype(tmp_path, kind):
    model = fletching.load(STOCK[kind](tmp_path), device="cpu", dtype="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    with pytest.raises(ArgumentError, match="`dtype` must be one of"):
        fletching.load(tmp_path / "model", device="cpu", dtype="int3")


def test_arguments_of_our_classes_are_refused_for_stock_ones(tmp_path):
    with pytest.raises(ArgumentError, match="arguments of SparseEncoder; got 'max_tokens_per_batch'"):
        fletching.load(save_tiny_sparse(tmp_path), device="cpu", max_tokens_per_batch=9)


@pytest.mark.parametrize("kind", list(STOCK))
def test_sparse_and_multi_vector_models_are_checked_alike(tmp_path, kind):
    folder = Path(STOCK[kind](tmp_path))
    weights = next(
        path
        for path in (folder / "1_Dense/model.safetensors", folder / "model.safetensors")
        if path.is_file()
    )
    tensors = load_file(weights)
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, weights, metadata={"format": "pt"})
    assert "holds NaN or infinity" in open_broken(folder)
    tensors.popitem()
    save_file(tensors, weights, metadata={"format": "pt"})
    open_broken(folder)
    edit_modules(folder, 1, type="modeling_evil.Evil")
    assert "'modeling_evil.Evil', which no installed method brings" in open_broken(folder)


def test_a_save_of_pylate_opens_as_multi_vector(tmp_path):
    """PyLate names its own class, which sentence-transformers replaces; in another model it is foreign."""
    folder = Path(save_tiny_multi_vector(tmp_path))
    edit_modules(folder, 1, type="pylate.models.Dense.Dense")
    settings = {"model_type": "ColBERT", "query_prefix": "", "document_prefix": ""}
    edit_json(folder / "config_sentence_transformers.json", **settings)
    assert find_kind(folder) == "multi_vector"
    assert type(fletching.load(folder, device="cpu")) is MultiVectorEncoder
    edit_json(folder / "config_sentence_transformers.json", model_type="SentenceTransformer")
    assert "'pylate.models.Dense.Dense', which no installed method brings" in open_broken(folder)


def test_a_model_of_a_kind_to_come_is_an_error(folder):
    edit_json(folder / "config_sentence_transformers.json", model_type="HoloEncoder")
    assert "saved as a HoloEncoder, which is no kind that is known here" in open_broken(folder)


def test_named_reranker_does_not_open_as_an_embedder():
    with pytest.raises(CheckpointError, match="it opens as MVPReranker, which is no embedder"):
        fletching.load("mvp-mini", kind="embedder")


@pytest.mark.parametrize(
    ("save", "kind"),
    [
        (save_tiny_embedder, "embedder"),
        (save_tiny_cross_encoder, "reranker"),
        *((save, kind) for kind, save in STOCK.items()),
    ],
)
def test_kind_is_found_without_loading(tmp_path, save, kind):
    folder = Path(save(tmp_path / "saved"))
    (folder / "model.safetensors").unlink()

    assert find_kind(folder) == kind


def test_kind_of_a_foreign_class_is_not_told(folder):
    edit_modules(folder, 1, type="modeling_evil.Evil")
    with pytest.raises(CheckpointError, match=r"'modeling_evil\.Evil', which no installed method brings"):
        find_kind(folder)


def test_kind_of_a_named_checkpoint_is_found():
    assert find_kind("mvp-mini") == "reranker"


def test_hub_id_of_minilm_opens_the_installed_wheel():
    model = fletching.load("sentence-transformers/all-MiniLM-L6-v2")

    assert model.get_embedding_dimension() == 384


def test_a_method_that_cannot_tell_its_checkpoints_stands_in_nobody_elses_way(
    fake_distribution, tmp_path, caplog
):
    source = """
from fletching import MethodSpec, hookimpl

def recognise(location, contents):
    raise KeyError("no such thing")

@hookimpl
def fletching_methods():
    return [
        MethodSpec(
            name="lost", kind="embedder", title="Lost", summary="Is lost.", paper="", fidelity="paper",
            entry="fletching.models.embedder:Embedder", recognise="acme_lost:recognise",
        )
    ]
"""
    fake_distribution("acme-lost", {"acme_lost": source}, {"lost": "acme_lost"})
    assert type(fletching.load(save_tiny_embedder(tmp_path))) is Embedder
    assert "Method 'lost' cannot tell its checkpoints (KeyError: 'no such thing')" in caplog.text
