"""The private names of sentence-transformers and transformers that we rely on, as they are today."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.losses import CachedLossMixin
from sentence_transformers.base.losses.gradcache import _create_minibatch, _minibatch_ranges
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.base.model import BaseModel
from sentence_transformers.base.modules import Module, Router, Transformer
from transformers import AutoModel, modeling_utils
from transformers.core_model_loading import WeightRenaming

from fletching.testing import save_tiny_qwen2

METHODS = [
    (
        CrossEncoder._inference,
        "self, inputs, *, prompt, batch_size, show_progress_bar, activation_fn, apply_softmax, device, "
        "kwargs",
    ),
    (
        SentenceTransformer._inference,
        "self, inputs, *, prompt, batch_size, show_progress_bar, output_value, save_to_cpu, "
        "normalize_embeddings, truncate_dim, device, kwargs",
    ),
    (BaseModel._multi_process, "self, inputs, show_progress_bar, pool, device, chunk_size, kwargs"),
    (BaseModel._resolve_inference_device, "self, device"),
    (BaseModel._resolve_prompt, "self, prompt, prompt_name"),
    (BaseModel._create_model_card, "self, path, model_name, train_datasets"),
    (
        BaseModel._load_module_class_from_ref,
        "self, class_ref, model_name_or_path, trust_remote_code, revision, model_kwargs, token, "
        "cache_folder, local_files_only",
    ),
    (
        BaseModel._load_default_modules,
        "self, model_name_or_path, token, cache_folder, revision, trust_remote_code, local_files_only, "
        "model_kwargs, processor_kwargs, config_kwargs",
    ),
    (
        Transformer._load_model,
        "self, model_name_or_path, transformer_task, config, backend, is_peft_model, model_kwargs",
    ),
    (Transformer._configure_use_cache, "config, config_kwargs, use_cache"),
    (embed_columns, "model, features_list, separate_first"),
    (_create_minibatch, "sentence_feature, begin, end"),
    (_minibatch_ranges, "sentence_feature, mini_batch_size, mini_batch_num_tokens"),
    (
        CachedLossMixin.embed_minibatch,
        "self, sentence_feature, begin, end, with_grad, copy_random_state, random_state",
    ),
    (
        CachedLossMixin.embed_minibatch_iter,
        "self, sentence_feature, with_grad, copy_random_state, random_states, ranges",
    ),
    (
        modeling_utils.log_state_dict_report,
        "model, pretrained_model_name_or_path, ignore_mismatched_sizes, loading_info, logger",
    ),
]


@pytest.mark.parametrize(
    ("function", "parameters"), METHODS, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_private_function_takes_what_it_took(function, parameters):
    names, keyword_only = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            names.append("*")
        names.append(parameter.name)
    assert ", ".join(names) == parameters


def test_module_classes_is_a_mapping_that_is_asked_first():
    assert isinstance(BaseModel._module_classes, Mapping)
    assert "self._module_classes.get(class_ref)" in inspect.getsource(BaseModel._load_module_class_from_ref)


def test_a_transformer_configures_and_loads_by_its_own_methods():
    source = inspect.getsource(Transformer.__init__)
    assert "self._configure_use_cache(config" in source
    assert "self._load_model(" in source


def test_a_model_with_adapters_is_told_by_two_attributes(tmp_path):
    """Merging an adapter resets them; a loaded model has the first, and the names of a folder the second."""
    model = AutoModel.from_pretrained(save_tiny_qwen2(tmp_path))
    assert model._hf_peft_config_loaded is False
    assert isinstance(model._weight_conversions, list)
    assert WeightRenaming("before", "after").source_patterns == ["before"]


def test_a_router_gets_the_module_classes():
    assert "module_classes" in inspect.signature(Router.load).parameters


def test_the_length_of_an_input_is_known_without_a_tokenizer():
    assert BaseModel._input_length("wood") < BaseModel._input_length("wood and goose")


def test_modules_load_and_save_as_they_did():
    assert [*inspect.signature(Module.save).parameters] == [
        "self",
        "output_path",
        "args",
        "safe_serialization",
        "kwargs",
    ]
    assert next(iter(inspect.signature(Module.load_torch_weights).parameters)) == "model_name_or_path"


def test_the_state_of_a_load_report_has_the_names_we_read():
    fields = modeling_utils.LoadStateDictInfo.__dataclass_fields__
    assert {"missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs", "conversion_errors"} <= {
        *fields
    }
