"""What the registry says about LIMIT is true."""

from __future__ import annotations

import subprocess
import sys

from fletching.methods import limit
from fletching.plugins import registry
from fletching.testing import check_method


def test_description_is_true() -> None:
    spec = registry().get("limit")
    check_method(spec)
    assert (spec.kind, spec.paper, spec.fidelity) == ("benchmark", "2508.21038", "paper+code")
    assert registry().resolve(spec.entry) is limit.LimitEvaluator


def test_every_exported_name_can_be_imported() -> None:
    assert {name for name in limit.__all__ if getattr(limit, name).__name__ != name} == set()


def test_names_are_functions_whichever_module_comes_first() -> None:
    """A submodule called like a function would hide it."""
    assert not any(f"{limit.__name__}.{name}" in sys.modules for name in limit.__all__)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, fletching.methods.limit; print({'torch', 'scipy', 'numpy'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
