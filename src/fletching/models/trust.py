"""Which classes a checkpoint may name: those of sentence-transformers and those of registered methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fletching._lazy import import_target
from fletching.plugins import registry


class TrustedModules(Mapping[str, Any]):
    """Resolves ``modules.json`` types that belong to a registered method, and no others.

    sentence-transformers 6 refuses classes outside its own namespace without ``trust_remote_code``; it asks
    this mapping first (``BaseModel._module_classes``), for modules inside a ``Router`` too.
    """

    def __getitem__(self, class_ref: str) -> Any:
        if registry().find_module_class(class_ref) is None:
            raise KeyError(class_ref)
        module, _, name = class_ref.rpartition(".")
        return import_target(f"{module}:{name}")

    def __iter__(self) -> Iterator[str]:
        return (class_ref for spec in registry() for class_ref in spec.module_classes)

    def __len__(self) -> int:
        return 1  # sentence-transformers skips an empty mapping before it has asked for a name


TRUSTED_MODULES = TrustedModules()
