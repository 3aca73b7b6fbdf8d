"""What a method promises before any model of it is built: that its description is true."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from importlib.resources import files
from typing import Any

from torch import nn

from fletching._lazy import import_target
from fletching.errors import FletchingError, PluginError
from fletching.models.embedder import Embedder
from fletching.models.reranker import Reranker
from fletching.plugins import registry
from fletching.registry import Checkpoint, MethodSpec, summarise

_BASES: dict[str, type] = {"embedder": Embedder, "reranker": Reranker}
_PACKAGE = "package:"


def check_method(spec: MethodSpec) -> None:
    """Check that everything a method's description names exists and is what it has to be.

    Its classes can be imported and are documented; an embedder is an ``Embedder`` and a reranker a
    ``Reranker``; the modules that a checkpoint may name can be saved and loaded; the recipe is a dataclass
    that runs; the weights that ship inside a package are there. How its models behave, the contracts say.

    Args:
        spec: The description.

    Raises:
        PluginError: If anything is not as described; the text lists all of it.

    Example:
        >>> from fletching import MethodSpec
        >>> names = ("quiver", "reranker", "Quiver", "Holds arrows.", "", "paper", "json:JSONDecoder")
        >>> check_method(MethodSpec(*names))
        Traceback (most recent call last):
        ...
        fletching.errors.PluginError: Method 'quiver': entry 'json:JSONDecoder' must be a Reranker.
    """
    problems = [*_check_entry(spec), *_check_recipe(spec)]
    if spec.recognise is not None:
        problems += _check_recognise(spec.recognise)
    for class_ref in spec.module_classes:
        problems += _check_module_class(class_ref)
    for checkpoint in spec.checkpoints:
        problems += _check_checkpoint(checkpoint)
    if problems:
        raise PluginError(f"Method {spec.name!r}: {'; '.join(problems)}.")


def _check_entry(spec: MethodSpec) -> Iterator[str]:
    entry, problem = _resolve(spec.entry)
    if problem:
        yield f"entry {problem}"
        return
    base = _BASES.get(spec.kind)
    if base and not (inspect.isclass(entry) and issubclass(entry, base)):
        yield f"entry {spec.entry!r} must be {'an' if base is Embedder else 'a'} {base.__name__}"
    if not _has_own_docstring(entry):
        yield f"entry {spec.entry!r} has no docstring of its own"


def _check_recipe(spec: MethodSpec) -> Iterator[str]:
    if spec.recipe is None:
        return
    recipe, problem = _resolve(spec.recipe)
    if problem:
        yield f"recipe {problem}"
        return
    if not (inspect.isclass(recipe) and is_dataclass(recipe)):
        yield f"recipe {spec.recipe!r} must be a dataclass, its fields the paper's hyper-parameters"
    if not callable(getattr(recipe, "run", None)):
        yield f"recipe {spec.recipe!r} has no method `run`"
    if not _has_own_docstring(recipe):
        yield f"recipe {spec.recipe!r} has no docstring of its own"


def _check_recognise(target: str) -> Iterator[str]:
    recognise, problem = _resolve(target)
    if problem:
        yield f"recognise {problem}"
    elif not callable(recognise):
        yield f"recognise {target!r} must be a function"


def _check_module_class(class_ref: str) -> Iterator[str]:
    module, _, name = class_ref.rpartition(".")
    if class_ref.count(".") < 2:  # sentence-transformers takes `file.Class` for a file beside the weights
        yield f"module class {class_ref!r} must be a path with at least two dots"
        return
    module_class, problem = _resolve(f"{module}:{name}", registry_knows_it=False)
    if problem:
        yield f"module class {problem}"
    elif not (inspect.isclass(module_class) and issubclass(module_class, nn.Module)):
        yield f"module class {class_ref!r} must be a torch module"
    else:
        for method in ("save", "load"):
            if not callable(getattr(module_class, method, None)):
                yield f"module class {class_ref!r} has no method `{method}`"


def _check_checkpoint(checkpoint: Checkpoint) -> Iterator[str]:
    if not checkpoint.location.startswith(_PACKAGE):
        return
    package, _, folder = checkpoint.location.removeprefix(_PACKAGE).partition("/")
    try:
        found = (files(package) / folder).is_dir()
    except ImportError:
        found = False
    if not found:
        yield f"checkpoint {checkpoint.name!r} is not at {checkpoint.location!r}"


def _resolve(target: str, *, registry_knows_it: bool = True) -> tuple[Any, str]:
    """Import a target; the second value words what went wrong."""
    load: Callable[[str], object] = registry().resolve if registry_knows_it else import_target
    try:
        return load(target), ""
    except (FletchingError, ImportError, AttributeError) as error:
        return None, f"{target!r} cannot be imported ({summarise(error)})"


def _has_own_docstring(thing: Any) -> bool:
    """Say whether a class is documented itself, not by what it inherits from."""
    return bool((vars(thing) if inspect.isclass(thing) else {"__doc__": thing.__doc__}).get("__doc__"))
