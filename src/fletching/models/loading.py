"""From a name, a folder or a hub id to the right class, with nothing run that the folder brings along."""

from __future__ import annotations

import json
import logging
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoder, SparseEncoder
from sentence_transformers.util import get_device_name, load_file_path

from fletching.errors import FletchingError, bad_argument, bad_checkpoint, bad_choice, did_you_mean
from fletching.models.adapters import read_magnitudes
from fletching.models.embedder import Embedder
from fletching.models.hardware import resolve_dtype
from fletching.models.load_reports import listen
from fletching.models.minilm import HUB_ID, find_minilm
from fletching.models.reranker import Reranker
from fletching.plugins import registry
from fletching.registry import MethodSpec, summarise

logger = logging.getLogger(__name__)

KINDS: dict[str, type[Any]] = {
    "embedder": Embedder,
    "reranker": Reranker,
    "sparse": SparseEncoder,
    "multi_vector": MultiVectorEncoder,
}
"""What ``kind=`` may be, and the class that opens it; the last two are sentence-transformers' own."""

_SAVED_AS = {
    "SentenceTransformer": "embedder",
    "CrossEncoder": "reranker",
    "SparseEncoder": "sparse",
    "MultiVectorEncoder": "multi_vector",
    "ColBERT": "multi_vector",  # PyLate's saves, which sentence-transformers reads
}
_PYLATE_DENSE = "pylate.models.Dense.Dense"  # sentence-transformers puts its own class in its place
_LATE_INTERACTION = ("HF_ColBERT", "ForRetrieval")  # ends of architectures that need no modules.json
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_OPTIONS = ("token", "cache_folder", "revision", "local_files_only")
_PACKAGE = "package:"
_OLD_BUFFER = re.compile(r"position_ids|inv_freq")  # older versions saved what is computed now
_HARMLESS_MISSING = re.compile(r"(^|\.)pooler\.")
_WORDS = {"sparse": "sparse model", "multi_vector": "multi-vector model"}
_RANDOM = "sentence-transformers would add a random one"
_TRAIN = "Train one first"
_UNEXPECTED = re.compile(r"__init__\(\) got an unexpected keyword argument '(\w+)'")


def load(path_or_id: str | Path, *, kind: str | None = None, **kwargs: Any) -> Any:
    """Open a checkpoint as an embedder, a reranker, a sparse or a multi-vector model.

    Accepts the name of a registered checkpoint (``"mvp-mini"``), a folder, or a hub id; saves of
    sentence-transformers and of fletching, plain transformers checkpoints, and the papers' own layouts.
    Classes named by the checkpoint load only if they belong to sentence-transformers or to a registered
    method; pickled weights are read with ``weights_only=True`` and only where there is no safetensors file.

    Sparse and multi-vector models are checked likewise but open as sentence-transformers' own
    ``SparseEncoder`` and ``MultiVectorEncoder``: what fletching promises of its embedders and rerankers
    (threads, token budgets, no NaN) does not extend to them.

    Args:
        path_or_id: Name, folder or hub id.
        kind: ``"embedder"``, ``"reranker"``, ``"sparse"`` or ``"multi_vector"``; ``None`` reads it off the
            checkpoint.
        **kwargs: Arguments of the class that opens it, e.g. ``device``, ``dtype``, ``revision``.

    Returns:
        An ``Embedder``, a ``Reranker``, a ``SparseEncoder``, a ``MultiVectorEncoder``, or the class of the
        method that the checkpoint belongs to.

    Raises:
        ArgumentError: If an argument is outside its domain.
        CheckpointError: If the folder is missing, broken, hostile, or of a class that nobody here vouches
            for.
        MissingExtraError: If the method needs a package that is not installed.
        PluginError: If the checkpoint belongs to a plug-in that cannot be imported.

    Example:
        >>> load("no/such/folder")
        Traceback (most recent call last):
        ...
        fletching.errors.CheckpointError: Checkpoint 'no/such/folder': there is no such folder, ...
    """
    if kind is not None and kind not in KINDS:
        raise bad_choice("load", "kind", KINDS, kind)
    _refuse_trust(kwargs)
    with _one_clear_sentence(str(path_or_id)):
        location, model_class, options = _resolve_name(path_or_id)
    options |= kwargs
    # sentence_bert_config.json may set arguments of `from_pretrained`; what is given here wins over it
    model_kwargs = options.get("model_kwargs") or {}
    options["model_kwargs"] = {"allow_all_kernels": False, **model_kwargs, "weights_only": True}
    with _one_clear_sentence(location):
        checkpoint = _read_checkpoint(location, {key: options[key] for key in _HUB_OPTIONS if key in options})
        _refuse_foreign_classes(checkpoint)
        _refuse_foreign_activation(checkpoint)
        _refuse_foreign_shards(checkpoint)
        model_class = model_class or _choose_class(checkpoint, kind)
        if kind is not None and not issubclass(model_class, KINDS[kind]):  # no conversion: its head is random
            raise bad_checkpoint(
                location, f"it opens as {model_class.__name__}, which is no {_WORDS.get(kind, kind)}"
            )
        with _loading_reports(location) as reports, _caller_is_told(model_class):
            model = _build_model(model_class, location, options)
        _check_reports(location, reports)
        _check_weights(location, model)
        _check_tokenizer(location, model)
    return model


def _refuse_trust(options: dict[str, Any]) -> None:
    """Refuse the flag that would run code, for the whole model or for one of its parts."""
    parts = [options, *(options.get(name) for name in ("model_kwargs", "processor_kwargs", "config_kwargs"))]
    if any(isinstance(part, dict) and part.get("trust_remote_code") for part in parts):
        domain = "left out: fletching runs no code of a checkpoint"
        remedy = "Install the plug-in that brings the class, or open it with sentence-transformers"
        raise bad_argument("load", "trust_remote_code", domain, True, remedy)


def _build_model(model_class: type[Any], location: str, options: dict[str, Any]) -> Any:
    """Build the model; ``dtype`` is an argument of ours, which the stock classes know as a model argument."""
    if issubclass(model_class, (Embedder, Reranker)):
        return model_class(location, **options)
    if options.get("backend", "torch") == "torch":
        options["model_kwargs"] = read_magnitudes(options["model_kwargs"])
    if "dtype" not in options:
        return model_class(location, **options)
    device_type = torch.device(options.get("device") or get_device_name()).type
    dtype = resolve_dtype(model_class.__name__, options["dtype"], device_type)
    rest = {name: value for name, value in options.items() if name != "dtype"}
    if dtype is None:
        return model_class(location, **rest)
    rest["model_kwargs"] = {**rest["model_kwargs"], "dtype": dtype}
    return model_class(location, **rest).to(dtype=dtype)


def find_kind(path_or_id: str | Path, **hub_options: Any) -> str:
    """Say what a checkpoint opens as, without loading its weights.

    Args:
        path_or_id: As for `load`.
        **hub_options: ``token``, ``revision`` and the other arguments that decide which files are read.

    Returns:
        A key of :data:`KINDS`.

    Raises:
        ArgumentError: As `load`.
        CheckpointError: As `load`, for what the checkpoint's JSON files show.
        MissingExtraError: As `load`.
        PluginError: As `load`.
    """
    with _one_clear_sentence(str(path_or_id)):
        location, model_class, _ = _resolve_name(path_or_id)
    with _one_clear_sentence(location):
        checkpoint = _read_checkpoint(location, hub_options)
        _refuse_foreign_classes(checkpoint)
        model_class = model_class or _choose_class(checkpoint, None)
    kind = next((kind for kind, base in KINDS.items() if issubclass(model_class, base)), None)
    if kind is None:
        problem = f"it opens as {model_class.__name__}, which is of no kind that is known here"
        raise bad_checkpoint(location, problem, f"Known are {', '.join(KINDS)}")
    return kind


@dataclass(frozen=True)
class _Checkpoint:
    """The three JSON files that say what a folder holds; a missing one is empty."""

    location: str
    modules: list[dict[str, Any]]
    model: dict[str, Any]
    config: dict[str, Any]


def _resolve_name(path_or_id: str | Path) -> tuple[str, type[Any] | None, dict[str, Any]]:
    """Turn what the user typed into a location, and the class and options of a registered checkpoint."""
    if not isinstance(path_or_id, (str, Path)) or not str(path_or_id):
        raise bad_argument("load", "path_or_id", "a checkpoint name, a folder or a hub id", path_or_id)
    name = str(path_or_id)
    if Path(name).is_dir():
        return name, None, {}
    if (found := registry().find_checkpoint(name)) is not None:
        spec, checkpoint = found
        model_class: Any = registry().resolve(spec.entry)
        return _locate(checkpoint.location), model_class, dict(checkpoint.options)
    if Path(name).is_file():
        raise bad_checkpoint(name, "this is a file, not a model folder", "Pass the folder that holds it")
    if name == HUB_ID:
        return find_minilm(), None, {}
    if not _HUB_ID.fullmatch(name):
        names = [checkpoint.name for spec in registry() for checkpoint in spec.checkpoints]
        remedy = did_you_mean(name, names) or "A hub id has the form 'owner/name'"
        raise bad_checkpoint(name, "there is no such folder, and no method registers this name", remedy)
    return name, None, {}


def _locate(location: str) -> str:
    """Turn ``package:<dotted.package>/<folder>`` into a folder; leave a hub id as it is."""
    if not location.startswith(_PACKAGE):
        return location
    package, _, folder = location.removeprefix(_PACKAGE).partition("/")
    return str(files(package) / folder)


def _read_json(location: str, filename: str, expected: type, hub_options: dict[str, Any]) -> Any:
    """Read one file; a missing one is empty."""
    path = load_file_path(location, filename, **hub_options)
    if path is None:
        return expected()
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise bad_checkpoint(location, f"{filename} is not valid JSON ({error})") from error
    if not isinstance(content, expected):
        raise bad_checkpoint(location, f"{filename} must hold a JSON {expected.__name__}")
    return content


def _read_checkpoint(location: str, hub_options: dict[str, Any]) -> _Checkpoint:
    modules = _read_json(location, "modules.json", list, hub_options)
    model = _read_json(location, "config_sentence_transformers.json", dict, hub_options)
    config = _read_json(location, "config.json", dict, hub_options)
    if not modules and not config:  # an adapter as PEFT saves it names the model that it belongs to
        adapter = _read_json(location, "adapter_config.json", dict, hub_options)
        base = adapter.get("base_model_name_or_path")
        if isinstance(base, str):
            of_base = {key: value for key, value in hub_options.items() if key != "revision"}
            config = _read_json(base, "config.json", dict, of_base)
        if adapter and not config:
            raise bad_checkpoint(location, f"it is an adapter, and its model {base!r} cannot be found")
    checkpoint = _Checkpoint(location, modules, model, config)
    if not checkpoint.modules and not checkpoint.config:
        if Path(location).is_dir():
            problem, remedy = "it has neither a modules.json nor a config.json", "Pass a model folder"
        else:
            problem, remedy = "the hub has no such model, or cannot be reached", "Check name and network"
        raise bad_checkpoint(location, problem, remedy)
    return checkpoint


def _refuse_foreign_classes(checkpoint: _Checkpoint) -> None:
    """Look at every module before any is loaded: where its files are, and whose code it names."""
    for module in checkpoint.modules:
        entry = module if isinstance(module, dict) else {}
        path, class_ref = entry.get("path"), entry.get("type")
        if not isinstance(path, str) or not isinstance(class_ref, str):
            raise bad_checkpoint(
                checkpoint.location, f"modules.json has an entry without `path` and `type`: {module}"
            )
        if _points_outside(checkpoint.location, path):
            raise bad_checkpoint(checkpoint.location, f"modules.json points outside the folder: {path!r}")
        if (
            not class_ref.startswith("sentence_transformers.")
            and not (class_ref == _PYLATE_DENSE and _find_saved_kind(checkpoint) == "multi_vector")
            and registry().find_module_class(class_ref) is None
        ):
            raise bad_checkpoint(
                checkpoint.location,
                f"it needs the class {class_ref!r}, which no installed method brings",
                "Install the plug-in that does; fletching runs no code of a checkpoint",
            )


def _refuse_foreign_activation(checkpoint: _Checkpoint) -> None:
    """Look at what sentence-transformers would call: any name of torch; only layers are meant.

    It puts another in the place of a name outside of torch: where a score is activated that changes no order,
    in a ``Dense`` it makes another model.
    """
    nested = checkpoint.config.get("sentence_transformers")
    inside = [
        (module["type"], _read_activation(checkpoint.location, module["path"]))
        for module in checkpoint.modules
    ]
    for owner, name in (
        ("", checkpoint.model.get("activation_fn")),
        ("", checkpoint.config.get("sbert_ce_default_activation_function")),
        ("", nested.get("activation_fn") if isinstance(nested, dict) else None),
        *inside,
    ):
        if not isinstance(name, str) or name.startswith("torch.nn."):
            continue
        if name.startswith("torch.") or owner.endswith(".Dense"):
            raise bad_checkpoint(checkpoint.location, f"its activation function is no torch layer: {name!r}")


def _read_activation(location: str, folder: str) -> object:
    """Read what a local ``Dense`` module names as its activation; a hub file is read when it is loaded."""
    try:
        config = json.loads((Path(location) / folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config.get("activation_function") if isinstance(config, dict) else None


def _refuse_foreign_shards(checkpoint: _Checkpoint) -> None:
    """Look into the lists of weight files, which transformers joins to the folder as they are."""
    location = Path(checkpoint.location)
    folders = {location, *(location / module["path"] for module in checkpoint.modules)}
    for index in sorted(path for folder in folders for path in folder.glob("*.index.json")):
        try:
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            outside = [shard for shard in shards if _climbs_out(shard)]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise bad_checkpoint(location, f"{index.name} is no list of weight files") from error
        if outside:
            raise bad_checkpoint(location, f"{index.name} points outside the folder: {outside[0]!r}")


def _climbs_out(path: str) -> bool:
    windows = PureWindowsPath(path)
    return bool(windows.anchor) or PurePosixPath(path).is_absolute() or ".." in windows.parts


def _points_outside(location: str, path: str) -> bool:
    if _climbs_out(path):
        return True
    folder = Path(location).resolve()
    return folder.is_dir() and not (folder / path).resolve().is_relative_to(folder)


def _choose_class(checkpoint: _Checkpoint, kind: str | None) -> type[Any]:
    """Find the method a checkpoint belongs to, else read off whether it embeds or reranks."""
    architectures = checkpoint.config.get("architectures") or []
    for spec in (
        *(registry().find_module_class(module["type"]) for module in checkpoint.modules),
        *(registry().find_architecture(name) for name in architectures),
    ):
        if spec is not None:
            found: Any = registry().resolve(spec.entry)
            return found
    for spec in registry():
        if spec.recognise and _recognises(spec, checkpoint):
            found = registry().resolve(spec.entry)
            return found
    if checkpoint.modules:
        saved_kind = _find_saved_kind(checkpoint)
        if saved_kind is None:
            raise bad_checkpoint(
                checkpoint.location,
                f"it was saved as a {checkpoint.model['model_type']}, which is no kind that is known here",
                f"Known are {', '.join(_SAVED_AS)}",
            )
        return KINDS[saved_kind]
    interacts_late = any(name.endswith(_LATE_INTERACTION) for name in architectures)
    if kind == "multi_vector" and not interacts_late:
        raise bad_checkpoint(
            checkpoint.location, f"it has no projection for token vectors; {_RANDOM}", _TRAIN
        )
    if kind == "sparse" and not any(name.endswith("ForMaskedLM") for name in architectures):
        raise bad_checkpoint(checkpoint.location, f"it has no head over the vocabulary; {_RANDOM}", _TRAIN)
    if kind is not None:
        return KINDS[kind]
    if interacts_late:
        return MultiVectorEncoder
    if any(name.endswith("ForCausalLM") for name in architectures):
        remedy = 'Say which with kind="embedder" or kind="reranker"'
        raise bad_checkpoint(checkpoint.location, "a causal language model can be either kind", remedy)
    return Reranker if any(name.endswith("ForSequenceClassification") for name in architectures) else Embedder


def _recognises(spec: MethodSpec, checkpoint: _Checkpoint) -> bool:
    """Ask a method whether a checkpoint is its own; one that cannot answer stands in nobody else's way."""
    contents = {
        "modules.json": checkpoint.modules,
        "config.json": checkpoint.config,
        "config_sentence_transformers.json": checkpoint.model,
    }
    try:
        recognise: Any = registry().resolve(str(spec.recognise))
        return bool(recognise(checkpoint.location, contents))
    except (Exception, SystemExit) as error:
        logger.warning("Method %r cannot tell its checkpoints (%s).", spec.name, summarise(error))
        return False


def _find_saved_kind(checkpoint: _Checkpoint) -> str | None:
    """Say which kind of model sentence-transformers (or PyLate) saved; ``None`` for one of the future."""
    saved_as = checkpoint.model.get("model_type", "SentenceTransformer")
    return _SAVED_AS.get(saved_as) if isinstance(saved_as, str) else None


@contextmanager
def _one_clear_sentence(location: str) -> Iterator[None]:
    """Turn whatever the libraries below raise into one sentence that names the checkpoint."""
    try:
        yield
    except (FletchingError, MemoryError, torch.OutOfMemoryError):
        raise
    except pickle.UnpicklingError as error:
        problem = "its pickled weights hold more than tensors and were not opened"
        raise bad_checkpoint(location, problem, "Ask for safetensors") from error
    except ImportError as error:  # lists what is missing, one line each
        problem = f"it needs what is not installed ({' '.join(str(error).split())})"
        raise bad_checkpoint(location, problem) from error
    except (Exception, SystemExit) as error:  # every library has its own; a plug-in's module may exit
        raise bad_checkpoint(location, f"it could not be opened ({summarise(error)})") from error


@contextmanager
def _caller_is_told(model_class: type[Any]) -> Iterator[None]:
    """Blame an argument that the class does not take on the caller, not on the checkpoint."""
    try:
        yield
    except TypeError as error:
        found = _UNEXPECTED.search(str(error))
        if found is None:
            raise
        domain = f"one of the arguments of {model_class.__name__}"
        raise bad_argument("load", "kwargs", domain, found.group(1)) from error


@contextmanager
def _loading_reports(location: str) -> Iterator[list[tuple[Any, Any]]]:
    """Collect what transformers finds missing or surplus; a wrong shape ends the loading."""
    reports: list[tuple[Any, Any]] = []

    def collect(*args: Any, **kwargs: Any) -> bool:
        report = kwargs["loading_info"]
        reports.append((kwargs["model"], report))
        if report.mismatched_keys and not kwargs["ignore_mismatched_sizes"]:
            name, found, expected = sorted(report.mismatched_keys)[0]
            shapes = f"the shape {tuple(found)}, its configuration says {tuple(expected)}"
            raise bad_checkpoint(location, f"the weight {name!r} has {shapes}")
        return not (report.error_msgs or report.conversion_errors)

    with listen(collect):
        yield reports


def _check_reports(location: str, reports: list[tuple[Any, Any]]) -> None:
    for network, report in reports:
        headless = network.base_model is network  # a head may read the pooler
        missing = sorted(
            key for key in report.missing_keys if not (headless and _HARMLESS_MISSING.search(key))
        )
        surplus = sorted(key for key in report.unexpected_keys if _belongs_to(network, key))
        for what, keys in (
            ("lacks weights", missing),
            ("has weights that its configuration has no place for", surplus),
        ):
            if keys:
                more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
                raise bad_checkpoint(location, f"it {what}: {keys[0]!r}{more}")


def _belongs_to(network: Any, key: str) -> bool:
    """Say whether a surplus weight should have had a place: not so old buffers and other heads."""
    if _OLD_BUFFER.search(key):
        return False
    if type(network).__name__ in (network.config.architectures or ()):
        return True
    inside = key.removeprefix(f"{network.base_model_prefix}.")
    parts = {name for name, _ in network.base_model.named_children()}
    return inside.split(".")[0] in parts


def _check_weights(location: str, model: torch.nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise bad_checkpoint(location, f"the weight {name!r} holds NaN or infinity")


def _check_tokenizer(location: str, model: Any) -> None:
    """Refuse the empty tokenizer that transformers makes up when its files are missing."""
    tokenizer: Any = getattr(model, "tokenizer", None)
    special = getattr(tokenizer, "all_special_ids", None)
    if special and len(tokenizer) <= len(special) + 1:  # T5's made-up one also knows the space
        raise bad_checkpoint(location, "it holds no tokenizer", "Copy the tokenizer's files into it")
