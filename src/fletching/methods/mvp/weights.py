"""Weight files of MVP modules: strict, safetensors first, adapters beside a whole backbone."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.util import load_file_path
from torch import Tensor, nn
from transformers import PreTrainedModel

from fletching.errors import bad_checkpoint
from fletching.models.adapters import load_adapter

OWN_WEIGHTS = "mvp"
"""Stem of the file with what a module adds to its backbone."""

_ADAPTERS = "adapters"


class HubOptions(TypedDict, total=False):
    """Where files of a hub id come from; a local folder needs none of it."""

    subfolder: str
    token: bool | str | None
    cache_folder: str | None
    revision: str | None
    local_files_only: bool


def for_transformers(hub: HubOptions) -> dict[str, Any]:
    """Spell hub options the way transformers does, and say that no code of a checkpoint is to run."""
    options: dict[str, Any] = {**hub, "trust_remote_code": False}
    options["cache_dir"] = options.pop("cache_folder", None)
    return options


def read_weights(path: str, stem: str, hub: HubOptions) -> dict[str, Tensor]:
    """Read safetensors where there are any, else a pickle that holds nothing but tensors; whole or in shards.

    Args:
        path: Folder or hub id.
        stem: ``"model"``, for ``model.safetensors``, ``pytorch_model.bin`` and their indexes; any other stem
            for a safetensors file of that name.
        hub: Where files come from.

    Returns:
        The tensors, on the CPU.

    Raises:
        CheckpointError: If there is no such file, or an index names one that is not there.
    """
    readers: dict[str, Callable[[str], dict[str, Tensor]]] = {f"{stem}.safetensors": load_file}
    if stem == "model":
        readers["pytorch_model.bin"] = partial(torch.load, map_location="cpu", weights_only=True)
    for name, read in readers.items():
        if (file := load_file_path(path, name, **hub)) is not None:
            return dict(read(file))
        if (index := load_file_path(path, f"{name}.index.json", **hub)) is not None:
            shards = sorted(set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
            state: dict[str, Tensor] = {}
            for shard in shards:
                found = load_file_path(path, shard, **hub) if Path(shard).name == shard else None
                if found is None:
                    raise bad_checkpoint(
                        path, f"its index names the weight file {shard!r}, which is not there"
                    )
                state |= read(found)
            return state
    raise bad_checkpoint(path, f"it holds no {' and no '.join(readers)}")


def fill(path: str, module: nn.Module, state: dict[str, Tensor]) -> None:
    """Put tensors into a module (on the meta device or not), with nothing missing and nothing left over.

    Args:
        path: Named in the error.
        module: What to fill.
        state: Its tensors.

    Raises:
        CheckpointError: If names or shapes differ.
    """
    expected = module.state_dict()
    if missing := sorted(expected.keys() - state.keys()):
        raise bad_checkpoint(path, f"it lacks weights: {_first(missing)}")
    if surplus := sorted(state.keys() - expected.keys()):
        raise bad_checkpoint(path, f"it has weights that the network has no place for: {_first(surplus)}")
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            got, want = tuple(state[name].shape), tuple(tensor.shape)
            raise bad_checkpoint(path, f"the weight {name!r} has shape {got}, the configuration says {want}")
    module.load_state_dict(state, assign=True)  # what is frozen stays frozen


def fill_own(path: str, module: nn.Module, backbone: PreTrainedModel, hub: HubOptions) -> None:
    """Read what `save_own_weights` wrote, and the adapters of ``backbone``, which is ``module.model``."""
    state = {f"model.{name}": value for name, value in backbone.state_dict().items()}
    fill(path, module, state | read_weights(path, OWN_WEIGHTS, hub))
    load_adapters(backbone, path, hub)


def save_own_weights(module: nn.Module, path: str) -> None:
    """Write the parameters of ``module`` that do not belong to its backbone, ``module.model``."""
    own = {name: value for name, value in module.state_dict().items() if not name.startswith("model.")}
    own = {name: value.contiguous() for name, value in own.items()}
    save_file(own, Path(path) / f"{OWN_WEIGHTS}.safetensors")


def save_backbone(backbone: PreTrainedModel, path: str) -> None:
    """Write a transformers model whole; adapters, which it would write alone, go to a folder beside it."""
    if not save_adapters(backbone, path):
        backbone.save_pretrained(path)
        return
    state = {
        name.replace(".base_layer.", "."): value.contiguous()
        for name, value in backbone.state_dict().items()
        if ".lora_" not in name and name not in backbone.all_tied_weights_keys
    }
    save_file(state, Path(path) / "model.safetensors", metadata={"format": "pt"})
    backbone.config.save_pretrained(path)


def save_adapters(backbone: PreTrainedModel, path: str) -> bool:
    """Write the adapters of a backbone, if it has any, to a folder in ``path``; say whether it has."""
    if not getattr(backbone, "_hf_peft_config_loaded", False):
        return False
    backbone.save_pretrained(Path(path) / _ADAPTERS)
    return True


def load_adapters(backbone: PreTrainedModel, path: str, hub: HubOptions) -> None:
    """Put adapters on, if the folder brings any."""
    folder: HubOptions = {**hub, "subfolder": f"{hub.get('subfolder', '')}/{_ADAPTERS}".lstrip("/")}
    if (file := load_file_path(path, "adapter_config.json", **folder)) is not None:
        load_adapter(backbone, str(Path(file).parent))


def _first(names: list[str]) -> str:
    return repr(names[0]) if len(names) == 1 else f"{names[0]!r} and {len(names) - 1} more"
