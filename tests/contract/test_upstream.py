"""The private names of sentence-transformers and transformers that we rely on, as they are today."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.model import BaseModel
from sentence_transformers.base.modules import Module, Router
from transformers import modeling_utils

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
